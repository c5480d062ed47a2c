"""Build the tables of a study's comparisons: with baseline and paper, at equal training loss, along an axis."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from ..complexity.result import OK
from .arm_columns import (
    ArmColumns,
    axis_name,
    interval_text,
    measure_name,
    measure_text,
    number_text,
    targets_text,
)
from .equal_loss import STOPPED, UNKNOWN
from .findings import ALPHA, listed
from .published import published_values
from .statistics import count_not_ok
from .table import Table

LEFT_OUT_SHOWN = 6  # arms in a caption


def tests_table(tests: pd.DataFrame, columns: ArmColumns) -> Table:
    """Return one line per arm and measure: the test against the arm's baseline.

    Args:
        tests: from `compare_with_baseline`.
        columns: of the arms.
    """
    # in a grid, width and targets say the panel
    with_panel = tests["panel"].nunique() > 1 and not columns.is_grid
    lines = []
    for test in tests.itertuples():
        line = [*columns.cells[test.arm], *_test_cells(test)]
        if with_panel:
            line.insert(0, test.panel or "-")
        lines.append(line)
    header = [
        *columns.header,
        "measure",
        "test",
        "pairs",
        "difference",
        "95 %",
        "Cohen's d",
        "p",
        "p (Holm)",
    ]
    if with_panel:
        header.insert(0, "panel")
    return Table("Each arm against its baseline", header, lines)


def _test_cells(test: Any) -> list[str]:
    return [
        measure_name(test.measure),
        test.test,
        f"{test.pairs}",
        measure_text(test.measure, test.difference, "+"),
        interval_text(test.measure, test.low, test.high, "+") or "-",
        number_text(test.effect, "+.2f"),
        number_text(test.p, ".2g"),
        number_text(test.p_holm, ".2g"),
    ]


def every_rlct_table(rows: pd.DataFrame, sets: Sequence[pd.DataFrame], columns: ArmColumns) -> Table:
    """Return one line per arm: its RLCT against the baseline's, over three sets of networks.

    The table is empty if all RLCTs are "ok".

    Args:
        rows: one row per network.
        sets: from `compare_with_baseline`, over the networks that count, those whose RLCT is ok, and all with an RLCT.
        columns: of the arms.
    """
    lines = []
    counts: dict[str, str] = {}
    if count_not_ok(rows):
        counts = _ok_counts(rows)
        tests = [_rlct_tests(table) for table in sets]
        for name in tests[0]:
            line = [*columns.cells[name], counts[name]]
            for of_set in tests:
                line += _rlct_cells(of_set[name])
            lines.append(line)
    caption = (
        "RLCT against the baseline's: over the networks that count, over those whose RLCT is ok, and over all with an "
        "RLCT. Which RLCTs are ok, and which count, can depend on their values"
    )
    header = [*columns.header, "ok"]
    for title in ("that count", "ok", "all"):
        header += [title, "pairs", "p (Holm)"]
    return Table(caption, header, lines)


def _rlct_tests(tests: pd.DataFrame) -> dict[str, Any]:
    """Return the comparisons of RLCTs by arm."""
    is_rlct = tests["measure"] == "rlct"
    found = {}
    for test in tests[is_rlct].itertuples():
        found[test.arm] = test
    return found


def _rlct_cells(test: Any) -> list[str]:
    return [
        measure_text("rlct", test.difference, "+"),
        f"{test.pairs}",
        number_text(test.p_holm, ".2g"),
    ]


def _ok_counts(rows: pd.DataFrame) -> dict[str, str]:
    """Return how many RLCTs of each arm are ok ("8 of 10")."""
    is_ok = rows["rlct_status"] == OK
    found = {}
    by_arm = is_ok.groupby(rows["arm"], sort=False)
    for name, own in by_arm:
        count = int(own.sum())
        found[str(name)] = f"{count} of {len(own)}"
    return found


def equal_loss_table(equal_loss: pd.DataFrame, tests: pd.DataFrame, columns: ArmColumns) -> Table:
    """Return one line per arm and measure: the comparison with the baseline at equal training loss.

    Args:
        equal_loss: from `compare_at_equal_loss`.
        tests: from `compare_with_baseline`.
        columns: of the arms.
    """
    lines = []
    unknown: Counter[str] = Counter()  # arms by the name of a measure
    is_told = tests["p_holm"] <= ALPHA
    told = tests[is_told]
    told_apart = set(zip(told["arm"], told["measure"], strict=True))
    for row in equal_loss.itertuples():
        if row.way == UNKNOWN:
            name = measure_name(row.measure)
            unknown[name] += 1
            continue
        remains = "-"
        if (row.arm, row.measure) in told_apart and not math.isnan(row.share):
            remains = f"{100 * row.share:.0f} %"
        line = [*columns.cells[row.arm], *_equal_loss_cells(row), remains]
        lines.append(line)
    caption = (
        "Each arm against its baseline at equal training loss. Remains: share of a difference that is told apart after "
        "the complete training"
    )
    if unknown:
        counts = [f"the {name} of {count} arms" for name, count in unknown.items()]
        text = listed(counts)
        caption += f". The study cannot tell for {text}: no arm stopped at this loss, and no curve has it"
    header = [
        *columns.header,
        "measure",
        "compared with",
        "training losses",
        "pairs",
        "arm",
        "other",
        "difference",
        "p (Holm)",
        "remains",
    ]
    return Table(caption, header, lines)


def _equal_loss_cells(row: Any) -> list[str]:
    way = f"{row.other} at the epoch of the nearest loss"
    if row.way == STOPPED:
        way = f"{row.other}, stopped at this loss"
    loss = number_text(row.loss, ".4f")
    other_loss = number_text(row.other_loss, ".4f")
    return [
        measure_name(row.measure),
        way,
        f"{loss} and {other_loss}",
        f"{row.pairs}",
        measure_text(row.measure, row.mean),
        measure_text(row.measure, row.other_mean),
        measure_text(row.measure, row.difference, "+"),
        number_text(row.p_holm, ".2g"),
    ]


def targets_table(tests: pd.DataFrame) -> Table:
    """Return one line per width, weight and measure.

    Args:
        tests: from `compare_targets`.
    """
    lines = []
    for test in tests.itertuples():
        lines.append(
            [
                f"{test.hidden_size}",
                f"{test.aux_weight:g}",
                measure_name(test.measure),
                measure_text(test.measure, test.detached),
                measure_text(test.measure, test.attached),
                measure_text(test.measure, test.difference, "+"),
                test.test,
                number_text(test.p, ".2g"),
                number_text(test.p_holm, ".2g"),
                f"{test.detached_count} and {test.attached_count}",
            ]
        )
    header = ["h", "AW", "measure", "detached", "attached", "difference", "test", "p", "p (Holm)", "networks"]
    return Table("Targets attached against detached, over the seeds that have both", header, lines)


def trends_table(trends: pd.DataFrame, columns: ArmColumns) -> Table:
    """Return one line per group of arms that differ in one axis, and measure.

    Args:
        trends: from `trends.trends`.
        columns: of the arms.
    """
    only_weights = columns.is_grid and set(trends["axis"]) <= {"aux_weight"}
    lines = []
    for trend in trends.to_dict("records"):
        rho = number_text(trend["rho"], "+.3f")
        low = number_text(trend["low"], "+.3f")
        high = number_text(trend["high"], "+.3f")
        lines.append(
            [
                *_trend_group(trend, only_weights),
                measure_name(trend["measure"]),
                f"{rho} [{low}, {high}]",
                number_text(trend["p"], ".2g"),
                f"{trend['count']}",
                f"{trend['left_out']}",
            ]
        )
    caption = "Trends over arms that differ in one axis only (Spearman)"
    group = ["axis", "arms"]
    if only_weights:
        caption = "Trend over the self-model's weight (Spearman)"
        group = ["h", "targets"]
    header = [*group, "measure", "rho [95 %]", "p", "networks", "left out"]
    return Table(caption, header, lines)


def _trend_group(trend: Mapping[Any, Any], only_weights: bool) -> list[str]:
    if only_weights:
        width = str(trend["hidden_size"])
        targets = targets_text(trend["detach_targets"])
        return [width, targets]
    axis = axis_name(trend["axis"])
    names = trend["arms"].split(", ")
    return [axis, _shortened(names)]


def _shortened(names: Sequence[str]) -> str:
    if len(names) <= LEFT_OUT_SHOWN:
        return ", ".join(names)
    first = names[0]
    last = names[-1]
    return f"{first} .. {last} ({len(names)} arms)"


def published_table(published: pd.DataFrame, columns: ArmColumns) -> Table:
    """Return one line per measure and arm with a value in the paper.

    Args:
        published: from `compare_with_published`.
        columns: of the arms.
    """
    lines = []
    for row in published.itertuples():
        lines.append(
            [
                measure_name(row.measure),
                *columns.cells[row.arm],
                measure_text(row.measure, row.ours),
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
    header = ["measure", *columns.header, "ours", "published", "difference", "seeds", "not ok"]
    return Table(caption, header, lines, if_empty="The paper has no values for these networks.")
