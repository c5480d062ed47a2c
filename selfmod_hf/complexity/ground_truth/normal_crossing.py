"""The normal crossing (w1^a w2^b)²: the smallest singular model."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .known import GroundTruth
from .quadrature import POINTS_OF_A_SIDE, half_line, mean_energy


class Crossing(nn.Module):
    """Compute f(x) = w1^a w2^b x, with w1 = w2 = 0."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__()
        self.powers = (a, b)
        self.w = nn.Parameter(torch.zeros(2))

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.powers
        w1, w2 = self.w[0], self.w[1]
        return w1**a * w2**b * x


def crossing_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the square error of each sample, (B,)."""
    squares = (outputs - targets).square()
    return squares.flatten(1).sum(1)


def normal_crossing(a: int = 1, b: int = 1, *, num_samples: int = 1000) -> GroundTruth:
    """Return the loss (w1^a w2^b)² at the origin, λ = min(1/(2a), 1/(2b)).

    Watanabe 2009, section 3, and Lau et al., example 1. All inputs are 1, so that the loss is the polynomial itself. If
    a = b its multiplicity is 2, and an estimate at a finite nβ is lower by about 1/log(nβ). The exact value is by
    quadrature (`GroundTruth.truth`).

    Raises:
        ValueError: a power below 1.

    Example:
        >>> normal_crossing(1, 2).learning_coefficient
        0.25
    """
    if a < 1 or b < 1:
        raise ValueError(f"a, b={a, b!r}: must be positive integers")
    inputs = torch.ones(num_samples, 1)
    return GroundTruth(
        name=f"normal crossing, a = {a}, b = {b}",
        model=Crossing(a, b),
        inputs=inputs,
        targets=torch.zeros_like(inputs),
        learning_coefficient=min(1 / (2 * a), 1 / (2 * b)),
        loss_fn=crossing_loss,
        kind="products of powers",
        multiplicity=1 + (a == b),
        posterior_mean=CrossingMean(a, b),
        prior_matters=True,
    )


class CrossingMean:
    """Compute the exact posterior mean of the loss (w1^a w2^b)²."""

    def __init__(self, a: int, b: int) -> None:
        self.powers = (a, b)

    def __call__(self, nbeta: float, localization: float) -> float:
        a, b = self.powers
        grid, log_mass = half_line(localization, POINTS_OF_A_SIDE)
        first = nbeta * grid ** (2 * a)
        second = grid ** (2 * b)
        return mean_energy(first[:, None] * second, log_mass[:, None] + log_mass)
