"""Losses with one value per sample, (outputs, targets) -> (B,): negative log likelihoods, in nats."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

IGNORED_LABEL = -100  # of a token that does not count


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
    logits = _logits(outputs)
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
    _check_same_shape(outputs, targets)
    squares = (outputs - targets).square()
    return squares.flatten(1).sum(1) / 2


def binary_cross_entropy(outputs: Any, targets: Tensor) -> Tensor:
    """Return the sum of the binary cross-entropies of a sample's labels, (B,).

    Args:
        outputs: logits (B, L), or an output with an attribute `logits`.
        targets: (B, L), floating point, 1 for each label of a sample and 0 for the others.

    Raises:
        ValueError: outputs and targets of different shapes.

    Example:
        >>> binary_cross_entropy(torch.zeros(1, 2), torch.tensor([[1.0, 0.0]]))
        tensor([1.3863])
    """
    logits = _logits(outputs)
    _check_same_shape(logits, targets)
    # log(1 + exp(x)) - x y
    losses = torch.nn.functional.softplus(logits) - logits * targets  # (B, L)
    return losses.flatten(1).sum(1)


@dataclass(frozen=True)
class TokenCrossEntropy:
    """Compute the cross-entropy of a sample's counted tokens, divided by the mean number of them in the data.

    The mean over samples is then the mean over the counted tokens of all samples, whatever their lengths. Tokens with
    the label -100 do not count.

    Attributes:
        shift: whether the logits at a place predict the label of the next place, as in a causal language model.
        mean_count: mean number of a sample's counted tokens.

    Example:
        >>> loss = TokenCrossEntropy(shift=True, mean_count=2.0)
        >>> loss(torch.zeros(1, 3, 4), torch.tensor([[0, 1, -100]]))
        tensor([0.6931])
    """

    shift: bool
    mean_count: float

    def __call__(self, outputs: Any, targets: Tensor) -> Tensor:
        """Return the loss of each sample, (B,).

        Args:
            outputs: logits (B, T, V), or an output with an attribute `logits`.
            targets: labels (B, T).
        """
        logits = _logits(outputs)
        if self.shift:
            logits = logits[:, :-1]
        labels = self.predicted(targets)
        counted = labels != IGNORED_LABEL  # (B, T)
        safe = labels.masked_fill(~counted, 0)
        chosen = logits.gather(-1, safe.unsqueeze(-1)).squeeze(-1)
        losses = logits.logsumexp(-1) - chosen  # (B, T)
        sums = losses.masked_fill(~counted, 0.0).sum(1)
        return sums / self.mean_count

    def predicted(self, labels: Tensor) -> Tensor:
        """Return the labels (B, T) with a prediction: all, or all after the first."""
        return labels[:, 1:] if self.shift else labels


def _logits(outputs: Any) -> Tensor:
    """Return the logits of a model's outputs, at least in float32."""
    logits: Tensor = outputs
    if not isinstance(outputs, Tensor):
        logits = outputs.logits
    if logits.itemsize < 4:
        logits = logits.float()
    return logits


def _check_same_shape(outputs: Tensor, targets: Tensor) -> None:
    """Raise a ValueError for different shapes, because (B, 1) and (B,) would be broadcast to (B, B)."""
    expected = tuple(outputs.shape)
    found = tuple(targets.shape)
    if found != expected:
        raise ValueError(f"targets={found}: must be of the outputs' shape, {expected}")
