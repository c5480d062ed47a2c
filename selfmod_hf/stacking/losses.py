"""Per-sample losses and gradients of K copies at once.

Linear layers become one `bmm`. Gradients are taken outside of `vmap`, through the sum over copies: the copies
share nothing, so the gradient of the sum is every copy's own gradient.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .mapping import Batch, call_copy, map_copies

LossFunction = Callable[[Any, Tensor], Tensor]  # (outputs, targets) -> (B,)


def per_sample_losses(
    module: nn.Module,
    loss_fn: LossFunction,
    copies: Mapping[str, Tensor],
    common: Mapping[str, Tensor],
    inputs: Batch,
    targets: Tensor,
    *,
    shared_batch: bool,
    vectorize: bool = True,
) -> Tensor:
    """Losses (K, B) of K copies.

    Args:
        module: the architecture; called with `inputs`, or with `**inputs` where that is a dict.
        loss_fn: `loss_fn(outputs, targets)` gives one loss per sample, shape (B,).
        copies: parameters and buffers of which each copy has its own, name -> (K, *shape).
        common: those that all copies share, name -> shape.
        inputs: (B, ...) with `shared_batch`, else (K, B, ...): one batch per copy.
        targets: likewise.
        vectorize: one batched computation; else a loop over copies, for modules that `vmap` cannot map.
    """

    with _without_fast_attention():
        if vectorize:
            dims = (None, None) if shared_batch else (0, 0)
            return map_copies(module, copies, inputs, targets, loss_fn, dims=dims, common=common)
        count = len(next(iter(copies.values())))
        rows = []
        for k in range(count):
            own = {name: value[k] for name, value in copies.items()}
            batch = (inputs, targets) if shared_batch else (_row(inputs, k), targets[k])
            rows.append(loss_fn(call_copy(module, {**common, **own}, batch[0]), batch[1]))
        return torch.stack(rows)


@contextlib.contextmanager
def _without_fast_attention() -> Iterator[None]:
    """Keep nn.TransformerEncoderLayer in eval mode from a path without derivatives: inside vmap none seem asked for."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def losses_and_gradients(
    module: nn.Module,
    loss_fn: LossFunction,
    copies: Mapping[str, Tensor],
    common: Mapping[str, Tensor],
    inputs: Batch,
    targets: Tensor,
    *,
    wrt: tuple[str, ...],
    shared_batch: bool,
    vectorize: bool = True,
    micro_batch_size: int | None = None,
) -> tuple[Tensor, list[Tensor]]:
    """Mean loss (K,) of each copy over its batch, and its gradients: one (K, *shape) per name in `wrt`.

    A batch larger than `micro_batch_size` is taken in pieces whose sums are added up: the same mean. In low precision
    the sums are in float32.
    """
    leaves = {name: copies[name].detach().requires_grad_() for name in wrt}
    copies = {**copies, **leaves}
    batch_size = targets.shape[0 if shared_batch else 1]
    step = micro_batch_size or batch_size
    total: Tensor | None = None
    gradients: list[Tensor] = []
    for start in range(0, batch_size, step):
        part = slice(start, start + step)
        if step < batch_size:
            piece = _slice(inputs, part, shared_batch), _slice(targets, part, shared_batch)
        else:
            piece = inputs, targets
        with torch.enable_grad():
            losses = per_sample_losses(
                module, loss_fn, copies, common, *piece, shared_batch=shared_batch, vectorize=vectorize
            )  # (K, b)
            sums = _in_full(losses).sum(1)  # (K,)
            new = torch.autograd.grad(
                sums.sum() / batch_size, list(leaves.values()), allow_unused=True, materialize_grads=True
            )  # zero for what the loss does not use: mask tokens, layers that are not read
        total = sums.detach() if total is None else total + sums.detach()
        gradients = list(new) if not gradients else [_in_full(a) + b for a, b in zip(gradients, new, strict=True)]
    assert total is not None
    return total / batch_size, gradients


def _in_full(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.itemsize < 4 else tensor


def _row(batch: Batch, k: int) -> Batch:
    return {name: value[k] for name, value in batch.items()} if isinstance(batch, dict) else batch[k]


def _slice(batch: Any, part: slice, shared: bool) -> Any:
    index = part if shared else (slice(None), part)
    return {name: value[index] for name, value in batch.items()} if isinstance(batch, dict) else batch[index]
