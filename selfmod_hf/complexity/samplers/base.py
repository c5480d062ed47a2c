"""The common parts of all samplers: the constants of the dynamics, and the shape of a sampler."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

Constant = float | Tensor


@dataclass(frozen=True)
class Dynamics:
    """Hold the constants of R chains. Each is a number, or a tensor (R, 1) with one value per chain.

    Attributes:
        anchor: w*, (R, P), the centre of the localization.
        step_size: ε.
        localization: γ.
        nbeta: nβ.
        fisher: F, (R, P), for samplers with `needs_fisher`.
        metric: A, for samplers with `needs_metric`.
    """

    anchor: Tensor
    step_size: Constant
    localization: Constant
    nbeta: Constant
    fisher: Tensor | None = None
    metric: Metric | None = None

    def potential_gradient(self, position: Tensor, gradient: Tensor) -> Tensor:
        """Return ∇U = nβ g + γ (w - w*), a new tensor (R, P).

        Args:
            position: w, (R, P).
            gradient: g, (R, P), the gradient of the mean loss.
        """
        moved = position - self.anchor
        force = moved.mul_(self.localization)
        return add_scaled_(force, gradient, self.nbeta)


@dataclass(frozen=True)
class Metric:
    """Hold a root A of the metric G = A Aᵀ of R rows, with w = w* + A u.

    A = V diag(s). Rows are cut into K runs of equal length with a V each.

    Attributes:
        directions: V, (K, P, P), orthonormal columns.
        widths: s, (R, P).
    """

    directions: Tensor
    widths: Tensor

    def to_weights(self, steps: Tensor) -> Tensor:
        """Return A u of each row, (R, P)."""
        return self._by_run(steps * self.widths, self.directions.mT)

    def of_gradient(self, gradient: Tensor) -> Tensor:
        """Return Aᵀ g of each row, (R, P), the gradient by u."""
        return self._by_run(gradient, self.directions).mul_(self.widths)

    def _by_run(self, rows: Tensor, matrices: Tensor) -> Tensor:
        """Return the rows (R, P) times their run's matrix, of (K, P, P)."""
        if len(matrices) == 1:
            return rows @ matrices[0]
        runs = rows.unflatten(0, (len(matrices), -1))  # (K, R/K, P)
        return torch.bmm(runs, matrices).flatten(0, 1)


def add_scaled_(total: Tensor, tensor: Tensor, scale: Constant) -> Tensor:
    """Add `scale * tensor` to `total`, in place."""
    if isinstance(scale, Tensor):
        return total.addcmul_(tensor, scale)
    return total.add_(tensor, alpha=scale)


@dataclass(frozen=True)
class Sampler:
    """Define a sampler by its two functions.

    Attributes:
        init: (position, **options) -> state. States are NamedTuples of (R, P) tensors with `position` as the first
            field. Numbers in them are common to all chains.
        update: (state, gradient, noise, dynamics, **options) -> state.
        options: names and defaults of its own settings.
        ranges: of each of these, a test of a number, and the allowed numbers in words.
        needs_fisher: whether `dynamics.fisher` is required.
        needs_metric: whether `dynamics.metric` is required.
        least_step: smallest step size, for samplers with a step in units of the metric. Another sampler's default would
            be far too small.
        most_step: largest step size.
        needs_raw_gradient: whether the update also takes `raw`, the gradient without a control variate.
        langevin: whether a step is a plain Langevin proposal, so that it has a Metropolis acceptance rate.
    """

    init: Callable[..., Any]
    update: Callable[..., Any]
    options: dict[str, float] = field(default_factory=dict)
    ranges: dict[str, tuple[Callable[[float], bool], str]] = field(default_factory=dict)
    needs_fisher: bool = False
    needs_metric: bool = False
    least_step: float = 0.0
    most_step: float = math.inf
    needs_raw_gradient: bool = False
    langevin: bool = False
