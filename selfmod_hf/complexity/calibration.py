"""Estimate the learning coefficient without settings, from a grid of cells that runs as stacked computations.

A cell is an estimate at one step size ε and one localization γ. Three errors are to be balanced:

* Too large a step: discretization and minibatch noise make the estimate too high, in proportion to ε.
* Too small a step: the chains have not arrived within the draws given, and the trace still rises.
* Too strong a localization: a direction of curvature nβ h counts as nβ h / (2 (nβ h + γ)) in place of 1/2.

`calibration_rounds.py` plans the cells and says which ones serve. `extrapolation.py` makes one estimate of them:
without step size, and without the pull on the directions that are curved at w*. The other directions count as under
γ = 1, a prior of unit width. The result has one status and one interval:

* "ok": two localizations serve, and the cells agree on one estimate.
* "not_identified": they do not. The estimate is a guess, and the interval says how wide.
* "not_at_minimum": the loss falls from w*. "biased": the estimate exceeds d/2 by 3 errors, which no λ does.
* "not_converged", "diverged": no cell serves.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from ..files import plain, write_file
from ..stacking import Batch
from .calibration_rounds import BUDGET, DIVERGES, Judged, Plan
from .calibration_run import LOCALIZATIONS, STEP_FRACTIONS, STEPS_OF_TRIAL, TRIAL, CalibrationRun, grid, run_in_rounds
from .extrapolation import CONFIDENCE, REFERENCE, Fit, below
from .input_checks import check, positive
from .minimum import Minimum, at_minima
from .pieces import Group
from .plots import PathLike, plot_calibration
from .prepare import check_finite, make_problem
from .presets import is_named_after_paper
from .random_streams import some_samples
from .result import BIASED, DIVERGED, NOT_AT_MINIMUM, NOT_CONVERGED, NOT_IDENTIFIED, OK, LLCResult
from .rounds_progress import RoundsProgress
from .samplers import SAMPLERS
from .settings import CalibrationOptions, LLCSettings, shows_settings
from .spectrum import LEAST_SAMPLES, MOST_PARAMETERS, SHARE_OF_CHAINS, find_spectrum, in_double
from .status import BOUND_ERRORS, is_lower, reason_of_lower, reason_of_rounding

if TYPE_CHECKING:
    from typing_extensions import Unpack

SAMPLER = "sghmc"
# of the table in a summary
_HEADER = " step size  localization      rlct    error  trouble"
_LINE = "{step_size:>10.3g} {localization:>13.4g} {llc:>9.3f} {standard_error:>8.3f}  {trouble}"


@dataclass(frozen=True)
class LLCCalibration:
    """Hold an estimate without settings, the cells behind it, and one status for it.

    Attributes:
        sampler: of the chosen cell.
        step_size: of the chosen cell: the smallest step at the weakest localization that serves.
        localization: of the chosen cell.
        llc: the estimate from all cells that serve, without step size, see `extrapolation.py`. Directions that are
            curved at w* count without localization, all others under a localization of 1.
        standard_error: Monte Carlo error of `llc`.
        reason: the same as `status_reason`.
        result: the estimate at the chosen cell, step size and localization included.
        table: one row per cell: round, sampler, step_size, localization, llc, standard_error, rhat, ess,
            acceptance_rate, rise, status, trouble, serves, chosen.
        results: one per cell, in the order of the table.
        confirmed: whether the status is "ok".
        curvature: the largest curvature of U found, if the step sizes were derived from it, else None.
        status: of `llc`, one of `STATUSES`.
        status_reason: one line.
        interval: of 95 %, systematic error included. It reaches up to the limit at no localization at all, and no
            further than d/2. By chance `llc` itself may be above d/2.
        systematic_error: how far the cells or the laws of extrapolation disagree, nats.
        rounds: computations of cells, one after another.
        note: what was left out, such as a trial that does not fit into the memory budget. "": nothing.
    """

    sampler: str
    step_size: float
    localization: float
    llc: float
    standard_error: float
    reason: str
    result: LLCResult
    table: list[dict[str, Any]]
    results: list[LLCResult] = field(repr=False)
    confirmed: bool
    curvature: float | None = None
    status: str = NOT_CONVERGED
    status_reason: str = ""
    interval: tuple[float, float] = (math.nan, math.nan)
    systematic_error: float = math.nan
    rounds: int = 1
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return all fields except the traces, ready for JSON."""
        values: dict[str, Any] = {}
        for entry in fields(self):
            if entry.name not in ("result", "results"):
                values[entry.name] = getattr(self, entry.name)
        values["result"] = self.result.to_dict()
        return plain(values)

    def save(self, path: PathLike) -> Path:
        """Write `path` as JSON, complete or not at all."""
        text = json.dumps(self.to_dict(), indent=2)
        return write_file(Path(path), text + "\n")

    def summary(self) -> str:
        """Return a table of lines for people: all cells, and the choice."""
        lines = [_HEADER]
        for row in self.table:
            line = _LINE.format(**row)
            if row["chosen"]:
                line += " <- chosen"
            lines.append(line)
        low, high = self.interval
        lines.append(f"RLCT {self.llc:.3f} ± {self.standard_error:.3f}, between {low:.3f} and {high:.3f} (95 %)")
        lines.append(f"{self.status}: {self.status_reason}")
        if self.note:
            lines.append(self.note)
        return "\n".join(lines)

    def plot(self, path: PathLike | None = None) -> Any:
        """Plot LLC over step size by localization and the trace of each cell, and return the matplotlib figure."""
        traces = []
        for result in self.results:
            trace = result.llc_trace(paired=result.settings.paired)
            traces.append(trace)
        chosen = (self.step_size, self.result.llc)
        return plot_calibration(self.table, traces, chosen, self.llc, path)


@shows_settings(CalibrationOptions, sampler=SAMPLER)
def calibrate_llc(
    model: nn.Module,
    inputs: Batch,
    targets: Tensor,
    *,
    step_sizes: Sequence[float] | None = None,
    localizations: Sequence[float] | None = None,
    **settings: Unpack[CalibrationOptions],
) -> LLCCalibration:
    """Estimate the LLC from cells of several step sizes and localizations, and say how far the estimate can be trusted.

    All cells x chains of a round are stacked. Chain c has the same minibatches and the same noise in all cells, so that
    cells differ by their settings. The first rounds together take at most 24 times `num_draws` draws per chain.
    One more takes up to 48 times `num_draws`, if their cells do not agree on one estimate and more draws may help. If
    the cells of a round show that w* is no minimum, no round follows. `progress` counts the steps of all rounds.

    Args:
        model: as for `estimate_llc`.
        inputs: as for `estimate_llc`.
        targets: as for `estimate_llc`.
        step_sizes: values of ε. None: chosen in rounds, if `localizations` is None too, else 0.2 and 0.4 over the
            largest curvature of U near w*.
        localizations: values of γ. None: 1, 4, 16 and 64, those that serve.
        settings: as for `estimate_llc`, except for the two chosen ones and `target_standard_error`. `num_draws` is
            that of one cell of one round on average. Without a sampler, "preconditioned" is tried first. Where it does
            not serve, or its preconditioner does not fit into `memory_budget`, or `dtype` is bfloat16, it is "sghmc".
            `resume_from` keeps all rounds: a calibration that was killed goes on at the last block of its last round.

    Raises:
        ValueError: an invalid argument, or "fisher_sgld" without step sizes or localizations. Their
            defaults are in the weights' own units.

    Example:
        >>> import torch
        >>> x, labels = torch.randn(200, 2), torch.arange(200) % 3
        >>> found = calibrate_llc(nn.Linear(2, 3), x, labels, step_sizes=[1e-5], localizations=[1.0], num_draws=40)
        >>> len(found.results), found.sampler
        (1, 'sghmc')
    """
    given: dict[str, Any] = {"sampler": SAMPLER, **settings}
    for name in ("step_size", "localization"):
        check(name, given.get(name), name not in given, f"left out: it is chosen from `{name}s`")
    target = given.get("target_standard_error")
    check("target_standard_error", target, target is None, "left out of a calibration: `num_draws` says how many draws")
    shared = given.get("shared_minibatches", False)
    check("shared_minibatches", shared, shared is False, "left out of a calibration: it takes chains as independent")
    if given["sampler"] == TRIAL:
        given["step_size"] = min(STEPS_OF_TRIAL)  # the default is not in its unit
    chosen = LLCSettings(**given)
    if is_named_after_paper(chosen.preset):  # those only compare networks, while a calibration estimates λ
        chosen = replace(chosen, preset=f"calibrated from {chosen.preset}")
    steps = _grid("step_sizes", step_sizes, chosen.sampler)
    pulls = _grid("localizations", localizations, chosen.sampler)
    asked = _Asked(steps, pulls)
    run = _start(model, inputs, targets, chosen, asked)
    if asked.nothing:
        run_in_rounds(run, any_sampler="sampler" not in settings)
    else:
        _run_once(run, asked)
    run.close()
    return _calibrated(run)


@dataclass(frozen=True)
class _Asked:
    """Hold the step sizes and localizations of the user. Empty ones are chosen."""

    steps: list[float]
    pulls: list[float]

    @property
    def nothing(self) -> bool:
        """Return whether both are chosen, in rounds."""
        return not self.steps and not self.pulls

    @property
    def draws(self) -> float:
        """Return the draws of all cells, or the most of the first rounds, as a multiple of num_draws."""
        if self.nothing:
            return BUDGET
        return len(self.pulls or LOCALIZATIONS) * len(self.steps or STEP_FRACTIONS)


def _run_once(run: CalibrationRun, asked: _Asked) -> None:
    """Run one round of the user's grid."""
    pulls = asked.pulls or list(LOCALIZATIONS)
    steps = asked.steps
    if not steps:
        run.stiffest = run.curvature(max(pulls))
        steps = [fraction / run.stiffest for fraction in STEP_FRACTIONS]
    run.add(Plan(run.settings.sampler, grid(steps, pulls), run.settings.num_draws))


def _start(model: nn.Module, inputs: Batch, targets: Tensor, settings: LLCSettings, asked: _Asked) -> CalibrationRun:
    """Return a calibration that has not run, with the curvatures at w* of a network of few parameters.

    With `minimize`, w* is the local minimum for the chains and for the curvatures.
    """
    problem = make_problem([model], inputs, targets, settings)
    nbeta = settings.inverse_temperature(problem.num_samples)
    check_finite(problem)
    progress = RoundsProgress(settings)
    progress.expect(asked.draws)  # before the work that has no steps
    minima: list[Minimum] = []
    if settings.minimize:
        weakest = Group(0, 0, settings.step_size, min(asked.pulls or LOCALIZATIONS), nbeta)
        problem, minima = at_minima(problem, [weakest])
    run = CalibrationRun(problem, settings, nbeta, None, progress, minima)
    _find_curvatures(run, asked)
    return run


def _find_curvatures(run: CalibrationRun, asked: _Asked) -> None:
    """Give the run the curvatures at w* of a network of few parameters, or a note why they are not known.

    They are of all samples, if that is a small share of the chains' work, else of as many as it allows.
    """
    problem = run.problem
    settings = run.settings
    size = problem.layout.size
    if size > MOST_PARAMETERS or problem.device.type == "mps":  # which has no float64
        return
    total = problem.num_samples
    work = asked.draws * settings.num_draws * settings.num_chains * min(settings.batch_size, total)
    affordable = int(SHARE_OF_CHAINS * work / size)
    taken = min(total, max(LEAST_SAMPLES, affordable))
    try:
        found = find_spectrum(in_double(problem, 0, some_samples(total, taken, settings.seed)), run.nbeta)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:  # such as a module that casts its inputs to float32
        first = str(error).partition("\n")[0]
        run.notes.append(f"no curvatures at w* in float64: {first}")
        return
    if taken < total and found.least < -REFERENCE:  # the samples are not at their minimum: flat directions are hidden
        run.notes.append(
            f"no curvatures at w*: those of {taken} of {total} samples differ by {-found.least:.2g} or more"
        )
        return
    run.spectrum = found


def _grid(name: str, values: Sequence[float] | None, sampler: str) -> list[float]:
    """Return `values` sorted and without duplicates. An empty list means the default grid."""
    if values is None:
        allowed = f"given with sampler={sampler!r}: the defaults are not in units of the Fisher information"
        check(name, None, not SAMPLERS[sampler].needs_fisher, allowed)
        return []
    if isinstance(values, (np.ndarray, Tensor)):
        values = values.tolist()
    is_list = isinstance(values, Sequence) and not isinstance(values, str)
    check(name, values, is_list and len(values) > 0, "a list of one positive number or more")
    unique = set()
    for value in values:
        if isinstance(value, np.floating):
            value = float(value)
        check(name, value, positive(value), "positive numbers")
        unique.add(value)
    return sorted(unique)


def _calibrated(run: CalibrationRun) -> LLCCalibration:
    """Return the calibration of all rounds."""
    fit = run.fit()
    shown = _shown(run.judged)
    result = shown.result
    if fit is None:
        status = result.status if result.status in (DIVERGED, NOT_AT_MINIMUM) else NOT_CONVERGED
        fit = _without_fit(shown, run.bound)
    else:
        status = OK if fit.identified else NOT_IDENTIFIED
    reason = fit.reason
    biases = result.biases
    start = biases.of_the_start if biases is not None else 0.0
    rounding = biases.of_rounding if biases is not None else 0.0
    if result.status == NOT_AT_MINIMUM:
        status = NOT_AT_MINIMUM
        reason = result.status_reason
    elif biases is not None and is_lower(biases.not_at_minimum, fit.llc, result.standard_error):
        status = NOT_AT_MINIMUM
        reason = reason_of_lower(biases.not_at_minimum, fit.llc, run.settings.minimize, run.problem.full is not None)
    elif biases is not None and (rounded := reason_of_rounding(biases, fit.llc)) is not None:
        status, reason = BIASED, rounded
    elif fit.llc - BOUND_ERRORS * fit.standard_error - fit.systematic_error > run.bound:
        status = BIASED
        reason = f"the estimate {fit.llc:.4g} exceeds d/2 = {run.bound:g}, which no λ does"
    return LLCCalibration(
        sampler=result.sampler,
        step_size=shown.cell.step_size,
        localization=shown.cell.localization,
        llc=fit.llc,
        standard_error=fit.standard_error,
        reason=reason,
        result=result,
        table=[_row(each, each is shown) for each in run.judged],
        results=[each.result for each in run.judged],
        confirmed=status == OK,
        curvature=run.stiffest,
        status=status,
        status_reason=reason,
        interval=(fit.interval[0] - rounding, min(run.bound, fit.interval[1] + start + rounding)),
        systematic_error=fit.systematic_error,
        rounds=run.rounds,
        note="; ".join(run.notes),
    )


def _without_fit(shown: Judged, bound: float) -> Fit:
    """Return the estimate of the shown cell, if no cell serves."""
    result = shown.result
    half = CONFIDENCE * result.standard_error
    where = f"step size {shown.cell.step_size:.3g} at localization {shown.cell.localization:.3g}"
    return Fit(
        llc=result.llc,
        standard_error=result.standard_error,
        systematic_error=math.nan,
        interval=below(bound, result.llc, result.llc - half, math.inf),
        step_shift=0.0,
        localization_shift=0.0,
        identified=False,
        reason=f"no cell serves: {where} {shown.trouble}",
    )


def _shown(judged: list[Judged]) -> Judged:
    """Return the cell of the last round at the weakest localization that serves, with the smallest step.

    If none serves, it is the finite cell of the weakest localization.
    """

    def badness(each: Judged) -> tuple[bool, bool, int, float, float]:
        diverged = each.trouble == DIVERGES
        return not each.cell.mixes, diverged, -each.round, each.cell.localization, each.cell.step_size

    return min(judged, key=badness)


def _row(each: Judged, chosen: bool) -> dict[str, Any]:
    """Return the cell's row of the table."""
    result = each.result
    return {
        "round": each.round,
        "sampler": result.sampler,
        "step_size": each.cell.step_size,
        "localization": each.cell.localization,
        "llc": result.llc,
        "standard_error": result.standard_error,
        "rhat": result.rhat,
        "ess": result.ess,
        "acceptance_rate": result.acceptance_rate,
        "rise": each.rise,
        "status": result.status,
        "trouble": each.trouble,
        "serves": each.cell.mixes,
        "chosen": chosen,
    }
