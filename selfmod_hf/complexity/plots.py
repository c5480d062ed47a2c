"""Figures: traces of one estimate, and a calibration's grid."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..extras import need
from ..files import write_figure

PathLike = str | os.PathLike[str]
Trace = NDArray[np.float64]


def plot_traces(  # noqa: PLR0913 - arrays, because `LLCResult` imports this file
    trace: Trace,
    per_chain: np.ndarray,
    burnin: int,
    llc: float,
    title: str,
    path: PathLike | None = None,
) -> Any:
    """Plot the LLC trace of every chain and their mean, with the kept part shaded.

    Args:
        trace: (C, T), the contribution of every draw.
        per_chain: (C,), each chain's estimate, marked at the right.
        burnin: draws left out.
        llc: the estimate.
        title: of the figure.
        path: file to save it in, if any.

    Returns:
        The matplotlib figure.
    """
    need("a picture", "report", "matplotlib")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    drawn = _finite(trace)
    draws = drawn.shape[1]
    axes.axvspan(burnin, draws, color="0.92", label="kept draws")
    margin = draws * 1.01
    for c, value in enumerate(per_chain):
        label = f"chain {c}: {value:.3g}"
        lines = axes.plot(drawn[c], linewidth=0.6, alpha=0.5, label=label)
        if math.isfinite(value):
            color = lines[0].get_color()
            axes.plot(margin, value, "<", color=color, markersize=6, clip_on=False)
    mean = drawn.mean(axis=0)
    axes.plot(mean, color="black", linewidth=1.2, label="mean over chains")
    if math.isfinite(llc):
        axes.hlines(llc, burnin, draws, color="black", linestyle="--", linewidth=1, label="plateau")
    axes.set(xlabel="draw", ylabel="nβ (L(w) - L(w*))")
    axes.set_title(title)
    figure.legend(fontsize="x-small", loc="outside lower center", ncols=4)  # below the draws, which reach all corners
    return _saved(figure, path)


def plot_calibration(
    table: Sequence[Mapping[str, Any]],
    traces: Sequence[Trace],
    chosen: tuple[float, float],
    llc: float,
    path: PathLike | None = None,
) -> Any:
    """Plot the LLC over step size, one line per localization, and below it every cell's trace.

    Args:
        table: of each cell its step_size, localization, llc, standard_error and status.
        traces: of each cell (C, T).
        chosen: step size and LLC of the chosen cell. It gets a ring.
        llc: the estimate.
        path: file to save the figure in, if any.

    Returns:
        The matplotlib figure.
    """
    need("a picture", "report", "matplotlib")
    from matplotlib.figure import Figure

    pulls = sorted({row["localization"] for row in table})
    num_columns = len(pulls)
    width = 3.2 * max(2, num_columns)
    figure = Figure(figsize=(width, 7), layout="constrained")
    halves: Any = figure.subfigures(2, 1)
    upper, lower = halves
    _plot_grid(upper.subplots(), table, pulls, chosen, llc)
    columns = lower.subplots(1, num_columns, sharey=True, squeeze=False)[0]
    for axes, pull in zip(columns, pulls, strict=True):
        for row, trace in zip(table, traces, strict=True):
            if row["localization"] != pull:
                continue
            mean = _finite(trace).mean(axis=0)
            label = f"ε {row['step_size']:.1e}, {row['status']}"
            axes.plot(_smooth(mean), linewidth=0.9, label=label)
        axes.set(title=f"γ = {pull:.3g}", xlabel="draw")
        axes.legend(fontsize="xx-small")
    columns[0].set_ylabel("nβ (L(w) - L(w*))")
    return _saved(figure, path)


def _plot_grid(
    axes: Any,
    table: Sequence[Mapping[str, Any]],
    pulls: list[float],
    chosen: tuple[float, float],
    llc: float,
) -> None:
    """Plot the LLC over step size, one line per localization."""
    for pull in pulls:
        steps, values, errors = [], [], []
        for row in table:
            if row["localization"] == pull and math.isfinite(row["llc"]):
                steps.append(row["step_size"])
                values.append(row["llc"])
                errors.append(row["standard_error"])
        axes.errorbar(steps, values, errors, marker="o", capsize=2, label=f"γ = {pull:.3g}")
    if math.isfinite(chosen[1]):
        axes.plot(*chosen, "o", markersize=14, fillstyle="none", color="black")
    if math.isfinite(llc):
        axes.axhline(llc, color="black", linestyle="--", linewidth=1, label="estimate")
    axes.set(xscale="log", xlabel="step size ε", ylabel="LLC")
    axes.legend(fontsize="small")


def _finite(trace: Trace) -> Trace:
    """Replace infinite and huge numbers by a gap."""
    drawable = np.isfinite(trace) & (np.abs(trace) < 1e12)
    return np.where(drawable, trace, np.nan)


def _smooth(trace: Trace) -> Trace:
    """Return a line of at most 200 levels, each a mean of adjacent draws, so that it can be read."""
    draws = len(trace)
    size = max(1, draws // 200)
    complete = draws // size * size
    groups = trace[:complete].reshape(-1, size)
    means = groups.mean(axis=1)
    return np.repeat(means, size)


def _saved(figure: Any, path: PathLike | None) -> Any:
    """Return the figure, saved to `path` if given."""
    if path is not None:
        write_figure(figure, Path(path))
    return figure
