"""Which samples come when: seeded, the same for any number of processes and any accumulation."""

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from ..errors import InputError
from .images import ImageTensors
from .tensors import IGNORED_LABEL, TensorData


def epoch_order(num_samples: int, seed: int, epoch: int) -> torch.Tensor:
    """The order of the samples in one epoch, (num_samples,): a function of the seed and the epoch alone."""
    mixed = np.random.SeedSequence((seed, epoch)).generate_state(1, np.uint64)[0]
    return torch.randperm(num_samples, generator=torch.Generator().manual_seed(int(mixed)))


class EpochBatchSampler(Sampler[torch.Tensor]):
    """Each process's share of each global batch, as index tensors.

    Every process draws the same order and takes its slice of each batch, the last one of an epoch too, however
    few samples are left: the union over processes is what one process with the whole batch sees. A process whose
    slice is empty gets the index -1, which `TensorData` turns into a sample that enters no loss.

    Args:
        num_samples: N.
        batch_size: samples a process takes of a full batch.
        seed: of the order; each epoch has its own.
        num_processes: P; a global batch has P * batch_size samples.
        process_index: which of them this is.
        drop_last: leave out a last batch that is not full.

    Raises:
        ValueError: with drop_last, fewer samples than one batch has.
    """

    def __init__(
        self,
        num_samples: int,
        batch_size: int,
        seed: int,
        num_processes: int = 1,
        process_index: int = 0,
        drop_last: bool = False,
    ) -> None:
        if drop_last and num_samples < batch_size * num_processes:
            batch = batch_size * num_processes
            problem = f"allowed with at least one full batch of {batch}, not with {num_samples} samples"
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
        return self.num_samples // global_batch if self.drop_last else -(-self.num_samples // global_batch)

    def __iter__(self) -> Iterator[torch.Tensor]:
        order = epoch_order(self.num_samples, self.seed, self.epoch)
        nothing = torch.tensor([-1])
        for batch in order.split(self.batch_size * self.num_processes)[: len(self)]:
            share = batch.tensor_split(self.num_processes)[self.process_index]
            yield share if len(share) else nothing


class MemberBatchSampler(Sampler[torch.Tensor]):
    """The batches of K samplers of equal length side by side: index tensors (K, B)."""

    def __init__(self, samplers: Sequence[EpochBatchSampler]) -> None:
        self.samplers = samplers

    def set_epoch(self, epoch: int) -> None:
        for sampler in self.samplers:
            sampler.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.samplers[0])

    def __iter__(self) -> Iterator[torch.Tensor]:
        for batches in zip(*self.samplers, strict=True):
            yield torch.stack(batches)


NORMALIZED_BYTES = 1 << 30  # up to this size the normalized images are kept


class MemberBatches(Dataset):
    """Batches of `TensorData` for K networks at once, each with one gather.

    Every image is read K times an epoch, so it is normalized once and for all, where memory allows it: on a CPU the
    conversion of each batch took longer than the networks' arithmetic.

    Args:
        data: what is gathered from.
        in_use: how many batches are in use at once. The next one takes the oldest one's memory: fresh memory for
            every batch cost a fifth to a quarter of a step on a CPU. None: every batch gets its own.
        bfloat16: images in bfloat16, for a model that would round them so itself (autocast); half the bytes to read.
    """

    def __init__(self, data: TensorData, in_use: int | None = None, bfloat16: bool = False) -> None:
        self.data = data
        small = isinstance(data, ImageTensors) and 4 * data.pixels.numel() <= NORMALIZED_BYTES
        self.normalized = data.all() if isinstance(data, ImageTensors) and small else None  # (N, C, H, W), (N,)
        if self.normalized is not None and bfloat16:
            self.normalized = self.normalized[0].bfloat16(), self.normalized[1]
        self._buffers: deque[torch.Tensor] = deque([torch.empty(0)] * (in_use or 0))

    def __len__(self) -> int:
        return len(self.data)

    def __getitems__(self, indices: torch.Tensor) -> dict[str, torch.Tensor]:
        """The members' batches of indices (K, B), each tensor with a leading dimension of K."""
        if self.normalized is None:
            return self.data.take_members(indices.to(self.data.labels.device))
        pixels, labels = self.normalized
        rows = indices.flatten().to(labels.device)
        pixels = torch.index_select(pixels, 0, rows, out=self._buffer(pixels, len(rows)))
        batch = {"pixel_values": pixels, "labels": labels.index_select(0, rows)}
        return {name: values.unflatten(0, indices.shape) for name, values in batch.items()}

    def _buffer(self, pixels: torch.Tensor, count: int) -> torch.Tensor | None:
        """Where the next batch of `count` images goes."""
        if not self._buffers:
            return None
        self._buffers.rotate()
        if len(self._buffers[0]) < count:
            self._buffers[0] = pixels.new_empty(count, *pixels.shape[1:])
        return self._buffers[0][:count]


class WholeBatches(Dataset):
    """Batches of `TensorData`, each made with one gather. A DataLoader of the data themselves collates samples."""

    def __init__(self, data: TensorData) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitems__(self, indices: torch.Tensor | Sequence[int]) -> dict[str, torch.Tensor]:
        """Return the batch of indices (B,)."""
        return self.data.batch(indices)


class AugmentedBatches(Dataset):
    """Batches of training images, each image moved as its own draw of this epoch says.

    Args:
        data: with an augmentation.
        samplers: whose seeds and epochs decide the draws; several: the members of a population.
        members: whether indices are (K, B).
    """

    def __init__(self, data: ImageTensors, samplers: Sequence[EpochBatchSampler], members: bool) -> None:
        self.data, self.samplers, self.members = data, samplers, members
        self._drawn: tuple[int, torch.Tensor] | None = None

    def __len__(self) -> int:
        return len(self.data)

    def __getitems__(self, indices: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the batch of indices (B,), or with members those of indices (K, B)."""
        maps = self._maps()  # (samplers, N, 2, 3)
        rows = indices.clamp(min=0).to(maps.device)
        if not self.members:
            batch = self.data.take(rows.to(self.data.labels.device), maps[0, rows])
            nobody = (indices < 0).to(batch["labels"].device)
            return {**batch, "labels": batch["labels"].masked_fill(nobody, IGNORED_LABEL)}
        own = maps[torch.arange(len(rows), device=maps.device)[:, None], rows]  # (K, B, 2, 3)
        batch = self.data.take(rows.flatten().to(self.data.labels.device), own.flatten(0, 1))
        return {name: values.unflatten(0, indices.shape) for name, values in batch.items()}

    def _maps(self) -> torch.Tensor:
        """This epoch's maps."""
        epoch = self.samplers[0].epoch
        if self._drawn is None or self._drawn[0] != epoch:
            assert self.data.augmentation is not None
            count, _, height, width = self.data.pixels.shape
            draws = [
                self.data.augmentation.draw(count, height, width, sampler.seed, epoch) for sampler in self.samplers
            ]
            self._drawn = epoch, torch.stack(draws).to(self.data.device)
        return self._drawn[1]


class TensorDataLoader(DataLoader):
    """Load whole batches of `TensorData`, each with one gather, and augment them if the data have an augmentation.

    `in_use` and `bfloat16` are those of `MemberBatches`.
    """

    def __init__(
        self,
        dataset: TensorData,
        batch_sampler: EpochBatchSampler | MemberBatchSampler,
        in_use: int | None = None,
        bfloat16: bool = False,
    ) -> None:
        members = isinstance(batch_sampler, MemberBatchSampler)
        batches: Dataset = WholeBatches(dataset)
        if isinstance(dataset, ImageTensors) and dataset.augmentation is not None:
            samplers = batch_sampler.samplers if isinstance(batch_sampler, MemberBatchSampler) else [batch_sampler]
            batches = AugmentedBatches(dataset, samplers, members)
        elif members:
            batches = MemberBatches(dataset, in_use, bfloat16)
        # an index tensor in place of a list of numbers: `__getitems__` takes both
        super().__init__(batches, batch_sampler=batch_sampler, collate_fn=whole_batch)  # type: ignore[arg-type]

    def set_epoch(self, epoch: int) -> None:
        self.batch_sampler.set_epoch(epoch)  # type: ignore[union-attr]


def whole_batch(batch: Any) -> Any:
    """A collate function for data that comes as batches already."""
    return batch
