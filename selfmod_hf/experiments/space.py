"""The space of a tuning: its parameters, and the range of each."""

from __future__ import annotations

import math
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

from ..errors import InputError
from .setting import Values
from .trial_parameters import JOINED, LAYER_PARAMETERS, MEMBER_PARAMETERS, as_run_fields


def parse_space(entries: Values) -> dict[str, BaseDistribution]:
    """Return Optuna's distributions from texts or lists.

    `"0:20"` is a range, `"0.001:0.1:log"` one of logarithmic scale, `"16,32,32-16"` a choice. An entry of
    `hidden_sizes` has a number for each layer, joined by "-". One of `target_layers` has names joined by "+". In lists,
    an entry may be a list of these.

    Args:
        entries: range of each parameter.

    Raises:
        InputError: an unknown parameter, or another value.

    Example:
        >>> parse_space({"aux_weight": "0:20"})
        {'aux_weight': FloatDistribution(high=20.0, log=False, low=0.0, step=None)}
    """
    known = (*MEMBER_PARAMETERS, *LAYER_PARAMETERS)
    space = {}
    for name, value in entries.items():
        if name not in known:
            raise InputError("space", name, f"allowed are {', '.join(known)}")
        texts = _texts(name, value)
        try:
            if name in MEMBER_PARAMETERS:
                space[name] = _numbers(name, texts)
            else:
                space[name] = _layers(name, texts)
        except ValueError as error:
            raise InputError("space", f"{name}={value}", str(error)) from error
    return space


def _texts(name: str, value: Any) -> list[str]:
    """Return the entries of a range or of choices."""
    if not isinstance(value, (list, tuple)):
        return str(value).split(",")
    texts = []
    for choice in value:
        if isinstance(choice, (list, tuple)) and name in JOINED:
            texts.append(JOINED[name].join(map(str, choice)))
        else:
            texts.append(str(choice))
    return texts


def _numbers(name: str, texts: list[str]) -> BaseDistribution:
    """Return the distribution of a self-model weight or learning rate.

    Raises:
        ValueError: no network can be trained with one of the numbers.
    """
    distribution: BaseDistribution
    if len(texts) == 1 and ":" in texts[0]:
        low, high, *scale = texts[0].split(":")
        numbers = [float(low), float(high)]
        if scale not in ([], ["log"]) or not numbers[0] <= numbers[1]:
            raise ValueError("allowed is LOW:HIGH or LOW:HIGH:log, LOW at most HIGH")
        distribution = FloatDistribution(numbers[0], numbers[1], log=bool(scale))
    else:
        numbers = [float(text) for text in texts]
        distribution = CategoricalDistribution(numbers)
    for number in numbers:
        if not 0 <= number < math.inf:
            raise ValueError("allowed are finite numbers of at least 0")
    if name == "learning_rate" and min(numbers) <= 0:
        raise ValueError("allowed are numbers above 0")
    return distribution


def _layers(name: str, texts: list[str]) -> BaseDistribution:
    """Return the distribution of hidden sizes or target layers.

    Raises:
        ValueError: a range, or a wrong size.
    """
    if len(texts) == 1 and ":" in texts[0]:
        raise ValueError("allowed is a list of choices")
    for text in texts:
        as_run_fields({name: text})
    return CategoricalDistribution(texts)


def only_value(distribution: Any) -> Any:
    """Return the value of a range of equal ends, or of a list of one choice."""
    if hasattr(distribution, "choices"):
        return distribution.choices[0]
    return distribution.low
