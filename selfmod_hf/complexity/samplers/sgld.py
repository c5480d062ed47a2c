"""Stochastic gradient Langevin dynamics.

    w <- w - (ε/2) * ( nβ g + γ (w - w*) ) + sqrt(ε) ξ,    ξ ~ N(0, 1)

Welling, Teh 2011, "Bayesian Learning via Stochastic Gradient Langevin Dynamics", eq. 4. Localized as in Lau, Furman,
Wang, Murfet, Wei (arXiv 2308.12108), eq. 15 and appendix.

    ε: dynamics.step_size    γ: dynamics.localization    nβ: dynamics.nbeta    w*: dynamics.anchor
    g: gradient              ξ: noise                    w: state.position

The step widens its stationary distribution: a direction of curvature a = nβ h + γ has variance 1/(a (1 - ε a/4)). It is
stable for ε a < 4.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .base import Dynamics, Sampler, add_scaled_


class SGLDState(NamedTuple):
    """Hold the state of R chains of P parameters."""

    position: Tensor  # (R, P)


def init(position: Tensor) -> SGLDState:
    """Start all chains at `position` (R, P)."""
    return SGLDState(position)


def update(
    state: SGLDState,
    gradient: Tensor,
    noise: Tensor,
    dynamics: Dynamics,
) -> SGLDState:
    """Move all chains by one step. Every tensor is (R, P)."""
    half = dynamics.step_size / 2  # ε/2
    pull = half * dynamics.localization
    moved = torch.lerp(state.position, dynamics.anchor, pull)  # w - (ε/2) γ (w - w*)
    add_scaled_(moved, gradient, -half * dynamics.nbeta)
    add_scaled_(moved, noise, dynamics.step_size**0.5)
    return SGLDState(moved)


SAMPLER = Sampler(init, update, langevin=True)
