"""Foretell what the rounding of a lower precision adds to an estimate.

An estimate is nβ times a difference of mean losses, at the draws and at w*. Each of them is off by a rounding of its
own, which nβ multiplies.
"""

from __future__ import annotations

import math
import statistics

import torch
from torch import Tensor

from .minimum import loss_and_gradient
from .problem import Problem

_PLACES = 4  # near w*
_NEAR = 1e-3  # distance of each parameter from w*, where the curvature is measured


def rounding_bias(problem: Problem, member: int, nbeta: float, llc: float) -> float:
    """Return how far rounding may move the estimate of one network: what it adds or takes away, and 2 errors of that.

    It is measured at random places near w*, where nβ L is higher by about the estimate, as at the draws.

    Args:
        problem: networks, data and loss.
        member: place of the network in the stack.
        nbeta: nβ.
        llc: the estimate.

    Returns:
        0 at the precision of the weights. NaN for an estimate that is not positive, and for a network that converts to
        the lower precision by itself.
    """
    if problem.compute_dtype is None:
        return 0.0
    if problem.full is None or not llc > 0:
        return math.nan

    def loss(of: Problem, position: Tensor) -> float:
        return loss_and_gradient(of, member, position)[0]

    anchor = problem.anchors[member].double()
    generator = torch.Generator().manual_seed(0)
    steps = torch.randn(_PLACES, len(anchor), generator=generator).to(anchor)  # (K, P)
    step = _NEAR * steps[0]
    at_anchor = loss(problem.exact, anchor)
    rise = nbeta * ((loss(problem.exact, anchor + step) + loss(problem.exact, anchor - step)) / 2 - at_anchor)
    scale = _NEAR
    if rise > 0:
        scale = _NEAR * (llc / rise) ** 0.5
    rounding_at_anchor = loss(problem, anchor) - at_anchor
    added = []
    for direction in steps:
        position = anchor + scale * direction
        rounding = loss(problem, position) - loss(problem.exact, position)
        added.append(nbeta * (rounding - rounding_at_anchor))
    return abs(statistics.mean(added)) + 2 * statistics.stdev(added) / _PLACES**0.5
