"""Run the chains of all pieces, block by block, and continue them where more draws are wanted."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from .chain_state import State
from .chains import run_piece
from .distributed import gather_chains
from .minimum import Minimum
from .pieces import Piece, Run, cut, map_on_threads
from .problem import Capacity
from .snapshots import Snapshots
from .thermometer import num_columns
from .traces import Traces

BLOCKS = 10  # of a run that keeps snapshots


@dataclass
class _Progress:
    """Hold how far the chains of a piece are.

    Attributes:
        piece: the groups and chains.
        state: of the chains. None: at w*.
        traces: of the draws so far. None: no draw.
        path: file of the snapshot. None: none is kept.
    """

    piece: Piece
    state: State | None = None
    traces: Traces | None = None
    path: Path | None = None

    @property
    def draws(self) -> int:
        """Return the number of draws so far."""
        return 0 if self.traces is None else self.traces.num_draws

    def next_draws(self, size: int, last: int) -> range:
        """Return the numbers of the next draws, at most `size` and before `last`."""
        return range(self.draws, min(self.draws + size, last))


@dataclass
class Session:
    """Hold the chains of a run while they go on.

    Attributes:
        run: the run.
        workers: number of threads.
        snapshots: where the state of the chains is kept. None: nowhere.
        minima: of the networks, if the problem is at them.
    """

    run: Run
    workers: int
    snapshots: Snapshots | None
    minima: Sequence[Minimum] = ()
    _progress: list[_Progress] = field(default_factory=list)

    @classmethod
    def of(cls, run: Run, capacity: Capacity, minima: Sequence[Minimum] = ()) -> Session:
        """Return the session of a run, with the draws that its snapshots hold.

        Raises:
            InputError: a snapshot is damaged or of another estimate.
        """
        pieces, workers = cut(run, capacity)
        snapshots = Snapshots.of(run)
        session = cls(run, workers, snapshots, minima)
        for piece in pieces:
            progress = _Progress(piece)
            if snapshots is not None:
                chains = [run.chains[place] for place in piece.chains]
                progress.path = snapshots.path(piece.groups, chains)
                kept = snapshots.read(progress.path)
                if kept is not None:
                    progress.traces, progress.state = Traces.from_tensors(kept)
                    run.count(len(piece.groups) * len(piece.chains) * progress.draws)
            session._progress.append(progress)
        return session

    def draw(self, num_draws: int) -> Traces:
        """Run all chains to this number of draws, and return the traces of all processes.

        A block begins with the state that was kept and new callers of the replays, so that the numbers of a run that
        goes on are those of a run that was never killed.

        Args:
            num_draws: of each chain, those before this call included.
        """
        size = num_draws
        if self.snapshots is not None:
            size = max(2, self.run.settings.num_draws // BLOCKS)
        run_one = functools.partial(run_piece, self.run)
        with map_on_threads(self.workers) as map_pieces:
            while True:
                behind = [progress for progress in self._progress if progress.draws < num_draws]
                if not behind:
                    break
                pieces = [progress.piece for progress in behind]
                steps = [piece.replay.caller() for piece in pieces]
                probe_steps = [piece.probe_replay.caller() for piece in pieces]
                draws = [progress.next_draws(size, num_draws) for progress in behind]
                states = [progress.state for progress in behind]
                found = map_pieces(run_one, pieces, steps, probe_steps, draws, states)
                for progress, (traces, state) in zip(behind, found, strict=True):
                    self._keep(progress, traces, state)
        return self._gathered(num_draws)

    def positions(self) -> Tensor:
        """Return where the chains of this process are, (G, C, P), on the CPU."""
        run = self.run
        anchors = run.problem.anchors
        places = torch.empty(len(run.groups), len(run.chains), run.problem.layout.size, dtype=anchors.dtype)
        for progress in self._progress:
            piece = progress.piece
            assert progress.state is not None
            found = progress.state["sampler.position"]  # (R, P)
            of_piece = found.view(len(piece.groups), len(piece.chains), -1).to(places)
            places[piece.groups.start : piece.groups.stop, piece.chains.start : piece.chains.stop] = of_piece
        return places

    def __enter__(self) -> Session:
        """Return the session. After an error its snapshots stay."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.closing()()

    def closing(self) -> Callable[[], None]:
        """Return a function that removes the snapshots, because the estimate is complete. It holds no chains."""
        if self.snapshots is None:
            return lambda: None
        paths = [progress.path for progress in self._progress if progress.path is not None]
        return functools.partial(self.snapshots.remove, paths)

    def _keep(self, progress: _Progress, traces: Traces, state: State) -> None:
        """Keep the next traces of a piece and the state after them, and write its snapshot."""
        if progress.traces is not None:
            traces = progress.traces.followed_by(traces)
        progress.traces = traces
        progress.state = state
        if self.snapshots is not None and progress.path is not None:
            self.snapshots.write(progress.path, traces.to_tensors() | state)

    def _gathered(self, num_draws: int) -> Traces:
        """Return the first draws of all pieces and processes."""
        run = self.run
        heat = num_columns(run.settings)
        complete = Traces.empty(len(run.groups), len(run.chains), num_draws, run.problem.num_probes, heat)
        for progress in self._progress:
            assert progress.traces is not None
            piece = progress.piece
            complete.write(progress.traces.first(num_draws), piece.groups, piece.chains)
        complete.recorded = all(progress.piece.replay.recorded for progress in self._progress)
        return gather_chains(complete, run.settings.num_chains)
