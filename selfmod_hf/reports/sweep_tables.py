"""Build the tables of a sweep from its statistics, for all forms of its report."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from .published import published_values
from .statistics import ARM, MEASURES
from .sweep_results import SweepResults
from .table import Table, as_text

NAMES = {"weight_width": "SD", "accuracy": "acc", "rlct": "RLCT"}
DIGITS = {"weight_width": 4, "accuracy": 4, "rlct": 2}
ARM_HEADER = ["h", "targets", "AW"]


def sweep_tables(results: SweepResults) -> dict[str, Table]:
    """Return the tables of a report by their names, in the order of its text."""
    return {
        "arms": arms_table(results.arms),
        "not_ok": not_ok_table(results.rows),
        "at_chance": chance_table(results.rows),
        "tests": tests_table(results.tests),
        "trends": trends_table(results.trends),
        "published": published_table(results.published),
        "targets": targets_table(results.targets),
    }


def overview(results: SweepResults) -> str:
    """Return the table of arms as text, and tables of the values left out of its means."""
    rows = results.rows
    return as_text([arms_table(results.arms), not_ok_table(rows), chance_table(rows)])


def number_text(value: float | None, form: str) -> str:
    """Return a number in a format, or a dash for None, NaN and infinity."""
    if value is None or not math.isfinite(value):
        return "-"
    return format(value, form)


def _arm_cells(hidden_size: int, detach: bool, aux_weight: float) -> list[str]:
    return [f"{hidden_size}", _targets(detach), f"{aux_weight:g}"]


def _targets(detach: bool) -> str:
    return "detached" if detach else "attached"


# ---- means, and networks outside of them ----


def arms_table(arms: pd.DataFrame) -> Table:
    """Return one line per arm: mean and 95 % interval of each measure, and how many RLCTs are left out.

    Args:
        arms: from `summarize_arms`.
    """
    lines = []
    for key, arm in arms.groupby(ARM):
        entries = {entry.measure: entry for entry in arm.itertuples()}
        intervals = [_interval_text(entries[measure]) for measure in MEASURES]
        lines.append(
            [
                *_arm_cells(*key),
                f"{entries['accuracy'].count}",
                *intervals,
                f"{entries['rlct'].left_out}",
            ]
        )
    measures = [f"{NAMES[measure]} [95 %]" for measure in MEASURES]
    header = [
        *ARM_HEADER,
        "seeds",
        *measures,
        "RLCT left out",
    ]
    return Table("Each arm: mean over seeds and 95 % t interval", header, lines)


def _interval_text(entry: Any) -> str:
    form = f".{DIGITS[entry.measure]}f"
    if entry.count == 0:
        return "none ok"
    mean = number_text(entry.mean, form)
    if entry.count == 1:
        return mean
    return f"{mean} [{number_text(entry.low, form)}, {number_text(entry.high, form)}]"


def not_ok_table(rows: pd.DataFrame) -> Table:
    """Return one line per arm and status of the RLCTs left out of means, tests and trends."""
    bad = rows[rows["rlct_status"] != "ok"]
    lines = []
    for (*key, status), group in bad.groupby([*ARM, "rlct_status"]):
        lines.append(
            [
                *_arm_cells(*key),
                status,
                _seeds(group),
                _values(group["rlct"], ".2f"),
            ]
        )
    caption = f"{len(bad)} of {len(rows)} RLCTs are not ok; they are left out of means, tests and trends"
    return Table(caption, [*ARM_HEADER, "status", "seeds", "RLCT"], lines)


def chance_table(rows: pd.DataFrame) -> Table:
    """Return one line per arm with networks at chance level."""
    bad = rows[rows["at_chance"]]
    lines = []
    for key, group in bad.groupby(ARM):
        lines.append(
            [
                *_arm_cells(*key),
                _seeds(group),
                _values(group["accuracy"], ".3f"),
            ]
        )
    caption = (
        f"Warning: {len(bad)} of {len(rows)} networks are at chance level, no more accurate than guessing; they are "
        "left out of means, tests and trends (`keep_chance` counts them)"
    )
    return Table(caption, [*ARM_HEADER, "seeds", "accuracy"], lines)


def _seeds(rows: pd.DataFrame) -> str:
    return ", ".join(map(str, rows["seed"]))


def _values(values: pd.Series, form: str) -> str:
    return ", ".join(number_text(value, form) for value in values)


# ---- comparisons ----


def tests_table(tests: pd.DataFrame) -> Table:
    """Return one line per arm and measure.

    Args:
        tests: from `compare_with_baseline`.
    """
    lines = []
    for test in tests.itertuples():
        lines.append(
            [
                *_arm_cells(test.hidden_size, test.detach_targets, test.aux_weight),
                NAMES[test.measure],
                test.test,
                number_text(test.difference, f"+.{DIGITS[test.measure]}f"),
                number_text(test.effect, "+.2f"),
                number_text(test.p, ".2g"),
                number_text(test.p_holm, ".2g"),
            ]
        )
    header = [*ARM_HEADER, "measure", "test", "difference", "Cohen's d", "p", "p (Holm)"]
    return Table("Each arm against the baseline of its width", header, lines)


def targets_table(tests: pd.DataFrame) -> Table:
    """Return one line per width, weight and measure.

    Args:
        tests: from `compare_targets`.
    """
    lines = []
    for test in tests.itertuples():
        form = f".{DIGITS[test.measure]}f"
        lines.append(
            [
                f"{test.hidden_size}",
                f"{test.aux_weight:g}",
                NAMES[test.measure],
                number_text(test.detached, form),
                number_text(test.attached, form),
                number_text(test.difference, f"+{form}"),
                test.test,
                number_text(test.p, ".2g"),
                number_text(test.p_holm, ".2g"),
                f"{test.detached_count} and {test.attached_count}",
            ]
        )
    header = ["h", "AW", "measure", "detached", "attached", "difference", "test", "p", "p (Holm)", "networks"]
    return Table("Targets attached against detached, over the seeds that have both", header, lines)


def trends_table(trends: pd.DataFrame) -> Table:
    """Return one line per width, kind of targets and measure.

    Args:
        trends: from `statistics.trends`.
    """
    lines = []
    for trend in trends.itertuples():
        rho, low, high = (number_text(value, "+.3f") for value in (trend.rho, trend.low, trend.high))
        lines.append(
            [
                f"{trend.hidden_size}",
                _targets(trend.detach_targets),
                NAMES[trend.measure],
                f"{rho} [{low}, {high}]",
                number_text(trend.p, ".2g"),
                f"{trend.count}",
                f"{trend.left_out}",
            ]
        )
    header = ["h", "targets", "measure", "rho [95 %]", "p", "networks", "left out"]
    return Table("Trend over the self-model's weight (Spearman)", header, lines)


def published_table(published: pd.DataFrame) -> Table:
    """Return one line per measure and arm with a value in the paper.

    Args:
        published: from `compare_with_published`.
    """
    lines = []
    for row in published.itertuples():
        lines.append(
            [
                NAMES[row.measure],
                *_arm_cells(row.hidden_size, row.detach_targets, row.aux_weight),
                number_text(row.ours, f".{DIGITS[row.measure]}f"),
                f"{row.published:g}",
                f"{number_text(row.percent, '+.1f')} %",
                f"{row.seeds}",
                f"{row.not_ok}",
            ]
        )
    caption = (
        "Our means beside the paper's. All networks count here, whatever their RLCT's status, as in the paper. "
        f"Published: {published_values()['source']}"
    )
    header = ["measure", *ARM_HEADER, "ours", "published", "difference", "seeds", "not ok"]
    return Table(caption, header, lines, if_empty="The paper has no values for these networks.")
