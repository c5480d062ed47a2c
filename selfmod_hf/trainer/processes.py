"""Training of one network by several processes: the numbers are those of one process, in any order of calls.

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

from ..data.tensors import IGNORED_LABEL, unlabelled
from .population import SelfModelingPopulation
from .wrapped_networks import is_wrapped

if TYPE_CHECKING:
    from transformers import Trainer, TrainingArguments

# arguments of transformers' loader for a loader of shares
_KEPT = (
    "num_workers",
    "pin_memory",
    "timeout",
    "worker_init_fn",
    "multiprocessing_context",
    "prefetch_factor",
    "persistent_workers",
)


def is_sharded(trainer: Trainer) -> bool:
    """Return whether a process may hold only a part of each weight (FSDP, DeepSpeed)."""
    return trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled


@contextmanager
def own_class(model: Any) -> Iterator[None]:
    """Give a sharded network its own class back for a while.

    FSDP2 replaces the class by its own one. transformers copies the code of a network's class beside its weights. It
    would be FSDP's code, and no Auto class could load the network.
    """
    if not isinstance(model, FSDPModule):
        yield
        return
    changed = type(model)
    own = [kind for kind in changed.__mro__ if not issubclass(kind, FSDPModule)]
    model.__class__ = own[0]  # type: ignore[assignment]
    try:
        yield
    finally:
        model.__class__ = changed


def may_leave_parameters_unused(model: Any, args: TrainingArguments) -> bool | None:
    """Return whether DistributedDataParallel looks for parameters without a gradient. None: transformers decides."""
    backbone = getattr(getattr(model, "config", None), "backbone", None)
    if backbone in ("mlp", "embedding_bag") and not is_wrapped(model):
        return False  # these use all of their parameters
    reentrant = (args.gradient_checkpointing_kwargs or {}).get("use_reentrant")
    if args.gradient_checkpointing and not reentrant:
        return True  # transformers would not look, because of the other form of recomputing
    return None


# ---- weights ----


def forget_evaluation(trainer: Trainer) -> None:
    """Let an evaluated network be prepared for training.

    Accelerate marks a network after preparing it for evaluation alone, and never wraps a marked one. Its processes
    would train separately, without exchanging gradients.
    """
    if trainer.args.world_size == 1 or is_sharded(trainer) or _is_in_ddp(trainer):
        return
    trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)  # autocast comes anew
    trainer.model.__dict__.pop("_is_accelerate_prepared", None)
    trainer.model_wrapped = trainer.model


@torch.no_grad()
def share_state(trainer: Trainer) -> None:
    """Give every process the buffers of the first one, and before the first training its parameters too.

    BatchNorm's running statistics follow each process's own samples between two steps, but one network is evaluated,
    measured and saved. All processes call this together.
    """
    if trainer.args.world_size == 1 or is_sharded(trainer):
        return
    if isinstance(trainer.model, SelfModelingPopulation):
        return
    tensors = list(trainer.model.buffers())
    if not _is_in_ddp(trainer):  # DistributedDataParallel shares the parameters when it wraps a network
        tensors += trainer.model.parameters()
    for tensor in tensors:
        value = tensor.contiguous()
        dist.broadcast(value, src=0)
        tensor.copy_(value)


def _is_in_ddp(trainer: Trainer) -> bool:
    """Return whether DistributedDataParallel wraps the network."""
    modules = trainer.model_wrapped.modules()
    return any(isinstance(module, DistributedDataParallel) for module in modules)


# ---- data ----


def share_batches(loader: DataLoader, trainer: Trainer) -> DataLoader:
    """Return a loader for splitting each batch of one process over all processes, the last one too.

    Accelerate fills the last batch with samples from the beginning, so these samples would count twice.

    Args:
        loader: transformers' loader of the training set for this process.
        trainer: owns the loader.

    Returns:
        `loader` itself if it is not cut by batches: one process, or a data set without a length.
    """
    shard = loader.batch_sampler
    if not isinstance(shard, BatchSamplerShard) or shard.split_batches:
        return loader
    own = shard.batch_sampler
    batch_size = own.batch_size * shard.num_processes
    batches = BatchSampler(own.sampler, batch_size, drop_last=own.drop_last)
    settings = {name: getattr(loader, name) for name in _KEPT}
    return SharedLoader(
        SharedSamples(loader.dataset),
        batch_sampler=SharesOfBatches(batches, shard.num_processes, shard.process_index),
        collate_fn=_CollateShare(loader.collate_fn, trainer.label_names, _empty_label(trainer.model)),
        **settings,
    )


def smallest_share(num_samples: int, batch_size: int, num_processes: int, drop_last: bool) -> int:
    """Return a process's smallest number of samples in a batch of an epoch. One stands in for none.

    Args:
        num_samples: N.
        batch_size: of each process.
        num_processes: P. Each batch of P * batch_size samples is split as evenly as possible.
        drop_last: whether an incomplete last batch is left out.

    Example:
        >>> smallest_share(num_samples=70, batch_size=32, num_processes=2, drop_last=False)
        3
    """
    rest = num_samples % (batch_size * num_processes)
    if rest == 0 or drop_last:
        return batch_size
    return max(1, rest // num_processes)


class SharesOfBatches(Sampler[list[int]]):
    """Yield this process's share of each batch, as even as possible. An empty share becomes the index -1.

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
            shares = torch.tensor(batch).tensor_split(self.num_processes)
            own = shares[self.process_index].tolist()
            yield own or [-1]


class SharedSamples(Dataset):
    """Give the samples of a data set by the share, with a mark of an empty share."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitems__(self, indices: Sequence[int]) -> tuple[list[Any], bool]:
        """Return the samples of a share, and whether it is empty. The first sample stands in for an empty share."""
        empty = indices[0] < 0
        rows = list(indices)
        if empty:
            rows = [0]
        if hasattr(self.dataset, "__getitems__"):
            samples = self.dataset.__getitems__(rows)
        else:
            samples = [self.dataset[row] for row in rows]
        return samples, empty


class SharedLoader(DataLoader):
    """Load this process's shares of batches."""

    def set_epoch(self, epoch: int) -> None:
        self.batch_sampler.set_epoch(epoch)  # type: ignore[union-attr]


def _empty_label(model: Any) -> int:
    """Return the label that leaves a sample out of the loss."""
    if is_wrapped(model):
        return model.kind.empty_label
    return IGNORED_LABEL


class _CollateShare:
    """Collate a share. An empty one has labels that leave its stand-in out of the loss."""

    def __init__(self, collate: Callable[[list[Any]], Any], label_names: Sequence[str], empty_label: int) -> None:
        self.collate = collate
        self.label_names = label_names
        self.empty_label = empty_label

    def __call__(self, share: Any) -> Any:
        samples, empty = share
        batch = self.collate(samples)
        if empty:
            for name in self.label_names:
                if name in batch:
                    batch[name] = unlabelled(batch[name], self.empty_label)
        return batch
