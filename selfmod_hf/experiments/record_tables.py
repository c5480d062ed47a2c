"""Build tables of a sweep's records."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from ..json_records import Record
from ..weights import KEY
from .arms import arm_of_row

# columns of texts, integers and truth values. All others are numbers, also those of nulls alone.
_NOT_NUMBERS = {
    "task", "arm", "metric", "rlct_status", "rlct_status_reason", "rlct_preset", KEY, "hidden_size", "seed", "epoch",
    "num_epochs", "batch_size", "detach_targets",
}  # fmt: skip


def table_of(records: Sequence[Record], order: list[str]) -> pd.DataFrame:
    """Return records as a sorted table. A column without any value in them is left out.

    Args:
        records: one or more of one class. The fields of the class come first, axes and measures after them.
        order: columns to sort by.
    """
    entries = []
    present: dict[str, None] = {}  # in their order
    for record in records:
        entry = record.to_dict()
        if entry.get("arm") is None:  # of version 0.1.0
            entry["arm"] = arm_of_row(entry).name
        present |= dict.fromkeys(entry)
        entries.append(entry)
    fields = type(records[0]).model_fields
    known = [name for name in fields if name in present]
    others = [name for name in present if name not in fields]
    table = pd.DataFrame(entries, columns=known + others)
    table = table.sort_values(order, ignore_index=True)
    types: dict[str, type] = {}
    for name in known:
        if name not in _NOT_NUMBERS:
            types[name] = float
    table = table.astype(types)
    if table["hidden_size"].isna().any():
        return table.astype({"hidden_size": "Int64"})
    return table
