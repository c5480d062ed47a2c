"""The sampler that accepts or rejects: exact on every loss, with all data, and the reference for the others."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from selfmod_hf.complexity import estimate_llc, estimate_llc_many
from selfmod_hf.complexity.ground_truth import normal_crossing

from .scenarios import DUMMY, Quadratic, given_loss

NBETA, GAMMA = 300.0, 1.0
SETTINGS = {"sampler": "mala", "nbeta": NBETA, "localization": GAMMA, "num_draws": 2000, "num_burnin_steps": 500}


@pytest.mark.parametrize(
    ("a", "b"), [(1, 1), *(pytest.param(*powers, marks=pytest.mark.slow) for powers in ((1, 2), (2, 2)))]
)
def test_it_agrees_with_quadrature_on_singular_models(a, b):
    truth = normal_crossing(a, b, num_samples=4)
    result = estimate_llc(truth.model, truth.inputs, truth.targets, loss_fn=truth.loss_fn, num_chains=8, **SETTINGS)
    assert truth.posterior_mean is not None
    exact = truth.posterior_mean(NBETA, GAMMA)
    assert abs(result.llc - exact) < 3 * result.standard_error < 0.3 * exact


@pytest.mark.slow
@pytest.mark.parametrize("step", [1e-4, 3.0])
def test_it_agrees_with_the_closed_form_from_every_step_size(step):
    """Condition 10,000 and a direction without curvature. No part of the discretization is left."""
    curvatures = [0.03, 1.0, 300.0, 0.0]
    exact = sum(NBETA * h / (2 * (NBETA * h + GAMMA)) for h in curvatures)
    result = estimate_llc(Quadratic(curvatures), *DUMMY, loss_fn=given_loss, step_size=step, **SETTINGS)
    assert result.status == "ok"
    assert abs(result.llc - exact) < 3 * result.standard_error < 0.2 * exact
    assert result.acceptance_rate == pytest.approx(0.57, abs=0.08)


def test_a_step_size_is_adapted_during_the_burn_in_alone():
    """Without a burn-in a step of nearly 0 is always accepted, and the chain stays where it is."""
    settings = SETTINGS | {"num_draws": 200, "num_burnin_steps": 0, "step_size": 1e-8}
    result = estimate_llc(Quadratic([1.0]), *DUMMY, loss_fn=given_loss, **settings)
    assert result.acceptance_rate == pytest.approx(1, abs=1e-3)
    assert max(result.distance_per_chain) < 1e-2 * NBETA**-0.5


class Wall(nn.Module):
    """L(w) = w²/2 - 4e-4 log(-w), not a number where w exceeds 0. Its minimum is at -0.02, half a width away."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([-0.02]))

    def forward(self, x: Tensor) -> Tensor:
        terms = self.w.square() / 2 - 4e-4 * (-self.w).log()
        return terms.sum() + 0 * x


def test_a_proposal_without_a_finite_loss_is_rejected():
    result = estimate_llc(Wall(), *DUMMY, loss_fn=given_loss, **SETTINGS | {"num_draws": 600})
    assert torch.as_tensor(result.loss_trace).isfinite().all()
    assert 0 < result.acceptance_rate < 1


def test_several_networks_are_each_their_own():
    networks = [Quadratic([1.0, 100.0]), Quadratic([10.0, 0.1])]
    settings = SETTINGS | {"loss_fn": given_loss, "num_draws": 60, "num_burnin_steps": 30}
    for k, result in enumerate(estimate_llc_many(networks, *DUMMY, **settings)):
        alone = estimate_llc(networks[k], *DUMMY, member=k, **settings)
        assert result.loss_trace == pytest.approx(alone.loss_trace, rel=1e-3, abs=1e-9)


def test_minibatches_are_rejected_by_name():
    with pytest.raises(ValueError, match="batch_size=3: must be at least 4, all samples, with sampler='mala'"):
        estimate_llc(Quadratic([1.0]), *DUMMY, loss_fn=given_loss, sampler="mala", batch_size=3)
