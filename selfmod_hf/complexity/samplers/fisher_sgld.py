"""SGLD in the coordinates of the Fisher information at w*: no estimate changes when a layer is rescaled.

    w <- w - (ε/2) * ( nβ g + γ F (w - w*) ) / F + sqrt(ε / F) ξ

It is the step of `sgld.py` for u = sqrt(F) w, written in w. F does not change, so its drift has no term. With a small
step it samples exp( -nβ L(w) - (γ/2) sum_i F_i (w_i - w_i*)² ): the localization, too, is in u.

    F: dynamics.fisher, diagonal, see `fisher_diagonal` in curvature.py      others as in `sgld.py`

If w1 becomes c w1 and w2 becomes w2/c in a ReLU pair, F becomes F1/c² and F2 c². Then u, L and ξ do not change, and
neither does any draw. Near a minimum F is about the curvature of L, so nβ L has curvatures of about nβ in u. A step
size of 0.1/nβ is a first choice, and a direction counts as nβ/(nβ + γ).
"""

from __future__ import annotations

import torch
from torch import Tensor

from .base import Dynamics, Sampler, add_scaled_
from .sgld import SGLDState, init


def update(
    state: SGLDState,
    gradient: Tensor,
    noise: Tensor,
    dynamics: Dynamics,
) -> SGLDState:
    """Move all chains by one step. Every tensor is (R, P)."""
    fisher = dynamics.fisher
    assert fisher is not None
    half = dynamics.step_size / 2  # ε/2
    pull = half * dynamics.localization
    moved = torch.lerp(state.position, dynamics.anchor, pull)  # w - (ε/2) γ (w - w*)
    add_scaled_(moved, gradient / fisher, -half * dynamics.nbeta)
    add_scaled_(moved, noise * fisher.rsqrt(), dynamics.step_size**0.5)
    return SGLDState(moved)


def scale(gradient: Tensor, state: SGLDState, dynamics: Dynamics) -> Tensor:
    """Return the gradient by u, (R, P)."""
    fisher = dynamics.fisher
    assert fisher is not None
    return gradient * fisher.rsqrt()


SAMPLER = Sampler(init, update, needs_fisher=True, scale=scale)
