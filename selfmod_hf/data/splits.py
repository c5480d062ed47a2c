"""The rows that a task trains and tests on: which columns, which splits, and which rows of them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ..errors import InputError
from .labels import check_label_type, is_number, is_text
from .reading import check_column, load_split
from .rows import Rows
from .tasks import TaskSpec
from .tensors import spread

if TYPE_CHECKING:
    import datasets

# what a split to test on is called, the first that is there
TEST_SPLITS = ("test", "validation", "dev", "valid", "val", "eval")


def read_splits(
    spec: TaskSpec, *, texts: bool, max_train_samples: int | None, max_test_samples: int | None
) -> tuple[TaskSpec, Rows, Rows]:
    """Return the task with its columns and test split named, its training rows and its test rows.

    Args:
        spec: the task.
        texts: whether it is read as one of texts, or of images.
        max_train_samples: of the training rows, spread evenly over them.
        max_test_samples: likewise of the test rows.

    Raises:
        InputError: a column or split that is missing or ambiguous, no row, a sample that is missing.
    """
    train = _all_rows(spec, "train_split", spec.train_split)
    spec = _resolved(spec, train.data, texts)
    content = spec.text_column if texts else spec.image_column
    assert content is not None
    assert spec.label_column is not None
    field = "text_column" if texts else "image_column"
    parts = [train] if spec.test_split is None else [train, _all_rows(spec, "test_split", spec.test_split)]
    for part in parts:
        check_column(part.data, field, content)
        check_column(part.data, "label_column", spec.label_column)
        check_label_type(spec.label_column, part.data.features[spec.label_column])
    if spec.skip_missing:
        parts = [_without_missing(part, content, spec.label_column) for part in parts]
    if spec.test_fraction is not None:
        parts = _held_out(parts[0], spec.label_column, spec.test_fraction, spec.split_seed)
    train, test = (
        part.take(spread(len(part), most))
        for part, most in zip(parts, (max_train_samples, max_test_samples), strict=True)
    )
    for part in (train, test):
        _check_missing(part, field, content)
    return spec, train, test


def resolve_task(spec: TaskSpec) -> TaskSpec:
    """Return the task with its columns and its test split named, as its data set has them.

    Args:
        spec: the task. Where it names neither an image nor a text column, a data set with a column of images is one
            of images, and any other with a column of strings one of texts.

    Raises:
        InputError: a data set that cannot be read, a column or split that is missing or ambiguous.
    """
    content = spec.text_column or spec.image_column
    named = content and spec.label_column and (spec.test_split or spec.test_fraction is not None)
    if spec.dataset_name is None or named:
        return spec
    train = load_split(spec, "train_split", spec.train_split)
    texts = spec.text_column is not None
    if content is None:
        images = _image_columns(train)
        texts = not images and bool(_text_columns(train, spec.label_column))
        if not images and not texts:
            problem = f"no column holds images or texts; the data set has {_described(train)}"
            raise InputError("dataset_name", spec.dataset_name, problem)
    return _resolved(spec, train, texts)


# ---- columns and splits that are not named ----


def _resolved(spec: TaskSpec, train: datasets.Dataset, texts: bool) -> TaskSpec:
    if texts and spec.text_column is None:
        found = _text_columns(train, spec.label_column)
        spec = replace(spec, text_column=_only(train, "text_column", "strings", "text", found))
    elif not texts and spec.image_column is None:
        found = _image_columns(train)
        spec = replace(spec, image_column=_only(train, "image_column", "images", "image", found))
    if spec.label_column is None:
        spec = replace(spec, label_column=_label_column(train))
    if spec.test_split is None and spec.test_fraction is None:
        spec = replace(spec, test_split=_test_split(spec, train))
    return spec


def _image_columns(data: datasets.Dataset) -> list[str]:
    import datasets

    return [name for name, feature in data.features.items() if isinstance(feature, datasets.Image)]


def _text_columns(data: datasets.Dataset, label_column: str | None) -> list[str]:
    labels = label_column or "label"
    return [name for name, feature in data.features.items() if is_text(feature) and name != labels]


def _label_column(data: datasets.Dataset) -> str:
    """Return the column `label`, else the only ClassLabel, else the only column of integers."""
    import datasets

    if "label" in data.column_names:
        return "label"
    found = [name for name, feature in data.features.items() if isinstance(feature, datasets.ClassLabel)]
    if not found:
        numbers = [name for name, feature in data.features.items() if is_number(feature)]
        found = [name for name in numbers if "float" not in data.features[name].dtype]
    return _only(data, "label_column", "class labels", "label", found)


def _only(data: datasets.Dataset, field: str, kind: str, usual: str, found: list[str]) -> str:
    """Return the column of the usual name among those found, else the only one."""
    if usual in found:
        return usual
    if len(found) == 1:
        return found[0]
    if not found:
        raise InputError(field, None, f"no column holds {kind}; the data set has {_described(data)}")
    raise InputError(field, None, f"several columns hold {kind}: {', '.join(found)}; name one of them")


def _described(data: datasets.Dataset) -> str:
    kinds = {name: getattr(feature, "dtype", type(feature).__name__) for name, feature in data.features.items()}
    return ", ".join(f"{name} ({kind})" for name, kind in kinds.items())


def _test_split(spec: TaskSpec, train: datasets.Dataset) -> str:
    if train.info.splits is None:
        return TEST_SPLITS[0]
    there = [name for name in train.info.splits if name != spec.train_split]
    for name in TEST_SPLITS:
        if name in there:
            return name
    problem = (
        f"the data set has no split called {', '.join(TEST_SPLITS[:-1])} or {TEST_SPLITS[-1]}, but "
        f"{', '.join(train.info.splits)}; name one, or hold out a share of {spec.train_split} by `test_fraction`"
    )
    raise InputError("test_split", None, problem)


# ---- rows ----


def _all_rows(spec: TaskSpec, field: str, split: str) -> Rows:
    data = load_split(spec, field, split)
    return Rows(data, split, np.arange(len(data)))


def _without_missing(part: Rows, *columns: str) -> Rows:
    """Return the rows that have a value in each of these columns."""
    there = np.ones(len(part), dtype=bool)
    for name in columns:
        there &= part.column(name).is_valid().to_numpy()
    if not there.any():
        problem = f"leaves no row of split {part.split!r}: each lacks {' or '.join(columns)}"
        raise InputError("skip_missing", True, problem)
    return part.take(np.flatnonzero(there))


def _check_missing(part: Rows, field: str, column: str) -> None:
    missing = np.flatnonzero(part.column(column).is_null().to_numpy())
    if not len(missing):
        return
    kind = field.removesuffix("_column")
    problem = (
        f"row {part.numbers[missing[0]]} holds no {kind} (split {part.split!r}, {len(missing)} of {len(part)} rows"
    )
    raise InputError(field, column, f"{problem}; `skip_missing` leaves such rows out)")


def _held_out(part: Rows, label_column: str, fraction: float, seed: int) -> list[Rows]:
    """Return the rows to train on and the rows to test on, each class shared out by the fraction.

    A class of one row stays in training.
    """
    from sklearn.model_selection import train_test_split

    places, distinct = part.encoded(label_column)
    counts = np.bincount(places, minlength=len(distinct))
    shared = np.flatnonzero(counts[places] > 1)
    try:
        _, test = train_test_split(shared, test_size=fraction, random_state=seed, stratify=places[shared])
    except ValueError as error:  # too few rows for a test row of each class
        problem = f"{len(part)} rows of {np.count_nonzero(counts)} classes cannot be shared out so ({error})"
        raise InputError("test_fraction", fraction, problem) from error
    test = np.sort(test)
    return [part.take(np.setdiff1d(np.arange(len(part)), test)), part.take(test)]
