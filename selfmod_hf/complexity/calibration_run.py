"""Run the cells of a calibration, round by round."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from .calibration_rounds import BUDGET, Judged, Plan, draws_of, judge_cell, plan_measurement, tame
from .curvature import largest_curvature
from .extrapolation import REFERENCE, Fit, extrapolate
from .llc import sample
from .pieces import Group
from .problem import Problem
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
        bounds: d/2 of the parameters with a gradient, as each cell counted them.
        judged: the cells of all rounds.
        rounds: how many rounds ran.
        spent: draws of all cells, as a multiple of num_draws.
    """

    problem: Problem
    settings: LLCSettings
    nbeta: float
    spectrum: Spectrum | None
    bounds: list[float] = field(default_factory=list)
    judged: list[Judged] = field(default_factory=list)
    rounds: int = 0
    spent: float = 0.0

    @property
    def bound(self) -> float:
        """Return d/2 of the parameters with a gradient: the largest count, because a cell may overlook some."""
        return max(self.bounds, default=self.problem.layout.size / 2)

    def add(self, plan: Plan) -> list[Judged]:
        """Run the cells of a round as groups of one computation, and return them judged."""
        groups = [Group(0, 0, step, pull, self.nbeta) for step, pull in plan.cells]
        share = plan.num_draws / self.settings.num_draws
        burnin = plan.num_draws // _BURNIN
        if self.settings.num_burnin_steps is not None:
            burnin = int(share * self.settings.num_burnin_steps)
        options = self.settings.sampler_options
        if plan.sampler != self.settings.sampler:
            options = None
        settings = replace(
            self.settings,
            sampler=plan.sampler,
            sampler_options=options,
            step_size=plan.cells[0][0],
            num_draws=plan.num_draws,
            num_burnin_steps=burnin,
        )
        self.rounds += 1
        self.spent += len(groups) * share
        found = []
        for result in sample(self.problem, groups, settings):
            found.append(judge_cell(result, self.rounds, self.spectrum))
            if result.biases is not None and result.biases.bound > 0:
                self.bounds.append(result.biases.bound)
        self.judged.extend(found)
        return found

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


def run_in_rounds(run: CalibrationRun, any_sampler: bool) -> float | None:
    """Run a trial, a survey if it fails, a measurement, and a correction if that fails.

    Returns:
        The largest curvature, if step sizes were derived from it.

    Args:
        run: a new one.
        any_sampler: whether the sampler may be another one than in the settings.
    """
    settings = run.settings
    half = max(2, settings.num_draws // 2)
    last: list[Judged] = []
    curvature = None
    if any_sampler and run.problem.vectorize:
        cells = grid(STEPS_OF_TRIAL, LOCALIZATIONS[:-1])
        last = run.add(Plan(TRIAL, cells, half))
    serves = tame(last) and draws_of(last) >= MIN_DRAWS
    if not serves and settings.sampler != TRIAL:
        curvature = run.curvature(max(LOCALIZATIONS))
        steps = [fraction / curvature for fraction in STEP_FRACTIONS]
        survey = run.add(Plan(settings.sampler, grid(steps, LOCALIZATIONS), half))
        if not tame(last) or draws_of(survey) > draws_of(last):
            last = survey
    for share in SHARES:
        draws = share * (BUDGET - run.spent)
        last = run.add(plan_measurement(last, settings.num_draws, draws, run.bound))
        if tame(last):
            break
    return curvature
