"""Means and intervals against closed forms and published tables."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from selfmod_hf.reports.published import compare_with_published, published_value
from selfmod_hf.reports.statistics import mark_curves, mean_interval, summarize_arms
from selfmod_hf.reports.trends import trends
from tests.reports.tables import rows, study_of


def followed(table: pd.DataFrame) -> pd.DataFrame:
    return trends(table, study_of(table))


def test_the_interval_is_students():
    mean, low, high = mean_interval(np.array([1.0, 2.0, 3.0, 4.0]))
    half = 3.182446 * np.std([1, 2, 3, 4], ddof=1) / 2  # the 97.5 % point of t with 3 degrees of freedom
    assert (mean, low, high) == pytest.approx((2.5, 2.5 - half, 2.5 + half))
    assert np.isnan(mean_interval(np.array([2.0]))[1])


def test_values_without_a_spread_have_an_interval_of_no_width():
    assert mean_interval(np.array([2.0, 2.0, 2.0])) == (2.0, 2.0, 2.0)
    assert np.isnan(mean_interval(np.array([]))).all()


def test_a_curve_without_its_row_is_not_marked():
    networks = rows({0: [1, 2]}).assign(arm="h64-aw0", at_chance=[True, False])
    curves = pd.concat([networks, rows({1: [3]}).assign(arm="h64-aw1")]).drop(columns="at_chance")
    marked = mark_curves(curves, networks)
    assert marked["at_chance"].tolist() == [True, False, False]
    assert marked["is_counted"].tolist() == [False, True, True]


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
    trend = followed(both).set_index("measure")
    assert trend.loc["rlct", ["count", "left_out"]].tolist() == [6, 3]
    assert trend.loc["rlct", "rho"] == pytest.approx(stats.spearmanr([0, 0, 0, 1, 1, 1], [10, 11, 12, 8, 9, 10])[0])
    assert trend.loc["accuracy", "count"] == 9


def test_published_values_and_the_difference_in_percent():
    assert published_value("mnist", "weight_width", 64, 10) == 0.231
    assert published_value("cifar10", "rlct", 2000, 0.5) == 72.6
    assert published_value("imdb", "accuracy", 128, 500) == 0.836
    assert published_value("mnist", "rlct", 65, 0) is None
    table = compare_with_published(rows({0: [30, 36], 20: [-7, -7]})).query("measure == 'rlct'")
    assert table["percent"].tolist() == pytest.approx([0, -100])
