"""Choose the parameters to sample: by names and patterns, or by masks that choose single numbers of them."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping, Sequence, Set

import torch
from torch import Tensor, nn

from ..stacking import ModuleStack, mask_parameters
from .input_checks import check

_FEW = 12  # names that an error lists one by one
Choice = Sequence[str] | Mapping[str, Tensor | None] | None


def choose_parameters(stack: ModuleStack, movable: Sequence[str], choice: Choice) -> tuple[ModuleStack, list[str]]:
    """Return the stack and the names of its sampled parameters. With masks, the chosen numbers are parameters.

    Args:
        stack: the networks. With masks, its skeleton is changed.
        movable: names of the parameters that can be sampled.
        choice: see `LLCSettings.parameters`.

    Raises:
        ValueError: a name, pattern or mask that does not fit the networks.
    """
    if not isinstance(choice, Mapping):
        return stack, match_parameters(movable, choice)
    names = match_parameters(movable, list(choice))
    masks: dict[str, Tensor] = {}
    for pattern, mask in choice.items():
        if mask is None:
            continue
        for name in match_parameters(movable, [pattern]):
            _check_mask(stack, name, mask, masks)
            masks[name] = mask
    masked, renamed = mask_parameters(stack, masks)
    return masked, [renamed.get(name, name) for name in names]


def _check_mask(stack: ModuleStack, name: str, mask: Tensor, others: Mapping[str, Tensor]) -> None:
    """Raise a ValueError unless this is a mask of the parameter.

    Args:
        stack: the networks.
        name: of the parameter.
        mask: of its numbers.
        others: masks of parameters found before.
    """
    field = f"parameters[{name!r}]"
    shape = tuple(stack.parameters[name].shape[1:])
    found = type(mask).__name__
    is_mask = False
    if isinstance(mask, Tensor):
        found = f"{mask.dtype} {tuple(mask.shape)}"
        is_mask = mask.dtype == torch.bool and tuple(mask.shape) == shape
    check(field, found, is_mask, f"None or a tensor of type bool and shape {shape}")
    check(field, "all False", bool(mask.any()), "a mask with a True at least")
    check(field, "two masks", name not in others, "chosen by one mask")
    owner = stack.skeleton.get_submodule(name.rpartition(".")[0])
    check(field, type(owner).__name__, not isinstance(owner, nn.RNNBase), "without a mask: recurrent layers have none")
    parameter = stack.skeleton.get_parameter(name)
    uses = [other for other, value in stack.skeleton.named_parameters(remove_duplicate=False) if value is parameter]
    check(field, ", ".join(uses), len(uses) == 1, "without a mask, because modules share the parameter")


def _shown_names(names: Sequence[str]) -> list[str]:
    """Return the names for a line of an error. Those of many layers are one pattern.

    Example:
        >>> _shown_names([f"layers.{layer}.weight" for layer in range(20)] + ["bias"])
        ['layers.*.weight', 'bias']
    """
    if len(names) <= _FEW:
        return list(names)
    patterns = [re.sub(r"(?<=\.)\d+(?=\.)", "*", name) for name in names]
    return list(dict.fromkeys(patterns))


def match_parameters(names: Sequence[str], patterns: Sequence[str] | None) -> list[str]:
    """Return the names with a match among the patterns (`fnmatch`), in their own order. None matches all.

    Raises:
        ValueError: patterns of another type, or a pattern without a match.
    """
    if patterns is None:
        return list(names)
    several = isinstance(patterns, (str, Sequence, Set))
    check("parameters", patterns, several, "None, a list of names or patterns, or a dict of masks")
    if isinstance(patterns, str):
        patterns = [patterns]
    patterns = list(patterns)
    check("parameters", patterns, bool(patterns), "None, or one name or pattern at least")
    known = ", ".join(_shown_names(names))
    matched: set[str] = set()
    for pattern in patterns:
        check("parameters", pattern, isinstance(pattern, str), "names or patterns, which are texts")
        found = [name for name in names if fnmatch.fnmatchcase(name, pattern)]
        check("parameters", pattern, bool(found), f"a name or pattern among {known}")
        matched.update(found)
    return [name for name in names if name in matched]
