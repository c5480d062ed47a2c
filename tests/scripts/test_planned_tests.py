"""The tests of docs/preregistration.md, on made-up networks of known differences."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

import planned_tests

ROOT = Path(__file__).resolve().parents[2]
SEEDS = range(11, 21)
# arm -> RLCT, width, accuracy, share of dead units, hidden size
ARMS = {
    "baseline": (33.0, 0.26, 0.965, 0.0, 64),
    "own-10": (26.0, 0.22, 0.955, 0.5, 64),
    "as-own-10": (31.0, 0.20, 0.956, 0.0, 64),
    "other-a-10": (29.0, 0.25, 0.958, 0.4, 64),
    "as-other-a-10": (32.0, 0.24, 0.957, 0.0, 64),
    "decay-last-1e-3": (30.0, 0.24, 0.960, 0.0, 64),
    "decay-last-1e-2": (22.0, 0.20, 0.950, 0.0, 64),
    "penalty-1": (60.0, 0.50, 0.963, 0.0, 64),
    "units-48": (31.0, 0.30, 0.960, 0.0, 48),
    "units-24": (25.0, 0.40, 0.950, 0.0, 24),
}


@pytest.fixture(scope="module")
def table():
    noise = np.random.default_rng(0)
    rows = []
    for arm, (rlct, width, accuracy, dead, size) in ARMS.items():
        for seed in SEEDS:
            row = {"arm": arm, "seed": seed, "rlct_status": "ok", "at_chance": False, "hidden_size": size}
            measured = {"rlct": rlct + 0.2 * noise.normal(), "weight_width": width, "accuracy": accuracy}
            rows.append({**row, **measured, "dead_units": dead, "unit_free_width": 1.0 + dead})
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def found(table):
    return {(row["question"], row["contrast"]): row for row in planned_tests.judged(table)}


def test_equal_training_loss(found):
    row = found["a", "own-10 - as-own-10"]
    assert row["difference"] == pytest.approx(-5, abs=0.3)
    assert row["verdict"] == "lower"
    assert row["seeds"] == 10
    share, low, high = [float(word.strip("[],")) for word in planned_tests.share_text(row["share"]).split()]
    assert low < share < high
    assert share == pytest.approx(5 / 7, abs=0.05)


def test_falls_of_own_and_other_targets(found):
    assert found["c", "D(own-10) - D(other-a-10)"]["difference"] == pytest.approx(-5 + 3, abs=0.4)
    assert found["c, plain", "own-10 - other-a-10"]["difference"] == pytest.approx(-3, abs=0.3)


def test_controls_are_interpolated(found):
    """Halfway between two widths is halfway between two RLCTs, and so for accuracies."""
    for at in ("weight_width", "accuracy"):
        row = found["d", f"own-10 - (decay-last-1e-3 to decay-last-1e-2) at equal {at}"]
        assert row["difference"] == pytest.approx(0, abs=0.3)
        assert row["verdict"] == "the same"
    assert ("d", "own-10 - (baseline, outside) at equal weight_width") in found


def test_as_many_units_as_are_alive(found):
    row = found["h", "own-10 - (units-48 to units-24) at equal live_units"]
    assert row["difference"] == pytest.approx(26 - 27, abs=0.3)  # 32 of 64 units are alive
    assert planned_tests.share_text(row["share"]).startswith("0.8")  # (33 - 27) / (33 - 26)


def test_unusable_networks_change_a_verdict(table):
    worse = table.copy()
    own = worse["arm"] == "own-10"
    worse.loc[own & (worse["seed"] < 18), ["rlct", "rlct_status"]] = [99.0, "not_at_minimum"]
    (row,) = [row for row in planned_tests.judged(worse) if row["question"] == "a"]
    assert row["seeds"] == 3
    assert "not robust, with every RLCT" in str(row["verdict"])


def test_differences_that_do_not_vary():
    equal = pd.Series([0.1, 0.1, 0.1])
    contrast = planned_tests.Contrast("b", "weight_width", "x - y", equal, equal, 0.01)
    (row,) = planned_tests.judge([contrast])
    assert row["verdict"] == "the same"


def test_theory(tmp_path):
    rows: list[dict[str, object]] = [{"step_size": 1e-4}]  # the calibration
    for step_size in (1e-4, 5e-5):
        for arm, llc in (("baseline", 380), ("own-10", 266), ("units-32", 334)):
            values = [llc, llc + 1, llc + 3 * step_size, llc - 1, llc + 2 + len(arm) / 10]
            rows.append({"arm": arm, "step_size": step_size, "llc": values})
    file = tmp_path / "estimates.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    judged = planned_tests.judge(planned_tests.theory_contrasts(file, range(11, 16)))
    assert [row["contrast"] for row in judged] == 2 * ["own-10 - baseline", "own-10 - units-32"]
    assert {row["verdict"] for row in judged} == {"lower"}
    assert len({row["measure"] for row in judged}) == 2


def test_exploratory_study():
    """The control study of two seeds, whose means LOG.md has: 26.2 beside 31.2."""
    table = planned_tests.read_table(ROOT / "docs" / "results" / "controls-h64")
    rows = planned_tests.judge(planned_tests.Study(table).contrasts())
    (row,) = [row for row in rows if row["question"] == "a" and row["contrast"] == "own-10 - as-own-10"]
    assert row["difference"] == pytest.approx(26.2 - 31.2, abs=0.1)
