"""A training set of any kind as one batch of tensors, for an RLCT."""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, default_data_collator, set_seed
from transformers.utils import find_labels

from ..data import TaskData
from ..errors import InputError
from ..models.task_models_self_modeling import data_arguments

_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
_LABELS = ("label", "label_ids", "labels")  # a collator of transformers turns each into labels


@dataclass(frozen=True)
class CollatedData:
    """Hold a complete training set as one batch.

    Attributes:
        inputs: name -> (N, ...), arguments of the network.
        labels: (N,), int64. Of a task model also (N, L), floating point, or (N, T), int64.
    """

    inputs: dict[str, Tensor]
    labels: Tensor


def is_data_of_rows(data: Any) -> bool:
    """Return whether these are rows with a length for a collator, such as a `datasets.Dataset` or a list.

    Example:
        >>> is_data_of_rows([{"label": 0}]), is_data_of_rows(torch.zeros(3))
        (True, False)
    """
    if isinstance(data, (Tensor, np.ndarray, Mapping, str, TaskData)):
        return False
    return hasattr(data, "__len__") and hasattr(data, "__getitem__")


def collate(
    data: Any,
    data_collator: Callable[[Any], Any] | None,
    model: PreTrainedModel,
    *,
    any_labels: bool = False,
) -> CollatedData:
    """Return all rows of a data set as one batch.

    Rows are read once, with separate random numbers, so random transforms here change no training. All rows are
    in memory at once. Like in transformers' Trainer, only columns with names of the network's arguments are kept. If
    the network's input is no column, then all columns go to the collator, and the collator must make the input.

    Args:
        data: `is_data_of_rows` is true for it.
        data_collator: makes a batch of a list of rows. None: transformers' `default_data_collator`.
        model: its arguments are kept.
        any_labels: allow labels of any shape and type. False: integers (N,) alone.

    Raises:
        InputError: no row, a batch without labels or without the network's input, or texts one after another.
    """
    if len(data) == 0:
        raise InputError("train_data", type(data).__name__, "has no row")
    collator = data_collator or default_data_collator
    taken = input_names(model)

    def collate_rows(rows: Any) -> Any:
        return collator(_without_other_columns(rows, taken))

    loader = DataLoader(data, batch_size=len(data), collate_fn=collate_rows)
    with _own_random_numbers():
        batch = next(iter(loader))
    labels = _labels_of(batch, any_labels)
    if "offsets" in batch:
        raise InputError("data_collator", "offsets", "must give padded texts with an attention_mask")
    inputs = {}
    for name in taken:
        value = batch.get(name)
        if isinstance(value, Tensor):
            _check_rows(name, value, len(data))
            inputs[name] = value
    if model.main_input_name not in inputs and "inputs_embeds" not in inputs:
        raise InputError("data_collator", sorted(batch), f"must give {model.main_input_name}, which the model takes")
    return CollatedData(inputs, labels)


def input_names(model: PreTrainedModel) -> list[str]:
    """Return the names of a network's inputs: all arguments of its forward except labels and switches.

    A class that hands all arguments on to the class above it has those of that class too.

    Example:
        >>> from transformers import BertConfig, BertForMaskedLM
        >>> model = BertForMaskedLM(BertConfig(hidden_size=4, num_hidden_layers=1, num_attention_heads=1))
        >>> input_names(model)[:4]
        ['input_ids', 'attention_mask', 'token_type_ids', 'position_ids']
    """
    names: list[str] = []
    labels = set(_LABELS)
    for one in type(model).__mro__:
        forward = vars(one).get("forward")
        if forward is None or model.main_input_name in names:
            continue
        arguments = list(inspect.signature(forward).parameters.values())[1:]  # without self
        labels.update(find_labels(one))
        names += [argument.name for argument in arguments if argument.kind in _NAMED]
    return [name for name in dict.fromkeys(data_arguments(names)) if name not in labels]


def _check_rows(name: str, value: Tensor, count: int) -> None:
    """Raise an InputError unless an input of the network has one entry for each row."""
    if value.dim() == 0 or len(value) != count:
        shape = tuple(value.shape)
        raise InputError(f"data_collator[{name!r}]", shape, f"must have one entry for each of {count} rows")


def _labels_of(batch: Any, any_labels: bool) -> Tensor:
    """Return the labels of a batch.

    Raises:
        InputError: none, or unless `any_labels` is true labels other than integers (N,).
    """
    labels = None
    if isinstance(batch, Mapping):
        labels = batch.get("labels")
    form = "labels" if any_labels else "integer labels (N,)"
    if isinstance(labels, Tensor):
        if not labels.is_floating_point() and (any_labels or labels.dim() == 1):
            return labels.long()
        if any_labels:
            return labels
    raise InputError("data_collator", type(batch).__name__, f"must give a dict with {form}")


def _without_other_columns(rows: Any, taken: list[str]) -> Any:
    """Return rows with the network's arguments and labels alone, if its input is among the columns."""
    if not isinstance(rows, list) or not isinstance(rows[0], Mapping):
        return rows
    if rows[0].keys().isdisjoint(taken):
        return rows
    kept = {*taken, *_LABELS}
    shortened = []
    for row in rows:
        own = {name: row[name] for name in row if name in kept}
        shortened.append(own)
    return shortened


@contextmanager
def _own_random_numbers() -> Iterator[None]:
    """Draw random numbers of a fixed seed, and leave all generators unchanged."""
    python = random.getstate()
    numpy = np.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            set_seed(0)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
