"""What a self-modeling network returns, and the terms of its loss for each sample.

A copy of this file travels with every pushed model (``trust_remote_code``), so it imports nothing of the package but
the files beside it, by flat relative imports.
"""

from dataclasses import dataclass

import torch
from torch.nn import functional as F
from transformers.utils import ModelOutput

from .configuration_self_modeling import SelfModelingConfig

IGNORED_LABEL = -100  # transformers' convention: such a sample enters no loss


@dataclass
class SelfModelingOutput(ModelOutput):
    """What a self-modeling network returns.

    Attributes:
        loss: scalar, ``w_c * classification_loss + w_s * self_modeling_loss``; None without labels.
        logits: (B, num_labels).
        classification_loss: scalar, cross-entropy, averaged over the batch; None without labels.
        self_modeling_loss: scalar, square error averaged over the batch and the n activations; None without
            labels (which say what samples count) and for the baseline (no target layers).
        activation_mean_square: scalar, mean square of the target layers' activations. None without labels, and where
            `activation_penalty` is 0.
        self_model_predictions: (B, n), the activations as the network predicts them.
        self_model_targets: (B, n), the activations themselves, all target layers flattened and concatenated. With
            another `target_source`, what is predicted in their place.
        hidden_states: the encoder's own, a tuple; None unless ``output_hidden_states`` asks for them.
        attentions: the encoder's own, a tuple; None unless ``output_attentions`` asks for them.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    classification_loss: torch.Tensor | None = None
    self_modeling_loss: torch.Tensor | None = None
    activation_mean_square: torch.Tensor | None = None
    self_model_predictions: torch.Tensor | None = None
    self_model_targets: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


def at_least_float32(x: torch.Tensor) -> torch.Tensor:
    """Losses are taken in float32 at least, also under bf16 or fp16 autocast."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def classification_losses(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of each sample, (B,); zero where the label is -100.

    Args:
        logits: (B, num_labels).
        labels: (B,), integers.
    """
    return F.cross_entropy(at_least_float32(logits), labels, reduction="none", ignore_index=IGNORED_LABEL)


def self_modeling_losses(predictions: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Square error of each sample averaged over its n activations, (B,).

    Args:
        predictions: (B, n).
        targets: (B, n).

    Raises:
        ValueError: targets of another size than the predictions, as images of another size than the network's give.
    """
    if predictions.shape != targets.shape:
        raise ValueError(
            f"target_layers: give {targets.shape[1]} activations of this batch, expected {predictions.shape[1]}; "
            "allowed are inputs of the size that the network was built for (image_size)"
        )
    return (at_least_float32(predictions) - at_least_float32(targets)).square().mean(dim=1)


def loss_terms(  # noqa: PLR0913 - what a forward computes
    config: SelfModelingConfig,
    logits: torch.Tensor,
    labels: torch.Tensor,
    predictions: torch.Tensor | None,
    targets: torch.Tensor | None,
    own: torch.Tensor | None,
    num_items_in_batch: torch.Tensor | int | None,
) -> dict[str, torch.Tensor]:
    """Return the loss and its named terms: L = w_c * CE + w_s * mean((predicted - target)^2) + w_a * mean(own^2).

    The first two terms are the loss of arXiv 2407.10188. The third is a control.

    Args:
        config: holds w_c, `classification_weight`, w_s, `aux_weight`, and w_a, `activation_penalty`.
        logits: (B, num_labels).
        labels: (B,). A sample with the label -100 enters no term.
        predictions: (B, n). None: the network has no self-model.
        targets: (B, n), what is predicted.
        own: (B, n), the activations of the target layers.
        num_items_in_batch: the divisor of the sums. Default: the number of labels that count.
    """
    counted = labels != IGNORED_LABEL  # (B,)
    items = counted.sum() if num_items_in_batch is None else num_items_in_batch
    items = items + (items == 0)  # without any label the sums are zero, and so is the loss
    terms = {"classification_loss": classification_losses(logits, labels).sum() / items}
    loss = config.classification_weight * terms["classification_loss"]
    if predictions is not None and targets is not None:
        errors = self_modeling_losses(predictions, targets)  # (B,)
        terms["self_modeling_loss"] = (errors * counted).sum() / items
        loss = loss + config.aux_weight * terms["self_modeling_loss"]
    if own is not None and config.activation_penalty > 0:
        sizes = mean_squares(own)  # (B,)
        terms["activation_mean_square"] = (sizes * counted).sum() / items
        loss = loss + config.activation_penalty * terms["activation_mean_square"]
    return terms | {"loss": loss}


def mean_squares(activations: torch.Tensor) -> torch.Tensor:
    """Return the mean square of each sample's activations, (B,), from (B, n)."""
    return at_least_float32(activations).square().mean(dim=1)
