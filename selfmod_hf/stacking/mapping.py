"""One architecture called with the values of K copies: `vmap` over `functional_call`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call, vmap

Batch = Tensor | dict[str, Tensor]


def map_copies(
    module: nn.Module,
    copies: Mapping[str, Tensor],
    inputs: Any,
    targets: Any,
    read: Callable[[Any, Any], Any],
    *,
    dims: tuple[Any, Any],
    common: Mapping[str, Tensor] | None = None,
) -> Any:
    """Call a module for all its copies at once.

    Args:
        module: the architecture.
        copies: parameters and buffers of which each copy has its own, name -> (K, *shape).
        inputs: called with as they are, or as keywords where they are a dict.
        targets: given to `read`.
        read: (outputs, targets) of one copy -> tensors.
        dims: of inputs and of targets: 0 where each copy has its own, (K, ...), None where all share one. A dict of
            inputs may have a dict of these.
        common: parameters and buffers that all copies share, name -> shape.

    Returns:
        What `read` returns, each tensor (K, ...).

    Raises:
        RuntimeError: the module draws random numbers.
    """

    def one(own: dict[str, Tensor], inputs: Any, targets: Any) -> Any:
        return read(call_copy(module, {**(common or {}), **own}, inputs), targets)

    return vmap(one, in_dims=(0, *dims), randomness="error")(dict(copies), inputs, targets)


def call_copy(module: nn.Module, state: dict[str, Tensor], inputs: Any) -> Any:
    """Call a module with these parameters and buffers in place of its own."""
    if isinstance(inputs, dict):
        return functional_call(module, state, (), inputs)
    return functional_call(module, state, (inputs,))
