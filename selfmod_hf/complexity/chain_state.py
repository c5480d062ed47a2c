"""Take the state of chains as tensors, and put it back, so that they go on as if nothing had happened.

A class with a state is `Stateful`. Its attributes are tensors, integers, generators, or lists of generators.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

State = dict[str, Tensor]


class Stateful:
    """Have a state. `STATE` names its attributes."""

    STATE: ClassVar[tuple[str, ...]] = ()


def take(owner: Stateful, prefix: str) -> State:
    """Return the state of an object, the names of its attributes behind a prefix.

    Example:
        >>> class Count(Stateful):
        ...     STATE = ("passed",)
        ...     passed = 3
        >>> take(Count(), "count")
        {'count.passed.0': tensor(3)}
    """
    state = {}
    for name in owner.STATE:
        values = getattr(owner, name)
        for place, value in enumerate(values if isinstance(values, list) else [values]):
            state[f"{prefix}.{name}.{place}"] = _as_tensor(value)
    return state


def put_back(owner: Stateful, prefix: str, state: Mapping[str, Tensor]) -> None:
    """Give an object the state that `take` returned."""
    for name in owner.STATE:
        values = getattr(owner, name)
        if isinstance(values, list):
            for place, generator in enumerate(values):
                generator.set_state(state[f"{prefix}.{name}.{place}"])
            continue
        kept = state[f"{prefix}.{name}.0"]
        if isinstance(values, torch.Generator):
            values.set_state(kept)
        elif isinstance(values, Tensor):
            setattr(owner, name, kept.to(values.device))
        else:
            setattr(owner, name, int(kept))


def take_tuple(values: Any, prefix: str) -> State:
    """Return the fields of a sampler's state, a named tuple of tensors and integers."""
    return {f"{prefix}.{name}": _as_tensor(getattr(values, name)) for name in values._fields}


def tuple_of(like: NamedTuple, prefix: str, state: Mapping[str, Tensor]) -> Any:
    """Return a sampler's state with the fields that `take_tuple` returned.

    Args:
        like: a state of the same sampler.
        prefix: of the names.
        state: the fields.
    """
    fields: list[Any] = []
    for name, value in like._asdict().items():
        kept = state[f"{prefix}.{name}"]
        fields.append(kept.to(value.device) if isinstance(value, Tensor) else int(kept))
    return type(like)(*fields)


def _as_tensor(value: Any) -> Tensor:
    """Return a tensor, an integer or the state of a generator as a tensor of its own memory."""
    if isinstance(value, torch.Generator):
        return value.get_state()
    if isinstance(value, Tensor):
        return value.detach().cpu().clone().contiguous()
    return torch.tensor(value)
