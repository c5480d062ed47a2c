"""Trends over an axis against closed forms."""

import warnings

import numpy as np
import pandas as pd
import pytest

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
