"""The trials of one training: their parameters, and their measures."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..trainer.member import Member
from .setting import Values
from .trial_parameters import MEMBER_PARAMETERS

ACCURACIES = ("half_way", "accuracy")  # test accuracy after half of the epochs, and at the end


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
        half_way: test accuracy after half of the epochs.
        accuracy: test accuracy at the end.
        weight_width: of the last layer.
        model: the network, for its RLCT.
    """

    half_way: float
    accuracy: float
    weight_width: float
    model: Any


def explain_hopeless(measured: Measured, least: Mapping[str, float]) -> str | None:
    """Return why a trial is hopeless, or None."""
    for name in ACCURACIES:
        accuracy = getattr(measured, name)
        limit = least[name]
        if math.isnan(accuracy) or accuracy < limit:
            return f"{name} {accuracy:.3f} is below {limit:.3f}"
    return None


def common_parameters(trials: Mapping[int, Values]) -> dict[str, Any]:
    """Return the common parameters of a group's trials, from the first one."""
    number = min(trials)
    common = {}
    for name, value in trials[number].items():
        if name not in MEMBER_PARAMETERS:
            common[name] = value
    return common
