"""`Member`: the numbers of one network of a population, its own learning rate among them.

An optimizer of torch has one learning rate for a complete parameter, and a population keeps all members in one
parameter of shape (K, ...). The optimizers of a population take steps proportional to the learning rate, because
none of their states depends on it. So the optimizer steps with the largest rate of all members. Each member then keeps
the share `its rate / largest rate` of its step:

    w_k <- w_k + (lr_k / max lr) * (w_k' - w_k),    w_k' the optimizer's result.

The cost is a copy of the parameters and one pass over them in each step. Equal rates cost nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from ..errors import InputError


@dataclass(frozen=True)
class Member:
    """Hold the numbers of one network of a population.

    Attributes:
        seed: of its initial weights and of its order of samples.
        aux_weight: its weight of the self-modeling loss, >= 0.
        detach_targets: whether the predicted activations are constants for its gradient.
        learning_rate: its own, > 0. None: the learning rate of the training arguments.

    Raises:
        InputError: the learning rate is not a finite number above 0.

    Example:
        >>> Member(seed=1, aux_weight=10.0).name
        'aw10-seed1'
    """

    seed: int
    aux_weight: float
    detach_targets: bool = True
    learning_rate: float | None = None

    def __post_init__(self) -> None:
        rate = self.learning_rate
        if rate is not None and not 0 < rate < math.inf:
            raise InputError("learning_rate", rate, "allowed are None and finite numbers above 0")

    @property
    def name(self) -> str:
        """Return its name in logs and files, for example `aw10-seed1`, `aw10-attached-seed1`, `aw10-lr0.05-seed1`."""
        parts = [f"aw{self.aux_weight:g}"]
        if not self.detach_targets:
            parts.append("attached")
        if self.learning_rate is not None:
            parts.append(f"lr{self.learning_rate:g}")
        parts.append(f"seed{self.seed}")
        return "-".join(parts)

    def describe(self) -> dict[str, Any]:
        """Return its entry in `population.json`. It has a learning rate only if the member has its own."""
        entry = asdict(self)
        if self.learning_rate is None:
            del entry["learning_rate"]
        return entry


def rates_of(members: Sequence[Member], default: float) -> list[float]:
    """Return the learning rate of each member.

    Args:
        members: of a population.
        default: the rate of members without their own.

    Example:
        >>> rates_of([Member(0, 1.0), Member(0, 1.0, learning_rate=0.1)], default=0.05)
        [0.05, 0.1]
    """
    rates = []
    for member in members:
        if member.learning_rate is None:
            rates.append(default)
        else:
            rates.append(member.learning_rate)
    return rates


def scale_steps(optimizer: torch.optim.Optimizer, shares: Sequence[float]) -> None:
    """Let each member keep its share of every step of the optimizer.

    Args:
        optimizer: of parameters (K, ...). It updates each number from its own gradient alone.
        shares: K numbers above 0 and at most 1.
    """
    if set(shares) == {1}:
        return
    before: dict[torch.Tensor, torch.Tensor] = {}

    def parameters() -> list[torch.Tensor]:
        found: list[torch.Tensor] = []
        for group in optimizer.param_groups:
            found += group["params"]
        return found

    @torch.no_grad()
    def keep(*_: Any) -> None:
        for parameter in parameters():
            before[parameter] = parameter.clone()

    @torch.no_grad()
    def shorten(*_: Any) -> None:
        for parameter in parameters():
            share = torch.tensor(shares, dtype=parameter.dtype, device=parameter.device)  # (K,)
            share = along_first(share, parameter)
            shortened = torch.lerp(before.pop(parameter), parameter, share)
            parameter.copy_(shortened)

    optimizer.register_step_pre_hook(keep)
    optimizer.register_step_post_hook(shorten)


def along_first(numbers: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """Return a number per member in a shape for broadcasting along a parameter.

    Args:
        numbers: (K,).
        parameter: (K, ...).

    Returns:
        (K, 1, ...), with as many dimensions as the parameter.

    Example:
        >>> along_first(torch.ones(3), torch.zeros(3, 5, 7)).shape
        torch.Size([3, 1, 1])
    """
    ones = [1] * (parameter.dim() - 1)
    return numbers.view(-1, *ones)
