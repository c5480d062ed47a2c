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
from ..models.image_processing_self_modeling import SelfModelingImageProcessor, num_channels_of
from .augmentation import RandomAffine, warp
from .cache import cached_table
from .labels import check_several, label_numbers, read_classes
from .preprocessing import FIELDS, ImagePreprocessing
from .reading import first_line
from .rows import Rows
from .splits import read_splits
from .tasks import TaskSpec
from .tensors import Batch, TaskData, TensorData, checked_limits, moved, on_device, spread

if TYPE_CHECKING:
    import pyarrow
    from PIL import Image as PILImage

BATCH_BYTES = 1 << 28  # decoded pixels that are held at once while a split is decoded


@dataclass(frozen=True)
class ImageTensors(TensorData):
    """Labelled images. A batch is one gather and one multiply-add.

    Attributes:
        pixels: (N, channels, height, width), uint8.
        labels: (N,), int64, each in [0, number of classes).
        mean: subtracted from pixel / 255: one number, or one per channel.
        std: divides afterwards: one number, or one per channel.
        device: where batches are made.
        augmentation: what a training loader does to each image, each epoch anew; `take` leaves images as they are.
        interpolation: filter by which pictures of another size are resized.
        source: where mean, deviation and interpolation come from, for people.
        task: the task these images were read for; it is saved beside a model.
    """

    pixels: torch.Tensor
    labels: torch.Tensor
    mean: float | tuple[float, ...] = 0.5
    std: float | tuple[float, ...] = 0.5
    device: torch.device | str = "cpu"
    augmentation: RandomAffine | None = None
    interpolation: str = "bicubic"
    source: str = "package default"
    task: TaskSpec | None = None

    def take(self, rows: torch.Tensor, maps: torch.Tensor | None = None) -> Batch:
        """`pixel_values` (B, channels, height, width) float32 and `labels` (B,); resampled by `maps`, (B, 2, 3)."""
        pixels = self.pixels.index_select(0, rows).to(self.device)  # still uint8
        if maps is not None:
            pixels = warp(pixels.float(), maps)  # black at the border
        scale, shift = (on_device(value, self.device) for value in self.scale_and_shift())
        return {
            "pixel_values": pixels.mul(scale).sub_(shift),
            "labels": self.labels.index_select(0, rows).to(self.device),
        }

    def scale_and_shift(self) -> tuple[float | torch.Tensor, float | torch.Tensor]:
        """Return a and b of the normalization a * pixel - b: two numbers, or tensors (channels, 1, 1) on the CPU."""
        if isinstance(self.mean, tuple) or isinstance(self.std, tuple):
            mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (self.mean, self.std))
            return 1 / (255 * std), mean / std
        return 1 / (255 * self.std), self.mean / self.std

    def all(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Every sample at once: (N, channels, height, width) float32 and (N,)."""
        batch = self.batch(torch.arange(len(self)))
        return batch["pixel_values"], batch["labels"]

    def first(self, count: int) -> ImageTensors:
        return replace(self, pixels=self.pixels[:count], labels=self.labels[:count])

    def preprocessing(self) -> ImagePreprocessing:
        """Return what was done to these images, for pictures to come.

        Raises:
            InputError: means or deviations that do not fit the number of channels.
        """
        values = ImagePreprocessing(
            image_mean=self.mean, image_std=self.std, interpolation=self.interpolation, source=self.source
        )
        _, channels, height, width = self.pixels.shape
        return values.for_images(channels, height, width)

    def processor(self) -> SelfModelingImageProcessor:
        """Return the image processor that prepares a picture as these images were prepared.

        Saved beside a model, it feeds a `pipeline("image-classification")`.
        """
        return self.preprocessing().processor()

    def to(self, device: torch.device | str) -> ImageTensors:
        pixels, labels = moved(device, self.pixels, self.labels)
        return replace(self, pixels=pixels, labels=labels, device=device)


def load_images(
    spec: TaskSpec,
    *,
    image_size: Sequence[int] | None = None,
    preprocessing: ImagePreprocessing | None = None,
    max_train_samples: int | None = None,
    max_test_samples: int | None = None,
) -> TaskData[ImageTensors]:
    """Read a task's images: from scikit-learn (`digits`), from the Hub, or from a local folder in Hub layout.

    Images are read as RGB where any of either split has colours, else as grey. Their pixels must be of 8 bits and
    opaque.

    Args:
        spec: the task. Its `image_mean`, `image_std` and `interpolation` go before those of `preprocessing`.
        image_size: resize to this height and width. Default: that of `preprocessing`, else every image must have the
            first one's size.
        preprocessing: a pretrained backbone's, of `backbone_preprocessing`. Default: mean 0.5, deviation 0.5, bicubic.
        max_train_samples: use so many of the training split, spread evenly over it.
        max_test_samples: likewise of the test split.

    Raises:
        InputError: a missing column or split, no sample, an image of another size or one that cannot be read, a label
            out of range, one class only, a data set that cannot be reached, preprocessing that does not fit.

    Example:
        >>> data = load_images(TaskSpec(name="digits", dataset_name=None))
        >>> tuple(data.train.pixels.shape)
        (1437, 1, 8, 8)
    """
    checked_limits(max_train_samples=max_train_samples, max_test_samples=max_test_samples)
    if spec.dataset_name is None and image_size is not None:
        raise InputError("image_size", image_size, "digits are 8x8 as they are; allowed with a data set of images")
    given = {name: getattr(spec, name) for name in FIELDS if name != "image_size"}
    wanted = (preprocessing or ImagePreprocessing()).changed(image_size=image_size, **given)
    if spec.dataset_name is None:
        train, test, names = _digits(wanted, max_train_samples, max_test_samples)
    else:
        spec, *parts = read_splits(
            spec, texts=False, max_train_samples=max_train_samples, max_test_samples=max_test_samples
        )
        train, test, names = _from_datasets(spec, parts, wanted)
    used = wanted.for_images(*train[0].shape[1:])
    splits = [replace(_tensors(part, used), task=spec) for part in (train, test)]
    return TaskData(splits[0], splits[1], names, spec)


Split = tuple[torch.Tensor, torch.Tensor]  # pixels (N, C, H, W) uint8, labels (N,) int64


def _tensors(split: Split, used: ImagePreprocessing) -> ImageTensors:
    return ImageTensors(*split, used.image_mean, used.image_std, interpolation=used.interpolation, source=used.source)


def _digits(wanted: ImagePreprocessing, max_train: int | None, max_test: int | None) -> tuple[Split, Split, list[str]]:
    """scikit-learn's 1,797 images of 8x8, every fifth of each class held out for the test."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    pixels = (images * (255 / 16)).round().astype(np.uint8).reshape(-1, 1, 8, 8)
    if wanted.image_size not in (None, (8, 8)):
        processor = replace(wanted, num_channels=1, image_mean=0.5, image_std=0.5).processor()
        pixels = np.stack([processor.pixels(image) for image in pixels])
    rows = np.arange(len(labels))
    train, test = train_test_split(rows, test_size=0.2, random_state=0, stratify=labels)
    train, test = train[spread(len(train), max_train)], test[spread(len(test), max_test)]
    images, targets = torch.from_numpy(pixels), torch.from_numpy(labels).long()
    images = images.expand(-1, wanted.num_channels or 1, -1, -1)
    return (images[train], targets[train]), (images[test], targets[test]), [str(digit) for digit in range(10)]


def _from_datasets(spec: TaskSpec, parts: Sequence[Rows], wanted: ImagePreprocessing) -> tuple[Split, Split, list[str]]:
    assert spec.image_column is not None
    assert spec.label_column is not None
    classes = read_classes(spec.label_column, parts[0])
    labels = [label_numbers(spec.label_column, part, classes) for part in parts]
    check_several(spec.label_column, labels[0])
    train, test = (_without_decoding(part, spec.image_column) for part in parts)
    first = _open(spec.image_column, train.data[0][spec.image_column], int(train.numbers[0]))
    settings: dict[str, Any] = {
        "image_column": spec.image_column,
        "size": wanted.image_size or (first.height, first.width),
        "interpolation": wanted.interpolation if wanted.image_size else None,
        "num_channels": None,
    }
    pixels = _decode_split(train, settings), _decode_split(test, settings)
    found = max(images.shape[1] for images in pixels)
    declared = {"L": 1, "RGB": 3}.get(parts[0].data.features[spec.image_column].mode)
    channels = wanted.num_channels or declared or found
    if channels < found:  # colours on a grey network: Pillow's own conversion, before the resizing
        settings["num_channels"] = channels
        pixels = _decode_split(train, settings), _decode_split(test, settings)
    # grey images as RGB: a view whose channels share memory
    train_pixels, test_pixels = (images.expand(-1, channels, -1, -1) for images in pixels)
    return (train_pixels, labels[0]), (test_pixels, labels[1]), classes.names


def _without_decoding(part: Rows, column: str) -> Rows:
    """Return the rows with their images as files, which are decoded here, row by row."""
    import datasets

    feature = part.data.features[column]
    if not isinstance(feature, datasets.Image):
        raise InputError("image_column", column, f"has type {type(feature).__name__}; allowed is Image")
    return replace(part, data=part.data.cast_column(column, datasets.Image(decode=False)))


def _open(column: str, encoded: dict[str, Any] | None, row: int) -> PILImage.Image:
    """Return a row's picture, turned upright."""
    import datasets

    if encoded is None:
        raise InputError("image_column", column, f"row {row} holds no image")
    try:
        return datasets.Image().decode_example(encoded)
    except Exception as error:  # PIL's errors for what is no image, only part of one, or one too large, are of any kind
        raise InputError("image_column", column, f"row {row} cannot be decoded ({first_line(error)})") from error


def _decode_split(part: Rows, settings: dict[str, Any]) -> torch.Tensor:
    """Return the pixels, (N, C, height, width), uint8. C is 3 where any image of these rows has colours."""
    import datasets

    height, width = settings["size"]
    batch_size = max(1, min(1000, BATCH_BYTES // (3 * height * width)))
    table = cached_table(
        part.data,
        _decode_batch,
        key=("images", sorted(settings.items())),
        features=datasets.Features({"pixels": datasets.Sequence(datasets.Value("uint8"))}),
        with_indices=True,
        batch_size=batch_size,
        writer_batch_size=batch_size,
        fn_kwargs={"numbers": part.numbers, **settings},
        desc=f"Decoding {part.split}",
    )
    return _gathered(table["pixels"], height, width)


def _gathered(column: pyarrow.ChunkedArray, height: int, width: int) -> torch.Tensor:
    """Return all images, (N, C, height, width) uint8, from rows of C * height * width numbers with C of 1 or 3."""
    area = height * width
    counts = [chunk.value_lengths().to_numpy() // area for chunk in column.chunks]  # channels of each image
    channels = int(max(count.max() for count in counts))
    pixels = np.empty((len(column), channels, height, width), dtype=np.uint8)
    start = 0
    for chunk, count in zip(column.chunks, counts, strict=True):
        values = chunk.flatten().to_numpy()
        if np.all(count == channels):
            pixels[start : start + len(chunk)] = values.reshape(-1, channels, height, width)
        else:
            images = np.split(values, np.cumsum(count * area)[:-1])
            for row, image in enumerate(images, start):
                pixels[row] = image.reshape(-1, height, width)  # one channel of grey fills all three
        start += len(chunk)
    return torch.from_numpy(pixels)


def _decode_batch(
    batch: dict[str, list[Any]],
    places: list[int],
    *,
    numbers: np.ndarray,
    image_column: str,
    size: tuple[int, int],
    interpolation: str | None,
    num_channels: int | None,
) -> dict[str, Any]:
    """Decode rows; without `num_channels` each in its own colours, without `interpolation` none is resized."""
    height, width = size
    used = ImagePreprocessing(image_size=size, num_channels=1, interpolation=interpolation or "bicubic")
    processor = used.processor()
    pixels = []
    for encoded, row in zip(batch[image_column], numbers[places].tolist(), strict=True):
        picture = _open(image_column, encoded, row)
        if interpolation is None and (picture.height, picture.width) != (height, width):
            problem = f"row {row} is {picture.height}x{picture.width}, expected {height}x{width} (`image_size` resizes)"
            raise InputError("image_column", image_column, problem)
        try:
            values = processor.pixels(picture, num_channels or num_channels_of(picture))
        except ValueError as error:
            raise InputError("image_column", image_column, f"row {row} {error}") from error
        flat = np.ascontiguousarray(values).reshape(-1)
        pixels.append(flat)
    return {"pixels": pixels}
