"""How many networks of a sweep train at once."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch

from ..data import TaskData
from ..stacking import copies_that_fit

# Of a step's images on a CPU: larger batches leave its caches. Measured at width 64, batch 512: 0.12 s a network-epoch
# with 10 members (15 MiB), 0.14 s with 60; at batch 64 0.36 s and 0.18 s (12 MiB), where a step's fixed cost rules.
CPU_BATCH_BYTES = 16 << 20


@dataclass(frozen=True)
class MemoryPlan:
    """How many members a population gets.

    Attributes:
        data: the task's.
        batch_size: of each network.
        limit: bytes that training may take in one process.
        num_processes: over which members are split.
        members: a number that the user has chosen; None: as many as fit into `limit`.
    """

    data: TaskData
    batch_size: int
    limit: int
    num_processes: int = 1
    members: int | None = None

    def num_parameters(self, hidden_size: int) -> int:
        """Of the MLP with its self-model."""
        inputs, outputs = self.data.train.pixels[0].numel(), len(self.data.label_names) + hidden_size
        return (inputs + 1) * hidden_size + (hidden_size + 1) * outputs

    def bytes_per_member(self, hidden_size: int) -> int:
        """What training one member takes: weights, gradient, optimizer state and its update; batch and activations."""
        per_sample = 2 * self.data.train.pixels[0].numel() + 8 * hidden_size
        return 4 * (5 * self.num_parameters(hidden_size) + self.batch_size * per_sample)

    def members_at_once(self, hidden_size: int) -> int:
        """Of all processes together; on a CPU no more than run well. 1, where not even two fit into one process: then
        networks are trained one by one, and the processes share each batch instead of the members."""
        if self.members is not None:
            return self.members
        fit = copies_that_fit(self.bytes_per_member(hidden_size), self.limit)
        if fit == 1:
            return 1
        if not torch.accelerator.is_available():
            batch = 4 * self.batch_size * self.data.train.pixels[0].numel()
            fit = min(fit, copies_that_fit(batch, CPU_BATCH_BYTES))
        return fit * self.num_processes

    def explain(self, hidden_size: int) -> str | None:
        """Why networks of this width train one by one, where memory is the reason."""
        if self.members is not None or self.members_at_once(hidden_size) > 1:
            return None
        two = 2 * self.bytes_per_member(hidden_size) / 2**20
        return (
            f"width {hidden_size}: two networks take {two:.0f} MiB, over the {self.limit / 2**20:.0f} MiB there are: "
            "one at a time, each batch split over the processes"
        )


def free_memory(num_processes: int = 1) -> int:
    """Bytes that are free for each process: on its accelerator, or its part of the machine's."""
    if torch.cuda.is_available():
        return torch.cuda.mem_get_info()[0]
    return _free_in_machine() // num_processes


def _free_in_machine() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines() if Path("/proc/meminfo").is_file() else ():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
