"""Replay a computation as the flat list of tensor operations it ran, without the layers of Python around them.

A small network's step through `vmap`, `functional_call`, modules and autograd costs more in bookkeeping than in
arithmetic. `Replay` records the operations of the first call (torch.fx's `make_fx`), shortens them (`shorten.py`) and
runs those afterwards, one after another. Where recording fails, or the second call's numbers differ from the function's
own (a branch that depends on data), it calls the function itself, and `recorded` is False.

A recording's sums may be taken in another order than the function's. So that a caller's numbers do not depend on what
other callers of the same recording, in other threads, have done so far, each one's first two calls are the function's.
"""

from __future__ import annotations

import itertools
import logging
import threading
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import TreeSpec, tree_flatten, tree_leaves, tree_unflatten

from .shorten import shorten

# held while Python runs a module: functional_call lends it the copies' weights, make_fx patches all of nn.Module
_LOCK = threading.RLock()
_LOG = logging.getLogger(__name__)


class Replay:
    """A function of tensors (nested in dicts and lists), always called with tensors of the same shapes.

    Args:
        function: what to replay.
        tolerance: relative and absolute difference of the second call at which the recording is given up; wider for
            computations in low precision, where the order of a sum shows.
    """

    def __init__(self, function: Callable[..., Any], tolerance: tuple[float, float] = (1e-4, 1e-6)) -> None:
        self._function = function
        self._tolerance = tolerance
        self._recorded: Callable[..., list[Tensor]] | None = None
        self._structure: TreeSpec | None = None  # of the result
        self._calls = 0  # of the function, by all callers

    @property
    def recorded(self) -> bool:
        """Whether calls from the third on run the recording."""
        return self._recorded is not None

    def caller(self) -> Callable[..., Any]:
        """What one caller, of any number, calls in place of the function."""
        calls = itertools.count()
        return lambda *arguments: self._call(next(calls), arguments)

    def _call(self, number: int, arguments: tuple[Any, ...]) -> Any:
        if number >= 2 and self._recorded is not None:
            return self._replay(arguments)
        with _LOCK:
            expected = self._function(*arguments)
            if self._calls == 0:
                self._recorded = self._record(arguments)
            elif self._calls == 1 and self._recorded is not None and not self._agrees(expected, arguments):
                _LOG.debug("the recording is given up: it gives other numbers than the function")
                self._recorded = None
            self._calls += 1
        return expected

    def _replay(self, arguments: tuple[Any, ...]) -> Any:
        assert self._recorded is not None
        assert self._structure is not None
        with torch.no_grad():
            return tree_unflatten(self._recorded(*tree_leaves(arguments)), self._structure)

    def _record(self, arguments: tuple[Any, ...]) -> Callable[..., list[Tensor]] | None:
        leaves, given = tree_flatten(arguments)

        def on_leaves(*leaves: Tensor) -> list[Tensor]:
            found, self._structure = tree_flatten(self._function(*tree_unflatten(leaves, given)))
            return found

        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of the module's own code, which has run once already
                recorded = make_fx(on_leaves, tracing_mode="fake")(*leaves)
                shorten(recorded.graph)
                recorded.recompile()
        except Exception as error:  # a module may do anything that cannot be recorded: it then runs as it is
            _LOG.debug("not recorded: %s: %s", type(error).__name__, error)
            return None
        for node in recorded.graph.nodes:
            node.meta.clear()  # the first call's tensors, which nothing needs any more
        return recorded.forward

    def _agrees(self, expected: Any, arguments: tuple[Any, ...]) -> bool:
        relative, absolute = self._tolerance
        try:
            found = self._replay(arguments)
        except Exception:  # a shape that depends on data
            return False
        pairs = zip(tree_leaves(expected), tree_leaves(found), strict=True)
        return all(torch.allclose(a, b, rtol=relative, atol=absolute, equal_nan=True) for a, b in pairs)
