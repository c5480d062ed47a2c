"""Results on disk, figures, and the width of weights."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from torch import nn

from selfmod_hf.complexity import Biases, LLCResult, calibrate_llc, estimate_llc, llc_preset, weight_width
from selfmod_hf.complexity.presets import of_paper
from selfmod_hf.complexity.settings import LLCSettings
from selfmod_hf.complexity.weight_width import weight_width_of

from .scenarios import DUMMY, Quadratic, given_loss


def _result(step_size: float = 1e-2) -> LLCResult:
    return estimate_llc(
        Quadratic([1.0, 2.0]), *DUMMY, loss_fn=given_loss, step_size=step_size, localization=1.0, nbeta=50.0,
        num_draws=60, parameters=["w"], preset="test",
    )  # fmt: skip


def _of_paper() -> LLCResult:
    """An estimate with a preset of the paper, which has no biases."""
    settings = llc_preset("paper", "mnist", num_draws=60)
    return estimate_llc(Quadratic([1.0, 2.0]), *DUMMY, loss_fn=given_loss, parameters=["w"], **settings)


@pytest.mark.parametrize("step_size", [1e-2, 100.0])
def test_save_and_load(tmp_path, step_size):
    result = _result(step_size)
    result.save(tmp_path / "rlct.json")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rlct.json", "rlct.safetensors"]
    again = LLCResult.load(tmp_path / "rlct.json")
    assert again.to_dict() == result.to_dict()
    assert again.settings == result.settings
    np.testing.assert_array_equal(again.loss_trace, result.loss_trace)
    assert (again.status == "diverged") == (step_size > 1)


def test_biases_are_saved_and_loaded(tmp_path):
    """A bias that was not measured is null in the file. A result without any has no such field, as in version 0.1.0."""
    plain = _of_paper()
    assert not {"biases", "systematic_error"} & set(json.loads(plain.save(tmp_path / "plain.json").read_text()))
    names = [entry.name for entry in dataclasses.fields(Biases)]
    biases = Biases(**dict.fromkeys(names, 1.0))
    biases = dataclasses.replace(biases, shuffling=math.nan)
    result = dataclasses.replace(plain, biases=biases, systematic_error=0.5)
    path = result.save(tmp_path / "rlct.json")
    assert json.loads(path.read_text())["biases"]["shuffling"] is None
    again = LLCResult.load(path)
    assert again.systematic_error == 0.5
    np.testing.assert_equal(dataclasses.asdict(again.biases), dataclasses.asdict(biases))


def test_the_interval_is_of_students_quantile_and_the_systematic_error():
    """Four chains of 300 independent draws: 30 degrees of freedom. Of 50 draws: 7, two for each chain but one."""
    result = dataclasses.replace(_of_paper(), llc=10.0, standard_error=1.0, ess=300.0)
    assert result.interval == pytest.approx((10 - 2.0423, 10 + 2.0423), abs=1e-3)
    few = dataclasses.replace(result, ess=50.0, systematic_error=0.5)
    assert few.interval == pytest.approx((10 - 2.8646, 10 + 2.8646), abs=1e-3)


def test_biases_widen_the_interval_on_the_side_of_the_truth():
    """A step too long raises the estimate. The pull, and a w* that is no minimum, lower it."""
    result = dataclasses.replace(_of_paper(), llc=10.0, standard_error=1.0, ess=300.0)
    biases = Biases(**dict.fromkeys([entry.name for entry in dataclasses.fields(Biases)], math.nan))
    heated = dataclasses.replace(biases, heating=2.0, shuffling=1.0)
    low, high = dataclasses.replace(result, biases=heated).interval
    assert (low, high) == pytest.approx((7 - 2.0423, 10 + 2.0423), abs=1e-3)
    pulled = dataclasses.replace(biases, localization=2.0, not_at_minimum=1.0, unspread=0.5)
    low, high = dataclasses.replace(result, biases=pulled).interval
    assert (low, high) == pytest.approx((10 - 2.0423, 13.5 + 2.0423), abs=1e-3)


def test_json_is_strict(tmp_path):
    """No NaN in JSON: null."""
    text = _result(100.0).save(tmp_path / "rlct.json").read_text()
    values = json.loads(text, parse_constant=lambda name: pytest.fail(name))
    assert values["llc"] is None
    assert values["diverged_chains"] == [0, 1, 2, 3]
    assert values["settings"]["preset"] == "test"


def test_a_diverged_chain_is_averaged_away_nowhere():
    """Not where its numbers are finite either: chains at over 4 d have left the region."""
    result = _result()
    rise = np.array([[0.0], [0.0], [0.0], [5.0]])
    far = dataclasses.replace(result, loss_trace=result.loss_trace + rise)
    assert far.estimate(paired=True)[0] > 50  # as it would be, were the chain one of them
    named = dataclasses.replace(far, status="diverged", diverged_chains=(3,))
    assert np.isnan(named.estimate(paired=True)).all()
    assert np.isnan(named.estimate(paired=False)).all()


@pytest.mark.parametrize(
    ("entries", "named"),
    [
        ({"llc_per_chain": [1.0, 1.0, 1.0]}, "llc_per_chain"),  # of four chains
        ({"llc_per_chain": [1.0, 1.0, 1.0, None]}, "llc_per_chain"),  # one without a number that is not said to diverge
        ({"llc_per_chain": []}, "llc_per_chain"),
        ({"distance_per_chain": [1.0, 1.0]}, "distance_per_chain"),
        ({"diverged_chains": [4], "status": "diverged"}, "diverged_chains"),
        ({"diverged_chains": ["0"], "status": "diverged"}, "diverged_chains"),
        ({"diverged_chains": [1]}, "diverged_chains"),  # with status ok or not_converged
        ({"status": "diverged"}, "diverged_chains"),  # and no chain that did
    ],
)
def test_a_file_whose_chains_are_unequal_is_rejected(tmp_path, entries, named):
    path = _result().save(tmp_path / "rlct.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))
    with pytest.raises(ValueError, match=named):
        LLCResult.load(path)


def test_traces_of_other_length_are_rejected(tmp_path):
    path = _result().save(tmp_path / "rlct.json")
    for shape in ((4, 59), (3, 60)):
        traces = {name: np.zeros(shape) for name in ("loss_trace", "baseline_trace")}
        save_file(traces, tmp_path / "rlct.safetensors")
        with pytest.raises(ValueError, match="loss_trace, baseline_trace: of a wrong type or shape"):
            LLCResult.load(path)


@pytest.mark.parametrize("step_size", [1e-2, 100.0])
def test_plot(tmp_path, step_size):
    figure = _result(step_size).plot(tmp_path / "trace.png")
    assert (tmp_path / "trace.png").read_bytes().startswith(b"\x89PNG")
    labels = figure.axes[0].get_legend_handles_labels()[1]
    assert {"kept draws", "mean over chains"} <= set(labels)
    assert sum(label.startswith("chain ") for label in labels) == 4
    figure.draw_without_rendering()
    (legend,) = figure.legends
    assert not legend.get_window_extent().overlaps(figure.axes[0].get_window_extent())


def test_calibration_avoids_the_wild_step(tmp_path):
    calibration = calibrate_llc(
        Quadratic([1.0, 2.0]), *DUMMY, loss_fn=given_loss, sampler="sgld", nbeta=50.0,
        step_sizes=[3e-3, 1e-2, 10.0], localizations=[1.0, 3.0], num_draws=2000,
    )  # fmt: skip
    assert calibration.step_size == 3e-3
    assert calibration.llc == pytest.approx(1.0, abs=0.2)
    assert [row["status"] == "diverged" for row in calibration.table] == [False, False, True] * 2
    figure = calibration.plot(tmp_path / "grid.png")
    assert len(figure.axes) == 3
    saved = json.loads(calibration.save(tmp_path / "calibration.json").read_text())
    assert saved["step_size"] == calibration.step_size
    assert len(saved["table"]) == 6
    assert saved["status"] == calibration.status
    assert tuple(saved["interval"]) == calibration.interval


@pytest.mark.parametrize("name", ["step_sizes", "localizations"])
@pytest.mark.parametrize("values", [[], 1e-4, "1e-4", [1e-4, 0.0], ["1e-4"], [math.nan]])
def test_a_grid_that_is_none_is_refused(name, values):
    with pytest.raises(ValueError, match=rf"^{name}=.*: must be .*positive number") as error:
        calibrate_llc(Quadratic([1.0]), *DUMMY, loss_fn=given_loss, nbeta=50.0, **{name: values})
    assert "\n" not in str(error.value)


def test_a_grid_may_be_an_array():
    grid = {"step_sizes": np.array([1e-2, 1e-3]), "localizations": torch.tensor([2.0, 1.0], dtype=torch.float64)}
    calibration = calibrate_llc(Quadratic([1.0]), *DUMMY, loss_fn=given_loss, nbeta=50.0, num_draws=20, **grid)
    cells = [(row["step_size"], row["localization"]) for row in calibration.table]
    assert cells == [(1e-3, 1.0), (1e-2, 1.0), (1e-3, 2.0), (1e-2, 2.0)]


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        ("paper (mnist)", True),
        ("paper (mnist) with num_chains, num_draws", True),
        ("paper-text (mnist) with num_draws", False),  # another localization
        ("paper (mnist) with batch_size, num_draws", True),  # early names listed what was given, changed or not
        ("paper (mnist) with nbeta", False),
        ("paper (imdb)", False),  # another step size
        ("as published (as published (paper (mnist)))", True),
        ("as published (paper (mnist) with num_draws)", True),
        ("as published (paper (mnist) with nbeta)", False),
        ("paper", True),
        ("paper of mine", False),
        ("papers (mnist)", False),
        ("calibrated from paper (mnist)", False),
        ("as published (theory)", False),
    ],
)
def test_only_the_papers_own_settings_are_of_the_paper(preset, expected):
    """Published again and again, too. A caller's own name that begins with "paper" switches no rule off."""
    sampling = {"sampler": "sgld", "step_size": 1e-4, "localization": 100.0, "batch_size": 512}
    assert of_paper(preset, sampling | {"nbeta": "batch/log batch"}) == expected


@pytest.mark.parametrize(
    "change", [{"step_size": 2e-4}, {"localization": 1.0}, {"nbeta": 5.0}, {"sampler": "sghmc"}, {"batch_size": 5}]
)
def test_settings_that_were_changed_behind_the_name_are_not_of_the_paper(change):
    settings = llc_preset("paper", "mnist")
    assert LLCSettings(**settings).of_paper
    assert not LLCSettings(**settings | change).of_paper


def test_an_estimate_of_the_paper_on_few_samples_is_one_when_it_is_repeated():
    """Its batch is all of the data, and its nβ is the number."""
    result = _of_paper()
    assert result.settings.batch_size < 512
    assert result.settings.of_paper
    again = result.settings.keywords(result.nbeta)
    del again["members"]
    assert LLCSettings(**again).of_paper


def test_presets_name_themselves():
    assert llc_preset("paper", "imdb") == {
        "sampler": "sgld", "step_size": 1e-3, "localization": 10.0, "nbeta": "batch/log batch", "num_chains": 4,
        "num_draws": 1000, "batch_size": 64, "preset": "paper (imdb)",
    }  # fmt: skip
    assert llc_preset("paper-text", "mnist")["localization"] == 1000.0
    assert llc_preset("theory", "digits")["nbeta"] == "n/log n"
    own = llc_preset("theory", sampler="preconditioned")
    assert (own["step_size"], own["preset"]) == (0.05, "theory with sampler, step_size")
    assert llc_preset("theory", sampler="mala", step_size=0.2)["step_size"] == 0.2
    with pytest.raises(ValueError, match="preset='best'"):
        llc_preset("best")


@pytest.mark.parametrize(("typed", "meant"), [("imbd", "imdb"), ("minst", "mnist"), ("cifra10", "cifar10")])
def test_a_mistyped_task_is_refused_and_another_takes_mnists(typed, meant):
    with pytest.raises(ValueError, match=f"task='{typed}': .*did you mean '{meant}'?"):
        llc_preset("paper", typed)
    for other in ("digits", "cifar100", "kmnist", "nist", "my-data"):
        assert llc_preset("paper", other)["preset"] == "paper (mnist)"


def test_weight_width_is_the_last_layers():
    net = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))
    width = weight_width(net)
    weights = net[2].weight.detach()
    assert float(width) == pytest.approx(weights.std(correction=0).item())
    assert (width.layer, width.num_weights, width.counts.sum()) == ("2", 12, 12)
    assert len(width.bin_edges) == len(width.counts) + 1
    assert weight_width(net, layer="0").num_weights == 20


def test_weight_width_prefers_the_classifier():
    net = nn.ModuleDict({"classifier": nn.Linear(4, 3), "self_model": nn.Linear(4, 9)})
    assert weight_width(net).layer == "classifier"


def test_weight_width_refuses():
    with pytest.raises(ValueError, match=r"no nn\.Linear"):
        weight_width(nn.ReLU())
    with pytest.raises(ValueError, match="layer='x': no such module"):
        weight_width(nn.Linear(2, 2), layer="x")
    net = nn.Linear(2, 2)
    net.weight.data.fill_(math.nan)
    with pytest.raises(ValueError, match="must be finite, 4 are not"):
        weight_width(net, layer="")


@pytest.mark.parametrize("values", [[1e30] * 4, [-3e38, 3e38], [-1e-30] * 3, [0.0] * 3])
def test_the_histogram_of_weights_of_any_size(values):
    width = weight_width_of(torch.tensor(values))
    assert width.counts.sum() == len(values)
    assert np.isfinite(width.bin_edges).all()
    assert width.sd == pytest.approx(np.std(np.array(values)), rel=1e-6, abs=1e24)
