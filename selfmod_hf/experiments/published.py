"""The paper's values, as far as its figures can be read, beside ours."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd


def published_values() -> dict[str, Any]:
    """`published.json`: task -> measure -> width -> values in the order of `aux_weights`; and their `source`."""
    return json.loads((files(__package__) / "published.json").read_text(encoding="utf-8"))


def published_for(task: str) -> dict[str, Any] | None:
    """The task's entry, or None. A task's other recipe (`cifar10-paper-text`) is measured against the same figures."""
    return published_values().get(task.removesuffix("-paper-text"))


def published_value(task: str, measure: str, hidden_size: int, aux_weight: float) -> float | None:
    """One value, or None where the paper has none."""
    values = published_for(task)
    row = None if values is None else values.get(measure, {}).get(str(hidden_size))
    if values is None or row is None or aux_weight not in values["aux_weights"]:
        return None
    return float(row[values["aux_weights"].index(aux_weight)])


def compare_with_published(rows: pd.DataFrame) -> pd.DataFrame:
    """Means over all seeds beside the paper's, with the difference in percent of the paper's.

    Here alone every RLCT counts, whatever its status, since the paper's means do the same; `not_ok` says how many
    were not "ok".
    """
    import pandas as pd

    entries = []
    for (task, hidden_size, detach, aux_weight), arm in rows.groupby(
        ["task", "hidden_size", "detach_targets", "aux_weight"]
    ):
        for measure in ("weight_width", "accuracy", "rlct"):
            paper = published_value(task, measure, hidden_size, aux_weight)
            if paper is None:
                continue
            ours = float(arm[measure].mean())
            not_ok = int((arm["rlct_status"] != "ok").sum()) if measure == "rlct" else 0
            entries.append(
                {"hidden_size": hidden_size, "detach_targets": detach, "aux_weight": aux_weight, "measure": measure}
                | {"ours": ours, "published": paper, "percent": 100 * (ours - paper) / abs(paper)}
                | {"seeds": len(arm), "not_ok": not_ok}
            )
    return pd.DataFrame(entries)
