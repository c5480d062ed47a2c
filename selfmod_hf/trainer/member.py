"""`Member`: the values that differ between the networks of a population."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import groupby
from typing import Any, TypeVar

from ..errors import InputError

Value = TypeVar("Value")

# fields of the configuration that a member can have for itself
CONFIG_FIELDS = ("classification_weight", "target_source", "target_normalization", "activation_penalty")
# settings of a run that may differ between the members of one population. So may SGD's momentum
MEMBER_FIELDS = (
    "seed",
    "aux_weight",
    "detach_targets",
    *CONFIG_FIELDS,
    "learning_rate",
    "weight_decay",
    "weight_decay_parameters",
    "stop_at_train_loss",
    "early_stopping_patience",
)
# a field -> how it begins in a member's name
_SHORT = {
    "learning_rate": "lr",
    "momentum": "m",
    "weight_decay": "wd",
    "weight_decay_parameters": "on",
    "classification_weight": "cw",
    "target_source": "",
    "target_normalization": "",
    "activation_penalty": "ap",
    "stop_at_train_loss": "stop",
    "early_stopping_patience": "patience",
}


@dataclass(frozen=True)
class Member:
    """Hold the values of one network of a population. None: the value of the configuration or the training arguments.

    Attributes:
        seed: of its initial weights and of its order of samples.
        aux_weight: its weight of the self-modeling loss, >= 0.
        detach_targets: whether the predicted activations are constants for its gradient.
        learning_rate: its own, > 0.
        momentum: of SGD, from 0 to below 1.
        weight_decay: its own, >= 0.
        weight_decay_parameters: names of the parameters that decay, with wildcards.
        classification_weight: its weight of the classification loss, >= 0.
        target_source: the activations that it predicts, as in `SelfModelingConfig`.
        target_normalization: none or rms.
        activation_penalty: its weight of the mean square of the target layers' activations, >= 0.
        stop_at_train_loss: its training ends after the first epoch with at most this mean classification loss, > 0.
        early_stopping_patience: its training ends after so many evaluations in a row without an improvement, >= 1.

    Raises:
        InputError: a learning rate, momentum, weight decay or stopping rule outside of its range.

    Example:
        >>> Member(seed=1, aux_weight=10.0).name, Member(1, 10.0, target_source="shuffled", weight_decay=0.1).name
        ('aw10-seed1', 'aw10-wd0.1-shuffled-seed1')
    """

    seed: int
    aux_weight: float
    detach_targets: bool = True
    learning_rate: float | None = None
    momentum: float | None = None
    weight_decay: float | None = None
    weight_decay_parameters: tuple[str, ...] | None = None
    classification_weight: float | None = None
    target_source: str | None = None
    target_normalization: str | None = None
    activation_penalty: float | None = None
    stop_at_train_loss: float | None = None
    early_stopping_patience: int | None = None

    def __post_init__(self) -> None:
        if self.weight_decay_parameters is not None:  # a list, from a file
            object.__setattr__(self, "weight_decay_parameters", tuple(self.weight_decay_parameters))
        rate, momentum, decay = self.learning_rate, self.momentum, self.weight_decay
        if rate is not None and not 0 < rate < math.inf:
            raise InputError("learning_rate", rate, "allowed are None and finite numbers above 0")
        if momentum is not None and not 0 <= momentum < 1:
            raise InputError("momentum", momentum, "allowed are None and numbers from 0 to below 1")
        if decay is not None and not 0 <= decay < math.inf:
            raise InputError("weight_decay", decay, "allowed are None and finite numbers of at least 0")
        check_rules(self.stop_at_train_loss, self.early_stopping_patience)

    @property
    def name(self) -> str:
        """Return its name in logs and files, for example `aw10-seed1`, `aw10-attached-seed1`, `aw10-lr0.05-seed1`."""
        parts = [f"aw{self.aux_weight:g}"]
        if not self.detach_targets:
            parts.append("attached")
        for field, short in _SHORT.items():
            value = getattr(self, field)
            if value is not None:
                parts.append(short + _spelled(value))
        parts.append(f"seed{self.seed}")
        return "-".join(parts)

    @property
    def has_optimizer_numbers(self) -> bool:
        """Whether its optimizer has a number of its own."""
        own = (self.learning_rate, self.momentum, self.weight_decay, self.weight_decay_parameters)
        return any(value is not None for value in own)

    def describe(self) -> dict[str, Any]:
        """Return its entry in `population.json`, without the values that it does not have for itself."""
        entry: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None:
                entry[field.name] = list(value) if isinstance(value, tuple) else value
        return entry

    def config_fields(self) -> dict[str, Any]:
        """Return its fields of the configuration."""
        found: dict[str, Any] = {"aux_weight": self.aux_weight, "detach_targets": self.detach_targets}
        for name in CONFIG_FIELDS:
            value = getattr(self, name)
            if value is not None:
                found[name] = value
        return found


def check_rules(loss: float | None, patience: int | None) -> None:
    """Check the values of stopping rules.

    Raises:
        InputError: a loss that is no finite number above 0, or a patience below 1.
    """
    if loss is not None and not 0 < loss < math.inf:
        raise InputError("stop_at_train_loss", loss, "allowed are None and finite numbers above 0")
    if patience is not None and (not isinstance(patience, int) or patience < 1):
        raise InputError("early_stopping_patience", patience, "allowed are None and integers of at least 1")


def _spelled(value: float | str | tuple[str, ...]) -> str:
    """Return a value as a part of a name. A name has no slash, because logs divide names there."""
    if isinstance(value, (int, float)):
        return f"{value:g}"
    text = value if isinstance(value, str) else "+".join(value)
    return re.sub(r"[^\w.+*]+", "_", text)


def runs_of(values: Sequence[Value]) -> Iterator[tuple[range, Value]]:
    """Yield the ranges of neighbours with equal values, each with its value.

    Example:
        >>> list(runs_of(["a", "a", "b"]))
        [(range(0, 2), 'a'), (range(2, 3), 'b')]
    """
    start = 0
    for value, run in groupby(values):
        count = len(list(run))
        yield range(start, start + count), value
        start += count
