"""Reports of tables that were kept alone: those in docs/results, and those that `selfmod report` writes of a study."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from selfmod_hf import report
from selfmod_hf.cli import main
from selfmod_hf.errors import InputError
from selfmod_hf.experiments.kept_tables import open_study
from selfmod_hf.reports.drawn_study import prepare
from selfmod_hf.reports.export import KEPT, export_tables
from selfmod_hf.reports.figures import sweep_figures
from selfmod_hf.reports.html_report import write_html_report
from selfmod_hf.reports.sweep_results import read_results
from selfmod_hf.reports.sweep_tables import sweep_tables
from tests.browser import open_page, wait_for

from .folders import change_row, grid, write_study

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results"
GRID = {"figure2", "arms", "training_loss", "epochs"}
OF_CONTROLS = {"arms", "training_loss", "epochs", "measures"}
FIGURES = {"figure2": GRID, "figure2-h64": GRID, "figure2-h128": GRID, "figure2-h256": GRID, "figure2-h512": GRID}


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(path.parent.name for path in RESULTS.glob("*/results.parquet")))
def test_figures_are_drawn_from_the_committed_tables(name, tmp_path):
    results = read_results(open_study(RESULTS / name))
    figures = sweep_figures(results)
    assert set(figures) == FIGURES.get(name, OF_CONTROLS)
    for drawing, figure in figures.items():
        file = tmp_path / f"{drawing}.png"
        figure.savefig(file, dpi=30)
        assert file.stat().st_size > 5000
    assert "RLCT" in str(results.answer)


def test_figure_2_of_the_committed_tables_has_the_papers_values_and_all_networks():
    """The tables are of version 0.1.0: their networks have no arms."""
    results = read_results(open_study(RESULTS / "figure2-h64"))
    assert [arm.name for arm in results.study] == [f"h64-aw{weight}" for weight in (0, 1, 5, 10, 20, 50)]
    drawn = prepare(results)
    assert drawn.published("h64", "rlct")["published"].tolist() == [33, 31.5, 29.5, 25.5, -3.5, -5.5]
    assert results.rows.groupby("arm").size().tolist() == [10] * 6
    assert results.rows.query("aux_weight == 50")["at_chance"].all()


def test_figure_2_of_several_widths_draws_negative_rlcts_below_all_others(tmp_path):
    """The collapsed networks alone are drawn there. The median of their RLCTs is not that of all."""
    arms = grid(hidden_sizes=[[8], [16]], aux_weight=[0.0, 1.0, 5.0, 10.0, 50.0])
    folder = write_study(tmp_path, arms, [1, 2, 3], task="mnist", epochs=2)
    for seed in (1, 2, 3):
        change_row(folder, f"h8-aw50-seed{seed}", rlct=-100.0 - seed, rlct_status="not_at_minimum")
    figure = sweep_figures(read_results(open_study(folder)))["figure2"]
    (axis,) = [axis for axis in figure.axes if axis.get_ylabel() == "RLCT"]
    markers = [line.get_marker() for line in axis.lines]
    assert markers.count("v") == 3
    assert "^" not in markers


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    """A study that learned of data and of another network in folders of this machine."""
    arms = grid(hidden_sizes=[[8]], aux_weight=[0.0, 10.0])
    folder = write_study(tmp_path_factory.mktemp("kept") / "study", arms, [1, 2], measures=["dead_units"])
    run = json.loads((folder / "run.json").read_text())
    run["settings"]["data"] = {"dataset_name": "/home/ann/pictures"}
    (folder / "run.json").write_text(json.dumps(run | {"local_data": True}))
    return folder


@pytest.mark.slow
def test_a_report_of_the_tables_alone_is_that_of_the_study(study, tmp_path, capsys):
    assert main(["report", str(study), f"--output_dir={tmp_path}/whole", f"--tables_dir={tmp_path}/tables"]) == 0
    out = capsys.readouterr().out
    assert out.endswith(f"{tmp_path}/tables: {', '.join(KEPT)}\n")
    assert {path.name for path in (tmp_path / "tables").iterdir()} == set(KEPT)
    of_tables = report(tmp_path / "tables", tmp_path / "report")
    whole = read_results(open_study(study))
    tables = of_tables.text.partition("How it was run")[0]
    assert out.startswith(tables)
    drawn = {path.name for path in (tmp_path / "whole").iterdir()}
    assert {path.name for path in (tmp_path / "report").iterdir()} == drawn - {"weights.png", "weights.pdf"}
    page = (tmp_path / "report" / "report.html").read_text()
    assert '"histogram":null' in page
    assert '"trace":null' in page
    pd.testing.assert_frame_equal(of_tables.results.rows, whole.rows)
    pd.testing.assert_frame_equal(of_tables.results.curves, whole.curves)


def test_the_page_of_tables_says_that_weights_and_traces_were_not_kept(browser, study, tmp_path):
    export_tables(open_study(study), tmp_path)
    results = read_results(open_study(tmp_path))
    page = tmp_path / "report.html"
    write_html_report(results, sweep_tables(results), page)
    open_page(browser, page.as_uri())
    wait_for(browser, "return document.documentElement.dataset.drawnAfter")
    texts = "return [...document.querySelectorAll(arguments[0])].map(text => text.textContent)"
    for plot in ("trace", "weights"):
        assert browser.execute_script(texts, f"#{plot} .annotation-text") == ["not kept"]
    assert [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []


def test_tables_have_neither_sessions_nor_local_paths(study, tmp_path):
    files = export_tables(open_study(study), tmp_path)
    run = json.loads((tmp_path / "run.json").read_text())
    assert "sessions" not in run
    assert run["settings"]["data"] == {"dataset_name": "pictures"}
    for file in files:
        assert b"/home/ann" not in file.read_bytes()
    again = tmp_path / "again"
    export_tables(open_study(tmp_path), again)
    assert [(again / file.name).read_bytes() for file in files] == [file.read_bytes() for file in files]


def test_tables_are_not_written_into_the_study(study, capsys):
    assert main(["report", str(study), f"--tables_dir={study}/../study"]) == 2
    assert "--tables_dir" in capsys.readouterr().err
    assert (study / "cells").is_dir()


@pytest.mark.parametrize("change", ["no curves", "no parquet", "no column", "wrong type"])
def test_unusable_tables_are_rejected(change, tmp_path):
    folder = shutil.copytree(RESULTS / "figure2-h64", tmp_path / "tables")
    file = folder / "results.parquet"
    table = pd.read_parquet(file)
    if change == "no curves":
        (folder / "curves.parquet").unlink()
    elif change == "no parquet":
        file.write_text("{}")
    elif change == "no column":
        table.drop(columns="rlct_status").to_parquet(file)
    else:
        table.assign(seed=table["seed"].map(str)).to_parquet(file)
    with pytest.raises(InputError, match=r"parquet.*(cannot be read|rlct_status is missing|seed='1')") as error:
        report(folder, tmp_path / "report")
    assert "\n" not in str(error.value)
