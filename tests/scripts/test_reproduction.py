"""scripts/reproduction.py: REPRODUCTION.md is that of the committed tables, and further tables fill it."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pandas as pd
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

import reproduction

from selfmod_hf.experiments.kept_tables import open_study
from selfmod_hf.reports.export import export_tables
from tests.reports.folders import grid, write_study

RESULTS = reproduction.ROOT / "docs" / "results"


@pytest.fixture(scope="module")
def tables():
    return reproduction.read_tables(RESULTS)


def test_the_document_is_that_of_the_committed_tables():
    assert reproduction.main(["--check"]) == 0


def test_every_published_value_is_beside_ours(tables):
    values = reproduction.values_of(tables)
    assert sum(map(len, values.values())) == 3 * (4 * 6 + 4 + 3)
    rlct = values["mnist", 64, "rlct"]
    own = pd.read_parquet(RESULTS / "figure2-h64" / "results.parquet").groupby("aux_weight")["rlct"]
    assert [value.ours for value in rlct] == pytest.approx(own.mean().tolist())
    half = own.sem() * 2.262157  # Student's t, 9 degrees of freedom
    assert [value.high - value.ours for value in rlct] == pytest.approx(half.tolist(), rel=1e-5)
    assert [value.is_inside for value in rlct] == [True, True, False, True, True, True]


def test_a_value_is_inside_of_an_interval_or_near_it():
    value = reproduction.Value("0", 100.0, ours=103.0, low=101.0, high=105.0, seeds=10)
    assert (value.is_inside, value.is_near) == (False, True)
    assert reproduction.inside(value) == "+3.0 %, near"
    assert reproduction.inside(reproduction.Value("0", 100.0, 103.0, 102.5, 105.0, 10)) == "+3.0 %"
    assert reproduction.inside(reproduction.Value("0", 100.0)) == ""


def test_further_tables_fill_the_document(tmp_path):
    """Weights over epochs come with h = 512. Of an arm in two folders the one with more seeds counts."""
    shutil.copytree(RESULTS / "figure2-h64", tmp_path / "results" / "figure2-h64")
    tables = reproduction.read_tables(tmp_path / "results")
    before = reproduction.block(tables)
    assert "**h = 512**: not run. `selfmod sweep --recipe mnist --hidden_sizes 512" in before
    assert "The paper's figures have 98 values. 18 of them were run" in before
    study = write_study(
        tmp_path / "study", grid(hidden_sizes=[[64], [512]], aux_weight=[0.0, 1.0]), [1, 2], task="mnist", epochs=50
    )
    export_tables(open_study(study), tmp_path / "results" / "figure2")
    after = reproduction.block(reproduction.read_tables(tmp_path / "results"))
    assert "**h = 512**, 0 to 2 of 10 seeds." in after
    assert "**h = 64**, 10 seeds:" in after
    line = next(line for line in after.splitlines() if line.startswith("| 50 |") and "0.097" in line)
    assert line.startswith("| 50 | 0.297")
    assert line.count("|") == 5
    run = 18 + 3 * 2 + 5
    assert f"The paper's figures have 98 values. {run} of them were run" in after


@pytest.mark.slow
def test_the_command_replaces_its_part_and_draws_the_figures(tmp_path):
    document = tmp_path / "x.md"
    document.write_text(f"before\n{reproduction.BEGIN}\nold\n{reproduction.END}\nafter\n")
    arguments = ["--document", str(document), "--figures", str(tmp_path)]
    assert reproduction.main([*arguments, "--check"]) == 1
    assert reproduction.main(arguments) == 0
    text = document.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "\nold\n" not in text
    assert reproduction.main([*arguments, "--check"]) == 0
    for name in ("figure2.png", "rlct-h64.png"):
        assert (tmp_path / name).stat().st_size > 10_000
