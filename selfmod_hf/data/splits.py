"""The training rows and test rows of a task: the columns, the splits, and the rows taken from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..errors import InputError
from ..extras import need
from .image_files import is_image_file
from .label_kinds import check_label_type, entry_type, has_classes, with_problem_type
from .labels import is_number, is_text
from .lazy_datasets import datasets
from .reading import check_column, load_split
from .rows import Rows
from .tasks import BLOCKS, CLASSES, IMAGES, SCORES, SEVERAL_CLASSES, WORDS, TaskSpec
from .tensors import spread

# usual names of the test split. The first one in a data set counts
TEST_SPLITS = ("test", "validation", "dev", "valid", "val", "eval")
# usual names of columns without a name. The first one in a data set counts
USUAL_WORDS = ("tokens", "words", "text")
USUAL_LABELS = ("label", "labels")


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
    columns = _contents(spec, texts)
    parts = [train]
    if spec.test_split is not None:
        test = _all_rows(spec, "test_split", spec.test_split)
        parts.append(test)
    for part in parts:
        for column in columns:
            check_column(part.data, field, column)
    label_column = spec.label_column
    if label_column is not None:
        spec = _labelled(spec, label_column, parts)
    if spec.skip_missing:
        needed = columns if label_column is None else [*columns, label_column]
        parts = [_without_missing(part, *needed) for part in parts]
    if spec.test_fraction is not None:
        [everything] = parts
        parts = _held_out(everything, _stratified_column(spec), spec.test_fraction, spec.split_seed)
    used = []
    limits = (max_train_samples, max_test_samples)
    for part, most in zip(parts, limits, strict=True):
        places = spread(len(part), most)
        rows = part.take(places)
        for column in columns:
            _check_missing(rows, field, column)
        used.append(rows)
    train, test = used
    return spec, train, test


def _contents(spec: TaskSpec, texts: bool) -> list[str]:
    """Return the columns of the samples."""
    if texts:
        return list(spec.text_columns)
    assert spec.image_column is not None
    return [spec.image_column]


def _labelled(spec: TaskSpec, column: str, parts: list[Rows]) -> TaskSpec:
    """Return the task with its problem type, after a check of the label columns of all splits."""
    for part in parts:
        check_column(part.data, "label_column", column)
    train = parts[0]
    spec = with_problem_type(spec, train.data.features[column])
    for part in parts:
        check_label_type(spec, part.data.features[column])
    return spec


def _stratified_column(spec: TaskSpec) -> str | None:
    """Return the column whose values are held out in equal shares. None: rows are chosen at random."""
    if spec.kind in (WORDS, BLOCKS) or spec.problem_type not in (None, CLASSES):
        return None
    return spec.label_column


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
    labels = spec.label_column or spec.kind == BLOCKS
    if spec.dataset_name is None or (content and test and labels):
        return spec
    if is_image_file(spec.dataset_name):
        return spec
    train = load_split(spec, "train_split", spec.train_split)
    texts = spec.kind != IMAGES
    if content is None and spec.task_type is None:
        images = _image_columns(train)
        texts = not images
        if texts and not _text_columns(train, spec.label_column):
            problem = f"no column holds images or texts; the data set has {_described(train)}"
            raise InputError("dataset_name", spec.dataset_name, problem)
    return _resolved(spec, train, texts)


# ---- columns and splits without a name ----


def _resolved(spec: TaskSpec, train: datasets.Dataset, texts: bool) -> TaskSpec:
    """Return the task with names for its unnamed columns and test split."""
    if texts and spec.text_column is None:
        spec = replace(spec, text_column=_text_column(spec, train))
    elif not texts and spec.image_column is None:
        found = _image_columns(train)
        spec = replace(spec, image_column=_only(train, "image_column", "images", found, ("image",)))
    if spec.label_column is None and spec.kind != BLOCKS:
        spec = replace(spec, label_column=_label_column(spec, train))
    if spec.test_split is None and spec.test_fraction is None:
        spec = replace(spec, test_split=_test_split(spec, train))
    return spec


def _text_column(spec: TaskSpec, data: datasets.Dataset) -> str:
    if spec.kind != WORDS:
        found = _text_columns(data, spec.label_column)
        return _only(data, "text_column", "strings", found, ("text",))
    found = _list_columns(data, is_text)
    if spec.label_column in found:
        found.remove(spec.label_column)
    return _only(data, "text_column", "lists of words", found, USUAL_WORDS)


def _image_columns(data: datasets.Dataset) -> list[str]:
    columns = []
    for name, feature in data.features.items():
        if isinstance(feature, datasets.Image):
            columns.append(name)
    return columns


def _text_columns(data: datasets.Dataset, label_column: str | None) -> list[str]:
    columns = []
    for name, feature in data.features.items():
        if is_text(feature):
            columns.append(name)
    label_column = label_column or "label"
    if label_column in columns:
        columns.remove(label_column)
    return columns


def _list_columns(data: datasets.Dataset, is_usable: Callable[[Any], bool]) -> list[str]:
    """Return the columns of lists with entries of a usable type."""
    columns = []
    for name, feature in data.features.items():
        if is_usable(entry_type(feature)):
            columns.append(name)
    return columns


def _names_classes(entry: Any) -> bool:
    """Return whether the values of a type name classes."""
    return has_classes(entry) and "float" not in entry.dtype


def _label_column(spec: TaskSpec, data: datasets.Dataset) -> str:
    """Return the column `label`, else the only one of a type for the labels of the task.

    For classes this is ClassLabel, else integers, else lists.
    """
    if "label" in data.column_names:
        return "label"
    class_labels = []
    integers = []
    fractions = []
    for name, feature in data.features.items():
        if isinstance(feature, datasets.ClassLabel):
            class_labels.append(name)
        elif is_number(feature) and "float" in feature.dtype:
            fractions.append(name)
        elif is_number(feature):
            integers.append(name)
    # lists of floats may be marks of classes, but vectors are more usual
    usable = has_classes if spec.problem_type == SEVERAL_CLASSES else _names_classes
    lists = [name for name in _list_columns(data, usable) if name not in spec.text_columns]
    if spec.kind == WORDS or spec.problem_type == SEVERAL_CLASSES:
        return _only(data, "label_column", "lists of labels", lists, USUAL_LABELS)
    if spec.problem_type == SCORES:
        return _only(data, "label_column", "scores", fractions or integers, USUAL_LABELS)
    return _only(data, "label_column", "class labels", class_labels or integers or lists, ("label",))


def _only(data: datasets.Dataset, field: str, kind: str, found: list[str], usual: Sequence[str]) -> str:
    """Return the first column of a usual name among those found, else the only one."""
    for name in usual:
        if name in found:
            return name
    if len(found) == 1:
        return found[0]
    problem = f"no column holds {kind}; the data set has {_described(data)}"
    if found:
        columns = ", ".join(found)
        problem = f"several columns hold {kind}: {columns}; name one of them"
    raise InputError(field, None, problem)


def _described(data: datasets.Dataset) -> str:
    columns = []
    for name, feature in data.features.items():
        kind = getattr(feature, "dtype", type(feature).__name__)
        columns.append(f"{name} ({kind})")
    return ", ".join(columns)


def _test_split(spec: TaskSpec, train: datasets.Dataset) -> str:
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


def _held_out(part: Rows, label_column: str | None, fraction: float, seed: int) -> list[Rows]:
    """Return training rows and test rows, with each class divided by the fraction.

    A class of one row stays in training. Without a column of classes the rows are divided at random.
    """
    need("a test split held out of the training split", "metrics", "sklearn")
    from sklearn.model_selection import train_test_split

    everything = np.arange(len(part))
    divisible = everything
    classes = None
    held = f"{len(part)} rows"
    if label_column is not None:
        places, distinct = part.encoded(label_column)
        counts = np.bincount(places, minlength=len(distinct))
        class_sizes = counts[places]  # of each row's class
        divisible = np.flatnonzero(class_sizes > 1)
        classes = places[divisible]
        held = f"{held} of {np.count_nonzero(counts)} classes"
    try:
        _, test = train_test_split(divisible, test_size=fraction, random_state=seed, stratify=classes)
    except ValueError as error:  # too few rows for a test row of each class
        problem = f"{held} cannot be shared out so ({error})"
        raise InputError("test_fraction", fraction, problem) from error
    train = np.setdiff1d(everything, test)  # sorted
    test = np.sort(test)
    return [part.take(train), part.take(test)]
