"""Losses with one value per sample, (outputs, targets) -> (B,): negative log likelihoods, in nats."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def cross_entropy(outputs: Any, targets: Tensor) -> Tensor:
    """Cross-entropy of logits (B, classes), or of an output that has `.logits`, with class labels (B,)."""
    logits = outputs if isinstance(outputs, Tensor) else outputs.logits
    logits = logits.float() if logits.itemsize < 4 else logits
    # classes first: on a CPU torch's softmax is ten times slower over a short last dimension, as most are
    log_probabilities = logits.t().contiguous().log_softmax(0)  # (classes, B)
    return -log_probabilities.gather(0, targets[None])[0]


def half_squared_error(outputs: Any, targets: Tensor) -> Tensor:
    """(1/2) ||outputs - targets||² summed over all but the first dimension: Gaussian noise of unit variance.

    Raises:
        ValueError: outputs and targets of different shapes.
    """
    outputs = outputs if isinstance(outputs, Tensor) else outputs.logits
    if outputs.shape != targets.shape:  # (B, 1) and (B,) would be broadcast to (B, B)
        raise ValueError(f"targets={tuple(targets.shape)}: must be of the outputs' shape, {tuple(outputs.shape)}")
    return (outputs - targets).square().flatten(1).sum(1) / 2
