"""Compare the arms of a study: each with its baseline, and attached with detached targets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from pandas import DataFrame, Series, concat
from scipy import stats

from ..experiments.arms import Arm
from .statistics import (
    ARM,
    LEVEL,
    MEASURES,
    NAN,
    as_table,
    axis_values,
    mean_interval,
    measured,
    seeds_by_arm,
    usable,
    values_by_arm,
)

NO_VALUES = "none (no usable value)"
TOO_FEW = "none (fewer than 2 usable)"
NO_SPREAD = "none (equal differences)"
NOTHING = Series(dtype=float)
SAME = 1e-12  # relative spread of differences that are equal except for rounding


@dataclass(frozen=True)
class Comparison:
    """Hold the comparison of two arms. Numbers that do not exist are NaN.

    Attributes:
        test: its name, or the reason why there is none.
        pairs: seeds with a usable value in both arms. 0: the arms have no common seeds, or none with two values.
        mean: of the arm, over the networks that are compared.
        other_mean: the same of the other arm.
        difference: of the means.
        low: lower bound of the 95 % interval of the difference, not corrected.
        high: upper bound.
        effect: Cohen's d, the difference of the means over the root of the mean of both variances. It is the same for
            both tests, and over the same networks as the means.
        p: of the test, not corrected.
    """

    test: str
    pairs: int = 0
    mean: float = NAN
    other_mean: float = NAN
    difference: float = NAN
    low: float = NAN
    high: float = NAN
    effect: float = NAN
    p: float = NAN


TEST = [*(field.name for field in fields(Comparison)), "p_holm"]


# ---- each arm with its baseline ----


def arms_by_panel(study: Sequence[Arm]) -> dict[str, list[Arm]]:
    """Return the arms of each panel that are no baseline, in the order of the study."""
    panels: dict[str, list[Arm]] = {}
    for arm in study:
        if not arm.is_baseline:
            panels.setdefault(arm.panel, []).append(arm)
    return panels


def compare_with_baseline(rows: DataFrame, study: Sequence[Arm], measures: Sequence[str] = MEASURES) -> DataFrame:
    """Compare each arm with its baseline.

    Arms with common seeds are paired, because a seed gives both the same initial network and order of data. The test
    is then a paired t-test over the seeds with a usable value in both. An unusable value costs its pair, and never
    changes the test. Only arms that share fewer than two seeds are compared by Welch's test, over all usable values.

    Args:
        rows: one row per network.
        study: the arms, with their panels and baselines.
        measures: columns of the rows. Missing ones are left out.

    Returns:
        One row per arm and measure, with the fields of `Comparison`. `p_holm` is corrected by Holm over the arms of
        one panel and measure.
    """
    entries: list[tuple[object, ...]] = []
    keys = {}
    for name, own in rows.groupby("arm", sort=False):
        keys[name] = axis_values(own, ARM)
    seeds = seeds_by_arm(rows)
    values = {measure: values_by_arm(rows, measure) for measure in measured(rows, measures)}
    for panel, arms in arms_by_panel(study).items():
        present = [arm for arm in arms if arm.name in keys]
        for measure, by_arm in values.items():
            tests = []
            for arm in present:
                own = by_arm.get(arm.name, NOTHING)
                baseline = by_arm.get(arm.baseline, NOTHING)
                pairs = share_seeds(seeds, arm.name, arm.baseline)
                tests.append(compare(own, baseline, pairs))
            for arm, test in zip(present, _with_holm(tests), strict=True):
                entry = (
                    arm.name,
                    panel,
                    arm.baseline,
                    *keys[arm.name],
                    measure,
                    *test,
                )
                entries.append(entry)
    columns = [
        "arm",
        "panel",
        "baseline",
        *ARM,
        "measure",
        *TEST,
    ]
    return as_table(entries, columns)


def share_seeds(seeds: Mapping[str, set[int]], arm: str, other: str) -> bool:
    """Return whether two arms are paired: two seeds or more are of both, whatever their networks' RLCTs.

    Example:
        >>> share_seeds({"a": {1, 2, 3}, "b": {2, 3, 4}}, "a", "b")
        True
    """
    shared = seeds.get(arm, set()) & seeds.get(other, set())
    return len(shared) >= 2


def compare(own: Series, other: Series, are_paired: bool) -> Comparison:
    """Compare the means of two arms.

    Args:
        own: usable values of the arm by seed.
        other: usable values of the other arm by seed.
        are_paired: whether the arms were trained with common seeds, see `share_seeds`.
    """
    if own.empty and other.empty:
        return Comparison(NO_VALUES)
    if own.empty or other.empty:
        return Comparison(TOO_FEW)
    shared = own.index.intersection(other.index)
    if are_paired and len(shared) >= 2:
        return _paired(own[shared], other[shared])
    if not are_paired and len(own) >= 2 and len(other) >= 2:
        return _welch(own, other)
    if len(shared) > 0:
        own, other = own[shared], other[shared]
    means = _means(own, other)
    return Comparison(TOO_FEW, len(shared), **means)


def _means(own: Series, other: Series) -> dict[str, Any]:
    mean = float(own.mean())
    other_mean = float(other.mean())
    difference = mean - other_mean
    return {"mean": mean, "other_mean": other_mean, "difference": difference}


def _is_constant(values: Series, own: Series, other: Series) -> bool:
    """Return whether values differ by no more than the rounding of those of two arms."""
    scale = np.abs(own).max() + np.abs(other).max()
    return bool(np.ptp(values) <= SAME * scale)


def _cohens_d(own: Series, other: Series) -> float:
    """Return the difference of the means over the root of the mean of both variances."""
    variance = (own.var(ddof=1) + other.var(ddof=1)) / 2
    difference = own.mean() - other.mean()
    return float(difference / np.sqrt(variance))


def _paired(own: Series, other: Series) -> Comparison:
    differences = own - other
    means = _means(own, other)
    count = len(differences)
    if _is_constant(differences, own, other):
        return Comparison(NO_SPREAD, count, **means)
    _, low, high = mean_interval(differences.to_numpy())
    result = stats.ttest_rel(own, other)
    return Comparison(
        "paired t",
        count,
        **means,
        low=low,
        high=high,
        effect=_cohens_d(own, other),
        p=float(result.pvalue),
    )


def _welch(own: Series, other: Series) -> Comparison:
    means = _means(own, other)
    if _is_constant(own, own, other) and _is_constant(other, own, other):
        return Comparison("none (no spread)", **means)
    result = stats.ttest_ind(own, other, equal_var=False)
    low, high = result.confidence_interval(LEVEL)
    return Comparison(
        "Welch t",
        **means,
        low=float(low),
        high=float(high),
        effect=_cohens_d(own, other),
        p=float(result.pvalue),
    )


def _with_holm(tests: Sequence[Comparison]) -> Iterator[tuple[object, ...]]:
    """Yield the fields of each test with its corrected p-value."""
    corrected = holm([test.p for test in tests])
    for test, p_holm in zip(tests, corrected, strict=True):
        numbers = asdict(test).values()
        yield (*numbers, p_holm)


def holm(values: Sequence[float]) -> list[float]:
    """Return p-values corrected by Holm (1979). Those that are NaN are no part of the family.

    statsmodels' `multipletests` gives the same, but collects all garbage of the process in each call.

    Example:
        >>> holm([0.01, float("nan"), 0.04, 0.03])
        [0.03, nan, 0.06, 0.06]
    """
    corrected = np.array(values, dtype=float)
    made = np.flatnonzero(~np.isnan(corrected))
    order = made[np.argsort(corrected[made], kind="stable")]
    factors = np.arange(len(order), 0, -1)  # the smallest of m is multiplied by m, the next by m - 1
    scaled = np.minimum(corrected[order] * factors, 1)
    corrected[order] = np.maximum.accumulate(scaled)
    return corrected.tolist()


# ---- attached with detached targets ----


def with_both_targets(rows: DataFrame, axes: Sequence[str] = ()) -> DataFrame:
    """Return the networks with both detached and attached targets, and the baselines of the same seeds.

    Two networks belong together if width, self-model weight, the other axes and the seed are equal. The table is empty
    if a study trained one kind of targets only.

    Args:
        rows: one row per network.
        axes: further columns in which arms differ.
    """
    others = _other_axes(axes)
    own = _self_modeling(rows)
    keys = ["hidden_size", "aux_weight", *others, "seed"]
    networks = own.groupby(keys, dropna=False)
    kinds = networks["detach_targets"].transform("nunique")
    has_both = kinds == 2
    paired = own[has_both.to_numpy()]
    if paired.empty:
        return paired
    keys.remove("aux_weight")
    seeds = paired[keys].drop_duplicates()
    baselines = rows[rows["aux_weight"] == 0]
    baselines = baselines.merge(seeds, on=keys)
    return concat([baselines, paired], ignore_index=True)


def _other_axes(axes: Sequence[str]) -> list[str]:
    return [axis for axis in axes if axis not in ARM]


def _self_modeling(rows: DataFrame) -> DataFrame:
    return rows[rows["aux_weight"] > 0]


def compare_targets(rows: DataFrame, axes: Sequence[str] = (), measures: Sequence[str] = MEASURES) -> DataFrame:
    """Compare attached targets with detached ones per width and weight, by the tests of `compare_with_baseline`.

    Args:
        rows: from `with_both_targets`. A seed with an unusable RLCT in one of the two is no pair.
        axes: further columns in which arms differ.
        measures: columns of the rows. Missing ones are left out.

    Returns:
        One row per pair of arms and measure: both means, both counts, the test. `difference` is attached minus
        detached.
    """
    entries = []
    keys = ["hidden_size", *_other_axes(axes)]
    panels = _self_modeling(rows).groupby(keys, dropna=False)
    for (hidden_size, *_), group in panels:
        weights = [weight for weight, _ in group.groupby("aux_weight")]
        for measure in measured(rows, measures):
            used = usable(group, measure)
            attached = [_of_kind(used, weight, measure, detach=False) for weight in weights]
            detached = [_of_kind(used, weight, measure, detach=True) for weight in weights]
            tests = [compare(a, b, are_paired=True) for a, b in zip(attached, detached, strict=True)]
            with_holm = list(_with_holm(tests))
            for weight, a, b, test, numbers in zip(weights, attached, detached, tests, with_holm, strict=True):
                entry = (
                    hidden_size,
                    weight,
                    measure,
                    test.other_mean,
                    test.mean,
                    test.pairs or len(b),
                    test.pairs or len(a),
                    *numbers,
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
    return as_table(entries, columns)


def _of_kind(used: DataFrame, weight: float, measure: str, detach: bool) -> Series:
    """Return the values of one weight and kind of targets, by seed."""
    own = used[used["aux_weight"] == weight]
    own = own[own["detach_targets"] == detach]
    values = own.set_index("seed")[measure]
    return values.sort_index().astype(float)
