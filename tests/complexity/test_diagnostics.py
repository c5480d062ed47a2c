"""Diagnostics against arviz, where it is installed, and against processes of known autocorrelation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from selfmod_hf.complexity.diagnostics import effective_sample_size, split_rhat, standard_error


def _autoregressive(rho: float, chains: int = 4, draws: int = 4000, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    noise = generator.standard_normal((chains, draws)) * math.sqrt(1 - rho**2)
    values = np.empty_like(noise)
    values[:, 0] = generator.standard_normal(chains)
    for t in range(1, draws):
        values[:, t] = rho * values[:, t - 1] + noise[:, t]
    return values


@pytest.mark.parametrize("rho", [-0.3, 0.0, 0.5, 0.9])
def test_effective_sample_size_of_autoregressive_chains(rho):
    """ESS = N (1 - ρ)/(1 + ρ); the variance is 1."""
    draws = _autoregressive(rho)
    exact = draws.size * (1 - rho) / (1 + rho)
    assert effective_sample_size(draws) == pytest.approx(exact, rel=0.15)
    assert standard_error(draws) == pytest.approx(1 / math.sqrt(exact), rel=0.15)
    assert split_rhat(draws) == pytest.approx(1, abs=0.01)


def test_disagreeing_and_drifting_chains_show():
    draws = _autoregressive(0.0, draws=200)
    assert split_rhat(draws + np.arange(4)[:, None]) > 1.3
    assert split_rhat(draws + np.linspace(0, 3, 200)) > 1.2
    assert effective_sample_size(draws + np.arange(4)[:, None]) < 20


def test_constant_short_and_broken_traces():
    assert split_rhat(np.ones((4, 10))) == 1.0
    assert effective_sample_size(np.ones((4, 10))) == 40
    assert math.isnan(split_rhat(np.ones((4, 3))))
    assert math.isnan(effective_sample_size(np.full((4, 10), np.nan)))
    assert math.isnan(standard_error(np.full((4, 10), np.inf)))


@pytest.mark.parametrize("rho", [0.0, 0.7, 0.95])
@pytest.mark.parametrize("draws", [50, 501])
def test_as_arviz(rho, draws):
    stats = pytest.importorskip("arviz_stats.base").array_stats
    values = _autoregressive(rho, draws=draws)
    ess = stats.ess(values, chain_axis=0, draw_axis=1, method="mean")
    assert effective_sample_size(values) == pytest.approx(float(ess), rel=0.03)
    rhat = stats.rhat(values, chain_axis=0, draw_axis=1, method="split")
    assert split_rhat(values) == pytest.approx(float(rhat), rel=1e-3)
