"""The grid and the named arms of a sweep, from texts: `aux_weight=0,1,10`, `hidden_sizes=64,128-64`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from ..errors import InputError
from .kind import kind_of
from .rlct_settings import RLCTSettings
from .run_settings import GROUPS, checked_fields
from .setting import Values, check_types, did_you_mean, is_number

# num_chains and num_draws are flags of a sweep
OF_RLCTS = (
    "sampler",
    "step_size",
    "localization",
    "nbeta",
    "num_burnin_steps",
    "batch_size",
    "control_variate",
    "minimize",
)


def parse_grid(entries: Sequence[str]) -> dict[str, list[Any]]:
    """Return the values of each axis.

    Args:
        entries: `NAME=VALUE,VALUE`. Layers of `hidden_sizes` are joined by "-", entries of other lists by "+". Or
            `NAME=[...]` with values in JSON, or a JSON object of such lists.

    Raises:
        InputError: no such setting, an axis given twice, or a value of another type.

    Example:
        >>> parse_grid(["aux_weight=0,10", "hidden_sizes=64,128-64"])
        {'aux_weight': [0.0, 10.0], 'hidden_sizes': [[64], [128, 64]]}
    """
    axes: dict[str, list[Any]] = {}
    for entry in entries:
        for name, values in _values_of(entry).items():
            if name in axes:
                raise InputError("grid", entry, f"{name} is given twice")
            axes[name] = [_value(name, value) for value in values]
    return axes


def _values_of(entry: str) -> dict[str, list[Any]]:
    """Return the values of an entry by the name of their setting, as texts or as JSON has them."""
    if entry.startswith("{"):
        content = _json("grid", entry, dict)
        return {name: _as_list(values) for name, values in content.items()}
    name, equals, text = entry.partition("=")
    if not equals:
        raise InputError("grid", entry, "allowed is NAME=VALUE,VALUE")
    if text.startswith("["):
        return {name: _json("grid", text, list)}
    return {name: text.split(",")}


def _as_list(values: Any) -> list[Any]:
    if isinstance(values, str):
        return values.split(",")
    if isinstance(values, list):
        return values
    return [values]


def parse_arms(text: str | None) -> dict[str, dict[str, Any]]:
    """Return the changes of each named arm from a JSON object. None has no named arm.

    `stop_at_train_loss` may name another arm.

    Raises:
        InputError: no JSON object of objects, no such setting, or a value of another type.

    Example:
        >>> parse_arms('{"baseline": {"aux_weight": 0}, "decay": {"weight_decay": 0.001}}')
        {'baseline': {'aux_weight': 0.0}, 'decay': {'weight_decay': 0.001}}
    """
    if text is None:
        return {}
    found = {}
    for name, changes in _json("arms", text, dict).items():
        if not isinstance(changes, dict):
            value = f"{name}: {changes!r}"
            raise InputError("arms", value, "allowed are the settings in which an arm differs, by name")
        found[name] = {field: _value(field, value) for field, value in changes.items()}
    return found


def parse_rlct_settings(text: str | None) -> dict[str, Any]:
    """Return settings of an RLCT from a JSON object. None has no setting.

    Raises:
        InputError: no JSON object, no such setting, or a value of another type.

    Example:
        >>> parse_rlct_settings('{"batch_size": 32, "step_size": "1e-5"}')
        {'batch_size': 32, 'step_size': 1e-05}
    """
    if text is None:
        return {}
    found = {}
    for name, value in _json("rlct_settings", text, dict).items():
        if name not in OF_RLCTS:
            raise InputError("rlct_settings", name, f"allowed are {', '.join(OF_RLCTS)}{did_you_mean(name, OF_RLCTS)}")
        if isinstance(value, str):  # YAML takes 1e-5 for a text
            value = _read(RLCTSettings, name, value)
        found[name] = value
    given = RLCTSettings(**found)
    check_types(given)
    return given.given()


def _json(name: str, text: str, kind: type) -> Any:
    """Return a JSON value of a type."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        value = None
    if not isinstance(value, kind):
        allowed = "a JSON object" if kind is dict else "a JSON list"
        raise InputError(name, text, f"allowed is {allowed}")
    return value


def _value(name: str, value: Any) -> Any:
    """Return a value of a setting of a run. A text is read as the command line reads it."""
    if isinstance(value, str):
        if name == "stop_at_train_loss" and not is_number(value):
            return value  # the name of an arm
        value = value_of_text(name, value)
    elif isinstance(value, int):
        kind = kind_of(_owner(name), name)
        if kind.is_list:
            value = [value]  # one layer
    checked = checked_fields({name: value})
    return checked.get(name)


def value_of_text(name: str, text: str) -> Any:
    """Return a setting of a run from its text.

    Raises:
        InputError: no such setting, or a text of another type.

    Example:
        >>> value_of_text("hidden_sizes", "128-64"), value_of_text("augment", "true"), value_of_text("seed", "3")
        ([128, 64], True, 3)
    """
    return _read(_owner(name), name, text)


def _read(owner: type, name: str, text: str) -> Any:
    """Return a value of a dataclass's field from its text."""
    kind = kind_of(owner, name)
    try:
        if kind.is_list:
            return kind.read_list(text)
        return kind.read(text)
    except ValueError as error:
        raise InputError(name, text, str(error)) from error


def _owner(name: str) -> type:
    """Return the dataclass of a setting of a run."""
    known = {}
    for group in GROUPS:
        for one in fields(group):
            if one.init:
                known[one.name] = group
    if name not in known:
        hint = did_you_mean(name, known)
        raise InputError(name, None, f"no setting of a run has this name{hint}")
    return known[name]


def as_entries(grid: Mapping[str, Any]) -> list[str]:
    """Return a mapping of axes as the entries of `parse_grid`."""
    entries = []
    for name, values in grid.items():
        text = json.dumps(_as_list(values))
        entries.append(f"{name}={text}")
    return entries


def as_text(arms: Values) -> str:
    """Return a mapping of named arms as the text of `parse_arms`."""
    found = {}
    for name, changes in arms.items():
        found[name] = dict(changes) if isinstance(changes, Mapping) else changes
    return json.dumps(found)
