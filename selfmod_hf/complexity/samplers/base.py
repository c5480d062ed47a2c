"""What the samplers share: the constants of the dynamics, and the shape of a sampler."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

Constant = float | Tensor


@dataclass(frozen=True)
class Dynamics:
    """Constants of R chains. Each is a number, or a tensor (R, 1) with one value per chain.

    Attributes:
        anchor: w*, (R, P), where the localization pulls to.
        step_size: ε.
        localization: γ.
        nbeta: nβ.
        fisher: F, (R, P), for the samplers that need it.
    """

    anchor: Tensor
    step_size: Constant
    localization: Constant
    nbeta: Constant
    fisher: Tensor | None = None

    def potential_gradient(self, position: Tensor, gradient: Tensor) -> Tensor:
        """∇U = nβ g + γ (w - w*), with g the gradient of the mean loss; (R, P), a new tensor."""
        force = (position - self.anchor).mul_(self.localization)
        return add_scaled_(force, gradient, self.nbeta)


def add_scaled_(total: Tensor, tensor: Tensor, scale: Constant) -> Tensor:
    """Add `scale * tensor` to `total`, in place."""
    if isinstance(scale, Tensor):
        return total.addcmul_(tensor, scale)
    return total.add_(tensor, alpha=scale)


@dataclass(frozen=True)
class Sampler:
    """A sampler by its two functions.

    Attributes:
        init: (position, **options) -> state. States are NamedTuples of (R, P) tensors whose first field is
            `position`, so that they can be split by columns; numbers in them belong to the whole.
        update: (state, gradient, noise, dynamics, **options) -> state.
        options: names and defaults of its own settings.
        ranges: of each of these, whether a number can be used, and in words which can.
        needs_fisher: whether `dynamics.fisher` must be there.
        langevin: whether a step is a plain Langevin proposal, so that a Metropolis acceptance rate can be told.
    """

    init: Callable[..., Any]
    update: Callable[..., Any]
    options: dict[str, float] = field(default_factory=dict)
    ranges: dict[str, tuple[Callable[[float], bool], str]] = field(default_factory=dict)
    needs_fisher: bool = False
    langevin: bool = False
