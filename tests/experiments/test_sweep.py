"""The sweep: resumable at any point, the same numbers however it is cut."""

import json
import math
import re
import shutil
import signal
import time
from pathlib import Path

import pandas as pd
import pytest
import torch

from selfmod_hf import SelfModelingForImageClassification, SelfModelingTrainer, SweepSettings, run_sweep, weight_width
from selfmod_hf.cli import main
from selfmod_hf.data import get_task, load_images
from selfmod_hf.errors import InputError
from selfmod_hf.experiments import footprint as memory
from selfmod_hf.experiments import sweep_population
from selfmod_hf.experiments.folder import CURVE_COLUMNS, RESULT_COLUMNS, WEIGHTS_COLUMN, SweepFolder
from tests import warm

SMALL = [
    "--recipe=digits", "--hidden_sizes=8", "--aux_weights", "0", "10", "--seeds", "1", "2", "--num_train_epochs=2",
    "--num_chains=2", "--num_draws=40", "--max_train_samples=200", "--quiet",
]  # fmt: skip
SCRIPT = Path(__file__).parents[2] / "scripts" / "sweep.py"
FIGURES = ("figure2", "arms", "training_loss", "epochs", "weights")
TABLES = ("results.json", "results.parquet", "curves.parquet")


def tables(folder: Path) -> list[bytes]:
    return [(folder / name).read_bytes() for name in TABLES]


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sweep")
    assert main(["sweep", *SMALL, f"--output_dir={folder}"]) == 0
    return folder


def test_tables_models_and_run(finished):
    rows, curves = pd.read_parquet(finished / "results.parquet"), pd.read_parquet(finished / "curves.parquet")
    assert tuple(rows.columns) == RESULT_COLUMNS + WEIGHTS_COLUMN
    assert tuple(curves.columns) == CURVE_COLUMNS + WEIGHTS_COLUMN
    assert (len(rows), len(curves)) == (4, 8)
    for row, entry in zip(rows.to_dict("records"), json.loads((finished / "results.json").read_text()), strict=True):
        assert row == pytest.approx(entry, nan_ok=True)
    model = SelfModelingForImageClassification.from_pretrained(finished / "cells" / "h8-aw10-seed2").eval()
    row = rows[(rows["aux_weight"] == 10) & (rows["seed"] == 2)].iloc[0]
    assert weight_width(model).sd == pytest.approx(row["weight_width"])
    pixels, labels = load_images(get_task("digits")).test.all()
    assert (model(pixels).logits.argmax(1) == labels).double().mean().item() == pytest.approx(row["accuracy"])
    run = json.loads((finished / "run.json").read_text())
    assert run["settings"]["training"]["num_train_epochs"] == 2
    assert {"versions", "machine", "git_commit", "sessions"} <= set(run)
    assert list((finished / "populations").iterdir()) == []


def test_a_cell_equals_the_network_trained_alone(finished, tmp_path):
    flags = ["--task=digits", "--hidden_sizes=8", "--aux_weight=10", "--seed=2", "--num_train_epochs=2", "--quiet"]
    assert main(["train", *flags, "--max_train_samples=200", f"--output_dir={tmp_path}"]) == 0
    alone = SelfModelingForImageClassification.from_pretrained(tmp_path).state_dict()
    member = SelfModelingForImageClassification.from_pretrained(finished / "cells" / "h8-aw10-seed2").state_dict()
    for name, value in alone.items():
        torch.testing.assert_close(member[name], value, rtol=0, atol=1e-5)


def test_a_sweep_in_python_is_the_command(finished, tmp_path):
    lines = []
    settings = {"hidden_sizes": [8], "aux_weights": [0, 10], "seeds": [1, 2], "num_train_epochs": 2}
    settings |= {"num_chains": 2, "num_draws": 40, "max_train_samples": 200}
    folder = run_sweep("digits", output_dir=tmp_path, say=lines.append, **settings)
    assert tables(tmp_path) == tables(finished)
    assert len(folder.rows()) == 4
    assert lines[0] == "h8-aw0-seed1 and 3 more: training 4 networks of width 8"
    more = run_sweep(SweepSettings.make("digits", **settings | {"aux_weights": [1]}), output_dir=tmp_path)
    assert sorted(set(more.rows()["aux_weight"])) == [0, 1, 10]
    assert [session.command for session in folder.read_run().sessions] == [[], []]
    assert SweepFolder(finished).read_run().sessions[0].command[0] == "sweep"


def test_keywords_replace_fields_of_a_settings_object(tmp_path):
    few = {"aux_weights": [0], "seeds": [1], "num_train_epochs": 1, "num_chains": 1}
    settings = SweepSettings.make("digits", hidden_sizes=[4], **few)
    folder = run_sweep(settings, output_dir=tmp_path, max_train_samples=40, num_train_epochs=2.0, num_draws=6)
    record = folder.read_run()
    assert record.settings.sampling["num_draws"] == 6
    assert record.settings.training["num_train_epochs"] == 2
    assert record.train_samples == 40
    assert settings.base["num_train_epochs"] == 1


def test_a_sweep_in_python_names_the_field_of_an_error(tmp_path):
    for settings, message in (
        ({"recipe": "mnists"}, "recipe='mnists': allowed are mnist"),
        ({"seeds": [1, 1]}, r"seeds=\[1, 1\]: allowed are different numbers"),
        ({"seeds": []}, r"seeds=\[\]: allowed"),
        ({"seeds": "3"}, "seeds='3': allowed are lists of integers"),
        ({"num_train_epochs": 2.5}, "num_train_epochs=2.5: allowed are integers"),
        ({"num_train_epochs": "2"}, "num_train_epochs='2': allowed are numbers"),
        ({"bf16": "False"}, "bf16='False': allowed are True and False"),
        ({"recipe": 3}, "recipe=3: allowed are texts or None"),
        ({"seed": 3}, "seed=3: a sweep has `seeds`"),
        ({"nun_draws": 4}, "nun_draws=4: no setting has this name; did you mean num_draws"),
        ({"memory_gib": 0}, "memory_gib=0: allowed are finite numbers above 0"),
    ):
        with pytest.raises(InputError, match=message):
            run_sweep(output_dir=tmp_path / "new", **settings)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"^output_dir=.*cannot be written to"):
        run_sweep(output_dir=tmp_path / "file")
    assert not (tmp_path / "new").exists()


def test_finished_cells_are_not_done_again(finished, monkeypatch):
    before = tables(finished)
    monkeypatch.setattr(sweep_population, "make_trainer", None)
    assert main(["sweep", *SMALL, f"--output_dir={finished}"]) == 0
    assert tables(finished) == before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ([], "training 4 networks of width 8, the members over 2 processes"),
        (["--memory_gib=0.0001"], "one at a time, each batch split over the processes"),  # too large for stacking
    ],
)
def test_two_processes_give_the_results_of_one(finished, tmp_path, flags, said):
    done = warm.run_two([SCRIPT, *SMALL[:-1], f"--output_dir={tmp_path}", *flags])
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count(said) == 1
    for name in ("results.parquet", "curves.parquet"):
        found, expected = pd.read_parquet(tmp_path / name), pd.read_parquet(finished / name)
        found, expected = (table.drop(columns="weights_sha256") for table in (found, expected))  # differ by rounding
        pd.testing.assert_frame_equal(found, expected, rtol=1e-3)


@pytest.fixture(scope="module")
def in_two_groups(tmp_path_factory) -> Path:
    """The same, its RLCTs sampled two networks at a time."""
    folder = tmp_path_factory.mktemp("groups")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(memory, "RLCT_GROUP", 2)
        assert main(["sweep", *SMALL, f"--output_dir={folder}"]) == 0
    return folder


@pytest.mark.parametrize(
    ("part", "time"),
    [
        ("SelfModelingTrainer.save_model", 2),
        ("estimate_rlct", 2),
        ("SweepFolder.finish", 2),
        ("SweepFolder.write_tables", 1),
    ],
)
def test_a_sweep_cut_anywhere_ends_the_same(in_two_groups, tmp_path, monkeypatch, part, time):
    """Cut when that part of the work is entered for the first or second time."""
    owner, _, name = part.rpartition(".")
    where = {"SweepFolder": SweepFolder, "SelfModelingTrainer": SelfModelingTrainer}.get(owner, sweep_population)
    original, calls = getattr(where, name), []

    def cut(*args, **kwargs):
        calls.append(1)
        if len(calls) == time:
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    flags = ["sweep", *SMALL, f"--output_dir={tmp_path}"]
    monkeypatch.setattr(memory, "RLCT_GROUP", 2)
    with monkeypatch.context() as patched:
        patched.setattr(where, name, cut)
        assert main(flags) == 130
    assert main(flags) == 0
    assert tables(tmp_path) == tables(in_two_groups)


@pytest.mark.slow
def test_a_sweep_killed_five_times_ends_the_same(finished, tmp_path):
    """Killed at random moments between the start of its work and its end, started again each time; where it comes to
    its end before five kills, it is compared and begun anew."""
    generator = torch.Generator().manual_seed(0)
    folder, kills, ended = tmp_path / "sweep", 0, False
    while kills < 5 or not ended:
        sessions = number_of_sessions(folder)
        process = warm.start([SCRIPT, *SMALL, f"--output_dir={folder}"])
        if kills < 5:
            while process.is_alive() and number_of_sessions(folder) == sessions:  # still importing
                time.sleep(0.01)
            time.sleep(torch.rand((), generator=generator).item())  # the work alone takes about a second
            process.kill()
        process.join()
        ended = process.exitcode != -signal.SIGKILL
        kills += not ended
        if ended:
            assert process.exitcode == 0
            assert tables(folder) == tables(finished)
            shutil.rmtree(folder)


def number_of_sessions(folder: Path) -> int:
    run = folder / "run.json"
    return len(json.loads(run.read_text())["sessions"]) if run.is_file() else 0


def test_further_settings_replace_the_preset_s(tmp_path):
    given = {"batch_size": 16, "sampler": "sghmc", "step_size": 2e-5}
    settings = {"hidden_sizes": [8], "aux_weights": [0], "seeds": [1], "num_train_epochs": 1, "num_draws": 4}
    folder = run_sweep("digits", rlct_preset="theory", rlct_settings=given, **settings, output_dir=tmp_path / "sweep")
    (file,) = folder.path.glob("cells/*/rlct.json")
    result = json.loads(file.read_text())
    used = result["settings"]
    assert {name: used[name] for name in given} == given
    assert used["preset"] == "theory with batch_size, sampler, step_size"
    assert used["num_draws"] == 4
    assert result["nbeta"] == pytest.approx(1437 / math.log(1437))


def test_two_sweeps_on_one_folder_refuse_each_other(tmp_path, capsys):
    with SweepFolder(tmp_path).locked():
        assert main(["sweep", *SMALL, f"--output_dir={tmp_path}"]) == 2
    assert "another sweep is at work" in capsys.readouterr().err
    with SweepFolder(tmp_path).locked():  # what a process leaves behind is in nobody's way
        pass


def test_other_settings_are_refused(finished, capsys):
    assert main(["sweep", *SMALL, "--num_train_epochs=3", f"--output_dir={finished}"]) == 2
    assert "was begun with num_train_epochs=2, not 3" in capsys.readouterr().err
    assert main(["sweep", *SMALL, "--bf16", f"--output_dir={finished}"]) == 2
    assert "was begun with bf16=None, not True" in capsys.readouterr().err


def test_more_seeds_join_a_finished_folder(finished, capsys):
    assert main(["sweep", *SMALL, "--seeds", "1", "2", "3", f"--output_dir={finished}", "--dry_run"]) == 0
    assert "6 networks" in (shown := capsys.readouterr().out)
    assert re.search(r"2 networks of width 8, .*: about [\d.]+ GiB, [\d.]+ min\n", shown)
    assert "4 of them finished" in shown
    assert "h8-aw0-seed3 .. h8-aw10-seed3" in shown


def test_the_paper_grid_has_240_networks_and_a_baseline_is_trained_once():
    assert len(SweepSettings.make("mnist").plan().cells) == 240
    both = SweepSettings.make("mnist", hidden_sizes=[64], aux_weights=[0, 1], seeds=[1, 2], detach_targets="both")
    assert len(both.plan().cells) == 6


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--recipe=mnists"], "--recipe='mnists': allowed are mnist, cifar10, cifar10-paper-text, imdb, digits"),
        (["--aux_weights", "-1"], "--aux_weights=[-1.0]"),
        (["--seeds", "1", "1"], "--seeds=[1, 1]"),
        (["--num_train_epochs=0"], "--num_train_epochs=0"),
        (["--num_draws=1"], "num_draws=1"),
        (["--detach_targets=maybe"], "allowed are true, false, both"),
        (["--rlct_preset=best"], "preset='best'"),
        (['--rlct_settings={"batch_size": 0}'], "batch_size=0"),
        (["--what=1"], "no such flag"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line(tmp_path, capsys, flags, message):
    assert main(["sweep", *flags, f"--output_dir={tmp_path / 'new'}"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "new").exists()


def test_report(finished, capsys):
    assert main(["report", str(finished)]) == 0
    text = capsys.readouterr().out
    assert "4 of 4 RLCTs are not ok." in text
    names = {f"{name}.{kind}" for name in FIGURES for kind in ("png", "pdf")}
    assert {path.name for path in (finished / "report").iterdir()} == {*names, "report.txt", "report.html"}
    assert all((finished / "report" / name).stat().st_size > 2000 for name in names)


def test_report_of_attached_and_detached_targets(finished, tmp_path, capsys):
    """The networks of weight 10 once more, under the name of attached ones."""
    folder = tmp_path / "sweep"
    shutil.copytree(finished, folder)
    for cell in list((folder / "cells").glob("h8-aw10-seed*")):
        twin = cell.with_name(cell.name.replace("aw10", "aw10-attached"))
        shutil.copytree(cell, twin)
        for name in ("row.json", "curve.json"):
            text = (twin / name).read_text().replace('"detach_targets": true', '"detach_targets": false')
            (twin / name).write_text(text.replace('"arm": "h8-aw10"', '"arm": "h8-aw10-attached"'))
    assert main(["report", str(folder)]) == 0
    assert "Targets attached against detached" in capsys.readouterr().out
    assert {"targets.png", "targets.pdf", "figure2_attached.png"} <= {
        path.name for path in (folder / "report").iterdir()
    }


def test_a_report_needs_a_sweep(tmp_path, capsys):
    assert main(["report", str(tmp_path)]) == 2
    assert "holds no finished network" in capsys.readouterr().err
