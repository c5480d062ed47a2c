"""The traces of chains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]

_OF_DRAWS = ("losses", "baseline", "correction", "probe_losses", "heat")
_OF_CHAINS = ("distances", "acceptance")
_PREFIX = "traces."


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
        heat: (G, C, T, h), measurements of the chains' movement, see `thermometer.py`. h is 0 without them.
        recorded: whether every step from the third on was the (faster) replay of a recorded step.
    """

    losses: Array
    baseline: Array
    distances: Array
    acceptance: Array
    correction: Array
    probe_losses: NDArray[np.float32]
    heat: Array
    recorded: bool = True

    @classmethod
    def empty(cls, groups: int, chains: int, draws: int, probes: int = 0, heat: int = 0) -> Traces:
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
            heat=np.full((groups, chains, draws, heat), np.nan),
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
        self.heat[rows] = other.heat
        self.recorded = self.recorded and other.recorded

    @property
    def num_draws(self) -> int:
        """Return T."""
        return self.losses.shape[2]

    def followed_by(self, later: Traces) -> Traces:
        """Return these traces and those of the next draws as one. Acceptance is the mean over the draws."""
        joined: dict[str, Any] = {}
        for name in _OF_DRAWS:
            joined[name] = np.concatenate([getattr(self, name), getattr(later, name)], axis=2)
        both = np.stack([self.acceptance, later.acceptance])
        weights = np.array([self.num_draws, later.num_draws], dtype=np.float64)[:, None, None]
        known = np.where(np.isnan(both), 0, weights)
        with np.errstate(invalid="ignore"):  # NaN if no block has any
            acceptance = np.nansum(both * weights, axis=0) / known.sum(axis=0)
        recorded = self.recorded and later.recorded
        return Traces(distances=later.distances, acceptance=acceptance, recorded=recorded, **joined)

    def first(self, num_draws: int) -> Traces:
        """Return the traces of the first draws. The distances stay those of the last one."""
        shortened = {name: getattr(self, name)[:, :, :num_draws] for name in _OF_DRAWS}
        return replace(self, **shortened)

    def to_tensors(self) -> dict[str, Tensor]:
        """Return the traces as tensors, for a file."""
        tensors = {}
        for name in (*_OF_DRAWS, *_OF_CHAINS):
            array = np.ascontiguousarray(getattr(self, name))
            tensors[_PREFIX + name] = torch.from_numpy(array)
        return tensors

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> tuple[Traces, dict[str, Tensor]]:
        """Return the traces among some tensors, and the other tensors."""
        arrays: dict[str, Any] = {}
        others = {}
        for name, tensor in tensors.items():
            if name.startswith(_PREFIX):
                arrays[name.removeprefix(_PREFIX)] = tensor.numpy()
            else:
                others[name] = tensor
        return cls(**arrays), others
