"""The flags that name a data set, shared by the commands."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from .arguments import print_note

if TYPE_CHECKING:
    from ..data import ImagePreprocessing, TaskData, TaskSpec


def flag(help: str, default: Any = None, **kwargs: Any) -> Any:
    """Return a dataclass field with its help text."""
    return field(default=default, metadata={"help": help, **kwargs})


@dataclass
class DataArguments:
    """Which data. With `--task` alone its own data set; the other flags override single entries of it."""

    task: str | None = flag(
        "Built-in task with its recipe: digits (default; needs no network), mnist, cifar10, cifar10-paper-text, imdb."
    )
    dataset_name: str | None = flag(
        "Any other data set, of images or texts: Hub id, local folder in Hub layout, or a single CSV, TSV, JSON, JSONL "
        "or parquet file. Without --task no recipe comes with it."
    )
    dataset_config: str | None = flag("Configuration of the data set, where it has several.")
    image_column: str | None = flag("Column of images; default: image, else the only one of that type.")
    text_column: str | None = flag(
        "Column of texts; default, without a column of images: text, else the only one of strings."
    )
    label_column: str | None = flag("Column of class labels; default: label, else the only one of that type.")
    train_split: str | None = flag("Split to train on; default: train.")
    test_split: str | None = flag("Split to evaluate on; default: test, else validation (dev, valid, val, eval).")
    test_fraction: float | None = flag(
        "Hold out this share of the training split as the test split, the same of each class."
    )
    split_seed: int | None = flag("Of the choice of the rows held out by --test_fraction; default: 0.")
    skip_missing: bool = flag(
        "Leave out rows without a sample or a label; default: such rows are an error.", default=False
    )
    image_size: list[int] | None = flag(
        "Resize images to this height and width (one number: a square); default: the pretrained backbone's size, else "
        "images stay as they are."
    )
    image_mean: list[float] | None = flag(
        "Subtracted from pixel / 255: one number, or one per channel; default: the pretrained backbone's, else 0.5."
    )
    image_std: list[float] | None = flag(
        "Divides afterwards: one number, or one per channel; default: the pretrained backbone's, else 0.5."
    )
    interpolation: str | None = flag(
        "Filter of the resizing, such as bilinear; default: the pretrained backbone's, else bicubic."
    )
    augment: bool = flag("Turn, shift and mirror each training image, each epoch anew.", default=False)
    tokenizer_name: str | None = flag(
        "Tokenizer on the Hub or in a folder; default: the pretrained backbone's, else words of the training texts."
    )
    max_length: int | None = flag("Cut texts to so many tokens; default: the tokenizer's own limit.")
    max_train_samples: int | None = flag("Use so many training samples, spread evenly over the split.")
    max_test_samples: int | None = flag("Use so many test samples, spread evenly over the split.")


# flags that are fields of `TaskSpec`
TASK_FIELDS = (
    "dataset_name", "dataset_config", "image_column", "text_column", "label_column", "train_split", "test_split",
    "test_fraction", "split_seed", "skip_missing",
)  # fmt: skip


def is_typed(args: Any, name: str) -> bool:
    """Return whether a flag without a default of its own has a value."""
    value = getattr(args, name)
    return value is not None and value is not False


def task_spec(args: Any) -> TaskSpec:
    """Return the task that the flags name; see `make_task`."""
    from ..data import make_task

    entries = {name: getattr(args, name) for name in TASK_FIELDS if is_typed(args, name)}
    preprocessing = {name: getattr(args, name) for name in ("image_mean", "image_std", "interpolation")}
    return make_task(args.task, entries | preprocessing)


def load_data(
    spec: TaskSpec,
    args: DataArguments,
    *,
    tokenizer: Any = None,
    padded: bool = False,
    preprocessing: ImagePreprocessing | None = None,
) -> TaskData[Any]:
    """The task's data.

    Args:
        spec: the task.
        args: the other flags.
        tokenizer: of texts, where `--tokenizer_name` names none.
        padded: the layout of batches of texts.
        preprocessing: of images, where no flag says otherwise: a pretrained backbone's, or a trained network's.
    """
    from ..data import load_images, load_texts, resolve_task

    spec = resolve_task(spec)
    _check_kind(spec, args)
    limits = {"max_train_samples": args.max_train_samples, "max_test_samples": args.max_test_samples}
    if spec.text_column is not None:
        tokenizer = args.tokenizer_name or tokenizer
        return load_texts(spec, tokenizer=tokenizer, padded=padded, max_length=args.max_length, **limits)
    data = load_images(spec, image_size=_image_size(args.image_size), preprocessing=preprocessing, **limits)
    if args.augment:
        from ..data import RandomAffine

        data = replace(data, train=replace(data.train, augmentation=RandomAffine()))
    return data


def note_unseen_classes(data: TaskData[Any]) -> None:
    """Print which classes of the test samples no training sample has, because no network can learn them."""
    if data.unseen_classes:
        shown = ", ".join(f"{name} ({count} test samples)" for name, count in data.unseen_classes.items())
        print_note(f"no training sample has these classes: {shown}")


def _image_size(size: list[int] | None) -> list[int] | None:
    from ..errors import InputError

    if size is None:
        return None
    if len(size) > 2 or any(side < 1 for side in size):
        raise InputError("image_size", size, "allowed are one or two integers of at least 1")
    return size * 2 if len(size) == 1 else size


def _check_kind(spec: TaskSpec, args: DataArguments) -> None:
    """Refuse a flag of images with texts, and one of texts with images."""
    from ..errors import InputError

    texts = spec.text_column is not None
    of_images = ("image_column", "image_size", "image_mean", "image_std", "interpolation", "augment")
    for name in of_images if texts else ("tokenizer_name", "max_length"):
        if is_typed(args, name):
            kind, other = ("texts", "images") if texts else ("images", "texts (`text_column`)")
            raise InputError(name, getattr(args, name), f"the task is one of {kind}; allowed with {other}")
