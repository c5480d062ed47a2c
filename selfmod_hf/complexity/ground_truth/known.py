"""A model of known learning coefficient."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from ...stacking import LossFunction
from ..sample_losses import half_squared_error


@dataclass(frozen=True)
class GroundTruth:
    """Hold a model at w*, its data and its λ.

    Attributes:
        name: one line.
        model: at w*.
        inputs: (n, ...).
        targets: (n, ...), the model's own outputs.
        learning_coefficient: λ.
        loss_fn: a negative log likelihood per sample.
    """

    name: str
    model: nn.Module
    inputs: Tensor
    targets: Tensor
    learning_coefficient: float
    loss_fn: LossFunction = half_squared_error

    @property
    def num_parameters(self) -> int:
        """Return d."""
        count = 0
        for parameter in self.model.parameters():
            count += parameter.numel()
        return count
