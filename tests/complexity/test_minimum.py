"""The search for a lower loss near w*, and estimates from the minimum."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from selfmod_hf.complexity import LLCResult, calibrate_llc, estimate_llc, half_squared_error
from selfmod_hf.complexity.minimum import Descent
from selfmod_hf.complexity.prepare import make_problem
from selfmod_hf.complexity.settings import LLCSettings

from .scenarios import digits, trained_digits_net
from .test_biases import NBETA, regression

SETTINGS = {"step_size": 2e-4, "localization": 10.0, "num_draws": 2000, "batch_size": 256}


@pytest.mark.parametrize("gamma", [0.0, 50.0])
def test_the_minimum_of_a_quadratic_is_found(gamma):
    """The optimum with a pull of γ is (A + γ)⁻¹ A of the way."""
    model, inputs, targets, _ = regression()
    solution = model.weight.detach().double().clone()
    model.weight.data += 0.1
    problem = make_problem([model], inputs, targets, LLCSettings(loss_fn=half_squared_error))
    found = Descent(problem, 0, nbeta=NBETA, localization=gamma).lower(100)
    hessian = NBETA * inputs.double().T @ inputs.double() / len(inputs)
    pulled = hessian + gamma * torch.eye(20, dtype=torch.float64)
    moved = torch.linalg.solve(pulled, hessian @ torch.full((20,), -0.1, dtype=torch.float64))
    expected = solution[0] + 0.1 + moved
    torch.testing.assert_close(found.position, expected, atol=1e-4, rtol=0)
    rest = expected - solution[0]
    lowered = (0.01 * hessian.sum() - rest @ hessian @ rest) / 2
    assert found.lowered == pytest.approx(float(lowered), rel=1e-3)
    assert found.distance == pytest.approx(float(moved.norm()), rel=1e-3)


def test_a_minimum_is_not_lowered():
    model, inputs, targets, _ = regression()
    problem = make_problem([model], inputs, targets, LLCSettings(loss_fn=half_squared_error))
    found = Descent(problem, 0, nbeta=NBETA, localization=1.0).lower(30)
    assert found.lowered < 1e-3
    assert found.evaluations < 30


def _trained(epochs: int, weight_decay: float = 0.0) -> nn.Sequential:
    """A classifier of digits trained with SGD."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=weight_decay)
    inputs, targets = digits()
    for _ in range(epochs):
        for index in torch.randperm(len(targets)).split(64):
            optimizer.zero_grad()
            F.cross_entropy(net(inputs[index]), targets[index]).backward()
            optimizer.step()
    return net


@pytest.mark.parametrize("training", [{"epochs": 2}, {"epochs": 30, "weight_decay": 0.03}])
def test_a_network_that_is_no_minimum_is_named(training):
    """Two epochs, or strong weight decay: the loss near w* is far lower."""
    result = estimate_llc(_trained(**training), *digits(), **SETTINGS)
    assert result.biases.not_at_minimum > 0.1 * result.llc
    assert result.status == "not_at_minimum"


class Saddle(nn.Module):
    """40 directions of a regression and a product of two weights, which is 0 at the saddle where both are."""

    def __init__(self, product: float = 0.0) -> None:
        super().__init__()
        self.linear = nn.Linear(40, 1, bias=False)
        nn.init.zeros_(self.linear.weight)
        self.factors = nn.Parameter(torch.full((2,), product**0.5))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.linear(inputs), self.factors.prod().expand(len(inputs), 1)], dim=1)


def saddle(height: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Data that lower the loss from the saddle to the minimum by height² / 2."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2000, 40, generator=generator), torch.tensor([0.0, height]).repeat(2000, 1)


@pytest.mark.parametrize("height", [0.2, 0.3])
def test_a_saddle_without_a_gradient_is_named(height):
    """λ is 20.5. The other directions make the estimate positive, so that no other rule sees it."""
    settings = {"loss_fn": half_squared_error, "sampler": "sghmc", "step_size": 8e-5, "nbeta": 263.0}
    settings |= {"localization": 1.0, "batch_size": 256, "num_draws": 1500}
    result = estimate_llc(Saddle(), *saddle(height), **settings)
    assert 0 < result.llc < 17
    assert result.status == "not_at_minimum"
    assert "is lower by" in result.status_reason
    result = estimate_llc(Saddle(height), *saddle(height), **settings)
    assert result.biases.not_at_minimum < 0.01
    assert result.status == "ok"


def test_the_minimum_below_a_saddle_is_found():
    problem = make_problem([Saddle()], *saddle(0.2), LLCSettings(loss_fn=half_squared_error))
    descent = Descent(problem, 0, nbeta=263.0, localization=1.0)
    assert descent.lower(100).lowered == 0  # no gradient
    settings = {"loss_fn": half_squared_error, "minimize": True, "num_draws": 400}
    result = calibrate_llc(Saddle(), *saddle(0.2), **settings)
    assert result.result.lowered_by == pytest.approx(263.0 * 0.2**2 / 2, rel=0.01)
    assert result.interval[0] < 20.5 < result.interval[1]
    assert result.status == "ok"


def test_a_small_estimate_away_from_its_minimum_is_named():
    """λ is 1/2 and w* is 0.24 nats above the minimum, so that about half of the estimate is missing."""
    model, inputs, targets, curvatures = regression(dimension=1)
    model.weight.data += math.sqrt(2 * 0.24 / float(curvatures[0]))
    result = estimate_llc(
        model, inputs, targets, loss_fn=half_squared_error, step_size=0.05 / float(curvatures[0]), localization=1.0,
        num_draws=4000, batch_size=1000,
    )  # fmt: skip
    assert result.biases.not_at_minimum == pytest.approx(0.24, rel=0.05)
    assert result.status == "not_at_minimum"
    low, high = result.interval
    assert low < 0.5 < high


def _moved_and_minimized() -> tuple[LLCResult, LLCResult, LLCResult]:
    """Estimates of a regression: at its minimum, away from it, and from there with `minimize`."""
    results = []
    for shift, minimize in ((0.0, False), (0.1, False), (0.1, True)):
        model, inputs, targets, _ = regression()
        model.weight.data += shift
        result = estimate_llc(
            model, inputs, targets, loss_fn=half_squared_error, step_size=5e-4, localization=1.0, num_draws=2000,
            minimize=minimize,
        )  # fmt: skip
        results.append(result)
    return results[0], results[1], results[2]


@pytest.mark.slow
def test_minimize_starts_from_the_minimum_and_says_how_far_it_is(tmp_path):
    at_minimum, moved, minimized = _moved_and_minimized()
    assert moved.status == "not_at_minimum"
    assert at_minimum.lowered_by is None
    assert minimized.status == "ok"
    assert minimized.llc == pytest.approx(at_minimum.llc, rel=0.02)
    assert minimized.init_loss == pytest.approx(at_minimum.init_loss, abs=1e-4)
    assert minimized.lowered_by == pytest.approx(NBETA * (moved.init_loss - minimized.init_loss), rel=0.01)
    assert minimized.moved_by == pytest.approx(0.1 * math.sqrt(20), rel=0.05)
    assert minimized.settings.minimize
    assert minimized.settings.keywords(NBETA)["minimize"]
    again = LLCResult.load(minimized.save(tmp_path / "rlct.json"))
    assert (again.lowered_by, again.moved_by) == (minimized.lowered_by, minimized.moved_by)
    assert "lower" in minimized.summary()


def test_minimize_reaches_the_minimum_against_the_pull():
    """At γ near nβ h one search goes about half of the way, and the chains would go on from there."""
    model, inputs, targets, _ = regression()
    with torch.no_grad():
        lowest = half_squared_error(model(inputs), targets).mean()
        model.weight += 0.3
        away = half_squared_error(model(inputs), targets).mean()
    result = estimate_llc(
        model, inputs, targets, loss_fn=half_squared_error, step_size=2e-4, localization=100.0, num_draws=60,
        minimize=True,
    )  # fmt: skip
    assert result.lowered_by == pytest.approx(NBETA * float(away - lowest), abs=0.1)
    assert result.biases.not_at_minimum < 0.1


def _away_in_flat_directions(steep: int) -> tuple[nn.Linear, torch.Tensor, torch.Tensor]:
    """5 directions are a thousand times flatter than the others, and w* is away from the minimum in them."""
    generator = torch.Generator().manual_seed(0)
    scales = torch.tensor([1.0] * steep + [0.03] * 5)
    inputs = scales * torch.randn(4000, steep + 5, generator=generator, dtype=torch.float64)
    targets = inputs.sum(1, keepdim=True) + torch.randn(4000, 1, generator=generator, dtype=torch.float64)
    model = nn.Linear(steep + 5, 1, bias=False).double()
    model.weight.data = torch.linalg.lstsq(inputs, targets).solution.T.contiguous()
    model.weight.data[0, steep:] += torch.tensor([2.0, -2.0, 2.0, -2.0, 2.0])
    return model, inputs, targets


def test_the_search_goes_on_while_the_loss_falls():
    model, inputs, targets = _away_in_flat_directions(15)
    result = estimate_llc(
        model, inputs, targets, loss_fn=half_squared_error, step_size=1e-4, localization=0.01, num_draws=200,
        batch_size=64,
    )  # fmt: skip
    nbeta = 4000 / math.log(4000)
    moved = inputs[:, 15:] @ torch.tensor([2.0, -2.0, 2.0, -2.0, 2.0], dtype=torch.float64)
    above = nbeta * float(moved.square().mean()) / 2
    assert above > 3
    assert result.status == "not_at_minimum"
    assert result.biases.not_at_minimum > 0.1 * result.llc  # the search ends there


@pytest.mark.parametrize("wild", [0.009, 0.1])
def test_a_wild_cell_does_not_end_the_search_of_the_others(wild):
    """Its chains are at 1e30 or at infinity. Its size decided how long a search pays."""
    model, inputs, targets = _away_in_flat_directions(35)
    found = []
    for step_sizes in ([1e-4], [1e-4, wild]):
        calibration = calibrate_llc(
            model, inputs, targets, loss_fn=half_squared_error, step_sizes=step_sizes, localizations=[0.01],
            num_draws=200, batch_size=64, sampler="sgld",
        )  # fmt: skip
        found.append(calibration.results[0])
    alone, beside = found
    assert alone.status == beside.status == "not_at_minimum"
    assert beside.biases.not_at_minimum == pytest.approx(alone.biases.not_at_minimum)


@pytest.mark.slow
def test_a_good_network_stays_ok():
    """Trained to its end. Its minimum is no lower than a tenth of the estimate."""
    result = estimate_llc(trained_digits_net(2000), *digits(), **SETTINGS)
    assert result.biases.not_at_minimum < 0.05 * result.llc
    assert result.status != "not_at_minimum"
