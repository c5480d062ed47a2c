"""Follow each measure along the numeric axes of a study."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from pandas import DataFrame, Series
from pandas.api.types import is_bool_dtype, is_numeric_dtype
from scipy import stats

from ..experiments.arms import Arm
from .comparisons import arms_by_panel
from .statistics import LEVEL, MEASURES, NAN, as_table, measured, usable

COLUMNS = [
    "panel",
    "axis",
    "arms",
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
AXES = ("aux_weight", "hidden_size", "detach_targets")  # of every study
# a network of weight 0 predicts nothing, so these do not distinguish it
OF_SELF_MODEL = ("detach_targets", "target_source", "target_normalization")


def trends(
    rows: DataFrame,
    study: Sequence[Arm],
    axes: Sequence[str] = (),
    measures: Sequence[str] = MEASURES,
) -> DataFrame:
    """Return Spearman's rank correlation of each measure with each numeric axis, over networks.

    A trend is over arms of one panel that differ in this axis only. The baseline is one of them if it does so. For the
    axis `aux_weight` a baseline of weight 0 belongs to every kind of targets.

    The 95 % interval is by Fisher's transformation with the variance of Bonett & Wright (2000), (1 + r²/2) / (n - 3).
    All is NaN for fewer than 4 networks or equal values.

    Args:
        rows: one row per network.
        study: the arms, with their panels and baselines.
        axes: columns in which arms differ, in addition to width, weight and kind of targets.
        measures: columns of the rows. Missing ones are left out.

    Returns:
        One row per panel, axis, group of arms and measure. `arms` holds their names, joined by commas.
    """
    entries = []
    distinct = dict.fromkeys([*AXES, *axes])
    columns = list(distinct)
    found = measured(rows, measures)
    for panel, compared in arms_by_panel(study).items():
        own = _rows_of(rows, compared)
        for axis in columns:
            if not _is_varying_number(own[axis]):
                continue
            others = [name for name in columns if name != axis]
            for group in _groups(own, axis, others):
                keys = _keys_of(group)
                for measure in found:
                    trend = _trend_of(group, axis, measure)
                    entry = (panel, axis, *keys, measure, *trend)
                    entries.append(entry)
    return as_table(entries, COLUMNS)


def _rows_of(rows: DataFrame, arms: Sequence[Arm]) -> DataFrame:
    """Return the networks of some arms and of their baselines."""
    names = set()
    for arm in arms:
        names.add(arm.name)
        names.add(arm.baseline)
    is_own = rows["arm"].isin(names)
    return rows[is_own]


def _is_varying_number(values: Series) -> bool:
    if is_bool_dtype(values) or not is_numeric_dtype(values):
        return False
    return values.nunique() > 1


def _groups(rows: DataFrame, axis: str, others: Sequence[str]) -> Iterator[DataFrame]:
    """Yield the networks of arms that differ in one axis only, if they differ."""
    if axis != "aux_weight":
        for _, group in rows.groupby(_texts(rows, others), sort=False):
            if group[axis].nunique() > 1:
                yield group
        return
    is_zero = rows["aux_weight"] == 0
    zeros = rows[is_zero]
    own = rows[~is_zero]
    shared = [name for name in others if name not in OF_SELF_MODEL]
    texts_of_zeros = _texts(zeros, shared)
    for _, group in own.groupby(_texts(own, others), sort=False):
        text = _texts(group, shared).iloc[0]
        has_same_text = texts_of_zeros == text
        both = pd.concat([zeros[has_same_text], group])
        if both[axis].nunique() > 1:
            yield both


def _texts(rows: DataFrame, columns: Sequence[str]) -> Series:
    """Return the values of some columns as one text per row."""
    texts = Series("", index=rows.index, dtype=object)
    for name in columns:
        texts = texts + rows[name].map(str) + "|"
    return texts


def _keys_of(group: DataFrame) -> tuple[str, object, object]:
    """Return the names of a group's arms, the width and the kind of targets."""
    arms = group["arm"].unique()
    names = ", ".join(arms)
    width = group["hidden_size"].iloc[-1]
    detached = group["detach_targets"].iloc[-1]  # of a self-model, because baselines come first
    return names, width, bool(detached)


def _trend_of(group: DataFrame, axis: str, measure: str) -> tuple[float, ...]:
    """Return the number of networks, the number of those left out, and the trend."""
    used = usable(group, measure)
    has_place = used[axis].notna()
    used = used[has_place]
    count = len(used)
    left_out = len(group) - count
    places = used[axis].astype(float)
    values = used[measure].astype(float)
    return count, left_out, *_trend(places, values)


def _trend(weights: Series, values: Series) -> tuple[float, ...]:
    """Return Spearman's rho, the bounds of its 95 % interval, and p."""
    count = len(values)
    if count < 4:
        return NAN, NAN, NAN, NAN
    if weights.nunique() < 2 or values.nunique() < 2:
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
