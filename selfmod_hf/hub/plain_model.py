"""Task models of transformers with their own head and without a self-model: those with an RLCT, and loading one."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import transformers
from transformers import AutoConfig
from transformers.models.auto import modeling_auto

from ..data import backbone_preprocessing
from ..data.class_order import class_numbers, has_own_names, renumbered
from ..data.preprocessing import unfollowed
from ..data.tasks import SCORES, SEVERAL_CLASSES
from ..data.tokenizing import load_tokenizer
from ..errors import InputError
from ..files import read_json
from ..models.tasks_self_modeling import KINDS, TaskKind

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ..data import TaskData, TensorData

logger = logging.getLogger(__name__)

_SHOWN = 5  # classes listed in an error


# kind -> transformers' table of its classes, model type -> name or names
_CLASSES: Mapping[str, Mapping[str, Any]] = {
    "image-classification": modeling_auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
    "text-classification": modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    "token-classification": modeling_auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
    "causal-lm": modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    "masked-lm": modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
}


def _class_names(kind: str) -> set[str]:
    """Return the names of the classes of such models."""
    names: set[str] = set()
    for found in _CLASSES[kind].values():
        names.update([found] if isinstance(found, str) else found)
    return names


def kind_of_class(*names: str) -> TaskKind | None:
    """Return the kind of the task models of the first class with a kind, or None.

    Example:
        >>> kind_of_class("BertForTokenClassification").name
        'token-classification'
    """
    for name in names:
        for kind in _CLASSES:
            if name in _class_names(kind):
                return KINDS[kind]
    return None


def kind_of_model(model: Any) -> TaskKind | None:
    """Return the kind of a task model, by its class and those above it. None: it is no task model."""
    names = [one.__name__ for one in type(model).__mro__]
    return kind_of_class(*names)


def kind_of_folder(folder: Path) -> TaskKind | None:
    """Return the kind of the task model in a folder, or None if its config.json names no class of one."""
    names = None
    with suppress(InputError):  # the code that loads the model reports that it is broken
        content = read_json(folder / "config.json")
        names = content.get("architectures") if isinstance(content, dict) else None
    if not isinstance(names, list):
        return None
    return kind_of_class(*filter(_is_text, names))


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def load_plain_model(folder: Path) -> PreTrainedModel:
    """Return the task model in a folder, in eval mode, with all its weights.

    Raises:
        InputError: it is no task model of transformers, needs code of its own, is quantized, or lacks weights.
    """
    kind = kind_of_folder(folder)
    if kind is None:
        known = ", ".join(_CLASSES)
        raise InputError("model", str(folder), f"its config.json names no model of a known task; allowed are {known}")
    content = read_json(folder / "config.json")
    if content.get("quantization_config") is not None:
        raise InputError("model", str(folder), "has quantized weights, which a chain cannot move")
    auto_class = getattr(transformers, kind.auto_class)
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        model, info = auto_class.from_pretrained(
            folder, config=config, use_safetensors=True, trust_remote_code=False, output_loading_info=True
        )
    except Exception as error:  # a config.json of other people may hold anything, and transformers trusts it
        problem = " ".join(str(error).split())[:300]
        raise InputError("model", str(folder), f"cannot be loaded ({problem})") from error
    lacking = sorted(map(str, [*info["missing_keys"], *info["mismatched_keys"]]))
    if lacking:
        problem = f"its files lack weights of the model, {lacking[0]} ({len(lacking)} in all)"
        raise InputError("model", str(folder), problem)
    return model.eval()


def plain_reading(folder: Path, tokenizer_name: str | None = None) -> dict[str, Any]:
    """Return arguments of `load_images` or `load_texts`, for samples prepared as for the task model in a folder.

    If the model's image processor changes the shape of pictures in another way, one line of the log says so.

    Args:
        folder: of the model.
        tokenizer_name: in place of the model's own.
    """
    kind = kind_of_folder(folder)
    if kind is not None and kind.name == "image-classification":
        found = backbone_preprocessing(str(folder))
        problem = unfollowed(str(folder), found)
        if problem is not None and found.image_size is not None:
            height, width = found.image_size
            text = f"the model's image processor {problem}: here the complete picture is resized to"
            logger.warning(f"{text} {height} x {width}, so the loss at w* is that of such pictures")
        return {"preprocessing": found}
    return {"tokenizer": load_tokenizer(tokenizer_name or str(folder)), "padded": True}


def task_fields(folder: Path) -> dict[str, Any]:
    """Return the settings of the data that the task model in a folder decides: `task_type` and `problem_type`.

    Raises:
        InputError: a model of a task without a data set by its name.
    """
    kind = kind_of_folder(folder)
    assert kind is not None
    if kind.name == "masked-lm":
        raise InputError("model", str(folder), "a masked language model; for it there is estimate_rlct in Python")
    if kind.labels_are != "samples":
        return {"task_type": kind.name}
    problem = read_json(folder / "config.json").get("problem_type")
    if problem in (SCORES, SEVERAL_CLASSES):
        return {"problem_type": problem}
    return {}


def model_labels(data: TaskData[Any], config: Any) -> TensorData:
    """Return the training set with the numbers that a model gives to the classes.

    Classes without names are taken by their numbers, and so are those of a model without names. If the model knows
    only some of the names, one line of the log says so.

    Args:
        data: its classes. Scores and texts without classes stay as they are.
        config: of the model.

    Raises:
        InputError: the model has names, and none of them is that of a class of the data.
    """
    train = data.train
    names = data.label_names
    if train.problem_type == SCORES or not names:
        return train
    numbers = class_numbers(names, config.id2label)
    known = [number for number in numbers if number is not None]
    if len(known) == len(names):
        return renumbered(train, known, config.num_labels)
    if not has_own_names(list(config.id2label.values())):
        return train
    if not known and has_own_names(names):
        few = ", ".join(list(config.id2label.values())[:_SHOWN])
        raise InputError("label_column", names[0], f"is no class of the model, nor is another one; it knows {few}")
    unknown = names[numbers.index(None)]
    logger.warning(f"the model has no class {unknown!r}: classes are taken by their numbers")
    return train
