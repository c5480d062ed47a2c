"""Build the tables of a study from its statistics, for all forms of its report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from ..complexity.result import OK
from ..experiments.chance import main_metric
from .arm_columns import ArmColumns, arm_columns, interval_text, measure_name, measure_text, number_text, short_columns
from .comparison_tables import (
    equal_loss_table,
    every_rlct_table,
    published_table,
    targets_table,
    tests_table,
    trends_table,
)
from .speakers import rows_by_arm
from .statistics import NO_COMPLEXITY, counts_without_rlct, has_usable_rlct, only_ok, usable
from .sweep_results import SweepResults
from .table import Table, as_text

__all__ = ["number_text", "overview", "sweep_tables"]

MEANS = "mean over seeds and 95 % t interval"
EACH_ARM = f"Each arm, over its networks with an RLCT: {MEANS}"
KEPT = "an arm without any: over its other networks, RLCT only left out"
EACH_KEPT_ARM = f"Each arm, over its networks with an RLCT ({KEPT}): {MEANS}"
ONLY_OK = f"Each arm, over its networks whose RLCT is ok (a selection that can depend on the value): {MEANS}"


def sweep_tables(results: SweepResults) -> dict[str, Table]:
    """Return the tables of a report by their names, in the order of its text."""
    rows = results.rows
    full = arm_columns(rows, results.study, results.axes)
    short = short_columns(rows, results.study, results.axes)
    sets = [results.tests, results.ok_rlct, results.every_rlct]
    return {
        "arms": arms_table(results.arms, full, caption_of_arms(rows), results.metric),
        "arms_ok": arms_of_ok_table(results, full),
        "measures": measures_table(results.arms, results.further_measures, short),
        "not_ok": not_ok_table(rows, short),
        "at_chance": chance_table(rows, short),
        "tests": tests_table(results.tests, short),
        "every_rlct": every_rlct_table(rows, sets, short),
        "equal_loss": equal_loss_table(results.equal_loss, results.tests, short),
        "trends": trends_table(results.trends, short),
        "published": published_table(results.published, short),
        "targets": targets_table(results.targets),
    }


def overview(results: SweepResults) -> str:
    """Return the answer, the table of arms as text, and tables of the values left out of its means."""
    rows = results.rows
    full = arm_columns(rows, results.study, results.axes)
    short = short_columns(rows, results.study, results.axes)
    tables = [
        arms_table(results.arms, full, caption_of_arms(rows), results.metric),
        arms_of_ok_table(results, full),
        not_ok_table(rows, short),
        chance_table(rows, short),
    ]
    return f"{results.answer}\n\n{as_text(tables)}"


# ---- means ----


def arms_table(arms: pd.DataFrame, columns: ArmColumns, caption: str = EACH_ARM, metric: str = "accuracy") -> Table:
    """Return one line per arm: number of seeds, mean and 95 % interval of each measure, number of RLCTs left out.

    All figures of a line are over the same networks.

    Args:
        arms: from `summarize_arms`.
        columns: of the arms.
        caption: names the networks.
        metric: that the study compares.
    """
    means = rows_by_arm(arms)
    measures = set(arms["measure"])
    shown = [measure for measure in ("weight_width", metric, "train_loss", "rlct") if measure in measures]
    lines = []
    for name, cells in columns.cells.items():
        intervals = [_mean_text(means[name, measure]) for measure in shown]
        width = means[name, "weight_width"]
        lines.append([*cells, f"{width.count}", *intervals, f"{means[name, 'rlct'].left_out}"])
    header = [*columns.header, "seeds", *_mean_headers(shown), "RLCT left out"]
    return Table(caption, header, lines)


def caption_of_arms(rows: pd.DataFrame) -> str:
    """Return the caption of the table of arms. It says so if an arm has no usable RLCT."""
    if counts_without_rlct(rows).any():
        return EACH_KEPT_ARM
    return EACH_ARM


def arms_of_ok_table(results: SweepResults, columns: ArmColumns) -> Table:
    """Return the table of arms over the networks whose RLCT is "ok". Arms without any have no line.

    The table is empty if no other RLCT counts.
    """
    rows = results.rows
    doubtful = has_usable_rlct(rows) & (rows["rlct_status"] != OK)
    if not doubtful.any():
        return Table(ONLY_OK, [], [])
    names = set(usable(only_ok(rows), "rlct")["arm"])
    cells = {name: own for name, own in columns.cells.items() if name in names}
    return arms_table(results.arms_of_ok, replace(columns, cells=cells), ONLY_OK, results.metric)


def measures_table(arms: pd.DataFrame, further: Sequence[str], columns: ArmColumns) -> Table:
    """Return one line per arm: mean and 95 % interval of each further measure.

    Args:
        arms: from `summarize_arms`.
        further: the measures.
        columns: of the arms.
    """
    means = rows_by_arm(arms)
    lines = []
    if further:
        for name, cells in columns.cells.items():
            intervals = [_mean_text(means[name, measure]) for measure in further]
            lines.append([*cells, *intervals])
    header = [*columns.header, *_mean_headers(further)]
    return Table(f"Further measures: {MEANS}", header, lines)


def _mean_headers(measures: Sequence[str]) -> list[str]:
    return [f"{measure_name(measure)} [95 %]" for measure in measures]


def _mean_text(entry: Any) -> str:
    if entry.count == 0:
        return "none" if entry.measure == "rlct" else "-"
    mean = measure_text(entry.measure, entry.mean)
    if entry.count == 1:
        return mean
    return f"{mean} {interval_text(entry.measure, entry.low, entry.high)}"


# ---- networks outside of the means ----


def not_ok_table(rows: pd.DataFrame, columns: ArmColumns) -> Table:
    """Return one line per arm and status of the RLCTs that are not ok, with their values."""
    bad = rows[rows["rlct_status"] != OK]
    without_rlct = counts_without_rlct(rows)
    lines = []
    for (name, status), group in bad.groupby(["arm", "rlct_status"], sort=False):
        values = ", ".join(measure_text("rlct", value) for value in group["rlct"])
        counts = "no" if status in NO_COMPLEXITY else "yes"
        if without_rlct[group.index].any():
            counts = "no (RLCT only)"
        lines.append([*columns.cells[name], status, counts, _seeds(group), values])
    caption = (
        f"{len(bad)} of {len(rows)} RLCTs are not ok. Networks that are not at a minimum, or whose chains diverged, "
        "are left out of means, tests and trends. The others count"
    )
    if without_rlct[bad.index].any():
        caption += ". In an arm without any usable RLCT the RLCT only is left out"
    return Table(caption, [*columns.header, "status", "counts", "seeds", "RLCT"], lines)


def chance_table(rows: pd.DataFrame, columns: ArmColumns) -> Table:
    """Return one line per arm with networks at chance level."""
    bad = rows[rows["at_chance"]]
    metric = main_metric(rows)
    lines = []
    for name, group in bad.groupby("arm", sort=False):
        values = ", ".join(number_text(value, ".3f") for value in group[metric])
        lines.append([*columns.cells[str(name)], _seeds(group), values])
    caption = (
        f"Warning: {len(bad)} of {len(rows)} networks are at chance level, no better than guessing; they are "
        "left out of means, tests and trends (`keep_chance` counts them)"
    )
    return Table(caption, [*columns.header, "seeds", metric.replace("_", " ")], lines)


def _seeds(rows: pd.DataFrame) -> str:
    return ", ".join(map(str, rows["seed"]))
