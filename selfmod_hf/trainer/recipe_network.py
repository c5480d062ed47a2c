"""The network for a task, from its recipe, the user's fields and the data, and checks that network and data fit."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch

from ..data import BlockTensors, ImagePreprocessing, ImageTensors, TaskData, TaskSpec, TensorData, TextTensors
from ..data.tasks import CLASSES, IMAGES, TEXTS
from ..errors import InputError
from ..models import SelfModelingConfig, SelfModelingPreTrainedModel
from ..models.losses_self_modeling import IGNORED_LABEL
from ..models.positions_self_modeling import most_tokens

# entries of a task's recipe for its network
NETWORK_FIELDS = ("backbone", "backbone_kwargs", "small_image_stem", "hidden_sizes", "target_layers")


def network_fields(data: TaskData[Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return fields of `SelfModelingConfig`.

    Args:
        data: the task's. It decides the classes, the shape of images and the vocabulary.
        given: fields that the data do not decide. Without a backbone, images get an MLP and texts an embedding
            bag (of 64 dimensions, if `backbone_kwargs` has none).
    """
    fields: dict[str, Any] = {
        "id2label": dict(enumerate(data.label_names)),
        "label2id": {name: number for number, name in enumerate(data.label_names)},
    }
    fields.update(given)
    if isinstance(data.train, TextTensors):
        fields.setdefault("backbone", "embedding_bag")
        if fields["backbone"] == "embedding_bag" and not data.train.padded:
            kwargs = {
                "num_embeddings": len(data.train.tokenizer),
                "embedding_dim": 64,
            }
            kwargs.update(fields.get("backbone_kwargs") or {})
            fields["backbone_kwargs"] = kwargs
    elif isinstance(data.train, ImageTensors):
        fields.setdefault("backbone", "mlp")
        _, channels, height, width = data.train.pixels.shape
        fields["image_size"] = (height, width)
        fields["num_channels"] = channels
    return fields


def recipe_config(spec: TaskSpec, data: TaskData[Any], **changes: Any) -> SelfModelingConfig:
    """Return the configuration of a task's recipe.

    Args:
        spec: the task.
        data: the task's.
        changes: fields in place of the recipe's.

    Example:
        >>> from selfmod_hf import get_task, load_images
        >>> task = get_task("digits")
        >>> recipe_config(task, load_images(task), hidden_sizes=[8]).hidden_sizes
        [8]
    """
    given = {}
    for name in NETWORK_FIELDS:
        if name in spec.recipe:
            given[name] = spec.recipe[name]
    given.update(changes)
    fields = network_fields(data, given)
    return SelfModelingConfig(**fields)


def check_forward(model: SelfModelingPreTrainedModel, data: TensorData) -> None:
    """Run the network on the first sample, so that data of a wrong kind are found before training.

    The sample has no label, because an error in a loss is no error of the data.

    Raises:
        InputError: the network's own error.
    """
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):  # a data set may draw numbers for its samples
            sample = data.take(torch.arange(1))
            sample.pop("labels", None)
            model(**sample)
    except (RuntimeError, ValueError) as error:
        message = " ".join(str(error).split())[:300]
        problem = f"cannot read these samples ({message})"
        raise InputError("backbone", _name_of_backbone(model.config), problem) from error
    finally:
        model.train(was_training)


def _name_of_backbone(config: SelfModelingConfig) -> str:
    if config.wrapped_config is None:
        return config.backbone
    return config.wrapped_config.model_type  # type: ignore[union-attr]


def check_one_class(data: TensorData) -> None:
    """Reject samples with other labels than one class each, because the loss of a network is a cross-entropy of them.

    Raises:
        InputError: names the kind of task or of labels.
    """
    if data.problem_type is None:
        problem = f"the network has one output for each sample; allowed are {IMAGES} and {TEXTS} (all with `head` own)"
        raise InputError("task_type", data.kind, problem)
    if data.problem_type != CLASSES:
        problem = f"the network's loss is the cross-entropy of one class for each sample; allowed is {CLASSES}"
        problem += " (all with `head` own)"
        raise InputError("problem_type", data.problem_type, problem)


def check_task(model: Any, data: TensorData) -> None:
    """Reject samples of another kind than a task model's, or with other labels than its loss takes.

    Args:
        model: keeps its task model's own head.
        data: the samples.

    Raises:
        InputError: names the kind of task or of labels.
    """
    kind = model.kind.name
    if data.kind != kind:
        raise InputError("task_type", data.kind, f"the network is for {kind}")
    problem = model.config.problem_type
    if data.problem_type is not None and data.problem_type != problem:
        raise InputError("problem_type", data.problem_type, f"the network is for {problem}")


def check_preprocessing(config: SelfModelingConfig, data: Any) -> None:
    """Warn if a pretrained backbone gets images with another preprocessing than in its own training."""
    if config.base_model is None or not isinstance(data, ImageTensors):
        return
    if data.source == ImagePreprocessing().source:
        warnings.warn(
            f"the backbone is {config.base_model}, but the images have this package's default preprocessing; "
            "give load_images that of backbone_preprocessing(...)",
            stacklevel=3,
        )


def check_length(model: SelfModelingPreTrainedModel, *texts: TensorData) -> None:
    """Reject texts longer than the encoder's table of positions, before an index falls outside of it.

    Raises:
        InputError: the longest has too many tokens.
    """
    longest = 0
    for data in texts:
        if isinstance(data, (TextTensors, BlockTensors)):
            longest = max(longest, data.longest)
    check_tokens(model, longest)


def check_tokens(model: SelfModelingPreTrainedModel, longest: int) -> None:
    """Raise an InputError if the encoder's table has fewer positions than the longest text has tokens."""
    most = most_tokens(model.backbone)
    if most is not None and longest > most:
        problem = f"the longest text has {longest} tokens; allowed are at most {most}"
        raise InputError("max_length", None, problem)


def check_labels(field: str, labels: torch.Tensor, num_labels: int) -> None:
    """Reject labels outside of a network's classes.

    Args:
        field: of the labels, for the error.
        labels: (N,), -100 for a sample without a label.
        num_labels: of the network.

    Raises:
        InputError: names the label.

    Example:
        >>> check_labels("labels", torch.tensor([0, 1, -100]), num_labels=2)
    """
    counted = labels[labels != IGNORED_LABEL]
    if not len(counted):
        return
    smallest = int(counted.min())
    largest = int(counted.max())
    for label in (smallest, largest):
        if not 0 <= label < num_labels:
            raise InputError(field, label, f"the model has {num_labels} classes")


def check_marks(field: str, labels: torch.Tensor) -> None:
    """Reject marks of several classes a sample outside of 0 to 1. NaN and -100 are missing ones.

    Args:
        field: of the labels, for the error.
        labels: (N, number of classes).

    Raises:
        InputError: names the mark.

    Example:
        >>> check_marks("labels", torch.tensor([[0.0, 1.0], [-100.0, 1.0]]))
    """
    counted = labels[(labels != IGNORED_LABEL) & ~labels.isnan()]
    wrong = counted[(counted < 0) | (counted > 1)]
    if len(wrong):
        raise InputError(field, float(wrong[0]), "allowed are 0 and 1, a mark for each class")
