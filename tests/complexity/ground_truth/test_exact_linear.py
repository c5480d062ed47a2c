"""Gibbs sampling of deep linear networks beside integrals, and λ as its limit."""

from __future__ import annotations

import numpy as np
import pytest

from selfmod_hf.complexity.ground_truth import (
    DeepLinearMean,
    deep_linear,
    generic_deep_linear,
    normal_crossing,
)


def test_two_layers_of_one_weight_are_a_normal_crossing():
    """L = (w1 w2)² / 2, so its nβ is half of that of the crossing (w1 w2)²."""
    zero = np.zeros((1, 1))
    found, error = DeepLinearMean([zero, zero], np.eye(1)).with_error(1000.0, 1.0)
    exact = normal_crossing(1, 1, num_samples=10).posterior_mean(500.0, 1.0)
    assert error < 0.01
    assert abs(found - exact) < 4 * error


def test_one_layer_is_normal():
    generator = np.random.default_rng(0)
    inputs = generator.standard_normal((50, 3)) * [1.0, 0.3, 0.1]
    moments = inputs.T @ inputs / 50
    found, error = DeepLinearMean([generator.standard_normal((2, 3))], moments).with_error(100.0, 5.0)
    scaled = 100.0 * np.linalg.eigvalsh(moments)
    exact = (scaled / (scaled + 5.0)).sum()  # two outputs, half each
    assert abs(found - exact) < 4 * error


def test_rank_zero_with_one_hidden_unit_by_integration():
    """Given the first layer a, the second one is normal, so that only |a|² is left."""
    zero = [np.zeros((1, 3)), np.zeros((2, 1))]
    nbeta, gamma = 300.0, 2.0
    found, error = DeepLinearMean(zero, np.eye(3)).with_error(nbeta, gamma)
    radius = np.linspace(0, 10, 200_001)[1:]
    scaled = nbeta * radius**2
    weight = radius**2 * np.exp(-gamma / 2 * radius**2) / (scaled + gamma)
    exact = (weight * scaled / (scaled + gamma)).sum() / weight.sum()
    assert abs(found - exact) < 4 * error


@pytest.mark.parametrize(
    "truth",
    [
        deep_linear([4, 4, 4], 2, num_samples=300),
        generic_deep_linear([4, 4, 4], 2, num_samples=300),
        generic_deep_linear([3, 4, 3], 0, num_samples=300),
        generic_deep_linear([3, 4, 3, 3], 3, num_samples=300),
    ],
    ids=lambda truth: truth.name,
)
def test_lambda_is_the_limit_at_enormous_nbeta(truth):
    assert truth.multiplicity == 1
    mean = truth.posterior_mean(1e8, 1.0)
    assert mean == pytest.approx(truth.learning_coefficient, rel=0.02)


@pytest.mark.slow
def test_the_exact_mean_lies_below_lambda_at_practical_nbeta():
    truth = generic_deep_linear([4, 4, 4, 4], 1, num_samples=300)
    mean = truth.truth(2000.0)
    assert truth.multiplicity == 1
    assert 0.8 * truth.learning_coefficient < mean < 0.97 * truth.learning_coefficient
    assert truth.truth(2000.0) == mean  # the same draws
