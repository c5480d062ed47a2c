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

import torch
import transformers
from safetensors.torch import load_file
from torch import nn
from transformers.pytorch_utils import Conv1D
from transformers.utils import cached_file

from .loading_arguments_self_modeling import place_in, same_user
from .losses_self_modeling import Tensors
from .task_models_self_modeling import copy_of, is_quantized, plain_task_model, pretrained_task_model
from .tasks_self_modeling import TaskKind

# the folder of the adapter. Beside our config.json transformers would read its files as a model of another type
FOLDER = "adapter"
HEAD = "self_model_head."
WEIGHTS = "model.safetensors"
_FILES = ("adapter_config.json", "adapter_model.safetensors")


def peft() -> Any:
    """Return the package peft.

    Raises:
        ImportError: it is not installed.
    """
    try:
        # by name, because transformers would ask every user to install the imports of this file
        return importlib.import_module("peft")
    except ImportError as error:
        raise ImportError("adapters need peft: pip install 'selfmod_hf[peft]'") from error


def has_adapter(task_model: Any) -> bool:
    """Return whether a task model is wrapped by peft."""
    return not isinstance(task_model, transformers.PreTrainedModel)


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


def add_adapter(task_model: Any, settings: Any, drawn: list[str], name: str, revision: str) -> Any:
    """Return peft's wrapper of a task model. Drawn parts of the head are trained and saved with the adapter.

    Args:
        task_model: a task model of transformers.
        settings: peft's configuration, for example a `LoraConfig`.
        drawn: names of the weights that no file holds.
        name: the task model's Hub id or folder.
        revision: branch, tag or commit of the task model's repository.

    Raises:
        ValueError: target modules that the task model does not have, or that take no adapter.
    """
    package = peft()
    settings = copy.deepcopy(settings)
    _check_targets(task_model, settings)
    if revision != "main":
        settings.revision = revision
    parts = {_part_of_head(task_model, weight) for weight in drawn}
    if parts:
        settings.modules_to_save = sorted(parts.union(settings.modules_to_save or []))
    try:
        adapted = package.get_peft_model(task_model, settings)
    except ValueError as error:
        text = " ".join(str(error).split())
        if "target" not in text.lower():
            raise
        raise _no_target(task_model, settings.target_modules, text[:200]) from error
    if os.path.isdir(name):  # the network is loaded from any working directory
        name = os.path.abspath(name)
    settings.base_model_name_or_path = name
    return adapted


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


def without_adapter(task_model: Any, adapter: str | None) -> Any:
    """Return a copy of a task model for `prune`, without the hooks of target layers.

    Args:
        task_model: the task model of a network.
        adapter: "merge" adds the adapter to the weights. "keep" returns peft's wrapper. None means "merge".

    Raises:
        ValueError: another value, a value for a task model without an adapter, or a merge into quantized weights or
            into weights that another layer shares.
    """
    copied = copy_of(task_model)
    if not has_adapter(task_model):
        if adapter is not None:
            raise ValueError(f"adapter={adapter!r}: the network has none; leave it out")
        return copied
    if adapter in (None, "merge"):
        if is_quantized(copied.get_base_model()):
            raise ValueError("adapter='merge': quantized weights would round the adapter away; allowed is keep")
        check_merge(copied)
        return copied.merge_and_unload().requires_grad_(True)  # peft froze the base, and the result is a plain model
    if adapter != "keep":
        raise ValueError(f"adapter={adapter!r}: allowed are merge, keep")
    return copied


def check_merge(task_model: Any) -> None:
    """Raise a ValueError if an adapter cannot be merged, because another layer shares the weights below it.

    An adapter of tied embeddings changes the embeddings alone. Merged, it would change the output layer, too.

    Args:
        task_model: peft's wrapper.
    """
    places: dict[int, list[str]] = {}
    for name, module in task_model.named_modules():
        for parameter in module.parameters(recurse=False):
            places.setdefault(id(parameter), []).append(name)
    for names in places.values():
        # trained tokens are written into both layers, so that merging them changes nothing else
        adapted = [name for name in names if name.endswith(".base_layer") and ".token_adapter." not in name]
        if not adapted:
            continue
        others = [name for name in names if name != adapted[0]]
        if others:
            layer, other = _layer_name(adapted[0]), _layer_name(others[0])
            raise ValueError(
                f"adapter='merge': {layer} shares its weights with {other}, which a merge would change, too; allowed "
                f"is keep, or an adapter without {layer} among its target_modules"
            )


def _layer_name(name: str) -> str:
    """Return the last part of a layer's name, without peft's own."""
    return name.removesuffix(".base_layer").rpartition(".")[2]


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


def load_adapted(kind: TaskKind, config: Any, name: Any, place: dict[str, Any], options: dict[str, Any]) -> Any:
    """Return a pretrained task model with the adapter in a network's folder or repository.

    Args:
        kind: the kind of the task model.
        config: the network's configuration.
        name: the network's folder or repository.
        place: further arguments for its place, such as `revision`.
        options: further arguments of `from_pretrained` for the base's weights, such as `dtype`.

    Raises:
        OSError: no adapter, or no base.
        ValueError: weights of the adapter or of a head are missing, or weights are left over.
    """
    package = peft()
    where = adapter_folder(name, place)
    settings = package.PeftConfig.from_pretrained(where)
    options = {**same_user(place), "revision": settings.revision or "main", **options}
    base_name = settings.base_model_name_or_path
    base_config = copy.deepcopy(config.wrapped_config)
    _quantize_again(base_config, base_name, options)
    base, drawn = pretrained_task_model(kind, base_name, base_config, options)
    settings.inference_mode = False
    stored = stored_adapter(where)
    # peft keeps adapters of a base in half precision in float32, unless the user wants another type
    in_float32 = any(value.dtype == torch.float32 for value in stored.values())
    adapted = package.get_peft_model(base, settings, autocast_adapter_dtype=in_float32)
    check_drawn(adapted, drawn)
    read_adapter(adapted, where)
    return adapted


def _quantize_again(config: Any, name: str, options: dict[str, Any]) -> None:
    """Move the quantization out of a configuration, into arguments of `from_pretrained`.

    In the configuration it says that the files themselves hold quantized weights.

    Args:
        config: of a task model, changed in place.
        name: the task model's Hub id or folder.
        options: the arguments, changed in place.
    """
    quantization = getattr(config, "quantization_config", None)
    if quantization is None:
        return
    stored, _ = config.get_config_dict(name, **place_in(options))
    if stored.get("quantization_config") is None:
        del config.quantization_config
        options.setdefault("quantization_config", quantization)


def check_drawn(task_model: Any, drawn: list[str]) -> None:
    """Raise a ValueError for drawn weights that the adapter does not save. Each loading would draw others.

    Args:
        task_model: peft's wrapper.
        drawn: names of the task model's weights that no file of the base holds.
    """
    saved = peft().get_peft_model_state_dict(task_model, save_embedding_layers=False)
    lost = [name for name in drawn if f"base_model.model.{name}" not in saved]
    if lost:
        settings = next(iter(task_model.peft_config.values()))
        part = _part_of_head(plain_task_model(task_model), lost[0])
        raise ValueError(
            f"task_model: {settings.base_model_name_or_path} has no weights for {', '.join(lost)}, and the adapter "
            f"does not save them; allowed is an adapter with modules_to_save=[{part!r}]"
        )


def _part_of_head(task_model: Any, name: str) -> str:
    """Return the first part of a weight's name, without the name of the task model's base."""
    return name.removeprefix(f"{task_model.base_model_prefix}.").split(".")[0]


def read_adapter(task_model: Any, where: str) -> None:
    """Read the weights of an adapter.

    Args:
        task_model: peft's wrapper, changed in place.
        where: the adapter's folder.

    Raises:
        ValueError: the file is missing, or holds weights of another adapter.
    """
    stored = stored_adapter(where)
    own = peft().get_peft_model_state_dict(task_model, save_embedding_layers=False)
    different = sorted(stored.keys() ^ own.keys())
    if different:
        raise ValueError(f"{where}: does not fit its base ({different[0]}, {len(different)} in all)")
    for name, value in own.items():
        if stored[name].shape != value.shape:
            sizes = f"{tuple(stored[name].shape)} for {tuple(value.shape)}"
            raise ValueError(f"{where}: has another size than the network's adapter ({name}, {sizes})")
    peft().set_peft_model_state_dict(task_model, stored)


def stored_adapter(where: str) -> Tensors:
    """Return the weights in an adapter's folder.

    Raises:
        ValueError: the file is missing.
    """
    path = os.path.join(where, _FILES[1])
    if not os.path.isfile(path):
        raise ValueError(f"{path}: missing")
    return load_file(path)


def adapter_folder(name: Any, place: dict[str, Any]) -> str:
    """Return the local folder with the adapter's files. They are downloaded if the network is on the Hub."""
    options = dict(place)
    within = os.path.join(options.pop("subfolder", ""), FOLDER)
    for file in _FILES:
        path = cached_file(name, file, subfolder=within, **options)
    return os.path.dirname(str(path))


def read_head(network: nn.Module, name: Any, place: dict[str, Any], *, of_baseline: bool) -> dict[str, Any]:
    """Read the fitting weights of the self-model's head.

    Args:
        network: changed in place.
        name: the network's folder or repository.
        place: further arguments for its place, such as `revision`.
        of_baseline: a baseline was saved. It has an adapter alone, and no file with a head.

    Returns:
        The names of the other weights, as `from_pretrained` returns them with `output_loading_info`.

    Raises:
        OSError: the file is missing.
    """
    stored = {}
    if not of_baseline:
        stored = load_file(str(cached_file(name, WEIGHTS, **place)))
    own = head_of(network.state_dict())
    fitting, others = {}, []
    for key in stored.keys() & own.keys():
        if stored[key].shape == own[key].shape:
            fitting[key] = stored[key]
        else:
            others.append((key, tuple(stored[key].shape), tuple(own[key].shape)))
    network.load_state_dict(fitting, strict=False)
    return {
        "missing_keys": own.keys() - stored.keys(),
        "unexpected_keys": stored.keys() - own.keys(),
        "mismatched_keys": set(others),
        "error_msgs": [],
    }
