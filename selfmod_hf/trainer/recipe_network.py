"""The network for a task: what its recipe or the user says, and what the data decide (classes, shapes, vocabulary)."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch

from ..data import ImagePreprocessing, ImageTensors, TaskData, TaskSpec, TensorData, TextTensors
from ..errors import InputError
from ..models import SelfModelingConfig, SelfModelingPreTrainedModel
from ..models.losses_self_modeling import IGNORED_LABEL
from ..models.positions_self_modeling import most_tokens

# entries of a task's recipe that describe its network
NETWORK_FIELDS = ("backbone", "backbone_kwargs", "small_image_stem", "hidden_sizes", "target_layers")


def network_fields(data: TaskData[Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of `SelfModelingConfig`.

    Args:
        data: the task's.
        given: fields that do not follow from the data. Without a backbone, images get an MLP and texts an embedding
            bag (of 64 dimensions where `backbone_kwargs` has none).
    """
    fields = {
        "id2label": dict(enumerate(data.label_names)),
        "label2id": {name: number for number, name in enumerate(data.label_names)},
        **given,
    }
    if isinstance(data.train, TextTensors):
        fields.setdefault("backbone", "embedding_bag")
        if fields["backbone"] == "embedding_bag" and not data.train.padded:
            own = {"num_embeddings": len(data.train.tokenizer), "embedding_dim": 64}
            fields["backbone_kwargs"] = own | dict(fields.get("backbone_kwargs") or {})
    elif isinstance(data.train, ImageTensors):
        fields.setdefault("backbone", "mlp")
        _, channels, height, width = data.train.pixels.shape
        fields |= {"image_size": (height, width), "num_channels": channels}
    return fields


def recipe_config(spec: TaskSpec, data: TaskData[Any], **changes: Any) -> SelfModelingConfig:
    """The network of a task's recipe, but for these fields."""
    given = {name: spec.recipe[name] for name in NETWORK_FIELDS if name in spec.recipe}
    return SelfModelingConfig(**network_fields(data, {**given, **changes}))


def check_forward(model: SelfModelingPreTrainedModel, data: TensorData) -> None:
    """Run the network on the first sample, so that one that cannot read these data is found before training.

    The sample has no label, because an error in a loss is no error of the data.

    Raises:
        InputError: what the network says.
    """
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):  # a data set may draw numbers for its samples
            sample = data.take(torch.arange(1))
            model(**{name: values for name, values in sample.items() if name != "labels"})
    except (RuntimeError, ValueError) as error:
        problem = f"cannot read these samples ({' '.join(str(error).split())[:300]})"
        raise InputError("backbone", model.config.backbone, problem) from error
    finally:
        model.train(was_training)


def check_preprocessing(config: SelfModelingConfig, data: Any) -> None:
    """Warn where a pretrained backbone is given images that were not prepared as it was trained."""
    plain = isinstance(data, ImageTensors) and data.source == ImagePreprocessing().source
    if config.base_model is not None and plain:
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
    check_tokens(model, max((data.longest for data in texts if isinstance(data, TextTensors)), default=0))


def check_tokens(model: SelfModelingPreTrainedModel, longest: int) -> None:
    """Raise an InputError if the encoder's table has fewer positions than the longest text has tokens."""
    most = most_tokens(model.backbone)
    if most is not None and longest > most:
        raise InputError("max_length", None, f"the longest text has {longest} tokens; allowed are at most {most}")


def check_labels(field: str, labels: torch.Tensor, num_labels: int) -> None:
    """Reject labels that belong to no class of a network.

    Args:
        field: that holds the labels, for the error.
        labels: (N,), -100 where a sample has none.
        num_labels: of the network.

    Raises:
        InputError: names the label.
    """
    counted = labels[labels != IGNORED_LABEL]
    if not len(counted):
        return
    for label in (int(counted.min()), int(counted.max())):
        if not 0 <= label < num_labels:
            raise InputError(field, label, f"the model has {num_labels} classes")
