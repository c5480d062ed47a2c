"""The number of a sweep's networks in one training and in one sampling."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch

from ..data import BlockTensors, ImageTensors, TensorData, TextTensors
from ..models import SelfModelingConfig, SelfModelingPreTrainedModel, check_config, model_class_of
from ..stacking import copies_that_fit, saved_bytes_per_copy

# Bytes of a step's inputs on a CPU, because larger batches leave its caches. Measured seconds of a network's epoch at
# width 64 and batch 512: 0.12 with 10 members (15 MiB), 0.14 with 60. At batch 64: 0.36 with 10, 0.18 with 60 (12 MiB),
# because each step has a fixed cost.
CPU_BATCH_BYTES = 16 << 20
# Bytes of one network's activations in a step. Above this size a step is compute-bound, so stacking does not help on a
# CPU.
CPU_ACTIVATION_BYTES = 64 << 20
RLCT_GROUP = 10  # networks of one sampling; an interrupted sweep samples at most these again


@dataclass(frozen=True)
class Footprint:
    """Hold the memory of one network.

    Attributes:
        parameters: number of parameters, with the self-model's.
        sample_bytes: bytes of one sample's input in float32.
        activation_bytes: bytes of one sample that autograd keeps in a forward pass.
    """

    parameters: int
    sample_bytes: int
    activation_bytes: int


def measure_footprint(config: SelfModelingConfig, data: TensorData) -> Footprint:
    """Measure a network's memory by forward passes of a few samples.

    Args:
        config: of the network.
        data: the samples.

    Raises:
        ValueError: the configuration describes no network, or one larger than the machine.
    """
    check_config(config)
    with torch.random.fork_rng():
        model = model_class_of(config)(config)

    kept_4 = _kept_bytes(model, data, 4)
    kept_8 = _kept_bytes(model, data, 8)
    per_sample = (kept_8 - kept_4) // 4  # without the weights, which are kept once
    return Footprint(model.num_parameters(), _sample_bytes(data), per_sample)


def _kept_bytes(model: SelfModelingPreTrainedModel, data: TensorData, count: int) -> int:
    """Return the bytes that autograd keeps in a forward pass of so many samples."""
    rows = torch.arange(count, device=data.labels.device) % len(data)
    batch = {}
    for name, values in data.take(rows).items():
        batch[name] = values.cpu()
    return saved_bytes_per_copy(lambda: model(**batch).loss)


def _sample_bytes(data: TensorData) -> int:
    """Return the bytes of one sample's input in float32."""
    if isinstance(data, ImageTensors):
        return 4 * data.pixels[0].numel()
    assert isinstance(data, (TextTensors, BlockTensors))
    return 4 * data.tokens.numel() // len(data)


@dataclass(frozen=True)
class MemoryPlan:
    """Decide the number of members of a population.

    Attributes:
        footprint: of one network.
        batch_size: of each network.
        limit: bytes for training in one process.
        num_processes: number of processes. Members are split over them.
        members: the user's number. None: as many as fit into `limit`.
    """

    footprint: Footprint
    batch_size: int
    limit: int
    num_processes: int = 1
    members: int | None = None

    def bytes_per_member(self) -> int:
        """Return the bytes of one member: weights, gradient, optimizer state and its update, batch and activations."""
        one = self.footprint
        per_sample = one.sample_bytes + one.activation_bytes
        return 20 * one.parameters + 2 * self.batch_size * per_sample

    def members_at_once(self) -> int:
        """Return the number of networks in one training, over all processes together.

        It is 1 if not even two networks fit into one process, or if stacking does not help on a CPU. Then networks
        train one by one, and the processes share each batch instead of the members.
        """
        if self.members is not None:
            return self.members
        needed = self.bytes_per_member()
        fit = copies_that_fit(needed, self.limit)
        if fit == 1 or self._is_large_for_cpu():
            return 1
        if not torch.accelerator.is_available():
            batch_bytes = self.batch_size * self.footprint.sample_bytes
            fit = min(fit, copies_that_fit(batch_bytes, CPU_BATCH_BYTES))
        return fit * self.num_processes

    def _is_large_for_cpu(self) -> bool:
        if torch.accelerator.is_available():
            return False
        return self.batch_size * self.footprint.activation_bytes > CPU_ACTIVATION_BYTES

    def sampled_at_once(self) -> int:
        """Return the number of networks in one estimation of RLCTs, because their weights fit a few times.

        `estimate_llc` itself cuts passes over the data, and the chains, to size.
        """
        one = self.footprint
        return min(RLCT_GROUP, copies_that_fit(20 * one.parameters, self.limit))

    def explain(self) -> str | None:
        """Return why networks of this shape train one by one, or None if they do not or the user chose it."""
        if self.members is not None or self.members_at_once() > 1:
            return None
        if self._is_large_for_cpu():
            return "on a CPU, stacking networks of this size does not help: one at a time"
        needed = 2 * self.bytes_per_member() / 2**20
        limit = self.limit / 2**20
        return (
            f"two networks take {needed:.0f} MiB, over the {limit:.0f} MiB there are: "
            "one at a time, each batch split over the processes"
        )


def free_memory(num_processes: int = 1) -> int:
    """Return the free bytes of each process: on its accelerator, or its part of the machine's."""
    if torch.cuda.is_available():
        return torch.cuda.mem_get_info()[0]
    return _free_in_machine() // num_processes


def _free_in_machine() -> int:
    """Return the free bytes of the machine, or half of its memory if it does not report them."""
    source = Path("/proc/meminfo")
    if source.is_file():
        for line in source.read_text(encoding="utf-8").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
