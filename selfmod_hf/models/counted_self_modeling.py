"""The labels that count in a loss, and the loss of each sample.

A term of a task model's loss is a sum over its counted labels, divided by their number. The self-modeling loss has the
same divisor. So a sample weighs as many as its counted labels in every term.

A copy of this file travels with every pushed model (``trust_remote_code``), so it imports nothing of the package but
the files beside it, by flat relative imports.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .losses_self_modeling import Tensors, at_least_float32
from .targets_self_modeling import pooled
from .tasks_self_modeling import IGNORED_LABEL, TaskKind


def labels_in(kind: TaskKind, batch: Mapping[str, Any]) -> Tensors | None:
    """Return the labels in a batch by their names. None: at least one of them is missing."""
    labels = {}
    for name in kind.label_names:
        if batch.get(name) is None:
            return None
        labels[name] = batch[name]
    return labels


def counted_labels(kind: TaskKind, labels: Tensors, tokens: int) -> Tensor:
    """Return which labels enter the task model's loss, as booleans.

    Args:
        kind: the kind of the task model.
        labels: labels by their names.
        tokens: number of tokens T of the padded texts. Positions beyond them do not count.

    Returns:
        (B,), or (B, L) of several scores or classes a sample, or (B, T) of labels of tokens. For next tokens the
        place t stands for the label t + 1, so that the last place never counts.
    """
    if kind.labels_are == "spans":
        return labels["start_positions"] < tokens
    given = labels["labels"]
    if given.is_floating_point():
        # any number may be a score. Only a batch of nothing else than -100 is an empty share
        return (given != IGNORED_LABEL).any().expand(given.shape)
    counted = given != IGNORED_LABEL
    if kind.labels_are == "next tokens":
        return F.pad(counted[:, 1:], (0, 1), value=False)
    return counted


def weighed(kind: TaskKind, values: Tensor, counted: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return values of samples or tokens, and the number of counted labels that each stands for.

    Args:
        kind: the kind of the task model.
        values: (rows,) or (rows, T). With choices the rows are all choices of all samples.
        counted: result of `counted_labels`.
        mask: (rows, T), zero for padding. None: no token is padding.

    Returns:
        Values and weights, both (B,) or both (B, T).
    """
    if values.dim() == 2 and kind.labels_are not in ("tokens", "next tokens"):
        values = pooled(values[:, :, None], "mean", mask).squeeze(1)  # the mean over a sample's own tokens
    if kind.labels_are == "choices":
        values = values.unflatten(0, (len(counted), -1)).mean(dim=1)
    weights = counted
    if values.dim() < counted.dim():
        weights = counted.sum(dim=1)
    elif values.dim() == 2 and mask is not None:
        weights = counted & (mask != 0)  # padding on the left may predict the first token
    return values, weights.to(values.dtype)


def weighed_sum(values: Tensor, weights: Tensor) -> Tensor:
    """Return the weighed sum of values. A value without weight may be anything, NaN too."""
    kept = torch.where(weights > 0, values, 0.0)
    return (kept * weights).sum()


def of_samples(values: Tensor, weights: Tensor, counts: Tensor) -> Tensor:
    """Return one value a sample, (B,). Values of tokens are summed and divided by the counted labels.

    Args:
        values: (B,) or (B, T).
        weights: of the same shape.
        counts: (B,), the number of counted labels of each sample.
    """
    if values.dim() == 1:
        return values
    kept = torch.where(weights > 0, values, 0.0)
    return (kept * weights).sum(dim=1) / counts.clamp(min=1)


def sample_losses(kind: TaskKind, problem_type: str | None, output: Mapping[str, Tensor], labels: Tensors) -> Tensor:
    """Return the task loss of each sample, (B,). Weighed by counted labels, their mean is the task model's loss.

    Args:
        kind: the kind of the task model.
        problem_type: of a classifier, as transformers has it.
        output: the output of a forward, with `logits` or `start_logits` and `end_logits`.
        labels: labels by their names.
    """
    if kind.labels_are == "spans":
        start = _cross_entropies(output["start_logits"], labels["start_positions"])
        end = _cross_entropies(output["end_logits"], labels["end_positions"])
        return (start + end) / 2
    logits = at_least_float32(output["logits"])
    given = labels["labels"]
    if kind.labels_are == "next tokens":
        logits, given = logits[:, :-1], given[:, 1:]
    if kind.labels_are in ("tokens", "next tokens"):
        losses = _cross_entropies(logits.transpose(1, 2), given)  # (B, T)
        counted = given != IGNORED_LABEL
        return of_samples(losses, counted, counted.sum(dim=1))
    if problem_type == "multi_label_classification":
        return F.binary_cross_entropy_with_logits(logits, given.to(logits.dtype), reduction="none").mean(dim=1)
    if problem_type == "regression":
        errors = logits - given.to(logits.dtype).view(logits.shape)
        return errors.square().mean(dim=1)
    return _cross_entropies(logits, given)


def _cross_entropies(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy for each label, with zero for those that do not count.

    Args:
        logits: (B, C, ...).
        labels: (B, ...). A position of C or more does not count.
    """
    kept = torch.where(labels < logits.shape[1], labels, IGNORED_LABEL)
    return F.cross_entropy(at_least_float32(logits), kept, reduction="none", ignore_index=IGNORED_LABEL)
