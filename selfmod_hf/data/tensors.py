"""What the Trainer needs of a data set in memory: batches by index, made whole on the device."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import torch
from torch.utils.data import Dataset
from typing_extensions import Self

if TYPE_CHECKING:
    from .tasks import TaskSpec

IGNORED_LABEL = -100  # transformers' convention: such a sample enters no loss
DEVICE_BYTES = 4 << 30  # a data set up to this size moves to the accelerator as a whole

Batch = dict[str, torch.Tensor]


class TensorData(Dataset):
    """Labelled samples in memory. No per-sample Python runs while training.

    Attributes:
        labels: (N,), int64, each in [0, number of classes).
        device: where batches are made.
        task: the task they were read for, if any.
    """

    labels: torch.Tensor
    device: torch.device | str
    task: TaskSpec | None

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Batch:
        """Return one sample: its entries of a batch, without the batch's dimension.

        Raises:
            IndexError: an index outside of the data.
        """
        if not -len(self) <= index < len(self):
            raise IndexError(f"index={index}: allowed are {-len(self)} to {len(self) - 1}")
        row = torch.tensor([index % len(self)], device=self.labels.device)
        return self._single(self.take(row))

    def _single(self, batch: Batch) -> Batch:
        """Return the sample that a batch of one holds."""
        return {name: values[0] for name, values in batch.items()}

    def batch(self, indices: torch.Tensor | Sequence[int]) -> Batch:
        """Return the batch of these samples, as the model's forward takes it, with `labels` (B,).

        The index -1 alone stands for no sample: a batch of one whose label is -100, so that it enters no loss.
        """
        rows = torch.as_tensor(indices, device=self.labels.device)  # (B,)
        if int(indices[0]) < 0:
            none = self.take(torch.zeros_like(rows))
            return {**none, "labels": torch.full_like(none["labels"], IGNORED_LABEL)}
        return self.take(rows)

    @abstractmethod
    def take(self, rows: torch.Tensor) -> Batch:
        """The batch of samples `rows`, (B,), indices on the device of `labels`."""

    def take_members(self, rows: torch.Tensor) -> Batch:
        """A batch for each of K networks: every tensor of `take` with a leading dimension of K, for rows (K, B)."""
        batch = self.take(rows.flatten())
        return {name: values.unflatten(0, rows.shape) for name, values in batch.items()}

    @abstractmethod
    def first(self, count: int) -> Self:
        """The first `count` samples, sharing memory with these."""

    @abstractmethod
    def processor(self) -> Any:
        """What prepares a raw sample as this does: an image processor, a tokenizer. It is saved beside a model."""

    @abstractmethod
    def to(self, device: torch.device | str) -> Self:
        """The same data with batches made on `device`; its tensors move there too, unless they exceed 4 GiB."""


Data = TypeVar("Data", bound=TensorData, covariant=True)


@dataclass(frozen=True)
class TaskData(Generic[Data]):
    """Both splits of a task.

    Attributes:
        train: training samples.
        test: test samples.
        label_names: names of the classes, in the order of their numbers.
        task: the task, with the columns and the test split that were found for it.
    """

    train: Data
    test: Data
    label_names: list[str]
    task: TaskSpec | None = None

    @property
    def unseen_classes(self) -> dict[str, int]:
        """The classes that test samples have and no training sample has, and how many test samples each has."""
        classes = len(self.label_names)
        train = torch.bincount(self.train.labels, minlength=classes)  # (classes,)
        test = torch.bincount(self.test.labels, minlength=classes)
        unseen = torch.nonzero((train == 0) & (test > 0)).flatten().tolist()
        return {self.label_names[number]: int(test[number]) for number in unseen}


def spread(total: int, count: int | None) -> list[int]:
    """`count` of `total` rows, evenly spaced, so that data sorted by class lose no class; None: all."""
    count = total if count is None else min(count, total)
    return [index * total // count for index in range(count)]


def moved(device: torch.device | str, *tensors: torch.Tensor) -> list[torch.Tensor]:
    """The tensors on `device`; where they are if they exceed 4 GiB together."""
    small = sum(tensor.nbytes for tensor in tensors) <= DEVICE_BYTES
    return [tensor.to(device) if small else tensor for tensor in tensors]


def on_device(value: float | torch.Tensor, device: torch.device | str) -> float | torch.Tensor:
    """Return a tensor on `device`; a number as it is."""
    return value.to(device) if isinstance(value, torch.Tensor) else value


def checked_limits(**limits: Any) -> None:
    """Refuse limits on the number of samples that are below one."""
    from ..errors import InputError

    for name, count in limits.items():
        if count is not None and count < 1:
            raise InputError(name, count, "allowed are integers of at least 1")
