"""The calibrated estimate, its status and its interval, on models of known answer."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from selfmod_hf.complexity import calibrate_llc, half_squared_error
from selfmod_hf.complexity.calibration_rounds import BUDGET, LONGER
from selfmod_hf.complexity.ground_truth import deep_linear, linear_regression, products_of_powers, softmax_regression
from selfmod_hf.errors import InputError

from .scenarios import DUMMY, Quadratic, given_loss


def calibration(curvatures: list[float], **settings):
    defaults = {"sampler": "sghmc", "nbeta": 100.0, "num_draws": 1500, "num_chains": 8}
    return calibrate_llc(Quadratic(curvatures), *DUMMY, loss_fn=given_loss, **(defaults | settings))


def test_the_pull_on_curved_directions_is_added():
    """A direction of curvature h counts as nβ h / (2 (nβ h + γ)): at γ = 20 and 40, .42 and .36 in place of 1/2."""
    found = calibration([1.0] * 6, step_sizes=[5e-3, 1e-2], localizations=[20.0, 40.0])
    cells = {row["localization"]: row for row in found.table if row["step_size"] == found.step_size}
    assert cells[20.0]["chosen"]
    assert cells[20.0]["serves"]
    assert cells[20.0]["llc"] == pytest.approx(6 * 100 / (2 * 120), rel=0.1)
    assert cells[40.0]["llc"] == pytest.approx(6 * 100 / (2 * 140), rel=0.1)
    assert found.llc == pytest.approx(3.0, rel=0.06)
    assert found.status == "ok"
    assert found.confirmed
    low, high = found.interval
    assert low <= 3.0 <= high + 0.01


def test_one_localization_is_not_identified():
    found = calibration([1.0] * 6, step_sizes=[5e-3, 1e-2], localizations=[20.0])
    assert found.status == "not_identified"
    assert not found.confirmed
    assert "no second localization" in found.reason
    assert found.interval[1] == 3.0


def test_where_no_cell_serves_the_weakest_localization_is_shown():
    found = calibration([1.0] * 6, step_sizes=[10.0, 20.0], localizations=[1.0, 2.0], num_draws=100)
    assert [row["trouble"] for row in found.table] == ["diverges"] * 4
    assert (found.step_size, found.localization) == (10.0, 1.0)
    assert math.isnan(found.llc)
    assert found.status == "diverged"
    assert found.reason.startswith("no cell serves")


def test_a_saddle_is_not_a_minimum():
    found = calibration([1.0, 1.0, -0.5], step_sizes=[2e-3, 4e-3], localizations=[60.0, 80.0])
    assert found.status == "not_at_minimum"


@pytest.mark.parametrize("seed", [0, 1])
def test_an_interval_reaches_as_far_up_as_the_loss_is_lower_near_w(seed):
    """λ = 5. The loss of w* is .41 nats above its minimum, which is less than a status rule asks for."""
    truth = linear_regression(10, noise=1.0, num_samples=2000)
    nbeta = 2000 / math.log(2000)
    away = torch.zeros(1, 10)
    away[0, 0] = math.sqrt(2 * 0.41 / (nbeta * float(truth.inputs[:, 0].square().mean())))
    weight = next(iter(truth.model.parameters()))
    weight.data += away
    found = calibrate_llc(
        truth.model, truth.inputs, truth.targets, loss_fn=truth.loss_fn, num_draws=400, seed=seed, batch_size=2000
    )
    assert found.status == "ok"
    assert found.result.biases.not_at_minimum == pytest.approx(0.41, rel=0.1)
    assert found.interval[0] <= 5 <= found.interval[1]


def test_an_estimate_above_the_bound_does_not_hide_that_w_is_no_minimum():
    model = Kinks(1.5)
    with torch.no_grad():
        model.w[0] = 0.05  # 1.1 nats
    found = calibrate_llc(
        model, *DUMMY, loss_fn=given_loss, nbeta=100.0, num_draws=1500, num_chains=8, sampler="sghmc",
        step_sizes=[1e-3, 2e-3], localizations=[1.0, 2.0],
    )  # fmt: skip
    assert found.status == "not_at_minimum"
    assert "near w* nβ L is lower by" in found.reason


class Casts(nn.Module):
    """A linear model that reads its inputs as float32, whatever they are."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 1, bias=False)
        nn.init.zeros_(self.layer.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x.float())


def test_a_network_that_does_not_compute_in_float64_has_no_curvatures_and_says_so():
    inputs = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    settings = {"step_sizes": [1e-3], "localizations": [1.0, 2.0], "num_draws": 40, "nbeta": 10.0}
    found = calibrate_llc(Casts(), inputs, torch.zeros(50, 1), loss_fn=half_squared_error, **settings)
    assert found.note.startswith("no curvatures at w* in float64: ")
    assert math.isfinite(found.llc)


def test_the_rounds_stay_within_the_budget():
    found = calibration([2.0, 0.5, 0.0], num_draws=100, num_chains=2)
    draws = sum(result.settings.num_draws for result in found.results)
    assert draws <= (BUDGET + LONGER) * 100
    assert found.rounds == max(row["round"] for row in found.table)
    assert found.rounds >= 2


def test_the_burn_in_of_the_user_is_a_share_of_each_round():
    found = calibration([2.0, 0.5], num_draws=200, num_chains=2, num_burnin_steps=50)
    for result in found.results:
        assert result.settings.num_burnin_steps == result.settings.num_draws // 4


def test_minibatch_noise_is_taken_out():
    """Unit noise heats a step of .04 over the curvature by 60 % without a control variate."""
    truth = linear_regression(8, num_samples=4000, seed=1)
    found = calibrate_llc(
        truth.model, truth.inputs, truth.targets, loss_fn=truth.loss_fn, num_draws=500, batch_size=256
    )
    assert found.status == "ok"
    assert found.llc == pytest.approx(4.0, rel=0.06)
    low, high = found.interval
    assert low <= 4.0 <= high + 0.02


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [512, 4000])
def test_a_classifier_with_sampled_labels(batch_size):
    truth = softmax_regression(6, 4, num_samples=4000, redundant=True, seed=3)
    found = calibrate_llc(
        truth.model, truth.inputs, truth.targets, loss_fn=truth.loss_fn, num_draws=1000, batch_size=batch_size
    )
    assert found.status == "ok"
    assert found.llc == pytest.approx(truth.learning_coefficient, rel=0.06)


@pytest.mark.slow
@pytest.mark.parametrize("condition", [1e2, 1e4])
def test_correlated_inputs(condition):
    truth = linear_regression(20, num_samples=4000, condition=condition, seed=5)
    found = calibrate_llc(truth.model, truth.inputs, truth.targets, loss_fn=truth.loss_fn, num_draws=1000)
    assert found.interval[0] <= 10.0 <= found.interval[1] + 0.05
    if found.status == "ok":
        assert found.llc == pytest.approx(10.0, rel=0.1)


@pytest.mark.slow
def test_a_singular_network():
    truth = deep_linear([8, 6, 5], 3, num_samples=4000)
    found = calibrate_llc(truth.model, truth.inputs, truth.targets, loss_fn=truth.loss_fn, num_draws=1500)
    assert found.status == "ok"
    assert found.llc == pytest.approx(truth.truth(found.result.nbeta), rel=0.08)


@pytest.mark.parametrize("name", ["step_size", "localization"])
def test_a_setting_that_is_chosen_cannot_be_given(name):
    message = f"^{name}=1.0: must be left out: it is chosen from `{name}s`$"
    with pytest.raises(ValueError, match=message):
        calibration([1.0], **{name: 1.0})


def test_a_target_for_the_error_is_rejected():
    """The rounds have a budget of draws. A target made each cell draw up to eight times its share of it."""
    message = r"^target_standard_error=0\.5: must be left out of a calibration"
    with pytest.raises(ValueError, match=message):
        calibration([1.0], target_standard_error=0.5)


def test_heating_that_few_draws_do_not_measure_is_foretold():
    """Few draws at a small batch: without the foretold heating, the estimate is 11 % too high."""
    truth = linear_regression(10, num_samples=1000, seed=0)
    found = calibrate_llc(
        truth.model, truth.inputs, truth.targets, loss_fn=truth.loss_fn, num_draws=200, batch_size=100
    )
    low, high = found.interval
    assert low <= 5.0
    assert high <= 5.0
    assert found.llc == pytest.approx(5.0, rel=0.09)


def test_one_chain_does_not_serve():
    found = calibration([1.0] * 6, step_sizes=[5e-3, 1e-2], localizations=[20.0, 40.0], num_chains=1)
    assert "one chain" in {row["trouble"] for row in found.table}
    assert not any(row["serves"] for row in found.table)
    assert found.status == "not_converged"


def test_chains_that_have_not_spread_do_not_serve():
    """The estimates are steady, but six flat directions beside two steep ones are only begun to be filled."""
    settings = {"step_sizes": [5e-4, 1e-3], "localizations": [0.05, 0.2], "num_draws": 1000}
    found = calibration([1.0] * 2 + [0.0003] * 6, **settings)
    assert [row["trouble"] for row in found.table[:2]] == ["not spread"] * 2
    assert found.status == "not_identified"
    assert found.localization == 0.2


def test_the_chains_of_a_round_begin_where_those_before_ended():
    found = calibration([2.0, 0.5], num_draws=200, num_chains=2, num_burnin_steps=0)
    for row, result in zip(found.table, found.results, strict=True):
        first = result.llc_trace()[:, 0]
        assert (first == 0).all() == (row["round"] == 1)
        assert result.settings.member == row["round"] - 1  # new noise in each round
        assert result.settings.start == ("w*" if row["round"] == 1 else "earlier rounds")
    assert found.results[0].settings.keywords(found.result.nbeta)["num_draws"] == 100
    with pytest.raises(InputError, match=r"^start='earlier rounds': must be .* so calibrate again$"):
        found.results[-1].settings.keywords(found.result.nbeta)


def test_the_momentum_grows_with_the_time_that_a_direction_takes():
    """Curvatures of one size need no more than .9. Two flat directions beside steep ones are slow at first."""
    even = calibration([1.0] * 6, num_draws=400)
    assert {result.settings.options["momentum"] for result in even.results} == {0.9}
    uneven = calibration([1.0] * 2 + [1e-4] * 6, num_draws=400, nbeta=1e4)
    assert uneven.results[0].settings.options["momentum"] == 0.9
    assert uneven.results[-1].settings.options["momentum"] > 0.92


def test_a_momentum_of_the_user_stays():
    found = calibration([1.0] * 2 + [1e-4] * 6, num_draws=200, nbeta=1e4, sampler_options={"momentum": 0.8})
    assert {result.settings.options["momentum"] for result in found.results} == {0.8}


def test_more_draws_are_taken_where_the_cells_do_not_agree():
    few = {"num_draws": 60, "num_chains": 2, "batch_size": 500}
    truth = products_of_powers([(1, 1), (2, 2)], num_samples=2000)
    found = calibrate_llc(truth.model, truth.inputs, truth.targets, loss_fn=truth.loss_fn, **few)
    draws = sum(result.settings.num_draws for result in found.results)
    assert draws > BUDGET * 60


class Well(nn.Module):
    """L(w) = (w² - 1)², whatever the input: curvature 8 at the minimum 1, and .32 at the start .6."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([0.6]))

    def forward(self, x):
        return (self.w.square() - 1).square() + 0 * x


def test_minimize_brings_the_curvatures_to_the_minimum_too():
    """nβ h is 800 there, of which γ = 100 and 200 take 1/9 and 1/5."""
    settings = {"nbeta": 100.0, "num_draws": 2000, "num_chains": 8, "sampler": "sghmc"}
    grid = {"step_sizes": [1e-4, 2e-4], "localizations": [100.0, 200.0]}
    found = calibrate_llc(Well(), *DUMMY, loss_fn=given_loss, minimize=True, **settings, **grid)
    assert found.result.moved_by == pytest.approx(0.4, abs=1e-3)
    assert found.result.settings.minimize
    assert found.llc == pytest.approx(0.5, rel=0.08)
    low, high = found.interval
    assert low <= 0.5 <= high + 0.01


class Kinks(nn.Module):
    """L(w) = the sum of |w|^p of six weights. Each has a λ of 1/p, which is above 1/2 for p below 2."""

    def __init__(self, power: float) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(6))
        self.power = power

    def forward(self, x):
        return self.w.abs().pow(self.power).sum() + 0 * x


@pytest.mark.parametrize(("power", "status"), [(1.5, "biased"), (1.97, "ok")])
def test_an_estimate_above_half_of_the_parameters_by_three_errors_is_biased(power, status):
    settings = {"nbeta": 100.0, "num_draws": 1500, "num_chains": 8, "sampler": "sghmc"}
    grid = {"step_sizes": [1e-3, 2e-3], "localizations": [1.0, 2.0]}
    found = calibrate_llc(Kinks(power), *DUMMY, loss_fn=given_loss, **settings, **grid)
    assert found.llc == pytest.approx(6 / power, rel=0.05)
    assert found.status == status
    assert found.interval[1] <= 3.0


@pytest.mark.parametrize("sampler", ["preconditioned", "sghmc"])
def test_chains_in_a_loop_are_calibrated(sampler):
    settings = {"vectorize": False, "num_draws": 10, "num_chains": 2, "nbeta": 100.0, "loss_fn": given_loss}
    if sampler == "preconditioned":
        settings["sampler"] = sampler
    found = calibrate_llc(Quadratic([2.0, 0.5]), *DUMMY, **settings)
    assert {row["sampler"] for row in found.table} == {sampler}


def test_a_trial_that_does_not_fit_into_the_memory_budget_is_left_out(monkeypatch):
    monkeypatch.setattr("selfmod_hf.complexity.preconditioner.MOST_DENSE", 1)
    few = {"loss_fn": given_loss, "nbeta": 100.0, "num_draws": 40, "num_chains": 2}
    found = calibrate_llc(Quadratic([2.0, 0.5]), *DUMMY, memory_budget=3000, **few)
    assert {row["sampler"] for row in found.table} == {"sghmc"}
    note = "no trial of 'preconditioned': its preconditioner takes 3088 bytes, above memory_budget=3000"
    assert (found.note, found.summary().splitlines()[-1]) == (note, note)


def test_a_calibration_in_bfloat16_has_no_trial_and_its_curvatures_are_known():
    inputs = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    model = nn.Linear(3, 1, bias=False)
    settings = {"loss_fn": half_squared_error, "num_draws": 40, "num_chains": 2, "dtype": torch.bfloat16}
    found = calibrate_llc(model, inputs, model(inputs).detach(), **settings)
    assert {row["sampler"] for row in found.table} == {"sghmc"}
    assert found.result.settings.compute_dtype == "bfloat16"
    assert found.note == "no trial of 'preconditioned': it does not take dtype=torch.bfloat16"


def test_no_round_follows_one_that_knows_that_w_is_no_minimum():
    """Chains from .6 fall to the minimum at 1, below the loss at .6."""
    found = calibrate_llc(Well(), *DUMMY, loss_fn=given_loss, nbeta=1000.0, num_draws=400)
    assert found.status == "not_at_minimum"
    assert found.rounds == 1


def test_progress_counts_the_steps_of_all_rounds():
    calls = []
    found = calibration([2.0, 0.5, 0.0], num_draws=100, num_chains=2, progress=lambda *counts: calls.append(counts))
    steps = 2 * sum(result.settings.num_draws for result in found.results)
    assert calls[0] == (0, 2 * BUDGET * 100)  # before any work
    assert calls[-1] == (steps, steps)
    done = [each for each, _ in calls]
    assert done == sorted(done)
    assert all(each < total for each, total in calls[:-1])


def test_curvatures_are_those_of_samples_at_random(monkeypatch):
    """Data that are sorted: the first half of the samples does not see half of the inputs."""
    monkeypatch.setattr("selfmod_hf.complexity.calibration.LEAST_SAMPLES", 64)
    monkeypatch.setattr("selfmod_hf.complexity.calibration.SHARE_OF_CHAINS", 0.0)
    inputs = torch.zeros(128, 4)
    inputs[:64, :2] = 2 * torch.eye(2).repeat(32, 1)
    inputs[64:, 2:] = 2 * torch.eye(2).repeat(32, 1)
    model = nn.Linear(4, 1, bias=False)
    settings = {"nbeta": 100.0, "num_draws": 1000, "num_chains": 8, "sampler": "sghmc", "loss_fn": half_squared_error}
    grid = {"step_sizes": [5e-3, 1e-2], "localizations": [20.0, 40.0]}
    found = calibrate_llc(model, inputs, model(inputs).detach(), **settings, **grid)
    assert found.llc == pytest.approx(2.0, rel=0.06)
