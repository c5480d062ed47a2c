"""Images as one uint8 tensor: decoded once, then gathered and normalized by the batch, on the device.

No per-sample Python runs while training. The decoded pixels are kept in the cache of `datasets`, so that only
the first run on a data set decodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..errors import InputError
from .augmentation import RandomAffine, warp
from .cache import cached_table
from .labels import check_several, label_numbers, read_classes
from .reading import first_line
from .splits import Rows, read_splits
from .tasks import TaskSpec
from .tensors import Batch, TaskData, TensorData, checked_limits, moved, spread

if TYPE_CHECKING:
    import datasets
    from PIL import Image as PILImage


@dataclass(frozen=True)
class ImageTensors(TensorData):
    """Labelled images. A batch is one gather and one multiply-add.

    Attributes:
        pixels: (N, channels, height, width), uint8.
        labels: (N,), int64, each in [0, number of classes).
        mean: subtracted from pixel / 255.
        std: divides afterwards.
        device: where batches are made.
        augmentation: what a training loader does to each image, each epoch anew; `take` leaves images as they are.
    """

    pixels: torch.Tensor
    labels: torch.Tensor
    mean: float = 0.5
    std: float = 0.5
    device: torch.device | str = "cpu"
    augmentation: RandomAffine | None = None

    def take(self, rows: torch.Tensor, maps: torch.Tensor | None = None) -> Batch:
        """`pixel_values` (B, channels, height, width) float32 and `labels` (B,); resampled by `maps`, (B, 2, 3)."""
        pixels = self.pixels.index_select(0, rows).to(self.device)  # still uint8
        if maps is not None:
            pixels = warp(pixels.float(), maps)  # black at the border
        scale = 1 / (255 * self.std)
        return {
            "pixel_values": pixels.mul(scale).sub_(self.mean / self.std),
            "labels": self.labels.index_select(0, rows).to(self.device),
        }

    def all(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Every sample at once: (N, channels, height, width) float32 and (N,)."""
        batch = self.__getitems__(torch.arange(len(self)))
        return batch["pixel_values"], batch["labels"]

    def first(self, count: int) -> ImageTensors:
        return replace(self, pixels=self.pixels[:count], labels=self.labels[:count])

    def processor(self) -> Any:
        """The `ViTImageProcessor` that prepares a picture as this does; saved beside a model, it feeds a
        `pipeline("image-classification")`."""
        from transformers import ViTImageProcessor

        channels, height, width = self.pixels.shape[1:]
        return ViTImageProcessor(
            size={"height": height, "width": width},
            image_mean=[self.mean] * channels,
            image_std=[self.std] * channels,
            do_convert_rgb=channels == 3,
        )

    def to(self, device: torch.device | str) -> ImageTensors:
        pixels, labels = moved(device, self.pixels, self.labels)
        return replace(self, pixels=pixels, labels=labels, device=device)


def load_images(
    spec: TaskSpec,
    *,
    image_size: Sequence[int] | None = None,
    max_train_samples: int | None = None,
    max_test_samples: int | None = None,
) -> TaskData[ImageTensors]:
    """Read a task's images: from scikit-learn (`digits`), from the Hub, or from a local folder in Hub layout.

    Args:
        spec: the task.
        image_size: resize to this height and width; by default every image must have the first one's size.
        max_train_samples: use so many of the training split, spread evenly over it.
        max_test_samples: likewise of the test split.

    Raises:
        InputError: a column or split that is not there, no sample, an image of another size or one that cannot be
            decoded, a label out of range, one class only, a data set that cannot be reached.
    """
    checked_limits(max_train_samples=max_train_samples, max_test_samples=max_test_samples)
    if spec.dataset_name is None:
        if image_size is not None:
            raise InputError("image_size", image_size, "digits are 8x8 as they are; allowed with a data set of images")
        train, test, names = _digits(max_train_samples, max_test_samples)
    else:
        spec, *parts = read_splits(
            spec, texts=False, max_train_samples=max_train_samples, max_test_samples=max_test_samples
        )
        train, test, names = _from_datasets(spec, parts, image_size)
    splits = [ImageTensors(pixels, labels, spec.image_mean, spec.image_std) for pixels, labels in (train, test)]
    return TaskData(splits[0], splits[1], names, spec)


Split = tuple[torch.Tensor, torch.Tensor]  # pixels (N, C, H, W) uint8, labels (N,) int64


def _digits(max_train: int | None, max_test: int | None) -> tuple[Split, Split, list[str]]:
    """scikit-learn's 1,797 images of 8x8, every fifth of each class held out for the test."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    pixels = torch.from_numpy((images * (255 / 16)).round().astype(np.uint8)).view(-1, 1, 8, 8)
    rows = np.arange(len(labels))
    train, test = train_test_split(rows, test_size=0.2, random_state=0, stratify=labels)
    train, test = train[spread(len(train), max_train)], test[spread(len(test), max_test)]
    targets = torch.from_numpy(labels).long()
    return (pixels[train], targets[train]), (pixels[test], targets[test]), [str(digit) for digit in range(10)]


def _from_datasets(
    spec: TaskSpec, parts: Sequence[Rows], image_size: Sequence[int] | None
) -> tuple[Split, Split, list[str]]:
    assert spec.label_column is not None
    classes = read_classes(spec.label_column, parts[0])
    labels = [label_numbers(spec.label_column, part, classes) for part in parts]
    check_several(spec.label_column, labels[0])
    train, test = (_as_images(spec, part.data) for part in parts)
    first = _read_image(spec, train, 0)
    channels = 1 if first.mode in ("1", "L", "I", "I;16", "F") else 3
    height, width = image_size or (first.height, first.width)
    shape = (channels, height, width)
    resize = image_size is not None
    return (
        (_decode_split(spec, parts[0].split, train, shape, resize), labels[0]),
        (_decode_split(spec, parts[1].split, test, shape, resize), labels[1]),
        classes.names,
    )


def _as_images(spec: TaskSpec, data: datasets.Dataset) -> datasets.Dataset:
    import datasets

    feature = data.features[spec.image_column]
    if not isinstance(feature, datasets.Image):
        kind = type(feature).__name__
        raise InputError("image_column", spec.image_column, f"has type {kind}; allowed is Image")
    return data.cast_column(spec.image_column, datasets.Image(decode=False))  # decoded below, row by row


def _read_image(spec: TaskSpec, data: datasets.Dataset, row: int) -> PILImage.Image:
    column = spec.image_column
    assert column is not None
    return _decode(column, data[row][column], row)


def _decode(column: str, encoded: dict[str, Any] | None, row: int) -> PILImage.Image:
    import datasets

    if encoded is None:
        raise InputError("image_column", column, f"row {row} holds no image")
    try:
        image = datasets.Image().decode_example(encoded)
    except Exception as error:  # PIL's errors for what is no image, only part of one, or one too large, are of any kind
        raise InputError("image_column", column, f"row {row} cannot be decoded ({first_line(error)})") from error
    if image.mode.startswith(("I", "F")):  # more than 8 bits a pixel: PIL would cut them off without a word
        values = np.asarray(image)
        if not np.all((values >= 0) & (values <= 255)):  # NaN is neither
            problem = f"row {row} has pixels outside of 0 to 255 (mode {image.mode}); allowed are images of 8 bits"
            raise InputError("image_column", column, problem)
    return image


def _decode_split(
    spec: TaskSpec, split: str, data: datasets.Dataset, shape: tuple[int, int, int], resize: bool
) -> torch.Tensor:
    """Return the pixels, (N, C, H, W), uint8."""
    import datasets

    pixel_type = datasets.Sequence(datasets.Value("uint8"), length=int(np.prod(shape)))
    table = cached_table(
        data,
        _decode_batch,
        key=("images", spec.image_column, shape, resize),
        features=datasets.Features({"pixels": pixel_type}),
        with_indices=True,
        batch_size=1000,
        fn_kwargs={"image_column": spec.image_column, "shape": shape, "resize": resize},
        desc=f"Decoding {split}",
    )
    pixels = table["pixels"].combine_chunks().flatten().to_numpy()  # (N * C * H * W,)
    # a copy: the arrow buffer is a read-only view of the cache file
    return torch.from_numpy(pixels.copy()).view(-1, *shape)


def _decode_batch(
    batch: dict[str, list[Any]], rows: list[int], *, image_column: str, shape: tuple[int, int, int], resize: bool
) -> dict[str, Any]:
    channels, height, width = shape
    pixels = np.empty((len(rows), height, width, channels), dtype=np.uint8)
    for slot, (image, row) in enumerate(zip(batch[image_column], rows, strict=True)):
        image = _decode(image_column, image, row).convert("L" if channels == 1 else "RGB")
        if resize:
            image = image.resize((width, height))
        if (image.height, image.width) != (height, width):
            raise InputError(
                "image_column",
                image_column,
                f"row {row} is {image.height}x{image.width}, expected {height}x{width} (`image_size` resizes)",
            )
        pixels[slot] = np.asarray(image).reshape(height, width, channels)
    flat = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)).reshape(len(rows), -1)
    return {"pixels": list(flat)}
