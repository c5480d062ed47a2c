"""Run the cells of a calibration, round by round."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from .calibration_rounds import (
    BUDGET,
    LONGER,
    Judged,
    Plan,
    asks_for_more,
    draws_of,
    judge_cell,
    momentum_of,
    not_at_minimum,
    plan_measurement,
    tame,
)
from .curvature import largest_curvature
from .extrapolation import REFERENCE, Fit, extrapolate
from .llc import Known, open_session, sample
from .minimum import Minimum
from .pieces import Group
from .preconditioner import Preconditioners, bytes_of_preconditioner
from .problem import Problem
from .rounds_progress import RoundsProgress
from .samplers import SAMPLERS
from .settings import LLCSettings
from .spectrum import Spectrum

STEP_FRACTIONS = (0.2, 0.4)  # of 1/a, a the largest curvature: "sghmc" is stable below 4/a
LOCALIZATIONS = (1.0, 4.0, 16.0, 64.0)  # down to a prior of unit width
TRIAL = "preconditioned"
STEPS_OF_TRIAL = (0.1, 0.2)
MIN_DRAWS = 100.0  # effective ones of a trial
SHARES = (0.6, 1.0)  # of the rest of the budget: of the measurement and its correction
_BURNIN = 4  # the part of the draws left out is one over this


@dataclass
class CalibrationRun:
    """Hold what a calibration has found so far.

    Attributes:
        problem: one network.
        settings: of all cells, except for sampler, step size, localization and number of draws.
        nbeta: nβ.
        spectrum: of the curvatures at w*, for networks of few parameters.
        progress: of all rounds.
        minima: the local minimum that w* is, if `settings.minimize`.
        bounds: d/2 of the parameters with a gradient, as each cell counted them.
        judged: the cells of all rounds.
        ends: where the chains of a localization ended in the last round in which they were not wild, (C, P).
        rounds: how many rounds ran.
        spent: draws of all cells, as a multiple of num_draws.
        stiffest: the largest curvature of U that step sizes were derived from. None: they were not.
        notes: what was left out, for people.
    """

    problem: Problem
    settings: LLCSettings
    nbeta: float
    spectrum: Spectrum | None
    progress: RoundsProgress
    minima: Sequence[Minimum] = ()
    bounds: list[float] = field(default_factory=list)
    judged: list[Judged] = field(default_factory=list)
    ends: dict[float, Tensor] = field(default_factory=dict)
    rounds: int = 0
    spent: float = 0.0
    stiffest: float | None = None
    notes: list[str] = field(default_factory=list)
    _closings: list[Callable[[], None]] = field(default_factory=list)

    @functools.cached_property
    def _preconditioners(self) -> Preconditioners:
        """Return the preconditioners of all rounds."""
        return Preconditioners(self.problem, self.settings.seed)

    @property
    def newest(self) -> list[Judged]:
        """Return the cells of the last round."""
        return [each for each in self.judged if each.round == self.rounds]

    def close(self) -> None:
        """Remove the snapshots of all rounds, and report that no more draws will come."""
        for close in self._closings:
            close()
        self.progress.end()

    @property
    def bound(self) -> float:
        """Return d/2 of the parameters with a gradient: the largest count, because a cell may overlook some."""
        return max(self.bounds, default=self.problem.layout.size / 2)

    def add(self, plan: Plan) -> list[Judged]:
        """Run the cells of a round as groups of one computation, and return them judged.

        The chains begin where those of the same localization ended, with new noise.
        """
        groups = [Group(0, self.rounds, step, pull, self.nbeta) for step, pull in plan.cells]
        share = plan.num_draws / self.settings.num_draws
        settings = self._settings(plan)
        self.rounds += 1
        self.spent += len(groups) * share
        starts = self._starts([pull for _, pull in plan.cells])
        session = open_session(self.problem, groups, settings, Known(self._preconditioners, self.minima, starts))
        results = sample(session)
        self._closings.append(session.closing())
        found = []
        for result in results:
            found.append(judge_cell(result, self.rounds, self.spectrum))
            if result.biases is not None and result.biases.bound > 0:
                self.bounds.append(result.biases.bound)
        self._keep_ends(found, session.positions())
        self.judged.extend(found)
        return found

    def _settings(self, plan: Plan) -> LLCSettings:
        """Return the settings of a round."""
        given = self.settings
        burnin = plan.num_draws // _BURNIN
        if given.num_burnin_steps is not None:
            burnin = plan.num_draws * given.num_burnin_steps // given.num_draws
        options = given.sampler_options
        if plan.sampler != given.sampler:
            options = None
        if options is None and plan.momentum is not None:
            options = {"momentum": plan.momentum}
        return replace(
            given,
            sampler=plan.sampler,
            sampler_options=options,
            step_size=plan.cells[0][0],
            num_draws=plan.num_draws,
            num_burnin_steps=burnin,
            progress=self.progress.of_round(),
        )

    def _starts(self, pulls: Sequence[float]) -> Tensor | None:
        """Return where the chains of cells of these localizations begin, (G, C, P). None: all at w*."""
        if not self.ends:
            return None
        some = next(iter(self.ends.values()))
        anchors = self.problem.anchors[0].cpu().expand_as(some)
        return torch.stack([self.ends.get(pull, anchors) for pull in pulls])

    def _keep_ends(self, found: Sequence[Judged], positions: Tensor) -> None:
        """Keep where the chains of each localization ended, those of the largest step that is not wild."""
        for each, end in sorted(zip(found, positions, strict=True), key=lambda pair: pair[0].cell.step_size):
            if not each.wild:
                self.ends[each.cell.localization] = end

    def curvature(self, localization: float) -> float:
        """Return the largest curvature of U at this γ."""
        return largest_curvature(
            self.problem,
            nbeta=self.nbeta,
            localization=localization,
            seed=self.settings.seed,
        )

    def fit(self) -> Fit | None:
        """Return the estimate of the last round with a cell that serves. None if there is no such round."""
        for number in range(self.rounds, 0, -1):
            serving = [each.cell for each in self.judged if each.round == number and each.cell.mixes]
            if serving:
                return extrapolate(serving, bound=self.bound, reference=REFERENCE)
        return None


def grid(steps: Sequence[float], localizations: Sequence[float]) -> list[tuple[float, float]]:
    """Return the pairs (ε, γ), all steps of the first localization before those of the next.

    Example:
        >>> grid([0.1, 0.2], [1.0, 4.0])
        [(0.1, 1.0), (0.2, 1.0), (0.1, 4.0), (0.2, 4.0)]
    """
    return [(step, pull) for pull, step in itertools.product(localizations, steps)]


def run_in_rounds(run: CalibrationRun, any_sampler: bool) -> None:
    """Run the rounds of a calibration. They end at once where the cells know that w* is no minimum.

    Args:
        run: a new one.
        any_sampler: whether the sampler may be another one than in the settings.
    """
    for plan in _plans(run, any_sampler):
        run.add(plan)
        if not_at_minimum(run.newest):
            break


def _plans(run: CalibrationRun, any_sampler: bool) -> Iterator[Plan]:
    """Yield a trial, a survey if it fails, a measurement, a correction if that fails, and a longer round if it asks.

    Each round is planned from the cells of the one before.
    """
    settings = run.settings
    half = max(2, settings.num_draws // 2)
    last: list[Judged] = []
    if settings.sampler == TRIAL or (any_sampler and _trial_fits(run)):
        yield Plan(TRIAL, grid(STEPS_OF_TRIAL, LOCALIZATIONS[:-1]), half)
        last = run.newest
    serves = tame(last) and draws_of(last) >= MIN_DRAWS
    if not serves and settings.sampler != TRIAL:
        yield Plan(settings.sampler, _cells_of_survey(run), half)
        if not tame(last) or draws_of(run.newest) > draws_of(last):
            last = run.newest
    for share in SHARES:
        yield _measurement(run, last, share * (BUDGET - run.spent))
        last = run.newest
        if tame(last):
            break
    if asks_for_more(last, run.fit()):
        run.progress.expect(LONGER)
        yield _measurement(run, last, LONGER)


def _trial_fits(run: CalibrationRun) -> bool:
    """Return whether chains run together, at a precision that the sampler of a trial takes, and in memory.

    If the precision or the memory is too low, that is noted.
    """
    problem = run.problem
    if not problem.vectorize:
        return False
    if problem.compute_dtype is not None:
        run.notes.append(f"no trial of {TRIAL!r}: it does not take dtype={problem.compute_dtype}")
        return False
    needed = bytes_of_preconditioner(problem.layout.size)
    if needed <= problem.memory_budget:
        return True
    run.notes.append(
        f"no trial of {TRIAL!r}: its preconditioner takes {needed} bytes, above memory_budget={problem.memory_budget}"
    )
    return False


def _cells_of_survey(run: CalibrationRun) -> list[tuple[float, float]]:
    """Return the cells of a survey. The step is in units of the curvature at each γ.

    A posterior is wider at a weaker localization, and steeper there where the loss is not quadratic.
    """
    cells = []
    largest = 0.0
    for pull in LOCALIZATIONS:
        curvature = run.curvature(pull)
        largest = max(largest, curvature)
        cells += grid([fraction / curvature for fraction in STEP_FRACTIONS], [pull])
    run.stiffest = largest
    return cells


def _measurement(run: CalibrationRun, judged: list[Judged], draws: float) -> Plan:
    """Return the next round from the cells of the one before."""
    plan = plan_measurement(judged, run.settings.num_draws, draws, run.bound)
    if "momentum" not in SAMPLERS[plan.sampler].options:
        return plan
    return replace(plan, momentum=momentum_of(judged))
