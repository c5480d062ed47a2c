"""ReLU teachers: the rank of J^T J is 2 λ, and a slow chain agrees."""

from __future__ import annotations

import pytest
import torch

from selfmod_hf.complexity.ground_truth import relu_teacher

from .independent import curvature_rank, exact_chain, loss_of_vector


@pytest.mark.parametrize(
    ("widths", "dead", "idle", "twice"),
    [((3, 2, 2), 0, 0, 12), ((3, 2, 2), 3, 0, 12), ((4, 3, 2), 0, 2, 21)],
)
def test_as_many_directions_are_curved_as_lambda_says(widths, dead, idle, twice):
    truth = relu_teacher(widths, dead=dead, idle=idle, num_samples=400)
    assert 2 * truth.learning_coefficient == twice
    assert curvature_rank(truth) == twice
    loss, start = loss_of_vector(truth)
    assert float(loss(start)) < 1e-10


def test_dead_units_have_no_effect_at_a_distance_of_one():
    truth = relu_teacher((3, 2, 2), dead=2, num_samples=400)
    with torch.no_grad():
        truth.model[0].weight[2:] += 1
        truth.model[2].weight[:, 2:] += 1
        assert torch.equal(truth.model(truth.inputs), truth.targets)


def test_an_idle_unit_that_could_die_is_rejected():
    with pytest.raises(ValueError, match="idle=1: needs dead=0 and more inputs than outputs"):
        relu_teacher((3, 2, 2), idle=1)


@pytest.mark.weekly
@pytest.mark.parametrize("units", [{"dead": 1}, {"idle": 1}])
def test_a_slow_chain_agrees_with_lambda(units):
    truth = relu_teacher((4, 2, 2), num_samples=400, **units)
    mean, error = exact_chain(truth, 1000.0, 4.0)
    assert error < 0.04 * truth.learning_coefficient
    assert abs(mean - truth.learning_coefficient) < 3 * error + 0.03 * truth.learning_coefficient
