"""Building a network that keeps its task model's own head (`--head own`)."""

from __future__ import annotations

import logging
from typing import Any

from transformers import PreTrainedConfig

from .. import models
from ..data import ImageTensors, TaskData
from ..data.class_order import has_own_names, in_order_of
from ..data.tasks import SCORES, TEXTS, WORDS
from ..errors import InputError
from ..models import SelfModelingConfig, SelfModelingPreTrainedModel, check_config
from ..models.tasks_self_modeling import KINDS, TaskKind
from .lora import lora_config, target_modules_as_setting

logger = logging.getLogger(__name__)

_SHOWN = 5  # classes listed in a line of the log
# settings of a network with a new head, and their defaults
_OF_A_NEW_HEAD = {"backbone": None, "small_image_stem": False, "feature_pooling": "mean", "backbone_kwargs": "{}"}


def check_own_head(settings: Any) -> None:
    """Raise an InputError for settings of a network that do not go with a task model's own head, or only with it."""
    if settings.head == "new":
        if settings.target_pooling == "tokens":
            raise InputError("target_pooling", "tokens", "allowed with `head` own")
        if settings.feature_layer is not None:
            raise InputError("feature_layer", settings.feature_layer, "allowed with `head` own")
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
        if kind.name == TEXTS:
            # a decoder finds the last token of a text by the padding token of the data
            own["pad_token_id"] = data.train.tokenizer.pad_token_id
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


def with_order_of_head(data: TaskData[Any], name: str) -> TaskData[Any]:
    """Return data with their classes in the order of a pretrained head, if it has just these classes.

    A head with other names keeps its weights too, if it has as many classes. One line of the log says so.

    Args:
        data: of a task.
        name: Hub id or folder of the pretrained task model.
    """
    fields, _ = PreTrainedConfig.get_config_dict(name)
    known = {int(number): str(label) for number, label in (fields.get("id2label") or {}).items()}
    names = data.label_names
    if data.train.problem_type in (SCORES, None) and data.train.kind != WORDS:
        return data
    found = in_order_of(data, known)
    if found is not None:
        return found
    theirs = list(known.values())
    if len(theirs) == len(names) and has_own_names(theirs):
        shown = f"{', '.join(names[:_SHOWN])} for {', '.join(theirs[:_SHOWN])}"
        logger.warning(f"the pretrained head has classes of other names, which are taken by their numbers: {shown}")
    return data


def _sizes_of(data: TaskData[Any]) -> dict[str, Any]:
    """Return the sizes and the special tokens of a task model with new weights that the data decide."""
    if isinstance(data.train, ImageTensors):
        _, channels, height, width = data.train.pixels.shape
        size = height if height == width else [height, width]
        return {"image_size": size, "num_channels": channels}
    tokenizer = data.train.tokenizer
    # the defaults of a configuration are tokens of another vocabulary
    sizes = {"vocab_size": len(tokenizer), "bos_token_id": tokenizer.bos_token_id}
    sizes["eos_token_id"] = tokenizer.eos_token_id
    if tokenizer.pad_token_id is not None:
        sizes["pad_token_id"] = tokenizer.pad_token_id
    return sizes
