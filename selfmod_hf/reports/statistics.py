"""Compute the statistics of a sweep: intervals per arm, comparisons between arms, trends over the self-model's weight.

An arm is one width, one self-model weight and one kind of targets. Its samples are the seeds. Three kinds of values are
counted and left out of every figure: RLCTs with another status than "ok", widths and accuracies of networks with
weights that are not finite, and all values of networks at chance level (`SweepFolder.chance_level`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from pandas import DataFrame, Series, concat
from scipy import stats
from statsmodels.stats.multitest import multipletests

from ..experiments.folder import KEYS

MEASURES = ("weight_width", "accuracy", "rlct")
ARM = ["hidden_size", "detach_targets", "aux_weight"]
LEVEL = 0.95
INTERVAL = ["mean", "low", "high"]
TEST = ["test", "difference", "effect", "p", "p_holm"]
NAN = float("nan")

Test = tuple[str, float, float, float]  # name, difference of means, Cohen's d, p


# ---- networks that count ----


def usable(rows: DataFrame, measure: str) -> DataFrame:
    """Return the usable rows of a measure."""
    if "at_chance" in rows:
        rows = rows[~rows["at_chance"]]
    rows = rows[rows[measure].notna()]
    if measure == "accuracy":
        # a network with NaN weights predicts class 0 for every sample, so its accuracy is that class's share
        return rows[rows["weight_width"].notna()]
    if measure == "rlct":
        return rows[rows["rlct_status"] == "ok"]
    return rows


def mark_chance(curves: DataFrame, rows: DataFrame) -> DataFrame:
    """Return the curves with the column `at_chance` of their networks.

    Args:
        curves: one row per network and epoch.
        rows: one row per network, from `SweepFolder.rows`.
    """
    marks = rows[[*KEYS, "at_chance"]]
    marked = curves.merge(marks, on=KEYS, how="left")
    # a curve without its row has no mark
    marked["at_chance"] = marked["at_chance"].eq(True)
    return marked


def with_both_targets(rows: DataFrame) -> DataFrame:
    """Return the networks with both detached and attached targets, and the baselines of the same seeds.

    Two networks belong together if width, self-model weight and seed are equal. The table is empty if a sweep trained
    one kind of targets only.
    """
    own = _self_modeling(rows)
    networks = own.groupby(["hidden_size", "aux_weight", "seed"])
    kinds = networks["detach_targets"].transform("nunique")
    paired = own[(kinds == 2).to_numpy()]
    if paired.empty:
        return paired
    keys = ["hidden_size", "seed"]
    seeds = paired[keys].drop_duplicates()
    baselines = _baselines(rows).merge(seeds, on=keys)
    return concat([baselines, paired], ignore_index=True)


def _baselines(rows: DataFrame) -> DataFrame:
    return rows[rows["aux_weight"] == 0]


def _self_modeling(rows: DataFrame) -> DataFrame:
    return rows[rows["aux_weight"] > 0]


# ---- means ----


def mean_interval(values: np.ndarray) -> tuple[float, float, float]:
    """Return mean, lower and upper bound of Student's 95 % t interval. The bounds of fewer than two values are NaN."""
    if len(values) == 0:
        return NAN, NAN, NAN
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, NAN, NAN
    error = float(stats.sem(values))
    if error == 0:
        return mean, mean, mean
    low, high = stats.t.interval(
        LEVEL,
        len(values) - 1,
        loc=mean,
        scale=error,
    )
    return mean, float(low), float(high)


def summarize_arms(rows: DataFrame) -> DataFrame:
    """Return one row per arm and measure: mean, 95 % interval (low, high), count, left_out."""
    entries = []
    for key, arm in rows.groupby(ARM):
        for measure in MEASURES:
            values = usable(arm, measure)[measure]
            count = len(values)
            left_out = len(arm) - count
            interval = mean_interval(values.to_numpy(float))
            entries.append((*key, measure, *interval, count, left_out))
    columns = [
        *ARM,
        "measure",
        *INTERVAL,
        "count",
        "left_out",
    ]
    return DataFrame(entries, columns=columns)


def summarize_epochs(curves: DataFrame) -> DataFrame:
    """Return one row per arm, measure and epoch: mean and 95 % interval (low, high) over seeds.

    Args:
        curves: one row per network and epoch. A measure that was not followed while training has no column.
    """
    entries = []
    for measure in MEASURES:
        if measure not in curves:
            continue
        arms = usable(curves, measure).groupby([*ARM, "epoch"])
        for key, values in arms[measure]:
            interval = mean_interval(values.to_numpy(float))
            entries.append((measure, *key, *interval))
    columns = [
        "measure",
        *ARM,
        "epoch",
        *INTERVAL,
    ]
    return DataFrame(entries, columns=columns)


# ---- comparisons ----


def compare_with_baseline(rows: DataFrame) -> DataFrame:
    """Compare each arm of weight > 0 with the baseline of its width.

    The test is a paired t-test if both have the same seeds, two or more of them. A seed gives both the same initial
    network and order of data. Otherwise it is Welch's test.

    Returns:
        One row per arm and measure. `effect` is Cohen's d. For pairs it is the mean difference over the standard
        deviation of the differences, otherwise over the root of the mean variance. `p_holm` is corrected by Holm over
        the arms of one width, measure and kind of targets.
    """
    entries = []
    baselines = _baselines(rows)
    for key, group in rows.groupby(["hidden_size", "detach_targets"]):
        hidden_size, _ = key
        baseline = baselines[baselines["hidden_size"] == hidden_size]
        arms = dict(list(_self_modeling(group).groupby("aux_weight")))
        for measure in MEASURES:
            tests = [_compare(arm, baseline, measure) for arm in arms.values()]
            for weight, test in zip(arms, _corrected(tests), strict=True):
                entries.append((*key, weight, measure, *test))
    columns = [
        *ARM,
        "measure",
        *TEST,
    ]
    return DataFrame(entries, columns=columns)


def compare_targets(rows: DataFrame) -> DataFrame:
    """Compare attached targets with detached ones per width and weight, by the tests of `compare_with_baseline`.

    Args:
        rows: from `with_both_targets`. A seed with an unusable RLCT in one of the two is no pair. Welch's test
            then takes the remaining values of each.

    Returns:
        One row per width, weight and measure: both means, both counts, the test. `difference` is attached minus
        detached.
    """
    entries = []
    for hidden_size, group in _self_modeling(rows).groupby("hidden_size"):
        weights = group["aux_weight"]
        attached = dict(list(group[~group["detach_targets"]].groupby(weights)))
        detached = dict(list(group[group["detach_targets"]].groupby(weights)))
        for measure in MEASURES:
            tests = [_compare(attached[weight], detached[weight], measure) for weight in attached]
            for weight, test in zip(attached, _corrected(tests), strict=True):
                a = usable(attached[weight], measure)[measure]
                b = usable(detached[weight], measure)[measure]
                entry = (
                    hidden_size,
                    weight,
                    measure,
                    b.mean(),
                    a.mean(),
                    len(b),
                    len(a),
                    *test,
                )
                entries.append(entry)
    columns = [
        "hidden_size",
        "aux_weight",
        "measure",
        "detached",
        "attached",
        "detached_count",
        "attached_count",
        *TEST,
    ]
    return DataFrame(entries, columns=columns)


def _by_seed(rows: DataFrame, measure: str) -> Series:
    """Return the usable values, in the order of their seeds."""
    values = usable(rows, measure).set_index("seed")[measure]
    return values.sort_index()


def _compare(
    arm: DataFrame,
    other: DataFrame,
    measure: str,
) -> Test:
    """Compare the means of two arms. Numbers without a test are NaN."""
    a = _by_seed(arm, measure)
    b = _by_seed(other, measure)
    if len(a) < 2 or len(b) < 2:
        return "none (fewer than 2 usable)", NAN, NAN, NAN
    if a.index.equals(b.index):
        differences = (a - b).to_numpy(float)
        if np.ptp(differences) == 0:
            difference = float(differences[0])
            return "none (equal differences)", difference, NAN, NAN
        name = "paired t"
        result = stats.ttest_rel(a, b)
        spread = differences.std(ddof=1)
    else:
        name = "Welch t"
        result = stats.ttest_ind(a, b, equal_var=False)
        variances = a.var(ddof=1), b.var(ddof=1)
        spread = np.sqrt(sum(variances) / 2)
    difference = float(a.mean() - b.mean())
    effect = NAN
    if spread > 0:
        effect = float(difference / spread)
    return name, difference, effect, float(result.pvalue)


def _corrected(tests: Sequence[Test]) -> list[tuple[Any, ...]]:
    """Return the tests, each with its p-value corrected by Holm. Tests without a p-value are no part of the family."""
    corrected = np.array([p for *_, p in tests])
    made = ~np.isnan(corrected)
    if made.sum() > 1:  # a family of one test needs no correction
        _, values, *_ = multipletests(corrected[made], method="holm")
        corrected[made] = values
    families: list[tuple[Any, ...]] = []
    for test, value in zip(tests, corrected, strict=True):
        families.append((*test, float(value)))
    return families


# ---- trends ----


def trends(rows: DataFrame) -> DataFrame:
    """Return Spearman's rank correlation of each measure with the self-model's weight, over networks, per width.

    The 95 % interval is by Fisher's transformation with the variance of Bonett & Wright (2000), (1 + r²/2) / (n - 3).
    All is NaN for fewer than 4 networks, a single weight or equal values.
    """
    entries = []
    baselines = _baselines(rows)
    for key, own in _self_modeling(rows).groupby(["hidden_size", "detach_targets"]):
        hidden_size, _ = key
        baseline = baselines[baselines["hidden_size"] == hidden_size]
        group = concat([baseline, own])
        for measure in MEASURES:
            used = usable(group, measure)
            count = len(used)
            left_out = len(group) - count
            trend = _trend(used["aux_weight"], used[measure])
            entries.append((*key, measure, count, left_out, *trend))
    columns = [
        "hidden_size",
        "detach_targets",
        "measure",
        "count",
        "left_out",
        "rho",
        "low",
        "high",
        "p",
    ]
    return DataFrame(entries, columns=columns)


def _trend(weights: Series, values: Series) -> tuple[float, ...]:
    """Return Spearman's rho, the bounds of its 95 % interval, and p."""
    count = len(values)
    fewest = min(weights.nunique(), values.nunique())
    if count < 4 or fewest < 2:
        return NAN, NAN, NAN, NAN
    result = stats.spearmanr(weights, values)
    rho = float(result.statistic)
    p = float(result.pvalue)
    distance_from_one = 1 - abs(rho)
    if distance_from_one < 1e-12:
        return rho, rho, rho, p
    upper_tail = (1 + LEVEL) / 2
    quantile = stats.norm.ppf(upper_tail)
    variance = (1 + rho**2 / 2) / (count - 3)
    half = quantile * np.sqrt(variance)
    center = np.arctanh(rho)
    low = np.tanh(center - half)
    high = np.tanh(center + half)
    return rho, float(low), float(high), p
