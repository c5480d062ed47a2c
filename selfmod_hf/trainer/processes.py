"""Several processes that train one network: the numbers are those of one process, in whatever order things are called.

Populations are cut by their members instead, see `shares.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from accelerate.data_loader import BatchSamplerShard
from torch.distributed.fsdp import FSDPModule
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import BatchSampler, DataLoader, Dataset, Sampler

from ..data.tensors import IGNORED_LABEL
from .population import SelfModelingPopulation

if TYPE_CHECKING:
    from transformers import Trainer

# what a loader of shares takes over from the loader that transformers has made
_KEPT = (
    "num_workers", "pin_memory", "timeout", "worker_init_fn", "multiprocessing_context", "prefetch_factor",
    "persistent_workers",
)  # fmt: skip


def is_sharded(trainer: Trainer) -> bool:
    """Return whether a process may hold only a part of each weight (FSDP, DeepSpeed)."""
    return trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled


@contextmanager
def own_class(model: Any) -> Iterator[None]:
    """Give a sharded network its own class back for a while.

    FSDP2 replaces the class by one that it makes. transformers copies the code of a network's class beside its
    weights: it would be FSDP's, and no Auto class could load the network.
    """
    changed = type(model)
    if not isinstance(model, FSDPModule):
        yield
        return
    own: Any = next(kind for kind in changed.__mro__ if not issubclass(kind, FSDPModule))
    model.__class__ = own
    try:
        yield
    finally:
        model.__class__ = changed


# ---- weights ----


def forget_evaluation(trainer: Trainer) -> None:
    """Let a network that was evaluated first be prepared for training.

    Accelerate marks a network that it has prepared for evaluation alone, and never wraps a marked one. Its processes
    would train apart, without exchanging gradients.
    """
    if trainer.args.world_size == 1 or is_sharded(trainer) or _is_wrapped(trainer):
        return
    trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)  # autocast comes anew
    trainer.model.__dict__.pop("_is_accelerate_prepared", None)
    trainer.model_wrapped = trainer.model


@torch.no_grad()
def share_state(trainer: Trainer) -> None:
    """Give every process what the first one has: the buffers, and before the first training the parameters too.

    BatchNorm's running statistics follow each process's own samples between two steps. What is evaluated, measured
    and saved is one network. All processes call this together.
    """
    if trainer.args.world_size == 1 or is_sharded(trainer) or isinstance(trainer.model, SelfModelingPopulation):
        return
    tensors = list(trainer.model.buffers())
    if not _is_wrapped(trainer):  # DistributedDataParallel shares the parameters when it wraps a network
        tensors += trainer.model.parameters()
    for tensor in tensors:
        value = tensor.contiguous()
        dist.broadcast(value, src=0)
        tensor.copy_(value)


def _is_wrapped(trainer: Trainer) -> bool:
    return any(isinstance(module, DistributedDataParallel) for module in trainer.model_wrapped.modules())


# ---- data ----


def share_batches(loader: DataLoader, trainer: Trainer) -> DataLoader:
    """Return a loader by which the processes split each batch of one process, the last one too.

    Accelerate fills the last batch with samples from the beginning, so that these count twice.

    Args:
        loader: what transformers has made of the training set for this process.
        trainer: whose loader it is.

    Returns:
        `loader` itself where it is not cut by batches: one process, a data set without a length.
    """
    shard = loader.batch_sampler
    if not isinstance(shard, BatchSamplerShard) or shard.split_batches:
        return loader
    own = shard.batch_sampler
    batch_size = own.batch_size * shard.num_processes
    batches = BatchSampler(own.sampler, batch_size, drop_last=own.drop_last)
    return SharedLoader(
        SharedSamples(loader.dataset),
        batch_sampler=SharesOfBatches(batches, shard.num_processes, shard.process_index),
        collate_fn=_CollateShare(loader.collate_fn, trainer.label_names),
        **{name: getattr(loader, name) for name in _KEPT},
    )


class SharesOfBatches(Sampler[list[int]]):
    """This process's share of each batch, as even as possible. An empty share becomes the index -1.

    Args:
        batches: of all processes together.
        num_processes: P.
        process_index: this process.
    """

    def __init__(self, batches: BatchSampler, num_processes: int, process_index: int) -> None:
        self.batches = batches
        self.num_processes = num_processes
        self.process_index = process_index

    def set_epoch(self, epoch: int) -> None:
        if hasattr(self.batches.sampler, "set_epoch"):
            self.batches.sampler.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self.batches:
            share = torch.tensor(batch).tensor_split(self.num_processes)[self.process_index]
            yield share.tolist() or [-1]


class SharedSamples(Dataset):
    """A data set whose samples come by the share, with a mark of an empty share."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitems__(self, indices: Sequence[int]) -> tuple[list[Any], bool]:
        """The samples of a share, and whether it is empty: then the first sample stands in."""
        empty = indices[0] < 0
        rows = [0] if empty else list(indices)
        if hasattr(self.dataset, "__getitems__"):
            return self.dataset.__getitems__(rows), empty
        return [self.dataset[row] for row in rows], empty


class SharedLoader(DataLoader):
    """Load this process's shares of batches."""

    def set_epoch(self, epoch: int) -> None:
        self.batch_sampler.set_epoch(epoch)  # type: ignore[union-attr]


class _CollateShare:
    """Collates a share. The labels of an empty one are -100, so that its stand-in enters no loss."""

    def __init__(self, collate: Callable[[list[Any]], Any], label_names: Sequence[str]) -> None:
        self.collate = collate
        self.label_names = label_names

    def __call__(self, share: Any) -> Any:
        samples, empty = share
        batch = self.collate(samples)
        if empty:
            for name in self.label_names:
                if name in batch:
                    batch[name] = torch.full_like(batch[name], IGNORED_LABEL)
        return batch
