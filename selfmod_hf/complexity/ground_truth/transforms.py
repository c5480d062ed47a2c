"""Changes of a model that leave its λ as it is: unused parameters, permutations, scaled inputs, repeated data."""

from __future__ import annotations

import copy
import dataclasses
import itertools

import torch
from torch import Tensor, nn

from .known import GroundTruth


class WithUnused(nn.Module):
    """Call a module, and hold parameters that it does not use.

    Args:
        body: the module.
        unused: the parameters.
    """

    def __init__(self, body: nn.Module, unused: Tensor) -> None:
        super().__init__()
        self.body = body
        self.unused = nn.Parameter(unused)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


def with_unused(truth: GroundTruth, count: int, *, seed: int = 0) -> GroundTruth:
    """Return the model with further parameters that the loss does not depend on.

    Args:
        truth: any model.
        count: number of parameters.
        seed: of their values.

    Example:
        >>> from selfmod_hf.complexity.ground_truth import linear_regression
        >>> truth = with_unused(linear_regression(6, num_samples=100), 10)
        >>> truth.num_parameters, truth.learning_coefficient
        (16, 3.0)
    """
    generator = torch.Generator().manual_seed(seed)
    unused = torch.randn(count, generator=generator)
    return dataclasses.replace(
        truth,
        name=f"{truth.name}, {count} unused parameters",
        model=WithUnused(copy.deepcopy(truth.model), unused),
        kind="unused parameters",
    )


def permuted(truth: GroundTruth, *, seed: int = 0) -> GroundTruth:
    """Return the model with its inputs and hidden units in another order, the same function of the same data.

    Args:
        truth: a model of linear layers one after another, with or without functions of single units between them.
        seed: of the orders.

    Example:
        >>> from selfmod_hf.complexity.ground_truth import deep_linear
        >>> twin = permuted(deep_linear([4, 3, 4], 2, num_samples=100))
        >>> bool((twin.model(twin.inputs) - twin.targets).abs().max() < 1e-5)
        True
    """
    generator = torch.Generator().manual_seed(seed)
    model = copy.deepcopy(truth.model)
    layers = linear_layers(model)
    orders = []
    for layer in layers:
        order = torch.randperm(layer.in_features, generator=generator)
        orders.append(order)
        with torch.no_grad():
            layer.weight.copy_(layer.weight[:, order])
    for layer, order in zip(layers[:-1], orders[1:], strict=True):
        with torch.no_grad():
            layer.weight.copy_(layer.weight[order])
            if layer.bias is not None:
                layer.bias.copy_(layer.bias[order])
    return dataclasses.replace(
        truth,
        name=f"{truth.name}, permuted",
        model=model,
        inputs=truth.inputs[:, orders[0]],
        kind="permuted",
    )


def inputs_scaled(truth: GroundTruth, factor: float) -> GroundTruth:
    """Return the model with half of its inputs times a factor, and their weights divided by it.

    It is the same function of the same data. The posterior mean at a localization is another one, because distances in
    the weights have changed. λ has not.

    Args:
        truth: a model that begins with a linear layer. Its prior must not matter.
        factor: positive.

    Raises:
        ValueError: a model of which λ is not the truth.

    Example:
        >>> from selfmod_hf.complexity.ground_truth import linear_regression
        >>> truth = inputs_scaled(linear_regression(6, num_samples=100), 10.0)
        >>> truth.inputs.std(0) > 5
        tensor([ True,  True,  True, False, False, False])
    """
    if truth.prior_matters:
        raise ValueError(f"{truth.name}: its exact value depends on the prior, and so on the scale of its inputs")
    model = copy.deepcopy(truth.model)
    first = linear_layers(model)[0]
    inputs = truth.inputs.clone()
    half = first.in_features // 2
    inputs[:, :half] *= factor
    with torch.no_grad():
        first.weight[:, :half] /= factor
    return dataclasses.replace(
        truth,
        name=f"{truth.name}, half of the inputs x {factor:g}",
        model=model,
        inputs=inputs,
        kind="inputs scaled",
        posterior_mean=None,
    )


def repeated(truth: GroundTruth, times: int) -> GroundTruth:
    """Return the model with its data repeated. The loss is the same function of the weights, and n is larger.

    Args:
        truth: any model.
        times: how often each sample stands in the data.

    Example:
        >>> from selfmod_hf.complexity.ground_truth import linear_regression
        >>> len(repeated(linear_regression(6, num_samples=100), 5).inputs)
        500
    """
    copies = [times] + [1] * (truth.inputs.dim() - 1)
    of_targets = [times] + [1] * (truth.targets.dim() - 1)
    return dataclasses.replace(
        truth,
        name=f"{truth.name}, data x {times}",
        inputs=truth.inputs.repeat(copies),
        targets=truth.targets.repeat(of_targets),
        kind="data repeated",
    )


def linear_layers(model: nn.Module) -> list[nn.Linear]:
    """Return the linear layers in their order.

    Raises:
        ValueError: there is none, or one's outputs are not the next one's inputs.
    """
    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    if not layers:
        raise ValueError(f"{type(model).__name__}: has no linear layer")
    for layer, following in itertools.pairwise(layers):
        if layer.out_features != following.in_features:
            raise ValueError(f"{type(model).__name__}: its linear layers do not follow each other")
    return layers
