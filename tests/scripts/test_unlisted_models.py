"""scripts/unlisted_models.py: each λ is the one that the derivatives of the outputs at w* give."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pytest
import torch
from torch.func import functional_call, jacrev, vmap

from selfmod_hf.complexity import cross_entropy

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from ground_truth_table import add_arguments, wanted_cases
from unlisted_models import mean_of_product, unlisted_cases

# their λ is not half of a rank: the loss is of fourth order in some directions
_OF_HIGHER_ORDER = {"two convolutions with a common root": 2, "sum of squares": 0, "matrix completion": 19}


def rank_of_outputs(truth) -> int:
    """Return the rank of the outputs' derivatives over 600 samples. A common shift of logits does not count."""
    model = truth.model.double()
    weights = {name: parameter.detach() for name, parameter in model.named_parameters()}
    inputs = truth.inputs[:600]
    if inputs.is_floating_point():
        inputs = inputs.double()

    def outputs(weights, x):
        found = functional_call(model, weights, (x[None],))[0]
        return found - found.mean() if truth.loss_fn is cross_entropy else found

    derivatives = vmap(jacrev(outputs), in_dims=(None, 0))(weights, inputs)
    flat = [part.flatten(2).flatten(0, 1) for part in derivatives.values()]  # each (samples x outputs, weights)
    sizes = torch.linalg.svdvals(torch.cat(flat, dim=1))
    return int((sizes > 1e-8 * sizes[0]).sum()) if sizes[0] > 0 else 0


@pytest.mark.weekly
@pytest.mark.parametrize("case", unlisted_cases(), ids=lambda case: case.kind)
def test_the_coefficient_is_half_of_the_rank_at_a_minimum(case):
    truth = case.build()
    loss = truth.loss_fn(truth.model(truth.inputs), truth.targets).mean()
    gradients = torch.autograd.grad(loss, list(truth.model.parameters()))
    largest = max(float(gradient.abs().max()) for gradient in gradients)
    assert largest < 5e-4  # the minimum may be at a ReLU's kink, where one of 20,000 samples turns its gradient
    rank = rank_of_outputs(truth)
    if case.kind in _OF_HIGHER_ORDER:
        assert rank == _OF_HIGHER_ORDER[case.kind]
        assert truth.learning_coefficient > rank / 2
    else:
        assert truth.learning_coefficient == rank / 2


def test_the_mean_of_a_product_is_that_of_draws_from_the_prior():
    start = torch.tensor([0.0, 0.8, 0.5], dtype=torch.float64)
    prior = torch.Generator().manual_seed(0)
    draws = start + torch.randn(2_000_000, 3, dtype=torch.float64, generator=prior) / 2
    potential = 30 / 2 * (draws.prod(1) - start.prod()).square()
    weights = (-potential).exp()
    expected = float((weights * potential).sum() / weights.sum())
    assert mean_of_product(start, 30.0, 4.0) == pytest.approx(expected, rel=0.01)
    assert mean_of_product(torch.tensor([2.0, 3.0, 1.5]), 1e5, 100.0) == pytest.approx(0.5, abs=1e-3)


def test_the_flag_takes_these_models_in_place_of_a_half():
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    every = wanted_cases(parser.parse_args(["--unlisted"]))
    assert [case.kind for case in every] == [case.kind for case in unlisted_cases()]
    chosen = wanted_cases(parser.parse_args(["--unlisted", "--kinds", "sum of squares"]))
    assert [case.key for case in chosen] == ["sum of squares"]
    with pytest.raises(SystemExit, match=r"--kinds 'x': allowed with --unlisted are logistic regression, "):
        wanted_cases(parser.parse_args(["--unlisted", "--kinds", "x"]))
    with pytest.raises(SystemExit, match="--count 2: allowed without --unlisted"):
        wanted_cases(parser.parse_args(["--unlisted", "--count", "2"]))
    listed = wanted_cases(parser.parse_args(["--count", "1"]))
    assert "sum of squares" not in [case.kind for case in listed]
