"""Softmax regressions: w* is the maximum of the likelihood, and twice λ directions are curved."""

from __future__ import annotations

import pytest
import torch

from selfmod_hf.complexity.ground_truth import factored_softmax, softmax_regression

from .independent import curvature_rank, exact_chain, gradient_at_minimum, loss_of_vector


@pytest.mark.parametrize(
    "truth",
    [
        softmax_regression(3, 4, num_samples=1000),
        softmax_regression(3, 4, num_samples=1000, redundant=True),
        factored_softmax(5, 4, 3, num_samples=1000),
        factored_softmax(4, 3, 4, num_samples=1000),
    ],
    ids=lambda truth: truth.kind,
)
def test_as_many_directions_are_curved_as_lambda_says(truth):
    assert gradient_at_minimum(truth) < 1e-6
    assert curvature_rank(truth) == 2 * truth.learning_coefficient
    assert truth.truth(100.0) == truth.learning_coefficient
    assert set(truth.targets.tolist()) == set(range(truth.model(truth.inputs[:1]).shape[1]))


def test_a_common_shift_of_all_logits_is_flat_to_any_distance():
    truth = softmax_regression(3, 4, num_samples=400, redundant=True)
    loss, start = loss_of_vector(truth)
    shift = torch.randn(4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weight = shift[:3].repeat(4)
    bias = shift[3].repeat(4)
    moved = start + 5 * torch.cat([weight, bias])
    assert float(loss(moved)) == pytest.approx(float(loss(start)), abs=1e-9)


def test_a_factored_softmax_stays_at_its_minimum_under_a_change_of_basis():
    truth = factored_softmax(5, 4, 3, num_samples=400)
    before = truth.loss_fn(truth.model(truth.inputs), truth.targets).mean().detach()
    generator = torch.Generator().manual_seed(0)
    change = torch.eye(4) + 0.3 * torch.randn(4, 4, generator=generator)
    first, second = truth.model.body
    with torch.no_grad():
        first.weight.copy_(change @ first.weight)
        second.weight.copy_(second.weight @ torch.linalg.inv(change))
    after = truth.loss_fn(truth.model(truth.inputs), truth.targets).mean().detach()
    assert float(after) == pytest.approx(float(before), abs=1e-6)


def test_too_few_hidden_units_and_too_few_samples_are_rejected():
    with pytest.raises(ValueError, match="num_hidden=2: must be at least num_classes - 1 = 3"):
        factored_softmax(5, 2, 4)
    with pytest.raises(ValueError, match="num_samples=8: the likelihood has no maximum"):
        softmax_regression(6, 3, num_samples=8)


@pytest.mark.weekly
def test_a_slow_chain_agrees_with_lambda_of_a_factored_softmax():
    truth = factored_softmax(3, 3, 3, num_samples=1000)
    mean, error = exact_chain(truth, 1000.0, 4.0)
    assert error < 0.04 * truth.learning_coefficient
    assert abs(mean - truth.learning_coefficient) < 3 * error + 0.03 * truth.learning_coefficient
