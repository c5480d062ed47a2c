"""The settings of a run's data, and loading the data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from ..data import (
    ImagePreprocessing,
    RandomAffine,
    TaskData,
    TaskSpec,
    load_blocks,
    load_images,
    load_texts,
    make_task,
    resolve_task,
)
from ..data.tasks import BLOCKS, IMAGES
from ..errors import InputError
from .setting import setting

# settings that are fields of `TaskSpec`
TASK_FIELDS = (
    "dataset_name", "dataset_config", "image_column", "text_column", "label_column", "train_split", "test_split",
    "test_fraction", "split_seed", "skip_missing", "image_mean", "image_std", "interpolation", "task_type",
    "problem_type", "block_size",
)  # fmt: skip
IMAGE_FIELDS = ("image_column", "image_size", "image_mean", "image_std", "interpolation", "augment")
TEXT_FIELDS = ("tokenizer_name", "max_length", "vocab_size")


@dataclass
class DataSettings:
    """Settings of the data. A `task` alone reads its own data set. The other fields override parts of it."""

    task: str | None = setting(
        "Built-in task with its recipe: digits (default; needs no network), mnist, cifar10, cifar10-paper-text, imdb."
    )
    dataset_name: str | None = setting(
        "Any other data set, of images or texts: Hub id, local folder in Hub layout, or a single CSV, TSV, JSON, JSONL "
        "or parquet file, or a safetensors file of images. Without `task` no recipe comes with it."
    )
    dataset_config: str | None = setting("Configuration of the data set, if it has several.")
    image_column: str | None = setting("Column of images; default: image, else the only one of that type.")
    # in this order, because transformers' parser takes the type beside None, and None second
    text_column: list[str] | None | str = setting(  # noqa: RUF036
        "Column of texts, or both columns of sentence pairs; default, without a column of images: text, else the only "
        "one of strings."
    )
    label_column: str | None = setting("Column of labels; default: label, else the only one of the labels' type.")
    task_type: str | None = setting(
        "image-classification or text-classification (default: as the columns are), token-classification (lists of "
        "words and of their classes) or causal-lm (texts without labels)."
    )
    problem_type: str | None = setting(
        "single_label_classification (default), multi_label_classification (default with lists of labels) or "
        "regression (scores)."
    )
    train_split: str | None = setting("Split to train on; default: train.")
    test_split: str | None = setting("Split to evaluate on; default: test, else validation (dev, valid, val, eval).")
    test_fraction: float | None = setting(
        "Hold out this share of the training split as the test split, the same of each class."
    )
    split_seed: int | None = setting("Seed of the choice of the rows held out by `test_fraction`; default: 0.")
    skip_missing: bool = setting(
        "Leave out rows without a sample or a label; default: such rows are an error.", default=False
    )
    image_size: list[int] | None = setting(
        "Resize images to this height and width (one number: a square); default: the pretrained backbone's size, else "
        "images stay as they are."
    )
    image_mean: list[float] | None = setting(
        "Subtracted from pixel / 255: one number, or one per channel; default: the pretrained backbone's, else 0.5."
    )
    image_std: list[float] | None = setting(
        "Divides afterwards: one number, or one per channel; default: the pretrained backbone's, else 0.5."
    )
    interpolation: str | None = setting(
        "Filter of the resizing, such as bilinear; default: the pretrained backbone's, else bicubic."
    )
    augment: bool = setting("Turn, shift and mirror each training image differently in each epoch.", default=False)
    tokenizer_name: str | None = setting(
        "Tokenizer on the Hub or in a folder; default: the pretrained backbone's, else words of the training texts."
    )
    max_length: int | None = setting("Cut texts to so many tokens; default: the tokenizer's own limit.")
    block_size: int | None = setting(
        "Tokens of a sample with `task_type` causal-lm; default: 128, or the tokenizer's limit if that is smaller."
    )
    vocab_size: int | None = setting(
        "Tokens of the tokenizer that is trained on the texts with `task_type` causal-lm; default: 8192."
    )
    max_train_samples: int | None = setting("Use so many training samples, spread evenly over the split.")
    max_test_samples: int | None = setting("Use so many test samples, spread evenly over the split.")

    def given(self) -> dict[str, Any]:
        """Return the fields with a value of their own, by name."""
        found = {}
        for one in fields(self):
            value = getattr(self, one.name)
            if value is not None and value is not False:
                found[one.name] = value
        return found

    def task_spec(self) -> TaskSpec:
        """Return the task of these settings. See `make_task`."""
        given = self.given()
        entries = {name: given[name] for name in TASK_FIELDS if name in given}
        return make_task(self.task, entries)


def load_data(
    spec: TaskSpec,
    settings: DataSettings,
    *,
    tokenizer: Any = None,
    padded: bool = False,
    preprocessing: ImagePreprocessing | None = None,
) -> TaskData[Any]:
    """Load the data of a task.

    Args:
        spec: the task.
        settings: limits and preprocessing. Fields of the task itself are ignored.
        tokenizer: of texts, unless the settings name one.
        padded: the layout of batches of texts.
        preprocessing: of images, unless the settings give one: a pretrained backbone's, or a trained network's.

    Raises:
        InputError: a setting of images for texts, or of texts for images.
    """
    spec = resolve_task(spec)
    _check_kind(spec, settings)
    limits = {"max_train_samples": settings.max_train_samples, "max_test_samples": settings.max_test_samples}
    tokenizer = settings.tokenizer_name or tokenizer
    if spec.kind == BLOCKS:
        return load_blocks(spec, tokenizer=tokenizer, vocab_size=settings.vocab_size, **limits)
    if spec.text_column is not None:
        return load_texts(spec, tokenizer=tokenizer, padded=padded, max_length=settings.max_length, **limits)
    size = height_and_width(settings.image_size)
    data = load_images(spec, image_size=size, preprocessing=preprocessing, **limits)
    if settings.augment:
        data = replace(data, train=replace(data.train, augmentation=RandomAffine()))
    return data


def height_and_width(size: Sequence[int] | None) -> list[int] | None:
    """Return both sides of an image. A single number is both.

    Raises:
        InputError: more than two numbers, or one below 1.
    """
    if size is None:
        return None
    if len(size) > 2 or min(size, default=1) < 1:
        raise InputError("image_size", size, "allowed are one or two integers of at least 1")
    if len(size) == 1:
        return [size[0], size[0]]
    return list(size)


def _check_kind(spec: TaskSpec, settings: DataSettings) -> None:
    """Raise an InputError for a setting of images with texts, and for one of texts with images."""
    given = settings.given()
    excluded: tuple[str, ...] = IMAGE_FIELDS
    problem = "the task is one of texts; allowed with images"
    if spec.kind == IMAGES:
        excluded, problem = TEXT_FIELDS, "the task is one of images; allowed with texts (`text_column`)"
    for name, value in given.items():
        if name in excluded:
            raise InputError(name, value, problem)
    if "vocab_size" in given and spec.kind != BLOCKS:
        raise InputError("vocab_size", settings.vocab_size, f"allowed with `task_type` {BLOCKS}")
    if "max_length" in given and spec.kind == BLOCKS:
        problem = f"allowed without `task_type` {BLOCKS}, whose texts are joined and cut by `block_size`"
        raise InputError("max_length", settings.max_length, problem)
