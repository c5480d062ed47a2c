"""What is checked before the first step of a training: samples that the network could not train on."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import datasets
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..data import TensorData, TextTensors
from ..errors import InputError
from ..models.positions_self_modeling import most_tokens
from .recipe_network import check_labels, check_length
from .shares import smallest_share

if TYPE_CHECKING:
    from .tracking import TrackingTrainer


def check_before_training(trainer: TrackingTrainer) -> None:
    """Reject labels of no class, texts too long for the encoder, and batches too small for BatchNorm.

    Raises:
        InputError: what the network could not train on.
    """
    with torch.random.fork_rng(devices=[]):  # a data set may draw numbers for its samples
        check_classes(trainer)
        check_texts(trainer)
        check_smallest_batch(trainer)


# ---- labels ----


def check_classes(trainer: TrackingTrainer) -> None:
    """Reject labels in memory that belong to no class of the network, which torch would reject without their names."""
    model: Any = trainer.model
    if isinstance(trainer.train_dataset, TensorData):
        check_labels("train_dataset.labels", trainer.train_dataset.labels, model.config.num_labels)
    if isinstance(trainer.eval_dataset, TensorData):
        check_labels("eval_dataset.labels", trainer.eval_dataset.labels, model.config.num_labels)


# ---- lengths ----


def check_texts(trainer: TrackingTrainer) -> None:
    """Reject texts with more tokens than the encoder has positions.

    Texts of `datasets.Dataset` are looked at as the collator gives them, since it may cut them.
    """
    model: Any = getattr(trainer.model, "stacked", trainer.model)  # a population's members are alike
    most = most_tokens(model.backbone)
    if most is None:
        return
    for data in _data_sets(trainer):
        if isinstance(data, TextTensors):
            check_length(model, data)
        elif _holds_texts(data):
            given = _collated(trainer, data, _longest(data)).get("input_ids")
            if given is not None and given.shape[1] > most:
                raise InputError("input_ids", f"{given.shape[1]} tokens", f"allowed are at most {most} in a text")


def _data_sets(trainer: TrackingTrainer) -> Iterable[Any]:
    evaluated = trainer.eval_dataset
    if isinstance(evaluated, dict):
        return [trainer.train_dataset, *evaluated.values()]
    return [trainer.train_dataset, evaluated]


def _holds_texts(data: Any) -> bool:
    if isinstance(data, list):  # of samples in memory
        return len(data) > 0 and all(isinstance(row, dict) and "input_ids" in row for row in data)
    return isinstance(data, datasets.Dataset) and "input_ids" in data.column_names


def _longest(data: Any) -> int:
    """Return the row of the longest text."""
    if isinstance(data, list):
        return max(range(len(data)), key=lambda row: len(data[row]["input_ids"]))
    lengths: list[int] = []
    for table in data.select_columns(["input_ids"]).with_format("arrow").iter(batch_size=10_000):
        lengths += table["input_ids"].combine_chunks().value_lengths().to_pylist()
    return max(range(len(lengths)), key=lambda row: lengths[row] or 0)


def _collated(trainer: TrackingTrainer, data: Any, row: int) -> dict[str, Any]:
    """Return a batch of one sample, as the network would get it."""
    if isinstance(data, TensorData):
        return data.take(torch.tensor([row]))
    collate = trainer.data_collator
    if isinstance(data, datasets.Dataset):
        data = trainer._remove_unused_columns(data, description="training")
    else:
        collate = trainer._get_collator_with_removed_columns(collate, description="training")
    return collate([data[row]])


# ---- batches ----


def check_smallest_batch(trainer: TrackingTrainer) -> None:
    """Reject a batch of one sample where BatchNorm would see a single value per channel: it has no deviation."""
    data, args = trainer.train_dataset, trainer.args
    if not hasattr(data, "__len__") or not any(isinstance(m, _BatchNorm) for m in trainer.model.modules()):
        return
    processes = 1 if hasattr(trainer, "shares") else args.world_size  # a population's processes split its members
    size = trainer._train_batch_size
    if smallest_share(len(data), size, processes, args.dataloader_drop_last) > 1:
        return
    layer = _layer_of_single_values(trainer.model, trainer._prepare_inputs(_collated(trainer, data, 0)))
    if layer is None:
        return
    where = layer.removeprefix("stacked.")  # of a population
    problem = f"of {len(data)} samples a batch gets one alone, on which BatchNorm ({where}) cannot be trained; "
    if size == 1:
        problem += "allowed are batches of two samples or more"
    else:
        problem += "allowed are other batch sizes, or `dataloader_drop_last`"
    raise InputError("per_device_train_batch_size", size, problem)


def _layer_of_single_values(model: nn.Module, batch: dict[str, Any]) -> str | None:
    """Return the first BatchNorm that this batch would give one value per channel.

    Runs the network in eval mode, in which no statistics are taken and no numbers are drawn.
    """
    found: list[str] = []
    handles = []
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm):

            def look(module: nn.Module, args: tuple[torch.Tensor, ...], name: str = name) -> None:
                if args[0].numel() == args[0].shape[1]:
                    found.append(name)

            handles.append(module.register_forward_pre_hook(look))
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            model(**batch)
    finally:
        model.train(was_training)
        for handle in handles:
            handle.remove()
    return found[0] if found else None
