"""The tables of the status's error rates, from made-up estimates, and one small model."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

import status_table


def _estimate(llc: float, status: str, low: float, high: float) -> status_table.Row:
    return {"llc": llc, "standard_error": 0.1, "interval": [low, high], "ess": 100.0, "status": status, "reason": "why"}


ESTIMATES = [
    _estimate(10.1, "ok", 9.5, 10.7),  # good
    _estimate(10.9, "ok", 10.5, 11.3),  # good, and its interval is not
    _estimate(9.5, "biased", 9.0, 10.0),  # a false alarm
    _estimate(10.5, "not_converged", 9.0, 12.0),  # short of draws
    _estimate(11.5, "ok", 11.0, 12.0),  # neither good nor bad
    _estimate(13.0, "ok", 12.0, 14.0),  # a miss
    _estimate(float("nan"), "diverged", float("nan"), float("nan")),  # bad, and said so
]


def test_rates_count_false_alarms_misses_and_coverage():
    row = {"truth": 10.0, "estimates": ESTIMATES}
    assert status_table.rates_line("good", 1000, [row]) == "| good | 1000 | 4 | 1 | 1 | 2 | 1 | 1 of 4 |"


@pytest.mark.parametrize(("llc", "is_off"), [(0.7, False), (0.8, True), (0.3, False), (0.2, True)])
def test_small_values_are_off_by_nats(llc, is_off):
    assert status_table.off({"llc": llc}, 0.5, status_table.NEAR, status_table.NEAR_NATS) == is_off


@pytest.mark.slow
def test_a_run_that_was_stopped_goes_on(tmp_path, capsys):
    """The first of two tasks is in the file already."""
    parser = argparse.ArgumentParser()
    status_table.add_arguments(parser)
    file = tmp_path / "estimates.jsonl"
    args = parser.parse_args(["--count", "0", "--networks", "1", "--draws", "40", f"--file={file}"])
    status_table.run(args)
    complete = file.read_text()
    keys = [json.loads(line)["key"] for line in complete.splitlines()]
    assert len(keys) == len(set(keys)) == 10
    file.write_text("".join(complete.splitlines(keepends=True)[1:]))
    capsys.readouterr()
    status_table.run(args)
    shown = capsys.readouterr().out
    assert shown.splitlines()[0].startswith(keys[0])
    assert sorted(json.loads(line)["key"] for line in file.read_text().splitlines()) == sorted(keys)
    assert "| one epoch, softmax | good | 40 |" in shown
