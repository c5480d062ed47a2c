"""Langevin steps that are accepted or rejected, so that nothing is left of their discretization.

    w' = w - (ε/2) A Aᵀ ∇U(w) + sqrt(ε) A ξ
    w <- w' with probability min(1, p(w') q(w|w') / (p(w) q(w'|w))), else w

Metropolis-adjusted Langevin algorithm (Roberts, Tweedie 1996), in the coordinates of `preconditioned.py`. It needs the
loss of all data at every step, so it takes no minibatches. It samples exp(-U) exactly for every ε, G and loss, and is
the reference for the other samplers on small networks.

The length of each step is drawn between ε and ε e^-8, on a logarithmic scale and whatever w is. Long steps cross a
valley and short ones are accepted where it is narrow. With steps of one length, chains hardly enter the arms of
L = (w1 w2)², and their estimates are a tenth too low while R-hat is 1.01.

During the burn-in each chain adapts its own ε, so that 57 % of the steps are accepted, the best share in many
dimensions (Roberts, Rosenthal 1998). Afterwards it is constant.

    A: dynamics.preconditioner    ε: dynamics.step_size times exp(state.log_factor)    accepted: the share aimed at
"""

from __future__ import annotations

import dataclasses
import sys
from typing import NamedTuple

import torch
from torch import Tensor

from .base import Dynamics, Sampler, scale_by_preconditioner

SPREAD = 8.0  # logarithm of the longest over the shortest step of a chain


class MALAState(NamedTuple):
    """Hold the state of R chains of P parameters."""

    position: Tensor  # (R, P)
    log_factor: Tensor  # (R, 1)
    steps: int


def init(position: Tensor, *, accepted: float = 0.57) -> MALAState:
    """Start all chains at `position` (R, P)."""
    return MALAState(position, position.new_zeros(len(position), 1), 0)


def with_step(state: MALAState, dynamics: Dynamics, uniform: Tensor) -> Dynamics:
    """Return the dynamics with the step size of each chain and this step.

    Args:
        state: of the chains.
        dynamics: of the run.
        uniform: random numbers between 0 and 1, (R, 1).
    """
    log_step = state.log_factor - SPREAD * uniform
    step = log_step.exp() * dynamics.step_size
    return dataclasses.replace(dynamics, step_size=step)


def update(
    state: MALAState,
    gradient: Tensor,
    noise: Tensor,
    dynamics: Dynamics,
    *,
    accepted: float = 0.57,
) -> MALAState:
    """Return the state at the proposals w' of all chains. `dynamics` has the chains' own step sizes."""
    preconditioner = dynamics.preconditioner
    assert preconditioner is not None
    step = dynamics.step_size
    force = dynamics.potential_gradient(state.position, gradient)
    moved = preconditioner.of_gradient(force).mul_(-step / 2)  # in u
    moved += noise * step**0.5
    position = preconditioner.to_weights(moved).add_(state.position)
    return MALAState(position, state.log_factor, state.steps + 1)


def decide(
    state: MALAState,
    proposal: MALAState,
    chosen: Tensor,
    probability: Tensor | None,
    *,
    accepted: float = 0.57,
) -> MALAState:
    """Return the proposals where they are chosen, and the old positions elsewhere.

    Args:
        state: before the step.
        proposal: of `update`.
        chosen: (R, 1), bool.
        probability: to accept, (R, 1), to adapt the step size by. None: it is left as it is.
        accepted: the share aimed at.
    """
    position = torch.where(chosen, proposal.position, state.position)
    log_factor = state.log_factor
    if probability is not None:
        rate = proposal.steps**-0.5
        log_factor = log_factor + rate * (probability - accepted)
    return MALAState(position, log_factor, proposal.steps)


SAMPLER = Sampler(
    init,
    update,
    scale=scale_by_preconditioner,
    options={"accepted": 0.57},
    defaults={"step_size": 0.1, "batch_size": sys.maxsize},  # all samples
    ranges={"accepted": (lambda value: 0 < value < 1, "above 0 and below 1")},
    needs_preconditioner=True,
    decides=True,
)
