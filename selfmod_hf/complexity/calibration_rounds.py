"""Judge the cells of a calibration, and plan its rounds.

1. *Trial.* Few cells of the sampler "preconditioned", in which flat and steep directions relax alike. It serves where
   the curvature is about the same everywhere. It runs if no sampler is given.
2. *Survey.* If the trial fails: cells of "sghmc" at all localizations γ, with two step sizes ε each.
3. *Measurement.* The three weakest localizations that are not ruled out, with the rest of the budget.

The measurement corrects the step sizes:

* A cell that *spikes* has draws that the posterior's law does not have. Far from w* the curvature is larger than near
  it, and the step is beyond its stability there. The step sizes of this γ are halved.
* If the estimate grows by more than 5 % over the smaller step, as by the noise of minibatches, the steps of this γ
  become so small that it grows by 4 %.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .cells import FLOOR, Cell
from .diagnostics import Draws, standard_error
from .extrapolation import CONFIDENCE, Fit
from .result import DIVERGED, NOT_AT_MINIMUM, LLCResult
from .samplers import SAMPLERS
from .spectrum import Spectrum
from .status import BIAS_ERRORS, MIN_ACCEPTANCE, MIN_TEMPERATURE, PULL_SHARE

MAX_RHAT = 1.1
MIN_ESS = 50.0
BUDGET = 24.0  # draws of all cells together, as a multiple of num_draws
LONGER = 48.0  # the same of one more round, if the cells before do not agree on one estimate
LONGEST = 8.0  # draws of one cell, as a multiple of num_draws

DIVERGES, SPIKES, FALLS, RISES, FEW = "diverges", "spikes", "falls", "rises", "few draws"
ALONE, COLD, REJECTS, HELD = "one chain", "not spread", "few accepted", "held by the localization"
_WILD = (DIVERGES, SPIKES)
_UNSETTLED = (SPIKES, RISES, FEW, COLD)

_BLOCKS = 4  # of each chain
_TREND, _TREND_ERRORS = 0.03, 3.0
_SPREADS, _TAIL = 15.0, 3.0  # a draw beyond the median by so many spreads, and so many nats per log of draws, spikes
_LARGE_SPIKES = 0.02  # of the estimate: spikes that add less do not count
_MEASURED = 3  # localizations of the measurement
_GROWTH, _WANTED_GROWTH = 0.05, 0.04
_SMALLEST = 1 / 64  # at most this factor of a step size from one round to the next
_OF_A_SPIKE = 0.5  # the factor of the steps of a γ at which the larger one spikes
_OF_WILD = 0.25  # the factor where both do
_MOST_MOMENTUM = 0.998
_NOISE = 0.1  # of the estimate: half of the interval of chance that more draws are worth
_HEATED = 0.05  # of the estimate: the most that minibatches may add by a larger momentum


@dataclass(frozen=True)
class Plan:
    """Hold the cells of a round.

    Attributes:
        sampler: of all cells.
        cells: (ε, γ) of each.
        num_draws: of each chain.
        momentum: of all cells. None: the sampler's default.
    """

    sampler: str
    cells: list[tuple[float, float]]
    num_draws: int
    momentum: float | None = None


@dataclass(frozen=True)
class Judged:
    """Hold one cell with its result.

    Attributes:
        result: the estimate.
        cell: its numbers for the extrapolation.
        round: the round it ran in, from 1.
        trouble: why it does not serve, "" if it does.
        rise: mean of the last third of the kept draws minus that of the first. NaN if the cell diverged.
    """

    result: LLCResult
    cell: Cell
    round: int
    trouble: str
    rise: float

    @property
    def wild(self) -> bool:
        """Return whether the step is too long for its localization."""
        return self.trouble in _WILD


def judge_cell(result: LLCResult, number: int, spectrum: Spectrum | None) -> Judged:
    """Return a cell of the round of this number, with its trouble.

    Args:
        result: of the cell.
        number: of the round.
        spectrum: of the curvatures at w*, if it is known.
    """
    settings = result.settings
    trace = result.llc_trace(paired=settings.paired)
    kept = trace[:, settings.num_burnin_steps :]
    pull = 0.0
    if spectrum is not None:
        pull = spectrum.pull(settings.localization)
    heating = None
    if result.biases is not None:
        heating = result.biases.of_the_step
    trouble = DIVERGES
    rise = math.nan
    if result.status != DIVERGED and np.isfinite(kept).all():
        rise = _rise(kept)
        trouble = _trouble(kept, rise, result) or _own_trouble(result, pull)
    cell = Cell(
        step_size=settings.step_size,
        localization=settings.localization,
        blocks=_blocks(kept),
        standard_error=result.standard_error,
        mixes=not trouble,
        pull=pull,
        heating=heating,
    )
    return Judged(result, cell, number, trouble, rise)


def _blocks(kept: Draws) -> Draws:
    """Return the means of equal parts of each chain, (chains x parts,)."""
    parts = min(_BLOCKS, kept.shape[1])
    length = kept.shape[1] // parts
    used = kept[:, : parts * length]
    by_part = used.reshape(len(kept), parts, length)
    return by_part.mean(axis=2).reshape(-1)


def _thirds(kept: Draws) -> tuple[Draws, Draws]:
    """Return the first and the last third of draws (C, T)."""
    third = max(1, kept.shape[1] // 3)
    return kept[:, :third], kept[:, -third:]


def _rise(kept: Draws) -> float:
    """Return how much higher the last third of draws (C, T) is than the first."""
    first, last = _thirds(kept)
    return float(last.mean() - first.mean())


def _trouble(kept: Draws, rise: float, result: LLCResult) -> str:
    """Return the first trouble of the kept draws (C, T), "" if none."""
    if result.llc < 0:
        return FALLS
    if _spikes(kept):
        return SPIKES
    if not result.rhat <= MAX_RHAT or not result.ess >= MIN_ESS:
        return FEW
    first, last = _thirds(kept)
    error = math.hypot(standard_error(first), standard_error(last))
    least = max(_TREND * abs(result.llc), _TREND_ERRORS * error)
    if abs(rise) <= least:
        return ""
    return RISES if rise > 0 else FALLS


def _own_trouble(result: LLCResult, pull: float) -> str:
    """Return the first trouble that the extrapolation does not mend, "" if none.

    A foretold bias of the step is extrapolated, and so is `pull`, the part of the pull that is known from w*.
    """
    if result.settings.num_chains == 1:
        return ALONE
    acceptance = result.acceptance_rate
    if acceptance is not None and acceptance < MIN_ACCEPTANCE:
        return REJECTS
    biases = result.biases
    if biases is None:
        return ""
    if biases.temperature + BIAS_ERRORS * biases.temperature_error < MIN_TEMPERATURE:
        return COLD
    unknown = biases.localization - BIAS_ERRORS * biases.localization_error - pull
    return HELD if unknown > PULL_SHARE * result.llc else ""


def _spikes(kept: Draws) -> bool:
    """Return whether draws out of the law's reach add visibly to the estimate.

    nβ (L - L(w*)) has a tail as short as exp(-x) under the posterior, and minibatches add a normal spread.
    """
    above = kept - np.median(kept)
    spread = 1.4826 * float(np.median(np.abs(above)))
    reach = _SPREADS * spread + _TAIL * math.log(kept.size)
    added = float(above[above > reach].sum()) / kept.size
    return added > _LARGE_SPIKES * abs(float(kept.mean()))


def draws_of(judged: Sequence[Judged]) -> float:
    """Return the effective draws at the weakest localization, at the smaller step. 0 if it is wild."""
    weakest = min(judged, key=lambda each: (each.cell.localization, each.cell.step_size))
    if weakest.wild or not math.isfinite(weakest.result.ess):
        return 0.0
    return weakest.result.ess


def tame(judged: Sequence[Judged]) -> bool:
    """Return whether the cells at two localizations or more, of which one is the weakest or the next, are not wild."""
    pulls = sorted({each.cell.localization for each in judged})
    wild = {each.cell.localization for each in judged if each.wild}
    good = [pull for pull in pulls if pull not in wild]
    return len(good) >= 2 and good[0] in pulls[:2]


def plan_measurement(judged: Sequence[Judged], num_draws: int, draws: float, bound: float) -> Plan:
    """Return the next round, from the cells of the one before.

    Args:
        judged: cells of one sampler, of a trial or a survey.
        num_draws: that the user gave.
        draws: of all cells together, as a multiple of num_draws.
        bound: d/2.
    """
    by_pull: dict[float, list[Judged]] = {}
    for each in sorted(judged, key=lambda each: each.cell.step_size):
        by_pull.setdefault(each.cell.localization, []).append(each)
    wild = [pull for pull in by_pull if by_pull[pull][0].wild]
    tame = [pull for pull in sorted(by_pull) if pull not in wild]
    chosen = tame[:_MEASURED]
    missing = _MEASURED - len(chosen)
    if missing > 0:
        chosen += sorted(wild)[-missing:]
    name = judged[0].result.sampler
    cells = []
    for pull in sorted(chosen):
        smallest = by_pull[pull][0].cell.step_size
        factor = max(_factor(by_pull[pull], bound), SAMPLERS[name].least_step / smallest)
        for each in by_pull[pull]:
            cells.append((factor * each.cell.step_size, pull))
    each_cell = min(LONGEST, draws / len(cells))
    return Plan(name, cells, int(each_cell * num_draws))


def not_at_minimum(judged: Sequence[Judged]) -> bool:
    """Return whether all cells at the two weakest localizations show that w* is no minimum.

    Chains that have not reached their law do not show it, because their estimates are too small.
    """
    pulls = sorted({each.cell.localization for each in judged})
    weakest = [each for each in judged if each.cell.localization in pulls[:2]]
    arrived = all(each.trouble not in (SPIKES, RISES, COLD) for each in weakest)
    return arrived and all(each.result.status == NOT_AT_MINIMUM for each in weakest)


def asks_for_more(judged: Sequence[Judged], fit: Fit | None) -> bool:
    """Return whether more draws may settle an estimate: cells disagree, and chance or slow chains explain it."""
    if fit is None:
        return not all(each.trouble == DIVERGES for each in judged)
    if fit.identified:
        return False
    if any(each.trouble in _UNSETTLED for each in judged):
        return True
    return CONFIDENCE * fit.standard_error > _NOISE * abs(fit.llc)


def momentum_of(judged: Sequence[Judged]) -> float:
    """Return the momentum at which the slowest direction is damped critically, at least that of the cells.

    A direction of curvature a that takes τ draws to forget where it was has ε a = 2 (1 - c) / ((1 + c) τ). With less
    friction it goes on faster, down to 1 - c = 2 sqrt(ε a). Less friction means more heating by minibatches, which
    is in proportion to (1 + c) / (1 - c). The momentum is limited where that is 5 % of the estimate.

    Args:
        judged: cells of one momentum.
    """
    settings = judged[0].result.settings
    before = settings.options["momentum"]
    friction = (1 - before) / (1 + before)
    momentum = before
    least_friction = 0.0
    for each in judged:
        result = each.result
        if each.wild or not result.ess > 0:
            continue
        kept = settings.num_chains * (settings.num_draws - settings.num_burnin_steps)
        momentum = max(momentum, math.exp(-2 * math.sqrt(2 * friction * result.ess / kept)))
        if result.biases is not None and result.llc > 0:
            share = result.biases.heating / (_HEATED * result.llc)
            least_friction = max(least_friction, friction * share)
    coldest = (1 - least_friction) / (1 + least_friction)
    return max(before, min(momentum, coldest, _MOST_MOMENTUM))


def _factor(cells: Sequence[Judged], bound: float) -> float:
    """Return the factor of the steps of one γ that keeps them from spikes, and the estimate from growing."""
    if cells[0].wild:
        return _OF_WILD
    factor = 1.0
    if any(cell.wild for cell in cells):
        factor = _OF_A_SPIKE
    growth = _growth_of(cells, bound)
    if growth > _GROWTH:
        factor = min(factor, _WANTED_GROWTH / growth)
    return max(_SMALLEST, factor)


def _growth_of(cells: Sequence[Judged], bound: float) -> float:
    """Return how much an estimate grows from no step to the smaller one, as a share of it.

    It is the foretold heating, and what is measured besides by the law of `cells.py`. Chains that have not arrived
    grow over the step because they get further with a longer one, so that nothing is measured from them.
    """
    smaller = cells[0].cell
    above_bound = max(0.0, smaller.llc - bound) / bound  # at least so much
    if len(cells) < 2 or cells[1].wild:
        return above_bound
    larger = cells[1].cell
    ratio = larger.step_size / smaller.step_size
    power = 1 if smaller.heating is None else 2
    apart = (larger.unheated - smaller.unheated) / (ratio**power - 1)
    if any(cell.trouble in _UNSETTLED for cell in cells):
        apart = np.zeros_like(apart)
    growth = float(apart.mean()) + (smaller.heating or 0.0)
    error = float(apart.std(ddof=1)) / math.sqrt(len(apart))
    level = min(max(smaller.llc - growth, FLOOR), bound)
    return max(above_bound, (growth - error) / level)
