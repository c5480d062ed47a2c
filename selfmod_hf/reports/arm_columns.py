"""Name arms, axes, measures and numbers in the tables of a study."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ..experiments.arms import Arm
from .statistics import ARM, axis_values

NAMES = {
    "weight_width": "SD",
    "accuracy": "acc",
    "f1": "F1",
    "mse": "MSE",
    "spearmanr": "Spearman",
    "pearson": "Pearson",
    "matthews_correlation": "Matthews",
    "rlct": "RLCT",
    "train_loss": "training loss",
}
FORMS = {
    "weight_width": ".4f",
    "accuracy": ".4f",
    "f1": ".4f",
    "pearson": ".4f",
    "perplexity": ".2f",
    "rlct": ".2f",
    "train_loss": ".4f",
}
GRID_NAME = re.compile(r"(h\d+(x\d+)*-?)?(aw[\d.e+-]+?)?(-?attached)?")  # as in `name_of_values`
AXIS_NAMES = {"hidden_size": "h", "detach_targets": "targets", "aux_weight": "AW"}


@dataclass(frozen=True)
class ArmColumns:
    """Hold the columns that say which arm a line of a table is about.

    Attributes:
        header: names of the columns.
        cells: the columns of each arm.
        is_grid: whether width, weight and kind of targets are the columns.
    """

    header: list[str]
    cells: dict[str, list[str]]
    is_grid: bool


def is_grid(study: Sequence[Arm], axes: Sequence[str]) -> bool:
    """Return whether width, weight and kind of targets say all about an arm, as in the paper's studies.

    Example:
        >>> is_grid([Arm("h64-aw0"), Arm("h64-aw10-attached")], []), is_grid([Arm("baseline"), Arm("decay")], [])
        (True, False)

    Args:
        study: the arms.
        axes: columns in which arms differ, in addition to these three.
    """
    if axes:
        return False
    return all(GRID_NAME.fullmatch(arm.name) for arm in study)


def arm_columns(rows: pd.DataFrame, study: Sequence[Arm], axes: Sequence[str]) -> ArmColumns:
    """Return the columns that describe an arm: its name and its value on each axis that varies.

    A grid of width, weight and kind of targets has these three alone, because they make the name.
    """
    grid = is_grid(study, axes)
    shown = list(ARM) if grid else _varying(rows, axes)
    header = [axis_name(axis) for axis in shown]
    cells: dict[str, list[str]] = {}
    for name, arm in rows.groupby("arm", sort=False):
        values = axis_values(arm, shown)
        cells[str(name)] = list(map(axis_text, shown, values))
    if grid:
        return ArmColumns(header, cells, is_grid=True)
    named = {name: [name, *texts] for name, texts in cells.items()}
    return ArmColumns(["arm", *header], named, is_grid=False)


def short_columns(rows: pd.DataFrame, study: Sequence[Arm], axes: Sequence[str]) -> ArmColumns:
    """Return the columns that name an arm. Its values on the axes are in the table of arms."""
    if is_grid(study, axes):
        return arm_columns(rows, study, axes)
    names = rows["arm"].unique()
    cells = {name: [name] for name in names}
    return ArmColumns(["arm"], cells, is_grid=False)


def _varying(rows: pd.DataFrame, axes: Sequence[str]) -> list[str]:
    """Return the axes on which the arms have different values."""
    candidates = dict.fromkeys([*ARM, *axes])
    if "hidden_sizes" in candidates:
        del candidates["hidden_size"]  # the last of these
    varying = []
    for name in candidates:
        texts = rows[name].map(repr)  # missing values are values too
        if texts.nunique() > 1:
            varying.append(name)
    return varying


def axis_name(axis: str) -> str:
    """Return the name of an axis as a header."""
    words = axis.replace("_", " ")
    return AXIS_NAMES.get(axis, words)


def axis_text(axis: str, value: Any) -> str:
    """Return a value on an axis as a cell.

    Example:
        >>> axis_text("aux_weight", 10.0), axis_text("detach_targets", False), axis_text("weight_decay", None)
        ('10', 'attached', '-')
    """
    if axis == "detach_targets":
        return targets_text(value)
    if value is None or value is pd.NA:
        return "-"
    if value != value:  # NaN
        return "-"
    if isinstance(value, float):
        return f"{value:g}"
    return str(value)


def targets_text(detach: bool) -> str:
    """Return the kind of targets in a word."""
    return "detached" if detach else "attached"


def measure_name(measure: str) -> str:
    """Return the name of a measure as a header."""
    words = measure.replace("_", " ")
    return NAMES.get(measure, words)


def measure_text(measure: str, value: float | None, sign: str = "") -> str:
    """Return a value of a measure with its number of digits, or a dash.

    Args:
        measure: its column.
        value: a number. None, NaN and infinity become a dash.
        sign: "+" shows the sign of positive numbers too.
    """
    form = FORMS.get(measure, ".4g")
    return number_text(value, f"{sign}{form}")


def number_text(value: float | None, form: str) -> str:
    """Return a number in a format, or a dash for None, NaN and infinity."""
    if value is None or not math.isfinite(value):
        return "-"
    return format(value, form)


def interval_text(measure: str, low: float, high: float, sign: str = "") -> str:
    """Return the bounds of an interval in brackets, or nothing."""
    if not math.isfinite(low) or not math.isfinite(high):
        return ""
    lower = measure_text(measure, low, sign)
    upper = measure_text(measure, high, sign)
    return f"[{lower}, {upper}]"
