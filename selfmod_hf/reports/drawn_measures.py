"""Describe the measures of a study for its figures: titles, and the bounds within which a measure can be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pandas import DataFrame, Series


@dataclass(frozen=True)
class DrawnMeasure:
    """Describe a measure.

    Attributes:
        title: label of its axis.
        low: the least possible value. None: no bound.
        high: the largest possible value. None: no bound.
    """

    title: str
    low: float | None = None
    high: float | None = None


PUBLISHED = ("weight_width", "rlct", "accuracy")  # those of the paper's figures
FAR = 3  # interquartile ranges
COMPLEXITY = ("rlct", "weight_width")  # shown against the training loss
_KNOWN = {
    "rlct": DrawnMeasure("RLCT"),
    "weight_width": DrawnMeasure("SD of the last layer's weights", 0),
    "accuracy": DrawnMeasure("test accuracy", 0, 1),
    "exact_match": DrawnMeasure("test exact match", 0, 1),
    "f1": DrawnMeasure("test F1", 0, 1),
    "matthews_correlation": DrawnMeasure("test Matthews correlation", -1, 1),
    "pearson": DrawnMeasure("test Pearson correlation", -1, 1),
    "spearmanr": DrawnMeasure("test Spearman correlation", -1, 1),
    "mse": DrawnMeasure("test mean square error", 0),
    "perplexity": DrawnMeasure("test perplexity", 1),
    "train_loss": DrawnMeasure("training loss, nats", 0),
    "activation_mean_square": DrawnMeasure("mean square of the activations", 0),
    "dead_units": DrawnMeasure("share of dead units", 0, 1),
    "effective_rank": DrawnMeasure("effective rank", 0),
    "unit_free_width": DrawnMeasure("unit-free width", 0),
    "prunable_share": DrawnMeasure("prunable share of weights", 0, 1),
    "calibration_error": DrawnMeasure("calibration error", 0, 1),
    "accuracy_under_noise": DrawnMeasure("accuracy under noise", 0, 1),
    "modelability": DrawnMeasure("modelability, R²", high=1),
    "modelability_of_variance": DrawnMeasure("modelability of the variance, R²", high=1),
    "modelability_from_other": DrawnMeasure("modelability from another network, R²", high=1),
}


def main_of(metric: str) -> tuple[str, ...]:
    """Return the measures of every study, with the metric that it compares."""
    return "rlct", "weight_width", metric, "train_loss"


def drawn_measure(name: str) -> DrawnMeasure:
    """Return the description of a measure. A user's own has its name as title, and no bounds."""
    if name in _KNOWN:
        return _KNOWN[name]
    title = name.replace("_", " ")
    return DrawnMeasure(title)


def axis_range(
    measure: DrawnMeasure,
    values: Sequence[float],
    bounds: Sequence[float] = (),
) -> tuple[float, float]:
    """Return the range of an axis: all values with a margin, and intervals as far as they stay near to the values.

    Args:
        measure: the axis never goes beyond its bounds.
        values: what is drawn. NaN is left out.
        bounds: ends of intervals. An interval of two values is wide, and may leave the picture.

    Example:
        >>> axis_range(DrawnMeasure("accuracy", 0, 1), [0.5, 0.9], [-0.5, 2.0])
        (0.04, 1)
    """
    finite = _finite(values)
    if finite.size == 0:
        return _range_without_values(measure)
    low = float(finite.min())
    high = float(finite.max())
    spread = high - low or 0.1 * abs(high) or 1.0
    ends = _finite(bounds)
    near = np.clip(ends, low - spread, high + spread)
    everything = np.append(finite, near)
    low = float(everything.min())
    high = float(everything.max())
    margin = 0.05 * (high - low) or spread
    lowest = _within(measure, low - margin)
    highest = _within(measure, high + margin)
    return lowest, highest


def _range_without_values(measure: DrawnMeasure) -> tuple[float, float]:
    """Return the bounds of a measure, 0 and 1 in place of missing ones."""
    low, high = 0.0, 1.0
    if measure.low is not None:
        low = measure.low
    if measure.high is not None:
        high = measure.high
    return low, high


def far_rlcts(rows: DataFrame) -> Series:
    """Return whether the RLCT of each network is so far from all others that it would set the scale of an axis alone.

    It is if its status is not "ok", and it lies more than three interquartile ranges beyond the quartiles.

    Args:
        rows: one row per network.
    """
    values = rows["rlct"]
    lower = values.quantile(0.25)
    upper = values.quantile(0.75)
    reach = FAR * (upper - lower)
    is_below = values < lower - reach
    is_above = values > upper + reach
    is_bad = rows["rlct_status"] != "ok"
    has_reach = reach > 0
    return (is_below | is_above) & is_bad & has_reach


def _within(measure: DrawnMeasure, value: float) -> float:
    """Return a value, or the bound beyond which it lies."""
    if measure.low is not None and value < measure.low:
        return measure.low
    if measure.high is not None and value > measure.high:
        return measure.high
    return round(value, 12)


def _finite(values: Sequence[float]) -> np.ndarray:
    numbers = np.asarray(values, dtype=float)
    return numbers[np.isfinite(numbers)]
