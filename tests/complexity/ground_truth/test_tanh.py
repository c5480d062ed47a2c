"""Tanh units at zero: the exact means beside direct integration and beside λ at enormous nβ."""

from __future__ import annotations

import math

import numpy as np
import pytest

from selfmod_hf.complexity.ground_truth import tanh_network, tanh_units

from .independent import gradient_at_minimum


def _direct(inputs: np.ndarray, nbeta: float, gamma: float) -> float:
    """The mean of nβ L for one unit, by a sum over an even grid of a and b."""
    axis = np.linspace(-5, 5, 801)
    squares = (np.tanh(axis[:, None] * inputs) ** 2).mean(1)  # (a,)
    energy = nbeta / 2 * squares[:, None] * axis**2
    weight = np.exp(-energy - gamma / 2 * (axis[:, None] ** 2 + axis**2))
    return float((weight * energy).sum() / weight.sum())


def test_units_with_own_outputs_are_independent():
    truth = tanh_units(3, num_samples=40)
    columns = truth.inputs.double().numpy().T
    exact = sum(_direct(column, 60.0, 2.0) for column in columns)
    assert truth.posterior_mean(60.0, 2.0) == pytest.approx(exact, rel=1e-3)
    assert gradient_at_minimum(truth) == 0
    assert truth.truth(60.0) == truth.posterior_mean(60.0, 1.0) < truth.learning_coefficient


def test_two_units_with_one_output_by_direct_integration():
    truth = tanh_network(2, num_samples=20)
    inputs = truth.inputs.double().numpy()[:, 0]
    nbeta, gamma = 30.0, 4.0
    axis = np.linspace(-2.5, 2.5, 61)
    units = np.tanh(axis[:, None] * inputs)
    moments = units @ units.T / len(inputs)
    squares = np.diag(moments)
    a1, a2, b1, b2 = np.meshgrid(axis, axis, axis, axis, indexing="ij", sparse=True)
    quadratic = b1**2 * squares[:, None, None, None] + b2**2 * squares[:, None, None]
    energy = nbeta / 2 * (quadratic + 2 * b1 * b2 * moments[:, :, None, None])
    weight = np.exp(-energy - gamma / 2 * (a1**2 + a2**2 + b1**2 + b2**2))
    exact = (weight * energy).sum() / weight.sum()
    assert truth.posterior_mean(nbeta, gamma) == pytest.approx(exact, rel=5e-3)


def test_lambda_of_one_unit_is_the_limit_of_the_exact_mean():
    truth = tanh_network(1, num_samples=20)
    nbeta = 1e10
    expected = truth.learning_coefficient - 1 / math.log(nbeta)
    assert truth.posterior_mean(nbeta, 1.0) == pytest.approx(expected, abs=0.01)


def test_lambda_of_two_units_is_that_of_the_first_two_terms_of_the_series():
    """The loss (b1 a1 + b2 a2)² + (b1 a1³ + b2 a2³)², with b integrated, at nβ where only λ is left."""
    nbeta = 1e14
    radius = np.exp(np.linspace(-25, 3, 1501))[:, None]
    near = np.exp(np.linspace(-25, math.log(math.pi / 8), 801))  # to an axis, and to the diagonal
    # a sine of the angle and of twice the angle from the diagonal, without cancellation, and its Jacobian
    sines = np.concatenate([np.sin(near), np.sin(math.pi / 4 - near)])
    from_diagonal = np.concatenate([np.cos(2 * near), np.sin(2 * near)])
    jacobian = np.concatenate([near, near])
    cosines = np.sqrt(1 - sines**2)
    product = radius**4 * cosines * sines * from_diagonal  # the root of the determinant of nβ M, over nβ
    trace = nbeta * (radius**2 + radius**6 * (cosines**6 + sines**6))
    determinant = (nbeta * product) ** 2 + trace + 1
    energy = 1 - (trace + 2) / (2 * determinant)
    weight = radius**2 * jacobian * np.exp(-(radius**2) / 2) / np.sqrt(determinant)
    mean = (weight * energy).sum() / weight.sum()
    assert mean == pytest.approx(tanh_network(2, num_samples=10).learning_coefficient, abs=0.01)


def test_other_numbers_of_units_are_rejected():
    with pytest.raises(ValueError, match="num_units=3: must be 1 or 2"):
        tanh_network(3)
