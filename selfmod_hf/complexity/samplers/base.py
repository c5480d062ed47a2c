"""The common parts of all samplers: the constants of the dynamics, and the shape of a sampler."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
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
        preconditioner: A, for samplers with `needs_preconditioner`.
    """

    anchor: Tensor
    step_size: Constant
    localization: Constant
    nbeta: Constant
    fisher: Tensor | None = None
    preconditioner: Preconditioner | None = None

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
class Preconditioner:
    """Hold a root A of the preconditioner G = A Aᵀ of R rows, with w = w* + A u.

    A = V diag(s) with as many directions as parameters, else A = r + V diag(s - r) Vᵀ. Rows are cut into K runs of
    equal length with a V each.

    Attributes:
        directions: V, (K, P, k), orthonormal columns.
        widths: s, (R, k).
        others: r, (R, 1), the width in all other directions. None: k = P.
    """

    directions: Tensor
    widths: Tensor
    others: Tensor | None = None

    def to_weights(self, steps: Tensor) -> Tensor:
        """Return A u of each row, (R, P), a new tensor."""
        if self.others is None:
            return self._by_run(steps * self.widths, self.directions.mT)
        return self._apply(steps, self.others)

    def of_gradient(self, gradient: Tensor) -> Tensor:
        """Return Aᵀ g of each row, (R, P), the gradient by u, a new tensor."""
        if self.others is None:
            return self._by_run(gradient, self.directions).mul_(self.widths)
        return self._apply(gradient, self.others)

    def times(self, factor: float) -> Preconditioner:
        """Return the preconditioner with all widths times a factor."""
        others = self.others
        if others is not None:
            others = others * factor
        return Preconditioner(self.directions, self.widths * factor, others)

    def _apply(self, rows: Tensor, others: Tensor) -> Tensor:
        """Return the symmetric root times each row, (R, P)."""
        along = self._by_run(rows, self.directions)  # (R, k)
        along.mul_(self.widths - others)
        return self._by_run(along, self.directions.mT).addcmul_(rows, others)

    def _by_run(self, rows: Tensor, matrices: Tensor) -> Tensor:
        """Return the rows times their run's matrix."""
        if len(matrices) == 1:
            return rows @ matrices[0]
        runs = rows.unflatten(0, (len(matrices), -1))
        return torch.bmm(runs, matrices).flatten(0, 1)


def join_preconditioners(preconditioners: Sequence[Preconditioner], rows: int) -> Preconditioner:
    """Return the preconditioner of all groups, `rows` rows each. Neighbours with the same directions share them."""
    runs: list[Tensor] = []
    lengths: list[int] = []
    for preconditioner in preconditioners:
        if runs and preconditioner.directions is runs[-1]:
            lengths[-1] += 1
            continue
        runs.append(preconditioner.directions)
        lengths.append(1)
    if len(set(lengths)) > 1:
        runs = [preconditioner.directions for preconditioner in preconditioners]
    widths = torch.cat([preconditioner.widths for preconditioner in preconditioners])  # (G, k)
    others = None
    if preconditioners[0].others is not None:
        of_groups = [preconditioner.others for preconditioner in preconditioners if preconditioner.others is not None]
        others = torch.cat(of_groups).repeat_interleave(rows, dim=0)
    return Preconditioner(torch.cat(runs), widths.repeat_interleave(rows, dim=0), others)


def scale_by_preconditioner(gradient: Tensor, _state: Any, dynamics: Dynamics, **_options: float) -> Tensor:
    """Return the gradient by u, (R, P): the `scale` of samplers with a preconditioner."""
    assert dynamics.preconditioner is not None
    return dynamics.preconditioner.of_gradient(gradient)


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
        defaults: settings of an estimate in place of a preset's, which do not fit this sampler.
        ranges: of each of these, a test of a number, and the allowed numbers in words.
        needs_fisher: whether `dynamics.fisher` is required.
        needs_preconditioner: whether `dynamics.preconditioner` is required.
        least_step: smallest step size, for samplers with a step in units of the preconditioner. Another sampler's
            default would be far too small.
        most_step: largest step size.
        needs_raw_gradient: whether the update also takes `raw`, the gradient without a control variate.
        scale: (gradient, state, dynamics, **options) -> the gradient by coordinates in which the noise of a step
            has the variance ε in every direction. None: the weights are such coordinates.
        decides: whether a step is accepted or rejected. It then needs all data, and `mala.py` has its parts.
        langevin: whether a step is a plain Langevin proposal, so that it has a Metropolis acceptance rate.
    """

    init: Callable[..., Any]
    update: Callable[..., Any]
    options: dict[str, float] = field(default_factory=dict)
    defaults: dict[str, float] = field(default_factory=dict)
    ranges: dict[str, tuple[Callable[[float], bool], str]] = field(default_factory=dict)
    needs_fisher: bool = False
    needs_preconditioner: bool = False
    least_step: float = 0.0
    most_step: float = math.inf
    needs_raw_gradient: bool = False
    scale: Callable[..., Tensor] | None = None
    decides: bool = False
    langevin: bool = False
