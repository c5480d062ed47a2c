"""The processes of a launcher, and decisions that they take together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from torch import distributed

T = TypeVar("T")


def join_processes(device: str | None = None) -> PartialState:
    """Return the state of this process among those of the launcher.

    Args:
        device: "cpu" on a machine with an accelerator. None: the machine's.
    """
    return PartialState(cpu=device == "cpu" or not torch.accelerator.is_available())


def close_process_group() -> None:
    """Close the process group if there is one, because a process without its peers may be aborted at its end."""
    if distributed.is_available() and distributed.is_initialized():
        distributed.barrier()
        distributed.destroy_process_group()


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
