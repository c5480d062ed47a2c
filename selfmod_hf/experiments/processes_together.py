"""The processes of a launcher, and decisions that they take together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list

T = TypeVar("T")


def join_processes() -> PartialState:
    """Return the state of this process among those of the launcher."""
    return PartialState(cpu=not torch.accelerator.is_available())


def from_main(decide: Callable[[], T]) -> T:
    """Return the decision of the main process. All processes must ask together.

    Args:
        decide: called in the main process alone.

    Raises:
        ValueError: in all processes, if the main process raises one.
    """
    state = PartialState()
    if state.num_processes == 1:
        return decide()
    answer: list[Any] = [None, None]
    if state.is_main_process:
        try:
            answer = [decide(), None]
        except ValueError as error:
            answer = [None, error]
    decision, problem = broadcast_object_list(answer)
    if problem is not None:
        raise problem
    return decision
