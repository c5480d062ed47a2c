"""Checks of an adapter before it is trained: what is trained is saved, and a loaded network is the saved one.

A copy of this file travels with every pushed model (``trust_remote_code``), so it imports nothing of the package but
the files beside it, by flat relative imports.
"""

import os
import warnings
from typing import Any

from torch import nn

from .base_weights_self_modeling import weights_of_base


def check_adapter(task_model: Any) -> Any:
    """Return the settings of a task model's adapter. They are peft's configuration.

    A base in a folder of this machine is named in a warning.

    Raises:
        ValueError: the adapter cannot be saved beside the head of a self-model, or would not be trained.
    """
    names = list(task_model.peft_config)
    if len(names) > 1:
        raise ValueError(f"task_model: has the adapters {', '.join(names)}; allowed is one")
    if names[0] != "default":  # peft would save it in a folder of this name
        raise ValueError(f"task_model: its adapter is named {names[0]!r}; allowed is peft's own name, 'default'")
    settings = task_model.peft_config[names[0]]
    _check_kind(settings)
    _check_trained(task_model)
    base = settings.base_model_name_or_path
    if not base:
        raise ValueError(
            "task_model: the adapter's base was not loaded from a folder or the Hub, so that it could not be loaded "
            "again; allowed are pretrained models"
        )
    if os.path.isdir(base):
        warnings.warn(f"the adapter names its base by its folder, {base}; others cannot load it", stacklevel=3)
    return settings


def _check_kind(settings: Any) -> None:
    """Raise a ValueError for an adapter with a loss or tokens of its own, or a base that each loading draws anew.

    Args:
        settings: peft's configuration.
    """
    if settings.peft_type.value == "ADALORA":
        raise ValueError(
            "task_model: ADALORA has a loss of its own and changes its ranks while training, which is not done here; "
            "allowed is LORA"
        )
    if settings.is_prompt_learning:
        raise ValueError(
            f"task_model: {settings.peft_type.value} adds tokens to each text; allowed are adapters of layers (LoRA)"
        )
    initialized = getattr(settings, "init_lora_weights", True)
    if str(initialized).startswith("pissa_niter"):  # random numbers decide the weights that remain in the base
        raise ValueError(
            f"init_lora_weights={initialized!r}: changes the base at random, so that each loading gives another "
            "network; allowed is 'pissa', or True"
        )


def _check_trained(task_model: Any) -> None:
    """Raise a ValueError if the adapter is not trained, or weights of the base are.

    Args:
        task_model: peft's wrapper.
    """
    if any(getattr(module, "merged", False) for module in task_model.modules()):
        raise ValueError("task_model: its adapter is merged, and would not be trained; allowed after unmerge_adapter()")
    if _is_disabled(task_model):
        raise ValueError(
            "task_model: its adapter is disabled, and would not be trained; allowed after enable_adapter_layers()"
        )
    if not any(parameter.requires_grad for parameter in task_model.parameters()):
        raise ValueError(
            "task_model: its adapter is frozen, and would not be trained; allowed is one loaded with "
            "PeftModel.from_pretrained(..., is_trainable=True)"
        )
    for name, weights in weights_of_base(task_model):
        if weights.requires_grad:
            raise ValueError(
                f"task_model: {name} would be trained, but the adapter's file does not hold it; allowed is a frozen "
                "base, or an adapter with modules_to_save"
            )


def _is_disabled(task_model: nn.Module) -> bool:
    """Return whether an adapter takes no part in a forward. Prompts of attention have a mark of their own."""
    if not getattr(task_model.base_model, "_enabled", True):
        return True
    # of models of transformers it is a method
    return any(getattr(module, "disable_adapters", False) is True for module in task_model.modules())
