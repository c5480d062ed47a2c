"""LoRA adapters of a pretrained task model (`--lora_r`): checks of the settings, and peft's configuration."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..errors import InputError
from ..models.adapters_self_modeling import peft

ALL_LINEAR = "all-linear"  # peft's word for every linear layer below the head
# further settings of an adapter, and their defaults
_FURTHER = {"lora_alpha": None, "lora_dropout": 0.0, "lora_target_modules": None}


def check_lora(settings: Any) -> None:
    """Raise an InputError for unusable settings of an adapter, or if peft is not installed.

    Args:
        settings: of the network (`NetworkSettings`).
    """
    rank = settings.lora_r
    if rank is None:
        for field, default in _FURTHER.items():
            value = getattr(settings, field)
            if value != default:
                raise InputError(field, value, "allowed with `lora_r`")
        return
    if settings.head != "own" or not settings.backbone_name:
        problem = "adapts a pretrained task model; allowed with `head` own and a `backbone_name`"
        raise InputError("lora_r", rank, problem)
    _check_numbers(settings)
    try:
        peft()
    except ImportError as error:
        problem = "needs peft: pip install 'selfmod_hf[peft]'"
        raise InputError("lora_r", rank, problem) from error


def _check_numbers(settings: Any) -> None:
    for field in ("lora_r", "lora_alpha"):
        value = getattr(settings, field)
        if value is not None and value < 1:
            raise InputError(field, value, "allowed are integers of at least 1")
    if not 0 <= settings.lora_dropout < 1:
        raise InputError("lora_dropout", settings.lora_dropout, "allowed are numbers from 0 to below 1")
    targets = settings.lora_target_modules
    if targets is None:
        return
    if not targets or "" in targets:
        raise InputError("lora_target_modules", targets, "allowed are names of layers")
    if ALL_LINEAR in targets and len(targets) > 1:
        raise InputError("lora_target_modules", targets, f"{ALL_LINEAR} has every layer; give it alone")


def lora_config(settings: Any) -> Any:
    """Return peft's `LoraConfig` for the settings of a network. None: it has no adapter.

    Args:
        settings: of the network (`NetworkSettings`), after `check_lora`.

    Example:
        >>> from selfmod_hf.experiments.network_settings import NetworkSettings
        >>> lora_config(NetworkSettings(lora_r=4)).lora_alpha
        8
    """
    rank = settings.lora_r
    if rank is None:
        return None
    targets = settings.lora_target_modules
    if targets == [ALL_LINEAR]:
        targets = ALL_LINEAR
    return peft().LoraConfig(
        r=rank, lora_alpha=settings.lora_alpha or 2 * rank, lora_dropout=settings.lora_dropout, target_modules=targets
    )


@contextmanager
def target_modules_as_setting(settings: Any) -> Iterator[None]:
    """Name the setting in errors about target modules.

    Raises:
        InputError: the task model has no such layers.
    """
    try:
        with warnings.catch_warnings():
            # peft notices itself that the layers of GPT-2 have transposed weights
            warnings.filterwarnings("ignore", message="fan_in_fan_out is set to")
            yield
    except ValueError as error:
        name, _, problem = str(error).partition(": ")
        if not name.startswith("target_modules="):
            raise
        raise InputError("lora_target_modules", settings.lora_target_modules, problem) from error
