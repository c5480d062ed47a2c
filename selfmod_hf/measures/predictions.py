"""Measures of a network's predictions."""

from __future__ import annotations

from torch import Tensor

from ..extras import need


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Return the share of the samples that are classified correctly.

    Args:
        logits: (N, C).
        labels: (N,), classes.

    Example:
        >>> import torch
        >>> accuracy(torch.tensor([[0.0, 1.0], [0.0, 1.0]]), torch.tensor([0, 1]))
        0.5
    """
    correct = logits.argmax(dim=1) == labels  # (N,)
    return float(correct.double().mean())


def calibration_error(logits: Tensor, labels: Tensor, bins: int = 15) -> float:
    """Return the expected calibration error: the mean distance between confidence and accuracy.

    Guo et al. 2017 (arXiv 1706.04599), equation 3, by torchmetrics.

    Args:
        logits: (N, C).
        labels: (N,), classes.
        bins: of equal width over the confidence from 0 to 1.

    Example:
        >>> import torch
        >>> calibration_error(torch.tensor([[0.0, 0.0], [0.0, 0.0]]), torch.tensor([0, 1]))
        0.0
    """
    need("calibration_error", "metrics", "torchmetrics")
    from torchmetrics.functional.classification import multiclass_calibration_error

    probabilities = logits.double().softmax(dim=1)  # (N, C)
    classes = logits.shape[1]
    error = multiclass_calibration_error(probabilities, labels, num_classes=classes, n_bins=bins, norm="l1")
    return float(error)
