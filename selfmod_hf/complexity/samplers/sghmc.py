"""Langevin dynamics with momentum, split as BAOAB: no discretization error on quadratics.

    v <- v - h ∇U(w)             B: kick, h = sqrt(ε), ∇U = nβ g + γ (w - w*)
    w <- w + (h/2) v             A: drift
    v <- c v + sqrt(1 - c²) ξ    O: friction and noise
    w <- w + (h/2) v             A: drift

Stochastic-gradient Hamiltonian Monte Carlo (Chen, Fox, Guestrin 2014, arXiv 1402.4102) with the splitting of
Leimkuhler, Matthews 2013, "Rational Construction of Stochastic Numerical Methods for Molecular Sampling", eq. 3-7
(two half kicks in a row are one). With exact gradients a direction of curvature a has variance 1/a *whatever the
step*, as long as ε a < 4. SGLD has 1/(a (1 - ε a/4)). With momentum c = 0 it is their limit method: SGLD with every
normal number used in two steps in a row, half each time.

    ε: dynamics.step_size, on SGLD's scale    c: momentum    v: state.velocity    ξ: noise

Independent minibatch noise of variance v in ∇U heats a direction of curvature a. Its variance is then

    (1/a) ( 1 + ε v (1 + c) / (4 (1 - c) (1 - ε a/4)) )

This is exact on quadratics. At c = 0 it is the heating of SGLD.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from .base import Dynamics, Sampler


class SGHMCState(NamedTuple):
    """Hold the state of R chains of P parameters."""

    position: Tensor  # (R, P)
    velocity: Tensor  # (R, P)


def init(position: Tensor, *, momentum: float = 0.9) -> SGHMCState:
    """Start all chains at `position` (R, P), at rest."""
    return SGHMCState(position, position.new_zeros(position.shape))


def update(
    state: SGHMCState,
    gradient: Tensor,
    noise: Tensor,
    dynamics: Dynamics,
    *,
    momentum: float = 0.9,
) -> SGHMCState:
    """Move all chains by one step. Every tensor is (R, P)."""
    half = dynamics.step_size**0.5 / 2  # h/2
    force = dynamics.potential_gradient(state.position, gradient)
    kicked = force.mul_(-2 * half).add_(state.velocity)  # B
    velocity = kicked * momentum
    velocity.add_(noise, alpha=(1 - momentum**2) ** 0.5)  # O
    drift = kicked.add_(velocity).mul_(half)  # A, A
    position = drift.add_(state.position)
    return SGHMCState(position, velocity)


SAMPLER = Sampler(
    init,
    update,
    options={"momentum": 0.9},
    # at 1 neither friction nor noise is left, above it the noise's variance is negative
    ranges={"momentum": (lambda value: 0 <= value < 1, "at least 0 and below 1")},
)
