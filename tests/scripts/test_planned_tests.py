"""The tests of docs/preregistration.md, on made-up networks of known differences."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

import planned_rules
import planned_tests
import planned_theory
from theory_rlct import append_rows, row_of

from selfmod_hf.complexity.result import LLCResult
from selfmod_hf.complexity.sampler_settings import SamplerSettings
from selfmod_hf.errors import InputError
from selfmod_hf.experiments.folder import SweepFolder
from selfmod_hf.json_records import RecordedSettings, SweepRun

ROOT = Path(__file__).resolve().parents[2]
SEEDS = range(11, 21)
SETTINGS = RecordedSettings(task="mnist", training={}, sampling={}, data={})
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
    share, low, high = [float(word.strip("[],")) for word in planned_rules.share_text(row["share"]).split()]
    assert low < share < high
    assert share == pytest.approx(5 / 7, abs=0.05)


def test_falls_of_own_and_other_targets(found):
    assert found["c", "D(own-10) - D(other-a-10)"]["difference"] == pytest.approx(-5 + 3, abs=0.4)
    assert found["c, plain", "own-10 - other-a-10"]["difference"] == pytest.approx(-3, abs=0.3)


def test_controls_are_interpolated(found):
    """Halfway between two widths is halfway between two RLCTs, and so for accuracies."""
    for at in ("weight_width", "accuracy"):
        row = found["d", f"own-10 - decay-last at equal {at}"]
        assert row["place"] == "decay-last-1e-3 to decay-last-1e-2"
        assert row["difference"] == pytest.approx(0, abs=0.3)
        assert row["verdict"] == "the same"
    assert found["d", "own-10 - penalty at equal weight_width"]["place"] == "baseline, outside"


def test_as_many_units_as_are_alive(found):
    row = found["h", "own-10 - units at equal live_units"]
    assert row["place"] == "units-48 to units-24"
    assert row["difference"] == pytest.approx(26 - 27, abs=0.3)  # 32 of 64 units are alive
    assert planned_rules.share_text(row["share"]).startswith("0.8")  # (33 - 27) / (33 - 26)


def test_unusable_networks_change_a_verdict(table):
    worse = table.copy()
    own = worse["arm"] == "own-10"
    worse.loc[own & (worse["seed"] < 18), ["rlct", "rlct_status"]] = [99.0, "not_at_minimum"]
    (row,) = [row for row in planned_tests.judged(worse) if row["question"] == "a"]
    assert row["seeds"] == 3
    assert "not robust, with every RLCT" in str(row["verdict"])


def never_stopped(table: pd.DataFrame) -> pd.DataFrame:
    """The study whose baseline at the loss of own-10 does not stop with seed 12."""
    is_stopping = table["arm"] == "as-own-10"
    stop = pd.Series("own-10", table.index).where(is_stopping)
    epoch = pd.Series(24.0, table.index).where(is_stopping & (table["seed"] != 12))
    return table.assign(stop_at_train_loss=stop, stopped_epoch=epoch)


def test_a_pair_is_lost_where_a_baseline_never_reached_the_loss(table):
    rows = {(row["question"], row["contrast"]): row for row in planned_tests.judged(never_stopped(table))}
    assert rows["a", "own-10 - as-own-10"]["seeds"] == 9
    assert rows["c", "D(own-10) - D(other-a-10)"]["seeds"] == 9
    assert rows["c, plain", "own-10 - other-a-10"]["seeds"] == 10


def test_a_study_without_baselines_at_the_loss_of_another_target_is_compared_plainly(table):
    """IMDB. The shuffled target is beside it, so that one p-value is not corrected."""
    without = table[table["arm"] != "as-other-a-10"]
    shuffled = table[table["arm"] == "other-a-10"].assign(arm="shuffled-10")
    rows = planned_tests.judged(pd.concat([without, shuffled]))
    found = {row["contrast"]: row["question"] for row in rows if row["question"].startswith("c")}
    assert found == {"own-10 - other-a-10": "c", "own-10 - shuffled-10": "c, plain"}


def test_what_is_reported_beside_a_question_has_no_test(table):
    rows = planned_tests.judged(table.assign(calibration_error=table["rlct"]))
    beside = [row for row in rows if row["question"] == "g, beside it"]
    assert {row["contrast"] for row in beside} == {"own-10 - baseline", "own-10 - as-own-10"}
    assert [row["verdict"] for row in beside] == ["", ""]
    assert all(np.isnan(row["p_holm"]) for row in beside)
    assert not [row for row in rows if row["measure"] == "dead_units"]


def test_one_pair_has_no_verdict(table):
    one = table[(table["arm"] != "as-own-10") | (table["seed"] == 12)]
    (row,) = [row for row in planned_tests.judged(one) if row["question"] == "a"]
    assert (row["seeds"], row["verdict"]) == (1, "too few pairs")


def test_a_contrast_that_only_other_networks_have_is_listed(table):
    worse = table.copy()
    worse.loc[worse["arm"] == "as-own-10", "rlct_status"] = "not_at_minimum"
    (row,) = [row for row in planned_tests.judged(worse) if row["question"] == "a"]
    assert row["verdict"] == "no values (not robust, with every RLCT: lower)"
    assert planned_tests.line_of(row).startswith("| a | rlct | own-10 - as-own-10 | 0 |  | - |")


def test_leaky_networks_are_the_same_by_their_own_baseline(table):
    """The interval of the difference is about 0.4 to both sides, and 3 % of 7 are 0.2."""
    noise = table[table["arm"] == "baseline"]["rlct"].to_numpy() - 33
    rows = [table]
    for arm, share in (("leaky-baseline", 0), ("leaky-own-10", 3)):
        like = table[table["arm"] == arm.removeprefix("leaky-")]
        rows.append(like.assign(arm=arm, rlct=7 + share * noise))
    (row,) = [row for row in planned_tests.judged(pd.concat(rows)) if row["question"] == "h, leaky"]
    assert row["verdict"] == "not told apart"


def test_differences_that_do_not_vary():
    equal = pd.Series([0.1, 0.1, 0.1])
    contrast = planned_rules.Contrast("b", "weight_width", "x - y", equal, equal, 0.01)
    (row,) = planned_rules.judge([contrast])
    assert row["verdict"] == "the same"


@pytest.mark.parametrize("missing", ["decay-last-1e-2", "units-24", "own-10", "baseline"])
def test_an_arm_without_a_usable_rlct_is_left_out(table, missing):
    """The other arms are compared, and the rows name the doses that are missing."""
    worse = table.copy()
    worse.loc[worse["arm"] == missing, "rlct_status"] = "not_at_minimum"
    rows = planned_rules.judge(planned_tests.Study(worse).contrasts())
    rows = [row for row in rows if row["measure"] == "rlct"]
    assert not [row for row in rows if missing in row["contrast"].split()]
    interpolated = [row for row in rows if row["place"]]
    if missing == "own-10":
        assert not interpolated
        return
    family = missing.rpartition("-")[0]
    for row in interpolated:
        if missing == "baseline" or f" {family} " in row["contrast"]:
            assert row["place"].endswith(f"without {missing}")
    assert [row for row in rows if row["contrast"] == "own-10 - as-own-10"]


def test_a_dose_that_only_one_choice_of_networks_has_may_change_a_verdict(table):
    """Without the strong dose the weak one is the nearest, and its RLCT is higher."""
    worse = table.copy()
    worse.loc[worse["arm"] == "decay-last-1e-2", "rlct_status"] = "not_converged"
    rows = {row["contrast"]: row for row in planned_tests.judged(worse)}
    row = rows["own-10 - decay-last at equal weight_width"]
    assert row["verdict"] == "the same (not robust, with ok RLCTs: lower)"


@pytest.mark.parametrize("changes", [{}, {"chance": None, "largest_class_share": 0.96}], ids=["today", "early"])
def test_networks_at_chance_level_are_known(table, tmp_path, changes):
    """The mark is that of `SweepFolder`: two standard errors above 0.96 are 0.9612."""
    table.to_parquet(tmp_path / "results.parquet")
    folder = SweepFolder(tmp_path)
    run = SweepRun(settings=SETTINGS, sessions=[], test_samples=100_000, chance=0.96)
    folder.write_run(run.with_fields(**changes))
    read = planned_tests.read_table(tmp_path)
    assert read["at_chance"].tolist() == (read["accuracy"] <= folder.chance_level()).tolist()
    assert set(read.loc[~read["at_chance"], "arm"]) == {"baseline", "penalty-1"}


def test_a_study_of_unknown_chance_is_rejected(table, tmp_path):
    table.to_parquet(tmp_path / "results.parquet")
    SweepFolder(tmp_path).write_run(SweepRun(settings=SETTINGS, sessions=[], test_samples=100))
    with pytest.raises(InputError, match="chance level"):
        planned_tests.read_table(tmp_path)


# ---- question f ----

LONG, SHORT = 4e-6, 2e-6


def result(llc: float, status: str = "ok") -> LLCResult:
    settings = SamplerSettings(
        sampler="sghmc", step_size=LONG, localization=100.0, nbeta_rule="n/log n", num_chains=2, num_draws=4,
        num_burnin_steps=0, batch_size=64, num_samples=1000, seed=0,
    )  # fmt: skip
    return LLCResult(
        llc=llc, standard_error=1.0, llc_per_chain=np.array([llc, llc]), loss_trace=np.ones((2, 4)),
        baseline_trace=np.zeros((2, 4)), init_loss=0.1, nbeta=100.0, rhat=1.0, ess=100.0, acceptance_rate=None,
        settings=settings, status=status, status_reason="made up",
    )  # fmt: skip


def theory(folder: Path, table: pd.DataFrame, slopes: dict[str, float], status: str = "ok") -> pd.DataFrame:
    """Write and read the file of scripts/theory_rlct.py.

    Args:
        folder: for the file.
        table: of the study.
        slopes: of the arms: what the longer step adds. At step size 0 the RLCT is 10 x that of `ARMS`.
        status: of the last network of `own-10` at the longer step. Its RLCT is then too large by 1,000.
    """
    file = folder / "estimates.jsonl"
    for arm, slope in slopes.items():
        rows = []
        for step_size in (LONG, SHORT):
            results = []
            for number in range(5):
                llc = 10 * ARMS[arm][0] + slope * step_size / LONG + 0.3 * number * len(arm) % 2
                results.append(result(llc))
            if arm == "own-10" and step_size == LONG and status != "ok":
                results[-1] = result(llc + 1000, status)
            rows.append(row_of(arm, step_size, results, 1.0, {"seeds": [11, 12, 13, 14, 15]}))
        append_rows(file, rows)
    return planned_theory.read_theory(file, range(11, 16), table)


def test_theory_at_step_size_0(tmp_path, table):
    """The first line of the file is an arm like all others."""
    estimates = theory(tmp_path, table, {"baseline": 50.0, "own-10": 20.0, "units-48": 40.0, "as-own-10": 0.0})
    rows = {row["contrast"]: row for row in planned_theory.judged_theory(estimates)}
    assert set(rows) == {"own-10 - baseline", "own-10 - as-own-10"}
    assert rows["own-10 - baseline"]["difference"] == pytest.approx(-70, abs=1)
    assert rows["own-10 - as-own-10"]["difference"] == pytest.approx(-50, abs=1)
    assert {row["verdict"] for row in rows.values()} == {"lower"}
    assert {row["seeds"] for row in rows.values()} == {5}


def test_the_smaller_step_size_alone_may_change_a_verdict(tmp_path, table):
    """At step size 0 the difference is -70, at the smaller step size -70 + 200 / 2."""
    estimates = theory(tmp_path, table, {"baseline": 0.0, "own-10": 200.0})
    (row,) = planned_theory.judged_theory(estimates)
    assert row["verdict"] == "lower (not robust, with the smaller step size alone: higher)"


@pytest.mark.parametrize("status", ["not_at_minimum", "diverged", "not_converged"])
def test_unusable_estimates_are_left_out_of_theory(tmp_path, table, status):
    estimates = theory(tmp_path, table, {"baseline": 0.0, "own-10": 0.0}, status)
    (row,) = planned_theory.judged_theory(estimates)
    assert row["seeds"] == (5 if status == "not_converged" else 4)
    assert "not robust" in row["verdict"]


def test_networks_at_chance_level_are_left_out_of_theory(tmp_path, table):
    marked = table.assign(at_chance=(table["arm"] == "own-10") & (table["seed"] == 12))
    estimates = theory(tmp_path, marked, {"baseline": 0.0, "own-10": 0.0})
    (row,) = planned_theory.judged_theory(estimates)
    assert row["seeds"] == 4


def test_networks_that_never_reached_the_loss_are_left_out_of_theory(tmp_path, table):
    estimates = theory(tmp_path, never_stopped(table), {"baseline": 0.0, "own-10": 0.0, "as-own-10": 0.0})
    rows = {row["contrast"]: row["seeds"] for row in planned_theory.judged_theory(estimates)}
    assert rows == {"own-10 - baseline": 5, "own-10 - as-own-10": 4}


def test_a_theory_file_of_other_seeds_or_steps_is_rejected(tmp_path, table):
    theory(tmp_path, table, {"baseline": 0.0})
    file = tmp_path / "estimates.jsonl"
    with pytest.raises(InputError, match="theory_seeds"):
        planned_theory.read_theory(file, range(11, 15), table)
    with pytest.raises(InputError, match=r"^theory_seeds=.* has the seeds \[11, 12, 13, 14, 15\] of baseline"):
        planned_theory.read_theory(file, range(1, 6), table)
    append_rows(file, [row_of("own-10", SHORT, 5 * [result(1.0)], 1.0, {})])
    with pytest.raises(InputError, match="two step sizes"):
        planned_theory.read_theory(file, range(11, 16), table)
    file.unlink()
    earlier = [row_of("baseline", step_size, 5 * [result(1.0)], 1.0, {}) for step_size in (SHORT, LONG)]
    append_rows(file, earlier)  # of an earlier version, which did not name seeds
    with pytest.raises(InputError, match="not in the study"):
        planned_theory.read_theory(file, range(1, 6), table)


def test_exploratory_study():
    """The control study of two seeds, whose means LOG.md has: 26.2 beside 31.2."""
    table = planned_tests.read_table(ROOT / "docs" / "results" / "controls-h64")
    rows = planned_rules.judge(planned_tests.Study(table).contrasts())
    (row,) = [row for row in rows if row["question"] == "a" and row["contrast"] == "own-10 - as-own-10"]
    assert row["difference"] == pytest.approx(26.2 - 31.2, abs=0.1)
