"""`fisher_sgld`: invariant where it says so, right on quadratics; and the samplers that are not invariant."""

from __future__ import annotations

import copy
import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

from selfmod_hf.complexity import calibrate_llc, estimate_llc, half_squared_error
from selfmod_hf.complexity.ground_truth import regular

from .scenarios import digits, trained_digits_net

NBETA = 1797 / math.log(1797)


def _rescaled(factor: float) -> nn.Sequential:
    """The same function: the first layer times `factor`, the second over it."""
    net = copy.deepcopy(trained_digits_net())
    with torch.no_grad():
        for parameter in net[0].parameters():
            parameter.mul_(factor)
        net[2].weight.div_(factor)
    return net


def _estimate(factor: float, **settings):
    return estimate_llc(_rescaled(factor), *digits(), num_draws=500, batch_size=256, nbeta=NBETA, **settings)


def test_rescaling_a_layer_changes_no_draw():
    settings = {"sampler": "fisher_sgld", "step_size": 3e-3 / NBETA, "localization": NBETA}
    plain, *others = (_estimate(factor, **settings) for factor in (1.0, 0.5, 2.0))
    for other in others:
        assert abs(other.llc - plain.llc) < 2 * plain.standard_error
        np.testing.assert_allclose(other.loss_trace, plain.loss_trace, rtol=0.02, atol=1e-3)


@pytest.mark.parametrize("sampler", ["sgld", "rmsprop_sgld", "sghmc"])
def test_the_other_samplers_are_not_invariant(sampler):
    """Known and documented: their localization measures in the weights' own units."""
    half, twice = (_estimate(factor, sampler=sampler, step_size=1e-4, localization=1.0) for factor in (0.5, 2.0))
    assert abs(half.llc - twice.llc) > 3 * math.hypot(half.standard_error, twice.standard_error)


def test_a_regression_has_its_closed_form():
    """Orthogonal columns of scale a_j: curvature a_j², Fisher information a_j² r² + damping, both diagonal."""
    scales = torch.tensor([1.0, 0.5, 3.0])
    inputs = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=3))).repeat(8, 1) * scales  # (64, 3)
    targets = torch.randn(64, 1, generator=torch.Generator().manual_seed(0))
    model = nn.Linear(3, 1, bias=False)
    weights = torch.linalg.lstsq(inputs, targets).solution
    with torch.no_grad():
        model.weight.copy_(weights.T)
    squares = scales**2 * (inputs @ weights - targets).square().mean()
    ratios = (scales**2 / (squares + 0.1 * squares.mean())).tolist()  # h/F
    nbeta, gamma, step = 100.0, 20.0, 2e-3
    exact = 0.0
    for ratio in ratios:
        a = nbeta * ratio + gamma
        exact += nbeta * ratio / (2 * a * (1 - step * a / 4))
    result = estimate_llc(
        model, inputs, targets, loss_fn=half_squared_error, sampler="fisher_sgld", step_size=step, localization=gamma,
        nbeta=nbeta, num_draws=4000, num_chains=8, batch_size=64,
    )  # fmt: skip
    assert abs(result.llc - exact) < 2 * result.standard_error
    assert result.standard_error < 0.05 * exact


def test_it_has_no_default_grid():
    truth = regular(4, num_samples=100)
    grid = {"step_sizes": [1e-4], "localizations": [1.0]}
    for missing in grid:
        given = {name: values for name, values in grid.items() if name != missing}
        with pytest.raises(ValueError, match=f"{missing}=None: must be given with sampler='fisher_sgld'"):
            calibrate_llc(truth.model, truth.inputs, truth.targets, sampler="fisher_sgld", **given)


def test_a_network_without_gradients_is_refused():
    truth = regular(4, num_samples=100)
    with pytest.raises(ValueError, match="sampler='fisher_sgld': network 0 has no gradient"):
        estimate_llc(truth.model, truth.inputs, truth.targets, loss_fn=truth.loss_fn, sampler="fisher_sgld")
