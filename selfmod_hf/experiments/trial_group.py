"""The trials of one training: their parameters, and their measures."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..trainer.member import Member
from ..trainer.task_metrics import SMALLER_IS_BETTER
from .setting import Values
from .trial_parameters import MEMBER_PARAMETERS

TIMES = ("half_way", "final")  # the metric after half of the epochs, and at the end


@dataclass(frozen=True)
class Group:
    """Hold trials of one training.

    Attributes:
        trials: their numbers.
        shared: the parameters they have in common.
        members: seed and own parameters of each.
    """

    trials: list[int]
    shared: dict[str, Any]
    members: list[Member]


@dataclass(frozen=True)
class Measured:
    """Hold the measures of one trial after its training.

    Attributes:
        half_way: the metric on the test split after half of the epochs.
        final: the same at the end.
        weight_width: of the last layer.
        model: the network, for its RLCT.
    """

    half_way: float
    final: float
    weight_width: float
    model: Any


def explain_hopeless(measured: Measured, limits: Mapping[str, float], metric: str) -> str | None:
    """Return why a trial is hopeless, or None.

    Args:
        measured: of the trial.
        limits: the worst hopeful metric at each of TIMES.
        metric: its name.
    """
    for time in TIMES:
        value = getattr(measured, time)
        limit = limits[time]
        if math.isnan(value) or is_worse(metric, value, limit):
            name = metric if time == "final" else time
            side = "above" if metric in SMALLER_IS_BETTER else "below"
            return f"{name} {value:.3f} is {side} {limit:.3f}"
    return None


def is_worse(metric: str, value: float, other: float) -> bool:
    """Return whether a value of a metric is worse than another one.

    Example:
        >>> is_worse("accuracy", 0.5, 0.6), is_worse("perplexity", 5.0, 6.0)
        (True, False)
    """
    if metric in SMALLER_IS_BETTER:
        return value > other
    return value < other


def common_parameters(trials: Mapping[int, Values]) -> dict[str, Any]:
    """Return the common parameters of a group's trials, from the first one."""
    number = min(trials)
    common = {}
    for name, value in trials[number].items():
        if name not in MEMBER_PARAMETERS:
            common[name] = value
    return common
