"""The order of classes: data with the numbers that a model gives to its classes, matched by their names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from .tasks import SCORES
from .tensors import TaskData, TensorData

Samples = TypeVar("Samples", bound=TensorData)


def has_own_names(names: Sequence[str]) -> bool:
    """Return whether these are names of classes, not only their numbers or transformers' default names.

    Example:
        >>> has_own_names(["cat", "dog"]), has_own_names(["0", "1"]), has_own_names(["LABEL_0", "LABEL_1"])
        (True, False, False)
    """
    return not all(name.casefold().removeprefix("label_").isdecimal() for name in names)


def class_numbers(names: Sequence[str], known: Mapping[int, str]) -> list[int | None]:
    """Return a model's number of each class, by the names without regard to case. None: the model has no such class.

    Args:
        names: of the classes.
        known: the model's names by their numbers.

    Example:
        >>> class_numbers(["Cat", "bird"], {0: "dog", 1: "cat"})
        [1, None]
    """
    numbers = {str(name).casefold(): int(number) for number, name in known.items()}
    return [numbers.get(name.casefold()) for name in names]


def renumbered(samples: Samples, numbers: Sequence[int], count: int) -> Samples:
    """Return samples with other numbers of their classes. A sample or token without a label stays without one.

    Args:
        samples: with classes.
        numbers: the new number of each class.
        count: of classes, for several classes a sample.
    """
    changed: dict[str, Any] = {}
    order = torch.tensor(numbers)
    tokens = getattr(samples, "token_labels", None)
    if tokens is not None:
        changed["token_labels"] = _with_numbers(tokens, order)
    elif samples.labels.dim() == 1:
        changed["labels"] = _with_numbers(samples.labels, order)
    else:
        columns = samples.labels.new_zeros(len(samples), count)  # (N, L)
        columns[:, order] = samples.labels
        changed["labels"] = columns
    return replace(samples, **changed)  # type: ignore[type-var]


def _with_numbers(labels: Tensor, order: Tensor) -> Tensor:
    """Return labels with other numbers. A missing one, below 0, stays."""
    counted = labels >= 0
    found = labels.clone()
    found[counted] = order.to(labels.device)[labels[counted]]
    return found


def in_order_of(data: TaskData[Any], known: Mapping[int, str]) -> TaskData[Any] | None:
    """Return data with their classes in a model's order. None: the model has other classes, or the data have none.

    Args:
        data: of a task.
        known: the model's names by their numbers.
    """
    names = data.label_names
    if data.train.problem_type == SCORES or not names:
        return None
    numbers = [number for number in class_numbers(names, known) if number is not None]
    if sorted(numbers) != list(range(len(names))) or len(known) != len(names):
        return None
    own_names = [name for _, name in sorted(zip(numbers, names, strict=True))]
    train, test = (renumbered(samples, numbers, len(names)) for samples in (data.train, data.test))
    return replace(data, train=train, test=test, label_names=own_names)
