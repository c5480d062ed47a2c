"""Random numbers by (seed, member, chain) alone, however the chains are batched, cut or spread.

Each chain has two streams. Minibatches depend on (seed, chain), noise on (seed, member, chain). Chains with a control
variate draw their minibatches from one partition of the data, which depends on the seed alone. All members of a
population see the same minibatches in chain c. One gather then serves all of them, and their differences do not depend
on the choice of data. Their noise is independent.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from .chain_state import Stateful

_MINIBATCHES, _NOISE, _PARTITION, _ORDER, _OTHERS = range(5)
DECISIONS = 6  # of `Noise`, to accept or reject
_CHOICE = 7
PASSES_PER_PARTITION = 8


def _generator(device: torch.device, seed: int, *key: int) -> torch.Generator:
    """Return a generator seeded by all these numbers."""
    sequence = np.random.SeedSequence(entropy=seed, spawn_key=key)
    words = sequence.generate_state(1, np.uint64)
    word = int(words[0])
    generator = torch.Generator(device)
    return generator.manual_seed(word >> 1)


def some_samples(num_samples: int, most: int, seed: int) -> Tensor | slice:
    """Return the places of at most `most` samples, chosen at random because data may be sorted. Few are all taken."""
    if num_samples <= most:
        return slice(None)
    generator = _generator(torch.device("cpu"), seed, _CHOICE)
    order = torch.randperm(num_samples, generator=generator)
    return order[:most]


class MinibatchStream:
    """Draw the indices of one chain's minibatches.

    The data are shuffled again for every pass. An incomplete last batch is left out.

    Args:
        seed: of the run.
        chain: the chain's own number.
        num_samples: n.
        batch_size: B.
    """

    def __init__(self, seed: int, chain: int, num_samples: int, batch_size: int) -> None:
        self.generator = _generator(torch.device("cpu"), seed, _MINIBATCHES, chain)
        self._num_samples = num_samples
        self._batch_size = batch_size

    def epoch(self) -> Tensor:
        """Return the minibatches of the next pass, (steps, batch_size), int64."""
        order = torch.randperm(self._num_samples, generator=self.generator)
        steps = self._num_samples // self._batch_size
        used = steps * self._batch_size
        return order[:used].view(steps, self._batch_size)


class Minibatches(Stateful):
    """Draw the minibatches of C chains.

    Args:
        seed: of the run.
        chains: the chains' own numbers.
        num_samples: n.
        batch_size: B, at most n. With n samples every batch is the complete data set.
        device: device of the indices.
    """

    STATE = ("_generators", "_others", "_epoch", "_passed")

    def __init__(
        self,
        seed: int,
        chains: Sequence[int],
        num_samples: int,
        batch_size: int,
        device: torch.device,
    ) -> None:
        self._device = device
        self._complete = batch_size == num_samples
        self._streams: list[MinibatchStream] = []
        self._generators: list[torch.Generator] = []
        cpu = torch.device("cpu")
        self._others = [_generator(cpu, seed, _OTHERS, chain) for chain in chains]
        self._num_samples = num_samples
        for chain in chains:
            stream = MinibatchStream(seed, chain, num_samples, batch_size)
            self._streams.append(stream)
            self._generators.append(stream.generator)
        self._epoch = torch.empty(len(chains), 0, batch_size, dtype=torch.int64)  # (C, steps, B)
        self._passed = 0

    def next(self) -> Tensor | None:
        """Return indices (C, B), or None if every batch is the complete data set."""
        if self._complete:
            return None
        if self._passed == self._epoch.shape[1]:
            epochs = [stream.epoch() for stream in self._streams]
            self._epoch = torch.stack(epochs)
            self._passed = 0
        batch = self._epoch[:, self._passed]
        self._passed += 1
        return batch.to(self._device, non_blocking=True)

    def others(self) -> Tensor:
        """Return indices (C, B) that are independent of all minibatches of `next`, drawn with replacement."""
        size = (self._epoch.shape[2],)
        rows = [torch.randint(self._num_samples, size, generator=own) for own in self._others]
        return torch.stack(rows).to(self._device)


class PartitionedMinibatches(Stateful):
    """Draw the minibatches of C chains from one partition of the data. The chains with a control variate use it.

    The data are cut into blocks of B samples at random. Every chain takes each block once per pass, in an order of its
    own. After `PASSES_PER_PARTITION` passes the data are cut again. The gradients at w* are then computed once per
    block, whatever the number of passes and chains. An incomplete last block is left out until the next cut.

    Above n/2 there is only one block. Every chain then draws a block of its own at every step.

    Args:
        seed: of the run.
        chains: the chains' own numbers.
        num_samples: n.
        batch_size: B, below n.
        device: device of the indices.

    Attributes:
        blocks: the partition, (S, B), int64. Every new one is another tensor. Above n/2 these are the blocks of this
            step, one for each chain, and then those of `other_places`.
        places: the block of each chain in this step, (C,), int64.
    """

    STATE = ("_cuts", "_orders", "_others", "_passes", "_order", "_passed", "blocks")

    def __init__(
        self,
        seed: int,
        chains: Sequence[int],
        num_samples: int,
        batch_size: int,
        device: torch.device,
    ) -> None:
        cpu = torch.device("cpu")
        self._cuts = _generator(cpu, seed, _PARTITION)
        self._orders = [_generator(cpu, seed, _ORDER, chain) for chain in chains]
        self._others = [_generator(cpu, seed, _OTHERS, chain) for chain in chains]
        self._num_samples = num_samples
        self._batch_size = batch_size
        self._one_block = 2 * batch_size > num_samples
        self._device = device
        self._passes = 0
        self._order = torch.empty(len(chains), 0, dtype=torch.int64)  # (C, S)
        self._passed = 0
        self.blocks = torch.empty(0, batch_size, dtype=torch.int64, device=device)
        self.places = torch.empty(0, dtype=torch.int64, device=device)

    @property
    def num_chains(self) -> int:
        """Return C."""
        return len(self._orders)

    def next(self) -> Tensor:
        """Return indices (C, B)."""
        if self._one_block:
            self.blocks = self._own_blocks(self._orders)
            self.places = torch.arange(self.num_chains, device=self._device)
            return self.blocks
        if self._passed == self._order.shape[1]:
            if self._passes % PASSES_PER_PARTITION == 0:
                self.blocks = self._cut()
            self._passes += 1
            count = len(self.blocks)
            orders = [torch.randperm(count, generator=own) for own in self._orders]
            self._order = torch.stack(orders)
            self._passed = 0
        places = self._order[:, self._passed]
        self._passed += 1
        self.places = places.to(self._device, non_blocking=True)
        return self.blocks[self.places]

    def other_places(self) -> Tensor:
        """Return a block for each chain that is not the block of this step, (C,)."""
        if self._one_block:
            own = self.blocks[: self.num_chains]
            self.blocks = torch.cat([own, self._own_blocks(self._others)])
            return self.places + self.num_chains
        count = len(self.blocks)
        steps = []
        for generator in self._others:
            step = torch.randint(count - 1, (1,), generator=generator)
            steps.append(step + 1)
        moved = torch.cat(steps).to(self._device)
        return (self.places + moved) % count

    def _own_blocks(self, generators: Sequence[torch.Generator]) -> Tensor:
        """Return a block of B samples for each chain, (C, B)."""
        blocks = []
        for generator in generators:
            order = torch.randperm(self._num_samples, generator=generator)
            blocks.append(order[: self._batch_size])
        return torch.stack(blocks).to(self._device)

    def _cut(self) -> Tensor:
        """Return a new partition, (S, B)."""
        order = torch.randperm(self._num_samples, generator=self._cuts)
        count = self._num_samples // self._batch_size
        used = order[: count * self._batch_size]
        return used.view(count, self._batch_size).to(self._device)


class Noise(Stateful):
    """Draw standard normal numbers for R rows. Rows of one member and chain get the same.

    Args:
        seed: of the run.
        rows: (member, chain) of each row.
        like: a tensor (R, P) of the type and on the device of the noise.
        stream: which of the independent noises.
    """

    STATE = ("_generators",)

    def __init__(self, seed: int, rows: Sequence[tuple[int, int]], like: Tensor, stream: int = _NOISE) -> None:
        places: dict[tuple[int, int], int] = {}  # (member, chain) -> its generator's place
        self._generators = []
        place_of_row = []
        for row in rows:
            if row not in places:
                places[row] = len(places)
                generator = _generator(like.device, seed, stream, *row)
                self._generators.append(generator)
            place_of_row.append(places[row])
        num_parameters = like.shape[1]
        self._drawn = like.new_empty(len(places), num_parameters)  # (generators, P)
        self._rows: Tensor | None = None  # place of each row's generator. None: each row has its own
        if len(places) < len(rows):
            self._rows = torch.tensor(place_of_row, device=like.device)

    def draw(self) -> Tensor:
        """Return the next noise, (R, P). The next call overwrites it."""
        for row, generator in zip(self._drawn, self._generators, strict=True):
            row.normal_(generator=generator)  # (P,)
        if self._rows is None:
            return self._drawn
        return self._drawn[self._rows]
