"""Differences at equal training loss, against numbers worked out by hand."""

import numpy as np
import pandas as pd
import pytest

from selfmod_hf.experiments.arms import Arm
from selfmod_hf.reports.equal_loss import compare_at_equal_loss
from tests.reports.tables import rows

NAMED = [
    Arm("baseline", {"aux_weight": 0}, "", "baseline"),
    Arm("self-model", {"aux_weight": 10}, "", "baseline"),
    Arm("early", {"aux_weight": 0, "stop_at_train_loss": "self-model"}, "", "baseline"),
]


def networks() -> pd.DataFrame:
    """RLCTs 12, 9 and 10 of three arms, and the same again for another seed, further apart."""
    values = {"baseline": ([12, 13], 0.10), "self-model": ([9, 9.5], 0.18), "early": ([10, 11], 0.18)}
    tables = []
    for arm, (rlcts, loss) in values.items():
        tables.append(rows({0: rlcts}, arm=arm).assign(train_loss=loss))
    return pd.concat(tables, ignore_index=True)


def curves() -> pd.DataFrame:
    """The baseline's width is 1, 2, 3, 4 times its loss's inverse at four epochs."""
    points = []
    for seed in (0, 1):
        for epoch, loss in enumerate((0.4, 0.2, 0.15, 0.1), start=1):
            width = 10 * seed + epoch
            points.append({"arm": "baseline", "epoch": epoch, "classification_loss": loss, "weight_width": width})
        points.append({"arm": "self-model", "epoch": 4, "classification_loss": 0.19, "weight_width": 1.0})
        for point in points:
            point.setdefault("seed", seed)
    return pd.DataFrame(points).assign(at_chance=False)


def test_an_arm_that_stops_at_the_loss_is_the_other_arm():
    table = compare_at_equal_loss(networks(), curves(), NAMED).set_index(["arm", "measure"])
    assert list(table.index.get_level_values("arm").unique()) == ["self-model"]
    found = table.loc[("self-model", "rlct")]
    assert (found["way"], found["other"], found["pairs"]) == ("stopped", "early", 2)
    assert found["difference"] == pytest.approx(-1.25)
    assert found["share"] == pytest.approx(1.25 / 3.25)
    assert (found["loss"], found["other_loss"]) == (0.18, 0.18)


def test_networks_that_never_reached_the_loss_are_left_out():
    table = networks()
    is_early = table["arm"] == "early"
    table["stop_at_train_loss"] = table["arm"].where(is_early, None)
    table["stopped_epoch"] = [None, None, None, None, 7.0, None]
    found = compare_at_equal_loss(table, curves(), NAMED).set_index("measure").loc["rlct"]
    assert (found["way"], found["pairs"], found["difference"]) == ("stopped", 1, -1)
    table["stopped_epoch"] = None
    found = compare_at_equal_loss(table, curves(), NAMED).set_index("measure")
    assert found["way"].to_dict() == {"rlct": "", "weight_width": "curves"}


def test_without_such_an_arm_the_curves_tell_of_the_width_alone():
    arms = NAMED[:2]
    own = networks().query("arm != 'early'").copy()
    own.loc[own["arm"] == "baseline", "weight_width"] = [4.0, 14.0]
    own.loc[own["arm"] == "self-model", "weight_width"] = [1.0, 9.0]
    table = compare_at_equal_loss(own, curves(), arms).set_index("measure")
    width = table.loc["weight_width"]
    assert (width["way"], width["other"], width["pairs"]) == ("curves", "baseline", 2)
    assert width["other_mean"] == 7  # at epoch 2, of loss 0.2: 2 and 12
    assert width["share"] == pytest.approx((5 - 7) / (5 - 9))
    assert (width["loss"], width["other_loss"]) == pytest.approx((0.19, 0.2))
    rlct = table.loc["rlct"]
    assert (rlct["way"], rlct["pairs"]) == ("", 0)
    assert np.isnan(rlct["share"])


def test_rlcts_of_the_curves_are_used_where_they_were_followed():
    followed = curves().assign(rlct=lambda table: 10.0 + table["epoch"], rlct_status="ok")
    followed.loc[followed["epoch"] == 2, "rlct_status"] = "not_at_minimum"
    table = compare_at_equal_loss(networks().query("arm != 'early'"), followed, NAMED[:2])
    rlct = table.set_index("measure").loc["rlct"]
    assert rlct["other_mean"] == 13  # epoch 3, because the nearer epoch 2 is not usable
    assert rlct["difference"] == pytest.approx(9.25 - 13)


def test_a_stopped_arm_of_another_panel_is_not_taken():
    arms = []
    for panel in ("h8", "h16"):
        for arm in NAMED[:2]:
            arms.append(Arm(f"{panel}-{arm.name}", arm.changes, panel, f"{panel}-baseline"))
    stop = {"aux_weight": 0, "stop_at_train_loss": "h8-self-model"}
    arms.append(Arm("h8-early", stop, "h8", "h8-baseline"))
    table = pd.concat([rows({0: [1.0, 2.0]}, arm=arm.name) for arm in arms]).assign(train_loss=0.1)
    found = compare_at_equal_loss(table, curves(), arms).set_index(["arm", "measure"])
    assert found.loc[("h8-self-model", "rlct"), "other"] == "h8-early"
    assert found.loc[("h16-self-model", "rlct"), "way"] == ""
