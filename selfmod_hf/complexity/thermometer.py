"""Measure how chains move while they run: how far they are from w*, their temperature, and the noise of their steps.

A few draws get a second gradient, on a minibatch that is independent of the chain. With U = nβ L + (γ/2) |δ|²,
δ = w - w*, and primes for the second minibatch, three means are known:

    E[ δ.∇U' ] = d                  in equilibrium, whatever L is. Less while directions are not filled, more if heated
    E[ |∇L - ∇L'|² ]                twice the variance of the gradient of one minibatch
    E[ nβ ∇L.∇U' ] = nβ tr H        in equilibrium, H the Hessian of L

The last two are taken in the coordinates in which the noise of a step is the same in all directions (`Sampler.scale`).
"""

from __future__ import annotations

import math
from typing import Any, Protocol

import torch
from torch import Tensor

from .chain_state import Stateful
from .samplers import Dynamics, add_scaled_
from .settings import LLCSettings

READINGS = 25  # second gradients of a chain, in the second half of its draws
_LEAST_BETWEEN = 10  # steps

# columns of the measurements: |δ|², of each draw. The others of each reading, else NaN: δ.∇U', |∇L - ∇L'|², nβ ∇L.∇U',
# and the number of parameters that had a gradient at any reading so far
SQUARE, VIRIAL, NOISE, PRODUCT, ACTIVE = range(5)
_COLUMNS = 5


def num_columns(settings: LLCSettings) -> int:
    """Return the number of measurements of a draw. The paper's presets have none."""
    return 0 if settings.of_paper else _COLUMNS


class Chains(Protocol):
    """The R chains of a piece, as a thermometer sees them."""

    state: Any
    dynamics: Dynamics
    gradient: Tensor

    def second_gradient(self) -> Tensor:
        """Return the gradient (R, P) on minibatches that do not move the chains."""

    def in_own_units(self, gradients: Tensor) -> Tensor:
        """Return gradients (R, P) by the coordinates in which the sampler moves."""


class Thermometer(Stateful):
    """Measure R chains of one piece.

    Args:
        settings: of the estimate.
        like: a tensor (R, P) of the type and on the device of the chains.
    """

    STATE = ("_active",)

    def __init__(self, settings: LLCSettings, like: Tensor) -> None:
        self._first = settings.burnin
        kept = settings.num_draws - settings.burnin
        self._every = max(_LEAST_BETWEEN, kept // READINGS)
        self._active = torch.zeros_like(like, dtype=torch.bool)

    def measure(self, draw: int, chains: Chains) -> Tensor:
        """Return the measurements of a draw, (R, 5). In units of the Fisher information for a sampler in such units."""
        dynamics = chains.dynamics
        moved = chains.state.position - dynamics.anchor  # δ, (R, P)
        pull = moved
        if dynamics.fisher is not None:
            pull = moved * dynamics.fisher
        measured = moved.new_full((len(moved), _COLUMNS), math.nan, dtype=torch.float64)
        measured[:, SQUARE] = _dot(moved, pull)
        passed = draw - self._first
        if passed < 0 or passed % self._every != self._every // 2:
            return measured
        first = chains.gradient
        second = chains.second_gradient()
        force = add_scaled_(pull * dynamics.localization, second, dynamics.nbeta)  # ∇U'
        differences = chains.in_own_units(first - second)
        scaled = chains.in_own_units(first * dynamics.nbeta)
        self._active |= second != 0
        measured[:, VIRIAL] = _dot(moved, force)
        measured[:, NOISE] = _dot(differences, differences)
        measured[:, PRODUCT] = _dot(scaled, chains.in_own_units(force))
        measured[:, ACTIVE] = self._active.sum(1)
        return measured


def _dot(first: Tensor, second: Tensor) -> Tensor:
    """Return the products of the rows, (R,), float64."""
    products = torch.bmm(first[:, None], second[:, :, None])  # (R, 1, 1)
    return products[:, 0, 0].double()
