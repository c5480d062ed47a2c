"""Random numbers that depend on (seed, member, chain) alone, however the chains are batched, cut or spread.

Two streams per chain: minibatches, keyed by (seed, chain), and noise, keyed by (seed, member, chain). All members
of a population see the same minibatches in chain c, which is one gather for all of them and takes the choice of
data out of their differences; their noise is independent.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

_MINIBATCHES, _NOISE = 0, 1


def _generator(device: torch.device, seed: int, *key: int) -> torch.Generator:
    """Return a generator whose seed depends on all these numbers."""
    word = np.random.SeedSequence(entropy=seed, spawn_key=key).generate_state(1, np.uint64)[0]
    return torch.Generator(device).manual_seed(int(word) >> 1)


class MinibatchStream:
    """Indices of one chain's minibatches: the data shuffled anew for every pass, an incomplete last batch left out."""

    def __init__(self, seed: int, chain: int, num_samples: int, batch_size: int) -> None:
        self._generator = _generator(torch.device("cpu"), seed, _MINIBATCHES, chain)
        self._num_samples = num_samples
        self._batch_size = batch_size

    def epoch(self) -> Tensor:
        """Return the minibatches of the next pass, (steps, batch_size), int64."""
        steps = self._num_samples // self._batch_size
        order = torch.randperm(self._num_samples, generator=self._generator)
        complete = order[: steps * self._batch_size]
        return complete.view(steps, self._batch_size)


class Minibatches:
    """The minibatches of C chains, one after another.

    Args:
        seed: of the run.
        chains: the chains' own numbers.
        num_samples: n.
        batch_size: B, at most n. With n samples every batch is the complete data set.
        device: where indices are returned.
    """

    def __init__(
        self, seed: int, chains: Sequence[int], num_samples: int, batch_size: int, device: torch.device
    ) -> None:
        self._device = device
        self._complete = batch_size == num_samples
        self._streams = [MinibatchStream(seed, chain, num_samples, batch_size) for chain in chains]
        self._epoch = torch.empty(len(chains), 0, batch_size, dtype=torch.int64)  # (C, steps, B)
        self._passed = 0

    def next(self) -> Tensor | None:
        """Return indices (C, B), or None if every batch is the complete data set."""
        if self._complete:
            return None
        if self._passed == self._epoch.shape[1]:
            self._epoch = torch.stack([stream.epoch() for stream in self._streams])
            self._passed = 0
        batch = self._epoch[:, self._passed]
        self._passed += 1
        return batch.to(self._device, non_blocking=True)


class NoiseStream:
    """Standard normal numbers of one chain around one member."""

    def __init__(self, seed: int, member: int, chain: int, device: torch.device) -> None:
        self._generator = _generator(device, seed, _NOISE, member, chain)

    def fill(self, out: Tensor) -> None:
        """Fill one contiguous row (P,) with the next numbers."""
        out.normal_(generator=self._generator)


class Noise:
    """The noise of R rows. Rows of one member and chain have the same.

    Args:
        seed: of the run.
        rows: (member, chain) of each row.
        like: a tensor (R, P) of the type and on the device of the noise.
    """

    def __init__(self, seed: int, rows: Sequence[tuple[int, int]], like: Tensor) -> None:
        keys = list(dict.fromkeys(rows))
        self._streams = [NoiseStream(seed, *key, like.device) for key in keys]
        self._drawn = like.new_empty(len(keys), like.shape[1])  # (streams, P)
        self._rows: Tensor | None = None  # which stream each row uses; None: row r uses stream r
        if len(keys) < len(rows):
            place = {key: i for i, key in enumerate(keys)}
            self._rows = torch.tensor([place[row] for row in rows], device=like.device)

    def draw(self) -> Tensor:
        """Return the next noise, (R, P). It is overwritten by the one after."""
        for row, stream in zip(self._drawn, self._streams, strict=True):
            stream.fill(row)
        return self._drawn if self._rows is None else self._drawn[self._rows]
