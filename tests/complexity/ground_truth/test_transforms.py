"""Transforms keep the function, and so λ."""

from __future__ import annotations

import pytest
import torch

from selfmod_hf.complexity.ground_truth import (
    deep_linear,
    generic_deep_linear,
    inputs_scaled,
    linear_regression,
    permuted,
    relu_teacher,
    repeated,
    softmax_regression,
    with_unused,
)

from .independent import curvature_rank, gradient_at_minimum, loss_of_vector

MODELS = [
    linear_regression(4, num_samples=200),
    softmax_regression(3, 3, num_samples=200),
    relu_teacher((3, 2, 2), dead=1, num_samples=200),
    deep_linear([3, 4, 3], 3, num_samples=200),
]


@pytest.mark.parametrize("truth", MODELS, ids=lambda truth: truth.kind)
@pytest.mark.parametrize(
    "transform",
    [
        lambda truth: with_unused(truth, 5),
        lambda truth: permuted(truth, seed=1),
        lambda truth: inputs_scaled(truth, 10.0),
        lambda truth: repeated(truth, 5),
    ],
    ids=["unused", "permuted", "scaled", "repeated"],
)
def test_loss_minimum_and_rank_stay(truth, transform):
    other = transform(truth)
    loss, start = loss_of_vector(truth)
    other_loss, other_start = loss_of_vector(other)
    assert float(other_loss(other_start)) == pytest.approx(float(loss(start)), abs=1e-6)
    assert other.learning_coefficient == truth.learning_coefficient
    assert curvature_rank(other, relative=1e-8) == curvature_rank(truth)
    assert gradient_at_minimum(other) < 1e-5
    assert other.kind != truth.kind


def test_a_permutation_moves_inputs_and_hidden_units():
    truth = relu_teacher((4, 3, 2), num_samples=50)
    twin = permuted(truth, seed=1)
    assert not torch.equal(twin.inputs, truth.inputs)
    assert not torch.equal(twin.model[0].bias, truth.model[0].bias)
    assert sorted(twin.model[0].bias.tolist()) == sorted(truth.model[0].bias.tolist())


def test_scaling_is_rejected_where_the_prior_matters():
    with pytest.raises(ValueError, match="depends on the prior"):
        inputs_scaled(generic_deep_linear([3, 3, 3], 1, num_samples=50), 10.0)
