"""Each status on real data: a network that never learned, a wild step, too few draws, and a good run."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from selfmod_hf.complexity import Biases, estimate_llc, half_squared_error, llc_preset
from selfmod_hf.complexity.diagnostics import effective_sample_size, outlying_chains, standard_error
from selfmod_hf.complexity.status import Facts, diverged_chains, judge

from .scenarios import DUMMY, Quadratic, digits, given_loss, trained_digits_net

NBETA = 64 / math.log(64)


def test_an_untrained_network_is_not_at_a_minimum():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))
    result = estimate_llc(net, *digits(), step_size=1e-3, localization=10.0, nbeta=200.0, num_draws=300)
    assert result.status == "not_at_minimum"
    assert result.llc < 0


def test_a_wild_step_diverges_and_names_its_chains():
    result = estimate_llc(trained_digits_net(), *digits(), step_size=1.0, nbeta=NBETA, num_draws=300)
    assert result.status == "diverged"
    assert result.diverged_chains == (0, 1, 2, 3)
    assert math.isnan(result.llc)
    assert result.to_dict()["llc"] is None


def test_chains_that_are_far_and_finite_have_diverged_too():
    """SGLD shortly before its limit: each direction counts as 13 in place of 1/2."""
    curvature, nbeta = 101.0, 100.0
    result = estimate_llc(
        Quadratic([1.0] * 50), *DUMMY, loss_fn=given_loss, step_size=3.85 / curvature, localization=1.0, nbeta=nbeta,
        num_draws=200,
    )  # fmt: skip
    assert np.isfinite(result.loss_trace).all()
    assert result.llc_per_chain.min() > 4 * 50
    assert (result.status, result.diverged_chains) == ("diverged", (0, 1, 2, 3))
    assert math.isnan(result.llc)
    assert math.isnan(result.standard_error)


def test_a_short_run_is_not_converged():
    result = estimate_llc(trained_digits_net(), *digits(), step_size=1e-5, nbeta=NBETA, num_draws=200)
    assert result.status == "not_converged"


def test_ten_draws_are_too_few():
    result = estimate_llc(trained_digits_net(), *digits(), step_size=1e-3, nbeta=NBETA, num_draws=10)
    assert result.status == "not_converged"


def test_a_plateau_is_ok():
    """For the comparison of networks. As an estimate of λ it is far too low, because of the pull."""
    settings = llc_preset("paper", "digits", num_draws=4000)
    result = estimate_llc(trained_digits_net(), *digits(), **settings)
    assert result.status == "ok"
    assert "not λ" in result.summary()
    assert estimate_llc(trained_digits_net(), *digits(), **settings | {"preset": None}).status == "biased"
    assert result.llc > 0
    assert result.acceptance_rate == pytest.approx(0.9, abs=0.15)
    assert result.rhat < 1.1
    assert result.ess > 50


def _stationary(correlation_time: float, spread: float, seed: int, repeats: int) -> np.ndarray:
    """(repeats, 4, 1000): traces around 30 without any trend, of autocorrelation exp(-t / correlation_time)."""
    rng = np.random.default_rng(seed)
    rho = math.exp(-1 / correlation_time)
    noise = rng.standard_normal((1000, repeats, 4))
    noise[1:] *= math.sqrt(1 - rho**2)
    for t in range(1, 1000):
        noise[t] += rho * noise[t - 1]
    return 30 * (1 + spread * noise.transpose(1, 2, 0))


@pytest.mark.parametrize("correlation_time", [5, 50, 200, 500])
@pytest.mark.parametrize("spread", [0.03, 0.1, 0.3])
def test_a_plateau_is_seldom_called_a_trend(correlation_time, spread):
    """Also where draws are correlated over longer than the thirds that are compared."""
    verdicts = [judge(Facts(trace, 500)) for trace in _stationary(correlation_time, spread, 0, 300)]
    statuses = [status for status, _ in verdicts]
    assert statuses.count("not_at_minimum") <= 0.01 * len(statuses)
    moving = [reason for _, reason in verdicts if "the trace still" in reason]
    if spread < 0.3:
        assert len(moving) <= 0.02 * len(statuses)
    if correlation_time == 5:
        assert statuses.count("ok") >= 0.97 * len(statuses)


@pytest.mark.parametrize(("slope", "status"), [(-0.4, "not_at_minimum"), (0.4, "not_converged")])
def test_a_trend_is_seen(slope, status):
    """A fall, or rise, by a fifth of the estimate over the kept draws, as far as thirds show it."""
    traces = _stationary(5, 0.1, 0, 100) + 30 * slope * np.linspace(-0.75, 0.25, 1000)
    statuses = [judge(Facts(trace, 500))[0] for trace in traces]
    assert statuses.count(status) >= 95


def _noisy_regression(dimension: int = 20, num_samples: int = 1000) -> tuple[nn.Linear, torch.Tensor, torch.Tensor]:
    """Linear regression with unit noise at its least squares, λ = d/2: model, inputs, targets."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(num_samples, dimension, generator=generator)
    targets = inputs.sum(1, keepdim=True) + torch.randn(num_samples, 1, generator=generator)
    model = nn.Linear(dimension, 1, bias=False)
    solution = torch.linalg.lstsq(inputs.double(), targets.double()).solution
    model.weight.data = solution.T.float()
    return model, inputs, targets


def test_one_chain_is_never_enough():
    """It cannot disagree with another, however many draws it has."""
    trace = 30 + np.random.default_rng(0).standard_normal((1, 4000))
    status, reason = judge(Facts(trace, 2000))
    assert status == "not_converged"
    assert reason.startswith("one chain")
    settings = {"loss_fn": half_squared_error, "step_size": 1e-3, "localization": 1.0, "batch_size": 1000}
    one = estimate_llc(*_noisy_regression(), num_chains=1, num_draws=1000, **settings)
    assert one.status == "not_converged"


@pytest.mark.parametrize(
    ("settings", "remedy"),
    [
        ({"sampler": "sgld", "step_size": 7e-3}, "of the step size"),  # it has a control variate
        ({"step_size": 1e-3, "control_variate": False}, "size, or control_variate=True or larger minibatches"),
        ({"step_size": 1e-3, "paired": False}, "of the step size, or larger minibatches"),  # it cannot have one
    ],
)
def test_a_remedy_for_heating_is_one_that_is_left(settings, remedy):
    """An estimate that minibatches and the step make too high, but not higher than d/2 = 2 by three errors."""
    model, inputs, targets = _noisy_regression(4, num_samples=400)
    settings = {"sampler": "sghmc", "localization": 1.0, "batch_size": 100, "num_draws": 300} | settings
    result = estimate_llc(model, inputs, targets, loss_fn=half_squared_error, **settings)
    assert result.status == "biased"
    assert result.status_reason.startswith("minibatches and the step add about 0.")
    assert result.status_reason.endswith(remedy)


def test_an_estimate_above_half_the_parameters_is_biased():
    """Small minibatches heat it to four times its λ of 10. All chains agree on that."""
    result = estimate_llc(
        *_noisy_regression(), loss_fn=half_squared_error, sampler="sghmc", step_size=3e-4, localization=1.0,
        batch_size=16, num_draws=1000, control_variate=False,
    )  # fmt: skip
    assert 20 < result.llc < 80
    assert result.rhat < 1.1
    assert result.status == "biased"
    assert result.status_reason.endswith("exceeds d/2 = 10, which no λ does: take a smaller step size")


@pytest.mark.parametrize(("level", "status"), [(10.0, "ok"), (10.05, "ok"), (10.2, "biased")])
def test_an_estimate_may_exceed_half_the_parameters_by_chance(level, status):
    """The standard error is 1 / sqrt(2000), so the bound of 10 is exceeded by 0, 2 and 9 of them."""
    noise = np.random.default_rng(0).standard_normal((4, 500))
    assert judge(Facts(level + noise - noise.mean(), 0, num_parameters=20))[0] == status


def test_few_effective_draws_are_not_converged_whatever_their_error():
    """Draws that follow each other over 100 draws: 4 x 500 of them are 10 to 40 independent ones."""
    traces = _stationary(100, 0.01, 0, 50)
    verdicts = [judge(Facts(trace, 500)) for trace in traces]
    draws = np.array([effective_sample_size(trace[:, 500:]) for trace in traces])
    assert np.median(draws) < 40
    ok = [status == "ok" for status, _ in verdicts]
    assert not np.any(ok & (draws < 50))
    reasons = " ".join(reason for _, reason in verdicts)
    assert "effective draws, of 50 needed: keep about" in reasons
    assert "R-hat" in reasons
    assert "29.6 effective draws, of 50 needed" in reasons  # in whole numbers, 49.8 would be "50, of 50 needed"


def test_minimize_is_no_remedy_where_it_was_used():
    trace = 10 + np.random.default_rng(0).standard_normal((4, 400))
    unknown = dict.fromkeys(Biases.__dataclass_fields__, math.nan)
    biases = Biases(**unknown | {"not_at_minimum": 5.0})
    _, before = judge(Facts(trace, 200, biases=biases))
    assert before.endswith("start from the local minimum with minimize=True")
    status, after = judge(Facts(trace, 200, biases=biases, minimized=True))
    assert status == "not_at_minimum"
    assert after.endswith("take a weaker localization or train the network on")


def test_the_size_of_the_estimate_decides_nothing():
    """The same draws around 0.3, 3 and 30: the standard error of 0.05 is 17 %, 2 % and 0.2 % of the estimate."""
    noise = np.random.default_rng(0).standard_normal((4, 100))
    statuses = [judge(Facts(level + noise, 0))[0] for level in (0.3, 3.0, 30.0)]
    assert statuses == ["ok", "ok", "ok"]


def test_the_papers_presets_are_judged_by_their_sampling_alone():
    """Their localization explains the value, and a wrong sign is no estimate all the same."""
    settings = {"loss_fn": half_squared_error, **llc_preset("paper", "mnist", num_draws=4000)}
    data = _noisy_regression()
    assert estimate_llc(*data, **settings).status == "ok"
    assert estimate_llc(*data, **settings | {"preset": None}).status == "biased"


@pytest.mark.parametrize(("kept", "status"), [(19, "not_converged"), (20, "ok")])
def test_twenty_kept_draws_are_enough(kept, status):
    trace = 30 + np.random.default_rng(0).standard_normal((4, 2 * kept))
    assert judge(Facts(trace, kept))[0] == status


def test_a_chain_far_over_what_a_model_can_have_has_diverged():
    """λ is at most d/2; chains above 4 d have left the region, one that is at 3.9 d is only a bad estimate."""
    levels = np.array([0.5, 3.9, 4.1, 100.0, -100.0])
    trace = 10 * levels[:, None] * np.ones((1, 40))
    trace[0, :20] = 1e9  # during burn-in a chain may be anywhere
    assert diverged_chains(trace, num_parameters=10, burnin=20) == (2, 3)
    trace[4, 3] = np.nan  # but nowhere may it be no number
    assert diverged_chains(trace, num_parameters=10, burnin=20) == (2, 3, 4)


def test_a_steady_estimate_below_zero_is_no_minimum():
    trace = -3 + np.random.default_rng(0).standard_normal((4, 400))
    status, reason = judge(Facts(trace, 200))
    assert status == "not_at_minimum"
    assert reason.startswith("the loss falls below that of w* while sampling (llc -")


def test_chains_that_disagree_have_not_converged():
    """Around 10, 20, 30 and 40, each with a spread of 1."""
    trace = np.array([[10.0], [20.0], [30.0], [40.0]]) + np.random.default_rng(0).standard_normal((4, 1000))
    status, reason = judge(Facts(trace, 500))
    assert status == "not_converged"
    assert reason.startswith("R-hat")


def test_the_rise_is_that_from_the_first_to_the_last_third():
    """From 30 to 45 over 300 kept draws: the thirds' means are 32.5 and 42.5."""
    trace = np.tile(np.concatenate([np.zeros(100), np.linspace(30, 45, 300)]), (4, 1))
    status, reason = judge(Facts(trace, 100))
    assert status == "not_converged"
    assert reason.startswith("the trace still rises, by 10 over the kept draws")


def test_a_plateau_names_the_move_of_the_trace_and_its_error():
    """Nearly independent draws, of variance 1 in the first third and 9 in the last."""
    trace = np.random.default_rng(0).standard_normal((4, 1500))
    trace[:, -500:] *= 3
    trace += 100
    first, last = trace[:, :500], trace[:, -500:]
    status, reason = judge(Facts(trace, 0))
    assert status == "ok"
    error = math.sqrt(standard_error(first) ** 2 + standard_error(last) ** 2)
    assert error == pytest.approx(math.sqrt(10 / 2000), rel=0.15)
    assert reason.endswith(f"the trace moves by {last.mean() - first.mean():.2g} ± {error:.2g}")


@pytest.mark.parametrize("level", [-10.0, 60.0])
def test_one_chain_of_many_that_is_elsewhere_is_named(level):
    """The mean over 40 chains hides it: 29 or 30.75, with a standard error below 5 %."""
    trace = 30 + np.random.default_rng(0).standard_normal((40, 1000))
    assert judge(Facts(trace, 500))[0] == "ok"
    trace[7] += level - 30
    status, reason = judge(Facts(trace, 500))
    assert status == "not_converged"
    assert reason.startswith("chains 7 are apart from the others")


@pytest.mark.parametrize(
    ("means", "outliers"),
    [
        ([30.0, 31.0, 29.0, 44.0], ()),  # within half of the estimate
        ([30.0, 31.0, 29.0, 46.0], (3,)),
        ([30.0, 15.0, 45.0, 60.0], ()),  # beyond it, as the others' spread is
        ([30.0, 60.0], ()),
        ([30.0], ()),
        ([0.0, 0.0, 0.0], ()),
    ],
)
def test_an_outlier_is_far_by_the_estimate_and_by_the_spread(means, outliers):
    assert outlying_chains(np.array(means), llc=30.0) == outliers
