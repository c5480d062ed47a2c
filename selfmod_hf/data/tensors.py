"""Data sets in memory as the Trainer needs them: batches by index, each made on the device with one gather."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor
from torch.utils.data import Dataset
from typing_extensions import Self

from ..errors import InputError
from .tasks import BLOCKS, CLASSES, SCORES, SEVERAL_CLASSES, WORDS, TaskSpec

IGNORED_LABEL = -100  # transformers' convention: such a sample enters no loss
DEVICE_BYTES = 4 << 30  # a data set up to this size moves to the accelerator completely

Batch = dict[str, Tensor]
Device = torch.device | str


class TensorData(Dataset):
    """Hold labelled samples in memory. No per-sample Python runs while training.

    Attributes:
        labels: (N,), int64, each in [0, number of classes). For several classes of a sample (N, number of classes),
            float32, 1 for each of its classes. For scores (N,), float32. If each token has a label, (N,), int64, the
            number of labelled tokens.
        device: device of the batches.
        task: the samples' task, if any.
    """

    labels: Tensor
    device: Device
    task: TaskSpec | None

    @property
    @abstractmethod
    def kind(self) -> str:
        """Return the kind of the task, one of `TASK_TYPES`."""

    @property
    def problem_type(self) -> str | None:
        """Return the kind of the labels, one of `PROBLEM_TYPES`. None: each token has a label."""
        if self.kind in (WORDS, BLOCKS):
            return None
        if not self.labels.is_floating_point():
            return CLASSES
        return SCORES if self.labels.dim() == 1 else SEVERAL_CLASSES

    def class_counts(self, classes: int) -> Tensor | None:
        """Count the samples of each class, (classes,), without missing labels. None: the labels name no classes."""
        problem_type = self.problem_type
        if problem_type == CLASSES:
            return torch.bincount(self.labels[self.labels >= 0], minlength=classes)
        if problem_type == SEVERAL_CLASSES:
            return (self.labels > 0.5).sum(dim=0)  # NaN and -100 are missing
        return None

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Batch:
        """Return one sample: its entries of a batch, without the batch's dimension.

        Raises:
            IndexError: an index outside of the data.
        """
        count = len(self)
        if not -count <= index < count:
            raise IndexError(f"index={index}: allowed are {-count} to {count - 1}")
        row = torch.tensor([index % count], device=self.labels.device)
        return self._single(self.take(row))

    def _single(self, batch: Batch) -> Batch:
        """Return the sample of a batch of one."""
        sample = {}
        for name, values in batch.items():
            sample[name] = values[0]
        return sample

    def batch(self, indices: Tensor | Sequence[int]) -> Batch:
        """Return the batch of these samples, as the model's forward takes it, with `labels` (B,) or (B, ...).

        A single index -1 means no sample. Its batch has one row without labels, so that it enters no loss.
        """
        rows = torch.as_tensor(indices, device=self.labels.device)  # (B,)
        if int(indices[0]) >= 0:
            return self.take(rows)
        nobody = torch.zeros_like(rows)
        batch = self.take(nobody)
        batch["labels"] = unlabelled(batch["labels"])
        return batch

    @abstractmethod
    def take(self, rows: Tensor) -> Batch:
        """Return the batch of samples `rows`, (B,), indices on the device of `labels`."""

    def take_members(self, rows: Tensor) -> Batch:
        """Return a batch for each of K networks, for rows (K, B). Each tensor has a leading dimension of K."""
        batch = self.take(rows.flatten())
        return unflattened(batch, rows.shape)

    @abstractmethod
    def first(self, count: int) -> Self:
        """Return the first `count` samples. They share memory with these."""

    @abstractmethod
    def processor(self) -> Any:
        """Return the image processor or tokenizer for raw samples. It is saved beside a model."""

    @abstractmethod
    def to(self, device: Device) -> Self:
        """Return the same data with batches on `device`. Its tensors move there too, unless they exceed 4 GiB."""


Data = TypeVar("Data", bound=TensorData, covariant=True)


@dataclass(frozen=True)
class TaskData(Generic[Data]):
    """Hold both splits of a task.

    Attributes:
        train: training samples.
        test: test samples.
        label_names: names of the classes, in the order of their numbers. For scores the name of their column. Empty
            for "causal-lm".
        task: the task, with its columns and test split named.

    Example:
        >>> from selfmod_hf.data import get_task, load_images
        >>> data = load_images(get_task("digits"))
        >>> len(data.train), len(data.test), data.unseen_classes
        (1437, 360, {})
    """

    train: Data
    test: Data
    label_names: list[str]
    task: TaskSpec | None = None

    @property
    def unseen_classes(self) -> dict[str, int]:
        """Count the test samples (or words) of each class without any in the training split."""
        classes = len(self.label_names)
        train = self.train.class_counts(classes)  # (classes,)
        test = self.test.class_counts(classes)
        if train is None or test is None:
            return {}
        unseen = (train == 0) & (test > 0)
        counts = {}
        for number in unseen.nonzero().flatten().tolist():
            name = self.label_names[number]
            counts[name] = int(test[number])
        return counts


def unlabelled(labels: Tensor, mark: int = IGNORED_LABEL) -> Tensor:
    """Return labels of the same shape that enter no loss. They are NaN for scores, because -100 may be a score.

    Args:
        labels: of any shape.
        mark: the label that leaves a sample out, if labels are integers.

    Example:
        >>> unlabelled(torch.tensor([1, 2])), unlabelled(torch.tensor([0.5]))
        (tensor([-100, -100]), tensor([nan]))
    """
    if labels.is_floating_point():
        return torch.full_like(labels, torch.nan)
    return torch.full_like(labels, mark)


def spread(total: int, count: int | None) -> list[int]:
    """Return `count` of `total` rows, evenly spaced, so that data sorted by class lose no class. None: all rows."""
    if count is None or count > total:
        count = total
    return [index * total // count for index in range(count)]


def moved(device: Device, *tensors: Tensor) -> list[Tensor]:
    """Return the tensors on `device`, or unmoved if they exceed 4 GiB together."""
    total = sum(tensor.nbytes for tensor in tensors)
    if total > DEVICE_BYTES:
        return list(tensors)
    return [tensor.to(device) for tensor in tensors]


def on_device(value: float | Tensor, device: Device) -> float | Tensor:
    """Return a tensor on `device`, and a number unchanged."""
    if isinstance(value, Tensor):
        return value.to(device)
    return value


def unflattened(batch: Batch, shape: Sequence[int]) -> Batch:
    """Return the batch with these dimensions in place of each tensor's first one."""
    result = {}
    for name, values in batch.items():
        result[name] = values.unflatten(0, shape)
    return result


def checked_limits(**limits: int | None) -> None:
    """Reject limits on the number of samples or tokens below one."""
    for name, count in limits.items():
        if count is not None and count < 1:
            raise InputError(name, count, "allowed are integers of at least 1")
