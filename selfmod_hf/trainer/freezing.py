"""Parameters that keep their weights while a network trains."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

from ..errors import InputError
from .wrapped_networks import is_wrapped

# modules around a task model, in the names of its parameters: the network's, and peft's
_AROUND = ("task_model.", "base_model.model.")
_BACKBONE = "backbone."  # in names of target layers and of networks with a new head
# parts of peft's names for the parameters of a layer with an adapter, and of a head that is trained beside it
_WITHIN = (".base_layer.", ".original_module.", ".modules_to_save.default.")


def freeze_parameters(model: Any, patterns: Sequence[str]) -> list[str]:
    """Freeze the parameters with these names, so that the optimizer changes the others alone.

    The statistics of a frozen BatchNorm still follow its samples.

    Args:
        model: the network. It is changed in place.
        patterns: names of parameters, with wildcards. A network that keeps its task model's own head also has the task
            model's names (`bert.embeddings*`), and those within its backbone (`backbone.embeddings*`). A pattern of one
            name of a shared parameter freezes it.

    Returns:
        The names of the frozen parameters.

    Raises:
        InputError: a pattern of no parameter, or no parameter is left to train.

    Example:
        >>> from torch import nn
        >>> freeze_parameters(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1)), ["0.*"])
        ['0.weight', '0.bias']
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    backbone = _name_of_backbone(model)
    names = {name: _names_of(name, backbone) for name in parameters}
    found: set[int] = set()
    for pattern in patterns:
        matching = [name for name in parameters if any(fnmatchcase(other, pattern) for other in names[name])]
        if not matching:
            shown = ", ".join(list(parameters)[:3])
            raise InputError("freeze", pattern, f"matches no parameter; allowed are names such as {shown}")
        found.update(id(parameters[name]) for name in matching)
    trained = [one for one in model.parameters() if one.requires_grad and id(one) not in found]
    if not trained:
        raise InputError("freeze", list(patterns), "leaves no parameter to train")
    frozen = [name for name, parameter in model.named_parameters() if id(parameter) in found]
    for name in frozen:
        parameters[name].requires_grad_(False)
    return frozen


def _name_of_backbone(model: Any) -> str | None:
    """Return the name of the backbone within a network that keeps its task model's own head. None: another network."""
    if not is_wrapped(model):
        return None
    backbone = model.backbone
    return next(name for name, module in model.named_modules() if module is backbone)


def _names_of(name: str, backbone: str | None) -> list[str]:
    """Return the names by which a pattern may call a parameter.

    Args:
        name: of the parameter.
        backbone: of `_name_of_backbone`.
    """
    plain = name
    for within in _WITHIN:
        plain = plain.replace(within, ".")
    short = plain
    for around in _AROUND:
        short = short.removeprefix(around)
    names = [name, short]
    if backbone is not None and plain.startswith(f"{backbone}."):
        of_backbone = plain.removeprefix(f"{backbone}.")
        names.append(f"{_BACKBONE}{of_backbone}")
    return names
