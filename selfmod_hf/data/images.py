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
from torch.utils.data import Dataset

from ..errors import InputError
from .tasks import TaskSpec

if TYPE_CHECKING:
    import datasets
    from PIL import Image as PILImage

IGNORED_LABEL = -100  # transformers' convention: such a sample enters no loss
DEVICE_BYTES = 4 << 30  # a data set up to this size moves to the accelerator as a whole


@dataclass(frozen=True)
class ImageTensors(Dataset):
    """Labelled images in memory. A batch is one gather and one multiply-add.

    Attributes:
        pixels: (N, channels, height, width), uint8.
        labels: (N,), int64, each in [0, number of classes).
        mean: subtracted from pixel / 255.
        std: divides afterwards.
        device: where batches are made.
    """

    pixels: torch.Tensor
    labels: torch.Tensor
    mean: float = 0.5
    std: float = 0.5
    device: torch.device | str = "cpu"

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {name: tensor[0] for name, tensor in self.__getitems__([index]).items()}

    def __getitems__(self, indices: torch.Tensor | Sequence[int]) -> dict[str, torch.Tensor]:
        """The batch of these samples: `pixel_values` (B, channels, height, width) float32 and `labels` (B,).

        The index -1 alone stands for no sample: a batch of one whose label is -100, so that it enters no loss.
        """
        rows = torch.as_tensor(indices, device=self.pixels.device)  # (B,)
        if int(indices[0]) < 0:
            none = self.__getitems__([0])
            return {**none, "labels": torch.full_like(none["labels"], IGNORED_LABEL)}
        labels = self.labels.index_select(0, rows)
        pixels = self.pixels.index_select(0, rows).to(self.device)  # still uint8
        scale = 1 / (255 * self.std)
        return {
            "pixel_values": pixels.mul(scale).sub_(self.mean / self.std),
            "labels": labels.to(self.device),
        }

    def all(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Every sample at once: (N, channels, height, width) float32 and (N,)."""
        batch = self.__getitems__(torch.arange(len(self)))
        return batch["pixel_values"], batch["labels"]

    def to(self, device: torch.device | str) -> ImageTensors:
        """The same data with batches made on `device`; the tensors move there too, unless they exceed 4 GiB."""
        moves = self.pixels.nbytes <= DEVICE_BYTES
        pixels, labels = (t.to(device) if moves else t for t in (self.pixels, self.labels))
        return replace(self, pixels=pixels, labels=labels, device=device)


@dataclass(frozen=True)
class TaskData:
    """Both splits of a task, and the names of its classes in the order of their numbers."""

    train: ImageTensors
    test: ImageTensors
    label_names: list[str]


def load_images(
    spec: TaskSpec,
    *,
    image_size: Sequence[int] | None = None,
    max_train_samples: int | None = None,
    max_test_samples: int | None = None,
) -> TaskData:
    """Read a task's images: from scikit-learn (`digits`), from the Hub, or from a local folder in Hub layout.

    Args:
        spec: the task.
        image_size: resize to this height and width; by default every image must have the first one's size.
        max_train_samples: use the first so many of the training split.
        max_test_samples: use the first so many of the test split.

    Raises:
        InputError: a column or split that is not there, no sample, an image of another size or one that cannot be
            decoded, a label out of range, one class only, a data set that cannot be reached.
    """
    for name, count in (("--max_train_samples", max_train_samples), ("--max_test_samples", max_test_samples)):
        if count is not None and count < 1:
            raise InputError(name, count, "allowed are integers of at least 1")
    if spec.dataset_name is None:
        if image_size is not None:
            raise InputError(
                "--image_size", image_size, "digits are 8x8 as they are; allowed with a data set of images"
            )
        train, test, names = _digits()
    else:
        train, test, names = _from_datasets(spec, image_size, max_train_samples, max_test_samples)
    splits = {
        name: ImageTensors(pixels[:count], labels[:count], spec.image_mean, spec.image_std)
        for name, (pixels, labels), count in (("train", train, max_train_samples), ("test", test, max_test_samples))
    }
    _check_labels(spec, splits["train"].labels, splits["test"].labels, len(names))
    return TaskData(splits["train"], splits["test"], label_names=names)


Split = tuple[torch.Tensor, torch.Tensor]  # pixels (N, C, H, W) uint8, labels (N,) int64


def _digits() -> tuple[Split, Split, list[str]]:
    """scikit-learn's 1,797 images of 8x8, every fifth of each class held out for the test."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    pixels = torch.from_numpy((images * (255 / 16)).round().astype(np.uint8)).view(-1, 1, 8, 8)
    rows = np.arange(len(labels))
    train, test = train_test_split(rows, test_size=0.2, random_state=0, stratify=labels)
    targets = torch.from_numpy(labels).long()
    return (pixels[train], targets[train]), (pixels[test], targets[test]), [str(digit) for digit in range(10)]


def _from_datasets(
    spec: TaskSpec, image_size: Sequence[int] | None, max_train: int | None, max_test: int | None
) -> tuple[Split, Split, list[str]]:
    train = load_split(spec, "--train_split", spec.train_split, max_train)
    test = load_split(spec, "--test_split", spec.test_split, max_test)
    for column, flag in ((spec.image_column, "--image_column"), (spec.label_column, "--label_column")):
        _check_column(train, flag, column)
        _check_column(test, flag, column)
    names = _label_names(spec, train)
    train, test = (_as_images(spec, data) for data in (train, test))
    first = _read_image(spec, train, 0)
    channels = 1 if first.mode in ("1", "L", "I", "I;16", "F") else 3
    height, width = image_size or (first.height, first.width)
    shape = (channels, height, width)
    resize = image_size is not None
    return (
        _decode_split(spec, spec.train_split, train, names, shape, resize),
        _decode_split(spec, spec.test_split, test, names, shape, resize),
        names,
    )


def load_split(spec: TaskSpec, flag: str, split: str, max_samples: int | None) -> datasets.Dataset:
    """One split of the task's data set, through the real `datasets` client (and its cache)."""
    import datasets
    from huggingface_hub.errors import HfHubHTTPError

    assert spec.dataset_name is not None
    try:
        data = datasets.load_dataset(spec.dataset_name, spec.dataset_config, split=split)
    except datasets.exceptions.DatasetNotFoundError as error:
        raise InputError("--dataset_name", spec.dataset_name, f"no such data set ({_first_line(error)})") from error
    except (ConnectionError, HfHubHTTPError) as error:
        raise InputError("--dataset_name", spec.dataset_name, UNREACHABLE.format(_first_line(error))) from error
    except ValueError as error:
        if "corresponds to no data" in str(error):
            raise InputError(flag, split, EMPTY) from error
        # an unknown split or configuration (the message says which there are), or a name that cannot be one
        known = {"split": (flag, split), "BuilderConfig": ("--dataset_config", spec.dataset_config)}
        name, value = next(
            (entry for word, entry in known.items() if word in str(error)), ("--dataset_name", spec.dataset_name)
        )
        raise InputError(name, value, _first_line(error)) from error
    if len(data) == 0:
        raise InputError(flag, split, EMPTY)
    return data if max_samples is None else data.select(range(min(max_samples, len(data))))


EMPTY = "the split is empty; at least one sample is needed"
UNREACHABLE = (
    "the Hub cannot be reached and no cached copy was found ({}); use --task digits, "
    "a local folder in Hub layout as --dataset_name, or set HF_ENDPOINT"
)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _check_column(data: datasets.Dataset, flag: str, column: str) -> None:
    if column not in data.column_names:
        raise InputError(flag, column, f"no such column; the data set has {', '.join(data.column_names)}")


def _label_names(spec: TaskSpec, data: datasets.Dataset) -> list[str]:
    import datasets

    feature = data.features[spec.label_column]
    if isinstance(feature, datasets.ClassLabel):
        return list(feature.names)
    if isinstance(feature, datasets.Value) and feature.dtype in ("string", "large_string"):
        return sorted(data.unique(spec.label_column))
    if isinstance(feature, datasets.Value) and ("int" in feature.dtype or feature.dtype == "bool"):
        return [str(label) for label in range(int(max(data.unique(spec.label_column))) + 1)]
    raise InputError("--label_column", spec.label_column, f"has type {feature}; allowed are ClassLabel, int, string")


def _as_images(spec: TaskSpec, data: datasets.Dataset) -> datasets.Dataset:
    import datasets

    feature = data.features[spec.image_column]
    if not isinstance(feature, datasets.Image):
        kind = type(feature).__name__
        raise InputError("--image_column", spec.image_column, f"has type {kind}; allowed is Image")
    return data.cast_column(spec.image_column, datasets.Image(decode=False))  # decoded below, row by row


def _read_image(spec: TaskSpec, data: datasets.Dataset, row: int) -> PILImage.Image:
    return _decode(spec.image_column, data[row][spec.image_column], row)


def _decode(column: str, encoded: dict[str, Any] | None, row: int) -> PILImage.Image:
    import datasets

    if encoded is None:
        raise InputError("--image_column", column, f"row {row} holds no image")
    try:
        return datasets.Image().decode_example(encoded)
    except (OSError, SyntaxError, ValueError) as error:  # PIL's errors for what is no image, or only part of one
        raise InputError("--image_column", column, f"row {row} cannot be decoded ({_first_line(error)})") from error


def _decode_split(
    spec: TaskSpec, split: str, data: datasets.Dataset, names: list[str], shape: tuple[int, int, int], resize: bool
) -> Split:
    import datasets

    numbers = {name: number for number, name in enumerate(names)}
    feature = data.features[spec.label_column]
    by_name = isinstance(feature, datasets.Value) and "string" in feature.dtype
    decoded = data.map(  # cached by `datasets`, keyed by the data and these arguments
        _decode_batch,
        with_indices=True,
        batched=True,
        batch_size=1000,
        remove_columns=data.column_names,
        fn_kwargs={
            "image_column": spec.image_column,
            "label_column": spec.label_column,
            "numbers": numbers if by_name else None,
            "shape": shape,
            "resize": resize,
        },
        features=datasets.Features(
            {
                "pixels": datasets.Sequence(datasets.Value("uint8"), length=int(np.prod(shape))),
                "label": datasets.Value("int64"),
            }
        ),
        desc=f"Decoding {split}",
    )
    table = decoded.with_format("arrow")[:]
    pixels = table["pixels"].combine_chunks().flatten().to_numpy()  # (N * C * H * W,)
    labels = table["label"].to_numpy()  # (N,)
    # copies: the arrow buffers are read-only views of the cache file
    return torch.from_numpy(pixels.copy()).view(-1, *shape), torch.from_numpy(labels.copy())


def _decode_batch(
    batch: dict[str, list[Any]],
    rows: list[int],
    *,
    image_column: str,
    label_column: str,
    numbers: dict[str, int] | None,
    shape: tuple[int, int, int],
    resize: bool,
) -> dict[str, Any]:
    channels, height, width = shape
    pixels = np.empty((len(rows), height, width, channels), dtype=np.uint8)
    for slot, (image, row) in enumerate(zip(batch[image_column], rows, strict=True)):
        image = _decode(image_column, image, row).convert("L" if channels == 1 else "RGB")
        if resize:
            image = image.resize((width, height))
        if (image.height, image.width) != (height, width):
            raise InputError(
                "--image_column",
                image_column,
                f"row {row} is {image.height}x{image.width}, expected {height}x{width} (--image_size resizes)",
            )
        pixels[slot] = np.asarray(image).reshape(height, width, channels)
    labels = batch[label_column]
    if numbers is not None:
        labels = [numbers.get(label, -1) for label in labels]
    flat = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)).reshape(len(rows), -1)
    return {"pixels": list(flat), "label": [-1 if label is None else int(label) for label in labels]}


def _check_labels(spec: TaskSpec, train: torch.Tensor, test: torch.Tensor, num_labels: int) -> None:
    for split, labels in ((spec.train_split, train), (spec.test_split, test)):
        wrong = (labels < 0) | (labels >= num_labels)
        if wrong.any():
            row = int(wrong.nonzero()[0])
            raise InputError(
                "--label_column",
                spec.label_column,
                f"row {row} of split {split!r} has label {int(labels[row])}, allowed are 0 to {num_labels - 1}",
            )
    if len(train.unique()) < 2:
        raise InputError(
            "--label_column", spec.label_column, "all training labels are the same class; at least two are needed"
        )


def image_processor(data: ImageTensors) -> Any:
    """The `ViTImageProcessor` that prepares a picture as `data` does; saved beside a model, it feeds a
    `pipeline("image-classification")`."""
    from transformers import ViTImageProcessor

    channels, height, width = data.pixels.shape[1:]
    return ViTImageProcessor(
        size={"height": height, "width": width},
        image_mean=[data.mean] * channels,
        image_std=[data.std] * channels,
        do_convert_rgb=channels == 3,
    )
