"""The output of a self-modeling network, and the terms of its loss.

A copy of this file travels with every pushed model (``trust_remote_code``), so it imports nothing of the package but
the files beside it, by flat relative imports.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.utils import ModelOutput

from .configuration_self_modeling import SelfModelingConfig
from .tasks_self_modeling import IGNORED_LABEL

Tensors = dict[str, Tensor]


@dataclass
class SelfModelingOutput(ModelOutput):
    """Hold the results of a self-modeling network for one batch.

    Attributes:
        loss: scalar, ``w_c * classification_loss + w_s * self_modeling_loss``. None without labels.
        logits: (B, num_labels).
        classification_loss: scalar, cross-entropy, averaged over the batch. None without labels.
        self_modeling_loss: scalar, square error averaged over the batch and the n activations. None for the baseline
            (no target layers), and without labels, because only samples with a label count.
        activation_loss: scalar, mean square of the target layers' activations, averaged over the batch. None without
            labels, and if `activation_penalty` is 0.
        self_model_predictions: (B, n), the predicted activations.
        self_model_targets: (B, n), the activations themselves, all target layers flattened and concatenated. With
            another `target_source`, the targets in their place.
        activation_mean_squares: (B,), that of each sample. None if `activation_penalty` is 0.
        hidden_states: the encoder's own, a tuple. None without ``output_hidden_states``.
        attentions: the encoder's own, a tuple. None without ``output_attentions``.

    Example:
        >>> SelfModelingOutput(logits=torch.zeros(1, 2)).to_tuple()
        (tensor([[0., 0.]]),)
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    classification_loss: Tensor | None = None
    self_modeling_loss: Tensor | None = None
    activation_loss: Tensor | None = None
    self_model_predictions: Tensor | None = None
    self_model_targets: Tensor | None = None
    activation_mean_squares: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


class LossInputs(NamedTuple):
    """Hold the arguments of a forward for its losses.

    Attributes:
        labels: (B,), integers. A sample with the label -100 enters no loss. None: no losses.
        num_items_in_batch: divisor of the summed losses. None: the number of labels other than -100.
        self_model_targets: (B, n), targets of a source outside of the network. None: no such source.
    """

    labels: Tensor | None
    num_items_in_batch: Tensor | int | None
    self_model_targets: Tensor | None


def loss_terms(config: SelfModelingConfig, parts: Tensors, given: LossInputs) -> Tensors:
    """Return the loss and its named terms: L = w_c * CE + w_s * mean((predicted - target)^2) + w_a * mean(own^2).

    The first two terms are the loss of doi 10.1098/rsta.2024.0531 (preprint arXiv 2407.10188). The third is a control.

    Args:
        config: the network's, with w_c (`classification_weight`), w_s (`aux_weight`) and w_a (`activation_penalty`).
        parts: `logits`. With target layers `self_model_predictions` and `self_model_targets`, and with a penalty
            `activation_mean_squares`.
        given: labels and divisor.
    """
    if given.labels is None:
        return {}
    counted = given.labels != IGNORED_LABEL  # (B,)
    items = given.num_items_in_batch
    if items is None:
        items = counted.sum()
    items = items + (items == 0)  # without any label the sums are zero, and so is the loss
    terms = {}
    cross_entropies = classification_losses(parts["logits"], given.labels)  # (B,)
    terms["classification_loss"] = cross_entropies.sum() / items
    loss = config.classification_weight * terms["classification_loss"]
    if "self_model_predictions" in parts:
        errors = self_modeling_losses(parts["self_model_predictions"], parts["self_model_targets"])  # (B,)
        terms["self_modeling_loss"] = (errors * counted).sum() / items
        loss = loss + config.aux_weight * terms["self_modeling_loss"]
    if "activation_mean_squares" in parts:
        terms["activation_loss"] = (parts["activation_mean_squares"] * counted).sum() / items
        loss = loss + config.activation_penalty * terms["activation_loss"]
    return {**terms, "loss": loss}


def at_least_float32(x: Tensor) -> Tensor:
    """Return values for a loss in float32 at least, also under bf16 or fp16 autocast."""
    if x.dtype in (torch.float16, torch.bfloat16):
        return x.float()
    return x


def classification_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy of each sample, (B,), with zero for the label -100.

    Args:
        logits: (B, num_labels).
        labels: (B,), integers.
    """
    return F.cross_entropy(at_least_float32(logits), labels, reduction="none", ignore_index=IGNORED_LABEL)


def self_modeling_losses(predictions: Tensor, targets: Tensor) -> Tensor:
    """Return the square error of each sample averaged over its n activations, (B,), or of each token, (B, T).

    Args:
        predictions: (B, n) or (B, T, n).
        targets: likewise.

    Raises:
        ValueError: targets of another size than the predictions. Images of another size than the network's give them.
    """
    if predictions.shape != targets.shape:
        raise ValueError(
            f"target_layers: give {targets.shape[-1]} activations of this batch, expected {predictions.shape[-1]}; "
            "allowed are inputs of the size that the network was built for (image_size)"
        )
    errors = at_least_float32(predictions) - at_least_float32(targets)
    return errors.square().mean(dim=-1)


def activation_mean_squares(activations: Tensor) -> Tensor:
    """Return the mean square of each sample's activations, (B,), from (B, n), or of each token's."""
    return at_least_float32(activations).square().mean(dim=-1)
