"""Call one architecture with the values of K copies at once: `vmap` over `functional_call`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.utils._pytree import tree_map_only

Batch = Tensor | dict[str, Tensor]
Values = Mapping[str, Tensor]  # parameters and buffers by name
Mapped = Callable[[Values, Values, Any, Any], Any]  # (copies, common, inputs, targets) -> tensors (K, ...)

# dims of inputs and targets: all copies share one batch, or each has its own
ONE_BATCH, OWN_BATCHES = (None, None), (0, 0)


def map_copies(
    module: nn.Module,
    read: Callable[[Any, Any], Any],
    *,
    dims: tuple[Any, Any],
    vectorize: bool = True,
    compute_dtype: torch.dtype | None = None,
) -> Mapped:
    """Return a function that calls a module for all its copies, `(copies, common, inputs, targets) -> tensors`.

    `copies` are parameters and buffers of which each copy has its own, name -> (K, *shape), `common` those that all
    copies share, name -> shape. The function returns what `read` returns, each tensor (K, ...). It raises a
    RuntimeError if the module draws random numbers.

    Args:
        module: the architecture. It is called with `inputs`, or with `**inputs` if that is a dict.
        read: (outputs, targets) of one copy -> tensors, such as one loss per sample.
        dims: of inputs and of targets: 0 where each copy has its own, (K, ...), None where all share one. A dict of
            inputs may have a dict of these.
        vectorize: one batched computation, else a loop over copies, for modules that `vmap` cannot map.
        compute_dtype: round parameters and buffers to this type. Outputs are in float32 before they are read.
    """

    def call_one(own: Values, common: Values, inputs: Any, targets: Any) -> Any:
        values = {**common, **own}
        if compute_dtype is not None:
            # by hand and not by autocast, which inside of vmap leaves nn.Linear in float32 (torch 2.15)
            values |= {name: v.to(compute_dtype) for name, v in values.items() if v.is_floating_point()}
        arguments = ((), inputs) if isinstance(inputs, dict) else ((inputs,), {})
        with _without_fast_attention():
            outputs = functional_call(module, values, *arguments)
        if compute_dtype is not None:
            outputs = tree_map_only(Tensor, lambda t: t.float() if t.dtype == compute_dtype else t, outputs)
        return read(outputs, targets)

    if vectorize:
        return vmap(call_one, in_dims=(0, None, *dims), randomness="error")

    def call_in_turn(copies: Values, common: Values, inputs: Any, targets: Any) -> Any:
        found = []
        for k in range(len(next(iter(copies.values())))):
            own = {name: value[k] for name, value in copies.items()}
            if dims == ONE_BATCH:
                found.append(call_one(own, common, inputs, targets))
            else:
                found.append(call_one(own, common, part_of(inputs, k), targets[k]))
        return torch.stack(found)

    return call_in_turn


@contextlib.contextmanager
def _without_fast_attention() -> Iterator[None]:
    """Keep nn.TransformerEncoderLayer in eval mode from a path without derivatives: inside vmap none seem asked for."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def part_of(values: Any, index: Tensor | slice | int) -> Any:
    """Return the samples at `index`, a tensor of any shape, of a tensor or of a dict of tensors."""
    if isinstance(values, dict):
        return {name: part_of(value, index) for name, value in values.items()}
    if isinstance(index, Tensor):
        return values.index_select(0, index.flatten()).unflatten(0, index.shape)
    return values[index]
