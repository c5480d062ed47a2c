"""A killed estimate goes on at its last block with the same bits. Chains go on until an error is reached."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from selfmod_hf.complexity import (
    LLCResult,
    calibrate_llc,
    estimate_llc,
    estimate_llc_many,
    half_squared_error,
    llc_preset,
)
from selfmod_hf.complexity.pieces import Counter, Group, Run
from selfmod_hf.complexity.preconditioner import Preconditioners
from selfmod_hf.complexity.prepare import make_problem
from selfmod_hf.complexity.problem import capacity
from selfmod_hf.complexity.session import Session
from selfmod_hf.complexity.settings import LLCSettings
from selfmod_hf.complexity.snapshots import Snapshots
from selfmod_hf.errors import InputError
from tests import warm

from .scenarios import DUMMY, Quadratic, digits, given_loss, trained_digits_net

CODE = """
import sys
from tests.complexity.test_resumed import estimated
estimated(sys.argv[1], num_draws=10_000)
"""
SHORT = {"batch_size": 100, "num_chains": 2, "step_size": 2e-6, "localization": 50.0}


def estimated(folder: str | Path | None, **settings) -> LLCResult:
    inputs, targets = digits()
    settings = {"num_draws": 200, "probes": (inputs[:5], targets[:5]), **SHORT, **settings}
    return estimate_llc(trained_digits_net(), inputs, targets, resume_from=folder, **settings)


def same_numbers(first: LLCResult, second: LLCResult) -> None:
    np.testing.assert_array_equal(first.loss_trace, second.loss_trace)
    np.testing.assert_array_equal(first.probe_losses, second.probe_losses)
    np.testing.assert_array_equal(first.distance_per_chain, second.distance_per_chain)
    assert (first.llc, first.standard_error, first.acceptance_rate) == (
        second.llc, second.standard_error, second.acceptance_rate,
    )  # fmt: skip


class Stopped(Exception):
    """Raised in the middle of an estimate."""


def stop_at(step: int):
    def progress(done: int, total: int) -> None:
        if done >= step:
            raise Stopped

    return progress


@pytest.mark.parametrize(
    "sampler", ["sgld", "sghmc", "rmsprop_sgld", pytest.param("preconditioned", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("control_variate", [True, False])
def test_an_interrupted_estimate_goes_on_with_the_same_bits(tmp_path, sampler, control_variate):
    settings = {"sampler": sampler, "control_variate": control_variate, "num_draws": 60}
    if sampler == "preconditioned":
        settings |= {"step_size": 0.05, "parameters": ["2.*"]}
    expected = estimated(tmp_path / "whole", **settings)
    folder = tmp_path / "state"
    with pytest.raises(Stopped):
        estimated(folder, progress=stop_at(2 * 40), **settings)
    (file,) = folder.iterdir()
    done = []
    found = estimated(folder, progress=lambda steps, total: done.append(steps), **settings)
    assert done[0] == 2 * 36  # the draws of six complete blocks
    same_numbers(found, expected)
    assert not folder.exists()
    assert not (tmp_path / "whole").exists()
    plain = estimated(None, **settings)
    np.testing.assert_array_equal(plain.loss_trace, expected.loss_trace)  # blocks leave no trace
    assert file.name.endswith("groups-0-1-chains-0-1.safetensors")


def test_an_interrupted_calibration_goes_on_with_the_same_bits(tmp_path):
    settings = {"loss_fn": given_loss, "sampler": "sghmc", "nbeta": 100.0, "num_draws": 40, "num_chains": 2}
    model = Quadratic([1.0] * 2 + [1e-4] * 3)
    expected = calibrate_llc(model, *DUMMY, resume_from=tmp_path / "whole", **settings)
    assert expected.rounds > 1
    draws = [2 * result.settings.num_draws for result in expected.results if result.settings.member == 0]
    of_first_round = sum(draws)
    folder = tmp_path / "state"
    with pytest.raises(Stopped):
        calibrate_llc(model, *DUMMY, resume_from=folder, progress=stop_at(3 * of_first_round // 2), **settings)
    done = []
    found = calibrate_llc(model, *DUMMY, resume_from=folder, progress=lambda now, _: done.append(now), **settings)
    assert done[1] == of_first_round  # nothing of it ran again
    assert done[2] > of_first_round + 2
    assert len(found.results) == len(expected.results)
    for one, other in zip(found.results, expected.results, strict=True):
        np.testing.assert_array_equal(one.loss_trace, other.loss_trace)
    assert (found.llc, found.interval, found.table) == (expected.llc, expected.interval, expected.table)
    assert not folder.exists()
    assert not (tmp_path / "whole").exists()


@pytest.mark.slow
def test_a_killed_estimate_goes_on_with_the_same_bits(tmp_path):
    folder = tmp_path / "state"
    killed = warm.start(["-c", CODE, folder])
    while not any(folder.glob("*.safetensors")):
        assert killed.is_alive()
        time.sleep(0.05)
    killed.kill()
    killed.join()
    (file,) = folder.glob("*.safetensors")
    first = file.read_bytes()
    with pytest.raises(Stopped):  # goes on, and keeps the next block
        estimated(folder, num_draws=10_000, progress=stop_at(2 * 2_001))
    assert file.read_bytes() != first
    second = tmp_path / "never killed"
    with pytest.raises(Stopped):
        estimated(second, num_draws=10_000, progress=stop_at(2 * 2_001))
    (other,) = second.glob("*.safetensors")
    assert other.read_bytes() == file.read_bytes()


def check_two_parts(run: Run, rows: int) -> None:
    """Compare T draws and T more with 2 T, in pieces of so many rows."""
    fits = replace(capacity(run.problem, run.settings), rows=rows)
    whole = Session.of(run, fits).draw(40)
    parts = Session.of(run, fits)
    parts.draw(20)
    joined = parts.draw(40)
    for name in ("losses", "baseline", "correction", "distances"):
        np.testing.assert_array_equal(getattr(joined, name), getattr(whole, name))


@pytest.mark.parametrize("control_variate", [True, False])
def test_two_parts_equal_one_run_in_several_pieces(control_variate):
    inputs, targets = digits()
    settings = LLCSettings(**SHORT, num_draws=40, control_variate=control_variate)
    problem = make_problem([trained_digits_net()], inputs, targets, settings)
    groups = [Group(0, 0, 2e-6, pull, 200.0) for pull in (50.0, 500.0)]
    check_two_parts(Run(problem, settings, groups, range(2), Counter(None, 0)), rows=2)


def test_two_parts_equal_one_run_of_mala():
    settings = LLCSettings(loss_fn=given_loss, sampler="mala", num_draws=40)
    problem = make_problem([Quadratic([1.0, 30.0])], *DUMMY, settings)
    preconditioners = Preconditioners(problem, seed=0).of([(0, 200.0, 1.0)])
    groups = [Group(0, 0, 0.1, 1.0, 200.0)]
    run = Run(problem, settings, groups, range(2), Counter(None, 0), preconditioners=preconditioners)
    check_two_parts(run, rows=1)


def test_several_networks_in_several_pieces(tmp_path):
    nets = [trained_digits_net(), trained_digits_net(200)]
    settings = {"num_draws": 30, "memory_budget": 1 << 18, **SHORT}
    expected = estimate_llc_many(nets, *digits(), resume_from=tmp_path / "whole", **settings)
    folder = tmp_path / "state"
    with pytest.raises(Stopped):
        estimate_llc_many(nets, *digits(), resume_from=folder, progress=stop_at(75), **settings)
    assert len(list(folder.iterdir())) > 1
    found = estimate_llc_many(nets, *digits(), resume_from=folder, **settings)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.loss_trace, other.loss_trace)


def test_the_state_of_another_estimate_is_not_used(tmp_path):
    folder = tmp_path / "state"
    with pytest.raises(Stopped):
        estimated(folder, progress=stop_at(2 * 150))
    done = []
    other = estimated(folder, seed=1, progress=lambda steps, total: done.append(steps))
    assert done[0] == 2
    np.testing.assert_allclose(other.loss_trace[:, :9], estimated(None, seed=1).loss_trace[:, :9], rtol=1e-3)
    (file,) = folder.iterdir()  # that of the first one stays
    file.write_bytes(b"damaged")
    with pytest.raises(InputError, match=r"resume_from=.*: cannot be read"):
        estimated(folder)


def fitted_line(inputs: Tensor) -> tuple[nn.Linear, Tensor, Tensor]:
    """Return a linear map and targets that are its outputs, so that its losses and gradients are zero."""
    model = nn.Linear(inputs.shape[1], 1, bias=False)
    nn.init.ones_(model.weight)
    return model, inputs, inputs.sum(1, keepdim=True)


def fourth_power(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets).pow(4).sum(1)


LINE = torch.randn(60, 3, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("inputs", "change"),
    [
        (LINE, {"loss_fn": fourth_power}),
        (2 * LINE, {}),
        (LINE.flip(0), {}),
        (LINE, {"preset": "paper (mnist)"}),
        (LINE, {"parameters": {"weight": torch.tensor([[True, False, True]])}}),
    ],
)
def test_the_state_of_other_data_or_another_loss_is_not_used(tmp_path, inputs, change):
    """All losses at w* are zero, whatever the inputs and the loss."""
    settings = llc_preset("paper", "mnist", num_draws=20) | {"preset": None}
    settings["loss_fn"] = half_squared_error
    with pytest.raises(Stopped):
        estimate_llc(*fitted_line(LINE), resume_from=tmp_path, progress=stop_at(4 * 11), **settings)
    done = []
    settings |= change
    other = fitted_line(inputs)
    found = estimate_llc(*other, resume_from=tmp_path, progress=lambda steps, _: done.append(steps), **settings)
    assert done[0] < 4 * 10
    np.testing.assert_array_equal(found.loss_trace, estimate_llc(*other, **settings).loss_trace)


def test_the_state_of_another_preset_goes_on_if_its_chains_are_the_same(tmp_path):
    settings = {"loss_fn": half_squared_error, "num_draws": 20, "step_size": 1e-3}
    with pytest.raises(Stopped):
        estimate_llc(*fitted_line(LINE), resume_from=tmp_path, progress=stop_at(4 * 11), preset="mine", **settings)
    done = []
    estimate_llc(
        *fitted_line(LINE), resume_from=tmp_path, progress=lambda steps, _: done.append(steps), preset=None, **settings
    )
    assert done[0] == 4 * 10


def test_the_state_of_the_chains_of_another_number_of_processes_is_not_used(tmp_path):
    """The first of two processes has chains 0 and 2, and one alone has 0, 1 and 2."""
    settings = LLCSettings(loss_fn=half_squared_error, resume_from=tmp_path)
    model, inputs, targets = fitted_line(LINE)
    problem = make_problem([model], inputs, targets, settings)
    paths = set()
    for chains in (range(3), range(0, 3, 2)):
        snapshots = Snapshots.of(Run(problem, settings, [], chains, Counter(None, 0)))
        assert snapshots is not None
        paths.add(snapshots.path(range(1), chains))
    assert len(paths) == 2


def test_two_processes_remove_the_same_folder(tmp_path, monkeypatch):
    """The other one removes it between any two calls of this one."""
    folder = tmp_path / "state"
    folder.mkdir()
    removed = Path.rmdir

    def remove_twice(path: Path) -> None:
        removed(path)
        removed(path)

    monkeypatch.setattr(Path, "rmdir", remove_twice)
    Snapshots(folder, "estimate").remove([folder / "file"])
    assert not folder.exists()
    Snapshots(folder, "estimate").remove([folder / "file"])


def test_a_file_in_place_of_the_folder_is_named_before_any_sampling(tmp_path):
    file = tmp_path / "file"
    file.touch()
    for folder in (file, file / "below", "", 3):
        with pytest.raises(InputError, match=r"^resume_from=.* must be None or the path of a folder to write into$"):
            LLCSettings(resume_from=folder)
    LLCSettings(resume_from=tmp_path / "new" / "below")


QUADRATIC = {"loss_fn": given_loss, "nbeta": 100.0, "localization": 5.0, "step_size": 2e-3}


def test_chains_are_continued_until_the_error_is_reached():
    model = Quadratic([1.0, 0.2, 3.0])
    first = estimate_llc(model, *DUMMY, num_draws=400, **QUADRATIC)
    target = first.standard_error / 1.5
    found = estimate_llc(model, *DUMMY, num_draws=400, target_standard_error=target, **QUADRATIC)
    assert found.standard_error <= target
    assert found.status == "ok"
    assert 400 < found.settings.num_draws <= 3200
    assert found.loss_trace.shape == (4, found.settings.num_draws)
    assert found.settings.num_burnin_steps == found.settings.num_draws // 2
    np.testing.assert_array_equal(found.loss_trace[:, :400], first.loss_trace)
    whole = estimate_llc(model, *DUMMY, num_draws=found.settings.num_draws, **QUADRATIC)
    np.testing.assert_allclose(found.loss_trace, whole.loss_trace, rtol=1e-3, atol=1e-6)


def test_a_target_that_is_out_of_reach_ends_at_eight_times_the_draws():
    done = []
    found = estimate_llc(
        Quadratic([1.0, 1.0, 1.0]), *DUMMY, num_draws=400, target_standard_error=1e-9, **QUADRATIC,
        progress=lambda steps, total: done.append((steps, total)),
    )  # fmt: skip
    assert found.settings.num_draws == 3200
    assert done[-1] == (12_800, 12_800)
    assert found.status == "not_converged"
    assert "above its target 1e-09" in found.status_reason
    enough = estimate_llc(Quadratic([1.0, 0.2]), *DUMMY, num_draws=50, target_standard_error=1e9, **QUADRATIC)
    assert enough.settings.num_draws == 50


def test_a_target_and_a_folder(tmp_path):
    model, folder = Quadratic([1.0, 0.2]), tmp_path / "state"
    settings = {"num_draws": 50, "target_standard_error": 1e-9, **QUADRATIC}
    expected = estimate_llc(model, *DUMMY, resume_from=tmp_path / "whole", **settings)
    with pytest.raises(Stopped):
        estimate_llc(model, *DUMMY, resume_from=folder, progress=stop_at(4 * 230), **settings)
    found = estimate_llc(model, *DUMMY, resume_from=folder, **settings)
    np.testing.assert_array_equal(found.loss_trace, expected.loss_trace)


def test_progress_shows_the_estimate_so_far():
    class Bar:
        def __init__(self) -> None:
            self.estimates: list[float] = []

        def __call__(self, done: int, total: int) -> None:
            pass

        def estimate(self, mean: float) -> None:
            self.estimates.append(mean)

    bar = Bar()
    result = estimate_llc(Quadratic([1.0, 0.2, 3.0]), *DUMMY, num_draws=400, progress=bar, **QUADRATIC)
    assert len(bar.estimates) == 40
    assert bar.estimates[-1] == pytest.approx(result.llc, rel=0.02)
