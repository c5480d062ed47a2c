"""Networks with adapters (peft): layers were replaced, so a weight is more than one tensor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..errors import InputError
from .wrapped_networks import last_layer

if TYPE_CHECKING:
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
