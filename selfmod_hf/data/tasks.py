"""The tasks: where the data lies, how it is read, and the recipe the paper trains with."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import InputError


@dataclass(frozen=True)
class TaskSpec:
    """A classification task, of images or, with a text column, of texts.

    Attributes:
        name: of the task.
        dataset_name: Hub id or local folder in Hub layout; None is scikit-learn's digits, which need no network.
        dataset_config: configuration of the data set, where it has several.
        image_column: column of images.
        text_column: column of texts; None: a task of images.
        label_column: column of class labels (ClassLabel, integers or strings).
        train_split: split to train on.
        test_split: split to evaluate on.
        image_mean: subtracted from pixel / 255, the same for each channel.
        image_std: divides afterwards.
        recipe: default of each flag of `selfmod train`, by its name. `train_batch_size` is the batch of one
            optimizer step over all processes.
        source: what the recipe comes from.
    """

    name: str
    dataset_name: str | None
    dataset_config: str | None = None
    image_column: str = "image"
    text_column: str | None = None
    label_column: str = "label"
    train_split: str = "train"
    test_split: str = "test"
    image_mean: float = 0.5
    image_std: float = 0.5
    recipe: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""

    @property
    def train_data(self) -> str:
        """The training data for people: id, configuration, split. Of a local folder its name, which is no id."""
        name = self.dataset_name or self.name
        name = f"folder {Path(name).resolve().name}" if self.dataset_name and Path(name).is_dir() else name
        return ", ".join(filter(None, (name, self.dataset_config, self.train_split)))


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
            recipe={
                **_SGD_WITH_MOMENTUM,
                "learning_rate": 0.05,
                "train_batch_size": 64,
                "num_train_epochs": 40,
                "aux_weight": 1.0,
            },
            source="ours: small enough for a first look; no experiment of the paper",
        ),
        TaskSpec(
            name="mnist",
            dataset_name="ylecun/mnist",
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
            recipe=_CIFAR10,
            source="arXiv 2407.10188, the recipe its authors published with the figures (the table says lr 0.001)",
        ),
        TaskSpec(
            name="cifar10-paper-text",
            dataset_name="uoft-cs/cifar10",
            image_column="img",
            recipe={**_CIFAR10, "learning_rate": 1e-3, "detach_targets": False},
            source="arXiv 2407.10188, its table and text (one sentence says 150 epochs)",
        ),
        TaskSpec(
            name="imdb",
            dataset_name="stanfordnlp/imdb",
            text_column="text",
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


def get_task(name: str) -> TaskSpec:
    """The built-in task of that name.

    Raises:
        InputError: there is none; the message lists those there are.
    """
    if name not in TASKS:
        raise InputError("task", name, f"allowed are {', '.join(TASKS)} (or name a data set by `dataset_name`)")
    return TASKS[name]
