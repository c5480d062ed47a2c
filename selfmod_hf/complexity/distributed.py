"""Spread chains over processes under torch.distributed (`torchrun`, `accelerate launch`). One process runs them all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.distributed as dist

from .traces import Traces


def _world() -> tuple[int, int]:
    """Return this process's number and the number of processes."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def my_chains(num_chains: int) -> Sequence[int]:
    """Return the numbers of this process's chains: every world-size-th."""
    rank, world = _world()
    return range(rank, num_chains, world)


def of_first_process(value: Any) -> Any:
    """Return the first process's value, in every process. All of them must call it."""
    _, world = _world()
    if world == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


def gather_chains(traces: Traces, num_chains: int) -> Traces:
    """Return the traces of all chains, in the chains' order, in every process."""
    _, world = _world()
    if world == 1:
        return traces
    parts: list[Traces | None] = [None] * world
    dist.all_gather_object(parts, traces)
    groups, _, draws, probes = traces.probe_losses.shape
    complete = Traces.empty(groups, num_chains, draws, probes, traces.heat.shape[3])
    for rank, part in enumerate(parts):
        assert part is not None
        chains = range(rank, num_chains, world)
        complete.write(part, range(groups), chains)
    return complete
