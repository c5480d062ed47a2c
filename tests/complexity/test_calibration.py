"""The choice of a cell, and the estimate without localization, on quadratics of known answer."""

from __future__ import annotations

import math

import pytest

from selfmod_hf.complexity import calibrate_llc

from .scenarios import DUMMY, Quadratic, given_loss


def calibration(curvatures: list[float], **settings):
    defaults = {"sampler": "sghmc", "nbeta": 100.0, "num_draws": 1500, "num_chains": 8}
    return calibrate_llc(Quadratic(curvatures), *DUMMY, loss_fn=given_loss, **(defaults | settings))


def test_the_estimate_is_extrapolated_away_from_the_localization():
    """A direction of curvature h counts as nβ h / (2 (nβ h + γ)): at γ = 20 and 40, .42 and .36 in place of 1/2. So
    the line through both rises to the truth at γ = 0; the other way it would fall further below."""
    found = calibration([1.0] * 6, step_sizes=[5e-3, 1e-2], localizations=[20.0, 40.0])
    cells = {row["localization"]: row for row in found.table if row["step_size"] == found.step_size}
    low, high = cells[20.0], cells[40.0]
    assert low["chosen"]
    assert low["serves"]
    assert high["serves"]
    assert low["llc"] == pytest.approx(6 * 100 / (2 * 120), rel=0.1)
    assert high["llc"] == pytest.approx(6 * 100 / (2 * 140), rel=0.1)
    assert found.llc == pytest.approx(2 * low["llc"] - high["llc"])
    assert found.llc > low["llc"] > high["llc"]
    assert found.standard_error == pytest.approx(math.hypot(2 * low["standard_error"], high["standard_error"]))
    assert "extrapolated to none" in found.reason


def test_the_share_of_the_extrapolation_is_that_of_the_localizations():
    """γ1 / (γ2 - γ1): from 10 and 40, a third."""
    found = calibration([1.0] * 6, step_sizes=[5e-3, 1e-2], localizations=[10.0, 40.0])
    low, high = (
        next(row for row in found.table if (row["step_size"], row["localization"]) == (found.step_size, pull))
        for pull in (10.0, 40.0)
    )
    assert found.localization == 10.0
    assert found.llc == pytest.approx(low["llc"] + (low["llc"] - high["llc"]) / 3)
    errors = 4 / 3 * low["standard_error"], 1 / 3 * high["standard_error"]
    assert found.standard_error == pytest.approx(math.hypot(*errors))


def test_of_several_localizations_the_next_is_the_second_point():
    """The line is drawn where the localization is weakest, since the estimate is no straight line over it."""
    found = calibration([1.0] * 6, step_sizes=[5e-3, 1e-2], localizations=[10.0, 20.0, 60.0])
    first, second, third = (
        next(row for row in found.table if (row["step_size"], row["localization"]) == (found.step_size, pull))
        for pull in (10.0, 20.0, 60.0)
    )
    assert first["chosen"]
    assert third["serves"]
    assert found.llc == pytest.approx(2 * first["llc"] - second["llc"])


def test_the_largest_of_the_step_sizes_that_agree_is_chosen():
    found = calibration([1.0] * 6, step_sizes=[2e-3, 5e-3, 1e-2], localizations=[20.0])
    assert [row["serves"] for row in found.table] == [True] * 3
    assert found.confirmed
    assert found.step_size == 1e-2


def test_a_disagreement_of_more_than_five_percent_is_one_whatever_the_errors():
    """SGLD's estimate grows by ε a / 4: with a = 120 by 6 % and by 18 %. Few draws have large errors."""
    settings = {"sampler": "sgld", "num_draws": 800, "num_chains": 4, "seed": 2}
    found = calibration([1.0], step_sizes=[2e-3, 6e-3], localizations=[20.0], **settings)
    small, large = found.table
    apart = abs(large["llc"] - small["llc"])
    assert large["serves"]
    assert 0.05 * small["llc"] < apart < 2 * math.hypot(small["standard_error"], large["standard_error"])
    assert not found.confirmed


def test_the_default_grid_is_derived_from_the_curvature_and_the_temperature():
    found = calibration([2.0, 0.5], num_draws=20)
    assert found.curvature == pytest.approx(100 * 2.0 + 100 / 60, rel=1e-3)
    assert len(found.table) == 8
    steps, pulls = (sorted({row[name] for row in found.table}) for name in ("step_size", "localization"))
    assert steps == pytest.approx([0.04 / found.curvature, 0.1 / found.curvature])
    assert pulls == pytest.approx([100 / 2000, 100 / 600, 100 / 200, 100 / 60])


def test_one_localization_is_not_extrapolated():
    found = calibration([1.0] * 6, step_sizes=[5e-3, 1e-2], localizations=[20.0])
    assert (found.llc, found.standard_error) == (found.result.llc, found.result.standard_error)
    assert found.confirmed
    assert "no second localization" in found.reason


def test_one_step_size_is_not_confirmed():
    found = calibration([1.0] * 6, step_sizes=[5e-3], localizations=[20.0])
    assert not found.confirmed
    assert found.reason.startswith("unconfirmed")


def test_where_no_cell_serves_the_smallest_step_at_the_strongest_localization_is_shown():
    found = calibration([1.0] * 6, step_sizes=[10.0, 20.0], localizations=[1.0, 2.0], num_draws=100)
    assert [row["status"] for row in found.table] == ["diverged"] * 4
    assert (found.step_size, found.localization) == (10.0, 2.0)
    assert math.isnan(found.llc)
    assert found.reason.startswith("no cell serves")


@pytest.mark.parametrize("name", ["step_size", "localization"])
def test_a_setting_that_is_chosen_cannot_be_given(name):
    message = f"^{name}=1.0: must be left out: it is chosen from `{name}s`$"
    with pytest.raises(ValueError, match=message):
        calibration([1.0], **{name: 1.0})
