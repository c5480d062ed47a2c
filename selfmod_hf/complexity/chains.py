"""Run chains around trained networks: groups x chains as one stacked computation.

A *group* is one network with one setting of the dynamics: a member of a population, a cell of a calibration grid.
Every group runs the same chains, and chain c of every group sees the same minibatches. Rows are ordered (group, chain).
Groups x chains are cut into *pieces* that fit into memory and are spread over threads.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..stacking import Replay, chunk_ranges, even_size, losses_and_gradients, part_of
from .problem import Capacity, Problem
from .random_streams import Minibatches, Noise
from .samplers import SAMPLERS, Dynamics
from .settings import LLCSettings
from .traces import Array, Traces

_SMALL = 8192  # parameters: below this, threads only wait for each other
_LANGEVIN_CHECKS = 25  # steps per chain with a Metropolis acceptance
# relative and absolute tolerance of a recording
_TOLERANCE = (1e-4, 1e-6)
_IN_LOW_PRECISION = (5e-2, 1e-3)

Step = Callable[..., tuple[Tensor, Tensor]]  # `losses_and_gradients` or its replay


@dataclass(frozen=True)
class Group:
    """Describe one network and one setting.

    Attributes:
        member: place of the network in the stack.
        stream: number of its noise.
        step_size: ε.
        localization: γ.
        nbeta: nβ.
    """

    member: int
    stream: int
    step_size: float
    localization: float
    nbeta: float


@dataclass(frozen=True)
class Run:
    """Hold the common values of the pieces of a run.

    Attributes:
        problem: networks, data and loss.
        settings: of the estimate.
        groups: all of them.
        chains: the chains' own numbers.
        count: called with the number of chain steps done.
        fisher: (M, P), for samplers with `needs_fisher`, see `fisher_diagonal`.
    """

    problem: Problem
    settings: LLCSettings
    groups: Sequence[Group]
    chains: Sequence[int]
    count: Callable[[int], None]
    fisher: Tensor | None = None

    @property
    def batch_size(self) -> int:
        """Return the number of samples of a step."""
        return min(self.settings.batch_size, self.problem.num_samples)

    def num_workers(self, fit: int) -> int:
        """Return how many threads run pieces, if `fit` rows fit into memory at once.

        On a CPU the pieces run on as many threads as torch may use, because most operations of a step are too small to
        be spread over cores one by one. Tiny models run on one thread, because their steps are mostly Python.
        """
        problem = self.problem
        on_cpu = problem.device.type == "cpu"
        if not on_cpu or not problem.vectorize:
            return 1
        if problem.layout.size < _SMALL:
            return 1
        rows = len(self.groups) * len(self.chains)
        if fit < 2 * rows:  # memory is short: threads keep more of it than they use
            return 1
        return min(torch.get_num_threads(), len(self.chains))


def counter(report: Callable[[int, int], None] | None, total: int) -> Callable[[int], None]:
    """Return a function that adds up steps of all threads and reports them out of `total`."""
    done = 0
    lock = threading.Lock()

    def count(steps: int) -> None:
        nonlocal done
        if report is None:
            return
        with lock:
            done += steps
            report(done, total)

    return count


# ---- pieces ----


@dataclass(frozen=True)
class Piece:
    """Describe groups and chains in one computation.

    Attributes:
        groups: places in the groups of the run.
        chains: places in the chains of the run.
        replay: their step.
    """

    groups: range
    chains: range
    replay: Replay


def cut(run: Run, capacity: Capacity) -> tuple[list[Piece], int]:
    """Return all groups x chains in as few pieces as memory allows, and how many threads run them."""
    num_groups = len(run.groups)
    num_chains = len(run.chains)
    if num_chains == 0:  # the last processes run none if there are fewer chains than processes
        return [], 1
    workers = run.num_workers(capacity.rows)
    chains_per_worker = -(-num_chains // workers)  # rounded up
    at_once = min(capacity.rows, num_groups * chains_per_worker)
    replays: dict[tuple[bool, int], Replay] = {}  # pieces of one shape replay the same recording
    pieces = []
    groups_at_once = even_size(num_groups, at_once)
    for groups in chunk_ranges(num_groups, groups_at_once):
        most_chains = at_once // len(groups)
        chains_at_once = even_size(num_chains, most_chains)
        for chains in chunk_ranges(num_chains, chains_at_once):
            shape = _shape_of_a_step(run, len(groups), len(chains))
            replay = replays.get(shape)
            if replay is None:
                shared_batch, _ = shape
                replay = _replay(run.problem, shared_batch, capacity.micro_batch_size)
                replays[shape] = replay
            pieces.append(Piece(groups, chains, replay))
    return pieces, workers


def _shape_of_a_step(run: Run, groups: int, chains: int) -> tuple[bool, int]:
    """Return whether the rows of a computation share their batch, and how many rows it has.

    The numbers are the same in all three cases. With the complete data all rows share one batch. One network has a
    batch per chain. Several groups run chain by chain, because they share the batch of a chain.
    """
    if run.batch_size == run.problem.num_samples:
        return True, groups * chains
    if groups == 1:
        return False, chains
    return True, groups


def _replay(problem: Problem, shared_batch: bool, micro_batch_size: int | None) -> Replay:
    """Return the replay of a step, `losses_and_gradients`."""
    losses_of = problem.losses_of_own_batches
    if shared_batch:
        losses_of = problem.losses_of_one_batch
    step = functools.partial(
        losses_and_gradients,
        losses_of,
        problem.layout,
        shared_batch=shared_batch,
        micro_batch_size=micro_batch_size,
    )
    tolerance = _TOLERANCE if problem.compute_dtype is None else _IN_LOW_PRECISION
    return Replay(step, tolerance)


@contextlib.contextmanager
def map_on_threads(workers: int) -> Iterator[Callable[..., Iterator[Any]]]:
    """Provide a `map` that runs on this number of threads. They share torch's threads."""
    if workers == 1:
        yield map
        return
    threads = torch.get_num_threads()
    each = threads // workers
    try:
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(each,)) as pool:
            yield pool.map
    finally:
        torch.set_num_threads(threads)  # the default of later threads


# ---- steps ----


def run_piece(run: Run, piece: Piece, step: Step) -> Traces:
    """Run the chains of a piece from w* to their last draws.

    Args:
        run: the run.
        piece: the groups and chains.
        step: the piece's own caller of its replay.
    """
    problem = run.problem
    settings = run.settings
    block = _Block(run, piece, step)
    minibatches = Minibatches(
        settings.seed,
        block.chains,
        problem.num_samples,
        run.batch_size,
        problem.device,
    )
    G = len(piece.groups)
    C = len(piece.chains)
    T = settings.num_draws
    in_double = torch.empty(0, device=problem.device, dtype=torch.float64)
    losses = in_double.new_empty(T, G * C)
    baseline = in_double.new_empty(T, G, C)
    accepted: list[Tensor] = []  # (R,) each
    every = max(1, T // _LANGEVIN_CHECKS)
    for t in range(T):
        batch = minibatches.next()
        block.evaluate(batch, losses[t], block.gradient)
        baseline[t] = block.baseline(batch)
        if block.sampler.langevin and t % every == every // 2:
            acceptance = block.advance_with_acceptance(batch, losses[t])
            accepted.append(acceptance)
        else:
            block.advance()
        run.count(G * C)

    position = block.state.position.view(G, C, -1)  # (G, C, P)
    moved = position - block.anchor[:, None]
    mean_acceptance = torch.full((G * C,), math.nan)
    if accepted:
        mean_acceptance = torch.stack(accepted).mean(0)
    return Traces(
        losses=_array(losses.T.reshape(G, C, T)),
        baseline=_array(baseline.permute(1, 2, 0)),
        distances=_array(moved.norm(dim=2)),
        acceptance=_array(mean_acceptance.view(G, C)),
    )


def _array(tensor: Tensor) -> Array:
    """Return a tensor as an array of float64."""
    return tensor.double().cpu().numpy()


class _Block:
    """Hold the state of one piece's chains, R = G x C rows, and run one step of them."""

    def __init__(self, run: Run, piece: Piece, step: Step) -> None:
        problem = run.problem
        settings = run.settings
        groups = [run.groups[place] for place in piece.groups]
        self.chains = [run.chains[place] for place in piece.chains]
        self.problem = problem
        self.step = step
        self.num_groups = len(groups)
        self.num_chains = len(self.chains)
        members = [group.member for group in groups]
        every_member = list(range(len(problem.stack)))
        self.one_group_each = members == every_member
        self.member_ids = torch.tensor(members, device=problem.device)  # (G,)
        self.anchor = problem.anchors[self.member_ids]  # (G, P)

        anchor = self._of_rows(self.anchor)  # (R, P)
        fisher = None
        if run.fisher is not None:
            fisher = self._of_rows(run.fisher[self.member_ids])  # (R, P)
        self.dynamics = _dynamics(groups, self.num_chains, anchor, fisher)
        self.sampler = SAMPLERS[settings.sampler]
        self.options = settings.options
        start = self._of_rows(self.anchor)
        self.state = self.sampler.init(start, **self.options)
        self.gradient = torch.empty_like(anchor)  # (R, P)

        streams = [group.stream for group in groups]
        rows = list(itertools.product(streams, self.chains))
        self.noise = Noise(settings.seed, rows, anchor)

        # values that do not move: of each group, (G, *shape), or common to all if there is one network
        self.own: dict[str, Tensor] = {}
        self.common: dict[str, Tensor] = {}
        if len(problem.stack) == 1:
            self.common = problem.fixed_of(0)
            return
        for name, values in problem.fixed.items():
            self.own[name] = values[self.member_ids]

    def _of_rows(self, values: Tensor) -> Tensor:
        """Return values of groups, (G, P), for all rows, (R, P)."""
        return values.repeat_interleave(self.num_chains, dim=0)

    def baseline(self, batch: Tensor | None) -> Tensor:
        """Return the mean loss of w* on the minibatches, (G, C)."""
        losses = self.problem.anchor_losses  # (n, M)
        if batch is None:
            means = losses.mean(0, dtype=torch.float64)  # (M,)
            means = means.expand(self.num_chains, -1)  # (C, M)
        else:
            chosen = part_of(losses, batch)  # (C, B, M)
            means = chosen.mean(1, dtype=torch.float64)  # (C, M)
        by_network = means.T  # (M, C)
        if self.one_group_each:
            return by_network
        return by_network[self.member_ids]

    def evaluate(self, batch: Tensor | None, losses: Tensor, gradient: Tensor) -> None:
        """Write the losses (R,) and gradients (R, P) at the chains' positions. See `_shape_of_a_step`."""
        parts: list[tuple[slice, list[Tensor]]] = []  # (rows, samples)
        if batch is None:
            parts.append((slice(None), []))
        elif self.num_groups == 1:
            parts.append((slice(None), [batch]))
        else:
            for c in range(self.num_chains):
                rows_of_chain = slice(c, None, self.num_chains)
                parts.append((rows_of_chain, [batch[c]]))
        inputs, targets = self.problem.inputs, self.problem.targets
        for rows, samples in parts:
            position = self.state.position[rows]
            losses[rows], gradient[rows] = self.step(
                position,
                samples,
                inputs,
                targets,
                self.own,
                self.common,
            )

    def advance(self) -> None:
        """Move all rows by a step with new noise."""
        noise = self.noise.draw()
        with torch.no_grad():
            self.state = self.sampler.update(
                self.state,
                self.gradient,
                noise,
                self.dynamics,
                **self.options,
            )

    def advance_with_acceptance(self, batch: Tensor | None, old_loss: Tensor) -> Tensor:
        """Advance, and return the step's Metropolis acceptance probability on the same minibatch, (R,).

        It is min(1, p(w') q(w|w') / (p(w) q(w'|w))). With s = w' - w and U' the gradient of U, the proposals' part is
        |s + ε/2 U'(w)|² - |-s + ε/2 U'(w')|² over 2 ε. This difference of squares is computed as a product, because
        nothing large cancels there:

            (|f|² - |b|²) / (2 ε) = (f + b).(f - b) / (2 ε)
            f + b = ε/2 (U'(w) + U'(w'))        f - b = 2 s - ε/2 (U'(w') - U'(w))
        """
        dynamics = self.dynamics
        old = self.state.position.clone()  # w, (R, P)
        old_gradient = self.gradient.clone()
        self.advance()
        new = self.state.position  # w', (R, P)
        new_gradient = torch.empty_like(self.gradient)
        new_loss = torch.empty_like(old_loss)
        self.evaluate(batch, new_loss, new_gradient)
        with torch.no_grad():
            moved = new - old  # s
            total = dynamics.potential_gradient(old, old_gradient)  # U'(w)
            change = dynamics.potential_gradient(new, new_gradient)
            change.sub_(total)  # U'(w') - U'(w)
            total.mul_(2).add_(change)  # U'(w) + U'(w')
            quarter = dynamics.step_size / 4
            difference = _dot(moved, total) - quarter * _dot(change, total)  # (R, 1)
            proposals = difference / 2
            middle = old.add_(new).sub_(dynamics.anchor, alpha=2)  # w + w' - 2 w*
            half_pull = dynamics.localization / 2
            loss_change = (new_loss - old_loss)[:, None]  # (R, 1)
            rise = dynamics.nbeta * loss_change + half_pull * _dot(moved, middle)  # U(w') - U(w)
            log_ratio = proposals - rise
        probability = log_ratio.clamp(max=0).exp()  # (R, 1)
        return probability[:, 0]


def _dynamics(
    groups: Sequence[Group],
    chains: int,
    anchor: Tensor,
    fisher: Tensor | None,
) -> Dynamics:
    """Return the constants of all rows. A constant is a number if all groups share it, because that is faster."""
    constants: dict[str, float | Tensor] = {}
    for name in ("step_size", "localization", "nbeta"):
        values = [getattr(group, name) for group in groups]
        first = values[0]
        if values.count(first) == len(values):
            constants[name] = first
            continue
        of_groups = torch.tensor(values, dtype=torch.float64)  # (G,)
        of_rows = of_groups.repeat_interleave(chains)
        column = of_rows[:, None]  # (R, 1)
        constants[name] = column.to(anchor)
    return Dynamics(anchor, fisher=fisher, **constants)


def _dot(first: Tensor, second: Tensor) -> Tensor:
    """Return the products of the rows, (R, 1)."""
    products = torch.bmm(first[:, None], second[:, :, None])  # (R, 1, 1)
    return products[:, 0]
