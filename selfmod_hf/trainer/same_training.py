"""Checks that a checkpoint is of the training that resumes from it. Equal shapes of weights do not show it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers.utils import CONFIG_NAME

from ..errors import InputError
from ..files import entries_of, read_json
from ..models import SelfModelingConfig
from ..weights import ADAPTER_SETTINGS
from .population import MEMBERS_FILE, SelfModelingPopulation

# fields of a configuration that change what is trained, but no shape of a weight
_FIELDS = (
    "target_layers", "target_pooling", "feature_pooling", "target_normalization", "detach_targets", "aux_weight",
    "classification_weight", "activation_penalty", "feature_layer", "adapter", "hidden_activation",
)  # fmt: skip
# the same of an adapter inside of a network, and the commit of its base
_OF_ADAPTERS = ("peft_type", "r", "lora_alpha", "lora_dropout", "target_modules", "modules_to_save", "revision")


def check_config(checkpoint: str | Path, config: SelfModelingConfig) -> None:
    """Reject a checkpoint of a network that was trained for other targets or another loss.

    A checkpoint of an adapter has no configuration of the network, and is not checked.

    Raises:
        InputError: names the first field that differs, and both values.
    """
    path = Path(checkpoint, CONFIG_NAME)
    if path.is_file():
        _compare(checkpoint, read_json(path), config)


def check_adapter(checkpoint: str | Path, model: Any) -> None:
    """Reject a checkpoint of an adapter with other settings, inside of a network over a task model.

    Raises:
        InputError: names the first setting that differs, and both values.
    """
    path = Path(checkpoint, ADAPTER_SETTINGS)
    if not getattr(model.config, "adapter", False) or not path.is_file():
        return
    (settings,) = model.task_model.peft_config.values()
    own = settings.to_dict()
    stored = read_json(path)
    for name in _OF_ADAPTERS:
        _check_same(checkpoint, name, _in_order(stored.get(name)), _in_order(own.get(name)))


def _in_order(value: Any) -> Any:
    """Return a set or a list in its order by name, and an enumeration's value."""
    if isinstance(value, (set, list)):
        return sorted(value)
    return getattr(value, "value", value)


def check_population(checkpoint: str | Path, population: SelfModelingPopulation) -> None:
    """Reject a checkpoint of other members, or of members with another configuration.

    Raises:
        InputError: `population.json` is missing, or it describes another population.
    """
    path = Path(checkpoint, MEMBERS_FILE)
    described: Any = {"members": None}
    if path.is_file():
        described = read_json(path)
    with entries_of(path):
        members = described["members"]
    if members != population.describe()["members"]:
        raise InputError("resume_from_checkpoint", str(checkpoint), "holds no population of these members")
    with entries_of(path):
        shared = dict(described["config"])
    for member in population.members:
        stored = shared | member.config_fields()
        _compare(checkpoint, stored, population.config_of(member))


def _compare(checkpoint: str | Path, content: Mapping[str, Any], config: SelfModelingConfig) -> None:
    """Raise an InputError for the first field that differs between a file's configuration and the network's."""
    try:
        stored = type(config).from_dict(dict(content))
    except ValueError as error:
        raise InputError("resume_from_checkpoint", str(checkpoint), str(error)) from error
    # a file has only the last name of another network's folder
    pairs = {"target_source": (stored.published_source, config.published_source)}
    for name in _FIELDS:
        pairs[name] = (getattr(stored, name), getattr(config, name))
    for name, (theirs, own) in pairs.items():
        _check_same(checkpoint, name, theirs, own)


def _check_same(checkpoint: str | Path, name: str, theirs: Any, own: Any) -> None:
    if theirs != own:
        problem = f"was trained with {name}={theirs!r}; allowed is {own!r}, as in this training"
        raise InputError("resume_from_checkpoint", str(checkpoint), problem)
