"""Compute statistics of the losses of single samples over the draws of an estimate.

`estimate_llc(..., probes=(inputs, targets))` keeps the loss of each probe at each draw, `LLCResult.probe_losses`. The
functions here take those of the kept draws, (C, T, q), in nats:

    losses = result.probe_losses[:, result.kept]

The loss of a sample must be its negative log-likelihood, up to a constant, as for `cross_entropy`. The posterior is
exp( -nβ L(w) ) times the localization, with L the mean loss over n samples. A sample so has the inverse temperature
β = nβ / n.

Watanabe, "Asymptotic Equivalence of Bayes Cross Validation and Widely Applicable Information Criterion" (JMLR 2010).
Kreer et al., "Bayesian Influence Functions for Hessian-Free Data Attribution" (arXiv 2509.26544).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import logsumexp

from ..errors import InputError
from .diagnostics import standard_error
from .input_checks import check, positive

Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Fluctuation:
    """Hold a singular fluctuation.

    Attributes:
        value: ν, dimensionless. It is d/2 for a regular model, as the RLCT is.
        standard_error: Monte Carlo standard error of `value`. The choice of the probes is not part of it.
    """

    value: float
    standard_error: float


@dataclass(frozen=True)
class Waic:
    """Hold the widely applicable information criterion of a model, per sample.

    Attributes:
        value: training loss + (β / n) functional variance, nats. It estimates the loss on new data.
        training_loss: -mean over samples of log E[p(sample | w)], nats.
        functional_variance: sum over the n training samples of the variance of their log-likelihood, nats².
        standard_error: of `value`, over samples.
    """

    value: float
    training_loss: float
    functional_variance: float
    standard_error: float


def singular_fluctuation(losses: ArrayLike, nbeta: float) -> Fluctuation:
    """Return the singular fluctuation, ν = (nβ / 2) mean over samples of Var[ loss ].

    Together with the learning coefficient λ it gives the loss on new data (Watanabe 2009): n (E[loss] - L(w0)) is about
    (λ - ν)/β + ν for the Bayesian mean of the likelihood. L(w0) is the loss of the true weights on new data, not the
    training loss L(w*).

    Args:
        losses: (C, T, q), from training samples that were drawn at random, or from all of them.
        nbeta: of the estimate.

    Raises:
        InputError: losses of another shape, fewer than 4 draws, or an nβ that is not positive.

    Example:
        >>> draws = np.random.default_rng(0).standard_normal((4, 5000, 1))
        >>> fluctuation = singular_fluctuation(draws, nbeta=2.0)
        >>> round(fluctuation.value, 1)
        1.0
    """
    checked = _checked(losses)
    check("nbeta", nbeta, positive(nbeta), "a positive number")
    centered = checked - checked.mean(axis=(0, 1))
    square = np.mean(centered**2, axis=2)  # (C, T), of each draw the mean over samples
    count = square.size
    half = nbeta / 2
    value = half * square.sum() / (count - 1)
    return Fluctuation(float(value), half * standard_error(square))


def waic(losses: ArrayLike, nbeta: float, num_samples: int) -> Waic:
    """Return the WAIC at the inverse temperature of the estimate.

    At β = 1 (`nbeta=n`) it is the usual one.

    Args:
        losses: (C, T, q), from training samples that were drawn at random, or from all of them.
        nbeta: of the estimate.
        num_samples: n, of the training set.

    Raises:
        InputError: losses of another shape, fewer than 4 draws, or an nβ or n that is not positive.

    Example:
        >>> draws = np.full((2, 10, 3), 0.5)  # every draw is the same: no variance
        >>> round(waic(draws, nbeta=100.0, num_samples=100).value, 6)
        0.5
    """
    checked = _checked(losses)
    check("nbeta", nbeta, positive(nbeta), "a positive number")
    check("num_samples", num_samples, positive(num_samples), "a positive number")
    num_chains, num_draws, num_probes = checked.shape
    draws = checked.reshape(-1, num_probes)
    mean_likelihoods = logsumexp(-draws, axis=0) - math.log(num_chains * num_draws)  # (q,), logarithms
    variances = draws.var(axis=0, ddof=1)  # (q,)
    beta = nbeta / num_samples
    each = beta * variances - mean_likelihoods  # (q,)
    error = math.nan
    if num_probes > 1:
        error = float(each.std(ddof=1)) / math.sqrt(num_probes)
    return Waic(
        value=float(each.mean()),
        training_loss=-float(mean_likelihoods.mean()),
        functional_variance=float(num_samples * variances.mean()),
        standard_error=error,
    )


def influences(losses: ArrayLike, others: ArrayLike | None = None, *, correlation: bool = False) -> Matrix:
    """Return Bayesian influence functions: covariances over draws of the losses of pairs of samples, (q, p), nats².

    The expected loss of sample j changes by -β Cov[ loss_i, loss_j ] if training sample i counts twice. A positive
    covariance so means that i helps j.

    Args:
        losses: (C, T, q), of samples i.
        others: (C, T, p), of samples j at the same draws. None: the same samples.
        correlation: divide by the standard deviations. A sample of constant loss then has NaN.

    Raises:
        InputError: losses of another shape, fewer than 4 draws, or others of other draws.

    Example:
        >>> draws = np.arange(6.0).reshape(1, 6, 1)
        >>> influences(draws, np.concatenate([draws, -draws], axis=2), correlation=True).round(6).tolist()
        [[1.0, -1.0]]
    """
    checked = _checked(losses)
    own = _centered(checked)  # (C T, q)
    other = own
    if others is not None:
        other = _centered(_checked_others(others, checked))
    covariances = own.T @ other / (len(own) - 1)
    if not correlation:
        return covariances
    spreads = np.outer(_spreads(own), _spreads(other))
    with np.errstate(invalid="ignore", divide="ignore"):
        return covariances / spreads


def influence_error(losses: ArrayLike, others: ArrayLike | None = None) -> Matrix:
    """Return the Monte Carlo standard errors of the covariances of `influences`, (q, p).

    They are from the spread of the products between chains, or between ten blocks of draws of a single chain.

    Args:
        losses: as for `influences`.
        others: as for `influences`.

    Raises:
        InputError: losses of another shape, fewer than 4 draws, or others of other draws.

    Example:
        >>> draws = np.random.default_rng(0).standard_normal((8, 500, 2))
        >>> influence_error(draws).shape
        (2, 2)
    """
    own = _checked(losses)
    other = own
    if others is not None:
        other = _checked_others(others, own)
    blocks = _blocks(own - own.mean(axis=(0, 1)))
    of_other = _blocks(other - other.mean(axis=(0, 1)))
    means = []
    for first, second in zip(blocks, of_other, strict=True):
        means.append(first.T @ second / len(first))
    spread = np.std(means, axis=0, ddof=1)
    return spread / math.sqrt(len(means))


def _blocks(losses: Matrix) -> list[Matrix]:
    """Return the draws of each chain, (T, q), or ten blocks of a single chain."""
    if len(losses) > 1:
        return list(losses)
    return np.array_split(losses[0], min(10, losses.shape[1]))


def _centered(checked: Matrix) -> Matrix:
    """Return losses (C, T, q) less their means over all draws, (C T, q)."""
    draws = checked.reshape(-1, checked.shape[2])
    return draws - draws.mean(axis=0)


def _spreads(centered: Matrix) -> Matrix:
    """Return standard deviations, (q,)."""
    squares = np.sum(centered**2, axis=0)
    return np.sqrt(squares / (len(centered) - 1))


def _checked(losses: ArrayLike) -> Matrix:
    """Return the losses in float64.

    Raises:
        InputError: another shape, or fewer than 4 draws.
    """
    array = np.asarray(losses, dtype=np.float64)
    if array.ndim != 3 or array.shape[1] < 4 or array.size == 0:
        raise InputError("losses", array.shape, "must be (chains, draws, samples) of at least 4 draws")
    return array


def _checked_others(others: ArrayLike, losses: Matrix) -> Matrix:
    """Return the losses of other samples in float64.

    Raises:
        InputError: another shape, or other draws than `losses`, (C, T, q).
    """
    checked = _checked(others)
    if checked.shape[:2] != losses.shape[:2]:
        raise InputError("others", checked.shape, f"must have the chains and draws of losses, {losses.shape[:2]}")
    return checked
