"""Aoyagi's λ against known cases and a search over all subsets; the samplers against models of known λ."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfmod_hf.complexity import calibrate_llc, estimate_llc
from selfmod_hf.complexity.ground_truth import (
    deep_linear,
    deep_linear_cases,
    deep_linear_coefficient,
    normal_crossing,
    regular,
)


def _by_search(widths: list[int], rank: int) -> float:
    """The formula with S found by trying every subset."""
    excess = [width - rank for width in widths]
    for size in range(2, len(excess) + 1):
        for indices in itertools.combinations(range(len(excess)), size):
            chosen = [excess[i] for i in indices]
            others = [m for i, m in enumerate(excess) if i not in indices]
            n, total = size - 1, sum(chosen)
            below = not others or (max(chosen) < min(others) and total < n * min(others))
            if below and total >= n * max(chosen):
                a = total - (math.ceil(total / n) - 1) * n
                pairs = sum(x * y for x, y in itertools.combinations(chosen, 2))
                regular_part = (rank * (widths[0] + widths[-1]) - rank**2) / 2
                return regular_part + a * (n - a) / (4 * n) - n * (n - 1) / 4 * (total / n) ** 2 + pairs / 2
    raise AssertionError("no subset")


@pytest.mark.parametrize(
    ("widths", "rank", "exact"),
    [
        ([3, 4], 0, 6.0),  # one layer: H0 H1 / 2
        ([3, 4], 2, 6.0),
        ([1, 1, 1], 0, 0.5),  # w1 w2
        ([1, 1, 1, 1], 0, 0.5),  # w1 w2 w3
        ([2, 1, 2], 1, 1.5),  # full rank: the dimension of the product's manifold, over 2
        ([5, 3, 4], 3, 9.0),
    ],
)
def test_known_coefficients(widths, rank, exact):
    assert deep_linear_coefficient(widths, rank) == pytest.approx(exact)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=2, max_size=6), st.data())
def test_coefficient_by_search(widths, data):
    rank = data.draw(st.integers(0, min(widths)))
    assert deep_linear_coefficient(widths, rank) == pytest.approx(_by_search(widths, rank))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 12), min_size=3, max_size=6), st.data())
def test_coefficient_bounds_and_order(widths, data):
    """0 < λ <= d/2 and the product's own dimension / 2; the order of hidden layers is no matter."""
    rank = data.draw(st.integers(0, min(widths)))
    value = deep_linear_coefficient(widths, rank)
    size = sum(i * o for i, o in itertools.pairwise(widths))
    assert 0 < value <= min(size, widths[0] * widths[-1]) / 2 + 1e-9
    assert deep_linear_coefficient([widths[0], *widths[-2:0:-1], widths[-1]], rank) == pytest.approx(value)


def test_a_rank_over_the_smallest_width_is_refused():
    with pytest.raises(ValueError, match="rank=3: must be from 0 to the smallest width, 2"):
        deep_linear_coefficient([4, 2, 4], 3)


def test_a_deep_linear_network_is_at_its_minimum_and_has_its_rank():
    truth = deep_linear([6, 5, 7, 6], 2, num_samples=50)
    assert truth.loss_fn(truth.model(truth.inputs), truth.targets).max() < 1e-10
    singular = np.linalg.svd(truth.targets.numpy(), compute_uv=False)
    assert (singular > 1e-3).sum() == 2


def test_regular_model_within_three_percent():
    truth = regular(9, 4, num_samples=5000)
    result = estimate_llc(
        truth.model, truth.inputs, truth.targets, loss_fn=truth.loss_fn, sampler="sghmc", step_size=1e-4,
        localization=1.0, num_draws=2000,
    )  # fmt: skip
    assert result.llc == pytest.approx(truth.learning_coefficient, rel=0.03)
    assert result.status == "ok"


@pytest.mark.slow
def test_normal_crossing_has_the_value_of_its_integral():
    """E[nβ (w1 w2)²] under the localized posterior, by quadrature: below λ = 1/2, as multiplicity 2 has it."""
    nbeta, gamma = 1000.0, 10.0
    axis = np.linspace(-2, 2, 4001)
    potential = nbeta * np.square(axis[:, None] * axis)  # nβ L
    weight = np.exp(-potential - gamma / 2 * (np.square(axis)[:, None] + np.square(axis)))
    exact = (potential * weight).sum() / weight.sum()
    truth = normal_crossing(1, 1, num_samples=10)
    result = estimate_llc(
        truth.model, truth.inputs, truth.targets, loss_fn=truth.loss_fn, sampler="sghmc", step_size=5e-4,
        localization=gamma, nbeta=nbeta, num_draws=4000, num_chains=16,
    )  # fmt: skip
    assert exact < truth.learning_coefficient == 0.5
    assert abs(result.llc - exact) < 3 * result.standard_error + 0.02 * exact
    assert result.standard_error < 0.05 * exact


@pytest.mark.slow
@pytest.mark.parametrize(("widths", "rank"), [([8, 7, 9], 3)])
def test_calibration_finds_a_deep_linear_coefficient(widths, rank):
    truth = deep_linear(widths, rank)
    calibration = calibrate_llc(
        truth.model, truth.inputs, truth.targets, loss_fn=truth.loss_fn, num_draws=1000, num_chains=4
    )
    assert calibration.llc == pytest.approx(truth.learning_coefficient, rel=0.08)
    assert sum(row["chosen"] for row in calibration.table) == 1
    assert calibration.result.settings.step_size == calibration.step_size


@pytest.mark.weekly
def test_deep_linear_networks():
    """Calibration without tuning: the bounds are on the estimate extrapolated to no localization.

    Small ones of the thirty networks, the two with the largest error among them; `scripts/benchmark.py ground_truth`
    does them all.
    """
    from scipy.stats import spearmanr

    cases, pairs = deep_linear_cases(30), []
    for seed in (2, 16, 18, 21, 26):
        truth = deep_linear(*cases[seed], seed=seed)
        found = calibrate_llc(truth.model, truth.inputs, truth.targets, loss_fn=truth.loss_fn, num_draws=2000)
        nbeta = len(truth.inputs) / math.log(len(truth.inputs))
        pairs.append((found.llc, truth.truth(nbeta)))  # at finite n the mean is below λ
    estimates, exact = np.array(pairs).T
    errors = np.abs(estimates / exact - 1)
    assert np.median(errors) <= 0.05
    assert errors.max() <= 0.15
    assert spearmanr(estimates, exact).statistic >= 0.99
