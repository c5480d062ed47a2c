"""Networks that are no better than guessing: said, and out of means unless asked."""

import json
import shutil
from pathlib import Path

import pytest

from selfmod_hf.cli import main
from selfmod_hf.experiments.folder import SweepFolder
from selfmod_hf.reports.sweep_results import read_results
from selfmod_hf.reports.sweep_tables import overview

WEAK = "h8-aw10-seed2"


def change(path: Path, **values) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.fixture
def sweep(small_sweep, tmp_path) -> Path:
    """A sweep of which one network has learned nothing."""
    folder = tmp_path / "sweep"
    shutil.copytree(small_sweep, folder)
    for path in folder.glob("cells/*/row.json"):
        change(path, accuracy=0.8, rlct_status="ok")
    change(folder / "cells" / WEAK / "row.json", accuracy=0.1)
    return folder


def test_the_level_is_two_standard_errors_above_the_most_frequent_class(sweep):
    change(sweep / "run.json", test_samples=100, chance=0.5)
    assert SweepFolder(sweep).chance_level() == pytest.approx(0.6)
    run = json.loads((sweep / "run.json").read_text())
    del run["chance"], run["metrics"]  # as version 0.1.0 wrote it
    (sweep / "run.json").write_text(json.dumps(run))
    assert SweepFolder(sweep).chance_level() == pytest.approx(0.1 + 2 * 0.03)  # digits have ten classes
    for path in sweep.glob("cells/*/config.json"):
        path.unlink()
    assert SweepFolder(sweep).chance_level() is None


def test_a_sweep_knows_its_largest_class(small_sweep):
    run = json.loads((small_sweep / "run.json").read_text())
    assert run["chance"] == pytest.approx(0.1, abs=0.02)


@pytest.mark.parametrize("keep", [False, True])
def test_means_tests_and_trends(sweep, keep):
    results = read_results(SweepFolder(sweep, keep_chance=keep))
    assert results.rows["at_chance"].sum() == (0 if keep else 1)
    arms = results.arms.set_index(["aux_weight", "measure"])
    assert arms.loc[(10, "accuracy"), "mean"] == pytest.approx(0.45 if keep else 0.8)
    assert arms.loc[(10, "weight_width"), "count"] == (2 if keep else 1)
    assert arms.loc[(0, "accuracy"), "count"] == 2
    tests = results.tests.set_index("measure")
    assert tests.loc["accuracy", "test"] == ("paired t" if keep else "none (fewer than 2 usable)")
    assert results.trends.set_index("measure").loc["accuracy", "left_out"] == (0 if keep else 1)
    warned = "1 of 4 networks are at chance level" in overview(results)
    assert warned is not keep


def test_the_report_warns_and_counts_them_where_that_is_asked_for(sweep, capsys):
    assert main(["report", str(sweep)]) == 0
    output = capsys.readouterr().out
    assert "Warning: 1 of 4 networks are at chance level" in output
    assert "8  detached  10  2      0.100" in output
    page = (sweep / "report" / "report.html").read_text()
    assert "1 of 4 networks are at chance level" in page
    assert "at chance" in page
    assert main(["report", str(sweep), "--keep_chance"]) == 0
    assert "chance level" not in capsys.readouterr().out
    assert "1 of 4 networks" not in (sweep / "report" / "report.html").read_text().replace("have an RLCT", "")


def test_the_tables_are_those_of_before(sweep):
    SweepFolder(sweep).write_tables()
    assert "at_chance" not in json.loads((sweep / "results.json").read_text())[0]


def test_a_sweep_that_learns_nothing_says_so(tmp_path, capsys):
    flags = ["--hidden_sizes=4", "--aux_weights=0", "--seeds", "1", "2", "--learning_rate=1e-12", "--num_draws=4"]
    limits = ["--num_train_epochs=1", "--max_train_samples=50", "--num_chains=1", "--quiet"]
    assert main(["sweep", *flags, *limits, f"--output_dir={tmp_path}"]) == 0
    assert "Warning: 2 of 2 networks are at chance level" in capsys.readouterr().out
