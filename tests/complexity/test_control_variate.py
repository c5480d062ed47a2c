"""The control variate removes minibatch noise from gradients and losses, whatever the arrangement of the chains."""

from __future__ import annotations

import functools
import gc
import math
import weakref

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from selfmod_hf.complexity import LLCResult, calibrate_llc, estimate_llc, estimate_llc_many, half_squared_error
from selfmod_hf.complexity.ground_truth.softmax import softmax_regression
from selfmod_hf.complexity.presets import llc_preset
from selfmod_hf.complexity.random_streams import PASSES_PER_PARTITION, PartitionedMinibatches

from .scenarios import digits, trained_digits_net

SAMPLERS = ["sgld", "sghmc", "rmsprop_sgld", "fisher_sgld"]


@functools.cache
def noisy_line(num_samples: int = 4000, num_inputs: int = 8) -> tuple[nn.Linear, Tensor, Tensor]:
    """Return a linear regression with unit noise at the minimum of its sample, λ = inputs / 2."""
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(num_samples, num_inputs, generator=generator)
    targets = inputs.sum(1, keepdim=True) + torch.randn(num_samples, 1, generator=generator)
    model = nn.Linear(num_inputs, 1, bias=False)
    fitted = torch.linalg.lstsq(inputs.double(), targets.double()).solution
    model.weight.data = fitted.T.float()
    return model, inputs, targets


def line_llc(**settings) -> LLCResult:
    defaults = {
        "loss_fn": half_squared_error, "sampler": "sghmc", "step_size": 8e-5, "localization": 1.0,
        "num_draws": 3000, "batch_size": 64,
    }  # fmt: skip
    return estimate_llc(*noisy_line(), **(defaults | settings))


# ---- against closed forms ----


def test_noisy_regression_has_its_closed_form_where_the_plain_estimate_has_not():
    corrected, plain = line_llc(), line_llc(control_variate=False)
    assert corrected.settings.control_variate
    assert corrected.llc == pytest.approx(4.0, abs=3 * corrected.standard_error + 0.08)
    assert plain.llc > 1.4 * 4.0
    assert corrected.standard_error < plain.standard_error


def test_softmax_with_sampled_labels_has_its_closed_form():
    case = softmax_regression(6, 4, num_samples=6000)
    settings = {"sampler": "sghmc", "step_size": 3e-4, "localization": 1.0, "num_draws": 3000, "batch_size": 128}
    corrected, plain = (
        estimate_llc(case.model, case.inputs, case.targets, control_variate=used, **settings) for used in (None, False)
    )
    truth = case.learning_coefficient
    assert corrected.llc == pytest.approx(truth, abs=3 * corrected.standard_error + 0.05 * truth)
    assert plain.llc > 1.3 * truth


def test_the_correction_has_no_mean_in_corrected_chains_and_removes_the_bias_of_plain_ones():
    """A plain draw was pushed by the other minibatches of its pass. The correction is -e.(w - w*)."""
    corrected = line_llc()
    kept = corrected.nbeta * corrected.correction_trace[:, corrected.kept]
    error = kept.mean(axis=1).std(ddof=1) / 2
    assert abs(kept.mean()) < 4 * error
    assert (corrected.correction_trace[:, 0] == 0).all()  # draw 0 is w*
    uncorrected = corrected.nbeta * (corrected.loss_trace - corrected.baseline_trace)
    assert corrected.llc_trace().std() < 0.7 * uncorrected.std()


def test_the_acceptance_is_that_of_the_corrected_loss():
    settings = {"sampler": "sgld", "step_size": 2e-4}
    corrected, plain = line_llc(**settings), line_llc(control_variate=False, **settings)
    assert corrected.acceptance_rate == pytest.approx(plain.acceptance_rate, abs=0.02)


def test_the_coefficient_falls_where_the_noise_at_the_anchor_says_nothing():
    """With a coefficient of 1 these chains would have three times the noise of plain ones."""

    class Turned(nn.Module):
        """The gradient of sample x at w is w + x cos(20 w), and the sum of all x is zero."""

        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.zeros(20))

        def forward(self, x: Tensor) -> Tensor:
            turned = (20 * self.w).sin() / 20
            return self.w.square().sum() / 2 + (x * turned).sum(1)

    x = 3 * torch.randn(200, 20, generator=torch.Generator().manual_seed(0))
    x -= x.mean(0)
    settings = {
        "loss_fn": lambda outputs, targets: outputs, "nbeta": 10.0, "localization": 1.0, "batch_size": 4,
        "step_size": 0.01, "num_draws": 3000,
    }  # fmt: skip
    found, plain = (
        estimate_llc(Turned(), x, torch.zeros(200), control_variate=used, **settings) for used in (True, False)
    )
    exact = 20 * 10 / 11 / 2
    assert plain.llc > 1.1 * exact
    assert found.llc - exact < 1.5 * (plain.llc - exact)


# ---- whatever the arrangement ----


def digits_llc(**settings) -> LLCResult:
    defaults = {"num_draws": 90, "batch_size": 64, "step_size": 1e-4, "nbeta": 20.0, "control_variate": True}
    if settings.get("sampler") == "fisher_sgld":  # in units of the Fisher information
        defaults["step_size"] = 1e-6
    return estimate_llc(trained_digits_net(), *digits(), **(defaults | settings))


def assert_same(first: LLCResult, second: LLCResult, rtol: float = 1e-4) -> None:
    for name in ("loss_trace", "baseline_trace", "correction_trace"):
        np.testing.assert_allclose(getattr(first, name), getattr(second, name), rtol=rtol, atol=1e-5)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_arrangement_changes_rounding_only(sampler, monkeypatch):
    """One piece with kept gradients; chains in turn that compute them again; a loop; pieces of a batch; threads."""
    import selfmod_hf.complexity.pieces as pieces

    usual = digits_llc(sampler=sampler)
    assert usual.correction_trace.any()
    np.testing.assert_array_equal(usual.loss_trace, digits_llc(sampler=sampler).loss_trace)
    for change in ({"memory_budget": 150_000}, {"vectorize": False}, {"micro_batch_size": 20}):
        assert_same(usual, digits_llc(sampler=sampler, **change))
    monkeypatch.setattr(pieces, "_SMALL", 0)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert_same(usual, digits_llc(sampler=sampler))
    finally:
        torch.set_num_threads(threads)


def test_kept_gradients_are_those_computed_again(monkeypatch):
    import selfmod_hf.complexity.problem as problem

    kept = digits_llc(num_draws=300)  # more than one partition: 28 blocks, 8 passes
    monkeypatch.setattr(problem, "_SHARE_OF_BLOCKS", 1 << 40)
    assert_same(kept, digits_llc(num_draws=300), rtol=1e-3)


def test_members_cells_and_subsets_of_parameters():
    nets = [trained_digits_net(), trained_digits_net(steps=300)]
    settings = {"num_draws": 60, "batch_size": 64, "step_size": 1e-4, "nbeta": 20.0}
    together = estimate_llc_many([nets[0], nets[1], nets[0]], *digits(), members=[0, 1, 2], **settings)
    for k, net in enumerate(nets):
        assert_same(together[k], estimate_llc(net, *digits(), member=k, **settings))

    grid = {"step_sizes": [1e-5, 1e-4], "localizations": [1.0, 10.0], "sampler": "sgld"}
    cells = calibrate_llc(nets[0], *digits(), **grid, num_draws=60, batch_size=64, nbeta=20.0)
    last = cells.results[-1]
    assert_same(last, estimate_llc(nets[0], *digits(), localization=10.0, **settings))

    with torch.no_grad():
        hidden = nets[0][:2](digits()[0])
    masked = estimate_llc(nets[0], *digits(), parameters=["2.*"], **settings)
    assert_same(masked, estimate_llc(nets[0][2], hidden, digits()[1], **settings))


def test_the_gradients_of_finished_chains_are_freed_at_once(monkeypatch):
    """Pieces run in turn within a memory budget. Python's collector of circles would come too late."""
    import selfmod_hf.complexity.chains as chains

    alive = []

    class Seen(chains.ControlVariate):
        def __init__(self, *arguments, **named) -> None:
            super().__init__(*arguments, **named)
            alive.append(weakref.ref(self))

    monkeypatch.setattr(chains, "ControlVariate", Seen)
    gc.disable()
    try:
        digits_llc(num_draws=12)
        assert alive
        assert all(reference() is None for reference in alive)
    finally:
        gc.enable()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions(dtype):
    single, other = digits_llc(num_draws=400), digits_llc(num_draws=400, dtype=dtype)
    assert other.settings.control_variate
    assert abs(single.llc - other.llc) < 3 * math.hypot(single.standard_error, other.standard_error)
    assert other.correction_trace.std() == pytest.approx(single.correction_trace.std(), rel=0.1)


# ---- where it is used ----


def test_the_presets_of_the_paper_and_complete_data_have_none():
    net, (inputs, targets) = trained_digits_net(), digits()
    preset = llc_preset("paper", "digits", num_draws=10, num_chains=2)
    of_paper = estimate_llc(net, inputs, targets, **preset)
    plain = estimate_llc(net, inputs, targets, **(preset | {"control_variate": False, "preset": None}))
    np.testing.assert_array_equal(of_paper.loss_trace, plain.loss_trace)
    assert not of_paper.settings.control_variate
    asked = estimate_llc(net, inputs, targets, **preset, control_variate=True)
    assert asked.settings.control_variate
    complete = estimate_llc(net, inputs, targets, num_draws=4, batch_size=2000, control_variate=True)
    assert not complete.settings.control_variate
    assert complete.correction_trace is None
    unpaired = estimate_llc(net, inputs, targets, num_draws=4, paired=False)
    assert not unpaired.settings.control_variate


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"control_variate": 1}, "^control_variate=1: must be None, True or False$"),
        ({"control_variate": True, "paired": False}, "^control_variate=True: must be None or False with paired=False"),
    ],
)
def test_what_cannot_be_used_is_named(settings, message):
    with pytest.raises(ValueError, match=message):
        digits_llc(**settings)


def test_a_result_with_a_correction_is_read_as_it_was_written(tmp_path):
    found = digits_llc(num_draws=20)
    found.save(tmp_path / "rlct.json")
    read = LLCResult.load(tmp_path / "rlct.json")
    np.testing.assert_array_equal(read.llc_trace(), found.llc_trace())
    assert read.settings == found.settings
    assert read.llc == pytest.approx(read.llc_trace()[:, read.kept].mean())
    assert found.settings.keywords(found.nbeta)["control_variate"]


# ---- minibatches of one partition ----


def test_every_chain_takes_each_block_once_per_pass():
    minibatches = PartitionedMinibatches(0, [0, 5], 23, 4, torch.device("cpu"))
    partitions = []
    for _ in range(PASSES_PER_PARTITION + 1):
        seen = torch.stack([minibatches.next() for _ in range(5)])  # (S, C, B)
        partitions.append(minibatches.blocks)
        for chain in range(2):
            taken = seen[:, chain].reshape(-1)
            assert len(taken.unique()) == 20
            assert taken.sort().values.equal(minibatches.blocks.reshape(-1).sort().values)
        assert not seen[:, 0].equal(seen[:, 1])
        assert (minibatches.other_places() != minibatches.places).all()
    assert all(blocks is partitions[0] for blocks in partitions[:-1])
    assert not partitions[-1].equal(partitions[0])
    alone = PartitionedMinibatches(0, [5], 23, 4, torch.device("cpu"))
    again = PartitionedMinibatches(0, [0, 5], 23, 4, torch.device("cpu"))
    for _ in range(50):
        assert alone.next()[0].equal(again.next()[1])


@pytest.mark.parametrize("batch_size", [12, 22])
def test_above_half_of_the_data_every_chain_and_step_has_a_block_of_its_own(batch_size):
    minibatches = PartitionedMinibatches(0, [0, 5], 23, batch_size, torch.device("cpu"))
    alone = PartitionedMinibatches(0, [5], 23, batch_size, torch.device("cpu"))
    seen = []
    for _ in range(10):
        step = minibatches.next()  # (C, B)
        assert alone.next()[0].equal(step[1])
        places = minibatches.other_places()
        others = minibatches.blocks[places]
        assert minibatches.blocks[minibatches.places].equal(step)
        seen += [*step, *others]
    for taken in seen:
        assert len(taken.unique()) == batch_size
    left_out = {tuple(sorted(set(range(23)) - set(taken.tolist()))) for taken in seen}
    assert len(left_out) > 11


def test_the_noise_of_minibatches_above_half_of_the_data_is_read():
    settings = {"batch_size": 1200, "num_draws": 60}
    found, again = digits_llc(**settings), digits_llc(**settings, memory_budget=600_000)
    assert found.settings.control_variate
    assert found.biases is not None
    assert found.biases.noise_trace > 0
    assert_same(found, again, rtol=1e-3)
