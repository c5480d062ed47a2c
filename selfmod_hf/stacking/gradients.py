"""Losses and gradients of K copies at once, by the matrix (K, P) of their parameters.

Linear layers become one `bmm`. Gradients are taken outside of `vmap`, through the sum over copies. The copies share
nothing, so the gradient of the sum is every copy's own gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .layout import ParameterLayout
from .mapping import Batch, Mapped, Values, part_of

LossFunction = Callable[[Any, Tensor], Tensor]  # (outputs, targets) -> (B,)


def losses_and_gradients(
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

    A batch larger than `micro_batch_size` is taken in pieces. Their sums are added up, which gives the same mean. In
    low precision the sums are in float32. A parameter that the loss does not use has a gradient of zero.

    Args:
        losses_of: a module and loss mapped over copies by `map_copies`, which gives losses (K, B).
        layout: of the parameters in `position`.
        position: (K, P).
        samples: one tensor of indices into inputs and targets, (B,) with `shared_batch`, else (K, B). Empty: all of
            them, in their order.
        inputs: (n, ...).
        targets: (n, ...).
        own: other parameters and buffers of G networks, name -> (G, *shape). K is a multiple of G, and copies of one
            network follow each other.
        common: those that all copies share, name -> shape.
        shared_batch: whether all copies have one batch.
        micro_batch_size: samples of a piece. None: all at once.
    """
    leaves = {}
    for name, value in layout.views(position).items():
        leaves[name] = value.detach().requires_grad_()
    copies = dict(leaves)
    for name, value in own.items():
        copies[name] = value.repeat_interleave(len(position) // len(value), 0)
    for index in samples:
        inputs, targets = part_of(inputs, index), part_of(targets, index)
    batch_size = targets.shape[0 if shared_batch else 1]
    step = micro_batch_size or batch_size
    total: Tensor | None = None
    gradients: list[Tensor] = []
    for start in range(0, batch_size, step):
        piece = inputs, targets
        if step < batch_size:
            part = slice(start, start + step)
            piece = _slice(inputs, part, shared_batch), _slice(targets, part, shared_batch)
        with torch.enable_grad():
            losses = losses_of(copies, common, *piece)  # (K, b)
            sums = _in_full(losses).sum(1)  # (K,)
            new = torch.autograd.grad(
                sums.sum() / batch_size,
                list(leaves.values()),
                allow_unused=True,
                materialize_grads=True,
            )
        if total is None:
            total = sums.detach()
            gradients = list(new)
        else:
            total = total + sums.detach()
            gradients = [_in_full(a) + b for a, b in zip(gradients, new, strict=True)]
    assert total is not None
    # reshape, because flatten rejects the gradient of a single number, (K,)
    parts = [part.reshape(len(position), -1) for part in gradients]
    return total / batch_size, torch.cat(parts, dim=1)


def _in_full(tensor: Tensor) -> Tensor:
    """Return the tensor in float32 at least."""
    return tensor.float() if tensor.itemsize < 4 else tensor


def _slice(batch: Any, part: slice, shared: bool) -> Any:
    """Return a part of each copy's batch."""
    if isinstance(batch, dict):
        return {name: _slice(value, part, shared) for name, value in batch.items()}
    return batch[part] if shared else batch[:, part]
