"""Labels: the names of the classes, and the number of each sample's class."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..models.fields_self_modeling import MOST_CLASSES
from .lazy_datasets import datasets
from .rows import Rows

SHOWN = 8  # labels listed in an error


@dataclass(frozen=True)
class Classes:
    """Hold the classes of a task.

    Attributes:
        names: names of the classes, in the order of their numbers.
        numbers: number of each name, if labels are strings. None: labels are numbers.
    """

    names: list[str]
    numbers: dict[str, int] | None = None

    def number_of(self, label: Any) -> int:
        """Return a label's number, or -1 for a missing label or one of no class."""
        if self.numbers is not None:
            return self.numbers.get(label, -1)
        if is_whole(label) and 0 <= label < len(self.names):
            return int(label)
        return -1

    @property
    def allowed(self) -> str:
        """Return the allowed labels, for errors."""
        if self.numbers is not None:
            return listed(self.names)
        if not self.names:  # all labels are fractions or below zero
            return "whole numbers from 0, or strings"
        return f"0 to {len(self.names) - 1}"


def read_classes(column: str, train: Rows, feature: Any = None, values: set[Any] | None = None) -> Classes:
    """Return the classes of the training rows.

    Args:
        column: name of the column of labels.
        train: the training rows in use.
        feature: type of the labels, if the column holds lists of them. Default: type of the column.
        values: the distinct labels. Default: the distinct values of the column.

    Raises:
        InputError: too many classes.
    """
    if feature is None:
        feature = train.data.features[column]
    if isinstance(feature, datasets.ClassLabel):
        return Classes(list(feature.names))
    if values is None:
        _, distinct = train.encoded(column)
        values = set(distinct)
    values = values - {None}
    if is_text(feature):
        names = sorted(values)
        numbers = {name: number for number, name in enumerate(names)}
        return Classes(names, numbers)
    largest = -1
    for value in values:
        if is_whole(value):
            largest = max(largest, int(value))
    if largest >= MOST_CLASSES:
        problem = f"has label {largest}, allowed are 0 to {MOST_CLASSES - 1}"
        raise InputError("label_column", column, problem)
    names = list(map(str, range(largest + 1)))
    return Classes(names)


def label_numbers(column: str, part: Rows, classes: Classes) -> Tensor:
    """Return the number of each row's class, (N,), int64.

    Args:
        column: name of the column of labels.
        part: the rows of a split.
        classes: the classes of the training rows.

    Raises:
        InputError: missing labels, or labels of no class. The message shows them as they are in the data.
    """
    places, distinct = part.encoded(column)
    numbers = [classes.number_of(label) for label in distinct]
    numbers_of_labels = np.array(numbers, dtype=np.int64)
    labels = numbers_of_labels[places]  # (N,)
    wrong = np.flatnonzero(labels < 0)
    if len(wrong):
        found = [distinct[place] for place in places[wrong]]
        problem = wrong_labels(part, wrong, found, classes)
        raise InputError("label_column", column, problem)
    return torch.from_numpy(labels)


def wrong_labels(part: Rows, places: np.ndarray, found: list[Any], classes: Classes) -> str:
    """Describe labels of no class.

    Args:
        part: the rows.
        places: the place of each such label's row, in the order of the rows.
        found: all such labels.
        classes: the classes.
    """
    first = found[0]
    problem = f"row {part.numbers[places[0]]} of split {part.split!r}"
    if first is None:
        problem += " holds no label (`skip_missing` leaves such rows out)"
    else:
        problem += f" has label {first!r}, allowed are {classes.allowed}"
    if len(found) > 1:
        shown = listed(list(dict.fromkeys(found)))
        rows = len(np.unique(places))
        problem += f"; {rows} of {len(part)} rows have such labels: {shown}"
    if isinstance(first, float) and math.isfinite(first) and not first.is_integer():
        problem += "; with `problem_type` regression such labels are scores"
    return problem


def check_several(column: str, train: Tensor) -> None:
    """Reject training labels, (N,), that are all the same class."""
    if len(train.unique()) < 2:
        problem = "all training labels are the same class; at least two are needed"
        raise InputError("label_column", column, problem)


def listed(labels: list[Any]) -> str:
    """Return the first labels as they are in the data, and the number of further ones."""
    first = map(repr, labels[:SHOWN])
    shown = ", ".join(first)
    more = len(labels) - SHOWN
    if more > 0:
        return f"{shown} and {more} more"
    return shown


def is_text(feature: Any) -> bool:
    """Return whether a column holds strings."""
    return isinstance(feature, datasets.Value) and "string" in feature.dtype


def is_number(feature: Any) -> bool:
    """Return whether a column holds integers, truth values or floats."""
    if not isinstance(feature, datasets.Value):
        return False
    return feature.dtype.startswith(("int", "uint", "bool", "float"))


def is_whole(label: Any) -> bool:
    """Return whether a label is a whole number. Integers with a missing one among them are read as floats."""
    if isinstance(label, float):
        return label.is_integer()
    return isinstance(label, int)
