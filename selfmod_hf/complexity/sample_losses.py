"""Losses with one value per sample, (outputs, targets) -> (B,): negative log likelihoods, in nats."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def cross_entropy(outputs: Any, targets: Tensor) -> Tensor:
    """Return the cross-entropy of each sample, (B,).

    Args:
        outputs: logits (B, classes), or an output with an attribute `logits`.
        targets: class labels (B,).

    Example:
        >>> import torch
        >>> cross_entropy(torch.zeros(2, 4), torch.tensor([0, 3]))
        tensor([1.3863, 1.3863])
    """
    logits = outputs
    if not isinstance(outputs, Tensor):
        logits = outputs.logits
    if logits.itemsize < 4:
        logits = logits.float()
    # classes first: on a CPU torch's softmax is ten times slower over a short last dimension, as most are
    by_class = logits.t().contiguous()  # (classes, B)
    log_probabilities = by_class.log_softmax(0)
    chosen = log_probabilities.gather(0, targets[None])  # (1, B)
    return -chosen[0]


def half_squared_error(outputs: Any, targets: Tensor) -> Tensor:
    """Return (1/2) ||outputs - targets||² of each sample, (B,): Gaussian noise of unit variance.

    Args:
        outputs: (B, ...), or an output with an attribute `logits`.
        targets: (B, ...).

    Raises:
        ValueError: outputs and targets of different shapes.

    Example:
        >>> import torch
        >>> half_squared_error(torch.tensor([[1.0, 2.0]]), torch.zeros(1, 2))
        tensor([2.5000])
    """
    if not isinstance(outputs, Tensor):
        outputs = outputs.logits
    expected = tuple(outputs.shape)
    found = tuple(targets.shape)
    if found != expected:  # (B, 1) and (B,) would be broadcast to (B, B)
        raise ValueError(f"targets={found}: must be of the outputs' shape, {expected}")
    squares = (outputs - targets).square()
    return squares.flatten(1).sum(1) / 2
