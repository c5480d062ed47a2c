"""The networks behind the figures of an arm, on folders of known numbers, against scipy."""

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from selfmod_hf.experiments.folder import SweepFolder
from selfmod_hf.reports.panels import baseline_curve
from selfmod_hf.reports.statistics import only_ok, usable
from selfmod_hf.reports.sweep_results import SweepResults, read_results
from selfmod_hf.reports.sweep_tables import sweep_tables
from tests.reports.folders import change_row, grid, write_study

SEEDS = range(1, 13)
ERROR = 0.45  # standard error of each RLCT
BASELINE, ARM = "aw0", "aw10"
LAMBDA = {BASELINE: 8.0, ARM: 4.5}


def estimates(arm: str) -> np.ndarray:
    """Unbiased estimates of the arm's RLCT, whose mean over the seeds is exactly right."""
    noise = np.random.default_rng(len(arm)).standard_normal(len(SEEDS))
    return LAMBDA[arm] + ERROR * (noise - noise.mean())


def imprecise(value: float) -> str:
    """The status of an error above 10 % of the estimate, as files of version 0.1.0 have it."""
    return "not_converged" if 0.1 * value < ERROR else "ok"


def made_study(folder: Path, status_of=imprecise) -> SweepResults:
    write_study(folder, grid(aux_weight=[0.0, 10.0]), list(SEEDS), epochs=2, draws=4)
    for arm in LAMBDA:
        for seed, value in zip(SEEDS, estimates(arm), strict=True):
            row = {"rlct": value, "rlct_standard_error": ERROR, "rlct_status": status_of(value)}
            change_row(folder, f"{arm}-seed{seed}", **row)
    return read_results(SweepFolder(folder))


def test_a_status_that_drops_small_rlcts_biases_no_mean(tmp_path):
    results = made_study(tmp_path)
    kept = [value for value in estimates(ARM) if imprecise(value) == "ok"]
    assert 2 < len(kept) < 10
    assert np.mean(kept) > LAMBDA[ARM] + 0.2  # the mean over the RLCTs that are ok
    arms = results.arms.query("measure == 'rlct'").set_index("arm")
    assert arms["mean"].to_dict() == pytest.approx(LAMBDA)
    assert arms["count"].tolist() == [12, 12]
    low, high = stats.t.interval(0.95, 11, loc=LAMBDA[ARM], scale=stats.sem(estimates(ARM)))
    assert arms.loc[ARM, ["low", "high"]].tolist() == pytest.approx([low, high])
    test = results.tests.query("measure == 'rlct'").iloc[0]
    expected = stats.ttest_rel(estimates(ARM), estimates(BASELINE))
    assert (test["test"], test["pairs"], test["p"]) == ("paired t", 12, pytest.approx(expected.pvalue))
    interval = expected.confidence_interval(0.95)
    assert (test["low"], test["high"]) == pytest.approx((interval.low, interval.high))
    spread = np.sqrt((np.var(estimates(ARM), ddof=1) + np.var(estimates(BASELINE), ddof=1)) / 2)
    assert test["effect"] == pytest.approx((LAMBDA[ARM] - LAMBDA[BASELINE]) / spread)


def test_both_sets_are_in_the_report(tmp_path):
    results = made_study(tmp_path)
    tables = sweep_tables(results)
    ok = [value for value in estimates(ARM) if imprecise(value) == "ok"]
    rlct = tables["arms"].header.index("RLCT [95 %]")
    counted_line, ok_line = tables["arms"].rows[1], tables["arms_ok"].rows[1]
    assert counted_line[rlct].startswith("4.50 [")
    assert ok_line[rlct].startswith(f"{np.mean(ok):.2f} [")
    seeds = tables["arms"].header.index("seeds")
    assert (counted_line[seeds], ok_line[seeds]) == ("12", str(len(ok)))
    compared = results.ok_rlct.iloc[0]
    places = [place for place, value in enumerate(estimates(ARM)) if imprecise(value) == "ok"]
    expected = stats.ttest_rel(estimates(ARM)[places], estimates(BASELINE)[places])
    assert (compared["pairs"], compared["p"]) == (len(ok), pytest.approx(expected.pvalue))
    assert len(tables["every_rlct"].rows) == 1


def test_a_row_has_one_set_of_networks(tmp_path):
    """A network without a usable RLCT is in no mean of its arm, and in no pair."""
    results = made_study(tmp_path, lambda value: "not_at_minimum" if value < 4.2 else "biased")
    gone = sum(value < 4.2 for value in estimates(ARM))
    assert gone > 0
    arms = results.arms.set_index(["arm", "measure"])
    assert set(arms.loc[ARM, "count"]) == {12 - gone}
    assert set(arms.loc[ARM, "left_out"]) == {gone}
    kept = results.rows[(results.rows["arm"] == ARM) & (results.rows["rlct"] >= 4.2)]
    for measure in ("rlct", "weight_width", "accuracy", "train_loss"):
        assert arms.loc[(ARM, measure), "mean"] == pytest.approx(kept[measure].mean())
    assert set(results.tests["pairs"]) == {12 - gone}
    assert only_ok(results.rows)["rlct"].isna().all()
    assert sweep_tables(results)["arms_ok"].rows == []  # no arm has an RLCT that is ok


@pytest.mark.parametrize("status", ["not_at_minimum", "not_converged", "biased", "not_identified"])
def test_one_rlct_that_is_not_ok_changes_no_test(tmp_path, status):
    """Two of three seeds are usable in each arm, and one of both: the test does not become Welch's."""
    folder = write_study(tmp_path, grid(aux_weight=[0.0, 10.0]), [1, 2, 3], epochs=2, draws=4)
    change_row(folder, f"{BASELINE}-seed1", rlct_status=status)
    change_row(folder, f"{ARM}-seed3", rlct_status=status)
    test = read_results(SweepFolder(folder)).tests.query("measure == 'rlct'").iloc[0]
    if status == "not_at_minimum":
        assert (test["test"], test["pairs"]) == ("none (fewer than 2 usable)", 1)
    else:
        assert (test["test"], test["pairs"]) == ("paired t", 3)


def test_curves_are_those_of_the_same_networks(tmp_path):
    """Curves without RLCTs leave out the networks that the arm's means leave out, and so does equal loss."""
    folder = write_study(tmp_path, grid(aux_weight=[0.0, 10.0]), [1, 2, 3, 4], epochs=3, draws=4)
    for seed in (1, 2):
        change_row(folder, f"{BASELINE}-seed{seed}", rlct_status="not_at_minimum")
    results = read_results(SweepFolder(folder))
    assert "rlct" not in results.curves
    arms = results.arms.set_index(["arm", "measure"])
    last = results.epochs.query("epoch == 3").set_index(["arm", "measure"])
    for arm, count in ((BASELINE, 2), (ARM, 4)):
        for measure in ("weight_width", "accuracy"):
            assert last.loc[(arm, measure), "count"] == count
            assert last.loc[(arm, measure), "mean"] == pytest.approx(arms.loc[(arm, measure), "mean"])
    own = results.curves.query("arm == @BASELINE")
    drawn = baseline_curve(own, ["weight_width"])
    assert drawn["weight_width"].iloc[-1] == pytest.approx(arms.loc[(BASELINE, "weight_width"), "mean"])
    equal = results.equal_loss.set_index("measure").loc["weight_width"]
    assert (equal["way"], equal["pairs"]) == ("curves", 2)


def test_an_arm_without_a_usable_rlct_keeps_its_accuracy(tmp_path):
    folder = write_study(tmp_path, grid(aux_weight=[0.0, 10.0]), [1, 2], epochs=2, draws=4)
    for seed in (1, 2):
        change_row(folder, f"{ARM}-seed{seed}", rlct_status="not_at_minimum")
    results = read_results(SweepFolder(folder))
    assert len(usable(results.rows, "accuracy")) == 4
    arms = results.arms.set_index(["arm", "measure"])
    assert arms.loc[(ARM, "accuracy"), "count"] == 2
    assert arms.loc[(ARM, "rlct"), "count"] == 0
    tables = sweep_tables(results)
    assert "none" in tables["arms"].rows[1]
    assert "an arm without any: over its other networks, RLCT only left out" in tables["arms"].caption
    not_ok = tables["not_ok"]
    assert [line[not_ok.header.index("counts")] for line in not_ok.rows] == ["no (RLCT only)"]
    assert "In an arm without any usable RLCT the RLCT only is left out" in not_ok.caption


def test_the_table_of_ok_rlcts_has_no_arm_whose_only_one_is_at_chance(tmp_path):
    folder = write_study(tmp_path, grid(aux_weight=[0.0, 10.0]), [1, 2], epochs=2, draws=4, not_ok=["aw0-seed1"])
    change_row(folder, f"{ARM}-seed1", accuracy=0.1)
    change_row(folder, f"{ARM}-seed2", rlct_status="not_at_minimum")
    tables = sweep_tables(read_results(SweepFolder(folder)))
    assert len(tables["arms_ok"].rows) == 1
