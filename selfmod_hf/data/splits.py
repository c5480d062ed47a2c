"""The training rows and test rows of a task: the columns, the splits, and the rows taken from them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset, Image

from ..errors import InputError
from .labels import check_label_type, is_number, is_text
from .reading import check_column, load_split
from .rows import Rows
from .tasks import TaskSpec
from .tensors import spread

# usual names of the test split. The first one in a data set counts
TEST_SPLITS = ("test", "validation", "dev", "valid", "val", "eval")


def read_splits(
    spec: TaskSpec, *, texts: bool, max_train_samples: int | None, max_test_samples: int | None
) -> tuple[TaskSpec, Rows, Rows]:
    """Return the task with its columns and test split named, its training rows and its test rows.

    Args:
        spec: the task.
        texts: whether the samples are texts, not images.
        max_train_samples: number of training rows, spread evenly over the split. None: all.
        max_test_samples: number of test rows, spread evenly over the split. None: all.

    Raises:
        InputError: a missing or ambiguous column or split, no row, or a missing sample.
    """
    train = _all_rows(spec, "train_split", spec.train_split)
    spec = _resolved(spec, train.data, texts)
    field = "text_column" if texts else "image_column"
    content = getattr(spec, field)
    assert content is not None
    assert spec.label_column is not None
    parts = [train]
    if spec.test_split is not None:
        test = _all_rows(spec, "test_split", spec.test_split)
        parts.append(test)
    for part in parts:
        check_column(part.data, field, content)
        check_column(part.data, "label_column", spec.label_column)
        feature = part.data.features[spec.label_column]
        check_label_type(spec.label_column, feature)
    if spec.skip_missing:
        parts = [_without_missing(part, content, spec.label_column) for part in parts]
    if spec.test_fraction is not None:
        [everything] = parts
        parts = _held_out(everything, spec.label_column, spec.test_fraction, spec.split_seed)
    used = []
    limits = (max_train_samples, max_test_samples)
    for part, most in zip(parts, limits, strict=True):
        places = spread(len(part), most)
        rows = part.take(places)
        _check_missing(rows, field, content)
        used.append(rows)
    train, test = used
    return spec, train, test


def resolve_task(spec: TaskSpec) -> TaskSpec:
    """Return the task with its columns and its test split named, as its data set has them.

    Args:
        spec: the task. If it names neither an image nor a text column, a data set with a column of images is read as
            images, and any other with a column of strings as texts.

    Raises:
        InputError: an unreadable data set, or a missing or ambiguous column or split.

    Example:
        >>> resolve_task(TaskSpec(name="digits", dataset_name=None)).name
        'digits'
    """
    content = spec.text_column or spec.image_column
    test = spec.test_split or spec.test_fraction
    if spec.dataset_name is None or (content and test and spec.label_column):
        return spec
    train = load_split(spec, "train_split", spec.train_split)
    texts = spec.text_column is not None
    if content is None:
        images = _image_columns(train)
        texts = not images
        if texts and not _text_columns(train, spec.label_column):
            problem = f"no column holds images or texts; the data set has {_described(train)}"
            raise InputError("dataset_name", spec.dataset_name, problem)
    return _resolved(spec, train, texts)


# ---- columns and splits without a name ----


def _resolved(spec: TaskSpec, train: Dataset, texts: bool) -> TaskSpec:
    """Return the task with names for its unnamed columns and test split."""
    changes: dict[str, Any] = {}
    if texts and spec.text_column is None:
        found = _text_columns(train, spec.label_column)
        changes["text_column"] = _only(train, "text_column", "strings", found)
    elif not texts and spec.image_column is None:
        found = _image_columns(train)
        changes["image_column"] = _only(train, "image_column", "images", found)
    if spec.label_column is None:
        changes["label_column"] = _label_column(train)
    if spec.test_split is None and spec.test_fraction is None:
        changes["test_split"] = _test_split(spec, train)
    return replace(spec, **changes)


def _image_columns(data: Dataset) -> list[str]:
    columns = []
    for name, feature in data.features.items():
        if isinstance(feature, Image):
            columns.append(name)
    return columns


def _text_columns(data: Dataset, label_column: str | None) -> list[str]:
    columns = []
    for name, feature in data.features.items():
        if is_text(feature):
            columns.append(name)
    label_column = label_column or "label"
    if label_column in columns:
        columns.remove(label_column)
    return columns


def _label_column(data: Dataset) -> str:
    """Return the column `label`, else the only ClassLabel, else the only column of integers."""
    if "label" in data.column_names:
        return "label"
    class_labels = []
    integers = []
    for name, feature in data.features.items():
        if isinstance(feature, ClassLabel):
            class_labels.append(name)
        elif is_number(feature) and "float" not in feature.dtype:
            integers.append(name)
    return _only(data, "label_column", "class labels", class_labels or integers)


def _only(data: Dataset, field: str, kind: str, found: list[str]) -> str:
    """Return the column of the usual name among those found, else the only one."""
    usual = field.removesuffix("_column")
    if usual in found:
        return usual
    if len(found) == 1:
        return found[0]
    problem = f"no column holds {kind}; the data set has {_described(data)}"
    if found:
        columns = ", ".join(found)
        problem = f"several columns hold {kind}: {columns}; name one of them"
    raise InputError(field, None, problem)


def _described(data: Dataset) -> str:
    columns = []
    for name, feature in data.features.items():
        kind = getattr(feature, "dtype", type(feature).__name__)
        columns.append(f"{name} ({kind})")
    return ", ".join(columns)


def _test_split(spec: TaskSpec, train: Dataset) -> str:
    splits = train.info.splits
    if splits is None:
        return TEST_SPLITS[0]
    for name in TEST_SPLITS:
        if name in splits and name != spec.train_split:
            return name
    *usual, last = TEST_SPLITS
    problem = (
        f"the data set has no split called {', '.join(usual)} or {last}, but {', '.join(splits)}; "
        f"name one, or hold out a share of {spec.train_split} by `test_fraction`"
    )
    raise InputError("test_split", None, problem)


# ---- rows ----


def _all_rows(spec: TaskSpec, field: str, split: str) -> Rows:
    data = load_split(spec, field, split)
    numbers = np.arange(len(data))
    return Rows(data, split, numbers)


def _without_missing(part: Rows, *columns: str) -> Rows:
    """Return the rows with a value in each of these columns."""
    complete = np.ones(len(part), dtype=bool)
    for name in columns:
        has_value = part.column(name).is_valid()
        complete &= has_value.to_numpy()
    if not complete.any():
        either = " or ".join(columns)
        problem = f"leaves no row of split {part.split!r}: each lacks {either}"
        raise InputError("skip_missing", True, problem)
    return part.take(np.flatnonzero(complete))


def _check_missing(part: Rows, field: str, column: str) -> None:
    """Raise an InputError for rows without a sample."""
    is_missing = part.column(column).is_null()
    missing = np.flatnonzero(is_missing.to_numpy())
    if not len(missing):
        return
    row = part.numbers[missing[0]]
    kind = field.removesuffix("_column")
    share = f"{len(missing)} of {len(part)} rows"
    problem = f"row {row} holds no {kind} (split {part.split!r}, {share}; `skip_missing` leaves such rows out)"
    raise InputError(field, column, problem)


def _held_out(part: Rows, label_column: str, fraction: float, seed: int) -> list[Rows]:
    """Return training rows and test rows, with each class divided by the fraction.

    A class of one row stays in training.
    """
    from sklearn.model_selection import train_test_split

    places, distinct = part.encoded(label_column)
    counts = np.bincount(places, minlength=len(distinct))
    class_sizes = counts[places]  # of each row's class
    divisible = np.flatnonzero(class_sizes > 1)
    classes = places[divisible]
    try:
        _, test = train_test_split(divisible, test_size=fraction, random_state=seed, stratify=classes)
    except ValueError as error:  # too few rows for a test row of each class
        found = np.count_nonzero(counts)
        problem = f"{len(part)} rows of {found} classes cannot be shared out so ({error})"
        raise InputError("test_fraction", fraction, problem) from error
    everything = np.arange(len(part))
    train = np.setdiff1d(everything, test)  # sorted
    test = np.sort(test)
    return [part.take(train), part.take(test)]
