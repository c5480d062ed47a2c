"""Measures of the user's own: Python functions of a network and its data."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from numbers import Real
from typing import Any

from ..errors import InputError
from ..models import SelfModelingPreTrainedModel

OwnMeasure = Callable[[Any, Any], Mapping[str, float | None]]  # (network, TaskData) -> value by column


def own_measures(
    functions: Sequence[OwnMeasure],
    model: SelfModelingPreTrainedModel,
    data: Any,
    taken: Collection[str],
) -> dict[str, float | None]:
    """Return the measures of functions, called with the network in evaluation mode and its data.

    An error of a function is not caught, so it keeps its traceback.

    Args:
        functions: of the user.
        model: the network.
        data: a `TaskData`.
        taken: names of other columns.

    Raises:
        InputError: a result of another form than a dict of new names and of numbers or None.

    Example:
        >>> import torch
        >>> own_measures([lambda model, data: {"seven": 7}], torch.nn.Linear(1, 1), None, taken=[])
        {'seven': 7.0}
    """
    found: dict[str, float | None] = {}
    was_training = model.training
    for function in functions:
        model.eval()
        try:
            result = function(model, data)
        finally:
            model.train(was_training)
        name = getattr(function, "__name__", repr(function))
        if not isinstance(result, Mapping):
            kind = type(result).__name__
            raise InputError("measures", name, f"returns {kind}; allowed is a dict of numbers by the names of columns")
        for column, value in result.items():
            _check_column(name, column, {*taken, *found})
            found[column] = _number(name, column, value)
    return found


def _check_column(function: str, column: Any, taken: Collection[str]) -> None:
    if not isinstance(column, str) or not column.isidentifier():
        problem = f"names a column {column!r}; allowed are letters, digits and underscores"
        raise InputError("measures", function, problem)
    if column in taken:
        raise InputError("measures", function, f"names a column {column!r}, which exists; allowed are new names")


def _number(function: str, column: str, value: Any) -> float | None:
    """Return a value as a number. None: it is None, NaN or infinite."""
    if value is None:
        return None
    if not isinstance(value, Real):
        kind = type(value).__name__
        raise InputError("measures", function, f"returns {kind} for {column!r}; allowed are numbers and None")
    number = float(value)
    if not math.isfinite(number):
        return None
    return number
