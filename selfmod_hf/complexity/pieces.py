"""Cut a run of chains into pieces that fit into memory and cache, and spread them over threads.

A *group* is one network with one setting of the dynamics: a member of a population, a cell of a calibration grid.
Every group runs the same chains, and chain c of every group sees the same minibatches. A *piece* is some groups x some
chains. Its rows are ordered (group, chain).
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..stacking import Replay, chunk_ranges, even_size, losses_and_gradients
from .preconditioner import Key
from .probe_losses import losses_of_probes
from .problem import Capacity, Problem
from .samplers import Preconditioner
from .settings import LLCSettings

_SMALL = 8192  # parameters: below this, threads only wait for each other
# Positions, gradients and noise of more rows than this no longer fit into a CPU's cache (LOG.md, "ten networks with 512
# units in pieces").
_BYTES_IN_CACHE = 2**23
# relative and absolute tolerance of a recording
_TOLERANCE = (1e-4, 1e-6)
_IN_LOW_PRECISION = (5e-2, 1e-3)


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


class Counter:
    """Add up the steps of all threads, and report them.

    Args:
        report: called with (steps done, steps in all). If it has a method `estimate`, that is called with the mean RLCT
            of the draws so far. None: nothing is reported.
        total: steps in all. It may grow.
    """

    def __init__(self, report: Callable[[int, int], None] | None, total: int) -> None:
        self._report = report
        self._lock = threading.Lock()
        self._done = 0
        self._means: dict[int, float] = {}  # of each piece, by its number of the caller
        self.total = total

    @property
    def wants_estimate(self) -> bool:
        """Return whether the mean of the draws so far is shown."""
        return hasattr(self._report, "estimate")

    def __call__(self, steps: int) -> None:
        """Count steps."""
        if self._report is None or steps == 0:
            return
        with self._lock:
            self._done += steps
            self._report(min(self._done, self.total), self.total)

    def show_estimate(self, piece: int, mean: float) -> None:
        """Show the mean over all pieces of the RLCT so far.

        Args:
            piece: a number of the piece.
            mean: of its rows.
        """
        with self._lock:
            self._means[piece] = mean
            mean_of_all = sum(self._means.values()) / len(self._means)
            self._report.estimate(mean_of_all)  # type: ignore[union-attr]


@dataclass(frozen=True)
class Run:
    """Hold the common values of the pieces of a run.

    Attributes:
        problem: networks, data and loss.
        settings: of the estimate.
        groups: all of them.
        chains: the chains' own numbers.
        count: called with the number of chain steps done.
        keeps_block_gradients: see `Capacity`.
        fisher: (M, P), for samplers with `needs_fisher`, see `fisher_diagonal`.
        preconditioners: by (member, nβ, γ), for samplers with `needs_preconditioner`, see `Preconditioners`.
        starts: (G, C, P), where the chains begin. None: at w*.
    """

    problem: Problem
    settings: LLCSettings
    groups: Sequence[Group]
    chains: Sequence[int]
    count: Counter
    keeps_block_gradients: bool = False
    fisher: Tensor | None = None
    preconditioners: Mapping[Key, Preconditioner] | None = None
    starts: Tensor | None = None

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


@dataclass(frozen=True)
class Piece:
    """Describe groups and chains in one computation.

    Attributes:
        groups: places in the groups of the run.
        chains: places in the chains of the run.
        replay: their step.
        probe_replay: the losses of the probes at their positions.
    """

    groups: range
    chains: range
    replay: Replay
    probe_replay: Replay


def cut(run: Run, capacity: Capacity) -> tuple[list[Piece], int]:
    """Return all groups x chains in as few pieces as memory and cache allow, and how many threads run them."""
    num_groups = len(run.groups)
    num_chains = len(run.chains)
    if num_chains == 0:  # the last processes run none if there are fewer chains than processes
        return [], 1
    workers = run.num_workers(capacity.rows)
    chains_per_worker = -(-num_chains // workers)  # rounded up
    at_once = min(capacity.rows, num_groups * chains_per_worker, _rows_in_cache(run))
    # pieces of one shape replay the same recording
    replays: dict[tuple[bool, int], Replay] = {}
    probe_replays: dict[tuple[int, int], Replay] = {}
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
                replay = _replay(run, shared_batch, capacity.micro_batch_size)
                replays[shape] = replay
            size = (len(groups), len(chains))
            probe_replay = probe_replays.get(size)
            if probe_replay is None:
                probe_replay = _probe_replay(run, capacity)
                probe_replays[size] = probe_replay
            pieces.append(Piece(groups, chains, replay, probe_replay))
    return pieces, workers


def _rows_in_cache(run: Run) -> int:
    """Return how many rows are fastest at once. The chains of one group always run together."""
    num_chains = len(run.chains)
    all_rows = len(run.groups) * num_chains
    if run.problem.device.type != "cpu":
        return all_rows
    if run.keeps_block_gradients:  # every piece of a network would compute them again
        return all_rows
    bytes_per_row = run.problem.layout.size * run.problem.stack_dtype.itemsize
    return max(num_chains, _BYTES_IN_CACHE // bytes_per_row)


def _shape_of_a_step(run: Run, groups: int, chains: int) -> tuple[bool, int]:
    """Return whether the rows of a computation share their batch, and how many rows it has.

    The numbers are the same in all three cases. With the complete data or shared minibatches all rows share one batch.
    One network has a batch per chain. Several groups run chain by chain, because they share the batch of a chain.
    """
    if run.batch_size == run.problem.num_samples or run.settings.shared_minibatches:
        return True, groups * chains
    if groups == 1:
        return False, chains
    return True, groups


def _replay(run: Run, shared_batch: bool, micro_batch_size: int | None) -> Replay:
    """Return the replay of a step, `losses_and_gradients`."""
    problem = run.problem
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
    return Replay(step, _tolerance(problem), run.settings.num_draws)


def _probe_replay(run: Run, capacity: Capacity) -> Replay:
    """Return the replay of the losses of the probes."""
    problem = run.problem
    at_once = min(capacity.micro_batch_size or run.batch_size, problem.num_probes)
    compute = functools.partial(losses_of_probes, problem.losses_of_one_batch, problem.layout, at_once)
    return Replay(compute, _tolerance(problem), run.settings.num_draws)


def _tolerance(problem: Problem) -> tuple[float, float]:
    """Return the relative and the absolute tolerance of a recording."""
    return _TOLERANCE if problem.compute_dtype is None else _IN_LOW_PRECISION


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
