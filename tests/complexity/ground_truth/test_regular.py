"""Linear regressions: w* is the minimum of the sample, all directions are curved, and the posterior is normal."""

from __future__ import annotations

import pytest
import torch

from selfmod_hf.complexity.ground_truth import linear_regression

from .independent import curvature_rank, curvatures, gradient_at_minimum


@pytest.mark.parametrize("condition", [1.0, 10_000.0])
def test_noisy_linear_regression_is_at_its_minimum_and_regular(condition):
    truth = linear_regression(6, condition=condition, num_samples=2000)
    assert gradient_at_minimum(truth) < 1e-6
    assert curvature_rank(truth) == 6
    assert truth.learning_coefficient == truth.truth(300.0) == 3.0
    values = curvatures(truth)
    assert values[0] / values[-1] == pytest.approx(condition, rel=0.35)
    residuals = truth.targets - truth.model(truth.inputs).detach()
    assert float(residuals.std()) == pytest.approx(1.0, rel=0.1)


def test_the_posterior_mean_of_a_linear_regression_is_that_of_independent_draws():
    truth = linear_regression(5, condition=100.0, num_samples=500, seed=3)
    nbeta, gamma = 80.0, 2.0
    moments = truth.inputs.double().T @ truth.inputs.double() / len(truth.inputs)
    precision = nbeta * moments + gamma * torch.eye(5)
    generator = torch.Generator().manual_seed(0)
    factor = torch.linalg.cholesky(torch.linalg.inv(precision))
    offsets = torch.randn(100_000, 5, generator=generator, dtype=torch.float64) @ factor.T
    energies = nbeta / 2 * ((offsets @ moments) * offsets).sum(1)
    error = float(energies.std()) / len(energies) ** 0.5
    assert abs(truth.posterior_mean(nbeta, gamma) - float(energies.mean())) < 4 * error
    assert truth.posterior_mean(nbeta, gamma) < truth.learning_coefficient
