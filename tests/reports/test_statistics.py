"""Statistics against closed forms and published tables."""

import warnings

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from selfmod_hf.reports.published import compare_with_published, published_value
from selfmod_hf.reports.statistics import (
    compare_targets,
    compare_with_baseline,
    mark_chance,
    mean_interval,
    summarize_arms,
    trends,
    with_both_targets,
)


def rows(values: dict[float, list[float]], status: str = "ok", seeds=None) -> pd.DataFrame:
    """One network per value; each measure has the same numbers."""
    return pd.DataFrame(
        [
            {"task": "mnist", "hidden_size": 64, "aux_weight": weight, "seed": seed, "detach_targets": True}
            | {"weight_width": value, "accuracy": value, "rlct": value, "rlct_status": status}
            for weight, arm in values.items()
            for seed, value in zip(seeds or range(len(arm)), arm, strict=False)
        ]
    )


def test_the_interval_is_students():
    mean, low, high = mean_interval(np.array([1.0, 2.0, 3.0, 4.0]))
    half = 3.182446 * np.std([1, 2, 3, 4], ddof=1) / 2  # the 97.5 % point of t with 3 degrees of freedom
    assert (mean, low, high) == pytest.approx((2.5, 2.5 - half, 2.5 + half))
    assert np.isnan(mean_interval(np.array([2.0]))[1])


def test_arms_of_equal_seeds_are_paired_and_corrected_by_holm():
    data = rows({0: [1, 2, 3, 4], 1: [1.1, 2.3, 3.2, 4.4], 5: [2, 2.9, 4.2, 5]})
    table = compare_with_baseline(data).query("measure == 'rlct'").set_index("aux_weight")
    assert set(table["test"]) == {"paired t"}
    small, large = (
        stats.ttest_1samp(differences, 0).pvalue for differences in ([0.1, 0.3, 0.2, 0.4], [1, 0.9, 1.2, 1])
    )
    assert table["p"].to_dict() == pytest.approx({1: small, 5: large})
    assert table["p_holm"].to_dict() == pytest.approx({1: small, 5: 2 * large})  # the smaller is doubled
    assert table.loc[1, "difference"] == pytest.approx(0.25)
    assert table.loc[1, "effect"] == pytest.approx(0.25 / np.std([0.1, 0.3, 0.2, 0.4], ddof=1))


def test_arms_of_other_seeds_are_compared_by_welch():
    data = pd.concat([rows({0: [1, 2, 3, 4]}), rows({1: [2, 3, 5]}, seeds=[7, 8, 9])])
    test = compare_with_baseline(data).query("measure == 'accuracy'").iloc[0]
    assert test["test"] == "Welch t"
    assert test["p"] == pytest.approx(stats.ttest_ind([2, 3, 5], [1, 2, 3, 4], equal_var=False).pvalue)
    as_many = pd.concat([rows({0: [1, 2, 3]}), rows({1: [2, 3, 5]}, seeds=[7, 8, 9])])
    assert compare_with_baseline(as_many).iloc[0]["test"] == "Welch t"


def test_values_without_a_spread_have_an_interval_of_no_width():
    assert mean_interval(np.array([2.0, 2.0, 2.0])) == (2.0, 2.0, 2.0)
    assert np.isnan(mean_interval(np.array([]))).all()


def test_each_width_has_its_own_baseline():
    small = rows({0: [1, 2, 3], 1: [2, 4, 5]})
    large = rows({0: [7, 8, 9], 1: [7, 9, 9.5]}).assign(hidden_size=128)
    table = compare_with_baseline(pd.concat([small, large]))
    for width, own in ((64, small), (128, large)):
        found = table[table["hidden_size"] == width].reset_index(drop=True)
        pd.testing.assert_frame_equal(found, compare_with_baseline(own))


def test_the_order_of_the_rows_does_not_count():
    data = rows({0: [1, 2, 3, 4], 1: [1.1, 2.3, 3.2, 4.4]})
    pd.testing.assert_frame_equal(compare_with_baseline(data[::-1]), compare_with_baseline(data))
    mixed = pd.concat([data[:4], data[4:][::-1]])
    pd.testing.assert_frame_equal(compare_with_baseline(mixed), compare_with_baseline(data))


def test_arms_that_differ_by_one_number_are_not_tested():
    test = compare_with_baseline(rows({0: [1, 2, 3], 1: [3, 4, 5]})).iloc[0]
    assert (test["test"], test["difference"]) == ("none (equal differences)", 2)
    assert np.isnan(test[["effect", "p", "p_holm"]].to_numpy(float)).all()


@pytest.mark.filterwarnings("ignore:Precision loss")
def test_the_effect_between_arms_of_other_seeds_is_over_their_mean_variance():
    data = pd.concat([rows({0: [1, 2, 3, 4]}), rows({1: [2, 3, 5]}, seeds=[7, 8, 9])])
    test = compare_with_baseline(data).iloc[0]
    spread = ((np.var([1, 2, 3, 4], ddof=1) + np.var([2, 3, 5], ddof=1)) / 2) ** 0.5
    assert test["effect"] == pytest.approx((10 / 3 - 2.5) / spread)
    equal = pd.concat([rows({0: [1, 1, 1]}), rows({1: [2, 2]}, seeds=[7, 8])])
    assert np.isnan(compare_with_baseline(equal).iloc[0]["effect"])


def test_a_comparison_that_cannot_be_made_corrects_no_other():
    data = rows({0: [1, 2, 3], 1: [2, 4, 5], 5: [3]})
    table = compare_with_baseline(data).query("measure == 'rlct'").set_index("aux_weight")
    assert table.loc[1, "p_holm"] == table.loc[1, "p"] > 0
    assert np.isnan(table.loc[5, "p_holm"])
    assert table.loc[5, "test"] == "none (fewer than 2 usable)"


def test_a_curve_without_its_row_is_not_marked():
    networks = rows({0: [1, 2]}).assign(arm="h64-aw0", at_chance=[True, False])
    curves = pd.concat([networks, rows({1: [3]}).assign(arm="h64-aw1")]).drop(columns="at_chance")
    assert mark_chance(curves, networks)["at_chance"].tolist() == [True, False, False]


def test_a_network_that_has_diverged_enters_no_mean():
    table = rows({0: [0.9, 0.8, 0.7]})
    table.loc[2, ["weight_width", "rlct", "rlct_status", "accuracy"]] = [np.nan, np.nan, "diverged", 0.1]
    arms = summarize_arms(table).set_index("measure")
    assert arms["mean"].to_dict() == pytest.approx(dict.fromkeys(("weight_width", "accuracy", "rlct"), 0.85))
    assert (arms["left_out"] == 1).all()


def test_rlcts_that_are_not_ok_are_left_out_and_named():
    good, bad = rows({0: [10, 11, 12], 1: [8, 9, 10]}), rows({50: [-5, -6, -7]}, "not_at_minimum")
    both = pd.concat([good, bad])
    arm = summarize_arms(both).set_index(["aux_weight", "measure"]).loc[(50, "rlct")]
    assert (arm["count"], arm["left_out"]) == (0, 3)
    trend = trends(both).set_index("measure")
    assert trend.loc["rlct", ["count", "left_out"]].tolist() == [6, 3]
    assert trend.loc["rlct", "rho"] == pytest.approx(stats.spearmanr([0, 0, 0, 1, 1, 1], [10, 11, 12, 8, 9, 10])[0])
    assert trend.loc["accuracy", "count"] == 9


def test_attached_targets_are_compared_over_the_seeds_that_have_both():
    detached, attached = rows({0: [4, 5, 6], 1: [1, 2, 3]}), rows({1: [1.5, 2.6]}).assign(detach_targets=False)
    both = with_both_targets(pd.concat([detached, attached]))
    assert len(both) == 6  # seed 2 is nowhere attached
    test = compare_targets(both).query("measure == 'rlct'").iloc[0]
    assert test[["detached", "attached", "difference"]].tolist() == pytest.approx([1.5, 2.05, 0.55])
    assert test["p"] == pytest.approx(stats.ttest_1samp([0.5, 0.6], 0).pvalue)
    assert test[["detached_count", "attached_count"]].tolist() == [2, 2]
    assert with_both_targets(detached).empty


def test_a_perfect_trend_and_its_interval():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trend = trends(rows({0: [4], 1: [3], 5: [2], 10: [1], 20: [0]})).iloc[0]
        exact = trends(rows({0: [1], 1: [2], 5: [3], 10: [4]})).iloc[0]
        constant = trends(rows({0: [4], 1: [4], 5: [4], 10: [4]})).iloc[0]
    assert trend[["rho", "low", "high"]].tolist() == pytest.approx([-1, -1, -1])
    assert exact[["rho", "low", "high"]].tolist() == [1, 1, 1]
    assert np.isnan(constant[["rho", "low", "high"]].to_numpy(float)).all()
    some = trends(rows({0: [4, 3], 1: [3, 2], 5: [2, 2.5], 10: [1, 3]})).iloc[0]
    assert -1 < some["low"] < some["rho"] < some["high"] < 1


@pytest.mark.parametrize("sign", [1, -1])
def test_the_interval_of_a_trend_is_bonetts_and_wrights(sign):
    """tanh( artanh r ± 1.96 sqrt((1 + r²/2) / (n - 3)) ), written out with logarithms."""
    weights = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0]
    values = [1.0, 0.0, 4.0, 3.0, 2.0, 9.0, 7.0, 5.0, 11.0, 6.0, 10.0, 8.0]
    trend = trends(rows({weight: [sign * value] for weight, value in zip(weights, values, strict=True)})).iloc[0]
    distance = sum((a - b) ** 2 for a, b in zip(weights, values, strict=True))
    rho = sign * (1 - 6 * distance / (12 * (12**2 - 1)))  # Spearman's formula, without ties
    half = 1.959964 * ((1 + rho**2 / 2) / 9) ** 0.5
    centre = np.log((1 + rho) / (1 - rho)) / 2
    bounds = [(np.exp(2 * z) - 1) / (np.exp(2 * z) + 1) for z in (centre - half, centre + half)]
    assert trend[["rho", "low", "high"]].tolist() == pytest.approx([rho, *bounds], rel=1e-6)
    assert 0.3 < abs(rho) < 0.95


def test_a_trend_needs_four_networks_and_two_weights():
    few = trends(rows({0: [4, 3], 1: [2]})).iloc[0]
    assert (few["count"], np.isnan(few["rho"])) == (3, True)
    enough = trends(rows({0: [4, 3], 1: [2, 1]})).iloc[0]
    assert enough["rho"] < 0
    one_weight = trends(rows({1: [4, 3, 2, 1]})).iloc[0]
    assert np.isnan(one_weight[["rho", "low", "high", "p"]].to_numpy(float)).all()


def test_published_values_and_the_difference_in_percent():
    assert published_value("mnist", "weight_width", 64, 10) == 0.231
    assert published_value("cifar10", "rlct", 2000, 0.5) == 72.6
    assert published_value("imdb", "accuracy", 128, 500) == 0.836
    assert published_value("mnist", "rlct", 65, 0) is None
    table = compare_with_published(rows({0: [30, 36], 20: [-7, -7]})).query("measure == 'rlct'")
    assert table["percent"].tolist() == pytest.approx([0, -100])
