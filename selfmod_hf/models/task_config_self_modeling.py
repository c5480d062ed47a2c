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
    "hidden_activation": "relu",
}
_LABELS = ("id2label", "label2id", "problem_type")
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
    for name in _LABELS:
        setattr(config, name, getattr(task_model, name))
    tokens = {}
    for name in _SPECIAL_TOKENS:
        token = getattr(task_model, name, None)
        if token is not None:
            tokens[name] = token
    return tokens


def take_labels(config: Any, task_model: PreTrainedConfig) -> None:
    """Give a task model in memory the labels and the problem type of a network's configuration.

    Args:
        config: the network's, with its own copy of the task model's configuration.
        task_model: that of the model in memory, changed in place.

    Raises:
        ValueError: the model's head has another number of outputs.
    """
    given = config.wrapped_config
    if given.num_labels != task_model.num_labels:
        raise ValueError(
            f"num_labels={given.num_labels}: allowed is {task_model.num_labels}, because the task model's head has so "
            "many outputs"
        )
    task_model.id2label = given.id2label
    task_model.label2id = given.label2id
    if not given.label2id.keys() >= set(given.id2label.values()):  # the default names, of labels with other names
        task_model.label2id = {name: number for number, name in given.id2label.items()}
    task_model.problem_type = given.problem_type
    for name in _LABELS:
        setattr(config, name, getattr(task_model, name))


def check_order(published: dict[str, Any], given: dict[str, Any] | None, name: str) -> None:
    """Raise a ValueError for a pretrained head's own labels in another order, because its weights would keep theirs.

    Args:
        published: the configuration of the pretrained model, as in its file.
        given: the user's names of the labels by their numbers. None: the model's own.
        name: Hub id or folder of the pretrained model.
    """
    known = {int(number): str(label).casefold() for number, label in (published.get("id2label") or {}).items()}
    wanted = {int(number): str(label).casefold() for number, label in (given or {}).items()}
    if known != wanted and sorted(known.values()) == sorted(wanted.values()):
        raise ValueError(
            f"id2label={given!r}: the head of {name} has these labels in the order {published['id2label']}; allowed is "
            "that order, with the labels of the data renumbered"
        )


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
    for name, default in (("task_type", None), ("feature_layer", None), ("adapter", False), ("base_checksum", None)):
        value = getattr(config, name)
        if value != default:
            raise ValueError(f"{name}={value!r}: allowed with a wrapped_config")
