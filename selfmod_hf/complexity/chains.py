"""Runs chains around trained networks: groups x chains as one stacked computation.

A *group* is one network with one setting of the dynamics: a member of a population, a cell of a calibration grid.
Every group runs the same chains; chain c of every group sees the same minibatches. Rows are ordered (group, chain).
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._pytree import tree_map_only

from ..stacking import (
    Batch,
    LossFunction,
    ModuleStack,
    ParameterLayout,
    Replay,
    chunk_ranges,
    copies_that_fit,
    even_size,
    losses_and_gradients,
    per_sample_losses,
    saved_bytes_per_copy,
)
from .random_streams import MinibatchStream, NoiseStream
from .samplers import SAMPLERS, Dynamics

_SMALL = 8192  # parameters; below this, threads only wait for each other
MOST_AT_ANCHOR = 1024  # samples of which all networks know their loss at once
_LANGEVIN_CHECKS = 25  # steps per chain at which the Metropolis acceptance is computed


@dataclass(frozen=True)
class Group:
    """One network and one setting: `member` is its place in the stack, `stream` the name of its noise."""

    member: int
    stream: int
    step_size: float
    localization: float
    nbeta: float


@dataclass(frozen=True)
class Problem:
    """What is sampled: networks, data, loss, and which parameters move.

    Attributes:
        stack: M networks.
        layout: the parameters that move; all others stay as they are.
        inputs: (n, ...) tensor, or a dict of them; targets: (n, ...).
        compute_dtype: lower precision of forward and backward, to which weights and buffers are rounded at every
            step; floating inputs come in it. None: the stack's own.
        vectorize: False for modules that `vmap` cannot map.
    """

    stack: ModuleStack
    layout: ParameterLayout
    inputs: Batch
    targets: Tensor
    loss_fn: LossFunction
    compute_dtype: torch.dtype | None = None
    vectorize: bool = True

    @property
    def num_samples(self) -> int:
        return len(self.targets)

    @property
    def device(self) -> torch.device:
        return next(iter(self.stack.parameters.values())).device

    @property
    def stack_dtype(self) -> torch.dtype:
        return self.stack.parameters[self.layout.names[0]].dtype

    @functools.cached_property
    def bytes_per_sample(self) -> float:
        """Bytes of activations, their gradients and the gathered inputs, for one sample of one row."""
        probe = min(self.num_samples, 16)
        inputs, targets = take(self.inputs, slice(0, probe)), self.targets[:probe]
        state = self.stack.parameters | self.stack.buffers
        one = {name: value[:1].detach() for name, value in state.items()}
        for name in self.layout.names:
            one[name].requires_grad_()

        def compute() -> Tensor:
            with torch.enable_grad():
                return self.losses(one, {}, inputs, targets, shared=True)

        saved = saved_bytes_per_copy(compute)
        tensors = [*inputs.values()] if isinstance(inputs, dict) else [inputs]
        gathered = sum(value.nbytes for value in tensors)
        return (2 * saved + gathered) / probe

    def losses(
        self, copies: dict[str, Tensor], common: dict[str, Tensor], inputs: Batch, targets: Tensor, *, shared: bool
    ) -> Tensor:
        """(K, B); see `stacking.per_sample_losses`."""
        return per_sample_losses(
            self.stack.skeleton, self._loss_in_full, self._rounded(copies), self._rounded(common), inputs, targets,
            shared_batch=shared, vectorize=self.vectorize,
        )  # fmt: skip

    def losses_and_gradients(
        self, copies: dict[str, Tensor], common: dict[str, Tensor], inputs: Batch, targets: Tensor, *, shared: bool,
        micro_batch_size: int | None = None,
    ) -> tuple[Tensor, list[Tensor]]:  # fmt: skip
        """(K,) mean losses, gradients in the layout's order; see `stacking.losses_and_gradients`."""
        return losses_and_gradients(
            self.stack.skeleton, self._loss_in_full, self._rounded(copies), self._rounded(common), inputs, targets,
            wrt=self.layout.names, shared_batch=shared, vectorize=self.vectorize, micro_batch_size=micro_batch_size,
        )  # fmt: skip

    def _rounded(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        # by hand and not by autocast, which inside of vmap leaves nn.Linear in float32 (torch 2.15)
        if self.compute_dtype is None:
            return values
        return {name: v.to(self.compute_dtype) if v.is_floating_point() else v for name, v in values.items()}

    def _loss_in_full(self, outputs: Any, targets: Tensor) -> Tensor:
        """The loss of outputs that are back in float32."""
        if self.compute_dtype is not None:
            outputs = tree_map_only(Tensor, lambda t: t.float() if t.dtype == self.compute_dtype else t, outputs)
        return self.loss_fn(outputs, targets)


def take(values: Any, index: Tensor | slice) -> Any:
    """The samples at `index`, whatever its shape, of a tensor or of a dict of tensors."""
    if isinstance(values, dict):
        return {name: take(value, index) for name, value in values.items()}
    if isinstance(index, slice):
        return values[index]
    return values.index_select(0, index.flatten()).unflatten(0, index.shape)


@dataclass(frozen=True)
class Plan:
    """How it is sampled; see `estimate_llc` for the meaning of each."""

    sampler: str
    sampler_options: dict[str, float]
    num_draws: int
    batch_size: int
    seed: int
    memory_budget: int
    micro_batch_size: int | None = None
    progress: Callable[[int], None] | None = None


@dataclass
class Traces:
    """What the chains leave behind.

    Attributes:
        losses: (G, C, T), mean loss of draw t on its minibatch.
        baseline: (G, C, T), mean loss of w* on the same minibatch.
        distances: (G, C), |w - w*| at the last draw.
        acceptance: (G, C), mean Metropolis acceptance probability, NaN where the sampler has none.
        recorded: whether every step from the third on was the replay of a recorded step, which is faster.
    """

    losses: NDArray[np.float64]
    baseline: NDArray[np.float64]
    distances: NDArray[np.float64]
    acceptance: NDArray[np.float64]
    recorded: bool = True

    @classmethod
    def empty(cls, groups: int, chains: int, draws: int) -> Traces:
        shape = (groups, chains)
        return cls(
            np.full((*shape, draws), np.nan),
            np.full((*shape, draws), np.nan),
            np.full(shape, np.nan),
            np.full(shape, np.nan),
        )

    def write(self, other: Traces, groups: range, chains: Sequence[int]) -> None:
        rows = np.ix_(list(groups), list(chains))
        for name in ("losses", "baseline", "distances", "acceptance"):
            getattr(self, name)[rows] = getattr(other, name)
        self.recorded = self.recorded and other.recorded


# ------------------------------------------------------------------------------------------- baseline


def losses_at_anchor(problem: Problem, memory_budget: int) -> Tensor:
    """(n, M): every network's loss on every sample, at w*; of as many samples at once as fit into these bytes."""
    state = problem.stack.parameters | problem.stack.buffers
    fit = copies_that_fit(int(problem.bytes_per_sample * len(problem.stack)), memory_budget)
    chunk = min(fit, MOST_AT_ANCHOR)
    pieces = []
    for start in range(0, problem.num_samples, chunk):
        inputs, targets = (take(values, slice(start, start + chunk)) for values in (problem.inputs, problem.targets))
        with torch.no_grad():
            pieces.append(problem.losses(state, {}, inputs, targets, shared=True))
    return torch.cat(pieces, dim=1).T.contiguous()


def maps(problem: Problem) -> bool:
    """Whether `vmap` can map the networks over copies with a batch each; says why where it cannot."""
    size = min(2, problem.num_samples)  # BatchNorm without running statistics takes no batch of one
    index = torch.zeros(2, size, dtype=torch.int64, device=problem.device)
    state = problem.stack.parameters | problem.stack.buffers
    copies = {name: value[:1].expand(2, *value.shape[1:]) for name, value in state.items()}
    try:
        with torch.no_grad():
            problem.losses(copies, {}, take(problem.inputs, index), problem.targets[index], shared=False)
    except Exception as error:  # vmap's own are RuntimeErrors and ValueErrors, and a module may catch and wrap them
        warnings.warn(
            f"torch.vmap cannot map {type(problem.stack.skeleton).__name__}, so chains run in a loop: {error}",
            stacklevel=3,
        )
        return False
    return True


# -------------------------------------------------------------------------------------------- running


def run_chains(
    problem: Problem,
    groups: Sequence[Group],
    chains: Sequence[int],
    plan: Plan,
    anchor_losses: Tensor,
    fisher: Tensor | None = None,
) -> Traces:
    """All groups x chains, in as few blocks as the memory budget allows. `chains` are the chains' own numbers.

    `fisher` (M, P) is for the samplers that need it; see `fisher_diagonal`.

    On a CPU the blocks run on as many threads as torch may use: a step is mostly operations too small to be spread
    over cores one by one. Tiny models, whose steps are mostly Python, run on one.
    """
    if not chains:  # of fewer chains than processes, the last processes run none
        return Traces.empty(len(groups), 0, plan.num_draws)
    threads = torch.get_num_threads()
    spread = problem.device.type == "cpu" and problem.vectorize and problem.layout.size >= _SMALL
    workers = min(threads, len(chains)) if spread else 1
    fit, micro = capacity(problem, plan)
    if fit < 2 * len(groups) * len(chains):  # memory is short: threads keep more of it than they use
        workers = 1
    traces = Traces.empty(len(groups), len(chains), plan.num_draws)

    def run(piece: tuple[range, range]) -> None:
        some_groups, some = piece
        block = _Block(
            problem, [groups[g] for g in some_groups], [chains[c] for c in some], plan, micro, anchor_losses, fisher,
            replays,
        )  # fmt: skip
        traces.write(block.run(), some_groups, some)

    replays: dict[tuple[bool, int], Replay] = {}  # blocks of one shape replay the same recording

    at_once = min(fit, len(groups) * -(-len(chains) // workers))
    pieces = [
        (some_groups, some)
        for some_groups in chunk_ranges(len(groups), even_size(len(groups), at_once))
        for some in chunk_ranges(len(chains), even_size(len(chains), at_once // len(some_groups)))
    ]
    if workers == 1:
        for piece in pieces:
            run(piece)
    else:
        try:
            with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(threads // workers,)) as pool:
                list(pool.map(run, pieces))
        finally:
            torch.set_num_threads(threads)  # what threads to come start with
    traces.recorded = all(replay.recorded for replay in replays.values())
    return traces


def capacity(problem: Problem, plan: Plan) -> tuple[int, int | None]:
    """Return how many rows (group x chain) fit into the budget at once, and the micro-batch size.

    A micro-batch size of None means that gradients are not accumulated.
    """
    budget = plan.memory_budget
    batch_size = min(plan.batch_size, problem.num_samples)
    micro = plan.micro_batch_size
    state = len(SAMPLERS[plan.sampler].init(torch.zeros(1, 1), **plan.sampler_options))
    element = problem.stack_dtype.itemsize
    # state before and after a step; anchor, noise, gradient by name and as a row, scratch of the update; what the
    # acceptance keeps of the step before; and, while a recording is checked, a second gradient and its difference
    fixed = problem.layout.size * element * (2 * state + 12)
    if len(problem.stack) > 1:  # what does not move is one network's own, and repeated for each of its chains
        values = problem.stack.parameters | problem.stack.buffers
        fixed += sum(value[0].nbytes for name, value in values.items() if name not in problem.layout.names)
    per_sample = problem.bytes_per_sample
    if micro is None and fixed + batch_size * per_sample > budget:
        micro = max(1, int((budget - fixed) // max(1, per_sample)))
    activations = per_sample * min(micro or batch_size, batch_size)
    return copies_that_fit(int(fixed + activations), budget), micro


class _Block:
    """Groups x chains that run together. Holds the state of one run and nothing longer."""

    def __init__(
        self,
        problem: Problem,
        groups: list[Group],
        chains: list[int],
        plan: Plan,
        micro_batch_size: int | None,
        anchor_losses: Tensor,
        fisher: Tensor | None,
        replays: dict[tuple[bool, int], Replay],
    ) -> None:
        self.problem, self.groups, self.chains, self.plan = problem, groups, chains, plan
        self.micro_batch_size = micro_batch_size
        self.anchor_losses = anchor_losses  # (n, M)
        self.sampler = SAMPLERS[plan.sampler]
        C, device = len(chains), problem.device
        self.one_group_each = [group.member for group in groups] == list(range(len(problem.stack)))
        self.member_ids = torch.tensor([group.member for group in groups], device=device)  # (G,)
        anchors = problem.layout.flatten(problem.stack.parameters)  # (M, P)
        self.anchor = anchors[self.member_ids]  # (G, P)
        self.fisher = None if fisher is None else fisher[self.member_ids].repeat_interleave(C, 0)  # (R, P)
        position = self.anchor.repeat_interleave(C, dim=0)  # (R, P)
        self.state = self.sampler.init(position, **plan.sampler_options)
        self.gradient = torch.empty_like(position)  # (R, P)
        self.batch_size = min(plan.batch_size, problem.num_samples)
        self.full_batch = self.batch_size == problem.num_samples
        self.minibatches = [MinibatchStream(plan.seed, c, problem.num_samples, self.batch_size) for c in chains]
        self.epoch, self.passed = torch.empty(len(chains), 0, self.batch_size, dtype=torch.int64), 0  # (C, steps, B)
        self.replays, self.replayed = replays, dict[tuple[bool, int], Callable[..., tuple[Tensor, Tensor]]]()
        streams = list(dict.fromkeys(group.stream for group in groups))
        self.noise = {(s, c): NoiseStream(plan.seed, s, chains[c], device) for s in streams for c in range(C)}
        self.own, self.common = self._fixed_state()

    def _fixed_state(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Parameters that do not move, and buffers: per group (G, *shape), or common where there is one network."""
        stack = self.problem.stack
        fixed = {name: v for name, v in stack.parameters.items() if name not in self.problem.layout.names}
        fixed |= stack.buffers
        if len(stack) == 1:
            return {}, {name: value[0] for name, value in fixed.items()}
        return {name: value[self.member_ids] for name, value in fixed.items()}, {}

    # -- one run

    def run(self) -> Traces:
        G, C, T = len(self.groups), len(self.chains), self.plan.num_draws
        losses = torch.empty(T, G * C, device=self.problem.device, dtype=torch.float64)
        baseline = torch.empty(T, G, C, device=self.problem.device, dtype=torch.float64)
        accepted: list[Tensor] = []
        every = max(1, T // _LANGEVIN_CHECKS)
        for t in range(T):
            batch = self._next_batch()
            losses[t] = self._losses_and_gradients(batch, self.gradient)
            baseline[t] = self._baseline(batch)
            check = self.sampler.langevin and t % every == every // 2
            before = (self.state.position.clone(), self.gradient.clone(), losses[t].clone()) if check else None
            self._advance()
            if before is not None:
                accepted.append(self._acceptance(batch, *before))
            if self.plan.progress is not None:
                self.plan.progress(G * C)
        distance = (self.state.position.view(G, C, -1) - self.anchor[:, None]).norm(dim=2)
        acceptance = torch.stack(accepted).mean(0) if accepted else torch.full((G * C,), math.nan)
        return Traces(
            losses.T.reshape(G, C, T).cpu().numpy(),
            baseline.permute(1, 2, 0).cpu().numpy(),
            distance.double().cpu().numpy(),
            acceptance.view(G, C).double().cpu().numpy(),
        )

    def _next_batch(self) -> Tensor | None:
        """Indices (C, B), or None where every batch is the whole data set."""
        if self.full_batch:
            return None
        if self.passed == self.epoch.shape[1]:
            self.epoch, self.passed = torch.stack([stream.epoch() for stream in self.minibatches]), 0
        self.passed += 1
        return self.epoch[:, self.passed - 1].to(self.problem.device, non_blocking=True)

    def _baseline(self, batch: Tensor | None) -> Tensor:
        """(G, C): mean loss at w* on the minibatches."""
        if batch is None:
            means = self.anchor_losses.mean(0, dtype=torch.float64).expand(len(self.chains), -1)  # (C, M)
        else:
            means = take(self.anchor_losses, batch).mean(1, dtype=torch.float64)  # (C, M)
        return means.T if self.one_group_each else means.T[self.member_ids]

    def _losses_and_gradients(self, batch: Tensor | None, gradient: Tensor) -> Tensor:
        """(R,) losses; writes the gradients (R, P).

        Three ways to map, the same numbers: the whole data for all rows; one network with a batch per chain; or,
        with several groups, chain by chain, the batch gathered once and shared by all groups.
        """
        G, C = len(self.groups), len(self.chains)
        if batch is None:
            return self._evaluate(slice(0, G * C), None, gradient, shared=True)
        if G == 1:
            return self._evaluate(slice(0, C), batch, gradient, shared=False)
        losses = torch.empty(G, C, device=gradient.device, dtype=torch.float64)
        for c in range(C):
            losses[:, c] = self._evaluate(slice(c, None, C), batch[c], gradient, shared=True)
        return losses.flatten()

    def _evaluate(self, rows: slice, samples: Tensor | None, gradient: Tensor, *, shared: bool) -> Tensor:
        problem, position = self.problem, self.state.position[rows]
        key = (shared, len(position))
        if key not in self.replayed:
            tolerance = (1e-4, 1e-6) if problem.compute_dtype is None else (5e-2, 1e-3)
            compute = functools.partial(_losses_and_gradients, problem, shared, self.micro_batch_size)
            self.replayed[key] = self.replays.setdefault(key, Replay(compute, tolerance)).caller()
        losses, gradient[rows] = self.replayed[key](
            position, [] if samples is None else [samples], problem.inputs, problem.targets, self.own, self.common
        )
        return losses.double()

    # -- the update

    def _advance(self) -> None:
        """Draw the noise of every stream, and move all rows."""
        drawn = self._drawn
        for row, stream in zip(drawn, self.noise.values(), strict=True):
            stream.fill(row)
        noise = drawn if self._noise_rows is None else drawn[self._noise_rows]  # (R, P)
        with torch.no_grad():
            self.state = self.sampler.update(
                self.state, self.gradient, noise, self.dynamics, **self.plan.sampler_options
            )

    @functools.cached_property
    def _drawn(self) -> Tensor:
        """(streams, P)"""
        return self.gradient.new_empty(len(self.noise), self.gradient.shape[1])

    @functools.cached_property
    def _noise_rows(self) -> Tensor | None:
        """Which stream each row uses, (R,); None where row r uses stream r."""
        place = {key: i for i, key in enumerate(self.noise)}
        rows = [place[group.stream, c] for group in self.groups for c in range(len(self.chains))]
        return None if rows == list(range(len(place))) else torch.tensor(rows, device=self.gradient.device)

    @functools.cached_property
    def dynamics(self) -> Dynamics:
        """Of all rows: a number where all groups share it (faster), else (R, 1)."""
        C = len(self.chains)

        def constant(name: str) -> float | Tensor:
            values = [getattr(group, name) for group in self.groups]
            if len(set(values)) == 1:
                return values[0]
            column = torch.tensor(values, dtype=torch.float64).repeat_interleave(C)[:, None]
            return column.to(self.gradient)

        anchor = self.anchor.repeat_interleave(C, 0)
        return Dynamics(anchor, constant("step_size"), constant("localization"), constant("nbeta"), self.fisher)

    # -- Metropolis

    def _acceptance(self, batch: Tensor | None, old: Tensor, old_gradient: Tensor, old_loss: Tensor) -> Tensor:
        """(R,): min(1, p(w') q(w|w') / (p(w) q(w'|w))) of the step from `old`, on the same minibatch.

        With s = w' - w and U' the gradient of U, the proposals' part is |s + ε/2 U'(w)|² - |-s + ε/2 U'(w')|²
        over 2 ε: a difference of squares, taken as a product, in which nothing large cancels.
        """
        dynamics, new, new_gradient = self.dynamics, self.state.position, torch.empty_like(self.gradient)
        new_loss = self._losses_and_gradients(batch, new_gradient)
        with torch.no_grad():
            step = new - old
            # (|f|² - |b|²) / (2 ε) = (f + b).(f - b) / (2 ε), f + b = ε/2 (U'(w) + U'(w')), f - b = 2 s - ε/2 change
            total = dynamics.potential_gradient(old, old_gradient)
            change = dynamics.potential_gradient(new, new_gradient).sub_(total)
            total.mul_(2).add_(change)
            proposals = (_dot(step, total) - dynamics.step_size / 4 * _dot(change, total)) / 2
            pull = dynamics.localization / 2 * _dot(step, old.add_(new).sub_(dynamics.anchor, alpha=2))
            rise = dynamics.nbeta * (new_loss - old_loss)[:, None] + pull
        return (proposals - rise).clamp(max=0).exp()[:, 0]


def _losses_and_gradients(
    problem: Problem, shared: bool, micro_batch_size: int | None, position: Tensor, samples: list[Tensor],
    inputs: Batch, targets: Tensor, own: dict[str, Tensor], common: dict[str, Tensor],
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """(K,) losses and (K, P) gradients at `position` (K, P), by tensors given as arguments, so as to be replayed.

    `samples` holds the indices of the minibatch; none: all of the data.
    """
    copies = problem.layout.views(position)
    copies |= {name: value.repeat_interleave(len(position) // len(value), 0) for name, value in own.items()}
    for index in samples:
        inputs, targets = take(inputs, index), take(targets, index)
    losses, parts = problem.losses_and_gradients(
        copies, common, inputs, targets, shared=shared, micro_batch_size=micro_batch_size
    )
    return losses, torch.cat([part.reshape(len(position), -1) for part in parts], dim=1)


def _dot(first: Tensor, second: Tensor) -> Tensor:
    """(R, 1): the rows' products."""
    return torch.bmm(first[:, None], second[:, :, None])[:, 0]
