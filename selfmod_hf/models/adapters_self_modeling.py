"""Adapters of peft inside of a network over a task model.

The task model is peft's wrapper then. The files of the network are its configuration, the head of the self-model, and
the adapter in a folder of its own. The adapter is that of the plain task model: plain peft loads it.

A copy of this file travels with every pushed model (``trust_remote_code``), so it imports nothing of the package but
the files beside it, by flat relative imports.
"""

import copy
import importlib
import os
from typing import Any

import transformers
from safetensors.torch import load_file
from torch import nn
from transformers.pytorch_utils import Conv1D
from transformers.utils import cached_file

from .losses_self_modeling import Tensors
from .task_models_self_modeling import copy_of, pretrained_task_model
from .tasks_self_modeling import TaskKind

# the folder of the adapter. Beside our config.json transformers would read its files as a model of another type
FOLDER = "adapter"
HEAD = "self_model_head."
WEIGHTS = "model.safetensors"
_FILES = ("adapter_config.json", "adapter_model.safetensors")
# arguments of `from_pretrained` for the place of a network
_PLACE = ("revision", "subfolder", "token", "cache_dir", "local_files_only")


def peft() -> Any:
    """Return the package peft.

    Raises:
        ImportError: it is not installed.
    """
    try:
        # by name, because transformers would ask every user to install the imports of this file
        return importlib.import_module("peft")
    except ImportError as error:
        raise ImportError("adapters need the package peft: pip install peft") from error


def has_adapter(task_model: Any) -> bool:
    """Return whether a task model is wrapped by peft."""
    return not isinstance(task_model, transformers.PreTrainedModel)


def place_in(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return those arguments of `from_pretrained` that say where a network is."""
    return {name: arguments[name] for name in _PLACE if name in arguments}


def is_adapted(config_class: Any, name: Any, arguments: dict[str, Any]) -> bool:
    """Return whether a network's folder or repository holds an adapter.

    Args:
        config_class: class of the network's configuration.
        name: the folder or repository. None: the weights are in memory.
        arguments: of `from_pretrained`.
    """
    config = arguments.get("config")
    if isinstance(config, config_class):
        return bool(config.adapter)
    if name is None:
        return False
    fields, _ = config_class.get_config_dict(name, **place_in(arguments))
    return bool(fields.get("adapter"))


def add_adapter(task_model: Any, settings: Any, drawn: list[str], revision: str) -> Any:
    """Return peft's wrapper of a task model. Drawn parts of the head are trained and saved with the adapter.

    Args:
        task_model: a task model of transformers.
        settings: peft's configuration, for example a `LoraConfig`.
        drawn: names of the weights that no file holds.
        revision: branch, tag or commit of the task model's repository.

    Raises:
        ValueError: target modules that the task model does not have, or that take no adapter.
    """
    package = peft()
    settings = copy.deepcopy(settings)
    _check_targets(task_model, settings)
    if revision != "main":
        settings.revision = revision
    base = f"{task_model.base_model_prefix}."
    parts = {name.removeprefix(base).split(".")[0] for name in drawn}
    if parts:
        settings.modules_to_save = sorted(parts.union(settings.modules_to_save or []))
    try:
        return package.get_peft_model(task_model, settings)
    except ValueError as error:
        text = " ".join(str(error).split())
        if "target" not in text.lower():
            raise
        raise _no_target(task_model, settings.target_modules, text[:200]) from error


def _check_targets(task_model: Any, settings: Any) -> None:
    """Raise a ValueError for the first target module that is no module of the task model. peft ignores it."""
    targets = getattr(settings, "target_modules", None)
    if targets is None or isinstance(targets, str):  # a str is a regular expression, or "all-linear"
        return
    names = [name for name, _ in task_model.named_modules()]
    for target in sorted(targets):
        if not any(f".{name}".endswith(f".{target}") for name in names):
            raise _no_target(task_model, settings.target_modules, f"no module is named {target!r}")


def _no_target(task_model: Any, target: Any, problem: str) -> ValueError:
    """Return an error about target modules. It names the linear layers of the task model."""
    linear = {
        name.rpartition(".")[2]
        for name, module in task_model.named_modules()
        if isinstance(module, (nn.Linear, Conv1D))
    }
    if isinstance(target, set):
        target = sorted(target)
    allowed = ", ".join(sorted(linear))
    return ValueError(f"target_modules={target!r}: {problem}; linear layers of this model are {allowed}")


def check_adapter(task_model: Any) -> None:
    """Raise a ValueError for an adapter that cannot be saved beside the head of a self-model."""
    names = list(task_model.peft_config)
    if len(names) > 1:
        raise ValueError(f"task_model: has the adapters {', '.join(names)}; allowed is one")
    settings = task_model.peft_config[names[0]]
    if settings.is_prompt_learning:
        raise ValueError(
            f"task_model: {settings.peft_type.value} adds tokens to each text; allowed are adapters of layers (LoRA)"
        )
    if not settings.base_model_name_or_path:
        raise ValueError(
            "task_model: the adapter's base was not loaded from a folder or the Hub, so that it could not be loaded "
            "again; allowed are pretrained models"
        )


def without_adapter(task_model: Any, adapter: str | None) -> Any:
    """Return a copy of a task model for `prune`, without the hooks of target layers.

    Args:
        task_model: the task model of a network.
        adapter: "merge" adds the adapter to the weights. "keep" returns peft's wrapper. None means "merge".

    Raises:
        ValueError: another value, or a value for a task model without an adapter.
    """
    copied = copy_of(task_model)
    if not has_adapter(task_model):
        if adapter is not None:
            raise ValueError(f"adapter={adapter!r}: the network has none; leave it out")
        return copied
    if adapter in (None, "merge"):
        return copied.merge_and_unload()
    if adapter != "keep":
        raise ValueError(f"adapter={adapter!r}: allowed are merge, keep")
    return copied


def head_of(weights: Tensors) -> Tensors:
    """Return the weights of the self-model's head among a network's weights."""
    return {name: value for name, value in weights.items() if name.startswith(HEAD)}


def save_adapter(task_model: Any, folder: Any, weights: Tensors | None) -> None:
    """Write the adapter into its folder within a network's folder.

    Args:
        task_model: peft's wrapper.
        folder: the network's folder.
        weights: the network's weights, gathered from several processes. None: those in memory.
    """
    own = None
    if weights is not None:
        own = {name.removeprefix("task_model."): value for name, value in weights.items()}
    place = os.path.join(folder, FOLDER)
    # the embeddings are the base's. Asking would look the base up on the Hub
    task_model.save_pretrained(place, state_dict=own, save_embedding_layers=False)
    card = os.path.join(place, "README.md")
    if os.path.isfile(card):  # an empty form of peft. The network's own card is beside the folder
        os.remove(card)


def load_adapted(kind: TaskKind, config: Any, name: Any, place: dict[str, Any], dtype: Any) -> Any:
    """Return a pretrained task model with the adapter in a network's folder or repository.

    Args:
        kind: the kind of the task model.
        config: the network's configuration.
        name: the network's folder or repository.
        place: further arguments for its place, such as `revision`.
        dtype: type of the base's weights.

    Raises:
        OSError: no adapter, or no base.
        ValueError: weights of the adapter are missing, or left over.
    """
    package = peft()
    where = adapter_folder(name, place)
    settings = package.PeftConfig.from_pretrained(where)
    base_name = settings.base_model_name_or_path
    base, _ = pretrained_task_model(kind, base_name, settings.revision or "main", config.wrapped_config, dtype)
    settings.inference_mode = False
    adapted = package.get_peft_model(base, settings)
    read_adapter(adapted, where)
    return adapted


def read_adapter(task_model: Any, where: str) -> None:
    """Read the weights of an adapter.

    Args:
        task_model: peft's wrapper, changed in place.
        where: the adapter's folder.

    Raises:
        ValueError: the file is missing, or holds weights of another adapter.
    """
    path = os.path.join(where, _FILES[1])
    if not os.path.isfile(path):
        raise ValueError(f"{path}: missing")
    stored = load_file(path)
    own = peft().get_peft_model_state_dict(task_model, save_embedding_layers=False)
    different = sorted(stored.keys() ^ own.keys())
    if different:
        raise ValueError(f"{where}: does not fit its base ({different[0]}, {len(different)} in all)")
    for name, value in own.items():
        if stored[name].shape != value.shape:
            sizes = f"{tuple(stored[name].shape)} for {tuple(value.shape)}"
            raise ValueError(f"{where}: has another size than the network's adapter ({name}, {sizes})")
    peft().set_peft_model_state_dict(task_model, stored)


def adapter_folder(name: Any, place: dict[str, Any]) -> str:
    """Return the local folder with the adapter's files. They are downloaded if the network is on the Hub."""
    options = dict(place)
    within = os.path.join(options.pop("subfolder", ""), FOLDER)
    for file in _FILES:
        path = cached_file(name, file, subfolder=within, **options)
    return os.path.dirname(str(path))


def load_head(network: nn.Module, name: Any, place: dict[str, Any]) -> None:
    """Read the head of the self-model.

    Raises:
        ValueError: the file holds other weights.
    """
    path = cached_file(name, WEIGHTS, **place)
    stored = load_file(path)
    own = head_of(network.state_dict())
    if stored.keys() != own.keys():
        raise ValueError(f"{path}: allowed are {', '.join(own)}")
    network.load_state_dict(stored, strict=False)
