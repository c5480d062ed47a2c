"""Images as one uint8 tensor, decoded once, then gathered and normalized by the batch on the device.

No per-sample Python runs while training. The decoded pixels are kept in the cache of `datasets`, so that only the
first run on a data set decodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from PIL import Image as PILImage
from torch import Tensor

from ..errors import InputError
from ..extras import need
from ..models.image_processing_self_modeling import SelfModelingImageProcessor, num_channels_of
from .augmentation import RandomAffine, warp
from .cache import cached_table
from .image_files import is_image_file, read_image_file
from .label_kinds import label_kind
from .lazy_datasets import datasets
from .preprocessing import ImagePreprocessing, PerChannel
from .reading import first_line
from .rows import Rows
from .splits import read_splits
from .tasks import IMAGES, TaskSpec
from .tensors import Batch, Device, TaskData, TensorData, checked_limits, moved, on_device, spread

BATCH_BYTES = 1 << 28  # decoded pixels in memory at once while a split is decoded


@dataclass(frozen=True)
class ImageTensors(TensorData):
    """Hold labelled images. A batch is one gather and one multiply-add.

    Attributes:
        pixels: (N, channels, height, width), uint8.
        labels: (N,), int64, each in [0, number of classes), or float32, as for `TensorData`.
        mean: subtracted from pixel / 255: one number, or one per channel.
        std: divides afterwards: one number, or one per channel.
        device: device of the batches.
        augmentation: random maps of a training loader, drawn again for each epoch. `take` does not apply them.
        interpolation: filter for resizing pictures of another size.
        source: origin of mean, deviation and interpolation, for people.
        task: the task these images were read for. It is saved beside a model.
        shortest_edge: length of the shorter side of a picture before its crop. None: no crop.

    Example:
        >>> images = ImageTensors(pixels=torch.zeros(4, 1, 8, 8, dtype=torch.uint8), labels=torch.arange(4))
        >>> images.batch([0, 2])["labels"]
        tensor([0, 2])
    """

    pixels: Tensor
    labels: Tensor
    mean: PerChannel = 0.5
    std: PerChannel = 0.5
    device: Device = "cpu"
    augmentation: RandomAffine | None = None
    interpolation: str = "bicubic"
    source: str = "package default"
    task: TaskSpec | None = None
    shortest_edge: int | None = None

    @property
    def kind(self) -> str:
        return IMAGES

    def take(self, rows: Tensor, maps: Tensor | None = None) -> Batch:
        """Return `pixel_values` (B, channels, height, width) float32 and `labels` (B,) or (B, number of classes).

        Args:
            rows: (B,), of the images.
            maps: (B, 2, 3), to resample the images. None: the images stay as they are.
        """
        pixels = self.pixels.index_select(0, rows)
        pixels = pixels.to(self.device)  # still uint8
        if maps is not None:
            pixels = warp(pixels.float(), maps)  # black at the border
        scale, shift = self.scale_and_shift()
        scale = on_device(scale, self.device)
        shift = on_device(shift, self.device)
        labels = self.labels.index_select(0, rows)
        return {
            "pixel_values": pixels.mul(scale).sub_(shift),
            "labels": labels.to(self.device),
        }

    def scale_and_shift(self) -> tuple[float | Tensor, float | Tensor]:
        """Return a and b of the normalization a * pixel - b: two numbers, or tensors (channels, 1, 1) on the CPU."""
        mean: Any = self.mean
        std: Any = self.std
        if isinstance(mean, tuple) or isinstance(std, tuple):
            mean = torch.tensor(mean).view(-1, 1, 1)
            std = torch.tensor(std).view(-1, 1, 1)
        return 1 / (255 * std), mean / std

    def all(self) -> tuple[Tensor, Tensor]:
        """Return all samples at once, (N, channels, height, width) float32 and their labels, (N,) or (N, ...)."""
        rows = torch.arange(len(self))
        batch = self.batch(rows)
        return batch["pixel_values"], batch["labels"]

    def first(self, count: int) -> ImageTensors:
        pixels = self.pixels[:count]
        return replace(self, pixels=pixels, labels=self.labels[:count])

    def preprocessing(self) -> ImagePreprocessing:
        """Return the preprocessing of these images, for further pictures.

        Raises:
            InputError: a number of means or deviations that does not match the channels.
        """
        values = ImagePreprocessing(image_mean=self.mean, image_std=self.std, interpolation=self.interpolation)
        values = replace(values, source=self.source, shortest_edge=self.shortest_edge)
        _, *shape = self.pixels.shape
        return values.for_images(*shape)

    def processor(self) -> SelfModelingImageProcessor:
        """Return the image processor that prepares pictures as these images were prepared.

        Saved beside a model, it feeds a `pipeline("image-classification")`.
        """
        return self.preprocessing().processor()

    def to(self, device: Device) -> ImageTensors:
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
    """Read a task's images: from scikit-learn (`digits`), from the Hub, from a local folder in Hub layout, or a file.

    Images are read as RGB if any image of either split has colours, else as grey. Their pixels must be of 8 bits and
    opaque.

    Args:
        spec: the task. Its `image_mean`, `image_std` and `interpolation` override those of `preprocessing`.
        image_size: resize to this height and width. Default: that of `preprocessing`, else every image must have the
            first one's size.
        preprocessing: preprocessing of a pretrained backbone, from `backbone_preprocessing`. Default: mean 0.5,
            deviation 0.5, bicubic.
        max_train_samples: number of training samples, spread evenly over the split. None: all.
        max_test_samples: number of test samples, spread evenly over the split. None: all.

    Raises:
        InputError: a missing column or split, no sample, an image of another size, an unreadable image, a label
            out of range, one class only, an unreachable data set, or preprocessing for other channels.

    Example:
        >>> data = load_images(TaskSpec(name="digits", dataset_name=None))
        >>> tuple(data.train.pixels.shape)
        (1437, 1, 8, 8)
    """
    limits = {"max_train_samples": max_train_samples, "max_test_samples": max_test_samples}
    checked_limits(**limits)
    if spec.kind != IMAGES and spec.task_type is not None:
        raise InputError("task_type", spec.task_type, f"allowed is {IMAGES}, or `load_texts` and `load_blocks`")
    if spec.dataset_name is None and image_size is not None:
        raise InputError("image_size", image_size, "digits are 8x8 as they are; allowed with a data set of images")
    default = preprocessing or ImagePreprocessing()
    wanted = default.changed(
        image_size=image_size,
        image_mean=spec.image_mean,
        image_std=spec.image_std,
        interpolation=spec.interpolation,
    )
    if spec.dataset_name is None:
        data = _digits(wanted, max_train_samples, max_test_samples)
    elif is_image_file(spec.dataset_name):
        data = _from_file(spec, wanted, **limits)
    else:
        spec, *parts = read_splits(spec, texts=False, **limits)
        data = _from_datasets(spec, parts, wanted)
    _, *shape = data.train.pixels.shape
    used = wanted.for_images(*shape)
    values: dict[str, Any] = {
        "mean": used.image_mean,
        "std": used.image_std,
        "interpolation": used.interpolation,
        "source": used.source,
        "shortest_edge": used.shortest_edge,
        "task": spec,
    }
    train = replace(data.train, **values)
    test = replace(data.test, **values)
    return TaskData(train, test, data.label_names, spec)


def _digits(wanted: ImagePreprocessing, max_train: int | None, max_test: int | None) -> TaskData[ImageTensors]:
    """Read scikit-learn's 1,797 images of 8x8, with every fifth of each class held out for the test."""
    need("task='digits'", "metrics", "sklearn")
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    pixels = images * (255 / 16)
    pixels = pixels.round().astype(np.uint8)
    pixels = pixels.reshape(-1, 1, 8, 8)
    if wanted.image_size not in (None, (8, 8)) or wanted.shortest_edge is not None:
        processor = replace(wanted, num_channels=1, image_mean=0.5, image_std=0.5).processor()
        resized = [processor.pixels(image) for image in pixels]
        pixels = np.stack(resized)
    channels = wanted.num_channels or 1
    pixels = torch.from_numpy(pixels)
    pixels = pixels.expand(-1, channels, -1, -1)
    classes = torch.from_numpy(labels).long()
    rows = np.arange(len(labels))
    train, test = train_test_split(rows, test_size=0.2, random_state=0, stratify=labels)
    train = train[spread(len(train), max_train)]
    test = test[spread(len(test), max_test)]
    names = [str(digit) for digit in range(10)]
    return TaskData(
        ImageTensors(pixels[train], classes[train]),
        ImageTensors(pixels[test], classes[test]),
        names,
    )


def _from_file(spec: TaskSpec, wanted: ImagePreprocessing, **limits: int | None) -> TaskData[ImageTensors]:
    """Read a file of images. Grey ones can be read as RGB."""
    found = read_image_file(spec, wanted.image_size, wanted.num_channels, **limits)
    train = ImageTensors(found.train_pixels, found.train_labels)
    test = ImageTensors(found.test_pixels, found.test_labels)
    return TaskData(train, test, list(found.label_names))


def _from_datasets(spec: TaskSpec, parts: Sequence[Rows], wanted: ImagePreprocessing) -> TaskData[ImageTensors]:
    """Decode the images of a training and a test split, and number their labels."""
    assert spec.image_column is not None
    train, test = parts
    labels = label_kind(spec, train)
    train_labels = labels.read(train)
    test_labels = labels.read(test)
    labels.check_training(train_labels)
    feature = train.data.features[spec.image_column]
    train = _without_decoding(train, spec.image_column)
    test = _without_decoding(test, spec.image_column)
    decoding = _decoding_of(spec.image_column, train, wanted)
    train_pixels = _decode_split(train, decoding)
    test_pixels = _decode_split(test, decoding)
    found = max(train_pixels.shape[1], test_pixels.shape[1])
    declared = {"L": 1, "RGB": 3}.get(feature.mode)
    channels = wanted.num_channels or declared or found
    if channels < found:  # colours on a grey network: Pillow's own conversion, before the resizing
        decoding = replace(decoding, num_channels=channels)
        train_pixels = _decode_split(train, decoding)
        test_pixels = _decode_split(test, decoding)
    # grey images as RGB are views, and their channels share memory
    train_pixels = train_pixels.expand(-1, channels, -1, -1)
    test_pixels = test_pixels.expand(-1, channels, -1, -1)
    return TaskData(
        ImageTensors(train_pixels, train_labels),
        ImageTensors(test_pixels, test_labels),
        labels.names,
    )


def _without_decoding(part: Rows, column: str) -> Rows:
    """Return the rows with their images as files, because they are decoded here, row by row."""
    feature = part.data.features[column]
    if not isinstance(feature, datasets.Image):
        kind = type(feature).__name__
        raise InputError("image_column", column, f"has type {kind}; allowed is Image")
    undecoded = part.data.cast_column(column, datasets.Image(decode=False))
    return replace(part, data=undecoded)


def _open(column: str, encoded: dict[str, Any] | None, row: int) -> PILImage.Image:
    """Return a row's picture, turned upright."""
    if encoded is None:
        raise InputError("image_column", column, f"row {row} holds no image")
    try:
        return datasets.Image().decode_example(encoded)
    except Exception as error:  # of any kind, for a file that is no image, or for an incomplete or too large one
        problem = f"row {row} cannot be decoded ({first_line(error)})"
        raise InputError("image_column", column, problem) from error


# ---- decoding of a split ----


@dataclass(frozen=True)
class Decoding:
    """Describe how the pictures of a column become pixels. Its repr is part of the cache's key.

    Attributes:
        image_column: the column.
        size: height and width of all images.
        interpolation: filter of the resizing. None: every picture must have this size.
        num_channels: 1 or 3. None: every picture keeps its own.
        shortest_edge: length of the shorter side before a crop. None: no crop.
    """

    image_column: str
    size: tuple[int, int]
    interpolation: str | None
    num_channels: int | None = None
    shortest_edge: int | None = None


def _decoding_of(column: str, train: Rows, wanted: ImagePreprocessing) -> Decoding:
    """Return how a column is decoded. If no size is wanted, all images must have the first one's size."""
    encoded = train.data[0][column]
    first = _open(column, encoded, int(train.numbers[0]))
    if wanted.image_size is None:
        return Decoding(column, (first.height, first.width), None)
    return Decoding(column, wanted.image_size, wanted.interpolation, shortest_edge=wanted.shortest_edge)


def _decode_split(part: Rows, decoding: Decoding) -> Tensor:
    """Return the pixels, (N, C, height, width), uint8. C is 3 if any image of these rows has colours."""
    height, width = decoding.size
    images_at_once = BATCH_BYTES // (3 * height * width)
    batch_size = max(1, min(1000, images_at_once))
    table = cached_table(
        part.data,
        _decode_batch,
        key=("images", decoding),
        features=datasets.Features({"pixels": datasets.Sequence(datasets.Value("uint8"))}),
        with_indices=True,
        batch_size=batch_size,
        writer_batch_size=batch_size,
        fn_kwargs={"numbers": part.numbers, "decoding": decoding},
        desc=f"Decoding {part.split}",
    )
    return _gathered(table["pixels"], height, width)


def _gathered(column: pa.ChunkedArray, height: int, width: int) -> Tensor:
    """Return all images, (N, C, height, width) uint8, from rows of C * height * width numbers with C of 1 or 3."""
    area = height * width
    counts = []  # channels of each image, in each chunk
    for chunk in column.chunks:
        lengths = chunk.value_lengths().to_numpy()
        counts.append(lengths // area)
    channels = int(np.concatenate(counts).max())
    shape = (len(column), channels, height, width)
    pixels = np.empty(shape, dtype=np.uint8)
    start = 0
    for chunk, count in zip(column.chunks, counts, strict=True):
        stop = start + len(chunk)
        values = chunk.flatten().to_numpy()
        if np.all(count == channels):
            pixels[start:stop] = values.reshape(-1, channels, height, width)
        else:
            ends = np.cumsum(count * area)
            images = np.split(values, ends[:-1])
            for row, image in enumerate(images, start):
                pixels[row] = image.reshape(-1, height, width)  # one channel of grey fills all three
        start = stop
    return torch.from_numpy(pixels)


def _decode_batch(
    batch: dict[str, list[Any]], places: list[int], *, numbers: np.ndarray, decoding: Decoding
) -> dict[str, Any]:
    """Decode rows.

    Args:
        batch: the rows' columns.
        places: the rows' places among all rows.
        numbers: of all rows within their split, for errors.
        decoding: size, filter and channels.
    """
    column = decoding.image_column
    method = decoding.interpolation or "bicubic"
    used = ImagePreprocessing(
        image_size=decoding.size, interpolation=method, num_channels=1, shortest_edge=decoding.shortest_edge
    )
    processor = used.processor()
    height, width = decoding.size
    expected = f"{height}x{width}"
    pixels = []
    for encoded, row in zip(batch[column], numbers[places].tolist(), strict=True):
        picture = _open(column, encoded, row)
        found = (picture.height, picture.width)
        if decoding.interpolation is None and found != decoding.size:
            problem = f"row {row} is {picture.height}x{picture.width}, expected {expected} (`image_size` resizes)"
            raise InputError("image_column", column, problem)
        channels = decoding.num_channels or num_channels_of(picture)
        try:
            values = processor.pixels(picture, channels)
        except ValueError as error:
            raise InputError("image_column", column, f"row {row} {error}") from error
        flat = np.ascontiguousarray(values).reshape(-1)
        pixels.append(flat)
    return {"pixels": pixels}
