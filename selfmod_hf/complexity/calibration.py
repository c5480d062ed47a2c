"""Choose a step size and a localization by rule, from a grid of cells that runs as one stacked computation.

Three errors are to be balanced:

* too large a step: discretization and minibatch noise make the estimate too high, in proportion to ε;
* too small a step: the chains have not arrived within the draws given, and the trace still rises;
* too strong a localization: a direction of curvature nβ h counts as nβ h / (2 (nβ h + γ)) in place of 1/2.

The rule, for every localization γ:

1. A cell *serves* if it is neither diverged nor not_at_minimum, its acceptance (where it has one) is at least 0.1,
   and its trace has stopped rising: the last quarter of all draws is over the second quarter by at most 4 % of the
   estimate, or by 2 errors of the difference where those are below 10 %; its standard error is at most 10 %.
2. The *plateau* is the largest step size that serves and agrees with the next smaller one (which may still rise, but
   not be diverged): by at most 2 %, or by 2 errors of the difference where those are below 5 %. Two step sizes that
   agree show that ε is small enough.

Then the chosen cell is the plateau of the smallest γ that has one. (Where none has, it is the smallest step size that
serves at the smallest γ, and `confirmed` is false.) The estimate is extrapolated to γ = 0 along the straight line
through it and the cell of the same step size at the next γ where that serves:
`llc = l1 + (l1 - l2) γ1 / (γ2 - γ1)`. Both cells have the same noise, which partly cancels.
"""

from __future__ import annotations

import itertools
import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor, nn

from ..files import plain, write_file
from ..stacking import Batch
from .chains import Group
from .curvature import largest_curvature
from .input_checks import check, positive
from .llc import sample
from .prepare import check_finite, make_problem
from .result import DIVERGED, NOT_AT_MINIMUM, LLCResult
from .samplers import SAMPLERS
from .settings import CalibrationOptions, LLCSettings, shows_settings
from .status import MAX_RELATIVE_ERROR, difference

if TYPE_CHECKING:
    from typing_extensions import Unpack

SAMPLER = "sghmc"
STEP_FRACTIONS = (0.04, 0.1)  # of 1/a, a the largest curvature; SGLD's error there is at most ε a/4
LOCALIZATION_FRACTIONS = (1 / 2000, 1 / 600, 1 / 200, 1 / 60)  # of nβ: what a curvature h must exceed to count
_RISE, _RISE_ERRORS, _LARGE_RISE = 0.04, 2.0, 0.1
_AGREEMENT, _AGREEMENT_ERRORS, _LARGE_DISAGREEMENT = 0.02, 2.0, 0.05
_MIN_ACCEPTANCE = 0.1


@dataclass(frozen=True)
class LLCCalibration:
    """A grid of estimates, the cell chosen, and why.

    Attributes:
        step_size, localization: of the chosen cell; `sampler` they hold for.
        llc: the estimate, extrapolated to no localization where two localizations serve; else the cell's.
        standard_error: of `llc`.
        reason: one line.
        result: the estimate at the chosen cell, localization and all.
        table: one row per cell: step_size, localization, llc, standard_error, rhat, ess, acceptance_rate, rise,
            status, serves, chosen.
        results: one per cell, in the order of the table.
        confirmed: whether two step sizes agree at the chosen localization.
        curvature: the largest curvature of U found, where the step sizes were derived from it; else None.
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

    def to_dict(self) -> dict[str, Any]:
        """Return all but the traces, ready for JSON."""
        names = [f.name for f in fields(self) if f.name not in ("result", "results")]
        return plain({name: getattr(self, name) for name in names} | {"result": self.result.to_dict()})

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write `path` as JSON, complete or not at all."""
        return write_file(Path(path), json.dumps(self.to_dict(), indent=2) + "\n")

    def summary(self) -> str:
        """Return a table of lines for people: all cells, and the choice."""
        lines = [f"{'step size':>10} {'localization':>13} {'rlct':>9} {'error':>8}  status"]
        for row in self.table:
            setting = f"{row['step_size']:>10.3g} {row['localization']:>13.4g}"
            estimate = f"{row['llc']:>9.3f} {row['standard_error']:>8.3f}"
            mark = " <- chosen" if row["chosen"] else ""
            lines.append(f"{setting} {estimate}  {row['status']}{mark}")
        lines.append(f"RLCT {self.llc:.3f} ± {self.standard_error:.3f}: {self.reason}")
        return "\n".join(lines)

    def plot(self, path: str | os.PathLike[str] | None = None) -> Any:
        """Plot LLC over step size by localization and the trace of each cell, and return the matplotlib figure."""
        from .plots import plot_calibration

        traces = [result.llc_trace(paired=result.settings.paired) for result in self.results]
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
    """Run each step size with each localization, all cells x chains stacked, and choose by the rule above.

    Chain c has the same minibatches and the same noise in all cells, so that cells differ by their settings.

    Args:
        model: as for `estimate_llc`.
        inputs: as for `estimate_llc`.
        targets: as for `estimate_llc`.
        step_sizes: values of ε. None: 0.04 and 0.1 over the largest curvature of U near w*.
        localizations: values of γ. None: nβ/2000, nβ/600, nβ/200 and nβ/60.
        settings: as for `estimate_llc`, except for the two that are chosen. The default sampler is "sghmc": it has no
            discretization error on quadratics and moves faster.

    Raises:
        ValueError: an argument that cannot be used, or "fisher_sgld" without step sizes or localizations, whose
            defaults are in the weights' own units.
    """
    given: dict[str, Any] = {"sampler": SAMPLER, **settings}
    for name in ("step_size", "localization"):
        check(name, given.get(name), name not in given, f"left out: it is chosen from `{name}s`")
    chosen = LLCSettings(**given)
    steps = _grid("step_sizes", step_sizes, chosen.sampler)
    pulls = _grid("localizations", localizations, chosen.sampler)
    problem = make_problem([model], inputs, targets, chosen)
    nbeta = chosen.inverse_temperature(problem.num_samples)
    check_finite(problem)
    pulls = pulls or [fraction * nbeta for fraction in LOCALIZATION_FRACTIONS]
    curvature = None
    if not steps:
        curvature = largest_curvature(problem, nbeta=nbeta, localization=pulls[-1], seed=chosen.seed)
        steps = [fraction / curvature for fraction in STEP_FRACTIONS]
    cells = [Group(0, 0, step, pull, nbeta) for pull in pulls for step in steps]
    return _choose(sample(problem, cells, chosen), curvature)


def _grid(name: str, values: Sequence[float] | None, sampler: str) -> list[float]:
    """Return `values` sorted and without duplicates. An empty list means the default grid."""
    if values is None:
        allowed = f"given with sampler={sampler!r}: the defaults are not in units of the Fisher information"
        check(name, None, not SAMPLERS[sampler].needs_fisher, allowed)
        return []
    values = values.tolist() if isinstance(values, (np.ndarray, Tensor)) else values
    several = isinstance(values, Sequence) and not isinstance(values, str) and len(values) > 0
    check(name, values, several, "a list of one positive number or more")
    values = [float(value) if isinstance(value, np.floating) else value for value in values]
    for value in values:
        check(name, value, positive(value), "positive numbers")
    return sorted(set(values))


@dataclass(frozen=True)
class _Cell:
    result: LLCResult
    rise: float
    serves: bool

    @classmethod
    def of(cls, result: LLCResult) -> _Cell:
        if result.status in (DIVERGED, NOT_AT_MINIMUM):
            return cls(result, math.nan, False)
        trace = result.llc_trace(paired=result.settings.paired)
        quarter = trace.shape[1] // 4
        rise, error = difference(trace[:, quarter : 2 * quarter], trace[:, -quarter:])
        noise = min(_RISE_ERRORS * error, _LARGE_RISE * abs(result.llc))
        risen = rise > max(_RISE * abs(result.llc), noise)
        risen |= not result.standard_error <= MAX_RELATIVE_ERROR * abs(result.llc)  # too few draws to tell
        acceptance = result.acceptance_rate
        accepted = acceptance is None or acceptance >= _MIN_ACCEPTANCE
        return cls(result, rise, accepted and not risen)

    @property
    def pull(self) -> float:
        return self.result.settings.localization

    @property
    def step(self) -> float:
        return self.result.settings.step_size


def _choose(results: list[LLCResult], curvature: float | None) -> LLCCalibration:
    cells = [_Cell.of(result) for result in results]
    pulls = sorted({cell.pull for cell in cells})
    plateaus = [p for pull in pulls if (p := _plateau([c for c in cells if c.pull == pull]))]
    serving = [cell for cell in cells if cell.serves]
    if plateaus or serving:
        chosen, llc, error, reason = _extrapolate((plateaus or serving)[0], cells)
        if not plateaus:
            reason = f"unconfirmed, no two step sizes agree: {reason}"
    else:
        chosen = _least_bad(cells)
        llc, error = chosen.result.llc, chosen.result.standard_error
        reason = f"no cell serves; the least bad one is {chosen.result.status}: {chosen.result.status_reason}"
    settings = chosen.result.settings
    return LLCCalibration(
        settings.sampler, settings.step_size, settings.localization, llc, error, reason, chosen.result,
        [_row(cell, cell is chosen) for cell in cells], results, bool(plateaus), curvature,
    )  # fmt: skip


def _plateau(cells: list[_Cell]) -> _Cell | None:
    """Return the largest step size that agrees with the next smaller one, of cells of one γ by rising step size."""
    for smaller, cell in reversed(list(itertools.pairwise(cells))):
        first, second = smaller.result, cell.result
        noise = _AGREEMENT_ERRORS * math.hypot(first.standard_error, second.standard_error)
        allowed = max(_AGREEMENT * abs(first.llc), min(noise, _LARGE_DISAGREEMENT * abs(first.llc)))
        if abs(second.llc - first.llc) <= allowed and cell.serves:
            return cell
    return None


def _extrapolate(first: _Cell, cells: list[_Cell]) -> tuple[_Cell, float, float, str]:
    """Return the chosen cell, the estimate at γ = 0, its standard error, and why."""
    result, settings = first.result, first.result.settings
    where = f"step size {settings.step_size:.3g} at localization {settings.localization:.3g}"
    others = [c for c in cells if c.serves and c.pull > first.pull and c.step == settings.step_size]
    if not others:
        return first, result.llc, result.standard_error, f"{where}; no second localization to extrapolate with"
    second = min(others, key=lambda cell: cell.pull)
    share = first.pull / (second.pull - first.pull)
    llc = result.llc + share * (result.llc - second.result.llc)
    error = math.hypot((1 + share) * result.standard_error, share * second.result.standard_error)
    return first, llc, error, f"{where}; extrapolated to none with {second.pull:.3g}: {result.llc:.4g} -> {llc:.4g}"


def _least_bad(cells: list[_Cell]) -> _Cell:
    """Return a finite cell before a diverged one, then the smallest step size at the strongest localization."""

    def badness(cell: _Cell) -> tuple[bool, float, float]:
        settings = cell.result.settings
        return cell.result.status == DIVERGED, settings.step_size, -settings.localization

    return min(cells, key=badness)


def _row(cell: _Cell, chosen: bool) -> dict[str, Any]:
    result = cell.result
    return {
        "step_size": result.settings.step_size,
        "localization": result.settings.localization,
        "llc": result.llc,
        "standard_error": result.standard_error,
        "rhat": result.rhat,
        "ess": result.ess,
        "acceptance_rate": result.acceptance_rate,
        "rise": cell.rise,
        "status": result.status,
        "serves": cell.serves,
        "chosen": chosen,
    }
