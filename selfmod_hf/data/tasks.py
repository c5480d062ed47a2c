"""The tasks: their data sets, how these are read, and the recipes of the paper."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..errors import InputError

# kinds of tasks, named like the pipelines of the Hub where there is one
IMAGES = "image-classification"
TEXTS = "text-classification"
WORDS = "token-classification"
BLOCKS = "causal-lm"
TASK_TYPES = (IMAGES, TEXTS, WORDS, BLOCKS)
# kinds of labels of a sample, named as in transformers
CLASSES = "single_label_classification"
SEVERAL_CLASSES = "multi_label_classification"
SCORES = "regression"
PROBLEM_TYPES = (CLASSES, SEVERAL_CLASSES, SCORES)


@dataclass(frozen=True)
class TaskSpec:
    """Describe a task of images or, with a text column, of texts.

    Attributes:
        name: name of the task.
        dataset_name: Hub id, local folder in Hub layout, or a single CSV, TSV, JSON, JSONL, parquet or
            safetensors file (see `ImageFile`). None is
            scikit-learn's digits, available without the Hub.
        dataset_config: configuration of the data set, if it has several.
        image_column: column of images. None: `image`, else the only one of its type.
        text_column: column of texts, or two columns of sentence pairs. For a class of each word it holds lists of
            words. `load_texts` takes None for `text`, else the only column of that type.
        label_column: column of labels. Classes are ClassLabel, integers or strings. Several classes of a sample are
            lists of these. None: `label`, else the only one of that type.
        train_split: split to train on.
        test_split: split to evaluate on. None: the first of test, validation, dev, valid, val and eval.
        test_fraction: share of the training split, within (0, 1), to be held out as the test split, with the same
            share of each class. None: the data set has a test split.
        split_seed: seed of the random choice of held-out rows.
        skip_missing: leave out rows without a sample or a label. Otherwise such rows are an error.
        image_mean: subtracted from pixel / 255: one number, or one per channel. None: the backbone's, else 0.5.
        image_std: divides afterwards: one number, or one per channel. None: the backbone's, else 0.5.
        interpolation: filter of the resizing, such as "bicubic". None: the backbone's, else "bicubic".
        recipe: default of each flag of `selfmod train`, by its name. `train_batch_size` is the batch of one
            optimizer step over all processes.
        source: origin of the recipe.
        task_type: one of `TASK_TYPES`. None: classification of images, or with a text column of texts. The labels of
            "causal-lm" are the tokens themselves, so it has no label column.
        problem_type: one of `PROBLEM_TYPES`, transformers' names. None: several classes if the label column holds
            lists, else classes.
        block_size: tokens of a sample of "causal-lm". None: 128, or the tokenizer's limit if that is smaller.

    Raises:
        InputError: an unknown kind, or fields that contradict each other.

    Example:
        >>> TaskSpec(name="mine", dataset_name="me/pictures", test_fraction=0.2).train_data
        'me/pictures, train, without a test fraction of 0.2 (seed 0)'
    """

    name: str
    dataset_name: str | None
    dataset_config: str | None = None
    image_column: str | None = None
    text_column: str | Sequence[str] | None = None
    label_column: str | None = None
    train_split: str = "train"
    test_split: str | None = None
    image_mean: float | Sequence[float] | None = None
    image_std: float | Sequence[float] | None = None
    recipe: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""
    test_fraction: float | None = None
    split_seed: int = 0
    skip_missing: bool = False
    interpolation: str | None = None
    task_type: str | None = None
    problem_type: str | None = None
    block_size: int | None = None

    def __post_init__(self) -> None:
        if self.text_column is not None and not isinstance(self.text_column, str):
            columns = _one_or_pair(self.text_column)
            object.__setattr__(self, "text_column", columns)
        _check_held_out(self)
        _check_kind(self)
        _check_columns(self)

    @property
    def kind(self) -> str:
        """Return the kind of the task, one of `TASK_TYPES`."""
        if self.task_type is not None:
            return self.task_type
        if self.text_column is None:
            return IMAGES
        return TEXTS

    @property
    def text_columns(self) -> tuple[str, ...]:
        """Return the names of the columns of texts: one, two of sentence pairs, or none."""
        if self.text_column is None:
            return ()
        if isinstance(self.text_column, str):
            return (self.text_column,)
        return tuple(self.text_column)

    @property
    def train_data(self) -> str:
        """Describe the training data for people: id, configuration, split, pairs, blocks, and the rows left out.

        A local folder or file is shown by its name, because a name is no id.
        """
        name = self.dataset_name or self.name
        if self.is_local:
            kind = "folder" if Path(name).is_dir() else "file"
            name = f"{kind} {Path(name).resolve().name}"
        parts = [name, self.dataset_config, self.train_split]
        if self.test_fraction is not None:
            parts.append(f"without a test fraction of {self.test_fraction:g} (seed {self.split_seed})")
        if self.skip_missing:
            parts.append("without rows that lack a value")
        if len(self.text_columns) == 2:
            parts.append(f"pairs of {' and '.join(self.text_columns)}")
        if self.block_size is not None:
            parts.append(f"blocks of {self.block_size} tokens")
        return ", ".join(part for part in parts if part)

    @property
    def is_local(self) -> bool:
        """Return whether the data set is a folder or file of this machine. Such a name means nothing elsewhere."""
        return self.dataset_name is not None and Path(self.dataset_name).exists()


def _one_or_pair(columns: Sequence[str]) -> str | tuple[str, ...]:
    """Return the text column of a list: the only one, or the two of sentence pairs."""
    names = tuple(columns)
    are_names = all(isinstance(name, str) for name in names)
    if not are_names or len(names) not in (1, 2) or len(set(names)) < len(names):
        raise InputError("text_column", list(columns), "allowed are one column, and two columns of sentence pairs")
    if len(names) == 1:
        return names[0]
    return names


def _check_held_out(spec: TaskSpec) -> None:
    fraction = spec.test_fraction
    seed = spec.split_seed
    if fraction is not None:
        if not isinstance(fraction, float) or not 0 < fraction < 1:
            raise InputError("test_fraction", fraction, "allowed are numbers between 0 and 1")
        if spec.test_split is not None:
            problem = f"allowed without `test_split`, which is {spec.test_split!r}"
            raise InputError("test_fraction", fraction, problem)
    if not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise InputError("split_seed", seed, "allowed are integers from 0 to 4294967295")


def _check_kind(spec: TaskSpec) -> None:
    """Reject an unknown kind of task or of labels, and labels or blocks that the kind of task does not have."""
    for field_name, allowed in (("task_type", TASK_TYPES), ("problem_type", PROBLEM_TYPES)):
        value = getattr(spec, field_name)
        if value is not None and value not in allowed:
            raise InputError(field_name, value, f"allowed are {', '.join(allowed)}")
    if spec.problem_type is not None and spec.kind in (WORDS, BLOCKS):
        problem = f"allowed with a label for each sample; `task_type` {spec.kind} has one for each token"
        raise InputError("problem_type", spec.problem_type, problem)
    size = spec.block_size
    if size is None:
        return
    if spec.kind != BLOCKS:
        raise InputError("block_size", size, f"allowed with `task_type` {BLOCKS}")
    if not isinstance(size, int) or size < 2:
        raise InputError("block_size", size, "allowed are integers of at least 2")


def _check_columns(spec: TaskSpec) -> None:
    """Reject columns that the kind of task does not have."""
    kind = spec.kind
    if kind == IMAGES and spec.text_column is not None:
        raise InputError("task_type", kind, "allowed without `text_column`")
    if kind != IMAGES and spec.image_column is not None and spec.text_column is None:
        problem = f"is a task of texts (`text_column`); the samples are images (`image_column` {spec.image_column})"
        raise InputError("task_type", kind, problem)
    if kind in (WORDS, BLOCKS) and len(spec.text_columns) == 2:
        raise InputError("text_column", list(spec.text_columns), f"allowed is one column with `task_type` {kind}")
    if kind == BLOCKS and spec.label_column is not None:
        problem = f"allowed without `task_type` {BLOCKS}, because its labels are the tokens themselves"
        raise InputError("label_column", spec.label_column, problem)


_PLAIN = {"lr_scheduler_type": "constant", "max_grad_norm": 0.0, "weight_decay": 0.0}

_SGD_WITH_MOMENTUM = {
    **_PLAIN,
    "optim": "sgd",
    "optim_args": "momentum=0.9,nesterov=True",
    "backbone": "mlp",
    "hidden_sizes": [64],
    "target_layers": ["hidden.relu1"],
}

_CIFAR10 = {
    **_PLAIN,
    "optim": "adamw_torch_fused",  # without weight decay: Adam
    "learning_rate": 1e-4,
    "train_batch_size": 64,
    "num_train_epochs": 250,
    "aux_weight": 1.0,
    "augment": True,
    "backbone": "timm/resnet18",
    "small_image_stem": True,
    "hidden_sizes": [2000],
    "target_layers": ["layer4", "hidden.relu1"],
}

TASKS: Mapping[str, TaskSpec] = {
    spec.name: spec
    for spec in (
        TaskSpec(
            name="digits",
            dataset_name=None,
            test_split="test",
            recipe={
                **_SGD_WITH_MOMENTUM,
                "learning_rate": 0.02,
                "train_batch_size": 64,
                "num_train_epochs": 100,
                "aux_weight": 1.0,
            },
            source="ours: small enough for a first look; no experiment of the paper",
        ),
        TaskSpec(
            name="mnist",
            dataset_name="ylecun/mnist",
            image_column="image",
            label_column="label",
            test_split="test",
            recipe={
                **_SGD_WITH_MOMENTUM,
                "learning_rate": 0.005,
                "train_batch_size": 512,
                "num_train_epochs": 50,
                "aux_weight": 10.0,
            },
            source="arXiv 2407.10188, the recipe its authors published with the figures (the table says batch 64)",
        ),
        TaskSpec(
            name="cifar10",
            dataset_name="uoft-cs/cifar10",
            image_column="img",
            label_column="label",
            test_split="test",
            recipe=_CIFAR10,
            source="arXiv 2407.10188, the recipe its authors published with the figures (the table says lr 0.001)",
        ),
        TaskSpec(
            name="cifar10-paper-text",
            dataset_name="uoft-cs/cifar10",
            image_column="img",
            label_column="label",
            test_split="test",
            recipe={**_CIFAR10, "learning_rate": 1e-3, "detach_targets": False},
            source="arXiv 2407.10188, its table and text (one sentence says 150 epochs)",
        ),
        TaskSpec(
            name="imdb",
            dataset_name="stanfordnlp/imdb",
            text_column="text",
            label_column="label",
            test_split="test",
            recipe={
                **_PLAIN,
                "optim": "sgd",
                "learning_rate": 0.1,
                "train_batch_size": 64,
                "num_train_epochs": 500,
                "aux_weight": 100.0,
                "backbone": "embedding_bag",
                "backbone_kwargs": {"embedding_dim": 64},
                "hidden_sizes": [128],
                "target_layers": ["hidden.relu1"],
            },
            source="arXiv 2407.10188",
        ),
    )
}


def default_recipe(hidden_sizes: Sequence[int] = (128,)) -> dict[str, Any]:
    """Return the recipe for other data sets: a small network predicting its last hidden layer.

    It is a plain default, no experiment of the paper: AdamW at 1e-3, and a self-model weight of 1.

    Args:
        hidden_sizes: widths of the hidden layers, one or more.

    Example:
        >>> default_recipe([64, 32])["target_layers"]
        ['hidden.relu2']
    """
    return {
        "hidden_sizes": list(hidden_sizes),
        "target_layers": [f"hidden.relu{len(hidden_sizes)}"],
        "aux_weight": 1.0,
        "learning_rate": 1e-3,
    }


def get_task(name: str) -> TaskSpec:
    """Return the built-in task of this name.

    Raises:
        InputError: an unknown name. The message lists the known ones.

    Example:
        >>> get_task("mnist").dataset_name
        'ylecun/mnist'
    """
    if name not in TASKS:
        raise InputError("task", name, f"allowed are {', '.join(TASKS)} (or name a data set by `dataset_name`)")
    return TASKS[name]


def make_task(task: str | None = None, entries: Mapping[str, Any] | None = None) -> TaskSpec:
    """Return a built-in task with other entries, or the task of another data set.

    Args:
        task: name of a built-in task. None: the data set named in `entries`, or "digits".
        entries: fields of `TaskSpec`, such as `dataset_name` and columns, in place of the task's own.

    Raises:
        InputError: an unknown task, or entries for a task without a data set.

    Example:
        >>> make_task("mnist", {"train_split": "test"}).train_data
        'ylecun/mnist, test'
    """
    entries = dict(entries or {})
    name = entries.get("dataset_name")
    if task is None and name is not None:
        return TaskSpec(name=Path(name).name, **entries)
    known = get_task("digits" if task is None else task)
    if known.dataset_name is None and name is None:
        for entry, value in entries.items():
            if entry not in ("image_mean", "image_std", "interpolation"):
                raise InputError(entry, value, f"{known.name} is built in; allowed with data of the Hub or of a folder")
    if "test_fraction" in entries or name is not None:
        entries.setdefault("test_split", None)  # the task's own test split belongs to its own data
    if entries.get("task_type") == BLOCKS:
        entries.setdefault("label_column", None)
    return replace(known, **entries)
