"""The whole study: one folder, an index, and a second start that goes on."""

import json
from pathlib import Path

import pytest

from selfmod_hf import reproduce
from selfmod_hf.cli import main
from selfmod_hf.errors import InputError
from selfmod_hf.experiments.recipes import departures, describe_setting
from selfmod_hf.experiments.reproduce_settings import REPRODUCTIONS, ReproduceSettings, TaskParts
from selfmod_hf.experiments.reproduction_folder import ReproductionFolder
from selfmod_hf.experiments.sweep_settings import SweepSettings
from tests import warm

SMALL = TaskParts(
    quick={
        "hidden_sizes": [8], "aux_weights": [0, 10], "seeds": [1, 2], "num_train_epochs": 4, "num_chains": 2,
        "num_draws": 40, "max_train_samples": 200,
    },
    tune={
        "trials": 2, "stack": 2, "space": ["learning_rate=0.02:0.1:log", "aux_weight=0:10"], "num_train_epochs": 2,
        "max_train_samples": 200, "hidden_sizes": [8], "num_draws": 40, "give_up_below": 0,
    },
    full={"max_train_samples": 100},
)  # fmt: skip
START = f"""
import sys
from selfmod_hf.cli import main
from selfmod_hf.experiments.reproduce_settings import REPRODUCTIONS, TaskParts
REPRODUCTIONS["digits"] = {SMALL!r}
sys.exit(main(["reproduce", "--quiet", *sys.argv[1:]]))
"""


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setitem(REPRODUCTIONS, "digits", SMALL)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(REPRODUCTIONS, "digits", SMALL)
        assert main(["reproduce", "--tasks=digits", f"--output_dir={folder}"]) == 0
    return folder


def test_parts_and_index(finished):
    index = json.loads((finished / "study.json").read_text())
    assert index["scale"] == "quick"
    assert {"versions", "machine", "git_commit", "sessions"} <= set(index)
    task = index["tasks"]["digits"]
    assert list(task["parts"]) == ["tune", "sweep", "tensorboard", "report"]
    for part in task["parts"].values():
        assert part["seconds"] > 0
        for name in ("results", "logs"):
            assert name not in part or (finished / part[name]).exists()
    assert task["tuned"]["trials"]["complete"] + task["tuned"]["trials"]["pruned"] == 2
    assert task["tuned"]["used"] == "the experiment keeps the recipe's settings"
    assert task["flags"]["sweep"]["num_train_epochs"] == 4


def test_a_reduced_setting_is_said_everywhere(finished):
    index = json.loads((finished / "study.json").read_text())
    said = "num train epochs 4 instead of 100"
    assert said in index["tasks"]["digits"]["setting"]
    for name in ("report.txt", "report.html"):
        text = (finished / "digits" / "report" / name).read_text()
        assert said in text
        assert "Not the settings of the recipe" in text


def read_log(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(folder), size_guidance={"histograms": 0}).Reload()


def test_tensorboard_logs_hold_the_curves(finished):
    import pandas as pd

    curves = pd.read_parquet(finished / "digits" / "sweep" / "curves.parquet")
    own = curves[(curves["aux_weight"] == 10) & (curves["seed"] == 2)]
    log = read_log(finished / "digits" / "tensorboard" / "h8-aw10-seed2")
    names = {"eval/accuracy": "accuracy"}
    names |= {f"train/{name}": name for name in ("weight_width", "classification_loss", "self_modeling_loss", "loss")}
    samples = json.loads((finished / "digits" / "sweep" / "run.json").read_text())["train_samples"]
    steps = -(-samples // 64)
    for tag, name in names.items():
        events = log.Scalars(tag)
        assert [event.step for event in events] == [steps, 2 * steps, 3 * steps, 4 * steps]
        assert [event.value for event in events] == pytest.approx(own[name].tolist())
    (rlct,) = log.Scalars("train/rlct")
    rows = pd.read_parquet(finished / "digits" / "sweep" / "results.parquet")
    assert rlct.step == 4 * steps
    assert rlct.value == pytest.approx(rows[(rows["aux_weight"] == 10) & (rows["seed"] == 2)]["rlct"].item())


@pytest.mark.slow
def test_a_network_of_a_sweep_lies_over_its_own_training(tmp_path, monkeypatch):
    """The same names, steps and figures, whichever command trained it."""
    monkeypatch.chdir(tmp_path)
    limits = ["--max_train_samples=200", "--max_test_samples=50", "--num_train_epochs=2", "--quiet"]
    flags = ["--hidden_sizes=8", "--aux_weights=1", "--seeds=2", "--num_chains=2", "--num_draws=20"]
    assert main(["sweep", *flags, *limits, "--output_dir=grid", "--report_to=tensorboard"]) == 0
    flags = ["--task=digits", "--hidden_sizes=8", "--aux_weight=1", "--seed=2", "--report_to=tensorboard"]
    assert main(["train", *flags, *limits, "--output_dir=one"]) == 0
    swept, trained = read_log("grid/tensorboard/h8-aw1-seed2"), read_log("one/runs/one")
    common = set(swept.Tags()["scalars"]) & set(trained.Tags()["scalars"])
    assert common >= {"eval/accuracy", "train/weight_width", "train/classification_loss", "train/loss"}
    assert set(swept.Tags()["scalars"]) - common == {"train/rlct", "train/rlct_standard_error"}
    for tag in common:
        figures = [(event.step, event.value) for event in swept.Scalars(tag)]
        # the evaluation after the training repeats the last step
        expected = {event.step: event.value for event in trained.Scalars(tag)}
        assert dict(figures) == pytest.approx(expected)
    last = trained.Histograms("classifier.weight")[-1]
    (final,) = swept.Histograms("classifier.weight")
    assert (final.step, final.histogram_value.max) == (last.step, last.histogram_value.max)


def test_a_reproduction_in_python_continues_the_commands(finished, small, tmp_path):
    lines = []
    folder = reproduce("digits", output_dir=finished, say=lines.append)
    assert lines == []  # nothing is left to do
    assert folder.content["tasks"]["digits"]["setting"].startswith("Not the settings of the recipe")
    for settings, message in (
        ({"tasks": "digit"}, r"tasks=\['digit'\]: allowed are different ones of digits"),
        ({"scale": "medium"}, "scale='medium': allowed are quick, full"),
    ):
        with pytest.raises(InputError, match=message):
            reproduce(output_dir=tmp_path / "new", **settings)


def test_a_folder_that_names_its_settings_as_version_0_1_0_continues(finished, small, tmp_path):
    index = json.loads((finished / "study.json").read_text())
    search = index["tasks"]["digits"]["flags"]["tune"]
    search["rlct_draws"] = search.pop("num_draws")
    (tmp_path / "study.json").write_text(json.dumps(index))
    ReproductionFolder(tmp_path).check("quick", {"digits": ReproduceSettings().fields_of("digits")})


def test_finished_parts_are_not_done_again(finished, small, capsys):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()}
    assert main(["reproduce", "--tasks=digits", f"--output_dir={finished}"]) == 0
    after = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()}
    changed = {path.name for path in after if after[path] != before.get(path)}
    assert changed <= {"study.json", ".lock"}
    shown = capsys.readouterr().out
    answer = (finished / "digits" / "report" / "report.txt").read_text().splitlines()[0]
    place = f"report: {finished / 'digits' / 'report' / 'report.html'}"
    assert 0 < shown.index(f"digits. {answer}") < shown.index(place) < shown.index("Each arm, over its networks")


@pytest.mark.slow
@pytest.mark.parametrize("part", ["tune", "sweep", "report"])
def test_a_study_cut_in_any_part_goes_on(finished, small, tmp_path, monkeypatch, blank_figures, part):
    from selfmod_hf import reproduction

    def cut(*args, **kwargs):
        raise KeyboardInterrupt

    flags = ["reproduce", "--quiet", f"--tune={part == 'tune'}", f"--output_dir={tmp_path}"]
    with monkeypatch.context() as patched:
        patched.setattr(reproduction._Task, f"_{part}", cut)
        assert main(flags) == 130
    assert part not in json.loads((tmp_path / "study.json").read_text())["tasks"]["digits"]["parts"]
    assert main(flags) == 0
    results = "digits/sweep/results.json"
    assert (tmp_path / results).read_bytes() == (finished / results).read_bytes()


@pytest.mark.weekly
def test_a_killed_study_ends_the_same(finished, tmp_path):
    command = ["-c", START, f"--output_dir={tmp_path}"]
    kills = 0
    for seconds in (2, 3, 4, 3, 4):  # alone it takes about 9
        process = warm.start(command)
        process.join(seconds)
        if not process.is_alive():
            break
        process.kill()
        process.join()
        kills += 1
    warm.run(command, check=True)
    assert kills > 0
    for name in ("digits/sweep/results.json", "digits/sweep/curves.parquet"):
        assert (tmp_path / name).read_bytes() == (finished / name).read_bytes()
    assert (tmp_path / "digits" / "report" / "report.html").is_file()


@pytest.mark.weekly
def test_tuned_settings_where_they_are_asked_for(monkeypatch, tmp_path):
    searched = TaskParts(quick=SMALL.quick, tune={**REPRODUCTIONS["digits"].tune, "trials": 4}, full={})
    monkeypatch.setitem(REPRODUCTIONS, "digits", searched)
    assert main(["reproduce", "--use_tuned", "--quiet", f"--output_dir={tmp_path}"]) == 0
    task = json.loads((tmp_path / "study.json").read_text())["tasks"]["digits"]
    run = json.loads((tmp_path / "digits" / "sweep" / "run.json").read_text())
    assert 0.02 <= task["tuned"]["learning_rate"] <= 0.1
    assert run["settings"]["training"]["learning_rate"] == task["tuned"]["learning_rate"]
    assert "learning rate" in task["setting"]
    assert task["tuned"]["used"] == "the experiment uses its learning rate"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--tasks", "digit"], "--tasks=['digit']: allowed are different ones of digits, mnist, cifar10, imdb"),
        (["--tasks", "digits", "digits"], "--tasks=['digits', 'digits']"),
        (["--scale=medium"], "--scale='medium': allowed are quick, full"),
        (["--use_tuned", "--tune=False"], "--use_tuned=True: allowed if --tune is True"),
        (["--what=1"], "no such flag"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line(tmp_path, capsys, flags, message):
    assert main(["reproduce", *flags, f"--output_dir={tmp_path / 'new'}"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "new").exists()


def test_a_launcher_of_several_is_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["reproduce", f"--output_dir={tmp_path / 'new'}"]) == 2
    assert "reproduce runs in one process" in capsys.readouterr().err


def test_another_scale_is_refused(finished, small, capsys):
    assert main(["reproduce", "--scale=full", f"--output_dir={finished}"]) == 2
    assert "was begun with scale='quick', not 'full'" in capsys.readouterr().err


def test_a_task_of_other_flags_is_refused(finished, small, capsys):
    assert main(["reproduce", "--tune=False", f"--output_dir={finished}"]) == 2
    assert "was begun with digits=" in capsys.readouterr().err


def test_the_full_scale_trains_the_papers_grid():
    for task in ("mnist", "cifar10", "imdb"):
        plan = SweepSettings.make(task, **REPRODUCTIONS[task].full).plan()
        assert departures(plan.settings, plan.arms, plan.seeds) == []
        assert describe_setting(plan.settings, plan.arms, plan.seeds).startswith("Setting: arXiv 2407.10188")
        quick = SweepSettings.make(task, **REPRODUCTIONS[task].quick).plan()
        assert describe_setting(quick.settings, quick.arms, quick.seeds).startswith("Not the settings of the recipe")


def test_departures_name_what_differs():
    plan = SweepSettings.make("imdb", seeds=[1], learning_rate=0.2, max_train_samples=100, num_draws=50).plan()
    assert departures(plan.settings, plan.arms, plan.seeds) == [
        "learning rate 0.2 instead of 0.1",
        "num draws 50 instead of 1000",
        "max train samples 100",
        "seeds 1 instead of 1, 2, 3, 4, 5, 6, 7, 8, 9, 10",
    ]
    plain = SweepSettings.make("cifar10", augment=False).plan()
    assert departures(plain.settings, plain.arms, plain.seeds) == ["augment False instead of True"]
    attached = SweepSettings.make("imdb", detach_targets=False).plan()
    assert departures(attached.settings, attached.arms, attached.seeds) == ["detach targets False instead of True"]
