"""Members of a population from the settings of runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import InputError
from .member import MEMBER_FIELDS, Member
from .training_args import name_of

Settings = Mapping[str, Any]  # by the names of the fields

_IN_EACH = ("seed", "aux_weight", "detach_targets")  # fields of which each member has a value


def common_settings(run: Settings) -> dict[str, Any]:
    """Return the settings that a run must share with the others of its population.

    Args:
        run: settings by name. None stands for the default.

    Example:
        >>> sgd = {"optim": "sgd", "optim_args": "momentum=0.9,nesterov=True"}
        >>> common_settings({"seed": 1, "aux_weight": 10.0, "learning_rate": 0.1, **sgd})
        {'optim': 'sgd', 'optim_args': 'nesterov=True'}
    """
    common = {}
    for name, value in run.items():
        if name not in MEMBER_FIELDS and value is not None:
            common[name] = value
    arguments, _ = _optimizer_arguments(run)
    common.pop("optim_args", None)
    if arguments:
        common["optim_args"] = ",".join(arguments)
    return common


def divide_settings(runs: Sequence[Settings]) -> tuple[dict[str, Any], list[Member]]:
    """Return the settings of a population, and its members, from the settings of their runs.

    A member has a value of its own for each of MEMBER_FIELDS in which the runs differ. The population's settings are
    the others, and hold no seed, self-model weight or choice of detached targets.

    Args:
        runs: settings of each run by name, with `seed` and `aux_weight`. A missing value or None is the default.

    Raises:
        InputError: runs that differ in a setting that all members of a population share.

    Example:
        >>> early = {"seed": 1, "aux_weight": 0.0, "optim": "sgd", "stop_at_train_loss": 0.2}
        >>> shared, members = divide_settings([early, {"seed": 1, "aux_weight": 10.0, "optim": "sgd"}])
        >>> shared, [member.name for member in members]
        ({'optim': 'sgd'}, ['aw0-stop0.2-seed1', 'aw10-seed1'])
    """
    shared = common_settings(runs[0])
    for run in runs:
        _check_common(shared, common_settings(run))
    given: list[dict[str, Any]] = []
    for run in runs:
        given.append({name: run[name] for name in _IN_EACH if run.get(name) is not None})
    for name in MEMBER_FIELDS:
        values = [run.get(name) for run in runs]
        if name in _IN_EACH:
            continue
        if values.count(values[0]) < len(values):
            _give(given, name, values)
        elif values[0] is not None:
            shared[name] = values[0]
    _divide_momentum(runs, shared, given)
    return shared, [Member(**fields) for fields in given]


def _check_common(shared: Settings, own: Settings) -> None:
    for name in sorted(shared.keys() | own.keys()):
        if shared.get(name) != own.get(name):
            problem = f"another run has {shared.get(name)!r}; allowed is one value for all members of a population"
            raise InputError(name, own.get(name), problem)


def _give(given: list[dict[str, Any]], name: str, values: Sequence[Any]) -> None:
    """Add a field to the given ones of each member."""
    for fields, value in zip(given, values, strict=True):
        fields[name] = value


def _divide_momentum(runs: Sequence[Settings], shared: dict[str, Any], given: list[dict[str, Any]]) -> None:
    """Give members their own momentum if the runs have different ones."""
    momenta = [_optimizer_arguments(run)[1] for run in runs]
    example = runs[momenta.index(max(momenta))]  # Nesterov's form is allowed with a momentum above 0
    if example.get("optim_args"):
        shared["optim_args"] = example["optim_args"]
    if momenta.count(momenta[0]) < len(momenta):
        _give(given, "momentum", momenta)


def _optimizer_arguments(run: Settings) -> tuple[list[str], float]:
    """Return the assignments in `optim_args` besides that of SGD's momentum, and the momentum."""
    text = str(run.get("optim_args") or "").replace(" ", "")
    others = []
    momentum = 0.0
    for entry in filter(None, text.split(",")):
        name, _, value = entry.partition("=")
        if name == "momentum" and name_of(run.get("optim")) == "sgd":
            momentum = float(value)
        else:
            others.append(entry)
    return sorted(others), momentum
