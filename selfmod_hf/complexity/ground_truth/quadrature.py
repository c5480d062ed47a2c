"""Exact posterior means of small models, by numerical integration.

The mean of nβ (L(w) - L(w*)) under exp(-nβ L(w) - (γ/2) |w - w*|²), with w* = 0 and losses that are even in every
coordinate. Grids are dense near zero, because singular posteriors have long thin arms along the axes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

POINTS_OF_A_LINE = 4001
POINTS_OF_A_SIDE = 1001  # of a square
_DENSE = 1e-8  # below this distance from zero the grid is even, above it the distances grow
_FARTHEST = 12.0  # prior widths


def half_line(localization: float, points: int = POINTS_OF_A_LINE) -> tuple[Array, Array]:
    """Return a grid of w >= 0 and the logarithm of each point's prior mass, both (points,).

    Args:
        localization: γ of the prior exp(-γ w²/2).
        points: size of the grid.

    Raises:
        ValueError: no localization. The integrals need a prior.

    Example:
        >>> grid, log_mass = half_line(4.0)
        >>> round(mean_of(grid**2, log_mass), 6)  # 1 / γ
        0.25
    """
    if localization <= 0:
        raise ValueError(f"localization={localization}: must be positive, because the integral needs a prior")
    width = localization**-0.5
    scale = _DENSE * width
    last = np.arcsinh(_FARTHEST * width / scale)
    places = np.linspace(0, last, points)
    grid = scale * np.sinh(places)
    lengths = np.cosh(places)
    lengths[0] /= 2  # the trapezoid rule
    log_mass = np.log(lengths) - localization * grid**2 / 2
    return grid, log_mass


def mean_energy(energy: Array, log_mass: Array) -> float:
    """Return the mean energy under exp(-energy) times the mass.

    Args:
        energy: nβ (L - L*) at each point, any shape.
        log_mass: logarithm of each point's mass without the energy, of the same shape.
    """
    return mean_of(energy, log_mass - energy)


def mean_of(values: Array, log_weights: Array) -> float:
    """Return the mean of values of weights exp(log_weights), which are not normalized."""
    weights = np.exp(log_weights - log_weights.max())
    return float((weights * values).sum() / weights.sum())
