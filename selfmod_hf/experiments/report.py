"""Tables of a sweep, as plain text."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


def results_table(rows: pd.DataFrame) -> str:
    """Means over seeds."""
    grouped = rows.groupby(["hidden_size", "detach_targets", "aux_weight"])
    return grouped[["weight_width", "accuracy", "rlct"]].mean().to_string()
