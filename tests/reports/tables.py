"""Tables of networks, as the statistics read them."""

from __future__ import annotations

import pandas as pd

from selfmod_hf.experiments.arms import Arm, arm_of_row


def rows(values: dict[float, list[float]], status: str = "ok", seeds=None, **columns) -> pd.DataFrame:
    """One network per value, each measure with the same number. The keys are self-model weights."""
    entries = []
    for weight, arm in values.items():
        for seed, value in zip(seeds or range(len(arm)), arm, strict=False):
            entry = {"task": "mnist", "hidden_size": 64, "aux_weight": weight, "seed": seed, "detach_targets": True}
            entry |= columns
            entry.setdefault("arm", arm_of_row(entry).name)
            entry |= {"weight_width": value, "accuracy": value, "rlct": value, "rlct_status": status}
            entries.append(entry)
    return pd.DataFrame(entries)


def study_of(table: pd.DataFrame) -> list[Arm]:
    """The arms of a table of version 0.1.0."""
    arms = {}
    for row in table.to_dict("records"):
        arms.setdefault(row["arm"], arm_of_row(row))
    return list(arms.values())
