"""Compute the losses of the probes at the positions of chains. `probes.py` has the statistics of them."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from ..stacking import Batch, Mapped, ParameterLayout, Replay, Values, chunk_ranges, part_of, repeated
from .problem import Capacity, Problem


def replay_of_probes(problem: Problem, batch_size: int, capacity: Capacity, tolerance: tuple[float, float]) -> Replay:
    """Return the replay of `losses_of_probes` for pieces of one shape.

    Args:
        problem: with probes.
        batch_size: samples of a step. As many probes are taken at once, or those of a micro-batch.
        capacity: of the problem.
        tolerance: of the recording.
    """
    at_once = min(capacity.micro_batch_size or batch_size, problem.num_probes)
    compute = functools.partial(losses_of_probes, problem.losses_of_one_batch, problem.layout, at_once)
    return Replay(compute, tolerance)


def losses_of_probes(  # noqa: PLR0913 - `Replay` records tensors only if they are arguments
    losses_of: Mapped,
    layout: ParameterLayout,
    at_once: int,
    position: Tensor,
    inputs: Batch,
    targets: Tensor,
    own: Values,
    common: Values,
) -> Tensor:
    """Return the losses of q probes at each position, (R, q), in float32.

    Args:
        losses_of: as for `losses_and_gradients`.
        layout: of the parameters in `position`.
        at_once: probes in one computation.
        position: (R, P).
        inputs: (q, ...).
        targets: (q, ...).
        own: other values of G networks, name -> (G, *shape).
        common: other values of all, name -> shape.
    """
    copies = layout.views(position) | repeated(own, len(position))
    found = []
    with torch.no_grad():
        for part in chunk_ranges(len(targets), at_once):
            chosen = slice(part.start, part.stop)
            losses = losses_of(copies, common, part_of(inputs, chosen), targets[chosen])  # (R, b)
            found.append(losses.float())
    return torch.cat(found, dim=1)
