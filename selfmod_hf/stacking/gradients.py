"""Losses and gradients of K copies at once, by the matrix (K, P) of their parameters.

Linear layers become one `bmm`. Gradients are taken outside of `vmap`, through the sum over copies. The copies share
nothing, so the gradient of the sum is the gradient of each copy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .layout import ParameterLayout
from .mapping import Batch, Mapped, Values, part_of

LossFunction = Callable[[Any, Tensor], Tensor]  # (outputs, targets) -> (B,)


def losses_and_gradients(  # noqa: PLR0913 - `Replay` records tensors only if they are arguments
    losses_of: Mapped,
    layout: ParameterLayout,
    position: Tensor,
    samples: Sequence[Tensor],
    inputs: Batch,
    targets: Tensor,
    own: Values,
    common: Values,
    *,
    shared_batch: bool,
    micro_batch_size: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the mean loss (K,) of each copy over its batch, and its gradient (K, P) at `position`.

    A batch larger than `micro_batch_size` is taken in pieces. Their sums are added, so the mean is the same. In low
    precision the sums are in float32. A parameter without influence on the loss has a gradient of zero.

    Args:
        losses_of: a module and a loss, mapped over copies by `map_copies`. It returns losses (K, B).
        layout: layout of the parameters in `position`.
        position: (K, P).
        samples: one tensor of indices into inputs and targets, (B,) with `shared_batch`, else (K, B). Empty: all
            samples in their order.
        inputs: (n, ...).
        targets: (n, ...).
        own: other parameters and buffers of G networks, name -> (G, *shape). K is a multiple of G, and copies of one
            network are adjacent.
        common: other parameters and buffers, the same for all copies, name -> shape.
        shared_batch: whether all copies have one batch.
        micro_batch_size: samples in a piece. None: all at once.

    Example:
        >>> from selfmod_hf.stacking import ONE_BATCH, map_copies
        >>> losses_of = map_copies(torch.nn.Linear(1, 1, bias=False), lambda y, x: y.square().sum(1), dims=ONE_BATCH)
        >>> position, x = torch.tensor([[3.0]]), torch.ones(4, 1)
        >>> layout = ParameterLayout(("weight",), (torch.Size([1, 1]),))
        >>> losses_and_gradients(losses_of, layout, position, [], x, x, {}, {}, shared_batch=True)
        (tensor([9.]), tensor([[6.]]))
    """
    leaves: dict[str, Tensor] = {}
    for name, values in layout.views(position).items():
        leaf = values.detach()
        leaves[name] = leaf.requires_grad_()
    copies = leaves | repeated(own, len(position))
    for index in samples:
        inputs = part_of(inputs, index)
        targets = part_of(targets, index)

    batch_size = targets.shape[0 if shared_batch else 1]
    piece_size = micro_batch_size or batch_size
    total: Tensor | None = None  # (K,)
    gradients: list[Tensor] = []  # of each parameter, (K, *shape)
    for start in range(0, batch_size, piece_size):
        piece_inputs, piece_targets = inputs, targets
        if piece_size < batch_size:
            part = slice(start, start + piece_size)
            piece_inputs = _slice(inputs, part, shared_batch)
            piece_targets = _slice(targets, part, shared_batch)
        with torch.enable_grad():
            losses = losses_of(copies, common, piece_inputs, piece_targets)  # (K, b)
            sums = _in_full(losses).sum(1)  # (K,)
            mean = sums.sum() / batch_size
            weights = list(leaves.values())
            found = torch.autograd.grad(mean, weights, allow_unused=True, materialize_grads=True)
        if total is None:
            total = sums.detach()
            gradients = list(found)
        else:
            total = total + sums.detach()
            for place, gradient in enumerate(found):
                gradients[place] = _in_full(gradients[place]) + gradient

    assert total is not None
    # reshape, because flatten rejects the gradient of a single number, (K,)
    rows = [gradient.reshape(len(position), -1) for gradient in gradients]
    return total / batch_size, torch.cat(rows, dim=1)


def repeated(values: Values, num_copies: int) -> dict[str, Tensor]:
    """Return the values of G networks, (G, *shape) each, for all their copies, (K, *shape)."""
    repeated = {}
    for name, value in values.items():
        copies_per_network = num_copies // len(value)
        repeated[name] = value.repeat_interleave(copies_per_network, 0)
    return repeated


def _in_full(tensor: Tensor) -> Tensor:
    """Return the tensor in float32, or in its own type if it is wider."""
    if tensor.itemsize < 4:
        return tensor.float()
    return tensor


def _slice(batch: Any, part: slice, shared: bool) -> Any:
    """Return a part of each copy's batch."""
    if isinstance(batch, dict):
        parts = {}
        for name, value in batch.items():
            parts[name] = _slice(value, part, shared)
        return parts
    if shared:
        return batch[part]
    return batch[:, part]
