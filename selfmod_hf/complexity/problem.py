"""The problem that is sampled: networks, their data and loss, and the loss at their trained weights w*."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from ..stacking import (
    ONE_BATCH,
    OWN_BATCHES,
    Batch,
    LossFunction,
    Mapped,
    ModuleStack,
    ParameterLayout,
    Values,
    copies_that_fit,
    map_copies,
    part_of,
    saved_bytes_per_copy,
)
from .samplers import SAMPLERS
from .settings import LLCSettings

MOST_AT_ANCHOR = 1024  # samples of which all networks know their loss at once
_PROBED = 16  # samples by which the memory of one is measured


@dataclass(frozen=True)
class Problem:
    """Networks, data, loss, and which parameters move.

    Attributes:
        stack: M networks.
        layout: the parameters that move. All others stay as they are.
        inputs: (n, ...) tensor, or a dict of them.
        targets: (n, ...).
        loss_fn: one loss per sample.
        memory_budget: bytes for state and activations.
        compute_dtype: lower precision of forward and backward, to which weights and buffers are rounded at every step.
            Floating-point inputs come in it. None: the stack's own.
        vectorize: False for modules that `vmap` cannot map.
    """

    stack: ModuleStack
    layout: ParameterLayout
    inputs: Batch
    targets: Tensor
    loss_fn: LossFunction
    memory_budget: int
    compute_dtype: torch.dtype | None = None
    vectorize: bool = True

    @property
    def num_samples(self) -> int:
        """Return n."""
        return len(self.targets)

    @property
    def device(self) -> torch.device:
        """Return where the networks and the data are."""
        return next(iter(self.stack.parameters.values())).device

    @property
    def stack_dtype(self) -> torch.dtype:
        """Return the type of the weights that move."""
        return self.stack.parameters[self.layout.names[0]].dtype

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
        """Return parameters that do not move, and buffers, name -> (M, *shape)."""
        return {name: value for name, value in self.stack.state.items() if name not in self.layout.names}

    def fixed_of(self, member: int) -> dict[str, Tensor]:
        """Return those of one network, name -> shape."""
        return {name: value[member] for name, value in self.fixed.items()}

    def losses_of(self, *, shared: bool) -> Mapped:
        """Return the function that computes the losses (K, B) of copies, with one batch for all or one each."""
        return map_copies(
            self.stack.skeleton,
            self.loss_fn,
            dims=ONE_BATCH if shared else OWN_BATCHES,
            vectorize=self.vectorize,
            compute_dtype=self.compute_dtype,
        )

    def losses_of_member(self, member: int, index: Tensor | slice) -> Tensor:
        """Return the losses (B,) at w* of one network on some samples, taken as one batch."""
        one: Values = {name: value[member : member + 1] for name, value in self.stack.state.items()}
        inputs, targets = part_of(self.inputs, index), part_of(self.targets, index)
        with torch.no_grad():
            return self.losses_of(shared=True)(one, {}, inputs, targets)[0]

    # ---- the loss at w* ----

    @functools.cached_property
    def anchor_losses(self) -> Tensor:
        """Return each network's loss on each sample at w*, (n, M)."""
        fit = copies_that_fit(int(self.bytes_per_sample * len(self.stack)), self.memory_budget)
        chunk = min(fit, MOST_AT_ANCHOR)
        losses_of = self.losses_of(shared=True)
        pieces = []
        for start in range(0, self.num_samples, chunk):
            part = slice(start, start + chunk)
            with torch.no_grad():
                pieces.append(losses_of(self.stack.state, {}, part_of(self.inputs, part), self.targets[part]))
        return torch.cat(pieces, dim=1).T.contiguous()

    @functools.cached_property
    def anchor_means(self) -> list[float]:
        """Return L(w*) of each network over all data."""
        return self.anchor_losses.mean(0, dtype=torch.float64).tolist()

    # ---- memory ----

    @functools.cached_property
    def bytes_per_sample(self) -> float:
        """Return the bytes of activations, their gradients and the gathered inputs, for one sample of one row."""
        probe = slice(0, min(self.num_samples, _PROBED))
        inputs, targets = part_of(self.inputs, probe), self.targets[probe]
        one = self.first_with_gradients()
        losses_of = self.losses_of(shared=True)

        def compute() -> Tensor:
            with torch.enable_grad():
                return losses_of(one, {}, inputs, targets)

        saved = saved_bytes_per_copy(compute)
        tensors = [*inputs.values()] if isinstance(inputs, dict) else [inputs]
        gathered = sum(value.nbytes for value in tensors)
        return (2 * saved + gathered) / len(targets)

    def first_with_gradients(self) -> dict[str, Tensor]:
        """Return the values of the first network as a stack of one, of which those that move take gradients."""
        one = {name: value[:1].detach() for name, value in self.stack.state.items()}
        for name in self.layout.names:
            one[name].requires_grad_()
        return one


def capacity(problem: Problem, settings: LLCSettings) -> tuple[int, int | None]:
    """Return how many rows (group x chain) fit into the budget at once, and the micro-batch size.

    A micro-batch size of None means that gradients are not accumulated.
    """
    budget = problem.memory_budget
    batch_size = min(settings.batch_size, problem.num_samples)
    micro = settings.micro_batch_size
    state = len(SAMPLERS[settings.sampler].init(torch.zeros(1, 1), **settings.options))
    element = problem.stack_dtype.itemsize
    # state before and after a step; anchor, noise, gradient by name and as a row, scratch of the update; values that
    # the acceptance keeps of the step before; and, while a recording is checked, a second gradient and its difference
    fixed = problem.layout.size * element * (2 * state + 12)
    if len(problem.stack) > 1:  # values that do not move are one network's own, and repeated for each of its chains
        fixed += sum(value[0].nbytes for value in problem.fixed.values())
    per_sample = problem.bytes_per_sample
    if micro is None and fixed + batch_size * per_sample > budget:
        micro = max(1, int((budget - fixed) // max(1, per_sample)))
    activations = per_sample * min(micro or batch_size, batch_size)
    return copies_that_fit(int(fixed + activations), budget), micro
