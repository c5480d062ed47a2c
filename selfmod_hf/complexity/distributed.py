"""Chains over processes, where torch.distributed runs (`torchrun`, `accelerate launch`), else nothing happens."""

from __future__ import annotations

from collections.abc import Sequence

import torch.distributed as dist

from .traces import Traces


def _world() -> tuple[int, int]:
    """Return this process's number and how many there are."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def my_chains(num_chains: int) -> Sequence[int]:
    """Return the numbers of the chains that this process runs: every world-size-th."""
    rank, world = _world()
    return range(rank, num_chains, world)


def gather_chains(traces: Traces, num_chains: int) -> Traces:
    """Return the traces of all chains, in the chains' order, in every process."""
    _, world = _world()
    if world == 1:
        return traces
    parts: list[Traces | None] = [None] * world
    dist.all_gather_object(parts, traces)
    groups, _, draws = traces.losses.shape
    complete = Traces.empty(groups, num_chains, draws)
    for rank, part in enumerate(parts):
        assert part is not None
        complete.write(part, range(groups), range(rank, num_chains, world))
    return complete
