"""The order of samples and their division into batches, the same for any number of processes and any accumulation."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from ..errors import InputError
from .augmentation import mixed_generator
from .images import ImageTensors
from .tensors import Batch, TensorData, unflattened, unlabelled

NORMALIZED_BYTES = 1 << 30  # up to this size the normalized images are kept


def epoch_order(num_samples: int, seed: int, epoch: int) -> Tensor:
    """Return the order of the samples in one epoch, (num_samples,), a function of the seed and the epoch only.

    Example:
        >>> sorted(epoch_order(4, seed=0, epoch=1).tolist())
        [0, 1, 2, 3]
    """
    return torch.randperm(num_samples, generator=mixed_generator(seed, epoch))


class EpochBatchSampler(Sampler[Tensor]):
    """Yield each process's share of each global batch, as index tensors.

    Every process draws the same order and takes its slice of each batch. This includes the last batch of an epoch,
    however few samples are left, so that the union over processes is the batch of a single process. A process with an
    empty slice gets the index -1. `TensorData` turns it into a sample without a loss.

    Args:
        num_samples: N.
        batch_size: samples per process in a full batch.
        seed: seed of the order. Each epoch has its own order.
        num_processes: P. A global batch has P * batch_size samples.
        process_index: index of this process.
        drop_last: leave out a last batch with fewer samples.

    Raises:
        ValueError: with drop_last, fewer samples than one batch has.

    Example:
        >>> sampler = EpochBatchSampler(num_samples=5, batch_size=2, seed=0)
        >>> [len(batch) for batch in sampler]
        [2, 2, 1]
    """

    def __init__(  # noqa: PLR0913 - public, and each is one number of the same division
        self,
        num_samples: int,
        batch_size: int,
        seed: int,
        num_processes: int = 1,
        process_index: int = 0,
        drop_last: bool = False,
    ) -> None:
        global_batch = batch_size * num_processes
        if drop_last and num_samples < global_batch:
            problem = f"allowed with at least one full batch of {global_batch}, not with {num_samples} samples"
            raise InputError("dataloader_drop_last", True, problem)
        self.num_samples = num_samples
        self.batch_size = batch_size
        self.seed = seed
        self.num_processes = num_processes
        self.process_index = process_index
        self.drop_last = drop_last
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        global_batch = self.batch_size * self.num_processes
        full_batches, left_over = divmod(self.num_samples, global_batch)
        if left_over and not self.drop_last:
            return full_batches + 1
        return full_batches

    def __iter__(self) -> Iterator[Tensor]:
        order = epoch_order(self.num_samples, self.seed, self.epoch)
        global_batch = self.batch_size * self.num_processes
        batches = order.split(global_batch)
        nothing = torch.tensor([-1])
        for batch in batches[: len(self)]:
            shares = batch.tensor_split(self.num_processes)
            share = shares[self.process_index]
            yield share if len(share) else nothing


class MemberBatchSampler(Sampler[Tensor]):
    """Yield the batches of K samplers of equal length side by side, as index tensors (K, B)."""

    def __init__(self, samplers: Sequence[EpochBatchSampler]) -> None:
        self.samplers = samplers

    def set_epoch(self, epoch: int) -> None:
        for sampler in self.samplers:
            sampler.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.samplers[0])

    def __iter__(self) -> Iterator[Tensor]:
        for batches in zip(*self.samplers, strict=True):
            yield torch.stack(batches)


class MemberBatches(Dataset):
    """Gather batches of `TensorData` for K networks at once.

    Every image is read K times an epoch, so all images are normalized once if memory allows it. On a CPU the
    conversion of each batch took longer than the networks' arithmetic.

    Args:
        data: the samples.
        in_use: number of batches in use at once. The next batch takes the memory of the oldest one, because fresh
            memory for every batch cost a fifth to a quarter of a step on a CPU. None: every batch gets its own.
        bfloat16: give images in bfloat16, for a model with the same rounding (autocast). This halves the
            bytes to read.
    """

    def __init__(self, data: TensorData, in_use: int | None = None, bfloat16: bool = False) -> None:
        self.data = data
        self.normalized: tuple[Tensor, Tensor] | None = None  # (N, C, H, W), (N,)
        if isinstance(data, ImageTensors) and 4 * data.pixels.numel() <= NORMALIZED_BYTES:
            pixels, labels = data.all()
            if bfloat16:
                pixels = pixels.bfloat16()
            self.normalized = pixels, labels
        self._buffers: deque[Tensor] = deque()
        for _ in range(in_use or 0):
            self._buffers.append(torch.empty(0))

    def __len__(self) -> int:
        return len(self.data)

    def __getitems__(self, indices: Tensor) -> Batch:
        """Return the members' batches of indices (K, B), each tensor with a leading dimension of K."""
        if self.normalized is None:
            rows = indices.to(self.data.labels.device)
            return self.data.take_members(rows)
        pixels, labels = self.normalized
        rows = indices.flatten().to(labels.device)
        buffer = self._buffer(pixels, len(rows))
        pixels = torch.index_select(pixels, 0, rows, out=buffer)
        labels = labels.index_select(0, rows)
        batch = {"pixel_values": pixels, "labels": labels}
        return unflattened(batch, indices.shape)

    def _buffer(self, pixels: Tensor, count: int) -> Tensor | None:
        """Return the memory for the next batch of `count` images."""
        if not self._buffers:
            return None
        self._buffers.rotate()
        if len(self._buffers[0]) < count:
            self._buffers[0] = pixels.new_empty(count, *pixels.shape[1:])
        return self._buffers[0][:count]


class WholeBatches(Dataset):
    """Make each batch of `TensorData` with one gather. A DataLoader of the data themselves collates samples."""

    def __init__(self, data: TensorData) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitems__(self, indices: Tensor | Sequence[int]) -> Batch:
        """Return the batch of indices (B,)."""
        return self.data.batch(indices)


class AugmentedBatches(Dataset):
    """Make batches of training images, each image mapped by its own draw of this epoch.

    Args:
        data: images with an augmentation.
        samplers: their seeds and epochs decide the draws. One per member of a population, else one.
        members: whether indices are (K, B).
    """

    def __init__(self, data: ImageTensors, samplers: Sequence[EpochBatchSampler], members: bool) -> None:
        self.data = data
        self.samplers = samplers
        self.members = members
        self._epoch = -1  # epoch of the maps drawn last
        self._drawn = torch.empty(0)

    def __len__(self) -> int:
        return len(self.data)

    def __getitems__(self, indices: Tensor) -> Batch:
        """Return the batch of indices (B,), or with members those of indices (K, B)."""
        maps = self._maps()  # (samplers, N, 2, 3)
        rows = indices.clamp(min=0).to(maps.device)
        samples = rows.flatten()
        samples = samples.to(self.data.labels.device)
        if not self.members:
            own_maps = maps[0, rows]  # (B, 2, 3)
            batch = self.data.take(samples, own_maps)
            labels = batch["labels"]
            missing = (indices < 0).to(labels.device)
            missing = missing.view(-1, *[1] * (labels.dim() - 1))  # (B,) or (B, 1)
            batch["labels"] = torch.where(missing, unlabelled(labels), labels)
            return batch
        members = torch.arange(len(rows), device=maps.device)
        own_maps = maps[members.unsqueeze(1), rows]  # (K, B, 2, 3)
        own_maps = own_maps.flatten(0, 1)
        batch = self.data.take(samples, own_maps)
        return unflattened(batch, indices.shape)

    def _maps(self) -> Tensor:
        """Return this epoch's maps."""
        epoch = self.samplers[0].epoch
        if epoch != self._epoch:
            augmentation = self.data.augmentation
            assert augmentation is not None
            count, _, height, width = self.data.pixels.shape
            draws = []
            for sampler in self.samplers:
                maps = augmentation.draw(count, height, width, sampler.seed, epoch)
                draws.append(maps)
            self._epoch = epoch
            drawn = torch.stack(draws)
            self._drawn = drawn.to(self.data.device)
        return self._drawn


class TensorDataLoader(DataLoader):
    """Load batches of `TensorData`, each with one gather, and augment them if the data have an augmentation.

    `in_use` and `bfloat16` are those of `MemberBatches`.

    Example:
        >>> images = ImageTensors(torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.arange(4))
        >>> loader = TensorDataLoader(images, EpochBatchSampler(num_samples=4, batch_size=2, seed=0))
        >>> [len(batch["labels"]) for batch in loader]
        [2, 2]
    """

    def __init__(
        self,
        dataset: TensorData,
        batch_sampler: EpochBatchSampler | MemberBatchSampler,
        in_use: int | None = None,
        bfloat16: bool = False,
    ) -> None:
        batches: Dataset = WholeBatches(dataset)
        members = isinstance(batch_sampler, MemberBatchSampler)
        samplers = batch_sampler.samplers if isinstance(batch_sampler, MemberBatchSampler) else [batch_sampler]
        if isinstance(dataset, ImageTensors) and dataset.augmentation is not None:
            batches = AugmentedBatches(dataset, samplers, members)
        elif members:
            batches = MemberBatches(dataset, in_use, bfloat16)
        # an index tensor in place of a list of numbers: `__getitems__` takes both
        super().__init__(batches, batch_sampler=batch_sampler, collate_fn=whole_batch)  # type: ignore[arg-type]

    def set_epoch(self, epoch: int) -> None:
        self.batch_sampler.set_epoch(epoch)  # type: ignore[union-attr]


def whole_batch(batch: Any) -> Any:
    """Return a batch as it is. This is the collate function for data in batches."""
    return batch
