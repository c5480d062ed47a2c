"""The problem that is sampled: networks, their data and loss, and the loss at their trained weights w*."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from ..stacking import (
    Batch,
    Mapped,
    ModuleStack,
    ParameterLayout,
    copies_that_fit,
    part_of,
    saved_bytes_per_copy,
)
from .samplers import SAMPLERS
from .settings import LLCSettings

MOST_AT_ANCHOR = 1024  # samples in one computation of the losses at w*
_PROBED = 16  # samples in the measurement of one sample's memory


@dataclass(frozen=True)
class Problem:
    """Hold networks, data, losses, and the choice of the sampled parameters.

    Attributes:
        stack: M networks.
        layout: the sampled parameters. All others stay as they are.
        inputs: (n, ...) tensor, or a dict of them.
        targets: (n, ...).
        losses_of_one_batch: the losses (K, B) of copies with one common batch, from `map_copies`.
        losses_of_own_batches: the losses (K, B) of copies with a batch each.
        memory_budget: bytes for state and activations.
        compute_dtype: lower precision of forward and backward. Weights and buffers are rounded to it at every step, and
            floating-point inputs have it. None: the stack's own.
        vectorize: False for modules without a `vmap` rule.
        probes: inputs and targets of q samples whose losses are kept. None: none.
    """

    stack: ModuleStack
    layout: ParameterLayout
    inputs: Batch
    targets: Tensor
    losses_of_one_batch: Mapped
    losses_of_own_batches: Mapped
    memory_budget: int
    compute_dtype: torch.dtype | None = None
    vectorize: bool = True
    probes: tuple[Batch, Tensor] | None = None

    @property
    def num_samples(self) -> int:
        """Return n."""
        return len(self.targets)

    @property
    def num_probes(self) -> int:
        """Return q."""
        if self.probes is None:
            return 0
        return len(self.probes[1])

    @property
    def device(self) -> torch.device:
        """Return the device of the networks and the data."""
        first_parameter = next(iter(self.stack.parameters.values()))
        return first_parameter.device

    @property
    def stack_dtype(self) -> torch.dtype:
        """Return the type of the sampled weights."""
        first = self.layout.names[0]
        return self.stack.parameters[first].dtype

    @property
    def name(self) -> str:
        """Return the name of the networks' class."""
        return type(self.stack.skeleton).__name__

    @property
    def anchors(self) -> Tensor:
        """Return w* of each network, (M, P)."""
        return self.layout.flatten(self.stack.parameters)

    @property
    def fixed(self) -> dict[str, Tensor]:
        """Return the fixed parameters and the buffers, name -> (M, *shape)."""
        fixed = self.stack.state
        for name in self.layout.names:
            del fixed[name]
        return fixed

    def fixed_of(self, member: int) -> dict[str, Tensor]:
        """Return the fixed parameters and the buffers of one network, name -> shape."""
        return {name: values[member] for name, values in self.fixed.items()}

    def losses_of_member(self, member: int, index: Tensor | slice) -> Tensor:
        """Return the losses (B,) at w* of one network on some samples, taken as one batch."""
        one = {}
        for name, values in self.stack.state.items():
            one[name] = values[member : member + 1]
        inputs = part_of(self.inputs, index)
        targets = part_of(self.targets, index)
        with torch.no_grad():
            losses = self.losses_of_one_batch(one, {}, inputs, targets)  # (1, B)
        return losses[0]

    # ---- the loss at w* ----

    @functools.cached_property
    def anchor_losses(self) -> Tensor:
        """Return each network's loss on each sample at w*, (n, M)."""
        of_all_networks = self.bytes_per_sample * len(self.stack)
        fit = copies_that_fit(int(of_all_networks), self.memory_budget)
        chunk = min(fit, MOST_AT_ANCHOR)
        state = self.stack.state
        pieces = []
        for start in range(0, self.num_samples, chunk):
            part = slice(start, start + chunk)
            inputs = part_of(self.inputs, part)
            targets = self.targets[part]
            with torch.no_grad():
                losses = self.losses_of_one_batch(state, {}, inputs, targets)  # (M, chunk)
            pieces.append(losses)
        all_losses = torch.cat(pieces, dim=1)  # (M, n)
        return all_losses.T.contiguous()

    @functools.cached_property
    def anchor_means(self) -> list[float]:
        """Return L(w*) of each network over all data."""
        means = self.anchor_losses.mean(0, dtype=torch.float64)  # (M,)
        return means.tolist()

    # ---- memory ----

    @functools.cached_property
    def bytes_per_sample(self) -> float:
        """Return the bytes of activations, their gradients and the gathered inputs, for one sample of one row."""
        probe = slice(0, min(self.num_samples, _PROBED))
        inputs = part_of(self.inputs, probe)
        targets = self.targets[probe]
        one = self.first_with_gradients()

        def compute() -> Tensor:
            with torch.enable_grad():
                return self.losses_of_one_batch(one, {}, inputs, targets)

        saved = saved_bytes_per_copy(compute)
        gathered = 0
        for values in tree_leaves(inputs):
            gathered += values.nbytes
        total = 2 * saved + gathered
        return total / len(targets)

    def first_with_gradients(self) -> dict[str, Tensor]:
        """Return the first network as a stack of one. The sampled parameters take gradients."""
        one = {}
        for name, values in self.stack.state.items():
            one[name] = values[:1].detach()
        for name in self.layout.names:
            one[name].requires_grad_()
        return one


@dataclass(frozen=True)
class Capacity:
    """Describe how much of a problem fits into its memory budget at once.

    Attributes:
        rows: rows, groups x chains.
        micro_batch_size: samples of a batch in one computation. None: the complete batch.
    """

    rows: int
    micro_batch_size: int | None


def capacity(problem: Problem, settings: LLCSettings) -> Capacity:
    """Return how much of a problem fits into its memory budget at once."""
    budget = problem.memory_budget
    batch_size = min(settings.batch_size, problem.num_samples)
    sampler = SAMPLERS[settings.sampler]
    one_number = torch.zeros(1, 1)
    state = sampler.init(one_number, **settings.options)
    # rows of P numbers: the state before and after a step, anchor, noise, gradient by name and as a row, scratch of the
    # update, the values of the step before that the acceptance keeps, and, while a recording is checked, a second
    # gradient and its difference
    num_rows = 2 * len(state) + 12
    bytes_per_number = problem.stack_dtype.itemsize
    fixed = num_rows * problem.layout.size * bytes_per_number
    if len(problem.stack) > 1:  # values that do not move are one network's own, and repeated for each of its chains
        for values in problem.fixed.values():
            fixed += values[0].nbytes

    per_sample = problem.bytes_per_sample
    micro = settings.micro_batch_size
    needed = fixed + batch_size * per_sample
    if micro is None and needed > budget:
        free = budget - fixed
        fitting = free // max(1, per_sample)
        micro = max(1, int(fitting))
    at_once = min(micro or batch_size, batch_size)
    bytes_per_row = fixed + at_once * per_sample
    rows = copies_that_fit(int(bytes_per_row), budget)
    return Capacity(rows, micro)
