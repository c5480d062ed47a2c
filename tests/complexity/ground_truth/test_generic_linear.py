"""Layers that are not aligned have Aoyagi's ranks. A full layer has the rank of J^T J."""

from __future__ import annotations

import pytest
import torch

from selfmod_hf.complexity.ground_truth import deep_linear, generic_deep_linear, reduced_rank, with_noise

from .independent import curvature_rank, gradient_at_minimum, loss_of_vector


@pytest.mark.parametrize(("widths", "rank"), [([5, 4, 4, 6], 2), ([4, 3, 5], 1), ([4, 5, 3, 4, 4], 3), ([3, 3, 3], 0)])
def test_layers_and_product_have_the_rank_and_are_not_aligned(widths, rank):
    truth = generic_deep_linear(widths, rank, num_samples=100)
    aligned = deep_linear(widths, rank, num_samples=100)
    for weight in truth.model.weights:
        assert int(torch.linalg.matrix_rank(weight, rtol=1e-4)) == rank
    assert int(torch.linalg.matrix_rank(truth.targets, rtol=1e-5)) == rank
    assert truth.learning_coefficient == aligned.learning_coefficient
    assert curvature_rank(truth) == curvature_rank(aligned)
    assert gradient_at_minimum(truth) < 1e-6


def test_condition_is_that_of_every_layer():
    truth = generic_deep_linear([5, 4, 4], 3, condition=20.0, num_samples=50)
    for weight in truth.model.weights:
        singular = torch.linalg.svdvals(weight.detach())
        assert float(singular[0] / singular[2]) == pytest.approx(20.0, rel=1e-3)


@pytest.mark.parametrize(
    ("widths", "rank", "full"),
    [([5, 3, 4], 1, "first"), ([5, 3, 2], 0, "first"), ([3, 3, 3], 2, "first"), ([4, 3, 5], 1, "last")],
)
def test_a_full_layer_makes_a_smooth_point(widths, rank, full):
    truth = reduced_rank(widths, rank, full=full, num_samples=200)
    assert curvature_rank(truth) == 2 * truth.learning_coefficient
    singular = deep_linear(widths, rank, num_samples=10)
    assert truth.learning_coefficient >= singular.learning_coefficient
    loss, start = loss_of_vector(truth)
    assert float(loss(start)) < 1e-10


def test_orthogonal_noise_adds_a_constant_to_the_loss_and_gradients_to_the_samples():
    quiet = reduced_rank([4, 3, 2], 1, num_samples=200)
    noisy = with_noise(quiet, 1.0)
    loss, start = loss_of_vector(quiet)
    noisy_loss, _ = loss_of_vector(noisy)
    generator = torch.Generator().manual_seed(0)
    constant = float(noisy_loss(start) - loss(start))
    assert constant == pytest.approx(1.0, rel=0.2)  # half of the variance of two outputs
    for _ in range(3):
        moved = start + torch.randn(len(start), generator=generator, dtype=torch.float64)
        assert float(noisy_loss(moved) - loss(moved)) == pytest.approx(constant, abs=1e-5)
    assert noisy.learning_coefficient == quiet.learning_coefficient
    assert gradient_at_minimum(noisy) < 1e-6


def test_invalid_layers_are_rejected():
    with pytest.raises(ValueError, match="full='middle': must be 'first' or 'last'"):
        reduced_rank([4, 3, 2], 1, full="middle")
    with pytest.raises(ValueError, match="needs at least 3 units outside"):
        reduced_rank([2, 3, 4], 1)
    with pytest.raises(ValueError, match="rank=4: must be from 0"):
        generic_deep_linear([3, 4, 5], 4)
