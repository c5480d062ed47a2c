"""Draw the paper's Figure 2, and four more figures, of a sweep, each as PNG and PDF."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..complexity.weight_width import histogram
from ..experiments.folder import SweepFolder
from ..files import write_figure
from .published import published_for
from .statistics import MEASURES, summarize_arms, usable
from .sweep_results import SweepResults

FORMATS = ("png", "pdf")
TITLES = {"weight_width": "SD of the last layer's weights", "rlct": "RLCT", "accuracy": "test accuracy"}
DENSITY_BINS = 80


def draw_figures(results: SweepResults, output: Path) -> list[Path]:
    """Draw all figures of a sweep into a folder, and return the files."""
    output.mkdir(parents=True, exist_ok=True)
    note = "; another setting" if results.setting.startswith("NOT") else ""
    figures: dict[str, Figure] = {}
    for detach in sorted(results.rows["detach_targets"].unique()):
        suffix = "" if detach else "_attached"
        rows = _of_targets(results.rows, detach)
        arms = _of_targets(results.arms, detach)
        curves = _of_targets(results.curves, detach)
        epochs = _of_targets(results.epochs, detach)
        figures[f"figure2{suffix}"] = figure_2(rows, arms, epochs, note)
        figures[f"epochs{suffix}"] = over_epochs(curves, epochs)
        figures[f"rlct{suffix}"] = rlct_over_weight(rows, arms)
        learned = rows[~rows["at_chance"]]
        if not learned.empty:
            figures[f"weights{suffix}"] = weight_distributions(learned, results.folder)
    if not results.paired.empty:
        figures["targets"] = targets_compared(results.paired)
    files = []
    for name, figure in figures.items():
        files += [write_figure(figure, output / f"{name}.{kind}") for kind in FORMATS]
    return files


def _of_targets(table: pd.DataFrame, detach: bool) -> pd.DataFrame:
    """Return the rows of one kind of targets, and the baselines, because a baseline has no targets."""
    return table[(table["detach_targets"] == detach) | (table["aux_weight"] == 0)]


def _subplots(rows: int, columns: int) -> tuple[Figure, Any]:
    """Return a figure and its axes (rows, columns)."""
    figure = Figure(figsize=(4.5 * columns, 3.4 * rows), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def _colors(rows: pd.DataFrame) -> dict[float, Any]:
    """Return a color for each self-model weight."""
    weights = np.sort(rows["aux_weight"].unique())
    shades = mpl.colormaps["viridis"](np.linspace(0, 0.85, len(weights)))
    return dict(zip(weights.tolist(), shades, strict=True))


def _legend_of_weights(axis: Axes) -> None:
    axis.legend(title="AW", fontsize=7, title_fontsize=7)


# ---- figures ----


def figure_2(rows: pd.DataFrame, arms: pd.DataFrame, epochs: pd.DataFrame, note: str = "") -> Figure:
    """Draw weight width over epochs at the largest width, and weight width, RLCT and accuracy over widths.

    A sweep of a single width has these three over the self-model's weight. Lines are means over seeds with 95 % t
    intervals, crosses are the paper's values. RLCTs that are not "ok" are drawn hollow, and are in no mean.

    Args:
        rows: one row per network.
        arms: from `summarize_arms`.
        epochs: from `summarize_epochs`.
        note: end of the title.
    """
    figure, axes = _subplots(2, 2)
    colors = _colors(rows)
    widths = rows["hidden_size"].unique()
    _draw_epochs(axes[0, 0], epochs, widths.max(), "weight_width", colors)
    _legend_of_weights(axes[0, 0])
    for axis, measure in zip((axes[0, 1], axes[1, 0], axes[1, 1]), TITLES, strict=True):
        if len(widths) == 1:
            _draw_over_weights(axis, rows, arms, measure, "grey", "mean")
            _draw_published_over_weights(axis, rows, measure)
            _set_weight_ticks(axis, rows, measure)
        else:
            _draw_over_widths(axis, arms, measure, colors)
            _draw_published_over_widths(axis, rows, measure, colors)
            if measure == "rlct":
                _draw_not_ok(axis, rows, "hidden_size", colors)
    sizes = rows.groupby(["hidden_size", "aux_weight", "detach_targets"]).size()
    seeds = f"{sizes.min()}" if sizes.nunique() == 1 else f"{sizes.min()} to {sizes.max()}"
    task = rows["task"].iloc[0]
    figure.suptitle(f"{task}: {seeds} seeds; bars: 95 % t intervals; x: published{note}", fontsize=9)
    return figure


def over_epochs(curves: pd.DataFrame, epochs: pd.DataFrame) -> Figure:
    """Draw each measure that was followed while training over epochs, a row of panels for each width.

    Bands are 95 % t intervals. RLCTs that are not "ok" are left out.

    Args:
        curves: one row per network and epoch.
        epochs: from `summarize_epochs`.
    """
    widths = np.sort(curves["hidden_size"].unique())
    measures = [measure for measure in MEASURES if measure in curves]
    figure, axes = _subplots(len(widths), len(measures))
    colors = _colors(curves)
    for row, width in zip(axes, widths, strict=True):
        for axis, measure in zip(row, measures, strict=True):
            _draw_epochs(axis, epochs, width, measure, colors)
    _legend_of_weights(axes[0, 0])
    return figure


def rlct_over_weight(rows: pd.DataFrame, arms: pd.DataFrame) -> Figure:
    """Draw the RLCT of each network over the self-model's weight, a panel for each width.

    RLCTs that are not "ok" are drawn hollow, and are in no mean.

    Args:
        rows: one row per network.
        arms: from `summarize_arms`.
    """
    widths = np.sort(rows["hidden_size"].unique())
    figure, axes = _subplots(1, len(widths))
    colors = _colors(rows)
    for axis, width in zip(axes[0], widths, strict=True):
        own = rows[rows["hidden_size"] == width]
        for weight, arm in usable(own, "rlct").groupby("aux_weight"):
            axis.plot([weight] * len(arm), arm["rlct"], "o", markersize=3, color=colors[weight])
        _draw_not_ok(axis, own, "aux_weight", colors)
        means = _means(arms, "rlct")
        means = means[means["hidden_size"] == width].sort_values("aux_weight")
        axis.plot(means["aux_weight"], means["mean"], color="grey", linewidth=1)
        _draw_published_over_weights(axis, own, "rlct")
        if axis.get_legend_handles_labels()[0]:
            axis.legend(fontsize=7)
        _set_weight_ticks(axis, own, "rlct")
    return figure


def targets_compared(rows: pd.DataFrame) -> Figure:
    """Draw each measure over the self-model's weight, targets detached and attached, a row of panels for each width.

    Lines are means over the same seeds with 95 % t intervals, crosses are the paper's values. RLCTs that are not "ok"
    are drawn hollow.

    Args:
        rows: from `with_both_targets`.
    """
    widths = np.sort(rows["hidden_size"].unique())
    figure, axes = _subplots(len(widths), len(TITLES))
    arms = summarize_arms(rows)
    for row, width in zip(axes, widths, strict=True):
        own = rows[rows["hidden_size"] == width]
        own_arms = arms[arms["hidden_size"] == width]
        for axis, measure in zip(row, TITLES, strict=True):
            for detach, color, name in ((True, "C0", "detached"), (False, "C1", "attached")):
                kind = _of_targets(own, detach)
                _draw_over_weights(axis, kind, _of_targets(own_arms, detach), measure, color, name)
            _draw_published_over_weights(axis, own, measure)
            _set_weight_ticks(axis, own, measure)
    axes[0, 0].legend(fontsize=7)
    return figure


def weight_distributions(rows: pd.DataFrame, folder: SweepFolder) -> Figure:
    """Draw the density of the final classification weights, all seeds of an arm together, a panel for each width."""
    widths = np.sort(rows["hidden_size"].unique())
    figure, axes = _subplots(1, len(widths))
    colors = _colors(rows)
    for axis, width in zip(axes[0], widths, strict=True):
        for weight, arm in rows[rows["hidden_size"] == width].groupby("aux_weight"):
            values = np.concatenate([folder.final_weights(row) for row in arm.to_dict("records")])
            values = values[np.isfinite(values)]
            if len(values) == 0:
                continue  # every network of this arm has diverged
            counts, edges = histogram(values, DENSITY_BINS)
            density = counts / (counts.sum() * np.diff(edges))
            axis.stairs(density, edges, color=colors[weight], label=f"{weight:g}")
        axis.set(xlabel="weight", ylabel="density", title=f"h = {width}")
    _legend_of_weights(axes[0, 0])
    return figure


# ---- what panels are made of ----


def _means(arms: pd.DataFrame, measure: str) -> pd.DataFrame:
    """Return the arms that have a mean of a measure."""
    return arms[(arms["measure"] == measure) & (arms["count"] > 0)]


def _draw_bars(axis: Axes, x: str, means: pd.DataFrame, color: Any, label: str) -> None:
    """Draw means with their intervals. A mean of a single value has no bar."""
    below = means["mean"] - means["low"]
    above = means["high"] - means["mean"]
    bars = np.nan_to_num(np.stack([below, above]))
    axis.errorbar(means[x], means["mean"], bars, color=color, marker="o", markersize=3, capsize=2, label=label)


def _draw_epochs(axis: Axes, epochs: pd.DataFrame, width: int, measure: str, colors: dict[float, Any]) -> None:
    axis.set(xlabel="epoch", ylabel=TITLES[measure], title=f"h = {width}")
    own = epochs[(epochs["hidden_size"] == width) & (epochs["measure"] == measure)]
    for weight, arm in own.groupby("aux_weight"):
        color = colors[weight]
        axis.plot(arm["epoch"], arm["mean"], color=color, label=f"{weight:g}")
        axis.fill_between(arm["epoch"], arm["low"], arm["high"], color=color, alpha=0.2, linewidth=0)


def _draw_over_widths(axis: Axes, arms: pd.DataFrame, measure: str, colors: dict[float, Any]) -> None:
    for weight, means in _means(arms, measure).groupby("aux_weight"):
        _draw_bars(axis, "hidden_size", means, colors[weight], f"{weight:g}")
    axis.set_xscale("log", base=2)
    axis.set(xlabel="hidden units", ylabel=TITLES[measure])
    widths = np.sort(arms["hidden_size"].unique())
    axis.set_xticks(widths, [f"{width}" for width in widths])


def _draw_over_weights(
    axis: Axes, rows: pd.DataFrame, arms: pd.DataFrame, measure: str, color: str, label: str
) -> None:
    means = _means(arms, measure).sort_values("aux_weight")
    _draw_bars(axis, "aux_weight", means, color, label)
    if measure == "rlct":
        _draw_not_ok(axis, rows, "aux_weight", dict.fromkeys(rows["aux_weight"], color))


def _draw_not_ok(axis: Axes, rows: pd.DataFrame, x: str, colors: dict[float, Any]) -> None:
    for _, row in rows[rows["rlct_status"] != "ok"].iterrows():
        color = colors[row["aux_weight"]]
        axis.plot(row[x], row["rlct"], "o", markerfacecolor="none", color=color, markersize=4)


def _draw_published_over_widths(axis: Axes, rows: pd.DataFrame, measure: str, colors: dict[float, Any]) -> None:
    paper = published_for(rows["task"].iloc[0])
    if paper is None:
        return
    for width in rows["hidden_size"].unique():
        values = paper[measure].get(str(width), [])
        for weight, value in zip(paper["aux_weights"], values, strict=False):
            if float(weight) in colors:
                axis.plot(width, value, "x", color=colors[float(weight)], markersize=6)


def _draw_published_over_weights(axis: Axes, rows: pd.DataFrame, measure: str) -> None:
    """Draw the paper's values. All rows are of one width."""
    width = str(rows["hidden_size"].iloc[0])
    paper = published_for(rows["task"].iloc[0])
    if paper is not None and width in paper[measure]:
        axis.plot(paper["aux_weights"], paper[measure][width], "x", color="black", markersize=6, label="published")


def _set_weight_ticks(axis: Axes, rows: pd.DataFrame, measure: str) -> None:
    """Scale the axis of self-model weights: linear up to the smallest above zero, then logarithmic."""
    weights = np.sort(rows["aux_weight"].unique())
    axis.set_xscale("symlog", linthresh=min(weights[weights > 0], default=1))
    axis.set(xlabel="AW", ylabel=TITLES[measure], title=f"h = {rows['hidden_size'].iloc[0]}")
    axis.set_xticks(weights, [f"{weight:g}" for weight in weights])
    axis.minorticks_off()
