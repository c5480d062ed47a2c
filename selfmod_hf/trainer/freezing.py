"""Parameters that keep their weights while a network trains."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

from ..errors import InputError

# modules around a task model, in the names of its parameters: the network's, and peft's
_AROUND = ("task_model.", "base_model.model.")
# parts of peft's names for the parameters of a layer with an adapter, and of a head that is trained beside it
_WITHIN = (".base_layer.", ".original_module.", ".modules_to_save.default.")


def freeze_parameters(model: Any, patterns: Sequence[str]) -> list[str]:
    """Freeze the parameters with these names, so that the optimizer changes the others alone.

    The statistics of a frozen BatchNorm still follow its samples.

    Args:
        model: the network. It is changed in place.
        patterns: names of parameters, with wildcards. A network that keeps its task model's own head also has the task
            model's names (`bert.embeddings*`).

    Returns:
        The names of the frozen parameters.

    Raises:
        InputError: a pattern of no parameter, or no parameter is left to train.

    Example:
        >>> from torch import nn
        >>> freeze_parameters(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1)), ["0.*"])
        ['0.weight', '0.bias']
    """
    parameters = dict(model.named_parameters())
    found: set[str] = set()
    for pattern in patterns:
        matching = [name for name in parameters if _matches(name, pattern)]
        if not matching:
            shown = ", ".join(list(parameters)[:3])
            raise InputError("freeze", pattern, f"matches no parameter; allowed are names such as {shown}")
        found.update(matching)
    trained = [name for name, parameter in parameters.items() if parameter.requires_grad and name not in found]
    if not trained:
        raise InputError("freeze", list(patterns), "leaves no parameter to train")
    frozen = [name for name in parameters if name in found]
    for name in frozen:
        parameters[name].requires_grad_(False)
    return frozen


def _matches(name: str, pattern: str) -> bool:
    """Return whether a pattern matches a parameter's name, with or without the modules around a task model."""
    if fnmatchcase(name, pattern):
        return True
    short = name
    for around in _AROUND:
        short = short.removeprefix(around)
    for within in _WITHIN:
        short = short.replace(within, ".")
    return fnmatchcase(short, pattern)
