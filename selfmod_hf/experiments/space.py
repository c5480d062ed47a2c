"""The space of a tuning: its parameters, and the range of each."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from ..errors import InputError
from .kind import Kind
from .setting import Values
from .trial_parameters import KINDS, WHOLE, check_parameter

RANGE = "allowed is LOW:HIGH or LOW:HIGH:log, LOW at most HIGH"


def parse_space(entries: Values) -> dict[str, BaseDistribution]:
    """Return Optuna's distributions from texts or lists.

    `"0:20"` is a range, `"0.001:0.1:log"` one of logarithmic scale, `"16,32,32-16"` a choice. A range of an integer
    field, and one of `num_train_epochs`, holds integers. In a list of integers such as `hidden_sizes` the entries are
    joined by "-". In other lists, such as `target_layers`, they are joined by "+". A list of choices may hold lists,
    and texts with commas.

    Args:
        entries: range of each parameter.

    Raises:
        InputError: a field that trials cannot have for themselves, or another value.

    Example:
        >>> parse_space({"aux_weight": "0:20", "num_train_epochs": "5:20"})["num_train_epochs"]
        IntDistribution(high=20, log=False, low=5, step=1)
    """
    space = {}
    for name, value in entries.items():
        check_parameter(name)
        kind = Kind(int, False) if name in WHOLE else KINDS[name]
        try:
            space[name] = _distribution(kind, _texts(kind, value))
        except ValueError as error:
            raise InputError("space", f"{name}={value}", str(error)) from error
    return space


def _texts(kind: Kind, value: Any) -> list[str]:
    """Return the entries of a range or of choices."""
    if not isinstance(value, (list, tuple)):
        return str(value).split(",")
    texts = []
    for choice in value:
        if isinstance(choice, (list, tuple)) and kind.is_list:
            texts.append(kind.joint.join(map(str, choice)))
        elif isinstance(choice, Mapping):
            texts.append(json.dumps(choice))
        else:
            texts.append(str(choice))
    return texts


def _distribution(kind: Kind, texts: list[str]) -> BaseDistribution:
    """Return the distribution of a range, or of choices.

    Raises:
        ValueError: a text that is no value of this kind, or a number that no field takes.
    """
    if len(texts) == 1 and ":" in texts[0] and kind.type is not str:
        return _range(kind, texts[0])
    choices = [kind.read(text) for text in texts]
    if kind.is_number:
        _check_numbers(choices)
    return CategoricalDistribution(choices)


def _range(kind: Kind, text: str) -> BaseDistribution:
    if not kind.is_number:
        raise ValueError("allowed is a list of choices")
    low, high, *scale = text.split(":")
    ends = [kind.read(low), kind.read(high)]
    if scale not in ([], ["log"]) or not ends[0] <= ends[1]:
        raise ValueError(RANGE)
    if scale and ends[0] <= 0:
        raise ValueError("a logarithmic range begins above 0")
    _check_numbers(ends)
    if kind.type is int:
        return IntDistribution(ends[0], ends[1], log=bool(scale))
    return FloatDistribution(ends[0], ends[1], log=bool(scale))


def _check_numbers(numbers: list[float]) -> None:
    for number in numbers:
        if not 0 <= number < math.inf:
            raise ValueError("allowed are finite numbers of at least 0")
