"""Measure how far a set of chains can be trusted: split R-hat, effective sample size, standard error.

Vehtari, Gelman, Simpson, Carpenter, Bürkner 2021 (arXiv 1903.08008), sections 3 and 4, without rank normalization. The
estimate is a mean, so these are the diagnostics of a mean. They are written in numpy because arviz requires xarray,
pandas and a file format. The tests compare them with arviz.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

OUTLIER_RELATIVE = 0.5  # of the estimate: a chain's own mean within it from the median chain's is no outlier
OUTLIER_SPREADS = 6.0  # nor is one within this many spreads of the chains

Draws = NDArray[np.float64]  # (chains, draws)


def split_chains(draws: Draws) -> Draws:
    """Split every chain into two, (C, T) to (2C, T // 2), so that a drift within a chain shows.

    The middle draw of an odd number is left out.

    Example:
        >>> split_chains(np.arange(5.0)[None]).tolist()
        [[0.0, 1.0], [3.0, 4.0]]
    """
    num_draws = draws.shape[1]
    half = num_draws // 2
    first = draws[:, :half]
    second = draws[:, num_draws - half :]
    return np.concatenate([first, second])


def split_rhat(draws: Draws) -> float:
    """Return split R-hat, sqrt( ((T-1)/T W + B/T) / W ): near 1 if the chains agree. NaN for fewer than 4 draws."""
    if not _enough(draws):
        return math.nan
    halves = split_chains(draws)
    length = halves.shape[1]
    variances = halves.var(axis=1, ddof=1)  # (2C,)
    means = halves.mean(axis=1)
    within = variances.mean()  # W
    between = means.var(ddof=1)  # B/T
    if within == 0:
        return 1.0 if between == 0 else math.inf
    shrunk = (length - 1) / length
    return math.sqrt(shrunk + between / within)


def effective_sample_size(draws: Draws) -> float:
    """Return the number of independent draws with the same error of their mean as (C, T). NaN for fewer than 4 draws.

    Geyer's initial monotone sequence over the autocorrelation of the split chains, between-chain variance included.
    """
    if not _enough(draws):
        return math.nan
    size, _ = _size_and_variance(split_chains(draws))
    return size


def standard_error(draws: Draws, *, dependent: bool = False) -> float:
    """Return the standard error of the mean over all draws: their standard deviation over the root of the ESS.

    Args:
        draws: (C, T).
        dependent: whether the chains have common noise. The error is then at least that of their mean as one chain.

    Example:
        >>> draws = np.random.default_rng(0).standard_normal((4, 2500))
        >>> round(standard_error(draws), 3)
        0.01
    """
    if not _enough(draws):
        return math.nan
    size, variance = _size_and_variance(split_chains(draws))
    error = math.sqrt(variance / size)
    if dependent:
        mean = draws.mean(axis=0, keepdims=True)  # (1, T)
        error = max(error, standard_error(mean))
    return error


def degrees_of_freedom(ess: float, num_chains: int) -> float:
    """Return the degrees of freedom of a standard error from `ess` independent draws in `num_chains` split chains.

    A tenth of the draws is a cautious value, because their number is itself an estimate.

    Example:
        >>> degrees_of_freedom(ess=400.0, num_chains=4)
        40.0
    """
    least = 2 * num_chains - 1
    if math.isnan(ess):
        return least
    return max(least, ess / 10)


def _enough(draws: Draws) -> bool:
    """Return whether there are four finite draws or more."""
    if draws.shape[1] < 4:
        return False
    return bool(np.isfinite(draws).all())


def _size_and_variance(halves: Draws) -> tuple[float, float]:
    """Return the effective sample size of split chains, (2C, T), and the variance of their draws."""
    count, length = halves.shape
    means = halves.mean(axis=1, keepdims=True)  # (2C, 1)
    between = means.var(ddof=1)

    # autocovariances by the Fourier transform, padded to a power of 2
    exponent = math.log2(2 * length)
    padded = 2 ** math.ceil(exponent)
    centred = halves - means
    spectrum = np.fft.rfft(centred, padded, axis=1)
    power = np.abs(spectrum) ** 2
    products = np.fft.irfft(power, padded, axis=1)
    biased = products[:, :length] / length  # (2C, T), divided by T
    variances = biased[:, 0]  # (2C,)
    variance = variances.mean() + between

    mean_biased = biased.mean(axis=0)  # (T,)
    pooled = mean_biased[0] + between
    total = count * length
    if pooled == 0:
        return float(total), variance
    unbiased = mean_biased * length / (length - 1)
    decay = (unbiased[0] - unbiased) / pooled
    rho = 1 - decay  # (T,), autocorrelation
    rho[0] = 1.0

    # 1 + 2 sum of rho: pairs summed while positive, made to fall (Geyer 1992, section 3.3)
    complete = length // 2 * 2
    pairs = rho[:complete].reshape(-1, 2)
    sums = pairs.sum(axis=1)
    negative = np.flatnonzero(sums <= 0)
    if len(negative) > 0:
        sums = sums[: negative[0]]
    falling = np.minimum.accumulate(sums)
    least_time = 1 / math.log10(total)
    integrated_time = max(-1 + 2 * falling.sum(), least_time)
    size = float(total / integrated_time)
    return size, variance


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
