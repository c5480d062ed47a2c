"""The rules of docs/preregistration.md: tests, margins, shares, interpolation, and what makes a verdict not robust."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from selfmod_hf.reports.comparisons import Comparison, compare, holm
from selfmod_hf.reports.statistics import only_ok, with_every_rlct

LEVEL = 0.05
MARGIN = 0.03  # of "the same", as a share of the baseline's mean
RESAMPLES = 10_000
BESIDE = "beside it"  # in the question of a contrast that is reported without a test
TOO_FEW = "too few pairs"
NO_VALUES = "no values"
VARIANTS: dict[str, Callable[[pd.DataFrame], pd.DataFrame]] = {
    "every RLCT": with_every_rlct,
    "ok RLCTs": only_ok,
}
Values = dict[str, pd.Series]  # of each arm, by seed
Row = dict[str, Any]


@dataclass(frozen=True)
class Contrast:
    """Two series that are compared, seed by seed.

    Attributes:
        question: its letter. Contrasts of one question and measure are corrected together.
        measure: its column.
        name: of the contrast.
        own: values by seed.
        other: values by seed.
        margin: of "the same".
        share: of a fall that remains or is explained: (numerator, denominator) by seed. None: no share.
        place: the doses of a control between which the other series was taken.
    """

    question: str
    measure: str
    name: str
    own: pd.Series
    other: pd.Series
    margin: float
    share: tuple[pd.Series, pd.Series] | None = None
    place: str = ""

    def difference(self) -> pd.Series:
        """Return the differences of the seeds that both have."""
        return (self.own - self.other).dropna()


# ---- tests ----


def plain(row: Row) -> str:
    """Return the verdict of a test without the remark that it is not robust."""
    return str(row["verdict"]).partition(" (")[0]


def same_p(difference: pd.Series, margin: float) -> float:
    """Return the p-value of two one-sided t-tests: the mean is within the margin."""
    if len(difference) < 2:
        return float("nan")
    above = stats.ttest_1samp(difference, -margin, alternative="greater").pvalue
    below = stats.ttest_1samp(difference, margin, alternative="less").pvalue
    return float(max(above, below))


def verdict(test: Comparison, p_holm: float, p_same: float) -> str:
    """Return lower, higher, the same, not told apart, or too few pairs."""
    if test.pairs < 2:
        return TOO_FEW
    if p_holm <= LEVEL:
        return "lower" if test.difference < 0 else "higher"
    if p_same <= LEVEL:
        return "the same"
    return "not told apart"


def judge(contrasts: Sequence[Contrast]) -> list[Row]:
    """Return a row for each contrast. The p-values of one question and measure are corrected together.

    Contrasts "beside it" have no p-value and no verdict.
    """
    rows: list[Row] = []
    families = dict.fromkeys((one.question, one.measure) for one in contrasts)
    for family in families:
        members = [one for one in contrasts if (one.question, one.measure) == family]
        tests = [compare(one.own, one.other, are_paired=True) for one in members]
        corrected = holm([test.p for test in tests])
        same = holm([same_p(one.difference(), one.margin) for one in members])
        for one, test, p_holm, p_same in zip(members, tests, corrected, same, strict=True):
            row = {"question": one.question, "measure": one.measure, "contrast": one.name, "seeds": test.pairs}
            numbers = {"difference": test.difference, "low": test.low, "high": test.high, "p_holm": p_holm}
            more = {"verdict": verdict(test, p_holm, p_same), "share": one.share, "place": one.place}
            if BESIDE in one.question:
                numbers["p_holm"], more["verdict"] = float("nan"), ""
            rows.append({**row, **numbers, **more})
    return rows


def share_numbers(parts: tuple[pd.Series, pd.Series]) -> tuple[float, float, float] | None:
    """Return the ratio of two means with its bootstrap interval over the seeds. None: fewer than two seeds."""
    both = pd.concat(parts, axis=1).dropna().to_numpy()
    if len(both) < 2:
        return None
    chosen = np.random.default_rng(0).integers(len(both), size=(RESAMPLES, len(both)))
    means = both[chosen].mean(axis=1)  # (resamples, 2)
    low, high = np.percentile(means[:, 0] / means[:, 1], [2.5, 97.5])
    numerator, denominator = both.mean(axis=0)
    return float(numerator / denominator), float(low), float(high)


def share_text(parts: tuple[pd.Series, pd.Series]) -> str:
    """Return the numbers of `share_numbers`. Empty: there are none."""
    numbers = share_numbers(parts)
    if numbers is None:
        return ""
    value, low, high = numbers
    return f"{value:.2f} [{low:.2f}, {high:.2f}]"


def interpolated(doses: Sequence[str], at: dict[str, float], value: float, measured: Values) -> tuple[pd.Series, str]:
    """Return a measure by seed at a value between two neighbouring doses, and where it was taken.

    Args:
        doses: names of arms, the weakest first.
        at: mean of the compared column of each arm.
        value: the mean to be met.
        measured: of the doses, by seed.
    """
    for weaker, stronger in pairwise(doses):
        low, high = sorted((at[weaker], at[stronger]))
        if low <= value <= high and low < high:
            weight = (value - at[weaker]) / (at[stronger] - at[weaker])
            mixed = (1 - weight) * measured[weaker] + weight * measured[stronger]
            return mixed, f"{weaker} to {stronger}"
    nearest = min(doses, key=lambda dose: abs(at[dose] - value))
    return measured[nearest], f"{nearest}, outside"


def margin_of(values: Values, baseline: str = "baseline") -> float:
    """Return the margin of "the same" as a share of the baseline's mean. NaN: no baseline has a value."""
    if baseline not in values:
        return float("nan")
    return MARGIN * abs(float(values[baseline].mean()))


def mark(rows: list[Row], name: str, others: Sequence[Row]) -> None:
    """Mark each verdict that is another one in other rows, or is missing there.

    Args:
        rows: their verdicts are changed in place. Contrasts that only the other rows have are appended.
        name: of the other rows.
        others: rows of the same contrasts.
    """
    own = set(map(key_of, rows))
    rows += [without_values(row) for row in others if key_of(row) not in own]
    verdicts = {key_of(row): row["verdict"] for row in others}
    for row in rows:
        other = verdicts.get(key_of(row), NO_VALUES)
        if row["verdict"] and other != plain(row):
            row["verdict"] = f"{row['verdict']} (not robust, with {name}: {other})"


def key_of(row: Row) -> tuple[str, str, str]:
    """Return what names a contrast."""
    return row["question"], row["measure"], row["contrast"]


def without_values(row: Row) -> Row:
    """Return the row of a contrast whose networks do not count."""
    numbers = dict.fromkeys(("difference", "low", "high", "p_holm"), float("nan"))
    verdict = NO_VALUES if row["verdict"] else ""
    return {**row, **numbers, "seeds": 0, "verdict": verdict, "share": None, "place": ""}
