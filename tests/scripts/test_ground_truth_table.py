"""The table of ground truth by kind: each model once, whatever stops the run, and errors counted as they are."""

from __future__ import annotations

import argparse
import json

import pytest

from scripts.ground_truth_table import Row, add_arguments, covers, error_of, print_tables, rank_correlation, run


def _arguments(file, *more: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(["--num_draws=60", "--kinds", "sum of powers", f"--file={file}", *more])


@pytest.mark.slow
def test_a_stopped_run_goes_on_behind_its_last_model(tmp_path, capsys):
    file = tmp_path / "rows.jsonl"
    run(_arguments(file, "--count=1"))
    with file.open("a", encoding="utf-8") as out:
        out.write('{"key": "cut')
    first = file.read_text(encoding="utf-8").splitlines()[0]
    run(_arguments(file, "--count=2"))
    lines = file.read_text(encoding="utf-8").splitlines()
    assert lines[0] == first
    rows = [json.loads(line) for line in (lines[0], lines[-1])]
    assert [row["key"] for row in rows] == ["sum of powers 0", "sum of powers 2"]
    capsys.readouterr()
    run(_arguments(file, "--count=2"))
    table = capsys.readouterr().out
    assert "| sum of powers | 2 |" in table
    assert table.count(rows[0]["name"][:20]) <= 1  # not estimated again


def _row(llc: float, status: str = "ok") -> Row:
    return {
        "key": str(llc),
        "kind": "linear regression",
        "name": f"model {llc}",
        "truth": 10.0,
        "llc": llc,
        "standard_error": 0.2,
        "interval": [llc - 0.5, llc + 0.5],
        "status": status,
        "seconds": 2.0,
        "cell": {"llc": llc, "exact": 9.0},
    }


def test_the_table_counts_what_is_ok_and_wrong(capsys):
    rows = [_row(10.2), _row(9.0), _row(13.0), _row(30.0, "biased"), _row(float("nan"), "diverged")]
    print_tables(rows)
    printed = capsys.readouterr().out
    assert "| linear regression | 5 | 3 | 30.0% | 40% | 1 | 1 of 3 | 5.0% | 2 |" in printed
    assert "ok and over 20 % off: model 13.0" in printed
    assert "model 30.0" not in printed
    assert "off their own exact value by 44.4% in the median" in printed
    assert [covers(row) for row in rows[:3]] == [True, False, False]
    assert error_of(rows[-1]) == float("inf")


def test_rank_correlation_leaves_out_what_has_no_estimate():
    rows = [_row(1.0), _row(2.0), _row(3.0), _row(float("nan"))]
    for truth, row in enumerate(rows):
        row["truth"] = float(truth + 1)
    assert rank_correlation(rows) == 1.0
