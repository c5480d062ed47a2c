"""The preconditioner of a network, and the sampler that takes it: right where a plain chain has not arrived."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor, nn

from selfmod_hf.complexity import LLCResult, estimate_llc, estimate_llc_many
from selfmod_hf.complexity.preconditioner import (
    Curvatures,
    Preconditioners,
    bytes_of_preconditioner,
    measure_curvatures,
)
from selfmod_hf.complexity.prepare import make_problem
from selfmod_hf.complexity.problem import Problem
from selfmod_hf.complexity.settings import LLCSettings

from .scenarios import DUMMY, Quadratic, given_loss

NBETA, GAMMA = 1000.0, 1.0
FEW = {"loss_fn": given_loss, "nbeta": NBETA, "localization": GAMMA, "num_draws": 2000, "num_burnin_steps": 200}
CURVATURES = [1e-2, 1e-1, 1.0, 10.0, 100.0]  # of condition 10,000


class Powers(nn.Module):
    """L(w) = sum_i w_i^(2 k_i), whatever the input."""

    def __init__(self, powers: list[int]) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(len(powers)))
        self.powers = powers

    def forward(self, x: Tensor) -> Tensor:
        terms = [self.w[i] ** (2 * power) for i, power in enumerate(self.powers)]
        return torch.stack(terms).sum() + 0 * x


class Rotated(nn.Module):
    """A quadratic of these curvatures in directions that are no axes."""

    def __init__(self, curvatures: list[float]) -> None:
        super().__init__()
        size = len(curvatures)
        self.w = nn.Parameter(torch.zeros(size))
        generator = torch.Generator().manual_seed(0)
        directions, _ = torch.linalg.qr(torch.randn(size, size, generator=generator))
        self.register_buffer("root", torch.tensor(curvatures).sqrt() * directions)

    def forward(self, x: Tensor) -> Tensor:
        return (self.w @ self.root).square().sum() / 2 + 0 * x


def exact(curvatures: list[float]) -> float:
    """Each direction of a quadratic loss adds nβ h / (2 (nβ h + γ)), with BAOAB at any step."""
    return sum(NBETA * h / (2 * (NBETA * h + GAMMA)) for h in curvatures)


def problem_of(model: nn.Module) -> Problem:
    return make_problem([model], *DUMMY, LLCSettings(loss_fn=given_loss))


def test_f_of_a_quadratic_is_its_hessian_and_the_widths_are_the_posteriors():
    model = Rotated(CURVATURES)
    found = measure_curvatures(problem_of(model), 0, NBETA, seed=0)
    matrix = found.directions * found.values @ found.directions.T
    hessian = model.root @ model.root.T
    torch.testing.assert_close(matrix, hessian.double(), rtol=1e-4, atol=1e-3)
    preconditioner = Preconditioners(problem_of(model), seed=0).of([(0, NBETA, GAMMA)])[0, NBETA, GAMMA]
    root = preconditioner.directions[0] * preconditioner.widths
    covariance = torch.linalg.inv(NBETA * hessian + GAMMA * torch.eye(5))
    torch.testing.assert_close(root @ root.T, covariance, rtol=1e-2, atol=1e-4)


def test_a_direction_whose_curvature_grows_has_its_own_width():
    """Under exp(-nβ w⁴) the nearest normal distribution has 1/s² = nβ E[12 w²] = 12 nβ s²."""
    found = measure_curvatures(problem_of(Powers([1, 2])), 0, NBETA, seed=0)
    widths, _ = found.preconditioner(NBETA, 1e-4 * NBETA).widths[0].sort()
    assert float(widths[0]) == pytest.approx((2 * NBETA) ** -0.5, rel=0.01)
    assert float(widths[1]) == pytest.approx((12 * NBETA) ** -0.25, rel=0.4)  # of few points


def test_above_the_limit_the_stiffest_directions_and_one_number_for_the_others(monkeypatch):
    monkeypatch.setattr("selfmod_hf.complexity.preconditioner.MOST_DENSE", 10)
    monkeypatch.setattr("selfmod_hf.complexity.preconditioner.DIRECTIONS", 4)
    curvatures = [100.0, 10.0, 3.0, 1.0, *[0.5] * 8]
    model = Rotated(curvatures)
    found = measure_curvatures(problem_of(model), 0, NBETA, seed=0)
    assert found.values.sort(descending=True)[0].tolist() == pytest.approx(curvatures[:4], rel=1e-2)
    assert found.others == pytest.approx(1.0, rel=1e-2)
    result = estimate_llc(model, *DUMMY, sampler="preconditioned", step_size=0.1, **FEW)
    assert abs(result.llc - exact(curvatures)) < 3 * result.standard_error < 0.3
    assert result.settings.directions is None


def test_a_preconditioner_has_as_many_directions_as_fit_into_the_memory_budget(monkeypatch, tmp_path):
    monkeypatch.setattr("selfmod_hf.complexity.preconditioner.MOST_DENSE", 10)
    monkeypatch.setattr("selfmod_hf.complexity.preconditioner.DIRECTIONS", 4)
    model = Rotated([100.0, 10.0, *[0.5] * 10])
    budget = bytes_of_preconditioner(12, 2)
    few = FEW | {"num_draws": 400}
    result = estimate_llc(model, *DUMMY, sampler="preconditioned", step_size=0.1, memory_budget=budget, **few)
    assert result.settings.directions == 2
    assert LLCResult.load(result.save(tmp_path / "rlct.json")).settings == result.settings


def test_a_root_and_its_transpose():
    """<A u, g> = <u, Aᵀ g>, and the symmetric root is the matrix root of G."""
    generator = torch.Generator().manual_seed(0)
    directions, _ = torch.linalg.qr(torch.randn(6, 6, generator=generator, dtype=torch.float64))
    values = torch.tensor([9.0, 4.0, 1.0, 1.0, 1.0, 1.0], dtype=torch.float64)
    rows = torch.randn(2, 6, generator=generator, dtype=torch.float64)
    complete = Curvatures(directions, values).preconditioner(1.0, 0.5)
    few = Curvatures(directions[:, :2], values[:2], others=1.0).preconditioner(1.0, 0.5)
    for preconditioner in (complete, few):
        forward = preconditioner.to_weights(rows) @ rows.T
        torch.testing.assert_close(forward, rows @ preconditioner.of_gradient(rows).T)
        root = preconditioner.to_weights(torch.eye(6, dtype=torch.float64)).T
        inverse = directions * (values + 0.5) @ directions.T
        torch.testing.assert_close(root @ root.T @ inverse, torch.eye(6, dtype=torch.float64))


@pytest.mark.parametrize("network", [Quadratic, Rotated])
def test_right_in_draws_in_which_a_plain_chain_does_not_arrive(network):
    """Condition 10,000, and two directions without curvature that γ alone holds."""
    curvatures = [*CURVATURES, 0.0, 0.0]
    result = estimate_llc(network(curvatures), *DUMMY, sampler="preconditioned", step_size=0.1, **FEW)
    truth = exact(curvatures)
    assert result.status == "ok"
    assert abs(result.llc - truth) < 3 * result.standard_error < 0.1 * truth
    assert max(result.distance_per_chain) > 0.5  # of sqrt(2/γ) for the flat directions
    step = 0.1 / (NBETA * max(curvatures))  # the same share of the largest curvature
    plain = estimate_llc(network(curvatures), *DUMMY, sampler="sghmc", step_size=step, **FEW)
    assert plain.llc < truth - 3 * result.standard_error


def test_several_networks_and_localizations_are_each_their_own():
    """A network of a stack has the numbers of its run alone, with its own preconditioner."""
    networks = [Rotated([1e-2, 100.0]), Rotated([10.0, 0.1])]
    settings = {**FEW, "sampler": "preconditioned", "step_size": 0.05, "num_draws": 50, "num_burnin_steps": 10}
    for k, result in enumerate(estimate_llc_many(networks, *DUMMY, **settings)):
        alone = estimate_llc(networks[k], *DUMMY, member=k, **settings)
        assert result.loss_trace == pytest.approx(alone.loss_trace, rel=1e-4, abs=1e-9)


def test_what_it_does_not_take_is_rejected_by_name():
    estimate = functools.partial(estimate_llc, Quadratic([1.0]), *DUMMY, loss_fn=given_loss, sampler="preconditioned")
    with pytest.raises(ValueError, match=r"step_size=0.0001: must be from 0.001 to 1 with sampler='preconditioned'"):
        estimate()
    with pytest.raises(ValueError, match=r"dtype=torch.bfloat16: must be .* with sampler='preconditioned'"):
        estimate(step_size=0.1, dtype=torch.bfloat16)
