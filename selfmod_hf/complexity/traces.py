"""The traces of chains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass
class Traces:
    """Hold the traces of G groups and C chains.

    Attributes:
        losses: (G, C, T), mean loss of draw t on its minibatch.
        baseline: (G, C, T), mean loss of w* on the same minibatch.
        distances: (G, C), |w - w*| at the last draw.
        acceptance: (G, C), mean Metropolis acceptance probability, NaN if the sampler has none.
        correction: (G, C, T), added to the loss of draw t by the control variate. Zeros without it.
        probe_losses: (G, C, T, q), losses of the probes at draw t. q may be 0.
        recorded: whether every step from the third on was the (faster) replay of a recorded step.
    """

    losses: Array
    baseline: Array
    distances: Array
    acceptance: Array
    correction: Array
    probe_losses: NDArray[np.float32]
    recorded: bool = True

    @classmethod
    def empty(cls, groups: int, chains: int, draws: int, probes: int = 0) -> Traces:
        """Return traces without values (NaN)."""
        each_draw = np.full((groups, chains, draws), np.nan)
        each_chain = np.full((groups, chains), np.nan)
        return cls(
            losses=each_draw,
            baseline=each_draw.copy(),
            distances=each_chain,
            acceptance=each_chain.copy(),
            correction=each_draw.copy(),
            probe_losses=np.full((groups, chains, draws, probes), np.nan, dtype=np.float32),
        )

    def write(self, other: Traces, groups: range, chains: Sequence[int]) -> None:
        """Copy the traces of some groups and chains into these."""
        rows = np.ix_(groups, chains)
        self.losses[rows] = other.losses
        self.baseline[rows] = other.baseline
        self.distances[rows] = other.distances
        self.acceptance[rows] = other.acceptance
        self.correction[rows] = other.correction
        self.probe_losses[rows] = other.probe_losses
        self.recorded = self.recorded and other.recorded
