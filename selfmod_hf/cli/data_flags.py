"""The flags that name a data set, shared by the commands."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..data import TaskData, TaskSpec


def flag(help: str, default: Any = None, **kwargs: Any) -> Any:
    return field(default=default, metadata={"help": help, **kwargs})


@dataclass
class DataArguments:
    """Which data. With `--task` alone its own data set; the other flags override single entries of it."""

    task: str | None = flag("Built-in task with the paper's recipe: digits (default; needs no network) or mnist.")
    dataset_name: str | None = flag("Any other image data set: Hub id, or local folder in Hub layout.")
    dataset_config: str | None = flag("Configuration of the data set, where it has several.")
    image_column: str | None = flag("Column of images; default: image.")
    label_column: str | None = flag("Column of class labels; default: label.")
    train_split: str | None = flag("Split to train on; default: train.")
    test_split: str | None = flag("Split to evaluate on; default: test.")
    image_size: list[int] | None = flag("Resize images to this height and width (one number: a square).")
    max_train_samples: int | None = flag("Use the first so many training samples.")
    max_test_samples: int | None = flag("Use the first so many test samples.")


def task_spec(args: Any) -> TaskSpec:
    """The built-in task, or the user's own data set, or one with entries of the other."""
    from ..data import TaskSpec, get_task

    entries = {
        name: getattr(args, name)
        for name in ("dataset_name", "dataset_config", "image_column", "label_column", "train_split", "test_split")
        if getattr(args, name) is not None
    }
    if args.task is None and args.dataset_name is not None:
        return TaskSpec(name=Path(args.dataset_name).name, **entries)
    return replace(get_task(args.task or "digits"), **entries)


def load_data(spec: TaskSpec, args: DataArguments) -> TaskData:
    from ..data import load_images
    from ..errors import InputError

    size = args.image_size
    if size is not None:
        if len(size) > 2 or any(side < 1 for side in size):
            raise InputError("--image_size", size, "allowed are one or two integers of at least 1")
        size = size * 2 if len(size) == 1 else size
    return load_images(
        spec, image_size=size, max_train_samples=args.max_train_samples, max_test_samples=args.max_test_samples
    )
