"""Foretold biases against exact posteriors, and against the estimate's own distance from the truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import linalg
from scipy.signal import lfilter
from torch import nn

from selfmod_hf.complexity import (
    LLCResult,
    calibrate_llc,
    estimate_llc,
    estimate_llc_many,
    half_squared_error,
    llc_preset,
)
from selfmod_hf.complexity.biases import Observed, foretell
from selfmod_hf.complexity.curvature import largest_curvature
from selfmod_hf.complexity.ground_truth import cases
from selfmod_hf.complexity.prepare import make_problem
from selfmod_hf.complexity.samplers import Dynamics, sghmc
from selfmod_hf.complexity.settings import LLCSettings
from selfmod_hf.complexity.shuffling import Shuffling
from selfmod_hf.complexity.spectrum import affordable_spectrum

from .scenarios import DUMMY, Quadratic, digits, given_loss, trained_digits_net

SAMPLES = 1000
NBETA = SAMPLES / math.log(SAMPLES)


def regression(dimension: int = 20, noise: float = 1.0) -> tuple[nn.Linear, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Linear regression at its least squares: model, inputs, targets, and the curvatures nβ h of the loss."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(SAMPLES, dimension, generator=generator)
    targets = inputs.sum(1, keepdim=True) + noise * torch.randn(SAMPLES, 1, generator=generator)
    model = nn.Linear(dimension, 1, bias=False)
    solution = torch.linalg.lstsq(inputs.double(), targets.double()).solution
    model.weight.data = solution.T.float()
    curvatures = torch.linalg.eigvalsh(inputs.double().T @ inputs.double() / SAMPLES)
    return model, inputs, targets, NBETA * curvatures


def estimate(fraction: float, gamma: float = 0.1, noise: float = 1.0, **settings: object) -> tuple[LLCResult, float]:
    """Return the estimate at a step size in units of the largest curvature, and the exact value at this γ."""
    model, inputs, targets, curvatures = regression(noise=noise)
    exact = float((curvatures / (2 * (curvatures + gamma))).sum())
    step = fraction / float(curvatures.max() + gamma)
    defaults = {"num_draws": 4000, "batch_size": 50}
    result = estimate_llc(
        model, inputs, targets, loss_fn=half_squared_error, step_size=step, localization=gamma, **(defaults | settings)
    )
    return result, exact


@pytest.mark.parametrize(
    ("sampler", "fraction", "heating", "shuffling"), [("sgld", 0.1, 0.2, 1.0), ("sghmc", 0.04, 4.0, 2.1)]
)
def test_the_noise_of_minibatches_is_foretold(sampler, fraction, heating, shuffling):
    """Both parts have the size that theory gives, and what is left of the estimate is the exact value."""
    result, exact = estimate(fraction, sampler=sampler, control_variate=False)
    biases = result.biases
    assert biases.heating == pytest.approx(heating, rel=0.25)
    assert biases.shuffling == pytest.approx(shuffling, rel=0.25)
    assert result.llc - exact > 1
    assert abs(result.llc - biases.of_the_step - exact) < 0.06 * exact + 3 * result.standard_error
    assert result.status == "biased"
    low, high = result.interval
    assert low < exact < high


@pytest.mark.parametrize("batch_size", [400, 600])
def test_the_noise_of_minibatches_that_leave_samples_over_is_foretold(batch_size):
    """Two blocks of 400 of the 1,000 samples, or one block of 600 that is another one at every step."""
    few, _ = estimate(0.04, sampler="sghmc", noise=4.0, control_variate=False)
    result, exact = estimate(0.04, sampler="sghmc", noise=4.0, control_variate=False, batch_size=batch_size)
    biases = result.biases
    assert biases.noise_trace == pytest.approx(few.biases.noise_trace, rel=0.2)
    assert result.llc - exact > 1.5
    assert abs(result.llc - biases.of_the_step - exact) < 0.06 * exact + 3 * result.standard_error
    assert result.status == "biased"


@pytest.mark.parametrize("batch_size", [400, 600])
def test_the_noise_that_a_control_variate_leaves_is_read_at_any_size(batch_size):
    """Two layers at zero, where the noise at w* is none: two of its blocks differ by as much as two others."""
    model = nn.Sequential(nn.Linear(5, 4, bias=False), nn.Linear(4, 1, bias=False))
    for part in model:
        part.weight.data.zero_()
    _, inputs, targets, _ = regression(5, noise=2.0)
    settings = {"loss_fn": half_squared_error, "sampler": "sghmc", "step_size": 1e-4, "localization": 10.0}
    settings |= {"num_draws": 2000, "nbeta": 1.0}
    few = estimate_llc(model, inputs, targets, batch_size=50, **settings)
    many = estimate_llc(model, inputs, targets, batch_size=batch_size, **settings)
    assert many.settings.control_variate
    assert many.biases.noise_trace == pytest.approx(few.biases.noise_trace, rel=0.25)


def test_all_data_have_no_noise():
    result, _ = estimate(0.1, sampler="sghmc", num_draws=1000, batch_size=SAMPLES)
    assert result.biases.heating == result.biases.shuffling == result.biases.noise_trace == 0.0


@pytest.mark.slow
def test_an_exact_fit_has_noise_away_from_the_minimum():
    """At w* no sample has a gradient. Where the chains are, minibatches differ in their curvature."""
    result, exact = estimate(0.1, sampler="sghmc", control_variate=False, noise=0.0)
    assert 1 < result.biases.of_the_step < 4
    assert abs(result.llc - result.biases.of_the_step - exact) < 0.06 * exact + 3 * result.standard_error


@pytest.mark.parametrize("step", [1e-3, 4e-3])
def test_the_discretization_of_sgld_is_foretold(step):
    """Each direction adds (nβ h / 2a) (ε a/4) / (1 - ε a/4)."""
    curvatures, nbeta, gamma = [1.0, 0.5, 0.25, 0.25], 200.0, 1.0
    result = estimate_llc(
        Quadratic(curvatures), *DUMMY, loss_fn=given_loss, step_size=step, localization=gamma, nbeta=nbeta,
        num_draws=4000,
    )  # fmt: skip
    added = 0.0
    for h in curvatures:
        a = nbeta * h + gamma
        added += nbeta * h / (2 * a) * (step * a / 4) / (1 - step * a / 4)
    assert result.biases.discretization == pytest.approx(added, rel=0.3)


def test_a_long_step_of_a_relu_network_is_foretold():
    """A step that is twenty times too long looks like a plateau. Most of its estimate is foretold as its error."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 30), nn.ReLU(), nn.Linear(30, 1))
    inputs = torch.randn(500, 4)
    targets = net(inputs).detach()
    settings = {"loss_fn": half_squared_error, "localization": 10.0, "batch_size": 500, "num_draws": 1000}
    short = estimate_llc(net, inputs, targets, step_size=1e-3, **settings)
    long = estimate_llc(net, inputs, targets, step_size=2e-2, **settings)
    assert short.biases.discretization < 0.1 * short.llc
    assert long.llc > 10 * short.llc
    assert long.rhat < 1.1
    assert long.biases.discretization > 0.8 * (long.llc - short.llc)
    assert long.status == "biased"


@pytest.mark.parametrize("gamma", [30.0, 100.0, 300.0])
def test_the_localization_is_foretold(gamma, monkeypatch):
    """It is Σ γ / 2a. Networks too large for all curvatures have its first order, Σ γ nβh / 2a²."""
    result, _ = estimate(0.1, gamma=gamma, batch_size=SAMPLES)
    _, _, _, curvatures = regression()
    assert result.biases.localization == pytest.approx(float((gamma / (2 * (curvatures + gamma))).sum()), rel=0.02)
    monkeypatch.setattr("selfmod_hf.complexity.spectrum.MOST_PARAMETERS", 10)
    large, _ = estimate(0.1, gamma=gamma, batch_size=SAMPLES)
    first_order = float((gamma * curvatures / (2 * (curvatures + gamma).square())).sum())
    assert large.biases.localization == pytest.approx(first_order, rel=0.25)
    assert result.status == "biased"
    assert "localization" in result.status_reason


def test_a_pull_that_explains_the_value_is_named():
    """γ = 1e6: every direction is held at w*, whatever the loss. Minibatches do not hide it."""
    for batch_size in (SAMPLES, 50):
        result, _ = estimate(0.1, gamma=1e6, batch_size=batch_size, num_draws=1000)
        assert result.llc < 0.05
        assert result.status == "biased"
        assert "the pull to w*" in result.status_reason


@pytest.mark.slow
def test_a_pull_that_explains_the_value_of_a_singular_model_is_named():
    """A product of powers has no curvature at w*, so under γ = nβ the pull alone decides what is estimated.

    How the loss and |δ|² vary together is too noisy to show it. The variance of nβ L is not.
    """
    case = next(case for case in cases(half=0, count=66) if case.kind == "products of powers")
    truth = case.build()
    nbeta = len(truth.inputs) / math.log(len(truth.inputs))
    results = estimate_llc_many(
        [truth.model] * 4,
        truth.inputs,
        truth.targets,
        loss_fn=truth.loss_fn,
        sampler="sghmc",
        step_size=0.04 / nbeta,
        localization=nbeta,
        num_draws=1000,
    )
    for result in results:
        assert result.llc < 0.1 * truth.truth(nbeta)
        assert result.status == "biased"
        assert "the pull to w*" in result.status_reason


def test_flat_directions_make_no_localization_by_chance():
    """Draws of nβ L and of |δ|² that have nothing to do with each other. |δ|² varies much if many directions are flat.

    At two standard errors 2.3 % are expected to count. With errors of four chain means alone 6 % did.
    """
    generator = np.random.default_rng(0)
    shape = (4, 1000)
    counted = 0
    for _ in range(300):
        llc = 28 + 6 * correlated(generator.standard_normal(shape), 0.97)
        squares = 1000 + 40 * correlated(generator.standard_normal(shape), 0.995)
        counted += foretell(observed(llc, squares), curvature=math.nan).localization > 0
    assert counted <= 12  # 4 %


def correlated(noise: np.ndarray, correlation: float) -> np.ndarray:
    """Return draws (C, T) of variance 1, each correlated with the one before."""
    start = noise[:, :1] * correlation / math.sqrt(1 - correlation**2)
    draws, _ = lfilter([1], [1, -correlation], noise, zi=start)
    return draws * math.sqrt(1 - correlation**2)


def observed(llc: np.ndarray, squares: np.ndarray) -> Observed:
    """Return what an estimate observed, without any curvature and noise."""
    nothing = np.zeros((4, 25))
    return Observed(
        llc=llc,
        squares=squares,
        virials=nothing,
        noises=nothing,
        products=nothing,
        active=1000,
        isotropic=True,
        num_parameters=1000,
        nbeta=1.0,
        localization=2.0,
        step_size=1e-3,
        momentum=0.0,
        discretized=False,
        batch_size=10,
        num_samples=100,
        corrected=False,
        lower=0.0,
    )


def estimates_of(key, *, step, pull, count=4):
    """Estimates of a model of known λ, 1,000 draws each, at a step in units of 1/a and a pull in units of nβ."""
    truth = next(case for case in cases(half=0, count=66) if case.key == key).build()
    nbeta = len(truth.inputs) / math.log(len(truth.inputs))
    problem = make_problem([truth.model], truth.inputs, truth.targets, LLCSettings(loss_fn=truth.loss_fn))
    curvature = largest_curvature(problem, nbeta=nbeta, localization=pull * nbeta)
    return estimate_llc_many(
        [truth.model] * count, truth.inputs, truth.targets, loss_fn=truth.loss_fn, sampler="sghmc",
        step_size=step / curvature, localization=pull * nbeta, num_draws=1000,
    )  # fmt: skip


@pytest.mark.slow
def test_a_step_that_throws_chains_far_away_is_named():
    """A deep linear network at a step of 1/a: the mean of a few far draws, in place of an RLCT of 9, once was "ok"."""
    for result in estimates_of("deep linear, ill conditioned 2", step=1.0, pull=1e-3):
        assert result.biases.dispersion > 10
        assert result.status != "ok"
    (short,) = estimates_of("deep linear, ill conditioned 2", step=0.04, pull=1e-3, count=1)
    assert short.biases.dispersion == pytest.approx(1, abs=0.3)


def test_few_draws_do_not_exclude_a_strong_pull(monkeypatch):
    """Linear regression with inputs of several scales, λ = 5.5, under a pull of nβ: 3.9 once was "ok"."""
    monkeypatch.setattr("selfmod_hf.complexity.spectrum.MOST_PARAMETERS", 5)  # larger networks have no curvatures
    found = estimates_of("inputs scaled 0", step=0.04, pull=1.0)
    for result in found:
        assert result.llc < 4.5
        assert result.status != "ok"
    assert any("may take away up to" in result.status_reason for result in found)


@pytest.mark.slow
def test_equilibrium_has_a_temperature_of_one_and_a_start_is_colder():
    """One direction is flat, so that only the pull holds it. It takes 2/(ε γ) steps to spread."""
    settings = {"loss_fn": given_loss, "nbeta": 100.0, "localization": 0.2}
    flat = Quadratic([1.0, 0.0, 0.0, 0.0])
    long = estimate_llc(flat, *DUMMY, step_size=1e-2, num_draws=20000, **settings)
    short = estimate_llc(flat, *DUMMY, step_size=1e-2, num_draws=400, **settings)
    assert long.biases.temperature == pytest.approx(1.0, abs=0.25)
    assert short.biases.temperature < 0.8
    assert short.status == "not_converged"
    assert "have not spread" in short.status_reason


def test_directions_that_have_not_spread_are_missing_from_the_estimate():
    """3 of 20 directions are so flat that they hardly leave w*. The estimate lacks their 1.5 of λ = 10."""
    result = estimate_llc(
        Quadratic([1.0] * 17 + [1e-4] * 3), *DUMMY, loss_fn=given_loss, step_size=4e-4, localization=0.01, nbeta=250.0,
        num_draws=3000,
    )  # fmt: skip
    assert result.biases.temperature > 0.8
    assert result.biases.unspread == pytest.approx(1.5, rel=0.5)
    assert result.status == "not_converged"
    assert "have not spread" in result.status_reason
    low, high = result.interval
    assert low < 10.0 < high


def test_parameters_without_a_gradient_do_not_count_in_the_bound():
    model = nn.Sequential(nn.Linear(3, 1), nn.Identity())
    model.register_parameter("unused", nn.Parameter(torch.zeros(50)))
    inputs = torch.randn(100, 3)
    targets = model(inputs).detach()
    result = estimate_llc(
        model, inputs, targets, loss_fn=half_squared_error, step_size=1e-3, localization=1.0, num_draws=300
    )
    assert result.settings.num_parameters == 54
    assert result.biases.bound == 2.0


def test_parameters_of_rare_inputs_count_in_the_bound():
    """Each of 40 inputs has its own weight. Two chains of 300 minibatches of one sample do not see all of them."""
    inputs = torch.eye(40).repeat(10, 1)
    targets = 0.1 * torch.randn(400, 1, generator=torch.Generator().manual_seed(0))
    model = nn.Linear(40, 1, bias=False)
    model.weight.data = targets.reshape(10, 40).mean(0)[None]
    result = estimate_llc(
        model, inputs, targets, loss_fn=half_squared_error, sampler="sghmc", step_size=3e-4, localization=0.01,
        num_draws=300, batch_size=1, num_chains=2,
    )  # fmt: skip
    assert result.biases.bound == 20.0


class _Scaled(nn.Module):
    """A linear model with weights in units of `scale`, which multiplies its curvature by scale²."""

    def __init__(self, linear: nn.Linear, scale: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(linear.weight.detach() / scale)
        self.register_buffer("scale", torch.tensor(scale))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs @ (self.scale * self.weight).T


def test_a_networks_biases_do_not_depend_on_its_neighbours():
    """The first network has 16 times the curvature of the second."""
    linear, inputs, targets, curvatures = regression()
    settings = {
        "loss_fn": half_squared_error, "step_size": 0.05 / float(curvatures.max()), "localization": 1.0,
        "num_draws": 200, "batch_size": 64, "control_variate": False,
    }  # fmt: skip
    flat = _Scaled(linear, 1.0)
    alone = estimate_llc(flat, inputs, targets, member=1, **settings)
    together = estimate_llc_many([_Scaled(linear, 4.0), flat], inputs, targets, **settings)[1]
    assert together.biases.heating == pytest.approx(alone.biases.heating, rel=1e-3)
    assert together.biases.shuffling == pytest.approx(alone.biases.shuffling, rel=1e-3)


def test_the_papers_presets_have_no_biases_and_the_same_draws():
    settings = llc_preset("paper", "digits", num_draws=60) | {"control_variate": False}
    net = trained_digits_net()
    plain = estimate_llc(net, *digits(), **settings | {"preset": None})
    paper = estimate_llc(net, *digits(), **settings)
    assert paper.biases is None
    assert paper.systematic_error is None
    assert plain.biases is not None
    np.testing.assert_array_equal(paper.loss_trace, plain.loss_trace)


@pytest.mark.parametrize(
    "changes",
    [{"nbeta": "n/log n", "localization": 1e4}, {"nbeta": "n/log n", "localization": 1.0}],
)
@pytest.mark.parametrize("named", [False, True])
def test_the_papers_name_excuses_the_papers_settings_alone(changes, named):
    """A pull that explains the value, and minibatches that add a half, are said whatever the preset is called."""
    model, inputs, targets, _ = regression(noise=2.0)
    settings = llc_preset("paper", "mnist", num_draws=2000) | {"batch_size": 50} | changes
    if named:
        settings = llc_preset("paper", "mnist", num_draws=2000, batch_size=50, **changes)
    result = estimate_llc(model, inputs, targets, loss_fn=half_squared_error, **settings | {"control_variate": False})
    assert result.biases is not None
    assert result.status == "biased"
    assert "not λ" not in result.summary()


def test_a_calibration_is_never_one_of_the_paper():
    """It estimates λ, so that its cells are judged as such."""
    model, inputs, targets, _ = regression()
    found = calibrate_llc(
        model, inputs, targets, loss_fn=half_squared_error, step_sizes=[1e-4], localizations=[1.0], num_draws=40,
        preset="paper (mnist)",
    )  # fmt: skip
    assert found.result.biases is not None
    assert found.result.settings.preset == "calibrated from paper (mnist)"


def drive(shuffling: Shuffling, decay: float, fresh: bool) -> tuple[float, float]:
    """Drive 4,000 directions with blocks drawn without replacement. Returns E[w²] and E[w noise]."""
    rng = np.random.default_rng(0)
    steps, r = shuffling.steps, shuffling.correlation
    covariance = np.full((steps, steps), r) + (1 - r) * np.eye(steps)
    root = np.real(linalg.sqrtm(covariance))
    position = np.zeros(4000)
    squares, lags = [], []
    for count in range(96):
        if fresh or count % shuffling.passes == 0:
            blocks = rng.standard_normal((4000, steps)) @ root
        noise = rng.permuted(blocks, axis=1)
        for place in range(steps):
            if count >= 32:
                squares.append(np.mean(position**2))
                lags.append(np.mean(position * noise[:, place]))
            position = decay * position + noise[:, place]
    return float(np.mean(squares)), float(np.mean(lags))


@pytest.mark.parametrize(("batch_size", "num_samples"), [(100, 800), (100, 250), (100, 180)])
@pytest.mark.parametrize("partitioned", [False, True])
@pytest.mark.parametrize("decay", [0.5, 0.9])
def test_the_heating_by_shuffled_minibatches(batch_size, num_samples, partitioned, decay):
    """Blocks that take all samples, that leave a fifth over, and a single block that is drawn anew at every step."""
    shuffling = Shuffling.of(batch_size, num_samples, partitioned=partitioned)
    squares, lag = drive(shuffling, decay, fresh=shuffling.passes == 1)
    independent = 1 / (1 - decay**2)
    assert squares == pytest.approx(shuffling.share(decay, decay) * independent, rel=0.05)
    if not partitioned:  # the noise of the next minibatch points against those before it
        found = -lag * (1 - decay) / (batch_size / (num_samples - batch_size))
        assert found == pytest.approx(shuffling.lag(2 * (1 - decay), 0.0), rel=0.1, abs=0.02)


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("step", [0.04, 0.5, 1.9])
def test_the_lag_is_the_answer_of_the_sampler_to_a_force(step, momentum):
    """One direction of curvature 1, without noise, whose force begins with the pass."""
    shuffling = Shuffling.of(100, 800, partitioned=False)
    constants = Dynamics(torch.zeros(1, 1), step_size=step, localization=0.0, nbeta=1.0)
    state = sghmc.init(torch.zeros(1, 1))
    answers = []
    for _ in range(8):
        answers.append(float(state.position))
        gradient = state.position - 1
        state = sghmc.update(state, gradient, torch.zeros(1, 1), constants, momentum=momentum)
    assert shuffling.lag(step, momentum) == pytest.approx(np.mean(answers), abs=1e-6)


@pytest.mark.parametrize("step", [4.0, 1e3, math.inf])
def test_a_step_beyond_its_limit_has_no_endless_lag(step):
    assert 0 <= Shuffling.of(100, 800, partitioned=False).lag(step, 0.9) <= 2


@pytest.mark.parametrize("partitioned", [False, True])
def test_slow_chains_are_heated_by_what_a_pass_leaves_over(partitioned):
    whole = Shuffling.of(100, 400, partitioned=partitioned)
    assert whole.share(0.999, 1.0) == pytest.approx(0, abs=0.01)
    a_fifth_over = Shuffling.of(100, 250, partitioned=partitioned)
    assert a_fifth_over.share(1.0, 1.0) == pytest.approx((8 if partitioned else 1) / 3)
    assert a_fifth_over.share(math.nan, 1.0) >= 1


def stiff_and_flat(flat: float) -> tuple[nn.Linear, torch.Tensor, torch.Tensor]:
    """Ten stiff directions and ten of curvature `flat` times theirs, without noise: λ = 10."""
    _, inputs, _, _ = regression()
    inputs = inputs.clone()
    inputs[:, 10:] *= math.sqrt(flat)
    model = nn.Linear(20, 1, bias=False)
    return model, inputs, model(inputs).detach()


@pytest.mark.parametrize("sampler", ["sgld", "sghmc"])
def test_what_the_pull_takes_from_directions_that_it_holds_alone_is_foretold(sampler):
    """Half of the value. The chains see nothing of it: neither L nor its covariance with the distance."""
    model, inputs, targets = stiff_and_flat(1e-3)
    settings = {"loss_fn": half_squared_error, "sampler": sampler, "step_size": 2e-4, "num_draws": 4000}
    result = estimate_llc(model, inputs, targets, localization=5.0, batch_size=50, **settings)
    assert result.llc == pytest.approx(5.0, rel=0.15)
    assert result.biases.localization == pytest.approx(5.0, rel=0.1)
    assert result.status == "biased"
    low, high = result.interval
    assert low < 10 < high + 0.1  # the chains of the stiff directions alone are off by that much


def test_directions_without_any_effect_are_no_bias_of_the_pull():
    model, inputs, targets = stiff_and_flat(0.0)
    result = estimate_llc(
        model, inputs, targets, loss_fn=half_squared_error, sampler="sghmc", step_size=2e-4, localization=5.0,
        batch_size=50, num_draws=4000,
    )  # fmt: skip
    assert result.biases.pull_share == pytest.approx(0.5, rel=0.1)
    assert result.biases.localization < 0.5
    assert result.status == "ok"


def test_the_curvatures_of_a_network_are_looked_for_only_if_the_chains_pay_for_them():
    """A tenth of the gradients of 4 chains x 100 draws of 50 samples are 95 samples of 21 gradients each."""
    model, inputs, targets = stiff_and_flat(1e-3)
    settings = {"loss_fn": half_squared_error, "sampler": "sghmc", "step_size": 2e-4, "localization": 5.0}
    few = estimate_llc(model, inputs, targets, batch_size=20, num_draws=50, **settings)
    assert few.biases.localization < 2
    many = estimate_llc(model, inputs, targets, batch_size=50, num_draws=100, **settings)
    assert many.biases.localization > 2.5  # chains of 100 draws have not spread as far as the pull allows


class Narrow(nn.Module):
    """Ends in float32, whatever the weights are."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.float()


def test_losses_in_float32_have_no_spectrum():
    """Their rounding would be taken for curvatures."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh())
    narrow = nn.Sequential(model, Narrow())
    inputs, labels = torch.randn(200, 4), torch.arange(200) % 3
    assert affordable_spectrum(make_problem([model], inputs, labels, LLCSettings()), 50.0, 0, 1e6, seed=0) is not None
    assert affordable_spectrum(make_problem([narrow], inputs, labels, LLCSettings()), 50.0, 0, 1e6, seed=0) is None


def test_each_network_has_its_own_spectrum():
    """Curvatures of softmax regression depend on the weights."""
    torch.manual_seed(0)
    inputs, labels = torch.randn(500, 4), torch.arange(500) % 3
    near, far = nn.Linear(4, 3), nn.Linear(4, 3)
    far.weight.data *= 10
    alone = make_problem([far], inputs, labels, LLCSettings())
    both = make_problem([near, far], inputs, labels, LLCSettings())
    expected = affordable_spectrum(alone, 50.0, 0, 1e6, seed=0)
    found = [affordable_spectrum(both, 50.0, member, 1e6, seed=0) for member in (0, 1)]
    np.testing.assert_allclose(found[1].values, expected.values, rtol=1e-6)
    assert not np.allclose(found[0].values[-1], expected.values[-1], rtol=0.01)
    assert affordable_spectrum(both, 50.0, 1, 0, seed=0) is found[1]  # kept for later rounds
    assert affordable_spectrum(make_problem([far], inputs, labels, LLCSettings()), 50.0, 0, 100, seed=0) is None


class SumOfRows(nn.Module):
    """A regression on the sum of 40 rows of weights, whose bfloat16 rounds away what a short step changes."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.full((40, 10), 0.3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.rows.sum(0)[:, None]


class InBfloat16(SumOfRows):
    """The same, converting to bfloat16 by itself."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.bfloat16() @ self.rows.sum(0)[:, None]


def test_curvatures_have_the_precision_of_the_weights():
    """The chains' own is lower. A curvature that is lost in rounding would let the pull explain the value."""
    model = SumOfRows()
    inputs = torch.randn(2000, 10, generator=torch.Generator().manual_seed(0))
    settings = {"loss_fn": half_squared_error, "localization": 20.0, "step_size": 2e-5, "num_draws": 100}
    data = (inputs, model(inputs).detach())
    found = []
    for dtype in (None, torch.bfloat16):
        result = estimate_llc(model, *data, batch_size=200, dtype=dtype, **settings)
        found.append(result.biases.localization)
    assert found[0] < 0.1
    assert found[1] == pytest.approx(found[0], rel=0.3)


def test_a_network_that_converts_to_bfloat16_by_itself_is_estimated():
    """It does not compute at the precision of its weights."""
    model = InBfloat16()
    inputs = torch.randn(100, 10, generator=torch.Generator().manual_seed(0))
    settings = {"loss_fn": half_squared_error, "step_size": 2e-5, "num_draws": 50, "batch_size": 20}
    result = estimate_llc(model, inputs, torch.zeros(100, 1), dtype=torch.bfloat16, **settings)
    assert math.isfinite(result.llc)


def noisy_tanh(num_samples: int):
    """A network at the minimum of all samples, whose labels are noisy. Some of the samples have other curvatures."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Tanh(), nn.Linear(2, 1, bias=False))
    inputs = torch.randn(num_samples, 2)
    targets = model(inputs).detach() + torch.randn(num_samples, 1)
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=500, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = half_squared_error(model(inputs), targets).mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    return model, inputs, targets


def test_curvatures_are_of_all_samples_where_they_cost_little():
    """4,096 of 8,000 samples are not at their minimum, so that their flattest curvatures are noise."""
    model, inputs, targets = noisy_tanh(8000)
    nbeta = 8000 / math.log(8000)
    problem = make_problem([model], inputs, targets, LLCSettings(loss_fn=half_squared_error))
    found = affordable_spectrum(problem, nbeta, 0, 1e6, seed=0)
    names = [name for name, _ in model.named_parameters()]
    shapes = [parameter.shape for parameter in model.parameters()]
    wide = model.double()

    def mean_loss(flat: torch.Tensor) -> torch.Tensor:
        parts = flat.split([shape.numel() for shape in shapes])
        values = {name: part.view(shape) for name, part, shape in zip(names, parts, shapes, strict=True)}
        outputs = torch.func.functional_call(wide, values, (inputs.double(),))
        return half_squared_error(outputs, targets.double()).mean()

    anchor = torch.cat([parameter.detach().flatten() for parameter in wide.parameters()])
    exact = nbeta * torch.linalg.eigvalsh(torch.func.hessian(mean_loss)(anchor)).numpy()
    np.testing.assert_allclose(np.sort(found.values), exact[exact >= 0.02], rtol=2e-3)


def test_a_calibration_takes_the_curvatures_of_all_samples_where_they_cost_little(monkeypatch):
    import selfmod_hf.complexity.calibration as calibration

    find = calibration.find_spectrum
    seen = []

    def spy(problem, nbeta):
        seen.append(problem.num_samples)
        return find(problem, nbeta)

    monkeypatch.setattr(calibration, "find_spectrum", spy)
    model, inputs, targets = noisy_tanh(8000)
    settings = {"loss_fn": half_squared_error, "step_sizes": [1e-5], "localizations": [1.0], "num_chains": 2}
    few = calibrate_llc(model, inputs, targets, num_draws=250, **settings)
    many = calibrate_llc(model, inputs, targets, num_draws=1000, **settings)
    assert seen == [4266, 8000]  # at most a tenth of the work of the one cell, and all
    assert few.note.startswith("no curvatures at w*: those of 4266 of 8000 samples differ by ")
    assert many.note == ""
