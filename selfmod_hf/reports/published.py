"""Read the paper's values, as far as its figures can be read, and compare a sweep's means with them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from pandas import DataFrame

from ..experiments.arms import Arm
from .statistics import ARM, MEASURES, as_table, axis_values, count_not_ok, measured

OF_THE_PAPER = {"hidden_sizes", "aux_weight", "detach_targets"}  # settings that differ between the paper's networks


def published_values() -> dict[str, Any]:
    """Return `published.json`: task -> measure -> width -> values in the order of `aux_weights`, and their `source`."""
    file = files(__package__) / "published.json"
    return json.loads(file.read_text(encoding="utf-8"))


def published_for(task: str) -> dict[str, Any] | None:
    """Return the task's entry, or None. Another recipe of a task (`cifar10-paper-text`) has the same figures."""
    name = task.removesuffix("-paper-text")
    return published_values().get(name)


def published_value(
    task: str,
    measure: str,
    hidden_size: int,
    aux_weight: float,
) -> float | None:
    """Return one value, or None if the paper has none."""
    values = published_for(task)
    if values is None:
        return None
    weights = values["aux_weights"]
    row = values.get(measure, {}).get(str(hidden_size))
    if row is None or aux_weight not in weights:
        return None
    return float(row[weights.index(aux_weight)])


def compare_with_published(rows: DataFrame, study: Sequence[Arm] = ()) -> DataFrame:
    """Compare means over all seeds with the paper's.

    Every network counts here, whatever its RLCT's status, because the paper's means do the same. Arms of other settings
    than the paper's have no value, for example those with weight decay.

    Args:
        rows: one row per network.
        study: the arms. Empty: all are arms of the paper's settings.

    Returns:
        One row per measure and arm, in the order of the measures' names. `percent` is the difference in percent of
        the paper's value. `not_ok` is the number of RLCTs of another status than "ok".
    """
    entries = []
    others = {arm.name for arm in study if not _is_of_the_paper(arm)}
    task = str(rows["task"].iloc[0])
    for name, arm in rows.groupby("arm", sort=False):
        if name in others:
            continue
        key = axis_values(arm, ARM)
        hidden_size, _, aux_weight = key
        for measure in measured(rows, MEASURES):
            paper = published_value(task, measure, hidden_size, aux_weight)
            if paper is None:
                continue
            ours = float(arm[measure].mean())
            percent = 100 * (ours - paper) / abs(paper)
            not_ok = 0
            if measure == "rlct":
                not_ok = count_not_ok(arm)
            entries.append((measure, name, *key, ours, paper, percent, len(arm), not_ok))
    order = ["measure", *ARM]
    columns = ["measure", "arm", *ARM, "ours", "published", "percent", "seeds", "not_ok"]
    table = as_table(entries, columns)
    return table.sort_values(order, ignore_index=True)


def _is_of_the_paper(arm: Arm) -> bool:
    """Return whether an arm differs from others as the paper's do: one hidden layer, its width, the weight, targets."""
    sizes = arm.changes.get("hidden_sizes", [0])
    return OF_THE_PAPER.issuperset(arm.changes) and len(sizes) == 1
