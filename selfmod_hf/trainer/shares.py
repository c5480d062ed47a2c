"""Members over processes: each process trains its share, and what is logged or saved is the whole population's.

Members exchange nothing, so no gradient travels. Figures are gathered when they are logged, weights and the
optimizer's state when a checkpoint is written and when training ends. A checkpoint is that of one process: it can be
resumed by any number of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class MemberShares:
    """Which members each process trains.

    Args:
        num_members: K.
        num_processes: P. Where P > K, a process that is left over trains the first member once more, for company: all
            processes take part in what is gathered; its results are not used.
        process_index: this process.

    Attributes:
        own: the members of this process.
        split: whether there are several processes.
        weight_of_sum: of a sum over this process's members; the mean over processes is then the mean over members.
    """

    def __init__(self, num_members: int, num_processes: int, process_index: int) -> None:
        shares = torch.arange(num_members).tensor_split(num_processes)
        self.used = [index for index, share in enumerate(shares) if len(share)]
        left_over = process_index not in self.used
        mine = shares[0] if left_over else shares[process_index]
        self.own = range(int(mine[0]), int(mine[-1]) + 1)
        self.split = num_processes > 1
        self.weight_of_sum = 0.0 if left_over else num_processes / num_members

    def gather(self, own: Any) -> list[Any]:
        """What each share's process gives, in the order of the members; every process must call this, and gets it."""
        if not self.split:
            return [own]
        parts: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(parts, own)
        return [parts[index] for index in self.used]

    def gather_tensors(self, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return tensors by name, each of the members of a share, as those of all members, (K, ...), on the CPU."""
        parts = self.gather({name: value.detach().cpu() for name, value in own.items()})
        return {name: torch.cat([part[name] for part in parts]) for name in own}

    def gather_optimizer(self, own: dict[str, Any]) -> dict[str, Any]:
        """The `state_dict` of an optimizer of all members, from those of the shares' optimizers."""
        parts = self.gather(_on_cpu(own["state"]))
        state = {
            index: {name: _whole([part[index][name] for part in parts]) for name in values}
            for index, values in parts[0].items()
        }
        return {**own, "state": state}

    def take(self, whole: Mapping[str, Any]) -> dict[str, Any]:
        """This process's part of tensors (K, ...); numbers are the same for all members."""
        part = slice(self.own.start, self.own.stop)
        return {name: value[part] if _has_members(value) else value for name, value in whole.items()}

    def take_optimizer(self, whole: dict[str, Any]) -> dict[str, Any]:
        return {**whole, "state": {index: self.take(values) for index, values in whole["state"].items()}}


def smallest_share(num_samples: int, batch_size: int, num_processes: int, drop_last: bool) -> int:
    """Return how many samples a process gets at least in a batch of an epoch; one stands in for none.

    Args:
        num_samples: N.
        batch_size: of each process.
        num_processes: P; each batch of P * batch_size samples is split as evenly as possible.
        drop_last: whether a last batch that is not full is left out.
    """
    rest = num_samples % (batch_size * num_processes)
    if rest == 0 or drop_last:
        return batch_size
    return max(1, rest // num_processes)


def _has_members(value: Any) -> bool:
    """An element-wise optimizer keeps numbers (steps) and tensors of its parameter's shape, whose first is K."""
    return torch.is_tensor(value) and value.dim() > 0


def _whole(parts: Sequence[Any]) -> Any:
    return torch.cat(list(parts)) if _has_members(parts[0]) else parts[0]


def _on_cpu(state: Mapping[int, Mapping[str, Any]]) -> dict[int, dict[str, Any]]:
    return {
        index: {name: value.cpu() if torch.is_tensor(value) else value for name, value in values.items()}
        for index, values in state.items()
    }
