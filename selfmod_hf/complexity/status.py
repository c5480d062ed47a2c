"""The rules by which a set of chains is called "ok", or not."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from .diagnostics import standard_error
from .result import DIVERGED, NOT_AT_MINIMUM, NOT_CONVERGED, OK

TREND_RELATIVE = 0.05  # a trend smaller than this part of the estimate is no matter
TREND_ERRORS = 3.0  # nor is one within this many standard errors
TREND_LARGE = 0.25  # a trend larger than this part of the estimate is no plateau, by chance or not
MAX_RELATIVE_ERROR = 0.1  # of the standard error to the estimate
MIN_DRAWS = 20  # kept, per chain
OUTLIER_RELATIVE = 0.5  # of the estimate: how far a chain's own mean may always be from the median chain's
OUTLIER_SPREADS = 6.0  # nor is a chain an outlier within this many spreads of the chains
_FAR = 4.0  # λ <= d/2; SGLD shows eight times that within an eighth of its stability limit


def diverged_chains(trace: NDArray[np.float64], num_parameters: int, burnin: int) -> tuple[int, ...]:
    """Chains that have left the region: not finite, or an estimate over d/2, the largest that λ can be, many times.

    λ <= d/2 holds for every model with d parameters; a chain at more than 4 d is not near a minimum any more.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        means = trace[:, burnin:].mean(axis=1)
    far = ~np.isfinite(trace).all(axis=1) | (means > _FAR * num_parameters)
    return tuple(int(c) for c in np.flatnonzero(far))


def judge(trace: NDArray[np.float64], burnin: int, diverged: tuple[int, ...]) -> tuple[str, str]:
    """(status, reason) of the LLC trace (C, T), burn-in included; the first rule that applies.

    1. diverged: a chain is not finite, or its estimate is over 4 d.
    2. not_at_minimum: the estimate is negative, or the trace falls (below).
    3. not_converged: fewer than 20 kept draws; the trace rises, or moves by more than 25 % of the estimate in either
       direction, whatever the errors, which chains that have not arrived cannot know; or the standard error is over
       10 % of the estimate: too few independent draws, or chains that disagree, both of which it contains; or one
       chain is an outlier, which a mean over many chains would hide (`outlying_chains`).
    4. ok.

    The trace rises (falls) where the mean of the last third of the kept draws is above (below) that of the first
    third by more than 5 % of the estimate, and by more than 3 standard errors of the difference.
    """
    if diverged:
        return DIVERGED, f"chains {', '.join(map(str, diverged))} left the region: take a smaller step size"
    kept = trace[:, burnin:]
    llc, error = float(kept.mean()), standard_error(kept)
    if llc < 0:
        return NOT_AT_MINIMUM, f"the loss falls below that of w* while sampling (llc {llc:.3g}): w* is no minimum"
    if kept.shape[1] < MIN_DRAWS:
        return NOT_CONVERGED, f"{kept.shape[1]} kept draws per chain: at least {MIN_DRAWS} are needed"
    third = kept.shape[1] // 3
    rise, rise_error = difference(kept[:, :third], kept[:, -third:])
    believed = abs(rise) > max(TREND_ERRORS * rise_error, TREND_RELATIVE * llc)
    if believed and rise < 0:
        return NOT_AT_MINIMUM, f"the trace still falls, by {-rise:.3g} over the kept draws"
    if believed or abs(rise) > TREND_LARGE * llc:
        direction = "rises" if rise > 0 else "falls"
        return NOT_CONVERGED, f"the trace still {direction}, by {abs(rise):.3g} over the kept draws: take more draws"
    if math.isnan(error) or error > MAX_RELATIVE_ERROR * llc:
        return NOT_CONVERGED, f"standard error {error:.3g} at an estimate of {llc:.3g}: take more draws"
    outliers = outlying_chains(kept.mean(axis=1), llc)
    if outliers:
        named = ", ".join(map(str, outliers))
        return NOT_CONVERGED, f"chains {named} are apart from the others: take more draws or a smaller step size"
    return OK, f"plateau: over the kept draws the trace moves by {rise:.2g} ± {rise_error:.2g}"


def outlying_chains(means: NDArray[np.float64], llc: float) -> tuple[int, ...]:
    """Return the chains whose own estimates, `means` (C,), are far from those of the other chains.

    Far is more than half of the estimate from the median chain, and more than six spreads of the chains. The spread
    is taken from the median distance to the median chain, which a few outliers do not move.
    """
    distance = np.abs(means - np.median(means))
    spread = 1.4826 * np.median(distance)  # the standard deviation, where the chains are normally distributed
    far = (distance > OUTLIER_RELATIVE * llc) & (distance > OUTLIER_SPREADS * spread)
    return tuple(int(c) for c in np.flatnonzero(far))


def difference(first: NDArray[np.float64], last: NDArray[np.float64]) -> tuple[float, float]:
    """(mean of `last` minus mean of `first`, its standard error), both (C, T)."""
    error = math.hypot(standard_error(first), standard_error(last))
    return float(last.mean() - first.mean()), error
