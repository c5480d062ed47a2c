"""Tanh units whose weights are all zero, the most singular point of a small network."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from .known import GroundTruth
from .quadrature import POINTS_OF_A_SIDE, Array, half_line, mean_of

_MOST_OF_ONE_OUTPUT = 2  # units: λ is checked for these
_POINTS = 601  # of a side, where each point is a unit that sees all inputs


class TanhUnits(nn.Module):
    """Compute output k as b_k tanh(a_k x_k), or their sum if all units see one input. All weights are 0.

    Args:
        num_units: H.
        one_output: whether the units are added.
    """

    def __init__(self, num_units: int, one_output: bool) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.zeros(num_units))
        self.b = nn.Parameter(torch.zeros(num_units))
        self.one_output = one_output

    def forward(self, x: Tensor) -> Tensor:
        units = self.b * torch.tanh(self.a * x)  # (B, H)
        if self.one_output:
            return units.sum(1, keepdim=True)
        return units


def tanh_units(num_units: int, *, num_samples: int = 5000, seed: int = 0) -> GroundTruth:
    """Return H tanh units with an input and an output each, λ = H/2 and m = H + 1.

    The loss of a unit is equivalent to (a b)², and the units are independent.

    Example:
        >>> truth = tanh_units(3)
        >>> truth.learning_coefficient, truth.multiplicity
        (1.5, 4)
    """
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(num_samples, num_units, generator=generator)
    return GroundTruth(
        name=f"tanh at zero, {num_units} units, an output each",
        model=TanhUnits(num_units, one_output=False),
        inputs=inputs,
        targets=torch.zeros_like(inputs),
        learning_coefficient=num_units / 2,
        kind="tanh at zero, own outputs",
        multiplicity=num_units + 1,
        posterior_mean=TanhUnitsMean(inputs),
        prior_matters=True,
    )


def tanh_network(num_units: int, *, num_samples: int = 5000, seed: int = 0) -> GroundTruth:
    """Return one or two tanh units with one input and one output, at zero.

    λ = (H + i² + i) / (4 i + 2) with i the root of H rounded down, and m = 2 if i² = H. Aoyagi and Watanabe have it for
    layered networks. It is 1/2 for one unit. It is 2/3 for two, because the loss is equivalent to
    (b1 a1 + b2 a2)² + (b1 a1³ + b2 a2³)².

    Raises:
        ValueError: another number of units, because λ has not been checked for it.

    Example:
        >>> round(tanh_network(2).learning_coefficient, 3)
        0.667
    """
    if not 1 <= num_units <= _MOST_OF_ONE_OUTPUT:
        raise ValueError(f"num_units={num_units}: must be 1 or {_MOST_OF_ONE_OUTPUT}")
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(num_samples, 1, generator=generator)
    root = math.isqrt(num_units)
    return GroundTruth(
        name=f"tanh at zero, {num_units} units, one output",
        model=TanhUnits(num_units, one_output=True),
        inputs=inputs,
        targets=torch.zeros(num_samples, 1),
        learning_coefficient=(num_units + root**2 + root) / (4 * root + 2),
        kind="tanh at zero, one output",
        multiplicity=2 if root**2 == num_units else 1,
        posterior_mean=TanhNetworkMean(inputs, num_units),
        prior_matters=True,
    )


class TanhUnitsMean:
    """Compute the exact posterior mean of `tanh_units`.

    With q = mean tanh(a x)² the loss is b² q / 2. So b is normal given a, and one integral over a is left.

    Args:
        inputs: (n, H).
    """

    def __init__(self, inputs: Tensor) -> None:
        self.inputs = inputs.double().numpy()

    def __call__(self, nbeta: float, localization: float) -> float:
        grid, log_mass = half_line(localization, POINTS_OF_A_SIDE)
        total = 0.0
        for column in self.inputs.T:
            scaled = nbeta * _squares(grid, column)
            precision = scaled + localization
            energy = scaled / precision / 2
            total += mean_of(energy, log_mass - np.log(precision) / 2)
        return total


def _squares(grid: Array, column: Array) -> Array:
    """Return the mean of tanh(a x)² over the inputs (n,), for each a of the grid."""
    found = np.empty_like(grid)
    for place, a in enumerate(grid):
        found[place] = np.mean(np.tanh(a * column) ** 2)
    return found


class TanhNetworkMean:
    """Compute the exact posterior mean of `tanh_network`.

    Given a, the loss is bᵀ M b / 2 with M = mean tanh(a_k x) tanh(a_l x). So b is normal, and the integral over a is
    left. M is odd in each a, and its determinant and trace are even.

    Args:
        inputs: (n, 1).
        num_units: H, 1 or 2.
    """

    def __init__(self, inputs: Tensor, num_units: int) -> None:
        self.inputs = inputs
        self.num_units = num_units

    def __call__(self, nbeta: float, localization: float) -> float:
        if self.num_units == 1:
            return TanhUnitsMean(self.inputs)(nbeta, localization)
        grid, log_mass = half_line(localization, _POINTS)
        column = self.inputs.double().numpy()[:, 0]
        units = np.tanh(grid[:, None] * column)  # (points, n)
        moments = nbeta * units @ units.T / len(column)  # (points, points), nβ M of each pair
        squares = np.diag(moments)
        first = squares[:, None] + localization
        second = squares + localization
        determinant = first * second - moments**2  # of nβ M + γ
        # tr(nβ M (nβ M + γ)⁻¹) = 2 - γ tr (nβ M + γ)⁻¹
        energy = 1 - localization * (first + second) / (2 * determinant)
        log_weights = log_mass[:, None] + log_mass - np.log(determinant) / 2
        return mean_of(energy, log_weights)
