"""Task models of transformers on data, for an RLCT: any `PreTrainedModel` of a known task, with its own head."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map
from transformers import PreTrainedModel

from ..complexity.sample_losses import IGNORED_LABEL
from ..data import ImageTensors, TensorData, TextTensors
from ..data.tasks import CLASSES, SEVERAL_CLASSES, TEXTS
from ..errors import InputError
from ..hub.plain_model import kind_of_model
from ..models.counted_self_modeling import counted_labels
from ..models.positions_self_modeling import most_tokens
from ..models.tasks_self_modeling import TaskKind
from ..stacking import Batch, part_of
from .attention import folded_attention, set_attention
from .collated import collate, input_names
from .on_data import OnInputs, OnPixels
from .recipe_network import check_marks
from .task_losses import NetworksOnData, TaskLoss, problem_type, task_loss

_TRIED = 4  # samples, spread over the data, for the comparison with the model's own loss
_TOLERANCE = 1e-4  # relative, of a model in full precision
_TOLERANCE_OF_HALF = 2e-2


def is_task_model(model: Any) -> bool:
    """Return whether this is a task model of transformers whose RLCT can be estimated.

    Example:
        >>> from transformers import BertConfig, BertForTokenClassification, BertModel
        >>> config = BertConfig(hidden_size=4, num_hidden_layers=1, num_attention_heads=1, vocab_size=9)
        >>> is_task_model(BertForTokenClassification(config)), is_task_model(BertModel(config))
        (True, False)
    """
    return isinstance(model, PreTrainedModel) and kind_of_model(model) is not None


def task_models_on_data(
    models: Sequence[PreTrainedModel], data: Any, collator: Callable[[Any], Any] | None
) -> NetworksOnData:
    """Return task models of one architecture with their inputs, targets and loss, of the samples with a label.

    Args:
        models: are not changed.
        data: `ImageTensors`, padded `TextTensors` and other data of this package, or rows with a length.
        collator: makes a batch of rows.

    Raises:
        InputError: data of another kind or size than the models', or a loss that is not the task's usual one.
    """
    model = models[0]
    kind = kind_of_model(model)
    assert kind is not None
    inputs, labels = _inputs_and_labels(model, data, collator)
    _check_form(kind, model.config, labels)
    rows = _labelled(kind, model.config, labels).nonzero().flatten()
    if not len(rows):
        raise InputError("train_data.labels", IGNORED_LABEL, "no sample has a label")
    if len(rows) < len(labels):
        labels = labels[rows]
        inputs = part_of(inputs, rows)
    _check_range(kind, model.config, labels)
    loss, targets = task_loss(kind, model.config, labels)
    networks = [_prepared(one, kind) for one in models]
    if kind.name == TEXTS and isinstance(inputs, dict):
        _check_padding(networks[0].config, inputs)
    modules: list[OnInputs | OnPixels]
    if isinstance(data, ImageTensors):
        modules = [OnPixels(network, data) for network in networks]
    else:
        modules = [OnInputs(network) for network in networks]
    few = torch.linspace(0, len(labels) - 1, min(_TRIED, len(labels))).long()  # of a sorted data set, too
    for module in modules:
        _check_loss(module, part_of(inputs, few), targets[few], loss)
    return NetworksOnData(modules, inputs, targets, loss)


# ---- the data ----


def _inputs_and_labels(
    model: PreTrainedModel, data: Any, collator: Callable[[Any], Any] | None
) -> tuple[Batch, Tensor]:
    """Return the inputs, as `OnPixels` or `OnInputs` take them, and the labels."""
    if isinstance(data, ImageTensors):
        _check_images(model, data)
        return data.pixels, data.labels
    if isinstance(data, TensorData):
        if isinstance(data, TextTensors) and not data.padded:
            raise InputError("train_data.padded", False, "task models take padded texts, not bags")
        batch = data.take(torch.arange(len(data)))
        labels = batch["labels"]
        found = {name: batch[name] for name in input_names(model) if name in batch}
    else:
        collated = collate(data, collator, model, any_labels=True)
        labels = collated.labels
        found = collated.inputs
    main = model.main_input_name
    if main not in found and "inputs_embeds" not in found:
        raise InputError("train_data", sorted(found), f"the model takes {main}")
    _check_positions(model, found)
    if "input_ids" in found and "attention_mask" not in found:
        # without one, models look for padding in the tokens, which cannot be done for all chains at once
        found["attention_mask"] = torch.ones_like(found["input_ids"])
    return found, labels


def _check_images(model: PreTrainedModel, data: ImageTensors) -> None:
    """Raise an InputError unless the model takes these images."""
    if model.main_input_name != "pixel_values":
        raise InputError("train_data", "pixel_values", f"the model takes {model.main_input_name}")
    channels = getattr(model.config, "num_channels", None)
    found = data.pixels.shape[1]
    if channels is not None and channels != found:
        raise InputError("train_data", list(data.pixels.shape[1:]), f"the model takes images of {channels} channels")


def _check_positions(model: PreTrainedModel, inputs: dict[str, Tensor]) -> None:
    """Raise an InputError for texts longer than the model's table of positions."""
    most = most_tokens(model.base_model)
    if "input_ids" not in inputs or most is None:
        return
    longest = inputs["input_ids"].shape[1]
    if longest > most:
        raise InputError("max_length", None, f"the longest text has {longest} tokens; allowed are at most {most}")


def _labelled(kind: TaskKind, config: Any, labels: Tensor) -> Tensor:
    """Return whether a sample has a label, (n,)."""
    counted = counted_labels(kind, {"labels": labels}, 0, problem_type(config, labels))
    return counted.reshape(len(labels), -1).any(1)


def _check_form(kind: TaskKind, config: Any, labels: Tensor) -> None:
    """Raise an InputError unless labels of tokens are integers (n, T), and those of one class integers (n,)."""
    shape, dimensions = "(samples,)", 1
    if kind.labels_are != "samples":
        shape, dimensions = "(samples, tokens)", 2
    elif problem_type(config, labels) != "single_label_classification":
        return
    if labels.dim() != dimensions or labels.is_floating_point():
        found = f"{labels.dtype} {tuple(labels.shape)}"
        raise InputError("train_data.labels", found, f"allowed are integers of shape {shape}")


def _check_range(kind: TaskKind, config: Any, labels: Tensor) -> None:
    """Raise an InputError for labels out of the model's classes or words."""
    if kind.labels_are == "samples":
        problem = problem_type(config, labels)
        if problem == SEVERAL_CLASSES:
            check_marks("train_data.labels", labels)
        if problem != CLASSES:
            return
    count = config.num_labels
    if kind.name in ("causal-lm", "masked-lm"):
        count = config.get_text_config().vocab_size
    counted = labels[labels != IGNORED_LABEL]
    for label in (int(counted.min()), int(counted.max())):
        if not 0 <= label < count:
            raise InputError("train_data.labels", label, f"the model has {count} classes")


# ---- the models ----


def _prepared(model: PreTrainedModel, kind: TaskKind) -> PreTrainedModel:
    """Return a copy of a task model in eval mode, with attention for several chains at once."""
    network = copy.deepcopy(model).eval()
    config = network.config
    if kind.name == TEXTS:
        _set_padding(config)
    config.return_dict = True
    config.output_hidden_states = False
    config.output_attentions = False
    config.use_cache = False
    set_attention(network, folded_attention())
    return network


def _set_padding(config: Any) -> None:
    """Let a classifier without a token for padding take the token of the end, as texts are padded for it.

    A classifier on a decoder looks for its last token. It takes no batch if it does not know which ones are padding.
    """
    end = getattr(config, "eos_token_id", None)
    if getattr(config, "pad_token_id", 0) is None and end is not None:
        config.pad_token_id = end[0] if isinstance(end, (list, tuple)) else end


def _check_padding(config: Any, inputs: dict[str, Tensor]) -> None:
    """Raise an InputError if texts are padded with another token than the model's.

    A decoder finds the last token of a text by it. With another one it would read padding, and the RLCT would depend on
    the longest text.
    """
    own = getattr(config, "pad_token_id", None)
    mask = inputs.get("attention_mask")
    if own is None or mask is None or "input_ids" not in inputs:
        return
    padding = inputs["input_ids"][mask == 0]
    wrong = padding[padding != own]
    if len(wrong):
        problem = f"that of the task model; the data are padded with {int(wrong[0])}; allowed are equal ones"
        raise InputError("pad_token_id", own, problem)


def _check_loss(module: OnInputs | OnPixels, inputs: Any, targets: Tensor, loss: TaskLoss) -> None:
    """Raise an InputError unless the model's own loss of these samples is the task's usual one.

    A model that cannot have the folded attention gets the eager one.
    """
    name = type(module.network).__name__
    try:
        theirs, ours = _both_losses(module, inputs, targets, loss)
    except ValueError:
        set_attention(module.network, "eager")
        try:
            theirs, ours = _both_losses(module, inputs, targets, loss)
        except ValueError as error:  # not by the attention
            problem = " ".join(str(error).split())
            raise InputError("model", name, f"cannot compute the loss of these samples ({problem})") from error
    tolerance = _TOLERANCE
    if next(module.network.parameters()).itemsize < 4:
        tolerance = _TOLERANCE_OF_HALF
    if math.isfinite(theirs) and not math.isclose(theirs, ours, rel_tol=tolerance, abs_tol=_TOLERANCE):
        problem = f"has a loss of its own, {theirs:.6g}, where {loss.name} is {ours:.6g}"
        raise InputError("model", name, f"{problem}; for others there is estimate_llc")


def _both_losses(module: OnInputs | OnPixels, inputs: Any, targets: Tensor, loss: TaskLoss) -> tuple[float, float]:
    """Return the loss of some samples as the model computes it in training, and as `loss` gives it."""
    network = module.network
    weight = next(network.parameters())
    inputs = tree_map(lambda value: value.to(weight.device), inputs)
    targets = targets.to(weight.device)
    labels = targets
    if targets.is_floating_point():
        labels = targets.to(weight.dtype)
    with torch.no_grad():
        output = network(**module.arguments(inputs), labels=labels)
        losses = loss.function(output, targets)
    return float(output.loss), loss.of_training(losses, targets)
