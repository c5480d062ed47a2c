"""The result of a tuning: its trials, the Pareto front, the best trial, and their files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import to_json, write_figure, write_file
from ..trainer.task_metrics import SMALLER_IS_BETTER
from .setting import Values
from .trial_group import is_worse
from .trial_parameters import as_run_fields

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

    from .run_settings import RunSettings

STATES = ("complete", "pruned", "running", "fail")
NOTED = ("rlct_standard_error", "rlct_status", "nbeta", "rlct_preset")  # of a trial, in pareto.json


def objectives(metric: str) -> dict[str, Any]:
    """Return what a tuning searches, and in which direction.

    Example:
        >>> objectives("accuracy")
        {'accuracy': 'maximize', 'rlct': 'minimize', 'weight_width': 'minimize'}
    """
    direction = "minimize" if metric in SMALLER_IS_BETTER else "maximize"
    return {metric: direction, "rlct": "minimize", "weight_width": "minimize"}


@dataclass(frozen=True)
class TuningResult:
    """The trials of a tuning.

    A trial is an `optuna.trial.FrozenTrial` with `number`, `params`, `values` (test metric, RLCT, weight width) and
    `user_attrs` (all measures, and the reason for pruning).

    Attributes:
        path: the folder.
        base: settings of all trials.
        trials: all trials, by their numbers.
        front: the complete trials that are not beaten in every objective, the best metric first.
        keep_accuracy: the best trial has the lowest RLCT within this of the best metric. If smaller values are better,
            within this share of the best one.
        metric: its name.
    """

    path: Path
    base: RunSettings
    trials: Sequence[FrozenTrial]
    front: Sequence[FrozenTrial]
    keep_accuracy: float
    metric: str = "accuracy"

    @property
    def counts(self) -> dict[str, int]:
        """Return how many trials are in each state."""
        return count_states(self.trials)

    @property
    def best(self) -> FrozenTrial | None:
        """Return the trial of the lowest RLCT among the good ones. None: no trial is complete.

        RLCTs without convergence count only if all good trials lack it.
        """
        complete = self._complete
        if not complete:
            return None
        limit = self._worst_good([trial.values[0] for trial in complete])
        good = [trial for trial in complete if not is_worse(self.metric, trial.values[0], limit)]
        converged = [trial for trial in good if trial.user_attrs["rlct_status"] == "ok"]
        return min(converged or good, key=self._by_simplicity)

    def _worst_good(self, values: Sequence[float]) -> float:
        """Return the worst metric that is near enough to the best of some."""
        if self.metric in SMALLER_IS_BETTER:
            return min(values) * (1 + self.keep_accuracy)
        return max(values) - self.keep_accuracy

    def _by_simplicity(self, trial: FrozenTrial) -> tuple[float, float, float]:
        metric, rlct, width = trial.values
        if self.metric in SMALLER_IS_BETTER:
            return rlct, metric, width
        return rlct, -metric, width

    @property
    def _complete(self) -> list[FrozenTrial]:
        return [trial for trial in self.trials if trial.state.name == "COMPLETE"]

    def settings(self, trial: FrozenTrial) -> RunSettings:
        """Return the settings of a trial's training run.

        Args:
            trial: one of `trials`.
        """
        return self.base.replace(**as_run_fields(trial.params), seed=trial.number)

    @property
    def table(self) -> str:
        """Return the Pareto front as a table of plain text."""
        names: list[str] = []
        for trial in self.front:
            names += trial.params
        names = sorted(set(names))
        lines = [["trial", self.metric, "RLCT", "weight width", *names]]
        for trial in self.front:
            metric, _, width = trial.values
            line = [str(trial.number), f"{metric:.4f}", _rlct_text(trial), f"{width:.4f}"]
            for name in names:
                value = trial.params.get(name)
                if isinstance(value, float):
                    line.append(f"{value:.4g}")
                else:
                    line.append(str(value))
            lines.append(line)
        return _aligned(lines)

    def write(self) -> None:
        """Write trials.json, and the front as pareto.json, pareto.txt and pareto.png."""
        folder = self.path
        everything = []
        for trial in self.trials:
            entry = {
                "trial": trial.number,
                "state": trial.state.name.lower(),
                "parameters": in_order(trial.params),
                **in_order(trial.user_attrs),
            }
            everything.append(entry)
        write_file(folder / "trials.json", to_json(everything))
        front = {
            "trials": self.counts,
            "front": [self._front_entry(trial) for trial in self.front],
        }
        write_file(folder / "pareto.json", to_json(front))
        write_file(folder / "pareto.txt", f"{self.table}\n")
        self._plot(folder / "pareto.png")

    def _front_entry(self, trial: FrozenTrial) -> dict[str, Any]:
        """Return a trial's entry of pareto.json."""
        entry: dict[str, Any] = {"trial": trial.number}
        entry |= zip(objectives(self.metric), trial.values, strict=True)
        entry["parameters"] = in_order(trial.params)
        measures = trial.user_attrs
        for name in NOTED:
            entry[name] = measures.get(name)
        run = self.settings(trial)
        entry["command"] = run.command()
        return entry

    def _plot(self, path: Path) -> None:
        """Draw the metric against RLCT, and against weight width."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(10, 4), layout="constrained")
        left, right = figure.subplots(1, 2)
        self._plot_against(left, "RLCT", 1)
        self._plot_against(right, "weight width", 2)
        write_figure(figure, path, dpi=120)

    def _plot_against(self, axis: Any, label: str, column: int) -> None:
        """Draw the metric against one of the other objectives."""
        others = [trial for trial in self._complete if trial not in self.front]
        _plot_trials(axis, others, column, label="other trials", color="0.6")
        _plot_trials(axis, self.front, column, label="Pareto front", color="tab:red")
        for trial in self.front:
            metric = trial.values[0]
            measure = trial.values[column]
            axis.annotate(f" {trial.number}", (measure, metric), fontsize=7)
        axis.set(xlabel=label, ylabel=f"test {self.metric}", title=f"{self.metric} against {label}")
        axis.legend(fontsize="small")


def _plot_trials(axis: Any, trials: Sequence[FrozenTrial], column: int, **style: Any) -> None:
    """Draw a point for each trial."""
    measures = [trial.values[column] for trial in trials]
    metrics = [trial.values[0] for trial in trials]
    axis.plot(measures, metrics, "o", **style)


def in_order(values: Values) -> dict[str, Any]:
    """Return values sorted by name, because a database returns them in any order."""
    return dict(sorted(values.items()))


def count_states(trials: Sequence[FrozenTrial]) -> dict[str, int]:
    """Return how many trials are in each state."""
    states = [trial.state.name.lower() for trial in trials]
    return {state: states.count(state) for state in STATES}


def _rlct_text(trial: FrozenTrial) -> str:
    _, rlct, _ = trial.values
    error = trial.user_attrs["rlct_standard_error"]
    if error is None:
        error = math.nan
    status = trial.user_attrs["rlct_status"]
    return f"{rlct:.2f} ± {error:.2f} ({status})"


def _aligned(lines: Sequence[Sequence[str]]) -> str:
    """Return lines of cells as a text with aligned columns."""
    widths = []
    for column in zip(*lines, strict=True):
        widths.append(max(map(len, column)))
    rows = []
    for line in lines:
        row = "  ".join(map(str.ljust, line, widths))
        rows.append(row.rstrip())
    return "\n".join(rows)
