"""The last layer of a network, with what an adapter adds to its weights."""

from typing import Any

import torch
from torch import Tensor, nn


def last_layer(model: Any) -> tuple[str, Any]:
    """Return the name of the last layer of the task's part of a network, and the layer.

    Args:
        model: a self-modeling network, or peft's wrapper of one.
    """
    network = model
    if hasattr(model, "get_base_model"):
        network = model.get_base_model()
    if getattr(network, "kind", None) is not None:
        return network.last_layer
    return "classifier", network.classifier


@torch.no_grad()
def classifier_weight(model: Any) -> Tensor:
    """Return the weights of the last layer in effect, adapters included, (num_labels, F).

    Args:
        model: a self-modeling network, or peft's wrapper of one.
    """
    _, layer = last_layer(model)
    if isinstance(layer, nn.Linear):
        return layer.weight.detach()
    # The parts of the layer compute x W^T + b together, so W is its response to each unit vector, without b.
    basis = torch.eye(layer.in_features, dtype=_dtype_of(layer), device=next(layer.parameters()).device)
    responses = _responses(layer, basis)  # (F, num_labels)
    bias = _responses(layer, torch.zeros_like(basis[:1]))  # (1, num_labels)
    return (responses - bias).T


@torch.no_grad()
def classifier_bias(model: Any) -> Tensor:
    """Return the biases of the last layer in effect, adapters included, (num_labels,). Zero if it has none.

    Args:
        model: as for `classifier_weight`.
    """
    _, layer = last_layer(model)
    example = next(layer.parameters())
    zero = torch.zeros(1, layer.in_features, dtype=_dtype_of(layer), device=example.device)
    return _responses(layer, zero)[0]


def _dtype_of(layer: nn.Module) -> torch.dtype:
    return next(layer.parameters()).dtype


def _responses(layer: nn.Module, inputs: Tensor) -> Tensor:
    """Return what a layer gives in evaluation mode, because an adapter may drop inputs while it trains."""
    training = layer.training
    layer.eval()
    found: Tensor = layer(inputs)
    layer.train(training)
    return found
