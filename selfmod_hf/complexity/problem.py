"""The problem that is sampled: networks, their data and loss, and the loss at their trained weights w*."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from ..stacking import (
    Batch,
    Mapped,
    ModuleStack,
    ParameterLayout,
    chunk_ranges,
    copies_that_fit,
    losses_and_gradients,
    part_of,
    saved_bytes_per_copy,
)
from .samplers import SAMPLERS
from .settings import LLCSettings

MOST_AT_ANCHOR = 1024  # samples in one computation of the losses at w*
_PROBED = 16  # samples in the measurement of one sample's memory


@dataclass(frozen=True)
class FullPrecision:
    """Hold what a problem at lower precision needs to compute losses at the precision of its weights.

    Attributes:
        inputs: as in `Problem`, not rounded.
        losses_of_one_batch: as in `Problem`.
        losses_of_own_batches: as in `Problem`.
    """

    inputs: Batch
    losses_of_one_batch: Mapped
    losses_of_own_batches: Mapped


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
        full: for `exact`. None: the problem is at full precision.
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
    full: FullPrecision | None = None

    @functools.cached_property
    def exact(self) -> Problem:
        """Return the problem at the precision of the weights, without probes."""
        if self.full is None:
            return self
        return replace(
            self,
            inputs=self.full.inputs,
            losses_of_one_batch=self.full.losses_of_one_batch,
            losses_of_own_batches=self.full.losses_of_own_batches,
            compute_dtype=None,
            probes=None,
            full=None,
        )

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

    # ---- the curvatures at w* ----

    @functools.cached_property
    def spectra(self) -> dict[tuple[int, float], Any]:
        """Return what `spectrum.py` has found, (member, nβ) -> `Spectrum`. Later rounds take it from here."""
        return {}

    # ---- the gradient at w* ----

    @functools.cached_property
    def anchor_gradients(self) -> Tensor:
        """Return each network's gradient of the mean loss over all data at w*, (M, P)."""
        anchors = self.anchors
        bytes_per_network = int(self.bytes_per_sample) * MOST_AT_ANCHOR + 6 * anchors[0].nbytes
        at_once = copies_that_fit(bytes_per_network, self.memory_budget)
        found = []
        for members in chunk_ranges(len(anchors), at_once):
            gradients = self._mean_gradients(slice(members.start, members.stop))
            found.append(gradients)
        return torch.cat(found)

    def _mean_gradients(self, members: slice) -> Tensor:
        """Return the gradients of the mean losses of some networks, (members, P). The sums are in float64."""
        anchors = self.anchors[members]
        own = {name: values[members] for name, values in self.fixed.items()}
        needed = self.bytes_per_sample * len(anchors)
        fit = copies_that_fit(int(needed), self.memory_budget)
        chunk = min(fit, MOST_AT_ANCHOR)
        total = torch.zeros_like(anchors, dtype=torch.float64)
        for start in range(0, self.num_samples, chunk):
            part = slice(start, start + chunk)
            targets = self.targets[part]
            _, gradients = losses_and_gradients(
                self.losses_of_one_batch,
                self.layout,
                anchors,
                samples=[],
                inputs=part_of(self.inputs, part),
                targets=targets,
                own=own,
                common={},
                shared_batch=True,
            )
            total.add_(gradients, alpha=len(targets))
        return (total / self.num_samples).to(anchors)

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
        keeps_block_gradients: whether the gradients at w* of all blocks of a partition are kept. If not, they are
            computed again at every step.
    """

    rows: int
    micro_batch_size: int | None
    keeps_block_gradients: bool = False


_SHARE_OF_BLOCKS = 4  # the gradients of one network's blocks are kept within this part of the budget


def capacity(problem: Problem, settings: LLCSettings) -> Capacity:
    """Return how much of a problem fits into its memory budget at once."""
    budget = problem.memory_budget
    batch_size = min(settings.batch_size, problem.num_samples)
    fixed = _fixed_bytes(problem, settings)
    per_sample = problem.bytes_per_sample
    micro = settings.micro_batch_size
    needed = fixed + batch_size * per_sample
    if micro is None and needed > budget:
        free = budget - fixed
        fitting = free // max(1, per_sample)
        micro = max(1, int(fitting))
    at_once = min(micro or batch_size, batch_size)
    bytes_per_row = int(fixed + at_once * per_sample)
    if not settings.corrects(problem.num_samples):
        return Capacity(copies_that_fit(bytes_per_row, budget), micro)

    blocks = problem.num_samples // batch_size
    of_blocks = blocks * problem.layout.size * problem.stack_dtype.itemsize
    if blocks == 1 or of_blocks > budget // _SHARE_OF_BLOCKS:  # one block: every step has new ones
        return Capacity(copies_that_fit(bytes_per_row, budget), micro)
    together = settings.num_chains  # chains of a network in one piece, which share its blocks
    if problem.device.type == "cpu":
        together = -(-together // torch.get_num_threads())
    share = of_blocks // together
    rows = copies_that_fit(bytes_per_row + share, budget)
    if rows < together:
        rows = copies_that_fit(bytes_per_row, budget - of_blocks)
    return Capacity(rows, micro, keeps_block_gradients=True)


def _fixed_bytes(problem: Problem, settings: LLCSettings) -> int:
    """Return the bytes of a row that do not depend on the size of its batch."""
    sampler = SAMPLERS[settings.sampler]
    one_number = torch.zeros(1, 1)
    state = sampler.init(one_number, **settings.options)
    # rows of P numbers: the state before and after a step, anchor, noise, gradient by name and as a row, scratch of the
    # update, the values of the step before that the acceptance keeps, and, while a recording is checked, a second
    # gradient and its difference
    num_rows = 2 * len(state) + 12
    if settings.corrects(problem.num_samples):
        num_rows += 6  # gradients at w* on all data and on the batch, the distance, and three of a second batch
    fixed = num_rows * problem.layout.size * problem.stack_dtype.itemsize
    if len(problem.stack) > 1:  # values that do not move are one network's own, and repeated for each of its chains
        for values in problem.fixed.values():
            fixed += values[0].nbytes
    return fixed
