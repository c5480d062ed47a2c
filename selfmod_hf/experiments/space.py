"""The space that a tuning searches: which parameters, and over what range."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..errors import InputError

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

MEMBER_PARAMETERS = ("aux_weight", "learning_rate")  # may differ within a population; the others may not
JOINED = {"hidden_sizes": "-", "target_layers": "+"}  # the layers of one choice
PARAMETERS = (*MEMBER_PARAMETERS, "hidden_sizes", "target_layers")


def parse_space(entries: Mapping[str, Any]) -> dict[str, BaseDistribution]:
    """Return Optuna's distributions from texts or lists.

    `"0:20"` is a range, `"0.001:0.1:log"` one of logarithmic scale, `"16,32,32-16"` a choice. An entry of
    `hidden_sizes` has a number for each layer, joined by "-"; one of `target_layers` has names joined by "+"; in lists,
    an entry may be a list of these.

    Raises:
        InputError: an unknown parameter, or a value that is none of these.
    """
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    space: dict[str, BaseDistribution] = {}
    for name, value in entries.items():
        if name not in PARAMETERS:
            raise InputError("space", name, f"allowed are {', '.join(PARAMETERS)}")
        entries_of = value if isinstance(value, (list, tuple)) else str(value).split(",")
        texts = [_joined(name, entry) for entry in entries_of]
        try:
            if len(texts) == 1 and ":" in texts[0]:
                low, high, *rest = texts[0].split(":")
                if rest not in ([], ["log"]) or not float(low) <= float(high):
                    raise ValueError("allowed is LOW:HIGH or LOW:HIGH:log, LOW at most HIGH")
                space[name] = FloatDistribution(float(low), float(high), log=bool(rest))
            elif name in MEMBER_PARAMETERS:
                space[name] = CategoricalDistribution([float(text) for text in texts])
            else:
                space[name] = CategoricalDistribution(texts)
                for text in texts:
                    as_train_flags({name: text})  # rejects what is no number
            _check_numbers(name, space[name])
        except ValueError as error:
            raise InputError("space", f"{name}={value}", str(error)) from error
        if name in ("hidden_sizes", "target_layers") and isinstance(space[name], FloatDistribution):
            raise InputError("space", f"{name}={value}", "allowed is a list of choices")
    return space


def _check_numbers(name: str, range_: Any) -> None:
    """Reject weights and learning rates that no network can be trained with."""
    if name not in MEMBER_PARAMETERS:
        return
    numbers = range_.choices if hasattr(range_, "choices") else (range_.low, range_.high)
    if not all(math.isfinite(number) and number >= 0 for number in numbers):
        raise ValueError("allowed are finite numbers of at least 0")
    if name == "learning_rate" and not min(numbers) > 0:
        raise ValueError("allowed are numbers above 0")


def _joined(name: str, entry: Any) -> str:
    several = isinstance(entry, (list, tuple)) and name in JOINED
    return JOINED[name].join(map(str, entry)) if several else str(entry)


def as_train_flags(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return a trial's parameters as flags of `selfmod train`."""
    flags = dict(parameters)
    if "hidden_sizes" in flags:
        flags["hidden_sizes"] = [int(size) for size in flags["hidden_sizes"].split(JOINED["hidden_sizes"])]
    if "target_layers" in flags:
        flags["target_layers"] = flags["target_layers"].split(JOINED["target_layers"])
    return flags


def only_value(distribution: Any) -> Any:
    """Return the value of a range whose ends are equal, or of a list of one choice."""
    return distribution.choices[0] if hasattr(distribution, "choices") else distribution.low
