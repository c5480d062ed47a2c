"""SGLD with RMSProp's diagonal preconditioner.

    v <- α v + (1 - α) g²,    v̂ = v / (1 - α^t),    G = 1 / ( δ + sqrt(v̂) )
    w <- w - (ε/2) * G * ( nβ g + γ (w - w*) ) + sqrt(ε G) ξ

Li, Chen, Carlson, Carin 2016, "Preconditioned Stochastic Gradient Langevin Dynamics for Deep Neural Networks",
eq. 4-5, without the term Γ (the drift of G), as in Hitchcock, Hoogland 2025 (arXiv 2507.21449). They find it the most
faithful of the local samplers.

    α: decay      δ: damping      v: state.square      t: state.steps      others as in `sgld.py`

The step adapts to each coordinate. This alone makes no estimate invariant under rescaling of neurons (w1 c, w2/c): G
changes by c, but invariance requires c², and the localization γ ||w - w*||² measures in the old units.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .base import Dynamics, Sampler


class RMSPropSGLDState(NamedTuple):
    """Hold the state of R chains of P parameters."""

    position: Tensor  # (R, P)
    square: Tensor  # (R, P), running mean of g²
    steps: int


def init(position: Tensor, *, decay: float = 0.99, damping: float = 0.1) -> RMSPropSGLDState:
    """Start all chains at `position` (R, P), with no gradient seen."""
    return RMSPropSGLDState(position, torch.zeros_like(position), 0)


def update(  # noqa: PLR0913 - the form of all samplers, and their options
    state: RMSPropSGLDState,
    gradient: Tensor,
    noise: Tensor,
    dynamics: Dynamics,
    *,
    raw: Tensor | None = None,
    decay: float = 0.99,
    damping: float = 0.1,
) -> RMSPropSGLDState:
    """Move all chains by one step. Every tensor is (R, P).

    `raw` is the gradient behind v, by default `gradient`. A control variate makes gradients far smaller. The step would
    grow with 1/sqrt(v), so v takes the gradient without it.
    """
    if raw is None:
        raw = gradient
    steps = state.steps + 1
    square = state.square * decay
    square.addcmul_(raw, raw, value=1 - decay)  # v
    preconditioner = square / (1 - decay**steps)  # v̂
    preconditioner.sqrt_().add_(damping).reciprocal_()  # G
    preconditioner.mul_(dynamics.step_size)  # ε G
    force = dynamics.potential_gradient(state.position, gradient)
    moved = torch.addcmul(state.position, force, preconditioner, value=-0.5)
    moved.addcmul_(noise, preconditioner.sqrt_())
    return RMSPropSGLDState(moved, square, steps)


def scale(
    gradient: Tensor,
    state: RMSPropSGLDState,
    dynamics: Dynamics,
    *,
    decay: float = 0.99,
    damping: float = 0.1,
) -> Tensor:
    """Return sqrt(G) times the gradient, (R, P)."""
    corrected = state.square / (1 - decay**state.steps)
    return gradient * corrected.sqrt_().add_(damping).rsqrt_()


SAMPLER = Sampler(
    init,
    update,
    needs_raw_gradient=True,
    scale=scale,
    options={"decay": 0.99, "damping": 0.1},
    ranges={
        "decay": (lambda value: 0 <= value < 1, "at least 0 and below 1"),  # at 1, v̂ is 0/0
        "damping": (lambda value: value > 0, "above 0"),  # at 0, G of a weight without gradient is infinite
    },
)
