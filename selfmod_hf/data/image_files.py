"""Images of both splits in one safetensors file: data without decoding, `datasets` and the network."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..errors import InputError
from .tasks import CLASSES, TaskSpec
from .tensors import spread

SUFFIX = ".safetensors"
NAMES = ("train.pixels", "train.labels", "test.pixels", "test.labels")
CLASS_NAMES = "label_names"  # a JSON list in the file's metadata


@dataclass(frozen=True)
class ImageFile:
    """Hold the content of a file of images.

    Attributes:
        train_pixels: (N, channels, height, width), uint8, with 1 or 3 channels.
        train_labels: (N,), int64, each in [0, number of classes).
        test_pixels: (M, channels, height, width), uint8.
        test_labels: (M,), int64.
        label_names: names of the classes.
    """

    train_pixels: Tensor
    train_labels: Tensor
    test_pixels: Tensor
    test_labels: Tensor
    label_names: Sequence[str]

    def write(self, path: str | Path) -> None:
        """Write the file.

        Raises:
            InputError: content that `read_image_file` would reject.

        Example:
            >>> pixels, labels = torch.zeros(2, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 1])
            >>> ImageFile(pixels, labels, pixels, labels, ["no", "yes"]).write("images.safetensors")
            >>> read_image_file(TaskSpec(name="mine", dataset_name="images.safetensors")).label_names
            ['no', 'yes']
        """
        self.check(str(path))
        tensors = dict(zip(NAMES, self._tensors(), strict=True))
        apart = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
        save_file(apart, path, metadata={CLASS_NAMES: json.dumps(list(self.label_names))})

    def check(self, name: str) -> None:
        """Raise an InputError for tensors that are no labelled images. `name` is the file's."""
        for tensor_name, tensor in zip(NAMES, self._tensors(), strict=True):
            problem = self._problem(tensor_name, tensor)
            if problem is not None:
                raise InputError("dataset_name", name, f"{tensor_name} {problem}")
        if self.train_pixels.shape[1:] != self.test_pixels.shape[1:]:
            raise InputError("dataset_name", name, "the images of both splits must have one shape")
        for split, pixels, labels in (
            ("train", self.train_pixels, self.train_labels),
            ("test", self.test_pixels, self.test_labels),
        ):
            if len(pixels) != len(labels):
                problem = f"split {split} has {len(pixels)} images and {len(labels)} labels"
                raise InputError("dataset_name", name, problem)

    def _tensors(self) -> tuple[Tensor, ...]:
        return self.train_pixels, self.train_labels, self.test_pixels, self.test_labels

    def _problem(self, name: str, tensor: Tensor) -> str | None:
        """Return what is wrong with a tensor, or None."""
        shape = tuple(tensor.shape)
        if len(tensor) == 0:
            return "has no row"
        if name.endswith("pixels"):
            is_usable = tensor.dtype == torch.uint8 and tensor.dim() == 4 and shape[1] in (1, 3)
            if is_usable:
                return None
            return f"is {tensor.dtype} {shape}; allowed is uint8 (N, 1 or 3, height, width)"
        if tensor.dtype != torch.int64 or tensor.dim() != 1:
            return f"is {tensor.dtype} {shape}; allowed is int64 (N,)"
        count = len(self.label_names)
        if tensor.min() < 0 or tensor.max() >= count:
            return f"has labels from {tensor.min()} to {tensor.max()}; allowed are 0 to {count - 1}"
        return None


def is_image_file(name: str | None) -> bool:
    """Return whether a data set is a file of images, by its name.

    Example:
        >>> is_image_file("mnist.safetensors"), is_image_file("ylecun/mnist"), is_image_file(None)
        (True, False, False)
    """
    return name is not None and name.lower().endswith(SUFFIX)


def read_image_file(
    spec: TaskSpec,
    image_size: tuple[int, int] | None = None,
    num_channels: int | None = None,
    *,
    max_train_samples: int | None = None,
    max_test_samples: int | None = None,
) -> ImageFile:
    """Read a file that `ImageFile.write` wrote.

    Args:
        spec: the task, with the file as its data set.
        image_size: wanted height and width. Images are not resized.
        num_channels: wanted channels. Grey images can become RGB.
        max_train_samples: number of training samples, spread evenly over the split. None: all.
        max_test_samples: number of test samples, likewise.

    Raises:
        InputError: a missing or damaged file, other content, or a setting that needs other data.
    """
    name = spec.dataset_name
    assert name is not None
    for field in ("dataset_config", "test_fraction"):
        value = getattr(spec, field)
        if value is not None:
            raise InputError(field, value, "a file of images has both splits; allowed with other data")
    if spec.problem_type not in (None, CLASSES):
        raise InputError("problem_type", spec.problem_type, f"allowed with a file of images is {CLASSES}")
    found = _read(name)
    _, channels, *size = found.train_pixels.shape
    if image_size not in (None, tuple(size)):
        raise InputError("image_size", image_size, f"the images of {name} have {size} pixels and are not resized")
    train = spread(len(found.train_labels), max_train_samples)
    test = spread(len(found.test_labels), max_test_samples)
    wanted = num_channels or channels
    if wanted < channels:
        raise InputError("num_channels", num_channels, f"the images of {name} have {channels}")
    return ImageFile(
        found.train_pixels[train].expand(-1, wanted, -1, -1),
        found.train_labels[train],
        found.test_pixels[test].expand(-1, wanted, -1, -1),
        found.test_labels[test],
        found.label_names,
    )


def _read(name: str) -> ImageFile:
    """Read a file, and check its content."""
    try:
        with safe_open(name, framework="pt") as file:
            names = (file.metadata() or {}).get(CLASS_NAMES, "[]")
            train_pixels, train_labels, test_pixels, test_labels = map(file.get_tensor, NAMES)
            found = ImageFile(train_pixels, train_labels, test_pixels, test_labels, json.loads(names))
    except (OSError, SafetensorError, ValueError) as error:
        problem = f"cannot be read as a file of images with the tensors {', '.join(NAMES)} ({error})"
        raise InputError("dataset_name", name, problem) from error
    found.check(name)
    return found
