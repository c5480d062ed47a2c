"""The traces that chains leave behind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass
class Traces:
    """What the chains leave behind, of G groups and C chains.

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
        """Return traces that are still to be written."""
        shape = (groups, chains)
        return cls(
            np.full((*shape, draws), np.nan),
            np.full((*shape, draws), np.nan),
            np.full(shape, np.nan),
            np.full(shape, np.nan),
        )

    def write(self, other: Traces, groups: range, chains: Sequence[int]) -> None:
        """Copy the traces of some groups and chains into these."""
        rows = np.ix_(list(groups), list(chains))
        for name in ("losses", "baseline", "distances", "acceptance"):
            getattr(self, name)[rows] = getattr(other, name)
        self.recorded = self.recorded and other.recorded
