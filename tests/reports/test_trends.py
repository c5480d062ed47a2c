"""Trends over an axis against closed forms."""

import warnings

import numpy as np
import pandas as pd
import pytest

from selfmod_hf.experiments.arms import make_arms
from selfmod_hf.reports.trends import trends
from tests.reports.tables import rows, study_of


def followed(table: pd.DataFrame) -> pd.DataFrame:
    return trends(table, study_of(table))


def test_a_perfect_trend_and_its_interval():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trend = followed(rows({0: [4], 1: [3], 5: [2], 10: [1], 20: [0]})).iloc[0]
        exact = followed(rows({0: [1], 1: [2], 5: [3], 10: [4]})).iloc[0]
        constant = followed(rows({0: [4], 1: [4], 5: [4], 10: [4]})).iloc[0]
    assert trend[["rho", "low", "high"]].tolist() == pytest.approx([-1, -1, -1])
    assert exact[["rho", "low", "high"]].tolist() == [1, 1, 1]
    assert np.isnan(constant[["rho", "low", "high"]].to_numpy(float)).all()
    some = followed(rows({0: [4, 3], 1: [3, 2], 5: [2, 2.5], 10: [1, 3]})).iloc[0]
    assert -1 < some["low"] < some["rho"] < some["high"] < 1


@pytest.mark.parametrize("sign", [1, -1])
def test_the_interval_of_a_trend_is_bonetts_and_wrights(sign):
    """tanh( artanh r ± 1.96 sqrt((1 + r²/2) / (n - 3)) ), written out with logarithms."""
    weights = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0]
    values = [1.0, 0.0, 4.0, 3.0, 2.0, 9.0, 7.0, 5.0, 11.0, 6.0, 10.0, 8.0]
    trend = followed(rows({weight: [sign * value] for weight, value in zip(weights, values, strict=True)})).iloc[0]
    distance = sum((a - b) ** 2 for a, b in zip(weights, values, strict=True))
    rho = sign * (1 - 6 * distance / (12 * (12**2 - 1)))  # Spearman's formula, without ties
    half = 1.959964 * ((1 + rho**2 / 2) / 9) ** 0.5
    centre = np.log((1 + rho) / (1 - rho)) / 2
    bounds = [(np.exp(2 * z) - 1) / (np.exp(2 * z) + 1) for z in (centre - half, centre + half)]
    assert trend[["rho", "low", "high"]].tolist() == pytest.approx([rho, *bounds], rel=1e-6)
    assert 0.3 < abs(rho) < 0.95


def test_a_trend_needs_four_networks_and_two_weights():
    few = followed(rows({0: [4, 3], 1: [2]})).iloc[0]
    assert (few["count"], np.isnan(few["rho"])) == (3, True)
    enough = followed(rows({0: [4, 3], 1: [2, 1]})).iloc[0]
    assert enough["rho"] < 0
    assert followed(rows({1: [4, 3, 2, 1]})).empty


def test_arms_that_differ_in_another_axis_are_in_another_trend():
    """Weights of own targets are a trend, those of shuffled ones another, and so are two strengths of decay."""
    named = {
        "baseline": {"aux_weight": 0.0},
        **{f"own{weight}": {"aux_weight": float(weight)} for weight in (1, 5)},
        **{f"shuffled{weight}": {"aux_weight": float(weight), "target_source": "shuffled"} for weight in (1, 5)},
        **{f"decay{number}": {"aux_weight": 0.0, "weight_decay": number / 1000} for number in (1, 3)},
    }
    tables = []
    for number, (arm, changes) in enumerate(named.items()):
        table = rows({changes["aux_weight"]: [10 - number, 10.5 - number]}, arm=arm)
        settings = {"target_source": changes.get("target_source"), "weight_decay": changes.get("weight_decay", 0.0)}
        tables.append(table.assign(**settings))
    data = pd.concat(tables, ignore_index=True)
    found = trends(data, make_arms({}, named), ["target_source", "weight_decay"], ["rlct"])
    groups = {(trend.axis, trend.arms) for trend in found.itertuples()}
    assert groups == {
        ("aux_weight", "baseline, own1, own5"),
        ("aux_weight", "baseline, shuffled1, shuffled5"),
        ("weight_decay", "baseline, decay1, decay3"),
    }
    assert (found["rho"] < -0.9).all()


def test_networks_without_a_hidden_layer_have_trends():
    data = rows({0: [4, 3], 1: [3, 2], 5: [1, 0]}).assign(hidden_size=pd.array([None] * 6, dtype="Int64"))
    study = make_arms({"aux_weight": [0.0, 1.0, 5.0]})
    data["arm"] = data["aux_weight"].map(lambda weight: f"aw{weight:g}")
    (rlct,) = trends(data, study, [], ["rlct"]).itertuples()
    assert rlct.count == 6
    assert rlct.rho < -0.9
