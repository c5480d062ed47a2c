"""Random numbers that depend on (seed, member, chain) alone, however the chains are batched, cut or spread.

Two streams per chain: minibatches, keyed by (seed, chain), and noise, keyed by (seed, member, chain). All members
of a population see the same minibatches in chain c, which is one gather for all of them and takes the choice of
data out of their differences; their noise is independent.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

_MINIBATCHES, _NOISE = 0, 1


def _generator(device: torch.device, seed: int, *key: int) -> torch.Generator:
    word = np.random.SeedSequence(entropy=seed, spawn_key=key).generate_state(1, np.uint64)[0]
    return torch.Generator(device).manual_seed(int(word) >> 1)


class MinibatchStream:
    """Indices of one chain's minibatches: the data shuffled anew for every pass, an incomplete last batch left out."""

    def __init__(self, seed: int, chain: int, num_samples: int, batch_size: int) -> None:
        self._generator = _generator(torch.device("cpu"), seed, _MINIBATCHES, chain)
        self._num_samples, self._batch_size = num_samples, batch_size

    def epoch(self) -> Tensor:
        """(steps, batch_size), int64: the minibatches of the next pass."""
        steps = self._num_samples // self._batch_size
        order = torch.randperm(self._num_samples, generator=self._generator)
        return order[: steps * self._batch_size].view(steps, self._batch_size)


class NoiseStream:
    """Standard normal numbers of one chain around one member."""

    def __init__(self, seed: int, member: int, chain: int, device: torch.device) -> None:
        self._generator = _generator(device, seed, _NOISE, member, chain)

    def fill(self, out: Tensor) -> None:
        """Fill one contiguous row (P,) with the next numbers."""
        out.normal_(generator=self._generator)
