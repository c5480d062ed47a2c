"""Checks of the samples before the first step of a training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..data import BlockTensors, TensorData, TextTensors
from ..data.lazy_datasets import is_dataset
from ..data.tasks import CLASSES, SEVERAL_CLASSES, TEXTS
from ..errors import InputError
from ..models.positions_self_modeling import most_tokens
from ..models.targets_self_modeling import LOST_GRADIENT, loses_gradient
from .processes import smallest_share
from .recipe_network import check_labels, check_marks, check_one_class, check_task, check_tokens
from .wrapped_networks import is_wrapped

if TYPE_CHECKING:
    from .terms_trainer import TermsTrainer


def check_before_training(trainer: TermsTrainer) -> None:
    """Reject labels of no class, texts too long for the encoder, and batches too small for BatchNorm.

    Activations that cannot be recomputed are rejected too.

    Raises:
        InputError: names the unusable samples.
    """
    with torch.random.fork_rng(devices=[]):  # a data set may draw numbers for its samples
        check_checkpointing(trainer)
        check_classes(trainer)
        check_padding(trainer)
        check_texts(trainer)
        check_smallest_batch(trainer)


# ---- targets ----


def check_targets(trainer: TermsTrainer) -> None:
    """Reject a `target_source` that gives no targets of the self-model's size."""
    model: Any = trainer.model
    sources = getattr(model, "target_sources", (model.config.target_source,))
    if "shuffled" in sources and trainer._train_batch_size == 1:
        problem = "allowed with at least 2 samples in a batch; per_device_train_batch_size is 1"
        raise InputError("target_source", "shuffled", problem)
    outside = trainer.outside_targets()
    if outside is not None and isinstance(trainer.train_dataset, TensorData):
        outside.check(trainer.train_dataset.batch([0, 0]))


# ---- recomputed activations ----


def check_checkpointing(trainer: TermsTrainer) -> None:
    """Reject activations that cannot be recomputed in the backward pass, or would lose a gradient.

    transformers' default is a form that gives the gradients of a training without recomputing.

    Raises:
        InputError: names the argument.
    """
    args = trainer.args
    plugin = getattr(trainer.accelerator.state, "fsdp_plugin", None)
    if plugin is not None and plugin.activation_checkpointing:
        problem = "allowed without activation_checkpointing, which was not tested; take `gradient_checkpointing`"
        raise InputError("fsdp_config", "activation_checkpointing", problem)
    if not args.gradient_checkpointing:
        return
    model: Any = trainer.model
    can_recompute = any(hasattr(module, "gradient_checkpointing") for module in model.modules())
    if not can_recompute:
        problem = "allowed with a transformers backbone whose layers can be recomputed"
        raise InputError("gradient_checkpointing", True, problem)
    given = args.gradient_checkpointing_kwargs or {}
    if loses_gradient(model.config, given):
        raise InputError("gradient_checkpointing_kwargs", given, LOST_GRADIENT)
    if given.get("use_reentrant") and _has_frozen_inputs(model):
        problem = "use_reentrant loses gradients behind frozen embeddings; allowed is {'use_reentrant': False}"
        raise InputError("gradient_checkpointing_kwargs", given, problem)


def _has_frozen_inputs(model: Any) -> bool:
    """Return whether no gradient reaches the inputs of the first layer: an adapter's base, or frozen embeddings."""
    if getattr(model.config, "adapter", False):
        return True
    try:
        embeddings = model.backbone.get_input_embeddings()
    except NotImplementedError:  # of some models of images
        return False
    return not any(parameter.requires_grad for parameter in embeddings.parameters())


# ---- labels ----


def check_classes(trainer: TermsTrainer) -> None:
    """Reject labels in memory outside of the network's classes. torch would reject them without their names."""
    model: Any = trainer.model
    for name in ("train_dataset", "eval_dataset"):
        data = getattr(trainer, name)
        if not isinstance(data, TensorData):
            continue
        if is_wrapped(model):
            check_task(model, data)
        else:
            check_one_class(data)
        count = model.config.num_labels
        if data.problem_type == CLASSES:
            check_labels(f"{name}.labels", data.labels, count)
        elif data.problem_type == SEVERAL_CLASSES:
            check_marks(f"{name}.labels", data.labels)
        elif isinstance(data, TextTensors) and data.token_labels is not None:
            check_labels(f"{name}.token_labels", data.token_labels, count)


# ---- texts ----


def check_padding(trainer: TermsTrainer) -> None:
    """Reject a task model of texts with another padding token than the data's.

    A decoder finds the last token of a text by it. With another one it would read padding, and every figure would
    depend on the other texts of a batch.
    """
    model: Any = trainer.model
    if not is_wrapped(model) or model.kind.name != TEXTS:
        return
    own = getattr(model.config.wrapped_config, "pad_token_id", None)
    for data in _data_sets(trainer):
        tokenizer = data.tokenizer if isinstance(data, TextTensors) else trainer.processing_class
        given = getattr(tokenizer, "pad_token_id", None)
        if own is not None and given not in (None, own):
            problem = f"that of the task model; the tokenizer of the data pads with {given}; allowed are equal ones"
            raise InputError("pad_token_id", own, problem)


def check_texts(trainer: TermsTrainer) -> None:
    """Reject texts with more tokens than the encoder has positions.

    Texts of `datasets.Dataset` are measured after the collator, because it may cut them.
    """
    model: Any = getattr(trainer.model, "stacked", trainer.model)  # a population's members are alike
    most = most_tokens(model.backbone)
    if most is None:
        return
    for data in _data_sets(trainer):
        if isinstance(data, (TextTensors, BlockTensors)):
            check_tokens(model, data.longest)
        elif _holds_texts(data):
            batch = _collated(trainer, data, _longest(data))
            if "input_ids" not in batch:
                continue
            count = batch["input_ids"].shape[1]
            if count > most:
                raise InputError("input_ids", f"{count} tokens", f"allowed are at most {most} in a text")


def _data_sets(trainer: TermsTrainer) -> list[Any]:
    """Return the training set and all evaluation sets."""
    evaluated = trainer.eval_dataset
    if isinstance(evaluated, dict):
        return [trainer.train_dataset, *evaluated.values()]
    return [trainer.train_dataset, evaluated]


def _holds_texts(data: Any) -> bool:
    """Return whether these are samples in memory, or a `datasets.Dataset`, with tokens."""
    if is_dataset(data):
        return "input_ids" in data.column_names
    if not isinstance(data, list):
        return False
    for row in data:
        if not isinstance(row, dict) or "input_ids" not in row:
            return False
    return len(data) > 0


def _longest(data: Any) -> int:
    """Return the row of the longest text."""
    lengths: list[int] = []
    if isinstance(data, list):
        for row in data:
            lengths.append(len(row["input_ids"]))
    else:
        tokens = data.select_columns(["input_ids"]).with_format("arrow")
        for table in tokens.iter(batch_size=10_000):
            column = table["input_ids"].combine_chunks()
            lengths += column.value_lengths().fill_null(0).to_pylist()
    return lengths.index(max(lengths))


def _collated(trainer: TermsTrainer, data: Any, row: int) -> dict[str, Any]:
    """Return a batch of one sample, in the form for the network."""
    if isinstance(data, TensorData):
        return data.take(torch.tensor([row]))
    collate = trainer.data_collator
    if is_dataset(data):
        data = trainer._remove_unused_columns(data, description="training")
    else:
        collate = trainer._get_collator_with_removed_columns(collate, description="training")
    return collate([data[row]])


# ---- batches ----


def check_smallest_batch(trainer: TermsTrainer) -> None:
    """Reject a batch of one sample if BatchNorm would get a single value per channel, because it has no deviation."""
    data = trainer.train_dataset
    args = trainer.args
    normalizing = [module for module in trainer.model.modules() if isinstance(module, _BatchNorm)]
    if not normalizing or not hasattr(data, "__len__"):
        return
    processes = args.world_size
    if hasattr(trainer, "shares"):  # a population's processes split its members
        processes = 1
    size = trainer._train_batch_size
    if smallest_share(len(data), size, processes, args.dataloader_drop_last) > 1:
        return
    batch = trainer._prepare_inputs(_collated(trainer, data, 0))
    layer = _layer_of_single_values(trainer.model, batch)
    if layer is None:
        return
    name = layer.removeprefix("stacked.")  # of a population
    problem = f"of {len(data)} samples a batch gets one alone, on which BatchNorm ({name}) cannot be trained; "
    if size == 1:
        problem += "allowed are batches of two samples or more"
    else:
        problem += "allowed are other batch sizes, or `dataloader_drop_last`"
    raise InputError("per_device_train_batch_size", size, problem)


def _layer_of_single_values(model: nn.Module, batch: dict[str, Any]) -> str | None:
    """Return the first BatchNorm with only one value per channel from this batch.

    The network runs in eval mode, so it updates no statistics and draws no numbers. Without labels it needs no targets
    from outside.
    """
    inputs = {field: value for field, value in batch.items() if field != "labels"}
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
            model(**inputs)
    finally:
        model.train(was_training)
        for handle in handles:
            handle.remove()
    if not found:
        return None
    return found[0]
