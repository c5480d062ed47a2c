"""Measures of the last layer's weights, together with its inputs, the features."""

from __future__ import annotations

from torch import Tensor

from .predictions import accuracy

GRID = 100  # steps from no pruned weight to all


def unit_free_width(weight: Tensor, features: Tensor) -> float:
    """Return the standard deviation of the last layer's weights, in units of the features' own size.

    A ReLU unit may be scaled by any c > 0 if its outgoing weights are divided by c: the function stays the same, while
    the width of the weights changes. Here each unit is first rescaled so that its root mean square over the samples
    is 1.

    Args:
        weight: (C, F), of the last layer.
        features: (N, F), the inputs of the last layer.

    Example:
        >>> import torch
        >>> features = torch.tensor([[1.0, 2.0], [1.0, 2.0]])
        >>> unit_free_width(torch.tensor([[2.0, 1.0], [-2.0, -1.0]]), features)
        2.0
    """
    sizes = features.double().square().mean(dim=0).sqrt()  # (F,)
    rescaled = weight.detach().double().cpu() * sizes.cpu()  # (C, F)
    return float(rescaled.std(correction=0))


def prunable_share(weight: Tensor, bias: Tensor, features: Tensor, labels: Tensor, loss: float = 0.01) -> float:
    """Return the share of prunable weights in the last layer, at a small loss of accuracy.

    The weights of smallest magnitude go first, one percent of all after another (magnitude pruning, Han et al. 2015,
    arXiv 1506.02626). The result is the largest share up to which each step keeps the accuracy within `loss`.

    Args:
        weight: (C, F), of the last layer.
        bias: (C,), of the last layer.
        features: (N, F), the inputs of the last layer.
        labels: (N,), classes.
        loss: of accuracy, from 0 to 1.

    Example:
        >>> import torch
        >>> weight, bias = torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), torch.zeros(2)
        >>> prunable_share(weight, bias, torch.tensor([[1.0, 5.0], [-1.0, 5.0]]), torch.tensor([0, 1]))
        0.75
    """
    weight = weight.detach().to(features)
    bias = bias.detach().to(features)
    order = weight.abs().flatten().argsort()
    least = accuracy(features @ weight.T + bias, labels) - loss
    share = 0.0
    for step in range(1, GRID + 1):
        count = weight.numel() * step // GRID
        pruned = weight.flatten().clone()
        pruned[order[:count]] = 0
        logits = features @ pruned.view_as(weight).T + bias  # (N, C)
        if accuracy(logits, labels) < least:
            break
        share = count / weight.numel()
    return share
