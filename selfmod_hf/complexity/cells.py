"""The cells of a calibration, and their values without step size.

A *cell* holds the estimate at one pair of step size ε and localization γ. Of each γ the two smallest step sizes count.
The slope of the estimate over ε is that of all γ together, because heating happens in steep directions, where γ has no
effect. If the slope of one γ contradicts it, the γ has its own. A foretold slope counts as one more measurement, unless
the cells contradict it. The value f(γ) is the mean of the cells of γ after the subtraction of slope times ε.

Foretold heating is in proportion to ε, and it is subtracted before. What the steps still add then grows faster, because
it comes from places where the step nears the limit of stability. So the slope is one over ε². If the smaller step has
not arrived yet, the slope misleads, and over ε² it does so by a third of what it would over ε.

Everything is kept as blocks of draws, so that noise that cells share cancels in the errors of their differences.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]

FLOOR = 0.25  # nats: a share of the estimate below it does not count

LARGE_SHIFT = 0.25  # of the estimate: a larger extrapolation over γ is no estimate any more
_STEP_ERROR = 0.02  # of the estimate, at the larger step: how well the foretold slope is believed
_CONTRADICTION = 2.5  # errors between the measured and the foretold slope


@dataclass(frozen=True)
class Cell:
    """Hold the estimate at one step size and one localization.

    Attributes:
        step_size: ε.
        localization: γ.
        blocks: (K,), means of K equally long parts of the kept draws, as many for all cells. Their mean is the
            estimate. Block k of all cells shares its noise where the cells ran together.
        standard_error: Monte Carlo error of the estimate.
        mixes: whether the chains have reached their law.
        pull: nats that the estimate is foretold to lack because of γ, 0 if nothing is known.
        heating: nats that minibatches and the step are foretold to add. It is subtracted before a slope is measured.
            None: not known.
    """

    step_size: float
    localization: float
    blocks: Numbers
    standard_error: float
    mixes: bool = True
    pull: float = 0.0
    heating: float | None = None

    @property
    def llc(self) -> float:
        """Return the estimate, the foretold pull left in."""
        return float(self.blocks.mean())

    @property
    def unheated(self) -> Numbers:
        """Return the blocks without what the step is foretold to add."""
        return self.blocks - (self.heating or 0.0)


@dataclass(frozen=True)
class Steps:
    """Hold the values without step size.

    Attributes:
        pulls: (K,), γ, rising.
        blocks: (K, blocks), of f.
        shift: of the weakest γ, against its smallest step.
        heating: what the smallest step is foretold to add there.
        unforetold: what it adds besides, by the slope.
        power: of ε in the law of the slope: 2 after foretold heating, else 1.
        inflation: Monte Carlo error over the error of the blocks, at least 1.
        foretold: whether the foretold pull was added to the estimates.
        missing: the foretold pull at the weakest γ, if it was not added because it is a large share.
    """

    pulls: Numbers
    blocks: Numbers
    shift: float
    heating: float
    unforetold: float
    power: int
    inflation: float
    foretold: bool
    missing: float

    @property
    def values(self) -> Numbers:
        """Return f, (K,)."""
        return self.blocks.mean(axis=1)

    def error(self, weights: Sequence[float]) -> float:
        """Return the standard error of a combination of the values at the first localizations."""
        combined = np.asarray(weights) @ self.blocks[: len(weights)]
        return self.inflation * _error(combined)


def _error(blocks: Numbers) -> float:
    """Return the standard error of the mean of blocks."""
    if len(blocks) < 2:
        return 0.0
    return float(blocks.std(ddof=1)) / math.sqrt(len(blocks))


def without_step_sizes(cells: Sequence[Cell], foretold: float) -> Steps:
    """Return the values at ε = 0 of all localizations."""
    by_pull: dict[float, list[Cell]] = {}
    for cell in sorted(cells, key=lambda cell: cell.step_size):
        of_pull = by_pull.setdefault(cell.localization, [])
        if len(of_pull) < 2:
            of_pull.append(cell)
    pulls = sorted(by_pull)
    pairs = [by_pull[pull] for pull in pulls if len(by_pull[pull]) == 2]
    power = 1 if any(cell.heating is None for cell in cells) else 2
    shared = _shared_slope(pairs, foretold, power)
    rows = []
    with_pull = []
    slopes = []
    for pull in pulls:
        of_pull = by_pull[pull]
        slope = shared
        if len(of_pull) == 2:
            slope = _believed(_slope_of(of_pull, power)[0], shared, _doubt(of_pull[1], power))
        slopes.append(float(slope.mean()))
        blocks = _mean_without_step(of_pull, slope, power)
        rows.append(blocks)
        with_pull.append(blocks + of_pull[0].pull)
    straight = np.stack(rows)
    raised = np.stack(with_pull)
    believed = _is_flatter(raised, straight)
    missing = 0.0
    pull = by_pull[pulls[0]][0].pull
    if believed and pull > max(LARGE_SHIFT * float(raised[0].mean()), FLOOR):
        believed = False
        missing = pull
    weakest = by_pull[pulls[0]]
    smallest = weakest[0]
    return Steps(
        pulls=np.array(pulls),
        blocks=raised if believed else straight,
        shift=float(straight[0].mean()) - smallest.llc,
        heating=smallest.heating or 0.0,
        unforetold=slopes[0] * smallest.step_size**power,
        power=power,
        inflation=_inflation(weakest),
        foretold=believed,
        missing=missing,
    )


def _inflation(cells: Sequence[Cell]) -> float:
    """Return the Monte Carlo error over the error of the blocks, the largest of these cells and at least 1."""
    inflations = [1.0]
    for cell in cells:
        measured = _error(cell.blocks)
        if measured > 0 and math.isfinite(cell.standard_error):
            inflations.append(cell.standard_error / measured)
    return max(inflations)


def _is_flatter(raised: Numbers, straight: Numbers) -> bool:
    """Return whether the foretold pull explains how the values move over γ, so that less is left to extrapolate."""
    if len(straight) < 2:
        return False
    left = np.diff(raised[:3].mean(axis=1))
    moved = np.diff(straight[:3].mean(axis=1))
    return float(np.abs(left).max()) < float(np.abs(moved).max()) / 2


def _slope_of(pair: Sequence[Cell], power: int) -> tuple[Numbers, float]:
    """Return the blocks of the slope over a power of ε between two cells of one γ, and the slope's error."""
    smaller, larger = pair
    apart = larger.step_size**power - smaller.step_size**power
    slopes = (larger.unheated - smaller.unheated) / apart
    return slopes, _error(slopes)


def _shared_slope(pairs: Sequence[Sequence[Cell]], foretold: float, power: int) -> Numbers:
    """Return the blocks of the slope over ε^power, of all localizations together, or the foretold one without pairs."""
    if not pairs:
        return np.array([foretold])
    total: Numbers = np.zeros(1)
    weight_sum = 0.0
    subtracted = 0.0  # over ε^power
    doubts = np.empty(len(pairs))
    for place, pair in enumerate(pairs):
        slopes, error = _slope_of(pair, power)
        larger = pair[1]
        doubts[place] = _doubt(larger, power)
        weight = 1 / max(error, 1e-3 * doubts[place]) ** 2
        total = total + weight * slopes
        weight_sum += weight
        subtracted += (larger.heating or 0.0) / larger.step_size**power / len(pairs)
    measured = total / weight_sum
    doubt = float(doubts.mean()) + (abs(foretold) + abs(subtracted)) / 3
    return _believed(measured, np.array([foretold]), doubt)


def _doubt(larger: Cell, power: int) -> float:
    """Return how far a foretold slope over ε^power may be off, from the cell of the larger step."""
    return max(_STEP_ERROR * abs(larger.llc), FLOOR / 10) / larger.step_size**power


def _believed(measured: Numbers, foretold: Numbers, doubt: float) -> Numbers:
    """Return the mean of a measured and a foretold slope, by their errors. If they contradict, the measured one."""
    error = _error(measured)
    apart = abs(float(measured.mean() - foretold.mean()))
    if apart > _CONTRADICTION * math.hypot(error, doubt):
        return measured
    share = doubt**2 / (doubt**2 + error**2)
    return share * measured + (1 - share) * foretold


def _mean_without_step(cells: Sequence[Cell], slope: Numbers, power: int) -> Numbers:
    """Return the blocks of f at one γ: the mean of its cells, weighted by their precision."""
    total = np.zeros(len(cells[0].blocks))
    weight_sum = 0.0
    for cell in cells:
        variance = max(cell.standard_error, 1e-9) ** 2
        weight = 1 / variance if math.isfinite(variance) else 1.0
        total += weight * (cell.unheated - slope * cell.step_size**power)
        weight_sum += weight
    return total / weight_sum
