"""The labels that count in a loss.

A term of a task model's loss is a sum over its counted labels, divided by their number. The self-modeling loss has the
same divisor. So a sample weighs as many as its counted labels in every term.

A copy of this file travels with every pushed model (``trust_remote_code``), so it imports nothing of the package but
the files beside it, by flat relative imports.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .losses_self_modeling import Tensors, at_least_float32
from .targets_self_modeling import pooled
from .tasks_self_modeling import IGNORED_LABEL, NO_POSITION, TaskKind

REGRESSION = "regression"
NUMBERS = (REGRESSION, "multi_label_classification")  # problem types whose labels are floating-point numbers


def labels_in(batch: Mapping[str, Any], names: Sequence[str]) -> Tensors | None:
    """Return the labels in a batch by their names. None: at least one of them is missing."""
    labels = {}
    for name in names:
        if batch.get(name) is None:
            return None
        labels[name] = batch[name]
    return labels


def counted_labels(kind: TaskKind, labels: Tensors, tokens: int, problem_type: str | None = None) -> Tensor:
    """Return which labels enter the task model's loss, as booleans.

    A label of -100 does not count. -100 may be a score, so NaN marks a missing one.

    Args:
        kind: the kind of the task model.
        labels: labels by their names.
        tokens: number of tokens T of the padded texts. An answer with a position outside of them does not count.
        problem_type: that of a model with labels of samples.

    Returns:
        (B,), or (B, L) of several scores or classes a sample, or (B, T) of labels of tokens. For next tokens the
        place t stands for the label t + 1, so that the last place never counts.

    Raises:
        ValueError: floating-point labels of a problem type whose labels are numbers of classes.
    """
    if kind.labels_are == "spans":
        start, end = labels["start_positions"], labels["end_positions"]
        return (start >= 0) & (start < tokens) & (end >= 0) & (end < tokens)
    given = labels["labels"]
    if kind.labels_are == "samples" and given.is_floating_point() and problem_type not in NUMBERS:
        raise ValueError(
            f"labels: {given.dtype} with problem_type={problem_type!r}, whose labels are integers; set problem_type of "
            f"the task model's configuration to one of {', '.join(NUMBERS)}"
        )
    if problem_type == REGRESSION and given.is_floating_point():
        return ~given.isnan()
    counted = (given != IGNORED_LABEL) & ~given.isnan()
    if kind.labels_are == "next tokens":
        return F.pad(counted[:, 1:], (0, 1), value=False)
    return counted


def harmless_labels(kind: TaskKind, labels: Tensors, counted: Tensor, problem_type: str | None) -> Tensors:
    """Return the labels for the task model, with those that do not count changed so that its loss is a number.

    Args:
        kind: the kind of the task model.
        labels: labels by their names.
        counted: result of `counted_labels`.
        problem_type: that of a model with labels of samples.
    """
    is_empty = ~counted.any()
    found = {}
    for name, values in labels.items():
        if kind.labels_are == "spans":
            values = values.masked_fill(~counted, NO_POSITION)
        elif problem_type in NUMBERS:
            values = values.masked_fill(~counted, 0)
            if not values.is_floating_point():  # transformers' loss of several classes takes no integers
                values = values.float()
        # a mean over no label is NaN. One harmless label is counted instead, times zero
        found[name] = values.masked_fill(is_empty, 0)
    return found


def loss_of_counted(problem_type: str | None, loss: Tensor, logits: Tensor, labels: Tensor, counted: Tensor) -> Tensor:
    """Return the mean loss over the counted labels. Task models know no missing score, and no missing mark of a class.

    Args:
        problem_type: one of NUMBERS. Other losses leave the label -100 out by themselves.
        loss: the task model's.
        logits: (B, L).
        labels: result of `harmless_labels`, of as many numbers.
        counted: result of `counted_labels`, of the labels' shape.
    """
    if problem_type not in NUMBERS:
        return loss
    logits = at_least_float32(logits)
    labels = labels.to(logits.dtype).reshape(logits.shape)
    if problem_type == REGRESSION:
        values = (logits - labels).square()
    else:
        values = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
    weights = counted.reshape(logits.shape).to(values.dtype)
    mean = weighed_sum(values, weights) / weights.sum().clamp(min=1)
    return torch.where(counted.all(), loss, mean.to(loss.dtype))  # the task model's own loss to the bit


def weighed(kind: TaskKind, values: Tensor, counted: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return values of samples or tokens, and the number of counted labels that each stands for.

    Args:
        kind: the kind of the task model.
        values: (rows,) or (rows, T). With choices the rows are all choices of all samples.
        counted: result of `counted_labels`. Labels (B, L) of a sample with one value are added up.
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
