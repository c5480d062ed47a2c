"""The rules by which a set of chains is called "ok", or not."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from .diagnostics import standard_error
from .result import DIVERGED, NOT_AT_MINIMUM, NOT_CONVERGED, OK

TREND_RELATIVE = 0.05  # a trend smaller than this part of the estimate is no matter
TREND_ERRORS = 3.0  # nor is one within this many standard errors
MAX_RELATIVE_ERROR = 0.1  # of the standard error to the estimate
MAX_ABSOLUTE_ERROR = 0.1  # of the standard error, where the estimate itself is small
MIN_DRAWS = 20  # kept, per chain


def diverged_chains(trace: NDArray[np.float64], num_parameters: int, burnin: int) -> tuple[int, ...]:
    """Chains that have left the region: not finite, or an estimate over d/2, the largest that λ can be, many times.

    λ <= d/2 holds for every model with d parameters; a chain at more than twice that is not near a minimum any more.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        means = trace[:, burnin:].mean(axis=1)
    far = ~np.isfinite(trace).all(axis=1) | (means > num_parameters)
    return tuple(int(c) for c in np.flatnonzero(far))


def judge(trace: NDArray[np.float64], burnin: int, diverged: tuple[int, ...]) -> tuple[str, str]:
    """(status, reason) of the LLC trace (C, T), burn-in included; the first rule that applies.

    1. diverged: a chain is not finite, or its estimate is over d.
    2. not_at_minimum: the estimate is negative, or the trace falls (below).
    3. not_converged: fewer than 20 kept draws; the trace rises; or the standard error is over 10 % of the estimate
       (and over 0.1): too few independent draws, or chains that disagree, both of which it contains.
    4. ok.

    The trace rises (falls) where the mean of the last third of the kept draws is above (below) that of the first
    third by more than 3 standard errors of the difference and by more than 5 % of the estimate.
    """
    if diverged:
        return DIVERGED, f"chains {', '.join(map(str, diverged))} left the region: take a smaller step size"
    kept = trace[:, burnin:]
    llc, error = float(kept.mean()), standard_error(kept)
    if llc < 0:
        return NOT_AT_MINIMUM, f"the loss falls below that of w* while sampling (llc {llc:.3g}): w* is no minimum"
    if kept.shape[1] < MIN_DRAWS:
        return NOT_CONVERGED, f"{kept.shape[1]} kept draws per chain: at least {MIN_DRAWS} are needed"
    rise, rise_error = trend(kept)
    significant = abs(rise) > TREND_ERRORS * rise_error and abs(rise) > TREND_RELATIVE * abs(llc)
    if significant and rise < 0:
        return NOT_AT_MINIMUM, f"the trace still falls, by {-rise:.3g} over the kept draws"
    if significant:
        return NOT_CONVERGED, f"the trace still rises, by {rise:.3g} over the kept draws: take more draws"
    if math.isnan(error) or error > max(MAX_RELATIVE_ERROR * llc, MAX_ABSOLUTE_ERROR):
        return NOT_CONVERGED, f"standard error {error:.3g} at an estimate of {llc:.3g}: take more draws"
    return OK, f"plateau: over the kept draws the trace moves by {rise:.2g} ± {rise_error:.2g}"


def trend(kept: NDArray[np.float64]) -> tuple[float, float]:
    """(last third's mean minus the first third's, its standard error from the spread over chains and within)."""
    third = kept.shape[1] // 3
    first, last = kept[:, :third], kept[:, -third:]
    error = math.hypot(standard_error(first), standard_error(last))
    return float(last.mean() - first.mean()), error
