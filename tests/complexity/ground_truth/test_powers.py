"""Powers: quadrature beside plain sums on an even grid, and λ as the slope of the free energy."""

from __future__ import annotations

import math

import numpy as np
import pytest

from selfmod_hf.complexity.ground_truth import normal_crossing, products_of_powers, sum_of_powers

from .independent import gradient_at_minimum, loss_of_vector


def test_a_sum_of_powers_is_lambda_at_every_temperature_and_almost_without_a_prior():
    truth = sum_of_powers([1, 2, 3, 4], num_samples=50)
    assert truth.learning_coefficient == truth.truth(50.0) == pytest.approx(1 / 2 + 1 / 4 + 1 / 6 + 1 / 8)
    for nbeta in (100.0, 10_000.0):
        assert truth.posterior_mean(nbeta, 1e-5) == pytest.approx(truth.learning_coefficient, rel=1e-3)
    assert truth.posterior_mean(100.0, 5.0) < 0.9 * truth.learning_coefficient


def test_products_of_powers_on_an_even_grid():
    truth = products_of_powers([(1, 1), (2, 1)], num_samples=50)
    nbeta, gamma = 40.0, 4.0
    axis = np.linspace(-4, 4, 3001)
    prior = np.exp(-gamma / 2 * axis**2)
    mass = prior[:, None] * prior
    total = 0.0
    for (a, b), coefficient in zip([(1, 1), (2, 1)], truth.model.coefficients.tolist(), strict=True):
        energy = nbeta * coefficient**2 * axis[:, None] ** (2 * a) * axis ** (2 * b)
        weight = mass * np.exp(-energy)
        total += (weight * energy).sum() / weight.sum()
    assert truth.truth(nbeta) == truth.posterior_mean(nbeta, 1.0)
    assert truth.posterior_mean(nbeta, gamma) == pytest.approx(total, rel=1e-4)


@pytest.mark.parametrize(("a", "b"), [(1, 1), (2, 2), (1, 2)])
def test_the_exact_mean_approaches_lambda_minus_the_multiplicity_term(a, b):
    truth = normal_crossing(a, b, num_samples=10)
    nbeta = 1e12
    expected = truth.learning_coefficient - (truth.multiplicity - 1) / math.log(nbeta)
    assert truth.posterior_mean(nbeta, 1.0) == pytest.approx(expected, abs=0.01)


def test_the_loss_is_the_polynomial_although_inputs_are_random():
    truth = products_of_powers([(1, 2), (3, 1)], num_samples=300)
    loss, start = loss_of_vector(truth)
    assert gradient_at_minimum(truth) == 0
    vector = start + start.new_tensor([0.5, -0.8, 0.9, 0.3])
    first, second = truth.model.coefficients.tolist()
    exact = (first * 0.5 * 0.8**2) ** 2 + (second * 0.9**3 * 0.3) ** 2
    assert float(loss(vector)) == pytest.approx(exact, rel=1e-5)


def test_powers_below_one_are_rejected():
    with pytest.raises(ValueError, match="must be positive integers"):
        sum_of_powers([2, 0])
    with pytest.raises(ValueError, match="must be one power or more"):
        products_of_powers([])
    with pytest.raises(ValueError, match="localization=0: must be positive"):
        normal_crossing(1, 1).posterior_mean(100.0, 0)
