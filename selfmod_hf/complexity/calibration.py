"""Choose a step size and a localization by rule, from a grid of cells that runs as one stacked computation.

Three errors are to be balanced:

* Too large a step: discretization and minibatch noise make the estimate too high, in proportion to ε.
* Too small a step: the chains have not arrived within the draws given, and the trace still rises.
* Too strong a localization: a direction of curvature nβ h counts as nβ h / (2 (nβ h + γ)) in place of 1/2.

The rule, for every localization γ:

1. A cell *serves* if all of these hold. It is neither diverged nor not_at_minimum. Its acceptance, if it has one, is
   at least 0.1. Its standard error is at most 10 %. Its trace has stopped rising: the last quarter of all draws is over
   the second quarter by at most 4 % of the estimate, or by 2 errors of the difference if those are below 10 %.
2. The *plateau* is the largest step size that serves and agrees with the next smaller one: by at most 2 %, or by 2
   errors of the difference if those are below 5 %. The smaller one may still rise, but not be diverged. Agreement of
   two step sizes shows that ε is small enough.

Then the chosen cell is the plateau of the smallest γ with a plateau. Without any plateau it is the smallest step size
that serves at the smallest γ, and `confirmed` is false. The estimate is extrapolated to γ = 0 along the straight line
through it and the cell of the same step size at the next γ, if it serves: `llc = l1 + (l1 - l2) γ1 / (γ2 - γ1)`. The
noise of both cells is the same and partly cancels.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor, nn

from ..files import plain, write_file
from ..stacking import Batch
from .curvature import largest_curvature
from .diagnostics import standard_error
from .input_checks import check, positive
from .llc import sample
from .pieces import Group
from .plots import PathLike, plot_calibration
from .prepare import check_finite, make_problem
from .result import DIVERGED, NOT_AT_MINIMUM, LLCResult
from .samplers import SAMPLERS
from .settings import CalibrationOptions, LLCSettings, shows_settings
from .status import MAX_RELATIVE_ERROR

if TYPE_CHECKING:
    from typing_extensions import Unpack

SAMPLER = "sghmc"
STEP_FRACTIONS = (0.04, 0.1)  # of 1/a, a the largest curvature: SGLD's error is then at most ε a/4
LOCALIZATION_FRACTIONS = (1 / 2000, 1 / 600, 1 / 200, 1 / 60)  # of nβ: a curvature h counts if it exceeds this
_RISE, _RISE_ERRORS, _LARGE_RISE = 0.04, 2.0, 0.1
_AGREEMENT, _AGREEMENT_ERRORS, _LARGE_DISAGREEMENT = 0.02, 2.0, 0.05
_MIN_ACCEPTANCE = 0.1

# of the table in a summary
_HEADER = " step size  localization      rlct    error  status"
_LINE = "{step_size:>10.3g} {localization:>13.4g} {llc:>9.3f} {standard_error:>8.3f}  {status}"


@dataclass(frozen=True)
class LLCCalibration:
    """Hold a grid of estimates, the chosen cell, and the reason for the choice.

    Attributes:
        sampler: of all cells.
        step_size: of the chosen cell.
        localization: of the chosen cell.
        llc: the estimate, extrapolated to no localization if two localizations serve, else the chosen cell's.
        standard_error: of `llc`.
        reason: one line.
        result: the estimate at the chosen cell, localization included.
        table: one row per cell: step_size, localization, llc, standard_error, rhat, ess, acceptance_rate, rise,
            status, serves, chosen.
        results: one per cell, in the order of the table.
        confirmed: whether two step sizes agree at the chosen localization.
        curvature: the largest curvature of U found, if the step sizes were derived from it, else None.
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
        lines.append(f"RLCT {self.llc:.3f} ± {self.standard_error:.3f}: {self.reason}")
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
    """Run each step size with each localization, all cells x chains stacked, and choose by the rule above.

    Chain c has the same minibatches and the same noise in all cells, so that cells differ by their settings.

    Args:
        model: as for `estimate_llc`.
        inputs: as for `estimate_llc`.
        targets: as for `estimate_llc`.
        step_sizes: values of ε. None: 0.04 and 0.1 over the largest curvature of U near w*.
        localizations: values of γ. None: nβ/2000, nβ/600, nβ/200 and nβ/60.
        settings: as for `estimate_llc`, except for the two chosen ones. The default sampler is "sghmc", because it
            has no discretization error on quadratics and moves faster.

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
    chosen = LLCSettings(**given)
    steps = _grid("step_sizes", step_sizes, chosen.sampler)
    pulls = _grid("localizations", localizations, chosen.sampler)
    problem = make_problem([model], inputs, targets, chosen)
    nbeta = chosen.inverse_temperature(problem.num_samples)
    check_finite(problem)
    if not pulls:
        pulls = [fraction * nbeta for fraction in LOCALIZATION_FRACTIONS]
    curvature = None
    if not steps:
        curvature = largest_curvature(problem, nbeta=nbeta, localization=pulls[-1], seed=chosen.seed)
        steps = [fraction / curvature for fraction in STEP_FRACTIONS]
    cells = []
    for pull in pulls:
        for step in steps:
            cells.append(Group(0, 0, step, pull, nbeta))
    return _choose(sample(problem, cells, chosen), curvature)


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


@dataclass(frozen=True)
class _Cell:
    """Hold one estimate of the grid.

    Attributes:
        result: the estimate.
        rise: mean of the last quarter of the trace minus that of the second, NaN if the cell is of no use.
        serves: rule 1.
    """

    result: LLCResult
    rise: float
    serves: bool

    @classmethod
    def of(cls, result: LLCResult) -> _Cell:
        """Return the cell of an estimate, judged by rule 1."""
        if result.status in (DIVERGED, NOT_AT_MINIMUM):
            return cls(result, math.nan, False)
        trace = result.llc_trace(paired=result.settings.paired)
        quarter = trace.shape[1] // 4
        half = 2 * quarter
        second = trace[:, quarter:half]
        last = trace[:, -quarter:]
        rise = float(last.mean() - second.mean())
        error = math.hypot(standard_error(second), standard_error(last))
        size = abs(result.llc)
        noise = min(_RISE_ERRORS * error, _LARGE_RISE * size)
        risen = rise > max(_RISE * size, noise)
        precise = result.standard_error <= MAX_RELATIVE_ERROR * size  # else too few draws to judge
        acceptance = result.acceptance_rate
        accepted = acceptance is None or acceptance >= _MIN_ACCEPTANCE
        serves = accepted and precise and not risen
        return cls(result, rise, serves)

    @property
    def pull(self) -> float:
        """Return γ."""
        return self.result.settings.localization

    @property
    def step(self) -> float:
        """Return ε."""
        return self.result.settings.step_size


def _choose(results: list[LLCResult], curvature: float | None) -> LLCCalibration:
    """Return the calibration of a grid of estimates, ordered by localization, then by step size."""
    cells = [_Cell.of(result) for result in results]
    by_pull: dict[float, list[_Cell]] = {}
    for cell in cells:
        of_pull = by_pull.setdefault(cell.pull, [])
        of_pull.append(cell)
    plateaus = []
    for pull in sorted(by_pull):
        plateau = _plateau(by_pull[pull])
        if plateau is not None:
            plateaus.append(plateau)
    serving = [cell for cell in cells if cell.serves]
    if plateaus:
        chosen = plateaus[0]
        llc, error, reason = _extrapolate(chosen, cells)
    elif serving:
        chosen = serving[0]
        llc, error, reason = _extrapolate(chosen, cells)
        reason = f"unconfirmed, no two step sizes agree: {reason}"
    else:
        chosen = _least_bad(cells)
        result = chosen.result
        llc = result.llc
        error = result.standard_error
        reason = f"no cell serves; the least bad one is {result.status}: {result.status_reason}"
    return LLCCalibration(
        sampler=chosen.result.sampler,
        step_size=chosen.step,
        localization=chosen.pull,
        llc=llc,
        standard_error=error,
        reason=reason,
        result=chosen.result,
        table=[_row(cell, cell is chosen) for cell in cells],
        results=results,
        confirmed=bool(plateaus),
        curvature=curvature,
    )


def _plateau(cells: list[_Cell]) -> _Cell | None:
    """Return the largest step size in agreement with the next smaller one, of cells of one γ by rising step size."""
    pairs = list(itertools.pairwise(cells))
    for smaller, cell in reversed(pairs):
        first = smaller.result
        second = cell.result
        size = abs(first.llc)
        error = math.hypot(first.standard_error, second.standard_error)
        noise = min(_AGREEMENT_ERRORS * error, _LARGE_DISAGREEMENT * size)
        allowed = max(_AGREEMENT * size, noise)
        difference = abs(second.llc - first.llc)
        if difference <= allowed and cell.serves:
            return cell
    return None


def _extrapolate(cell: _Cell, cells: list[_Cell]) -> tuple[float, float, str]:
    """Return the estimate at γ = 0, its standard error, and the reason, for the chosen cell."""
    first = cell.result
    where = f"step size {cell.step:.3g} at localization {cell.pull:.3g}"
    next_cell: _Cell | None = None
    for other in cells:
        if not other.serves or other.step != cell.step or other.pull <= cell.pull:
            continue
        if next_cell is None or other.pull < next_cell.pull:
            next_cell = other
    if next_cell is None:
        reason = f"{where}; no second localization to extrapolate with"
        return first.llc, first.standard_error, reason
    second = next_cell.result
    share = cell.pull / (next_cell.pull - cell.pull)
    difference = first.llc - second.llc
    llc = first.llc + share * difference
    first_error = (1 + share) * first.standard_error
    second_error = share * second.standard_error
    error = math.hypot(first_error, second_error)
    reason = f"{where}; extrapolated to none with {next_cell.pull:.3g}: {first.llc:.4g} -> {llc:.4g}"
    return llc, error, reason


def _least_bad(cells: list[_Cell]) -> _Cell:
    """Return a finite cell before a diverged one, then the smallest step size at the strongest localization."""

    def badness(cell: _Cell) -> tuple[bool, float, float]:
        diverged = cell.result.status == DIVERGED
        return diverged, cell.step, -cell.pull

    return min(cells, key=badness)


def _row(cell: _Cell, chosen: bool) -> dict[str, Any]:
    """Return the cell's row of the table."""
    result = cell.result
    return {
        "step_size": cell.step,
        "localization": cell.pull,
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
