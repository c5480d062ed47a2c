"""The chance level of a study: how good a network is that gives the same answer for each test sample."""

from __future__ import annotations

import math
from typing import Any

from pandas import DataFrame, Series

from ..data import TensorData
from ..data.tasks import SEVERAL_CLASSES
from ..trainer.task_metrics import PERPLEXITY, SMALLER_IS_BETTER

CORRELATIONS = ("pearson", "spearmanr", "matthews_correlation")
SHARES = ("accuracy", "f1")


def main_metric(rows: DataFrame) -> str:
    """Return the name of the metric that a study compares.

    Args:
        rows: networks or curves of a study.

    Example:
        >>> main_metric(DataFrame({"accuracy": [0.5]})), main_metric(DataFrame({"metric": ["mse"], "mse": [0.5]}))
        ('accuracy', 'mse')
    """
    if "metric" in rows:
        return str(rows["metric"].iloc[0])
    return "accuracy"


def chance_of(metric: str, data: TensorData, classes: int) -> float | None:
    """Return the metric of a network with the same answer for each sample.

    | metric | the answer |
    |---|---|
    | accuracy | the most frequent class of samples, or of tokens |
    | f1, of several classes | each class that more than half of the samples have |
    | pearson | any score, without correlation |
    | perplexity | the frequencies of the predicted tokens |

    Args:
        metric: its name.
        data: the samples.
        classes: number of classes.

    Returns:
        The metric. None: it is unknown.
    """
    if metric in CORRELATIONS:
        return 0.0
    if metric == PERPLEXITY:
        return _perplexity(data)
    counts = data.class_counts(classes)
    if counts is None or not counts.any():
        return None
    if data.problem_type == SEVERAL_CLASSES:
        return _f1_of_frequent(counts.tolist(), len(data))
    return int(counts.max()) / int(counts.sum())


def _perplexity(data: Any) -> float | None:
    """Return the perplexity of the frequencies of the predicted tokens. A block's first one is not predicted."""
    predicted = data.tokens[:, 1:].flatten()
    if not predicted.numel():
        return None
    counts = predicted.long().bincount().double()
    shares = counts[counts > 0] / counts.sum()
    return float((-(shares * shares.log()).sum()).exp())


def _f1_of_frequent(counts: list[int], samples: int) -> float:
    """Return the F1 of all labels together, if each sample gets the classes that more than half of them have."""
    answered = [count for count in counts if 2 * count > samples]
    return 2 * sum(answered) / (samples * len(answered) + sum(counts))


def level_of_chance(metric: str, chance: float, labels: int) -> float | None:
    """Return the best value of a metric that is no better than guessing. None: every value would be.

    A share p of n labels has a standard error of sqrt(p * (1 - p) / n), and a correlation one of sqrt(1 / n). The level
    is two of them above the chance. Of other metrics it is the chance itself.

    Args:
        metric: its name.
        chance: of `chance_of`.
        labels: number of labels, n.

    Example:
        >>> level_of_chance("accuracy", 0.5, 100), level_of_chance("pearson", 0.0, 100)
        (0.6, 0.2)
    """
    if metric in CORRELATIONS:
        return chance + 2 / math.sqrt(labels)
    if metric not in SHARES:
        return chance
    if chance >= 1:
        return None
    return chance + 2 * math.sqrt(chance * (1 - chance) / labels)


def is_at_chance(rows: DataFrame, level: float) -> Series:
    """Return whether each network is no better than guessing. One without a correlation has a constant answer.

    Args:
        rows: one row per network.
        level: of `level_of_chance`.
    """
    metric = main_metric(rows)
    values = rows[metric]
    if metric in CORRELATIONS:
        values = values.fillna(0.0)
    if metric in SMALLER_IS_BETTER:
        return values >= level
    return values <= level
