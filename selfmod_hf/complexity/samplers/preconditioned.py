"""Langevin dynamics with momentum, in coordinates in which the posterior is about as wide in every direction.

    v <- v - h Aᵀ ∇U(w)          B: kick, h = sqrt(ε), ∇U = nβ g + γ (w - w*)
    w <- w + (h/2) A v           A: drift
    v <- c v + sqrt(1 - c²) ξ    O: friction and noise
    w <- w + (h/2) A v           A: drift

It is the step of `sghmc.py` for u, where w = w* + A u, with the position kept in w. A is constant, so the distribution
is that of `sghmc.py` to the letter: exp( -nβ L(w) - (γ/2) ||w - w*||² ), the localization in the weights' own units.

    A: dynamics.preconditioner, see `preconditioner.py`      v: state.velocity, in u      others as in `sghmc.py`

The largest curvature in u is about 1, as far as it is known. So ε has no unit and does not depend on the network: 0.04
to 0.1 fit, and the limit is 4. On a quadratic loss all curvatures are 1, and all directions relax in some ten steps.
`sghmc.py` needs about a_max/a_min steps.
"""

from __future__ import annotations

from torch import Tensor

from .base import Dynamics, Sampler, scale_by_preconditioner
from .sghmc import SGHMCState, init


def update(
    state: SGHMCState,
    gradient: Tensor,
    noise: Tensor,
    dynamics: Dynamics,
    *,
    momentum: float = 0.9,
) -> SGHMCState:
    """Move all chains by one step. Every tensor is (R, P)."""
    preconditioner = dynamics.preconditioner
    assert preconditioner is not None
    half = dynamics.step_size**0.5 / 2  # h/2
    force = dynamics.potential_gradient(state.position, gradient)
    kicked = preconditioner.of_gradient(force).mul_(-2 * half).add_(state.velocity)  # B
    velocity = kicked * momentum
    velocity.add_(noise, alpha=(1 - momentum**2) ** 0.5)  # O
    drift = kicked.add_(velocity).mul_(half)  # A, A, in u
    position = preconditioner.to_weights(drift).add_(state.position)
    return SGHMCState(position, velocity)


SAMPLER = Sampler(
    init,
    update,
    scale=scale_by_preconditioner,
    options={"momentum": 0.9},
    defaults={"step_size": 0.05},
    ranges={"momentum": (lambda value: 0 <= value < 1, "at least 0 and below 1")},
    needs_preconditioner=True,
    least_step=1e-3,
    most_step=1.0,
)
