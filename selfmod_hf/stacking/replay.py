"""Replay a computation as the flat list of tensor operations it ran, without the layers of Python around them.

A small network's step through `vmap`, `functional_call`, modules and autograd costs more in bookkeeping than in
arithmetic. `Replay` records the operations of the first call (torch.fx's `make_fx`) and runs those afterwards:
the same operations in the same order, and no compiler. Where recording fails, or the second call's numbers differ from
the function's own (a branch that depends on data), it steps aside and calls the function itself.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_leaves


class Replay:
    """A function of tensors, (nested in dicts and lists), always called with tensors of the same shapes."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._recorded: Callable[..., Any] | None = None
        self._calls = 0

    def __call__(self, *arguments: Any) -> Any:
        self._calls += 1
        if self._calls > 2 and self._recorded is not None:
            with torch.no_grad():
                return self._recorded(*arguments)
        expected = self._function(*arguments)
        if self._calls == 1:
            self._recorded = self._record(arguments)
        elif self._recorded is not None and not self._agrees(expected, arguments):
            self._recorded = None
        return expected

    def _record(self, arguments: tuple[Any, ...]) -> Callable[..., Any] | None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                recorded = make_fx(self._function)(*arguments)
        except Exception:  # whatever a module does that cannot be recorded: it runs as it is
            return None
        for node in recorded.graph.nodes:
            node.meta.clear()  # the first call's tensors, which nothing needs any more
        return recorded

    def _agrees(self, expected: Any, arguments: tuple[Any, ...]) -> bool:
        assert self._recorded is not None
        with torch.no_grad():
            found = self._recorded(*arguments)
        pairs = zip(tree_leaves(expected), tree_leaves(found), strict=True)
        return all(torch.allclose(a, b, rtol=1e-4, atol=1e-6, equal_nan=True) for a, b in pairs)
