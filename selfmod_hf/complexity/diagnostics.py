"""How far a set of chains can be trusted: split R-hat, effective sample size, standard error.

Vehtari, Gelman, Simpson, Carpenter, Bürkner 2021 (arXiv 1903.08008), sections 3 and 4, without rank
normalization: the estimate is a mean, so the mean's own diagnostics are what is wanted. Written out here in
numpy because arviz brings xarray, pandas and a file format along; the tests compare with arviz.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Draws = NDArray[np.float64]  # (chains, draws)


def split_chains(draws: Draws) -> Draws:
    """(C, T) to (2C, T // 2): every chain as two, so that a drift within a chain shows; an odd draw is left out."""
    half = draws.shape[1] // 2
    return np.concatenate([draws[:, :half], draws[:, draws.shape[1] - half :]])


def split_rhat(draws: Draws) -> float:
    """Split R-hat, sqrt( ((T-1)/T W + B/T) / W ): near 1 where the chains agree. NaN for fewer than 4 draws."""
    if draws.shape[1] < 4 or not np.isfinite(draws).all():
        return math.nan
    halves = split_chains(draws)
    length = halves.shape[1]
    within = halves.var(axis=1, ddof=1).mean()
    between = halves.mean(axis=1).var(ddof=1)  # B/T
    if within == 0:
        return 1.0 if between == 0 else math.inf
    return float(math.sqrt((length - 1) / length + between / within))


def effective_sample_size(draws: Draws) -> float:
    """How many independent draws the mean over all of (C, T) is worth. NaN for fewer than 4 draws.

    Geyer's initial monotone sequence over the autocorrelation of the split chains, between-chain variance included.
    """
    if draws.shape[1] < 4 or not np.isfinite(draws).all():
        return math.nan
    halves = split_chains(draws)
    count, length = halves.shape
    autocovariance = _autocovariance(halves).mean(axis=0)  # (T,), biased: divided by T
    within = autocovariance[0] * length / (length - 1)
    pooled = autocovariance[0] + halves.mean(axis=1).var(ddof=1)
    if pooled == 0:
        return float(count * length)
    rho = 1 - (within - autocovariance * length / (length - 1)) / pooled
    rho[0] = 1.0
    return float(count * length / _integrated_time(rho, count * length))


def _autocovariance(chains: Draws) -> Draws:
    length = chains.shape[1]
    size = 2 ** math.ceil(math.log2(2 * length))
    spectrum = np.fft.rfft(chains - chains.mean(axis=1, keepdims=True), size, axis=1)
    return np.fft.irfft(np.abs(spectrum) ** 2, size, axis=1)[:, :length] / length


def _integrated_time(rho: NDArray[np.float64], total: int) -> float:
    """1 + 2 sum of autocorrelations: pairs summed while positive, made to fall (Geyer 1992, section 3.3)."""
    pairs = rho[: len(rho) // 2 * 2].reshape(-1, 2).sum(axis=1)
    negative = np.flatnonzero(pairs <= 0)
    kept = np.minimum.accumulate(pairs[: negative[0] if len(negative) else len(pairs)])
    return float(max(-1 + 2 * kept.sum(), 1 / math.log10(total)))


def standard_error(draws: Draws) -> float:
    """Standard error of the mean over all draws: their standard deviation over the root of the ESS."""
    ess = effective_sample_size(draws)
    if math.isnan(ess):
        return math.nan
    halves = split_chains(draws)
    pooled = _autocovariance(halves)[:, 0].mean() + halves.mean(axis=1).var(ddof=1)
    return float(math.sqrt(pooled / ess))
