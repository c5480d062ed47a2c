"""The output of a task model with a self-model, and the terms of its loss.

A copy of this file travels with every pushed model (``trust_remote_code``), so it imports nothing of the package but
the files beside it, by flat relative imports.
"""

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from .configuration_self_modeling import SelfModelingConfig
from .counted_self_modeling import weighed, weighed_sum
from .losses_self_modeling import SelfModelingOutput, Tensors, at_least_float32, self_modeling_losses
from .tasks_self_modeling import TaskKind

# fields of a task model's output that are passed on. The cache is not: `generate` is the task model's own
PASSED_ON = ("logits", "hidden_states", "attentions", "start_logits", "end_logits", "aux_loss")


@dataclass
class TaskModelOutput(SelfModelingOutput):
    """Hold the results of a task model with a self-model for one batch.

    Attributes:
        start_logits: (B, T), of question answering.
        end_logits: (B, T), likewise.
        aux_loss: the task model's further loss, which its loss contains.

    Example:
        >>> import torch
        >>> TaskModelOutput(aux_loss=torch.zeros(())).to_tuple()
        (tensor(0.),)
    """

    start_logits: Tensor | None = None
    end_logits: Tensor | None = None
    aux_loss: Tensor | None = None


class Given(NamedTuple):
    """Hold the arguments of a forward for its losses.

    Attributes:
        labels: labels by their names. None: no losses.
        num_items_in_batch: divisor of the summed losses. None: the number of counted labels.
        self_model_targets: targets of a source outside of the network. None: no such source.
    """

    labels: Tensors | None
    num_items_in_batch: Tensor | int | None
    self_model_targets: Tensor | None


class Counted(NamedTuple):
    """Hold what counts in a batch.

    Attributes:
        labels: result of `counted_labels`.
        mask: (rows, T), zero for padding. None: no token is padding.
        items: divisor of the summed losses. None: the number of counted labels.
    """

    labels: Tensor
    mask: Tensor | None
    items: Tensor | int | None


def task_terms(
    config: SelfModelingConfig, kind: TaskKind, task_loss: Tensor, parts: Tensors, counted: Counted
) -> Tensors:
    """Return the loss and its named terms: L = w_c * task loss + w_s * square error + w_a * mean square.

    The task model's loss is a mean over its own c counted labels, whether it knows `num_items_in_batch` or not,
    because that is c too. Times c / N it is the share of a batch of N labels. With one batch c / N is 1.

    Args:
        config: the network's, with w_c, w_s and w_a.
        kind: the kind of the task model.
        task_loss: the task model's loss.
        parts: predictions, targets and mean squares.
        counted: what counts.
    """
    own_items = counted.labels.sum()
    items = counted.items
    if items is None:
        items = own_items.clamp(min=1)
    wide = at_least_float32(task_loss).dtype
    terms = {"classification_loss": task_loss * (own_items.to(wide) / items)}
    loss = config.classification_weight * terms["classification_loss"]
    for name, weight, values in further_terms(config, parts):
        values, weights = weighed(kind, values, counted.labels, counted.mask)
        terms[name] = weighed_sum(values, weights) / items
        loss = loss + weight * terms[name]
    return {**terms, "loss": loss}


def further_terms(config: SelfModelingConfig, parts: Tensors) -> list[tuple[str, float, Tensor]]:
    """Return the terms beside the task loss: name, weight, and values of samples or tokens."""
    further = []
    if parts.get("self_model_predictions") is not None:
        errors = self_modeling_losses(parts["self_model_predictions"], parts["self_model_targets"])
        further.append(("self_modeling_loss", config.aux_weight, errors))
    if parts.get("activation_mean_squares") is not None:
        further.append(("activation_loss", config.activation_penalty, parts["activation_mean_squares"]))
    return further
