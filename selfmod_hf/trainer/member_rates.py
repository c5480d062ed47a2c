"""A learning rate for each member of a population.

An optimizer of torch has one learning rate for a whole parameter, and a population keeps all members in one parameter
of shape (K, ...). The optimizers that a population allows take steps proportional to the learning rate, because none
of their states depends on it. So the optimizer steps with the largest rate of all members, and each member then keeps
the share `its rate / largest rate` of its step:

    w_k <- w_k + (lr_k / max lr) * (w_k' - w_k),    w_k' the optimizer's result.

The cost is a copy of the parameters and one pass over them, each step. Where all rates are equal there is none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from ..errors import InputError

if TYPE_CHECKING:
    from .member import Member
    from .training_args import SelfModelingTrainingArguments

# polynomial decay ends at a rate of its own, 1e-7, which is not proportional to the first one
_ABSOLUTE_SCHEDULES = ("polynomial",)
_ABSOLUTE_ENTRY = "min_lr"


def rates_of(members: Sequence[Member], default: float) -> list[float]:
    """Return the learning rate of each member.

    Args:
        members: of a population.
        default: the rate of a member that has none of its own.
    """
    return [default if member.learning_rate is None else member.learning_rate for member in members]


def check_schedule(args: SelfModelingTrainingArguments, rates: Sequence[float]) -> None:
    """Reject a schedule whose rates are not proportional to the first one, where members differ in theirs.

    Args:
        args: of the training.
        rates: of the members.

    Raises:
        InputError: names the schedule.
    """
    schedule = str(getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type))
    entries = dict(args.lr_scheduler_kwargs or {})
    absolute = schedule in _ABSOLUTE_SCHEDULES or _ABSOLUTE_ENTRY in entries
    if absolute and len(set(rates)) > 1:
        problem = "members have learning rates of their own; allowed are schedules that end at a share of the first"
        raise InputError("lr_scheduler_type", schedule, problem)


def scale_steps(optimizer: torch.optim.Optimizer, shares: Sequence[float]) -> None:
    """Let each member keep its share of every step of the optimizer.

    Args:
        optimizer: of parameters (K, ...). It updates each number from its own gradient alone.
        shares: K numbers above 0 and at most 1.
    """
    if all(share == 1 for share in shares):
        return
    before: dict[torch.Tensor, torch.Tensor] = {}

    def parameters() -> list[torch.Tensor]:
        return [parameter for group in optimizer.param_groups for parameter in group["params"]]

    @torch.no_grad()
    def keep(*_: Any) -> None:
        before.update({parameter: parameter.clone() for parameter in parameters()})

    @torch.no_grad()
    def shorten(*_: Any) -> None:
        for parameter in parameters():
            share = torch.tensor(shares, dtype=parameter.dtype, device=parameter.device)  # (K,)
            share = share.view(-1, *[1] * (parameter.dim() - 1))
            parameter.copy_(torch.lerp(before.pop(parameter), parameter, share))

    optimizer.register_step_pre_hook(keep)
    optimizer.register_step_post_hook(shorten)
