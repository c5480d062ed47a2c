"""Building a network that keeps its task model's own head (`--head own`)."""

from __future__ import annotations

from typing import Any

from .. import models
from ..data import ImageTensors, TaskData
from ..errors import InputError
from ..models import SelfModelingConfig, SelfModelingPreTrainedModel, check_config
from ..models.tasks_self_modeling import KINDS, TaskKind
from .lora import lora_config, target_modules_as_setting

# settings of a network with a new head, and their defaults
_OF_A_NEW_HEAD = {"backbone": None, "small_image_stem": False, "feature_pooling": "mean", "backbone_kwargs": "{}"}


def check_own_head(settings: Any) -> None:
    """Raise an InputError for settings of a network that do not go with a task model's own head, or only with it."""
    if settings.head == "new":
        if settings.target_pooling == "tokens":
            raise InputError("target_pooling", "tokens", "allowed with `head` own")
        return
    name = settings.backbone_name or ""
    if not settings.is_encoder or name.startswith("timm/"):
        problem = "allowed with a `backbone_config`, or a `backbone_name` of transformers"
        raise InputError("head", settings.head, problem)
    problem = "allowed without `head` own, because the task model has its own head"
    if settings.hidden_sizes:
        raise InputError("hidden_sizes", settings.hidden_sizes, problem)
    for field, default in _OF_A_NEW_HEAD.items():
        value = getattr(settings, field)
        if value != default:
            raise InputError(field, value, problem)


def check_tuning(settings: Any) -> None:
    """Raise an InputError for a tuning of task models with their own heads."""
    if settings.head == "own":
        raise InputError("head", settings.head, "a tuning builds networks with a new head; allowed in other commands")


def build_own_head(
    settings: Any, data: TaskData[Any], fields: dict[str, Any], wrapped: dict[str, Any] | None
) -> SelfModelingPreTrainedModel:
    """Build a network that keeps its task model's own head.

    Args:
        settings: of the network (`NetworkSettings`).
        data: the task's.
        fields: further fields of `SelfModelingConfig`.
        wrapped: fields of the task model's configuration, for one with new weights. None: a pretrained one.

    Raises:
        ValueError: no such task model.
    """
    kind = KINDS[data.train.kind]
    model_class = getattr(models, f"SelfModelingFor{kind.head}")
    own = {**fields, **_label_fields(kind, data)}
    if wrapped is None:
        own["adapter"] = lora_config(settings)
        with target_modules_as_setting(settings):
            return model_class.from_backbone_pretrained(settings.backbone_name, head="own", **own)
    own["wrapped_config"] = {**_sizes_of(data), **wrapped}
    config = SelfModelingConfig(task_type=kind.name, **own)
    check_config(config)
    return model_class(config)


def _label_fields(kind: TaskKind, data: TaskData[Any]) -> dict[str, Any]:
    """Return the fields of a configuration for the data's labels. A language model has none."""
    if not kind.classes:
        return {}
    fields: dict[str, Any] = {
        "id2label": dict(enumerate(data.label_names)),
        "label2id": {name: number for number, name in enumerate(data.label_names)},
    }
    if kind.labels_are == "samples":
        fields["problem_type"] = data.train.problem_type
    return fields


def _sizes_of(data: TaskData[Any]) -> dict[str, Any]:
    """Return the sizes of a task model with new weights that the data decide."""
    if isinstance(data.train, ImageTensors):
        _, channels, height, _ = data.train.pixels.shape
        return {"image_size": height, "num_channels": channels}
    tokenizer = data.train.tokenizer
    return {"vocab_size": len(tokenizer)}
