"""The kinds of labels: a class, several classes or a score of each sample, or a class of each word."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from ..errors import InputError
from ..models.fields_self_modeling import MOST_CLASSES
from .labels import (
    Classes,
    check_several,
    is_number,
    is_text,
    label_numbers,
    read_classes,
    wrong_labels,
)
from .lazy_datasets import datasets
from .rows import Lists, Rows
from .tasks import CLASSES, SCORES, SEVERAL_CLASSES, WORDS, TaskSpec
from .tensors import IGNORED_LABEL


class LabelKind(Protocol):
    """Read the labels of rows."""

    @property
    def names(self) -> list[str]:
        """Return the names of the network's outputs, in their order."""

    def read(self, part: Rows) -> Tensor:
        """Return the labels of the rows, (N, ...), or of their words one after another.

        Raises:
            InputError: missing or impossible labels. The message shows them as they are in the data.
        """

    def check_training(self, labels: Tensor) -> None:
        """Reject training labels without any difference."""


def label_kind(spec: TaskSpec, train: Rows) -> LabelKind:
    """Return the kind of a task's labels, with the classes of the training rows.

    Args:
        spec: the task, with a label column and a problem type as in `with_problem_type`.
        train: the training rows in use.

    Raises:
        InputError: too many classes, or no list to find them in.
    """
    column = spec.label_column
    assert column is not None
    if spec.problem_type == SCORES:
        return Scores(column)
    if spec.problem_type == SEVERAL_CLASSES:
        return _several_classes(column, train)
    return OneClass(column, read_classes(column, train))


# ---- one class ----


@dataclass(frozen=True)
class OneClass:
    """Read one class of each sample, (N,), int64."""

    column: str
    classes: Classes

    @property
    def names(self) -> list[str]:
        return self.classes.names

    def read(self, part: Rows) -> Tensor:
        return label_numbers(self.column, part, self.classes)

    def check_training(self, labels: Tensor) -> None:
        check_several(self.column, labels)


# ---- several classes ----


@dataclass(frozen=True)
class SeveralClasses:
    """Read any number of classes of each sample, (N, number of classes), float32, 1 for each of its classes.

    Attributes:
        column: the column of lists.
        classes: the classes.
        marked: whether a list has one mark for each class, in place of the classes' names or numbers.
    """

    column: str
    classes: Classes
    marked: bool

    @property
    def names(self) -> list[str]:
        return self.classes.names

    def read(self, part: Rows) -> Tensor:
        lists = part.lists(self.column)
        check_lists("label_column", self.column, part, lists)
        read = self._marks if self.marked else self._counts
        return torch.from_numpy(read(part, lists))

    def _counts(self, part: Rows, lists: Lists) -> np.ndarray:
        """Return the labels of lists of names or numbers."""
        numbers = entry_numbers(self.column, part, lists, self.classes)
        labels = np.zeros((len(part), len(self.names)), dtype=np.float32)
        np.add.at(labels, (lists.rows, numbers), 1)
        twice = np.argwhere(labels > 1)
        if len(twice):
            place, number = twice[0]
            problem = (
                f"row {part.numbers[place]} of split {part.split!r} has label {self.names[number]!r} several times, "
                "allowed is once (one mark for each class is read from truth values or floats)"
            )
            raise InputError("label_column", self.column, problem)
        return labels

    def _marks(self, part: Rows, lists: Lists) -> np.ndarray:
        """Return the labels of lists of marks."""
        count = len(self.names)
        wrong = np.flatnonzero(lists.lengths != count)
        if len(wrong):
            problem = (
                f"row {part.numbers[wrong[0]]} of split {part.split!r} has {lists.lengths[wrong[0]]} entries, "
                f"allowed are {count}, one for each class"
            )
            raise InputError("label_column", self.column, problem)
        marks = as_floats(lists.values)
        wrong = np.flatnonzero((marks != 0) & (marks != 1))
        if len(wrong):
            place = lists.rows[wrong[0]]
            problem = (
                f"row {part.numbers[place]} of split {part.split!r} has entry {marks[wrong[0]]:g}, allowed are 0 and 1"
            )
            raise InputError("label_column", self.column, problem)
        return marks.astype(np.float32).reshape(len(part), count)

    def check_training(self, labels: Tensor) -> None:
        if len(labels.unique(dim=0)) < 2:
            problem = "all training samples have the same labels; at least two different lists are needed"
            raise InputError("label_column", self.column, problem)


def _several_classes(column: str, train: Rows) -> SeveralClasses:
    entry = entry_type(train.data.features[column])
    lists = train.lists(column)
    if _are_marks(entry):
        count = int(lists.lengths.max())
        classes = Classes([str(number) for number in range(count)])
        marked = True
    else:
        _, distinct = lists.encoded()
        classes = read_classes(column, train, entry, set(distinct))
        marked = False
    if not classes.names:
        raise InputError("label_column", column, "no training sample has a label; at least one class is needed")
    if len(classes.names) > MOST_CLASSES:
        problem = f"has lists of {len(classes.names)} entries, allowed are at most {MOST_CLASSES}"
        raise InputError("label_column", column, problem)
    return SeveralClasses(column, classes, marked)


def _are_marks(entry: Any) -> bool:
    """Return whether lists of this type have one mark for each class."""
    return is_number(entry) and entry.dtype.startswith(("bool", "float"))


# ---- scores ----


@dataclass(frozen=True)
class Scores:
    """Read one score of each sample, (N,), float32."""

    column: str

    @property
    def names(self) -> list[str]:
        return [self.column]

    def read(self, part: Rows) -> Tensor:
        column = part.column(self.column).combine_chunks()
        missing = np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))
        if len(missing):
            raise InputError("label_column", self.column, no_label(part, missing))
        values = as_floats(column)
        with np.errstate(over="ignore"):
            scores = values.astype(np.float32)
        wrong = np.flatnonzero(~np.isfinite(scores))
        if len(wrong):
            row = part.numbers[wrong[0]]
            problem = f"row {row} of split {part.split!r} has score {values[wrong[0]]}, allowed are finite numbers"
            problem += _and_others(part, wrong, "have such scores")
            raise InputError("label_column", self.column, problem)
        return torch.from_numpy(scores)

    def check_training(self, labels: Tensor) -> None:
        if len(labels.unique()) < 2:
            problem = "all training scores are the same; at least two different ones are needed"
            raise InputError("label_column", self.column, problem)


# ---- a class of each word ----


@dataclass(frozen=True)
class WordClasses:
    """Read a class of each word, for lists of words and lists of classes of equal length.

    Attributes:
        column: the column of lists of classes. The number -100 means no class.
        text_column: the column of lists of words.
        classes: the classes.
    """

    column: str
    text_column: str
    classes: Classes

    @property
    def names(self) -> list[str]:
        return self.classes.names

    def read(self, part: Rows) -> Tensor:
        """Return the classes of the words of all rows one after another, (W,), int64, -100 for words without one.

        Raises:
            InputError: missing or impossible labels, or another number of them than of words.
        """
        lists = part.lists(self.column)
        check_lists("label_column", self.column, part, lists)
        words = part.lists(self.text_column)
        check_lists("text_column", self.text_column, part, words)
        wrong = np.flatnonzero(lists.lengths != words.lengths)
        if len(wrong):
            place = wrong[0]
            problem = (
                f"row {part.numbers[place]} of split {part.split!r} has {lists.lengths[place]} labels for "
                f"{words.lengths[place]} words (`text_column` {self.text_column}), allowed is one for each word"
            )
            raise InputError("label_column", self.column, problem)
        numbers = entry_numbers(self.column, part, lists, self.classes, ignored=IGNORED_LABEL)
        return torch.from_numpy(numbers)

    def check_training(self, labels: Tensor) -> None:
        check_several(self.column, labels[labels != IGNORED_LABEL])


def word_classes(spec: TaskSpec, train: Rows) -> WordClasses:
    """Return the classes of the words of the training rows.

    Raises:
        InputError: too many classes.
    """
    column = spec.label_column
    assert column is not None
    [text_column] = spec.text_columns
    entry = entry_type(train.data.features[column])
    _, distinct = train.lists(column).encoded()
    values = set(distinct) - {IGNORED_LABEL}
    classes = read_classes(column, train, entry, values)
    if not classes.names:
        raise InputError("label_column", column, "no training word has a label; at least two classes are needed")
    return WordClasses(column, text_column, classes)


# ---- columns ----


def with_problem_type(spec: TaskSpec, feature: Any) -> TaskSpec:
    """Return the task with the problem type of its label column, if that is one of lists.

    Args:
        spec: the task.
        feature: type of the label column.
    """
    if spec.problem_type is None and spec.kind != WORDS and entry_type(feature) is not None:
        return replace(spec, problem_type=SEVERAL_CLASSES)
    return spec


def check_label_type(spec: TaskSpec, feature: Any) -> None:
    """Reject a label column of another type than the labels of the task.

    Args:
        spec: the task.
        feature: type of the label column.
    """
    entry = entry_type(feature)
    if spec.kind == WORDS:
        usable = has_classes(entry) and not _are_marks(entry)
        allowed = "lists of ClassLabel, int, string"
    elif spec.problem_type == SEVERAL_CLASSES:
        usable = has_classes(entry)
        allowed = "lists of ClassLabel, int, string, bool, float"
    elif spec.problem_type == SCORES:
        usable = is_number(feature)
        allowed = "float, int"
    else:
        usable = has_classes(feature)
        allowed = "ClassLabel, int, string"
        if spec.problem_type == CLASSES and entry is not None:
            allowed += f" (lists with `problem_type` {SEVERAL_CLASSES})"
    if not usable:
        raise InputError("label_column", spec.label_column, f"has type {feature}; allowed are {allowed}")


def has_classes(feature: Any) -> bool:
    """Return whether the values of a type can name classes."""
    return isinstance(feature, datasets.ClassLabel) or is_text(feature) or is_number(feature)


def entry_type(feature: Any) -> Any:
    """Return the type of the entries of a column of lists, or None for another column."""
    if isinstance(feature, (datasets.List, datasets.LargeList)):
        return feature.feature
    return None


def check_lists(field: str, column: str, part: Rows, lists: Lists) -> None:
    """Reject a missing list, and a list with a missing entry."""
    missing = np.flatnonzero(lists.missing)
    if len(missing):
        raise InputError(field, column, no_label(part, missing))
    if lists.values.null_count:
        entries = np.flatnonzero(lists.values.is_null().to_numpy(zero_copy_only=False))
        row = part.numbers[lists.rows[entries[0]]]
        raise InputError(field, column, f"row {row} of split {part.split!r} has a list with a missing entry")


def entry_numbers(column: str, part: Rows, lists: Lists, classes: Classes, ignored: int | None = None) -> np.ndarray:
    """Return the number of each entry's class, (entries,), int64. An entry `ignored` keeps its value.

    Raises:
        InputError: an entry of no class.
    """
    places, distinct = lists.encoded()
    numbers = []
    for label in distinct:
        is_ignored = ignored is not None and label == ignored
        numbers.append(ignored if is_ignored else classes.number_of(label))
    found = np.array(numbers, dtype=np.int64)[places]
    wrong = np.flatnonzero((found < 0) & (found != ignored))
    if len(wrong):
        values = [distinct[place] for place in places[wrong]]
        problem = wrong_labels(part, lists.rows[wrong], values, classes)
        raise InputError("label_column", column, problem)
    return found


def no_label(part: Rows, missing: np.ndarray) -> str:
    """Describe missing labels. `missing` holds the places of their rows."""
    row = part.numbers[missing[0]]
    problem = f"row {row} of split {part.split!r} holds no label (`skip_missing` leaves such rows out)"
    return problem + _and_others(part, missing, "hold none")


def _and_others(part: Rows, places: np.ndarray, have_it: str) -> str:
    """Return the number of rows with a problem, for the end of a message about the first. It is empty for one row."""
    if len(places) == 1:
        return ""
    return f"; {len(places)} of {len(part)} rows {have_it}"


def as_floats(values: pa.Array) -> np.ndarray:
    """Return numbers or truth values as float64."""
    if pa.types.is_boolean(values.type):
        values = values.cast(pa.int8())
    return values.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
