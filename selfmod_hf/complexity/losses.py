"""Losses with one value per sample, (outputs, targets) -> (B,): negative log likelihoods, in nats."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor


def cross_entropy(outputs: Any, targets: Tensor) -> Tensor:
    """Cross-entropy of logits (B, classes), or of an output that has `.logits`, with class labels (B,)."""
    logits = outputs if isinstance(outputs, Tensor) else outputs.logits
    return F.cross_entropy(logits.float() if logits.itemsize < 4 else logits, targets, reduction="none")


def half_squared_error(outputs: Any, targets: Tensor) -> Tensor:
    """(1/2) ||outputs - targets||² summed over all but the first dimension: Gaussian noise of unit variance."""
    outputs = outputs if isinstance(outputs, Tensor) else outputs.logits
    return (outputs - targets).square().flatten(1).sum(1) / 2
