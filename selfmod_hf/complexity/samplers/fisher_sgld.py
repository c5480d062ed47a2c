"""SGLD in the coordinates of the Fisher information at w*: no estimate changes when a layer is rescaled.

    w <- w - (ε/2) * ( nβ g + γ F (w - w*) ) / F + sqrt(ε / F) ξ

It is the step of `sgld.py` for u = sqrt(F) w, written in w; F does not change, so there is no term for its drift. Where
the step is small it samples exp( -nβ L(w) - (γ/2) sum_i F_i (w_i - w_i*)² ): the localization, too, is in u.

    F: dynamics.fisher, diagonal, see `fisher_diagonal` in curvature.py      others as in `sgld.py`

Where w1 becomes c w1 and w2 becomes w2/c in a ReLU pair, F becomes F1/c² and F2 c², so u, L and ξ stay, and with them
every draw. Near a minimum F is about the curvature of L, so that nβ L has curvatures of about nβ in u: a step size of
0.1/nβ is one to begin with, and a direction counts as nβ/(nβ + γ).
"""

from __future__ import annotations

import torch
from torch import Tensor

from .base import Dynamics, Sampler, add_scaled_
from .sgld import SGLDState, init


def update(state: SGLDState, gradient: Tensor, noise: Tensor, dynamics: Dynamics) -> SGLDState:
    """One step of all chains; every tensor (R, P)."""
    assert dynamics.fisher is not None
    half = dynamics.step_size / 2
    moved = torch.lerp(state.position, dynamics.anchor, half * dynamics.localization)  # w - (ε/2) γ (w - w*)
    add_scaled_(moved, gradient / dynamics.fisher, -half * dynamics.nbeta)
    return SGLDState(add_scaled_(moved, noise * dynamics.fisher.rsqrt(), dynamics.step_size**0.5))


SAMPLER = Sampler(init, update, needs_fisher=True)
