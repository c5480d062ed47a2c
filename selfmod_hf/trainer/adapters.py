"""Networks with adapters (peft): layers were replaced, so a weight is more than one tensor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..models.adapters_self_modeling import check_merge
from ..models.configuration_self_modeling import is_folder
from .processes import is_sharded

if TYPE_CHECKING:
    from transformers import Trainer

    from .training_args import SelfModelingTrainingArguments


def has_adapter(model: Any) -> bool:
    """Return whether peft wraps the network, or has put adapters into it.

    Example:
        >>> from torch import nn
        >>> has_adapter(nn.Linear(2, 1))
        False
    """
    return hasattr(model, "peft_config")


def check_adapter_arguments(model: Any, args: SelfModelingTrainingArguments) -> None:
    """Reject arguments that do not go with the adapter of a network, before it is trained.

    Args:
        model: a network. None: `model_init` makes it later.
        args: of the training.

    Raises:
        InputError: peft wraps the network, and the RLCT is to be estimated while training, or it is to be pushed. Or
            the base of an adapter inside of it is a folder of this machine, so that nobody else could load it. Or the
            RLCT is to be estimated, and the adapter inside cannot be merged.
    """
    if has_adapter(model):
        problem = "allowed without an adapter; afterwards use the network that merge_and_unload() returns"
        if args.rlct_every_n_epochs:
            raise InputError("rlct_every_n_epochs", args.rlct_every_n_epochs, problem)
        if args.push_to_hub:
            raise InputError("push_to_hub", True, problem)
    settings = _inner_settings(model)
    if settings is not None and args.rlct_every_n_epochs:
        try:
            check_merge(model.task_model)
        except ValueError as error:
            problem = f"the RLCT is that of the merged network ({error})"
            raise InputError("rlct_every_n_epochs", args.rlct_every_n_epochs, problem) from error
    if settings is not None and args.push_to_hub and is_folder(settings.base_model_name_or_path):
        problem = "the adapter's base is a folder of this machine, which others cannot load; allowed is one of the Hub"
        raise InputError("push_to_hub", True, problem)


def check_not_sharded(trainer: Trainer) -> None:
    """Reject sharded weights of a network with an adapter inside, because its adapter is not gathered.

    Raises:
        InputError: the training is sharded.
    """
    settings = _inner_settings(trainer.model)
    if settings is not None and is_sharded(trainer):
        problem = "was not tested with sharded weights; allowed without FSDP and DeepSpeed"
        raise InputError("adapter", settings.peft_type.value, problem)


def _inner_settings(model: Any) -> Any:
    """Return peft's configuration of the adapter inside of a network, or None."""
    if not getattr(getattr(model, "config", None), "adapter", False):
        return None
    (settings,) = model.task_model.peft_config.values()
    return settings
