"""`GroundTruth.truth`: λ, or the exact mean where the prior matters."""

from __future__ import annotations

import dataclasses

from selfmod_hf.complexity.ground_truth import REFERENCE_LOCALIZATION, linear_regression


def test_truth_is_lambda_unless_the_prior_matters():
    regular = linear_regression(4, condition=100.0, num_samples=200)
    assert regular.truth(10.0) == 2.0
    moved = dataclasses.replace(regular, prior_matters=True)
    assert moved.truth(10.0) == regular.posterior_mean(10.0, REFERENCE_LOCALIZATION) < 1.7
