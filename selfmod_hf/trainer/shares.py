"""Members over processes: each process trains its share, and logs and files hold the complete population.

Members exchange nothing, so no gradient travels. Figures are gathered when they are logged. Weights and the
optimizer's state are gathered for each checkpoint and at the end of training. A checkpoint is that of one process: any
number of processes can resume it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

Values = dict[str, Any]  # tensors and numbers by name


class MemberShares:
    """Divide the members of a population between processes.

    Args:
        num_members: K.
        num_processes: P. If P > K, each further process trains the first member too, because all processes take part
            in gathering. Its results are not used.
        process_index: this process.

    Attributes:
        own: the members of this process.
        split: whether there are several processes.
        weight_of_sum: factor of a sum over this process's members. With it the mean over processes is the mean over
            members.

    Example:
        >>> MemberShares(num_members=5, num_processes=2, process_index=1).own
        range(3, 5)
    """

    def __init__(self, num_members: int, num_processes: int, process_index: int) -> None:
        shares = torch.arange(num_members).tensor_split(num_processes)
        self.used = range(min(num_members, num_processes))
        self.split = num_processes > 1
        if process_index in self.used:
            mine = shares[process_index]
            self.weight_of_sum = num_processes / num_members
        else:
            mine = shares[0]
            self.weight_of_sum = 0.0
        first = int(mine[0])
        self.own = range(first, first + len(mine))

    def gather(self, own: Any) -> list[Any]:
        """Return the value of each share's process, in the order of the members. All processes call this together."""
        if not self.split:
            return [own]
        count = dist.get_world_size()
        parts: list[Any] = [None] * count
        dist.all_gather_object(parts, own)
        return [parts[index] for index in self.used]

    def gather_tensors(self, own: Mapping[str, Tensor]) -> Values:
        """Return tensors of all members, (K, ...), on the CPU.

        Args:
            own: name -> (members of this process, ...).
        """
        parts = self.gather(_on_cpu(own))
        return {name: _joined(parts, name) for name in own}

    def gather_optimizer(self, own: Values) -> Values:
        """Return the `state_dict` of an optimizer of all members, from those of the shares' optimizers."""
        near = dict(own["state"])
        for index, values in near.items():
            near[index] = _on_cpu(values)
        parts = self.gather(near)
        state = {}
        for index, values in near.items():
            shares = [part[index] for part in parts]
            state[index] = {name: _joined(shares, name) for name in values}
        return {**own, "state": state}

    def take(self, everything: Values) -> Values:
        """Return this process's part of tensors (K, ...). Numbers stay, because they are the same for all members."""
        part = slice(self.own.start, self.own.stop)
        taken = dict(everything)
        for name, value in everything.items():
            if has_members(value):
                taken[name] = value[part]
        return taken

    def take_optimizer(self, everything: Values) -> Values:
        """Return this process's part of the `state_dict` of an optimizer of all members."""
        state = dict(everything["state"])
        for index, values in state.items():
            state[index] = self.take(values)
        return {**everything, "state": state}


def has_members(value: Any) -> bool:
    """Return whether a value has the members as its first dimension.

    An element-wise optimizer keeps numbers (steps), and tensors of its parameter's shape (K, ...).
    """
    if not torch.is_tensor(value):
        return False
    return value.dim() > 0


def _joined(parts: list[Values], name: str) -> Any:
    """Return one value for all members from the shares' values. Numbers are the same in all shares."""
    values = [part[name] for part in parts]
    if has_members(values[0]):
        return torch.cat(values)
    return values[0]


def _on_cpu(values: Mapping[str, Any]) -> Values:
    """Return values with their tensors on the CPU."""
    near = dict(values)
    for name, value in values.items():
        if torch.is_tensor(value):
            near[name] = value.detach().cpu()
    return near
