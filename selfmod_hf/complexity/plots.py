"""Figures: traces of one estimate, and a calibration's grid. matplotlib is loaded here and nowhere else."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from .calibration import LLCCalibration
    from .result import LLCResult

PathLike = str | os.PathLike[str]


def plot_traces(result: LLCResult, path: PathLike | None = None) -> Any:
    """LLC trace of every chain, their mean, the kept part shaded, each chain's value at the right."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    trace = _finite(result.llc_trace(paired=result.settings.paired))  # (C, T)
    draws, burnin = trace.shape[1], result.settings.num_burnin_steps
    axes.axvspan(burnin, draws, color="0.92", label="kept draws")
    for c, (chain, value) in enumerate(zip(trace, result.llc_per_chain, strict=True)):
        line = axes.plot(chain, linewidth=0.6, alpha=0.5, label=f"chain {c}: {value:.3g}")[0]
        if math.isfinite(value):
            axes.plot(draws * 1.01, value, "<", color=line.get_color(), markersize=6, clip_on=False)
    axes.plot(trace.mean(axis=0), color="black", linewidth=1.2, label="mean over chains")
    if math.isfinite(result.llc):
        axes.hlines(result.llc, burnin, draws, color="black", linestyle="--", linewidth=1, label="plateau")
    axes.set(xlabel="draw", ylabel="nβ (L(w) - L(w*))")
    axes.set_title(f"LLC {result.llc:.4g} ± {result.standard_error:.2g}, {result.status}")
    axes.legend(fontsize="x-small", loc="lower right")
    return _saved(figure, path)


def plot_calibration(calibration: LLCCalibration, path: PathLike | None = None) -> Any:
    """Above, LLC over step size, one line per localization, the chosen cell ringed; below, every cell's trace."""
    from matplotlib.figure import Figure

    pulls = sorted({row["localization"] for row in calibration.table})
    figure = Figure(figsize=(3.2 * max(2, len(pulls)), 7), layout="constrained")
    halves: Any = figure.subfigures(2, 1)
    upper, lower = halves
    _plot_grid(upper.subplots(), calibration, pulls)
    columns = lower.subplots(1, len(pulls), sharey=True, squeeze=False)[0]
    for axes, pull in zip(columns, pulls, strict=True):
        for row, result in zip(calibration.table, calibration.results, strict=True):
            if row["localization"] == pull:
                mean = _finite(result.llc_trace(paired=result.settings.paired)).mean(axis=0)
                axes.plot(_smooth(mean), linewidth=0.9, label=f"ε {row['step_size']:.1e}, {row['status']}")
        axes.set(title=f"γ = {pull:.3g}", xlabel="draw")
        axes.legend(fontsize="xx-small")
    columns[0].set_ylabel("nβ (L(w) - L(w*))")
    return _saved(figure, path)


def _plot_grid(axes: Any, calibration: LLCCalibration, pulls: list[float]) -> None:
    for pull in pulls:
        rows = [r for r in calibration.table if r["localization"] == pull and math.isfinite(r["llc"])]
        axes.errorbar(
            [r["step_size"] for r in rows], [r["llc"] for r in rows], [r["standard_error"] for r in rows],
            marker="o", capsize=2, label=f"γ = {pull:.3g}",
        )  # fmt: skip
    chosen = calibration.result
    if math.isfinite(chosen.llc):
        axes.plot(calibration.step_size, chosen.llc, "o", markersize=14, fillstyle="none", color="black")
    if math.isfinite(calibration.llc):
        axes.axhline(calibration.llc, color="black", linestyle="--", linewidth=1, label="estimate")
    axes.set(xscale="log", xlabel="step size ε", ylabel="LLC")
    axes.legend(fontsize="small")


def _finite(trace: np.ndarray) -> np.ndarray:
    """What cannot be drawn becomes a gap."""
    return np.where(np.isfinite(trace) & (np.abs(trace) < 1e12), trace, np.nan)


def _smooth(trace: np.ndarray) -> np.ndarray:
    """At most 200 points, each a mean: a line that can be read."""
    size = max(1, len(trace) // 200)
    return np.repeat(trace[: len(trace) // size * size].reshape(-1, size).mean(axis=1), size)


def _saved(figure: Any, path: PathLike | None) -> Any:
    if path is not None:
        from .result import write_figure

        write_figure(figure, Path(path))
    return figure
