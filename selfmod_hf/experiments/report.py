"""The tables of a sweep, as plain text."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from .published import compare_with_published
from .statistics import (
    ARM,
    MEASURES,
    compare_targets,
    compare_with_baseline,
    summarize_arms,
    trends,
    with_both_targets,
)

if TYPE_CHECKING:
    import pandas as pd

NAMES = {"weight_width": "SD", "accuracy": "acc", "rlct": "RLCT"}
DIGITS = {"weight_width": 4, "accuracy": 4, "rlct": 2}


def results_table(rows: pd.DataFrame) -> str:
    """One line per arm: mean and 95 % interval of each measure; RLCTs left out are counted."""
    arms = summarize_arms(rows)
    lines = [["h", "targets", "AW", "seeds", *(f"{NAMES[m]} [95 %]" for m in MEASURES), "RLCT left out"]]
    for (hidden_size, detach, weight), arm in arms.groupby(ARM):
        by_measure = arm.set_index("measure")
        cells = [_interval(by_measure.loc[m], DIGITS[m]) for m in MEASURES]
        rlct = by_measure.loc["rlct"]
        seeds = int(by_measure.loc["accuracy", "count"])
        lines.append([f"{hidden_size}", _targets(detach), f"{weight:g}", f"{seeds}", *cells, f"{rlct['left_out']}"])
    return _aligned(lines) + _left_out(rows) + _at_chance(rows)


def _at_chance(rows: pd.DataFrame) -> str:
    """Return a paragraph on the networks that have learned nothing; empty where there is none."""
    if "at_chance" not in rows or not rows["at_chance"].any():
        return ""
    bad = rows[rows["at_chance"]]
    lines = [
        "",
        "",
        f"Warning: {len(bad)} of {len(rows)} networks are at chance level, no more accurate than guessing; they are "
        "left out of means, tests and trends (selfmod report --keep_chance counts them):",
    ]
    for (hidden_size, detach, weight), arm in bad.groupby(ARM):
        accuracies = ", ".join(f"{value:.3f}" for value in arm["accuracy"])
        seeds = ", ".join(str(seed) for seed in arm["seed"])
        lines.append(f"  h {hidden_size} {_targets(detach)} AW {weight:g} (seeds {seeds}): accuracy {accuracies}")
    return "\n".join(lines)


def _left_out(rows: pd.DataFrame) -> str:
    """Says plainly which RLCTs are shown here and left out of means, tests and trends."""
    bad = rows[rows["rlct_status"] != "ok"]
    if bad.empty:
        return ""
    lines = ["", "", f"{len(bad)} of {len(rows)} RLCTs are not ok; they are left out of means, tests and trends:"]
    for (hidden_size, detach, weight, status), arm in bad.groupby([*ARM, "rlct_status"]):
        values = ", ".join(f"{value:.2f}" for value in arm["rlct"])
        seeds = ", ".join(str(seed) for seed in arm["seed"])
        lines.append(f"  h {hidden_size} {_targets(detach)} AW {weight:g}: {status} (seeds {seeds}): {values}")
    return "\n".join(lines)


def tests_table(rows: pd.DataFrame) -> str:
    """Each arm against the baseline of its width."""
    lines = [["h", "targets", "AW", "measure", "test", "difference", "Cohen's d", "p", "p (Holm)"]]
    for test in compare_with_baseline(rows).to_dict("records"):
        lines.append(
            [
                f"{test['hidden_size']}", _targets(test["detach_targets"]), f"{test['aux_weight']:g}",
                NAMES[test["measure"]], test["test"],
                _number(test["difference"], "+.4f"), _number(test["effect"], "+.2f"),
                _number(test["p"], ".2g"), _number(test["p_holm"], ".2g"),
            ]
        )  # fmt: skip
    return _aligned(lines)


def trends_table(rows: pd.DataFrame) -> str:
    """Spearman's correlation of each measure with the self-model's weight."""
    lines = [["h", "targets", "measure", "rho [95 %]", "p", "networks", "left out"]]
    for trend in trends(rows).to_dict("records"):
        rho, low, high = (_number(trend[name], "+.3f") for name in ("rho", "low", "high"))
        lines.append(
            [
                f"{trend['hidden_size']}", _targets(trend["detach_targets"]), NAMES[trend["measure"]],
                f"{rho} [{low}, {high}]", _number(trend["p"], ".2g"), f"{trend['count']}", f"{trend['left_out']}",
            ]
        )  # fmt: skip
    return _aligned(lines)


def published_table(rows: pd.DataFrame) -> str:
    """Ours beside the paper's; all RLCTs count here, as they do in the paper."""
    table = compare_with_published(rows)
    if table.empty:
        return "the paper has no values for these networks"
    lines = [["measure", "h", "targets", "AW", "ours", "published", "difference", "seeds", "not ok"]]
    for row in table.sort_values(["measure", *ARM]).to_dict("records"):
        digits = DIGITS[row["measure"]]
        lines.append(
            [
                NAMES[row["measure"]], f"{row['hidden_size']}", _targets(row["detach_targets"]),
                f"{row['aux_weight']:g}", f"{row['ours']:.{digits}f}", f"{row['published']:g}",
                f"{row['percent']:+.1f} %", f"{row['seeds']}", f"{row['not_ok']}",
            ]
        )  # fmt: skip
    return _aligned(lines)


def targets_table(rows: pd.DataFrame) -> str | None:
    """Targets detached and attached, side by side over the seeds that have both; None where a sweep has one kind."""
    both = with_both_targets(rows)
    if both.empty:
        return None
    lines = [["h", "AW", "measure", "detached", "attached", "difference", "test", "p", "p (Holm)", "networks"]]
    for test in compare_targets(both).to_dict("records"):
        digits = DIGITS[test["measure"]]
        lines.append(
            [
                f"{test['hidden_size']}", f"{test['aux_weight']:g}", NAMES[test["measure"]],
                _number(test["detached"], f".{digits}f"), _number(test["attached"], f".{digits}f"),
                _number(test["difference"], f"+.{digits}f"), test["test"],
                _number(test["p"], ".2g"), _number(test["p_holm"], ".2g"), "{} and {}".format(*test["count"]),
            ]
        )  # fmt: skip
    return _aligned(lines)


def _interval(arm: pd.Series, digits: int) -> str:
    if arm["count"] == 0:
        return "none ok"
    mean, low, high = (_number(arm[name], f".{digits}f") for name in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]"


def _number(value: float, form: str) -> str:
    return "-" if math.isnan(value) else format(value, form)


def _targets(detach: bool) -> str:
    return "detached" if detach else "attached"


def _aligned(lines: list[list[str]]) -> str:
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    padded = ("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)) for line in lines)
    return "\n".join(line.rstrip() for line in padded)
