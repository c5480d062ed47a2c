"""Labels: the names of the classes, and the number of each sample's class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..errors import InputError

if TYPE_CHECKING:
    from .rows import Rows

MOST_CLASSES = 1_000_000  # what a model's configuration allows, too; its file travels and cannot share this one
SHOWN = 8  # labels that an error lists


@dataclass(frozen=True)
class Classes:
    """The classes of a task.

    Attributes:
        names: in the order of their numbers.
        numbers: of each name where labels are strings; None where labels are numbers already.
    """

    names: list[str]
    numbers: dict[str, int] | None = None

    def number_of(self, label: Any) -> int:
        """Return a label's number, or -1 for a label that is missing or belongs to no class."""
        if self.numbers is not None:
            return self.numbers.get(label, -1)
        if not is_whole(label) or not 0 <= label < len(self.names):
            return -1
        return int(label)

    @property
    def allowed(self) -> str:
        """The labels that are allowed, for errors."""
        if self.numbers is None and not self.names:  # of fractions, or of numbers below zero
            return "whole numbers from 0, or strings"
        if self.numbers is None:
            return f"0 to {len(self.names) - 1}"
        return listed(self.names)


def read_classes(column: str, train: Rows) -> Classes:
    """Return the classes that the training rows name.

    Args:
        column: of the labels.
        train: the training rows that are used.

    Raises:
        InputError: too many classes.
    """
    import datasets

    feature = train.data.features[column]
    if isinstance(feature, datasets.ClassLabel):
        return Classes(list(feature.names))
    values = [value for value in train.data.unique(column) if value is not None]
    if is_text(feature):
        names = sorted(values)
        return Classes(names, {name: number for number, name in enumerate(names)})
    most = max((int(value) for value in values if is_whole(value)), default=-1)
    if most >= MOST_CLASSES:
        raise InputError("label_column", column, f"has label {most}, allowed are 0 to {MOST_CLASSES - 1}")
    return Classes([str(label) for label in range(most + 1)])


def label_numbers(column: str, part: Rows, classes: Classes) -> torch.Tensor:
    """Return the number of each row's class, (N,), int64.

    Args:
        column: of the labels.
        part: the rows of a split.
        classes: of the training rows.

    Raises:
        InputError: labels that are missing or belong to no class. The message shows them as they stand in the data.
    """
    places, distinct = part.encoded(column)
    numbers = np.array([classes.number_of(label) for label in distinct], dtype=np.int64)
    labels = numbers[places]  # (N,)
    wrong = np.flatnonzero(labels < 0)
    if len(wrong):
        row, first = int(part.numbers[wrong[0]]), distinct[places[wrong[0]]]
        problem = f"row {row} of split {part.split!r} has label {first!r}, allowed are {classes.allowed}"
        if first is None:
            problem = f"row {row} of split {part.split!r} holds no label (`skip_missing` leaves such rows out)"
        if len(wrong) > 1:
            found = [distinct[place] for place in dict.fromkeys(places[wrong].tolist())]
            problem += f"; {len(wrong)} of {len(labels)} rows have such labels: {listed(found)}"
        raise InputError("label_column", column, problem)
    return torch.from_numpy(labels)


def check_label_type(column: str, feature: Any) -> None:
    """Reject a column whose type names no classes."""
    import datasets

    if not (isinstance(feature, datasets.ClassLabel) or is_text(feature) or is_number(feature)):
        raise InputError("label_column", column, f"has type {feature}; allowed are ClassLabel, int, string")


def check_several(column: str, train: torch.Tensor) -> None:
    """Reject training labels, (N,), that are all the same class."""
    if len(train.unique()) < 2:
        problem = "all training labels are the same class; at least two are needed"
        raise InputError("label_column", column, problem)


def listed(labels: list[Any]) -> str:
    """Return the first labels as they stand in the data, and how many more there are."""
    shown = ", ".join(map(repr, labels[:SHOWN]))
    return shown if len(labels) <= SHOWN else f"{shown} and {len(labels) - SHOWN} more"


def is_text(feature: Any) -> bool:
    """Return whether a column holds strings."""
    import datasets

    return isinstance(feature, datasets.Value) and "string" in feature.dtype


def is_number(feature: Any) -> bool:
    """Return whether a column holds integers, truth values, or floats, which may be whole numbers."""
    import datasets

    return isinstance(feature, datasets.Value) and feature.dtype.startswith(("int", "uint", "bool", "float"))


def is_whole(label: Any) -> bool:
    """Return whether a label is a whole number. Integers with a missing one among them are read as floats."""
    return isinstance(label, (bool, int)) or (isinstance(label, float) and label.is_integer())
