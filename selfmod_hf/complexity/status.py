"""The rules that decide the status of a set of chains."""

from __future__ import annotations

import math

import numpy as np

from .diagnostics import Draws, standard_error
from .result import DIVERGED, NOT_AT_MINIMUM, NOT_CONVERGED, OK

TREND_RELATIVE = 0.05  # a trend smaller than this part of the estimate does not count
TREND_ERRORS = 3.0  # nor does one within this many standard errors
TREND_LARGE = 0.25  # a trend larger than this part of the estimate is no plateau, by chance or not
MAX_RELATIVE_ERROR = 0.1  # of the standard error to the estimate
MIN_DRAWS = 20  # kept, per chain
OUTLIER_RELATIVE = 0.5  # of the estimate: a chain's own mean within it from the median chain's is no outlier
OUTLIER_SPREADS = 6.0  # nor is one within this many spreads of the chains
_FAR = 4.0  # λ <= d/2: SGLD shows eight times that within an eighth of its stability limit


def diverged_chains(trace: Draws, num_parameters: int, burnin: int) -> tuple[int, ...]:
    """Return the chains outside of the region: not finite, or with an estimate above 4 d.

    λ <= d/2 holds for every model with d parameters. A chain at more than 4 d is no longer near a minimum.

    Args:
        trace: (C, T), LLC trace, burn-in included.
        num_parameters: d.
        burnin: draws left out.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        kept = trace[:, burnin:]
        means = kept.mean(axis=1)  # (C,)
    finite = np.isfinite(trace).all(axis=1)  # (C,)
    limit = _FAR * num_parameters
    gone = ~finite | (means > limit)
    return tuple(np.flatnonzero(gone).tolist())


def judge(trace: Draws, burnin: int, diverged: tuple[int, ...]) -> tuple[str, str]:
    """Return (status, reason) of the LLC trace (C, T), burn-in included, by the first rule that applies.

    1. diverged: a chain is not finite, or its estimate is over 4 d.
    2. not_at_minimum: the estimate is negative, or the trace falls (below).
    3. not_converged: fewer than 20 kept draws. Or the trace rises. Or it moves by more than 25 % of the estimate in
       either direction, whatever the errors, because chains on their way cannot know them. Or the standard
       error is over 10 % of the estimate: it contains too few independent draws and chains that disagree. Or one chain
       is an outlier, hidden by a mean over many chains (`outlying_chains`).
    4. ok.

    The trace rises (falls) if the mean of the last third of the kept draws is above (below) that of the first third by
    more than 5 % of the estimate, and by more than 3 standard errors of the difference.
    """
    if diverged:
        named = ", ".join(map(str, diverged))
        reason = f"chains {named} left the region: take a smaller step size"
        return DIVERGED, reason
    kept = trace[:, burnin:]
    num_kept = kept.shape[1]
    llc = float(kept.mean())
    if llc < 0:
        reason = f"the loss falls below that of w* while sampling (llc {llc:.3g}): w* is no minimum"
        return NOT_AT_MINIMUM, reason
    if num_kept < MIN_DRAWS:
        reason = f"{num_kept} kept draws per chain: at least {MIN_DRAWS} are needed"
        return NOT_CONVERGED, reason

    third = num_kept // 3
    first = kept[:, :third]
    last = kept[:, -third:]
    rise = float(last.mean() - first.mean())
    size = abs(rise)
    rise_error = math.hypot(standard_error(first), standard_error(last))
    least = max(TREND_ERRORS * rise_error, TREND_RELATIVE * llc)
    believed = size > least
    if believed and rise < 0:
        reason = f"the trace still falls, by {size:.3g} over the kept draws"
        return NOT_AT_MINIMUM, reason
    if believed or size > TREND_LARGE * llc:
        direction = "rises" if rise > 0 else "falls"
        reason = f"the trace still {direction}, by {size:.3g} over the kept draws: take more draws"
        return NOT_CONVERGED, reason
    error = standard_error(kept)
    if math.isnan(error) or error > MAX_RELATIVE_ERROR * llc:
        reason = f"standard error {error:.3g} at an estimate of {llc:.3g}: take more draws"
        return NOT_CONVERGED, reason
    chain_means = kept.mean(axis=1)  # (C,)
    outliers = outlying_chains(chain_means, llc)
    if outliers:
        named = ", ".join(map(str, outliers))
        reason = f"chains {named} are apart from the others: take more draws or a smaller step size"
        return NOT_CONVERGED, reason
    reason = f"plateau: over the kept draws the trace moves by {rise:.2g} ± {rise_error:.2g}"
    return OK, reason


def outlying_chains(means: np.ndarray, llc: float) -> tuple[int, ...]:
    """Return the chains with estimates far from those of the other chains.

    Far is more than half of the estimate from the median chain, and more than six spreads of the chains. The spread is
    taken from the median distance to the median chain, because a few outliers do not move it.

    Args:
        means: (C,), each chain's own estimate.
        llc: the estimate.

    Example:
        >>> outlying_chains(np.array([30.0, 31.0, 29.0, 90.0]), llc=45.0)
        (3,)
    """
    median = np.median(means)
    distance = np.abs(means - median)  # (C,)
    spread = 1.4826 * np.median(distance)  # the standard deviation, if the chains are normally distributed
    limit = max(OUTLIER_RELATIVE * llc, OUTLIER_SPREADS * spread)
    far = np.flatnonzero(distance > limit)
    return tuple(far.tolist())
