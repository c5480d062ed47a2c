"""Compute the losses of the probes at the positions of chains. `probes.py` has the statistics of them."""

from __future__ import annotations

import torch
from torch import Tensor

from ..stacking import Batch, Mapped, ParameterLayout, Values, chunk_ranges, part_of, repeated


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
