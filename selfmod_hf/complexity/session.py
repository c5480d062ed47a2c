"""Run the chains of all pieces, block by block, and continue them where more draws are wanted."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .chain_state import State
from .chains import run_piece
from .distributed import gather_chains
from .pieces import Piece, Run, cut, map_on_threads
from .problem import Capacity
from .snapshots import Snapshots
from .traces import Traces

BLOCKS = 10  # of a run that keeps snapshots

Steps = Iterator[Any]  # a new caller of a replay for each block


@dataclass
class _Progress:
    """Hold how far the chains of a piece are.

    Attributes:
        state: of the chains. None: at w*.
        traces: of the draws so far. None: no draw.
        path: file of the snapshot. None: none is kept.
    """

    state: State | None = None
    traces: Traces | None = None
    path: Path | None = None

    @property
    def draws(self) -> int:
        """Return the number of draws so far."""
        return 0 if self.traces is None else self.traces.num_draws


@dataclass
class Session:
    """Hold the chains of a run while they go on.

    Attributes:
        run: the run.
        pieces: of the run.
        workers: number of threads.
        snapshots: where the state of the chains is kept. None: nowhere.
    """

    run: Run
    pieces: Sequence[Piece]
    workers: int
    snapshots: Snapshots | None
    _progress: list[_Progress] = field(default_factory=list)

    @classmethod
    def of(cls, run: Run, capacity: Capacity) -> Session:
        """Return the session of a run, with the draws that its snapshots hold.

        Raises:
            InputError: a snapshot is damaged or of another estimate.
        """
        pieces, workers = cut(run, capacity)
        snapshots = Snapshots.of(run)
        session = cls(run, pieces, workers, snapshots)
        for piece in pieces:
            progress = _Progress()
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

        Args:
            num_draws: of each chain, those before this call included.
        """
        steps = [iter(piece.replay.caller, None) for piece in self.pieces]
        probe_steps = [iter(piece.probe_replay.caller, None) for piece in self.pieces]
        traces = Traces.empty(len(self.run.groups), len(self.run.chains), num_draws, self.run.problem.num_probes)
        run_one = functools.partial(self._run_blocks, num_draws)
        with map_on_threads(self.workers) as map_pieces:
            found = map_pieces(run_one, self.pieces, self._progress, steps, probe_steps)
            for piece, of_piece in zip(self.pieces, found, strict=True):
                traces.write(of_piece, piece.groups, piece.chains)
        traces.recorded = all(piece.replay.recorded for piece in self.pieces)
        return gather_chains(traces, self.run.settings.num_chains)

    def close(self) -> None:
        """Remove the snapshots, because the estimate is complete."""
        if self.snapshots is not None:
            self.snapshots.remove([progress.path for progress in self._progress if progress.path is not None])

    def _run_blocks(
        self,
        num_draws: int,
        piece: Piece,
        progress: _Progress,
        steps: Steps,
        probe_steps: Steps,
    ) -> Traces:
        """Run the chains of a piece to this number of draws, a snapshot after each block.

        A block begins with the state that was kept and new callers of the replays, so that the numbers of a run that
        goes on are those of a run that was never killed.
        """
        size = num_draws
        if self.snapshots is not None:
            size = max(2, self.run.settings.num_draws // BLOCKS)
        while progress.draws < num_draws:
            start = progress.draws
            stop = min(start + size, num_draws)
            traces, state = run_piece(
                self.run,
                piece,
                next(steps),
                next(probe_steps),
                range(start, stop),
                progress.state,
            )
            progress.traces = traces if progress.traces is None else progress.traces.followed_by(traces)
            progress.state = state
            if self.snapshots is not None and progress.path is not None:
                self.snapshots.write(progress.path, progress.traces.to_tensors() | state)
        assert progress.traces is not None
        return progress.traces.first(num_draws)
