"""Reading splits from the Hub or a local folder, and their labels: what images and texts share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from ..errors import InputError
from .tasks import TaskSpec
from .tensors import spread

if TYPE_CHECKING:
    import datasets


def load_split(spec: TaskSpec, name: str, split: str, max_samples: int | None) -> datasets.Dataset:
    """One split of the task's data set, through the real `datasets` client (and its cache)."""
    import datasets
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    assert spec.dataset_name is not None
    if not spec.dataset_name.strip():
        raise InputError("dataset_name", spec.dataset_name, "allowed are a Hub id and a local folder")
    try:
        data = datasets.load_dataset(spec.dataset_name, spec.dataset_config, split=split)
    except datasets.exceptions.DatasetNotFoundError as error:
        raise InputError("dataset_name", spec.dataset_name, f"no such data set ({first_line(error)})") from error
    except (ConnectionError, HfHubHTTPError) as error:
        raise InputError("dataset_name", spec.dataset_name, UNREACHABLE.format(first_line(error))) from error
    except HFValidationError as error:
        problem = "neither a folder that is there nor the name of a data set on the Hub (user/name)"
        raise InputError("dataset_name", spec.dataset_name, problem) from error
    except ValueError as error:
        if "corresponds to no data" in str(error):
            raise InputError(name, split, EMPTY) from error
        # an unknown split or configuration (the message says which there are), or a name that cannot be one
        known = {"split": (name, split), "BuilderConfig": ("dataset_config", spec.dataset_config)}
        field, value = next(
            (entry for word, entry in known.items() if word in str(error)), ("dataset_name", spec.dataset_name)
        )
        raise InputError(field, value, first_line(error)) from error
    except Exception as error:  # files that are not what they seem: what reads them raises anything
        problem = f"cannot be read as a data set ({' '.join(str(error.__cause__ or error).split())[:300]})"
        raise InputError("dataset_name", spec.dataset_name, problem) from error
    if len(data) == 0:
        raise InputError(name, split, EMPTY)
    return data if max_samples is None else data.select(spread(len(data), max_samples))


MOST_CLASSES = 1_000_000  # what a model's configuration allows, too; its file travels and cannot share this one
EMPTY = "the split is empty; at least one sample is needed"
UNREACHABLE = (
    "the Hub cannot be reached and no cached copy was found ({}); use `task` digits, "
    "a local folder in Hub layout as `dataset_name`, or set HF_ENDPOINT"
)


def first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def check_column(data: datasets.Dataset, name: str, column: str) -> None:
    if column not in data.column_names:
        raise InputError(name, column, f"no such column; the data set has {', '.join(data.column_names)}")


def read_label_names(spec: TaskSpec, data: datasets.Dataset) -> list[str]:
    import datasets

    feature = data.features[spec.label_column]
    if isinstance(feature, datasets.ClassLabel):
        return list(feature.names)
    if isinstance(feature, datasets.Value) and feature.dtype in ("string", "large_string"):
        return sorted(label for label in data.unique(spec.label_column) if label is not None)
    if isinstance(feature, datasets.Value) and ("int" in feature.dtype or feature.dtype == "bool"):
        most = max((int(label) for label in data.unique(spec.label_column) if label is not None), default=-1)
        if most >= MOST_CLASSES:
            raise InputError(
                "label_column", spec.label_column, f"has label {most}, allowed are 0 to {MOST_CLASSES - 1}"
            )
        return [str(label) for label in range(most + 1)]
    raise InputError("label_column", spec.label_column, f"has type {feature}; allowed are ClassLabel, int, string")


def label_numbers(spec: TaskSpec, data: datasets.Dataset, names: list[str]) -> dict[str, int] | None:
    """Name -> number, where the labels are strings; None where they are numbers already."""
    import datasets

    feature = data.features[spec.label_column]
    by_name = isinstance(feature, datasets.Value) and "string" in feature.dtype
    return {name: number for number, name in enumerate(names)} if by_name else None


def as_numbers(labels: list[Any], numbers: dict[str, int] | None) -> list[int]:
    """Labels as integers; -1, which `check_labels` refuses, for one that is missing or unknown."""
    if numbers is not None:
        labels = [numbers.get(label, -1) for label in labels]
    return [-1 if label is None else int(label) for label in labels]


def check_labels(spec: TaskSpec, train: torch.Tensor, test: torch.Tensor, num_labels: int) -> None:
    for split, labels in ((spec.train_split, train), (spec.test_split, test)):
        wrong = (labels < 0) | (labels >= num_labels)
        if wrong.any():
            row = int(wrong.nonzero()[0])
            raise InputError(
                "label_column",
                spec.label_column,
                f"row {row} of split {split!r} has label {int(labels[row])}, allowed are 0 to {num_labels - 1}",
            )
    if len(train.unique()) < 2:
        raise InputError(
            "label_column", spec.label_column, "all training labels are the same class; at least two are needed"
        )
