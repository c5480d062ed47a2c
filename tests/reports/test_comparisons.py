"""Comparisons of arms against closed forms."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from selfmod_hf.reports.comparisons import compare_targets, compare_with_baseline, with_both_targets
from selfmod_hf.reports.statistics import with_every_rlct
from tests.reports.tables import rows, study_of


def compared(table: pd.DataFrame) -> pd.DataFrame:
    return compare_with_baseline(table, study_of(table))


def test_arms_of_equal_seeds_are_paired_and_corrected_by_holm():
    data = rows({0: [1, 2, 3, 4], 1: [1.1, 2.3, 3.2, 4.4], 5: [2, 2.9, 4.2, 5]})
    table = compared(data).query("measure == 'rlct'").set_index("aux_weight")
    assert set(table["test"]) == {"paired t"}
    small, large = (
        stats.ttest_1samp(differences, 0).pvalue for differences in ([0.1, 0.3, 0.2, 0.4], [1, 0.9, 1.2, 1])
    )
    assert table["p"].to_dict() == pytest.approx({1: small, 5: large})
    assert table["p_holm"].to_dict() == pytest.approx({1: small, 5: 2 * large})  # the smaller is doubled
    assert table.loc[1, "difference"] == pytest.approx(0.25)
    variance = np.var([1, 2, 3, 4], ddof=1) / 2 + np.var([1.1, 2.3, 3.2, 4.4], ddof=1) / 2
    assert table.loc[1, "effect"] == pytest.approx(0.25 / variance**0.5)


def test_arms_of_other_seeds_are_compared_by_welch():
    data = pd.concat([rows({0: [1, 2, 3, 4]}), rows({1: [2, 3, 5]}, seeds=[7, 8, 9])])
    test = compared(data).query("measure == 'accuracy'").iloc[0]
    assert test["test"] == "Welch t"
    assert test["p"] == pytest.approx(stats.ttest_ind([2, 3, 5], [1, 2, 3, 4], equal_var=False).pvalue)
    as_many = pd.concat([rows({0: [1, 2, 3]}), rows({1: [2, 3, 5]}, seeds=[7, 8, 9])])
    assert compared(as_many).iloc[0]["test"] == "Welch t"


def test_each_width_has_its_own_baseline():
    small = rows({0: [1, 2, 3], 1: [2, 4, 5]})
    large = rows({0: [7, 8, 9], 1: [7, 9, 9.5]}, hidden_size=128)
    table = compared(pd.concat([small, large]))
    for width, own in ((64, small), (128, large)):
        found = table[table["hidden_size"] == width].reset_index(drop=True)
        pd.testing.assert_frame_equal(found, compared(own))


def test_the_order_of_the_rows_does_not_count():
    data = rows({0: [1, 2, 3, 4], 1: [1.1, 2.3, 3.2, 4.4]})
    pd.testing.assert_frame_equal(compared(data[::-1]), compared(data))
    mixed = pd.concat([data[:4], data[4:][::-1]])
    pd.testing.assert_frame_equal(compared(mixed), compared(data))


def test_arms_that_differ_by_one_number_are_not_tested():
    test = compared(rows({0: [1, 2, 3], 1: [3, 4, 5]})).iloc[0]
    assert (test["test"], test["difference"]) == ("none (equal differences)", 2)
    assert np.isnan(test[["effect", "p", "p_holm"]].to_numpy(float)).all()


@pytest.mark.filterwarnings("ignore:Precision loss")
def test_the_effect_between_arms_of_other_seeds_is_over_their_mean_variance():
    data = pd.concat([rows({0: [1, 2, 3, 4]}), rows({1: [2, 3, 5]}, seeds=[7, 8, 9])])
    test = compared(data).iloc[0]
    spread = ((np.var([1, 2, 3, 4], ddof=1) + np.var([2, 3, 5], ddof=1)) / 2) ** 0.5
    assert test["effect"] == pytest.approx((10 / 3 - 2.5) / spread)
    equal = pd.concat([rows({0: [1, 1, 1]}), rows({1: [2, 2]}, seeds=[7, 8])])
    assert np.isnan(compared(equal).iloc[0]["effect"])


def test_a_comparison_that_cannot_be_made_corrects_no_other():
    data = rows({0: [1, 2, 3], 1: [2, 4, 5], 5: [3]})
    table = compared(data).query("measure == 'rlct'").set_index("aux_weight")
    assert table.loc[1, "p_holm"] == table.loc[1, "p"] > 0
    assert np.isnan(table.loc[5, "p_holm"])
    assert table.loc[5, "test"] == "none (fewer than 2 usable)"


def test_attached_targets_are_compared_over_the_seeds_that_have_both():
    detached, attached = rows({0: [4, 5, 6], 1: [1, 2, 3]}), rows({1: [1.5, 2.6]}, detach_targets=False)
    both = with_both_targets(pd.concat([detached, attached]))
    assert len(both) == 6  # seed 2 is nowhere attached
    test = compare_targets(both).query("measure == 'rlct'").iloc[0]
    assert test[["detached", "attached", "difference"]].tolist() == pytest.approx([1.5, 2.05, 0.55])
    assert test["p"] == pytest.approx(stats.ttest_1samp([0.5, 0.6], 0).pvalue)
    assert test[["detached_count", "attached_count"]].tolist() == [2, 2]
    assert with_both_targets(detached).empty


def test_pairs_are_the_seeds_with_a_usable_value_in_both():
    baseline = rows({0: [1, 2, 3, 4]}, seeds=[1, 2, 3, 4])
    arm = rows({1: [9, 2.5, 4, 4.2]}, seeds=[1, 2, 3, 9])
    data = pd.concat([baseline, arm], ignore_index=True)
    data.loc[4, "rlct_status"] = "not_at_minimum"  # the arm's first seed
    tests = compared(data).set_index("measure")
    rlct = tests.loc["rlct"]
    assert (rlct["test"], rlct["pairs"]) == ("paired t", 2)
    assert rlct["difference"] == pytest.approx(0.75)  # 0.5 and 1
    assert rlct["p"] == pytest.approx(stats.ttest_1samp([0.5, 1], 0).pvalue)
    assert (rlct["mean"], rlct["other_mean"]) == (3.25, 2.5)
    assert rlct["low"] < 0.75 < rlct["high"]
    assert tests.loc["accuracy", "pairs"] == 2  # the same networks
    every = compare_with_baseline(with_every_rlct(data), study_of(data), ["rlct"]).iloc[0]
    assert every["pairs"] == 3
    assert every["difference"] == pytest.approx((8 + 0.5 + 1) / 3)


def test_an_arm_without_its_baseline_is_not_tested():
    data = rows({1: [1, 2, 3]})
    (test,) = compare_with_baseline(data, study_of(data), ["accuracy"]).itertuples()
    assert test.test == "none (fewer than 2 usable)"
    assert np.isnan(test.difference)


def test_further_measures_are_compared_like_the_others():
    data = rows({0: [1, 2, 3], 1: [2, 4, 5]}).assign(dead_units=[0.1, 0.2, 0.1, 0.4, 0.6, 0.6])
    tests = compare_with_baseline(data, study_of(data), ["accuracy", "dead_units", "not_measured"])
    assert tests["measure"].tolist() == ["accuracy", "dead_units"]
    assert tests["difference"].tolist() == pytest.approx([5 / 3, 0.4])
