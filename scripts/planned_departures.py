"""What departs from docs/preregistration.md in a study, and in its RLCTs at theory settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from ground_truth_table import read_rows

from selfmod_hf.experiments.arms import Arm
from selfmod_hf.experiments.plan import Plan
from selfmod_hf.json_records import SweepRun

SEEDS_NOT_RUN = "Seeds that were not run"
THEORY_ARMS = (
    "baseline",
    "own-1",
    "own-5",
    "own-10",
    "as-own-10",
    "other-a-10",
    "shuffled-10",
    "decay-last-3e-3",
    "units-32",
)
THEORY = {  # what each line of scripts/theory_rlct.py says of itself
    "seeds": [11, 12, 13, 14, 15],
    "step_sizes": [4e-6, 2e-6],
    "max_train_samples": None,
    "settings": {
        "nbeta": "n/log n",
        "sampler": "sghmc",
        "localization": 100.0,
        "num_draws": 1000,
        "batch_size": 1024,
        "minimize": True,
    },
}


def sentences(listed: Mapping[str, Sequence[str]]) -> list[str]:
    """Return a sentence for each list that is not empty."""
    return [f"{words}: {', '.join(names)}." for words, names in listed.items() if names]


# ---- a study ----


def departures(plan: Plan, rows: pd.DataFrame, run: SweepRun | None, arms: Sequence[Arm]) -> list[str]:
    """Return what differs from the plan, a sentence each.

    Args:
        plan: of the study.
        rows: one per network.
        run: content of run.json.
        arms: of the study.
    """
    names = [arm.name for arm in plan.arms]
    known = set(rows["arm"])
    seeds = {int(seed) for seed in rows["seed"].unique()}
    listed = {
        "Arms that were not run": [name for name in names if name not in known],
        "Arms that the plan does not have": sorted(known - set(names)),
        SEEDS_NOT_RUN: [str(seed) for seed in plan.seeds if seed not in seeds],
        "Seeds that the plan does not have": sorted(map(str, seeds - set(plan.seeds))),
        "Networks that were not run": missing_networks(plan, rows),
        "Other settings": other_settings(plan, run),
        "Other arms": other_arms(plan, arms),
    }
    return sentences(listed)


def missing_networks(plan: Plan, rows: pd.DataFrame) -> list[str]:
    """Return the networks that are missing, of the arms and seeds that were run."""
    seeds = [seed for seed in plan.seeds if seed in set(rows["seed"])]
    found = []
    for arm in plan.arms:
        own = set(rows[rows["arm"] == arm.name]["seed"])
        if own:
            found += [f"{arm.name} seed {seed}" for seed in seeds if seed not in own]
    return found


def other_settings(plan: Plan, run: SweepRun | None) -> list[str]:
    """Return the settings of the networks that are not the plan's, except the name of the data."""
    if run is None:
        return ["unknown, because run.json is missing"]
    own, wanted = flat(run.settings.to_dict()), flat(plan.settings)
    for settings in (own, wanted):
        settings.pop("data dataset_name", None)
    return differences(own, wanted)


def other_arms(plan: Plan, arms: Sequence[Arm]) -> list[str]:
    """Return the changes of arms that are not the plan's, except the folder of another network."""
    wanted = {arm.name: without_folder(arm) for arm in plan.arms}
    found = []
    for arm in arms:
        if arm.name in wanted:
            found += [f"{arm.name} with {text}" for text in differences(without_folder(arm), wanted[arm.name])]
    return found


def without_folder(arm: Arm) -> dict[str, Any]:
    """Return the changes of an arm without the folder of the other network."""
    changes = dict(arm.changes)
    if str(changes.get("target_source")).startswith("network:"):
        changes["target_source"] = "network:"
    return changes


def differences(own: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Return the settings that differ, with both values."""
    found = []
    for name in dict.fromkeys([*wanted, *own]):
        if own.get(name) != wanted.get(name):
            found.append(f"{name} {own.get(name)} instead of {wanted.get(name)}")
    return found


def flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings in groups as one mapping."""
    found = {}
    for group, values in settings.items():
        if not isinstance(values, dict):
            values = {"": values}
        for name, value in values.items():
            found[f"{group} {name}".strip()] = value
    return found


# ---- RLCTs at theory settings ----


def theory_departures(file: Path) -> list[str]:
    """Return what differs from question f in the file of scripts/theory_rlct.py, a sentence each."""
    rows = read_rows(file)
    arms = {row["arm"]: None for row in rows}
    settings: dict[str, None] = {}
    for row in rows:
        own = flat({name: row.get(name) for name in THEORY})
        settings |= dict.fromkeys(differences(own, flat(THEORY)))
    listed = {
        "Arms that were not run": [name for name in THEORY_ARMS if name not in arms],
        "Arms that the plan does not have": [name for name in arms if name not in THEORY_ARMS],
        "Other settings": list(settings),
    }
    return sentences(listed)
