"""The configuration of a task model inside of a self-modeling network's configuration.

A copy of this file travels with every pushed model (``trust_remote_code``), so it imports nothing of the package but
the files beside it, by flat relative imports.
"""

import copy
from typing import Any

from transformers import CONFIG_MAPPING, PreTrainedConfig

from .tasks_self_modeling import KINDS

# fields of networks without a task model, with their defaults
_OTHER_NETWORKS: dict[str, Any] = {
    "backbone": "mlp",
    "backbone_kwargs": {},
    "backbone_config": None,
    "small_image_stem": False,
    "feature_pooling": "mean",
    "hidden_sizes": [],
}
_SPECIAL_TOKENS = ("pad_token_id", "bos_token_id", "eos_token_id")
_SIZES = {"image_size": 224, "num_channels": 3}  # of convolutional networks, whose configuration has no image size


def own_copy(given: Any, own_type: str) -> PreTrainedConfig:
    """Return a task model's configuration as an object of its own, without the path of its folder.

    Args:
        given: the configuration, as an object or as a dict with ``model_type``.
        own_type: the model type that cannot be wrapped, because it is the wrapper's.

    Raises:
        ValueError: transformers has no such model type, or rejects a field.
    """
    model_type = given.get("model_type") if isinstance(given, dict) else given.model_type
    is_known = isinstance(model_type, str) and model_type in CONFIG_MAPPING
    if not is_known or model_type == own_type:
        raise ValueError(f"wrapped_config: model_type={model_type!r}; allowed are the model types of transformers")
    if isinstance(given, dict):
        try:
            task_model = CONFIG_MAPPING[model_type].from_dict(given)
        except Exception as error:  # a strict configuration has errors of its own kinds, on several lines
            reason = " ".join(str(error).split())
            raise ValueError(f"wrapped_config: {reason}") from error
    else:
        task_model = copy.deepcopy(given)
    task_model._name_or_path = ""  # means nothing elsewhere
    task_model.return_dict = True  # its output is read by names
    return task_model


def give_labels(config: Any, num_labels: int | None, task_model: Any) -> dict[str, int]:
    """Give both configurations the same labels and problem type. Those of the outer one win.

    Args:
        config: the network's, changed in place.
        num_labels: number of labels for the outer configuration. None: not given.
        task_model: the task model's, changed in place.

    Returns:
        The task model's special tokens by their names.
    """
    if config.id2label is not None:
        names = {int(number): name for number, name in config.id2label.items()}
        task_model.id2label = names
        task_model.label2id = config.label2id or {name: number for number, name in names.items()}
    elif num_labels is not None and num_labels != task_model.num_labels:
        task_model.num_labels = num_labels
    if config.problem_type is not None:
        task_model.problem_type = config.problem_type
    for name in ("id2label", "label2id", "problem_type"):
        setattr(config, name, getattr(task_model, name))
    tokens = {}
    for name in _SPECIAL_TOKENS:
        token = getattr(task_model, name, None)
        if token is not None:
            tokens[name] = token
    return tokens


def size_defaults(task_model: PreTrainedConfig) -> dict[str, Any]:
    """Return image size and number of channels of a task model."""
    sizes = {}
    for name, default in _SIZES.items():
        size = getattr(task_model, name, None)
        sizes[name] = default if size is None else size
    return sizes


def check_wrapped(config: Any) -> None:
    """Raise a ValueError for fields that do not go with a task model, or only with one."""
    if config.task_type is not None and config.task_type not in KINDS:
        raise ValueError(f"task_type={config.task_type!r}: allowed are {', '.join(KINDS)}")
    if config.wrapped_config is None:
        _check_without(config)
        return
    for name, default in _OTHER_NETWORKS.items():
        value = getattr(config, name)
        if value != default:
            raise ValueError(
                f"{name}={value!r}: allowed with a wrapped_config is {default!r}, because a task model has its own "
                "layers and head"
            )
    if config.wrapped_config.is_encoder_decoder:
        raise ValueError(
            f"wrapped_config: model_type={config.wrapped_config.model_type!r} is an encoder with a decoder; allowed "
            "are models with one sequence of tokens"
        )
    if config.target_pooling == "flatten" and config.reads_text:
        raise ValueError("target_pooling='flatten': texts differ in length; allowed are tokens, mean, first")


def _check_without(config: Any) -> None:
    """Raise a ValueError for fields of a task model if there is none."""
    if config.target_pooling == "tokens":
        raise ValueError("target_pooling='tokens': allowed with a wrapped_config; here allowed are mean, first")
    for name, default in (("task_type", None), ("feature_layer", None), ("adapter", False)):
        value = getattr(config, name)
        if value != default:
            raise ValueError(f"{name}={value!r}: allowed with a wrapped_config")
