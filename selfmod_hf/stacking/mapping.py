"""Call one architecture with the values of K copies at once: `vmap` over `functional_call`."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.utils._pytree import tree_map, tree_map_only

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

    `copies` are the parameters and buffers of each copy, name -> (K, *shape). `common` are the same for all copies,
    name -> shape. The function returns the result of `read`, each tensor (K, ...). It raises a RuntimeError if the
    module draws random numbers.

    Args:
        module: the architecture. It is called with `inputs`, or with `**inputs` if they are a dict.
        read: (outputs, targets) of one copy -> tensors, such as one loss per sample.
        dims: of inputs and of targets: 0 if each copy has its own, (K, ...), None if all share one. A dict of inputs
            may have a dict of these.
        vectorize: True: one batched computation. False: a loop over copies, for modules without a `vmap` rule.
        compute_dtype: round parameters and buffers to this type. Outputs are in float32 before they are read.

    Example:
        >>> losses_of = map_copies(nn.Linear(2, 3), nn.CrossEntropyLoss(reduction="none"), dims=ONE_BATCH)
        >>> copies = {"weight": torch.zeros(5, 3, 2), "bias": torch.zeros(5, 3)}
        >>> losses_of(copies, {}, torch.zeros(4, 2), torch.zeros(4, dtype=torch.int64)).shape
        torch.Size([5, 4])
    """
    call_one = functools.partial(_call_one, module, read, compute_dtype)
    if vectorize:
        return vmap(call_one, in_dims=(0, None, *dims), randomness="error")
    return functools.partial(_call_in_turn, call_one, dims)


def _call_one(  # noqa: PLR0913 - the first three are bound by `map_copies`
    module: nn.Module,
    read: Callable[[Any, Any], Any],
    compute_dtype: torch.dtype | None,
    own: Values,
    common: Values,
    inputs: Any,
    targets: Any,
) -> Any:
    """Return the result of `read` for one copy."""
    values = {**common, **own}
    if compute_dtype is not None:
        # explicitly, because autocast leaves nn.Linear in float32 inside of vmap (torch 2.15)
        for name, value in values.items():
            if value.is_floating_point():
                values[name] = value.to(compute_dtype)
    positional: tuple[Any, ...] = (inputs,)
    keywords: dict[str, Any] = {}
    if isinstance(inputs, dict):
        positional = ()
        keywords = inputs

    # the fast path of nn.TransformerEncoderLayer in eval mode has no derivatives, and vmap hides that some are needed
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        outputs = functional_call(module, values, positional, keywords)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)

    def in_float32(output: Tensor) -> Tensor:
        return output.float() if output.dtype == compute_dtype else output

    if compute_dtype is not None:
        outputs = tree_map_only(Tensor, in_float32, outputs)
    return read(outputs, targets)


def _call_in_turn(  # noqa: PLR0913 - the first two are bound by `map_copies`
    call_one: Mapped,
    dims: tuple[Any, Any],
    copies: Values,
    common: Values,
    inputs: Any,
    targets: Any,
) -> Tensor:
    """Return the results of all copies, called one after another."""
    first = next(iter(copies.values()))  # (K, *shape)
    results = []
    for k in range(len(first)):
        own = {name: value[k] for name, value in copies.items()}
        own_inputs, own_targets = inputs, targets
        if dims != ONE_BATCH:
            own_inputs = tree_map(operator.itemgetter(k), inputs)
            own_targets = targets[k]
        results.append(call_one(own, common, own_inputs, own_targets))
    return torch.stack(results)


def part_of(values: Any, index: Tensor | slice | int) -> Any:
    """Return some samples of a tensor or of a dict of tensors.

    Args:
        values: (n, ...).
        index: a tensor of any shape, a slice, or one number.

    Example:
        >>> part_of({"x": torch.arange(9)}, torch.tensor([[1, 2], [7, 8]]))
        {'x': tensor([[1, 2],
                [7, 8]])}
    """
    if isinstance(values, dict):
        parts = {}
        for name, value in values.items():
            parts[name] = part_of(value, index)
        return parts
    if isinstance(index, Tensor):
        selected = values.index_select(0, index.flatten().to(values.device))  # (number of indices, ...)
        return selected.unflatten(0, index.shape)
    return values[index]
