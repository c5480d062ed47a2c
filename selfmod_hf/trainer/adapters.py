"""Networks with adapters (peft): layers were replaced, so a weight is more than one tensor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..models.configuration_self_modeling import is_folder
from .processes import is_sharded
from .wrapped_networks import last_layer

if TYPE_CHECKING:
    from transformers import Trainer

    from .training_args import SelfModelingTrainingArguments


def has_adapter(model: Any) -> bool:
    """Return whether peft wraps the network, or has put adapters into it.

    Example:
        >>> has_adapter(nn.Linear(2, 1))
        False
    """
    return hasattr(model, "peft_config")


def check_with_adapter(args: SelfModelingTrainingArguments) -> None:
    """Reject arguments that need a complete network, before an adapter is trained.

    Raises:
        InputError: the RLCT is to be estimated while training, or the network is to be pushed.
    """
    problem = "allowed without an adapter; afterwards use the network that merge_and_unload() returns"
    if args.rlct_every_n_epochs:
        raise InputError("rlct_every_n_epochs", args.rlct_every_n_epochs, problem)
    if args.push_to_hub:
        raise InputError("push_to_hub", True, problem)


def check_base(model: Any, args: SelfModelingTrainingArguments) -> None:
    """Reject a push of an adapter inside of a network if its base is a folder of this machine.

    Raises:
        InputError: nobody else could load the network.
    """
    settings = _inner_settings(model)
    if settings is None or not args.push_to_hub:
        return
    if is_folder(settings.base_model_name_or_path):
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


@torch.no_grad()
def classifier_weight(model: Any) -> Tensor:
    """Return the weights of the last layer in effect, adapters included, (num_labels, F).

    Args:
        model: a self-modeling network, or peft's wrapper of one.
    """
    layer: Any
    _, layer = last_layer(model)
    if isinstance(layer, nn.Linear):
        return layer.weight.detach()
    # The parts of the layer compute x W^T + b together, so W is its response to each unit vector, without b.
    example = next(layer.parameters())
    basis = torch.eye(layer.in_features, dtype=example.dtype, device=example.device)
    training = layer.training
    layer.eval()  # an adapter may drop inputs while it trains
    bias = layer(torch.zeros_like(basis[:1]))
    weight = (layer(basis) - bias).T
    layer.train(training)
    return weight
