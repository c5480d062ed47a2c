"""Replay a computation as the flat list of tensor operations it ran, without the layers of Python around them.

A small network's step through `vmap`, `functional_call`, modules and autograd costs more in bookkeeping than in
arithmetic. `Replay` records the operations of the first call (torch.fx's `make_fx`) and shortens them (`shorten.py`).
Later calls run these operations one after another. `recorded` is False if few calls are expected, if recording fails,
or if the second call's numbers differ from the function's own (a branch that depends on data). Calls then run the
function itself.

A recording may take its sums in another order than the function. The first two calls of each caller run the function,
so that the caller's numbers do not depend on the progress of other callers in other threads.
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

RECORDED_FROM = 100  # calls. Recording takes about as long as it saves in so many
# held while Python runs a module: functional_call lends it the copies' weights, make_fx patches all of nn.Module
_LOCK = threading.RLock()
_LOG = logging.getLogger(__name__)


class Replay:
    """Record a function of tensors (nested in dicts and lists) and replay it.

    All calls must be with tensors of the same shapes.

    Args:
        function: the function to replay.
        tolerance: relative and absolute difference allowed at the second call. Above it the recording is given up.
            Computations in low precision need a wider one, because the order of a sum shows there.
        calls: the least number that is expected of a caller. Below `RECORDED_FROM` nothing is recorded.

    Example:
        >>> double = Replay(lambda x: 2 * x).caller()
        >>> [float(double(torch.tensor(value))) for value in (1.0, 2.0, 3.0)]  # the third is replayed
        [2.0, 4.0, 6.0]
    """

    def __init__(
        self,
        function: Callable[..., Any],
        tolerance: tuple[float, float] = (1e-4, 1e-6),
        calls: int = RECORDED_FROM,
    ) -> None:
        self._function = function
        self._tolerance = tolerance
        self._is_worthwhile = calls >= RECORDED_FROM
        self._recorded: Callable[..., list[Tensor]] | None = None
        self._structure: TreeSpec | None = None  # of the result
        self._calls = 0  # of the function, by all callers

    @property
    def recorded(self) -> bool:
        """Return whether calls from the third on run the recording."""
        return self._recorded is not None

    def caller(self) -> Callable[..., Any]:
        """Return a stand-in for the function. Each thread needs its own."""
        numbers = itertools.count()

        def call(*arguments: Any) -> Any:
            if next(numbers) >= 2 and self._recorded is not None:
                return self._replay(arguments)
            with _LOCK:
                result = self._function(*arguments)
                if self._calls == 0 and self._is_worthwhile:
                    self._recorded = self._record(arguments)
                elif self._calls == 1 and self._recorded is not None and not self._agrees(result, arguments):
                    _LOG.debug("the recording is given up: it gives other numbers than the function")
                    self._recorded = None
                self._calls += 1
            return result

        return call

    def _replay(self, arguments: tuple[Any, ...]) -> Any:
        """Return the result of the recording."""
        assert self._recorded is not None
        assert self._structure is not None
        with torch.no_grad():
            leaves = self._recorded(*tree_leaves(arguments))
            return tree_unflatten(leaves, self._structure)

    def _record(self, arguments: tuple[Any, ...]) -> Callable[..., list[Tensor]] | None:
        """Return the shortened recording of a call, None if recording fails."""
        leaves, given = tree_flatten(arguments)

        def on_leaves(*leaves: Tensor) -> list[Tensor]:
            result = self._function(*tree_unflatten(leaves, given))
            found, self._structure = tree_flatten(result)
            return found

        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the module's own code has already run once, with its warnings
                recorded = make_fx(on_leaves, tracing_mode="fake")(*leaves)
                shorten(recorded.graph)
                recorded.recompile()
        except Exception as error:  # a module may do anything that cannot be recorded: it then runs as it is
            _LOG.debug("not recorded: %s: %s", type(error).__name__, error)
            return None
        for node in recorded.graph.nodes:
            node.meta.clear()  # free the tensors of the first call
        return recorded.forward

    def _agrees(self, expected: Any, arguments: tuple[Any, ...]) -> bool:
        """Return whether the recording gives the function's own result."""
        relative, absolute = self._tolerance
        try:
            found = self._replay(arguments)
        except Exception:  # a shape that depends on data
            return False
        for a, b in zip(tree_leaves(expected), tree_leaves(found), strict=True):
            if not torch.allclose(a, b, rtol=relative, atol=absolute, equal_nan=True):
                return False
        return True
