"""Samplers of the localized posterior, one per file, each pure: `init(position) -> State`, `update(...) -> State`.

All of them sample from this distribution, or near to it:

    p(w) ∝ exp(-U(w)),    U(w) = nβ L(w) + (γ/2) ||w - w*||²

They do so for R chains at once, one row of a matrix (R, P) each. Random numbers come in from outside, so an update is a
function of its arguments alone.
"""

from __future__ import annotations

from . import fisher_sgld, mala, preconditioned, rmsprop_sgld, sghmc, sgld
from .base import Dynamics, Preconditioner, Sampler, add_scaled_, join_preconditioners

SAMPLERS: dict[str, Sampler] = {
    "sgld": sgld.SAMPLER,
    "fisher_sgld": fisher_sgld.SAMPLER,
    "rmsprop_sgld": rmsprop_sgld.SAMPLER,
    "sghmc": sghmc.SAMPLER,
    "preconditioned": preconditioned.SAMPLER,
    "mala": mala.SAMPLER,
}

__all__ = [
    "SAMPLERS",
    "Dynamics",
    "Preconditioner",
    "Sampler",
    "add_scaled_",
    "fisher_sgld",
    "join_preconditioners",
    "mala",
    "preconditioned",
    "rmsprop_sgld",
    "sghmc",
    "sgld",
]
