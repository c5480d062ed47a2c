"""Question f of docs/preregistration.md: the RLCT at theory settings, from the file of scripts/theory_rlct.py."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from ground_truth_table import read_rows
from planned_rules import VARIANTS, Contrast, Row, Values, judge, margin_of, mark

from selfmod_hf.errors import InputError
from selfmod_hf.reports.equal_loss import never_stopped
from selfmod_hf.reports.statistics import has_usable_rlct, is_trained

SMALLER = "the smaller step size alone"


def read_theory(file: Path, seeds: Sequence[int], networks: pd.DataFrame) -> pd.DataFrame:
    """Return the estimates of scripts/theory_rlct.py, one per row.

    Args:
        file: has a line for each arm and step size.
        seeds: of the networks of each line, in their order.
        networks: of the study, from `read_table`. Which of them are above chance level is taken from it.

    Raises:
        InputError: the file has other seeds, other networks, or not two step sizes for each arm.
    """
    estimates = []
    for row in read_rows(file):
        if len(row["llc"]) != len(seeds):
            raise InputError("theory_seeds", list(seeds), f"{file} has {len(row['llc'])} networks of {row['arm']}")
        own = row.get("seeds", list(seeds))  # rows of an earlier version do not name them
        if own != list(seeds):
            raise InputError("theory_seeds", list(seeds), f"{file} has the seeds {own} of {row['arm']}")
        for seed, llc, status in zip(seeds, row["llc"], row["status"], strict=True):
            keys = {"arm": row["arm"], "seed": seed, "step_size": row["step_size"]}
            estimates.append({**keys, "rlct": llc, "rlct_status": status})
    table = pd.DataFrame(estimates, columns=["arm", "seed", "step_size", "rlct", "rlct_status"])
    steps = table["step_size"].unique()
    of_arm = table.groupby("arm")["step_size"].nunique()
    if len(steps) != 2 or (of_arm != 2).any():
        raise InputError(
            "theory", str(file), f"each arm must have the same two step sizes, found {sorted(steps.tolist())}"
        )
    marks = networks.assign(never_stopped=never_stopped(networks))
    columns = ["arm", "seed", "at_chance", "never_stopped", "weight_width"]
    marked = table.merge(marks[columns], on=["arm", "seed"])
    if len(marked) != len(table):
        raise InputError("theory", str(file), "has networks that are not in the study, or has some twice")
    return marked


def at_step_size(table: pd.DataFrame, step_size: float) -> Values:
    """Return the RLCTs that count at a step size."""
    counted = table[is_trained(table) & has_usable_rlct(table) & ~table["never_stopped"]]
    own = counted[counted["step_size"] == step_size].set_index("seed")
    return {str(arm): values for arm, values in own.groupby("arm")["rlct"]}


def at_step_size_0(table: pd.DataFrame) -> Values:
    """Return the RLCTs at step size 0, by a line through both step sizes. A network must count at both."""
    short, long = sorted(table["step_size"].unique())
    share = short / (long - short)
    of_short, of_long = at_step_size(table, short), at_step_size(table, long)
    found = {}
    for arm in of_short.keys() & of_long.keys():
        line = of_short[arm] + share * (of_short[arm] - of_long[arm])
        found[arm] = line.dropna()
    return found


def theory_contrasts(values: Values) -> list[Contrast]:
    """Return question f. The margin is a share of the baseline's mean."""
    pairs = [(own, "baseline") for own in ("own-1", "own-5", "own-10")]
    for other in ("as-own-10", "other-a-10", "shuffled-10", "decay-last-3e-3", "units-32"):
        pairs.append(("own-10", other))
    found = []
    for own, other in pairs:
        if own in values and other in values:
            name = f"{own} - {other}"
            found.append(Contrast("f", "rlct, theory", name, values[own], values[other], margin_of(values)))
    return found


def theory_variants(table: pd.DataFrame) -> dict[str, list[Row]]:
    """Return the rows of question f at the smaller step size alone, and with other networks."""
    smaller = at_step_size(table, table["step_size"].min())
    found = {SMALLER: judge(theory_contrasts(smaller))}
    for name, change in VARIANTS.items():
        values = at_step_size_0(change(table))
        found[name] = judge(theory_contrasts(values))
    return found


def judged_theory(table: pd.DataFrame) -> list[Row]:
    """Return the rows of question f. A verdict is marked if a variant gives another one."""
    rows = judge(theory_contrasts(at_step_size_0(table)))
    for name, others in theory_variants(table).items():
        mark(rows, name, others)
    return rows
