"""Task models of transformers: how they are made, loaded and copied, and which of their parts are read.

A copy of this file travels with every pushed model (``trust_remote_code``), so it imports nothing of the package but
the files beside it, by flat relative imports.
"""

import copy
import inspect
import os
from typing import Any

import torch
import transformers
from huggingface_hub import resolve_revision
from torch import nn

from .targets_self_modeling import Capture
from .tasks_self_modeling import TaskKind

# arguments of a task model's forward that are no data
_SWITCHES = (
    "num_items_in_batch", "return_dict", "output_attentions", "output_hidden_states", "use_cache", "cache",
    "past_key_values", "cache_position", "logits_to_keep", "interpolate_pos_encoding",
)  # fmt: skip


def new_task_model(config: Any, kind: TaskKind) -> Any:
    """Return a task model with new weights, of the default type of floats.

    Raises:
        ValueError: transformers has no such task model.
    """
    model_class = kind.model_class(config)
    if model_class is None:
        raise ValueError(f"wrapped_config: model_type={config.model_type!r} has no model for {kind.name}")
    config.architectures = [model_class.__name__]  # the Auto class asks it where a type has several classes
    auto_class = getattr(transformers, kind.auto_class)
    return auto_class.from_config(config, dtype=torch.get_default_dtype(), trust_remote_code=False)


def pretrained_task_model(kind: TaskKind, name: str, config: Any, options: dict[str, Any]) -> tuple[Any, list[str]]:
    """Return a task model with its own head, read from safetensors only, and the names of weights in no file.

    Args:
        kind: the kind of the task model.
        name: Hub id or folder.
        config: its configuration.
        options: further arguments of `from_pretrained`, such as `revision` and `dtype` (default: float32).

    Raises:
        OSError: no such model, or one without safetensors.
        ValueError: weights below the head are missing or have other shapes.
    """
    model_class = kind.model_class(config)
    if model_class is None:
        raise ValueError(f"{name}: model_type={config.model_type!r} has no model for {kind.name}")
    config.architectures = [model_class.__name__]  # the Auto class asks it where a type has several classes
    auto_class = getattr(transformers, kind.auto_class)
    # code of strangers is not run, and the user is not asked about it
    model, info = auto_class.from_pretrained(
        name,
        config=config,
        use_safetensors=True,
        trust_remote_code=False,
        output_loading_info=True,
        ignore_mismatched_sizes=True,
        **{"dtype": torch.float32, **options},
    )
    drawn = sorted([*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])])
    base = f"{model.base_model_prefix}."
    lacking = [key for key in drawn if key.startswith(base) and not key.startswith(f"{base}pooler.")]
    if lacking:
        raise ValueError(
            f"{name}: holds no weights of the right shape for {lacking[0]}, {len(lacking)} in all; allowed are models "
            "whose weights are complete but for the head"
        )
    return model, drawn


def commit_of(name: str, place: dict[str, Any]) -> str:
    """Return the commit that a branch or a tag of a repository stands for. A folder has none.

    Args:
        name: Hub id or folder.
        place: arguments of `from_pretrained` for its place, with a `revision`. It is returned if there is no commit.
    """
    revision = str(place["revision"])
    if os.path.isdir(name):
        return revision
    known = {option: place[option] for option in ("token", "cache_dir", "local_files_only") if option in place}
    try:
        return str(resolve_revision(name, revision=revision, **known).resolved)
    except (OSError, ValueError):  # the loading itself reports what is wrong
        return revision


def plain_task_model(model: Any) -> Any:
    """Return the task model of transformers itself, without peft's wrapper."""
    if isinstance(model, transformers.PreTrainedModel):
        return model
    return model.get_base_model()


def is_quantized(model: Any) -> bool:
    """Return whether a task model of transformers was loaded with quantized weights."""
    return getattr(model, "hf_quantizer", None) is not None


def drawn_weights(kind: TaskKind, model: Any, name: str, revision: str) -> list[str]:
    """Return the names of a pretrained task model's weights that no file of its repository holds.

    Its files are compared without reading any weight. An unknown repository gives no name.

    Args:
        kind: the kind of the task model.
        model: the task model.
        name: Hub id or folder that it was loaded from.
        revision: branch, tag or commit of the repository.
    """
    config = copy.deepcopy(model.config)
    if is_quantized(model):
        return []
    try:
        _, drawn = pretrained_task_model(kind, name, config, {"revision": revision, "device_map": "meta"})
    except OSError:  # only the loading of the saved network needs the repository
        return []
    return drawn


def copy_of(task_model: Any) -> Any:
    """Return a copy of a task model, without the hooks of target layers."""
    copied = copy.deepcopy(task_model)
    for module in copied.modules():
        for number, hook in list(module._forward_hooks.items()):
            if isinstance(hook, Capture):
                del module._forward_hooks[number]
    return copied


def forward_arguments(model: nn.Module) -> tuple[list[str], bool]:
    """Return the names of a forward's arguments, and whether it also takes any other name."""
    parameters = inspect.signature(model.forward).parameters.values()
    names = [parameter.name for parameter in parameters if parameter.kind is not parameter.VAR_KEYWORD]
    return names, len(names) < len(parameters)


def data_arguments(names: list[str]) -> list[str]:
    """Return the arguments of a forward that are data: inputs and labels."""
    return [name for name in names if name not in _SWITCHES]


def name_of_base(model: Any) -> str | None:
    """Return the name of the task model's part without its head, or None."""
    if model.base_model is model:
        return None
    return str(model.base_model_prefix)


def only_part_of_base(model: Any) -> str | None:
    """Return the name of the only part of the task model's base, or None. OPT's head reads its decoder, for example."""
    base = name_of_base(model)
    parts = [] if base is None else [name for name, _ in model.base_model.named_children()]
    if len(parts) != 1:
        return None
    return f"{base}.{parts[0]}"


def last_layer_of(model: Any) -> tuple[str, nn.Module]:
    """Return the last linear layer of a task model with its name: the output embeddings, or the head's last one.

    An adapted layer is one layer, with its base layer and its adapter.

    Raises:
        ValueError: no linear layer outside of the model's base.
    """
    output = model.get_output_embeddings()
    base = name_of_base(model)
    found: tuple[str, nn.Module] | None = None
    adapted = "."  # prefix of no name
    for name, module in model.named_modules():
        if module is output and output is not None:
            return name, module
        if name == base or name.startswith((f"{base}.", adapted)):
            continue
        if hasattr(module, "base_layer"):
            adapted = f"{name}."
        elif not isinstance(module, nn.Linear):
            continue
        found = name, module
    if found is None:
        raise ValueError(f"{type(model).__name__}: has no linear layer outside of its base model")
    return found
