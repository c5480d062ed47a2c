"""Compute the statistics of a sweep: intervals per arm, comparisons between arms, trends over the self-model's weight.

An arm is one width, one self-model weight and one kind of targets. Its samples are the seeds. Three kinds of values are
counted and left out of every figure: RLCTs with another status than "ok", widths and accuracies of networks with
weights that are not finite, and all values of networks at chance level (`SweepFolder.chance_level`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.stats.multitest import multipletests

from ..experiments.folder import KEYS

MEASURES = ("weight_width", "accuracy", "rlct")
ARM = ["hidden_size", "detach_targets", "aux_weight"]
LEVEL = 0.95
INTERVAL = ["mean", "low", "high"]
TEST = ["test", "difference", "effect", "p", "p_holm"]


# ---- what counts ----


def usable(rows: pd.DataFrame, measure: str) -> pd.DataFrame:
    """Return the rows that count for a measure."""
    if "at_chance" in rows:
        rows = rows[~rows["at_chance"]]
    rows = rows[rows[measure].notna()]
    if measure == "accuracy":
        # a network with NaN weights predicts class 0 for every sample, so its accuracy is that class's share
        return rows[rows["weight_width"].notna()]
    if measure == "rlct":
        return rows[rows["rlct_status"] == "ok"]
    return rows


def mark_chance(curves: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """Return the curves with the column `at_chance` of their networks.

    Args:
        curves: one row per network and epoch.
        rows: one row per network, from `SweepFolder.rows`.
    """
    marked = curves.merge(rows[[*KEYS, "at_chance"]], on=KEYS, how="left")
    marked["at_chance"] = marked["at_chance"].eq(True)  # a curve without its row has no mark
    return marked


def with_both_targets(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the networks that exist with detached and with attached targets, and the baselines of the same seeds.

    Two networks belong together if width, self-model weight and seed are equal. The table is empty if a sweep trained
    one kind of targets only.
    """
    own = rows[rows["aux_weight"] > 0]
    kinds = own.groupby(["hidden_size", "aux_weight", "seed"])["detach_targets"].transform("nunique")
    paired = own[(kinds == 2).to_numpy()]
    if paired.empty:
        return paired
    seeds = paired[["hidden_size", "seed"]].drop_duplicates()
    baselines = rows[rows["aux_weight"] == 0].merge(seeds, on=["hidden_size", "seed"])
    return pd.concat([baselines, paired], ignore_index=True)


# ---- means ----


def mean_interval(values: np.ndarray) -> tuple[float, float, float]:
    """Return mean, lower and upper bound of Student's 95 % t interval. The bounds of fewer than two values are NaN."""
    if len(values) == 0:
        return np.nan, np.nan, np.nan
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, np.nan, np.nan
    error = float(stats.sem(values))
    if error == 0:
        return mean, mean, mean
    low, high = stats.t.interval(LEVEL, len(values) - 1, loc=mean, scale=error)
    return mean, float(low), float(high)


def summarize_arms(rows: pd.DataFrame) -> pd.DataFrame:
    """Return one row per arm and measure: mean, 95 % interval (low, high), count, left_out."""
    entries = []
    for key, arm in rows.groupby(ARM):
        for measure in MEASURES:
            values = usable(arm, measure)[measure].to_numpy(float)
            count = len(values)
            entries.append((*key, measure, *mean_interval(values), count, len(arm) - count))
    return pd.DataFrame(entries, columns=[*ARM, "measure", *INTERVAL, "count", "left_out"])


def summarize_epochs(curves: pd.DataFrame) -> pd.DataFrame:
    """Return one row per arm, measure and epoch: mean and 95 % interval (low, high) over seeds.

    Args:
        curves: one row per network and epoch. A measure that was not followed while training has no column.
    """
    entries = []
    for measure in MEASURES:
        if measure not in curves:
            continue
        for key, values in usable(curves, measure).groupby([*ARM, "epoch"])[measure]:
            entries.append((measure, *key, *mean_interval(values.to_numpy(float))))
    return pd.DataFrame(entries, columns=["measure", *ARM, "epoch", *INTERVAL])


# ---- comparisons ----


def compare_with_baseline(rows: pd.DataFrame) -> pd.DataFrame:
    """Compare each arm of weight > 0 with the baseline of its width.

    The test is a paired t-test if both have the same seeds, two or more of them. A seed gives both the same initial
    network and order of data. Otherwise it is Welch's test.

    Returns:
        One row per arm and measure. `effect` is Cohen's d. For pairs it is the mean difference over the standard
        deviation of the differences, otherwise over the root of the mean variance. `p_holm` is corrected by Holm over
        the arms of one width, measure and kind of targets.
    """
    entries = []
    for (hidden_size, detach), group in rows.groupby(["hidden_size", "detach_targets"]):
        baseline = rows[(rows["hidden_size"] == hidden_size) & (rows["aux_weight"] == 0)]
        arms = group[group["aux_weight"] > 0].groupby("aux_weight")
        for measure in MEASURES:
            tests = [_compare(arm, baseline, measure) for _, arm in arms]
            for (weight, _), test in zip(arms, _corrected(tests), strict=True):
                entries.append((hidden_size, detach, weight, measure, *test))
    return pd.DataFrame(entries, columns=[*ARM, "measure", *TEST])


def compare_targets(rows: pd.DataFrame) -> pd.DataFrame:
    """Compare attached targets with detached ones per width and weight, by the tests of `compare_with_baseline`.

    Args:
        rows: from `with_both_targets`. A seed with an RLCT that is not "ok" in one of the two is no pair. Welch's test
            then takes the values that are left in each.

    Returns:
        One row per width, weight and measure: both means, both counts, the test. `difference` is attached minus
        detached.
    """
    entries = []
    for hidden_size, group in rows[rows["aux_weight"] > 0].groupby("hidden_size"):
        arms = group.groupby("aux_weight")
        for measure in MEASURES:
            tests = [_compare(*_by_targets(arm), measure) for _, arm in arms]
            for (weight, arm), test in zip(arms, _corrected(tests), strict=True):
                attached, detached = (usable(own, measure)[measure] for own in _by_targets(arm))
                means = (detached.mean(), attached.mean())
                counts = (len(detached), len(attached))
                entries.append((hidden_size, weight, measure, *means, *counts, *test))
    columns = ["hidden_size", "aux_weight", "measure", "detached", "attached", "detached_count", "attached_count"]
    return pd.DataFrame(entries, columns=[*columns, *TEST])


def _by_targets(rows: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the rows with attached and those with detached targets."""
    detach = rows["detach_targets"].astype(bool)
    return rows[~detach], rows[detach]


def _compare(arm: pd.DataFrame, other: pd.DataFrame, measure: str) -> tuple[str, float, float, float]:
    """Return the test's name, the difference of means, Cohen's d and p. A number that cannot be computed is NaN."""
    a = usable(arm, measure).set_index("seed")[measure].sort_index()
    b = usable(other, measure).set_index("seed")[measure].sort_index()
    if len(a) < 2 or len(b) < 2:
        return "none (fewer than 2 usable)", np.nan, np.nan, np.nan
    if a.index.equals(b.index):
        differences = (a - b).to_numpy(float)
        if np.ptp(differences) == 0:
            return "none (equal differences)", float(differences[0]), np.nan, np.nan
        name = "paired t"
        result = stats.ttest_rel(a, b)
        spread = float(differences.std(ddof=1))
    else:
        name = "Welch t"
        result = stats.ttest_ind(a, b, equal_var=False)
        spread = float(np.sqrt((a.var(ddof=1) + b.var(ddof=1)) / 2))
    difference = float(a.mean() - b.mean())
    effect = difference / spread if spread > 0 else np.nan
    return name, difference, effect, float(result.pvalue)


def _corrected(tests: Sequence[tuple[str, float, float, float]]) -> list[tuple[Any, ...]]:
    """Return the tests, each with its p-value corrected by Holm. Tests without a p-value are no part of the family."""
    p = np.array([test[-1] for test in tests])
    made = ~np.isnan(p)
    corrected = p.copy()
    if made.sum() > 1:  # a family of one test needs no correction
        corrected[made] = multipletests(p[made], method="holm")[1]
    return [(*test, float(value)) for test, value in zip(tests, corrected, strict=True)]


# ---- trends ----


def trends(rows: pd.DataFrame) -> pd.DataFrame:
    """Return Spearman's rank correlation of each measure with the self-model's weight, over networks, per width.

    The 95 % interval is by Fisher's transformation with the variance of Bonett & Wright (2000), (1 + r²/2) / (n - 3).
    All is NaN for fewer than 4 networks, a single weight or values that are all the same.
    """
    entries = []
    for hidden_size, everything in rows.groupby("hidden_size"):
        baseline = everything[everything["aux_weight"] == 0]
        for detach, own in everything[everything["aux_weight"] > 0].groupby("detach_targets"):
            group = pd.concat([baseline, own])
            for measure in MEASURES:
                used = usable(group, measure)
                count = len(used)
                entries.append((hidden_size, detach, measure, count, len(group) - count, *_trend(used, measure)))
    columns = ["hidden_size", "detach_targets", "measure", "count", "left_out", "rho", "low", "high", "p"]
    return pd.DataFrame(entries, columns=columns)


def _trend(rows: pd.DataFrame, measure: str) -> tuple[float, float, float, float]:
    """Return Spearman's rho, the bounds of its 95 % interval, and p."""
    if len(rows) < 4 or rows["aux_weight"].nunique() < 2 or rows[measure].nunique() < 2:
        return np.nan, np.nan, np.nan, np.nan
    result = stats.spearmanr(rows["aux_weight"], rows[measure])
    rho = float(result.statistic)
    p = float(result.pvalue)
    if 1 - abs(rho) < 1e-12:
        return rho, rho, rho, p
    quantile = stats.norm.ppf((1 + LEVEL) / 2)
    half = quantile * np.sqrt((1 + rho**2 / 2) / (len(rows) - 3))
    center = np.arctanh(rho)
    return rho, float(np.tanh(center - half)), float(np.tanh(center + half)), p
