"""Run chains around trained networks: groups x chains as one stacked computation.

A *group* is one network with one setting of the dynamics: a member of a population, a cell of a calibration grid.
Every group runs the same chains, and chain c of every group sees the same minibatches. Rows are ordered (group, chain).
Groups x chains are cut into *pieces* that fit into memory and are spread over threads.
"""

from __future__ import annotations

import contextlib
import functools
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..stacking import Replay, chunk_ranges, even_size, losses_and_gradients, part_of
from .problem import Problem, capacity
from .random_streams import Minibatches, Noise
from .samplers import SAMPLERS, Dynamics
from .settings import LLCSettings
from .traces import Traces

_SMALL = 8192  # parameters; below this, threads only wait for each other
_LANGEVIN_CHECKS = 25  # steps per chain at which the Metropolis acceptance is computed
# relative and absolute tolerance of a recording
_TOLERANCE = (1e-4, 1e-6)
_IN_LOW_PRECISION = (5e-2, 1e-3)


@dataclass(frozen=True)
class Group:
    """One network and one setting: `member` is its place in the stack, `stream` the name of its noise."""

    member: int
    stream: int
    step_size: float
    localization: float
    nbeta: float


@dataclass(frozen=True)
class Run:
    """All that the pieces of a run have in common.

    Attributes:
        problem: what is sampled.
        settings: how.
        groups: all of them.
        chains: the chains' own numbers.
        count: is told how many steps of chains are done.
        fisher: (M, P), for the samplers that need it; see `fisher_diagonal`.
    """

    problem: Problem
    settings: LLCSettings
    groups: Sequence[Group]
    chains: Sequence[int]
    count: Callable[[int], None]
    fisher: Tensor | None = None

    @property
    def batch_size(self) -> int:
        """Return the samples that are drawn for a step."""
        return min(self.settings.batch_size, self.problem.num_samples)

    @property
    def full_batch(self) -> bool:
        """Return whether every batch is the complete data set."""
        return self.batch_size == self.problem.num_samples

    def num_workers(self, fit: int) -> int:
        """Return how many threads run pieces, if `fit` rows fit into memory at once.

        On a CPU the pieces run on as many threads as torch may use: a step is mostly operations too small to be spread
        over cores one by one. Tiny models, whose steps are mostly Python, run on one.
        """
        problem = self.problem
        if problem.device.type != "cpu" or not problem.vectorize or problem.layout.size < _SMALL:
            return 1
        if fit < 2 * len(self.groups) * len(self.chains):  # memory is short: threads keep more of it than they use
            return 1
        return min(torch.get_num_threads(), len(self.chains))


def counter(report: Callable[[int, int], None] | None, total: int) -> Callable[[int], None]:
    """Return a function that adds up steps, of all threads, and reports them out of `total`."""
    if report is None:
        return lambda steps: None
    done, lock = 0, threading.Lock()

    def count(steps: int) -> None:
        nonlocal done
        with lock:
            done += steps
            report(done, total)

    return count


@dataclass(frozen=True)
class Piece:
    """Groups and chains that run together, as places in those of the run, and the step that they replay."""

    groups: range
    chains: range
    replay: Replay


def cut(run: Run) -> tuple[list[Piece], int]:
    """Return all groups x chains in as few pieces as the memory budget allows, and how many threads run them."""
    groups, chains = len(run.groups), len(run.chains)
    if not chains:  # of fewer chains than processes, the last processes run none
        return [], 1
    fit, micro_batch_size = capacity(run.problem, run.settings)
    workers = run.num_workers(fit)
    at_once = min(fit, groups * -(-chains // workers))
    replays: dict[tuple[bool, int], Replay] = {}  # pieces of one shape replay the same recording
    pieces = []
    for some_groups in chunk_ranges(groups, even_size(groups, at_once)):
        for some in chunk_ranges(chains, even_size(chains, at_once // len(some_groups))):
            shared, rows = _shape_of_a_step(run, len(some_groups), len(some))
            if (shared, rows) not in replays:
                replays[shared, rows] = _replay(run.problem, shared, micro_batch_size)
            pieces.append(Piece(some_groups, some, replays[shared, rows]))
    return pieces, workers


def _shape_of_a_step(run: Run, groups: int, chains: int) -> tuple[bool, int]:
    """Return whether the rows of a computation share their batch, and how many there are.

    There are three ways to map, with the same numbers: the complete data for all rows, one network with a batch per
    chain, or, with several groups, chain by chain, the batch gathered once and shared by all groups.
    """
    if run.full_batch:
        return True, groups * chains
    return (False, chains) if groups == 1 else (True, groups)


def _replay(problem: Problem, shared: bool, micro_batch_size: int | None) -> Replay:
    """Return the replay of the step that gives losses and gradients."""
    step = functools.partial(
        losses_and_gradients,
        problem.losses_of(shared=shared),
        problem.layout,
        shared_batch=shared,
        micro_batch_size=micro_batch_size,
    )
    return Replay(step, _TOLERANCE if problem.compute_dtype is None else _IN_LOW_PRECISION)


@contextlib.contextmanager
def map_on_threads(workers: int) -> Iterator[Callable[..., Iterator[Any]]]:
    """Give a `map` that runs on so many threads, which share those that torch may use."""
    if workers == 1:
        yield map
        return
    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(threads // workers,)) as pool:
            yield pool.map
    finally:
        torch.set_num_threads(threads)  # what threads to come start with


def run_piece(run: Run, piece: Piece, replayed: Callable[..., tuple[Tensor, Tensor]]) -> Traces:
    """Run the chains of a piece from w* to their last draws. `replayed` is the piece's own caller of its replay."""
    block = _Block(run, piece, replayed)
    G, C, T = len(piece.groups), len(piece.chains), run.settings.num_draws
    device = run.problem.device
    losses = torch.empty(T, G * C, device=device, dtype=torch.float64)
    baseline = torch.empty(T, G, C, device=device, dtype=torch.float64)
    accepted: list[Tensor] = []
    every = max(1, T // _LANGEVIN_CHECKS)
    for t in range(T):
        batch = block.minibatches.next()
        block.evaluate(batch, losses[t], block.gradient)
        baseline[t] = block.baseline(batch)
        if block.sampler.langevin and t % every == every // 2:
            accepted.append(block.advance_with_acceptance(batch, losses[t]))
        else:
            block.advance()
        run.count(G * C)
    moved = block.state.position.view(G, C, -1) - block.anchor[:, None]
    distance = moved.norm(dim=2)
    acceptance = torch.stack(accepted).mean(0) if accepted else torch.full((G * C,), math.nan)
    return Traces(
        losses.T.reshape(G, C, T).cpu().numpy(),
        baseline.permute(1, 2, 0).cpu().numpy(),
        distance.double().cpu().numpy(),
        acceptance.view(G, C).double().cpu().numpy(),
    )


class _Block:
    """The state of one piece's chains, R = G x C rows, and one step of them."""

    def __init__(self, run: Run, piece: Piece, replayed: Callable[..., tuple[Tensor, Tensor]]) -> None:
        problem, settings = run.problem, run.settings
        groups = [run.groups[g] for g in piece.groups]
        chains = [run.chains[c] for c in piece.chains]
        self.problem = problem
        self.replayed = replayed
        self.num_groups = len(groups)
        self.num_chains = len(chains)
        members = [group.member for group in groups]
        self.one_group_each = members == list(range(len(problem.stack)))
        self.member_ids = torch.tensor(members, device=problem.device)  # (G,)
        self.anchor = problem.anchors[self.member_ids]  # (G, P)
        anchor = self._of_rows(self.anchor)
        fisher = None if run.fisher is None else self._of_rows(run.fisher[self.member_ids])
        self.dynamics = _dynamics(groups, self.num_chains, anchor, fisher)
        self.sampler = SAMPLERS[settings.sampler]
        self.options = settings.options
        self.state = self.sampler.init(self._of_rows(self.anchor), **self.options)
        self.gradient = torch.empty_like(anchor)  # (R, P)
        # values that do not move: of each group, (G, *shape), or common where there is one network
        self.own: dict[str, Tensor] = {}
        self.common: dict[str, Tensor] = {}
        if len(problem.stack) == 1:
            self.common = problem.fixed_of(0)
        else:
            self.own = {name: value[self.member_ids] for name, value in problem.fixed.items()}
        self.minibatches = Minibatches(settings.seed, chains, problem.num_samples, run.batch_size, problem.device)
        rows = [(group.stream, chain) for group in groups for chain in chains]
        self.noise = Noise(settings.seed, rows, anchor)

    def _of_rows(self, values: Tensor) -> Tensor:
        """Return values of groups, (G, P), for all rows, (R, P)."""
        return values.repeat_interleave(self.num_chains, dim=0)

    def baseline(self, batch: Tensor | None) -> Tensor:
        """Return the mean loss of w* on the minibatches, (G, C)."""
        losses = self.problem.anchor_losses
        if batch is None:
            means = losses.mean(0, dtype=torch.float64).expand(self.num_chains, -1)  # (C, M)
        else:
            means = part_of(losses, batch).mean(1, dtype=torch.float64)  # (C, M)
        return means.T if self.one_group_each else means.T[self.member_ids]

    def evaluate(self, batch: Tensor | None, losses: Tensor, gradient: Tensor) -> None:
        """Write the losses (R,) and gradients (R, P) at the chains' positions; see `_shape_of_a_step`."""
        if batch is None:
            steps = [(slice(None), list[Tensor]())]
        elif self.num_groups == 1:
            steps = [(slice(None), [batch])]
        else:
            steps = [(slice(c, None, self.num_chains), [batch[c]]) for c in range(self.num_chains)]
        for rows, samples in steps:
            losses[rows], gradient[rows] = self.replayed(
                self.state.position[rows],
                samples,
                self.problem.inputs,
                self.problem.targets,
                self.own,
                self.common,
            )

    def advance(self) -> None:
        """Move all rows by a step with new noise."""
        noise = self.noise.draw()
        with torch.no_grad():
            self.state = self.sampler.update(self.state, self.gradient, noise, self.dynamics, **self.options)

    def advance_with_acceptance(self, batch: Tensor | None, old_loss: Tensor) -> Tensor:
        """Advance, and return the step's Metropolis acceptance probability on the same minibatch, (R,).

        It is min(1, p(w') q(w|w') / (p(w) q(w'|w))). With s = w' - w and U' the gradient of U, the proposals' part is
        |s + ε/2 U'(w)|² - |-s + ε/2 U'(w')|² over 2 ε: a difference of squares, taken as a product, in which nothing
        large cancels.
        """
        dynamics = self.dynamics
        old = self.state.position.clone()
        old_gradient = self.gradient.clone()
        self.advance()
        new = self.state.position
        new_gradient = torch.empty_like(self.gradient)
        new_loss = torch.empty_like(old_loss)
        self.evaluate(batch, new_loss, new_gradient)
        with torch.no_grad():
            step = new - old
            # (|f|² - |b|²) / (2 ε) = (f + b).(f - b) / (2 ε), f + b = ε/2 (U'(w) + U'(w')), f - b = 2 s - ε/2 change
            total = dynamics.potential_gradient(old, old_gradient)
            change = dynamics.potential_gradient(new, new_gradient).sub_(total)
            total.mul_(2).add_(change)
            proposals = (_dot(step, total) - dynamics.step_size / 4 * _dot(change, total)) / 2
            middle = old.add_(new).sub_(dynamics.anchor, alpha=2)
            pull = dynamics.localization / 2 * _dot(step, middle)
            rise = dynamics.nbeta * (new_loss - old_loss)[:, None] + pull
        return (proposals - rise).clamp(max=0).exp()[:, 0]


def _dynamics(groups: Sequence[Group], chains: int, anchor: Tensor, fisher: Tensor | None) -> Dynamics:
    """Return the constants of all rows: each a number where all groups share it, which is faster, else (R, 1)."""

    def constant(name: str) -> float | Tensor:
        values = [getattr(group, name) for group in groups]
        if len(set(values)) == 1:
            return values[0]
        column = torch.tensor(values, dtype=torch.float64)
        return column.repeat_interleave(chains)[:, None].to(anchor)

    return Dynamics(
        anchor,
        constant("step_size"),
        constant("localization"),
        constant("nbeta"),
        fisher,
    )


def _dot(first: Tensor, second: Tensor) -> Tensor:
    """Return the products of the rows, (R, 1)."""
    return torch.bmm(first[:, None], second[:, :, None])[:, 0]
