"""How many networks of a sweep train, and are sampled, at once."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from ..data import ImageTensors, TensorData, TextTensors
from ..models import SelfModelingConfig, check_config, model_class_of
from ..stacking import copies_that_fit, saved_bytes_per_copy

# Of a step's inputs on a CPU: larger batches leave its caches. Measured at width 64, batch 512: 0.12 s a network-epoch
# with 10 members (15 MiB), 0.14 s with 60; at batch 64 0.36 s and 0.18 s (12 MiB), where a step's fixed cost rules.
CPU_BATCH_BYTES = 16 << 20
# Of one network's activations in a step: with so many, arithmetic rules the step, and company gains nothing on a CPU.
CPU_ACTIVATION_BYTES = 64 << 20
RLCT_GROUP = 10  # networks whose chains are sampled together; an interrupted sweep samples at most these again


@dataclass(frozen=True)
class Footprint:
    """What one network takes.

    Attributes:
        parameters: how many, with the self-model's.
        sample_bytes: of one sample's input, in float32.
        activation_bytes: what autograd keeps of one sample in a forward pass.
    """

    parameters: int
    sample_bytes: int
    activation_bytes: int


def measure_footprint(config: SelfModelingConfig, data: TensorData) -> Footprint:
    """Of the network of this configuration, by forward passes of a few of these samples.

    Raises:
        ValueError: the configuration describes no network, or one larger than the machine.
    """
    check_config(config)
    with torch.random.fork_rng():
        model = model_class_of(config)(config)

    def kept(count: int) -> int:
        rows = torch.arange(count, device=data.labels.device) % len(data)
        batch = {name: values.cpu() for name, values in data.take(rows).items()}
        return saved_bytes_per_copy(lambda: model(**batch).loss)

    # the difference: what is kept for each sample, without the weights, which are kept once
    return Footprint(model.num_parameters(), _sample_bytes(data), (kept(8) - kept(4)) // 4)


def _sample_bytes(data: TensorData) -> int:
    if isinstance(data, ImageTensors):
        return 4 * data.pixels[0].numel()
    assert isinstance(data, TextTensors)
    return 4 * len(data.tokens) // len(data)


@dataclass(frozen=True)
class MemoryPlan:
    """How many members a population gets.

    Attributes:
        footprints: of one network, by the width of its hidden layer.
        batch_size: of each network.
        limit: bytes that training may take in one process.
        num_processes: over which members are split.
        members: a number that the user has chosen; None: as many as fit into `limit`.
    """

    footprints: Mapping[int, Footprint]
    batch_size: int
    limit: int
    num_processes: int = 1
    members: int | None = None

    def bytes_per_member(self, hidden_size: int) -> int:
        """What training one member takes: weights, gradient, optimizer state and its update; batch and activations."""
        one = self.footprints[hidden_size]
        return 20 * one.parameters + 2 * self.batch_size * (one.sample_bytes + one.activation_bytes)

    def members_at_once(self, hidden_size: int) -> int:
        """Return how many networks train at once, over all processes together.

        1 means that not even two networks fit into one process, or that stacking does not help on a CPU. Then networks
        are trained one by one, and the processes share each batch instead of the members.
        """
        if self.members is not None:
            return self.members
        fit = copies_that_fit(self.bytes_per_member(hidden_size), self.limit)
        if fit == 1 or self._is_large_for_cpu(hidden_size):
            return 1
        if not torch.accelerator.is_available():
            fit = min(
                fit, copies_that_fit(self.batch_size * self.footprints[hidden_size].sample_bytes, CPU_BATCH_BYTES)
            )
        return fit * self.num_processes

    def _is_large_for_cpu(self, hidden_size: int) -> bool:
        activations = self.batch_size * self.footprints[hidden_size].activation_bytes
        return not torch.accelerator.is_available() and activations > CPU_ACTIVATION_BYTES

    def sampled_at_once(self, hidden_size: int) -> int:
        """Return how many networks have their RLCTs estimated together, because their weights fit a few times.

        `estimate_llc` itself cuts passes over the data, and the chains, to size.
        """
        one = self.footprints[hidden_size]
        return min(RLCT_GROUP, copies_that_fit(20 * one.parameters, self.limit))

    def explain(self, hidden_size: int) -> str | None:
        """Why networks of this width train one by one, where that is no wish of the user's."""
        if self.members is not None or self.members_at_once(hidden_size) > 1:
            return None
        if self._is_large_for_cpu(hidden_size):
            return f"width {hidden_size}: on a CPU, networks of this size gain nothing from company: one at a time"
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
    source = Path("/proc/meminfo")
    for line in source.read_text(encoding="utf-8").splitlines() if source.is_file() else ():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
