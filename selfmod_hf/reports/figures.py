"""Draw the paper's Figure 2, and four more figures, of a sweep, each as PNG and PDF."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pandas import DataFrame

from ..complexity.weight_width import histogram
from ..experiments.folder import SweepFolder
from ..files import write_figure
from .panels import (
    TITLES,
    Colors,
    draw_epochs,
    draw_not_ok,
    draw_over_weights,
    draw_over_widths,
    draw_published_over_weights,
    draw_published_over_widths,
    means_of,
    of_width,
    set_weight_ticks,
    sorted_values,
    task_of_rows,
)
from .statistics import ARM, MEASURES, summarize_arms, usable
from .sweep_results import SweepResults

FORMATS = ("png", "pdf")
DENSITY_BINS = 80
KINDS = {"detached": (True, "C0"), "attached": (False, "C1")}


def draw_figures(results: SweepResults, output: Path) -> list[Path]:
    """Draw all figures of a sweep into a folder, and return the files."""
    output.mkdir(parents=True, exist_ok=True)
    files = []
    for name, figure in sweep_figures(results).items():
        for kind in FORMATS:
            files.append(write_figure(figure, output / f"{name}.{kind}"))
    return files


def sweep_figures(results: SweepResults) -> dict[str, Figure]:
    """Return all figures of a sweep by their names."""
    note = "; another setting" if results.setting.startswith("NOT") else ""
    figures = {}
    for detach in sorted_values(results.rows["detach_targets"]):
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
    return figures


def _of_targets(table: DataFrame, detach: bool) -> DataFrame:
    """Return the rows of one kind of targets, and the baselines, because a baseline has no targets."""
    is_own = table["detach_targets"] == detach
    is_baseline = table["aux_weight"] == 0
    return table[is_own | is_baseline]


def _subplots(rows: int, columns: int) -> tuple[Figure, Any]:
    """Return a figure and its axes (rows, columns)."""
    size = (4.5 * columns, 3.4 * rows)
    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def _colors(rows: DataFrame) -> Colors:
    """Return a color for each self-model weight."""
    weights = sorted_values(rows["aux_weight"])
    positions = np.linspace(0, 0.85, len(weights))
    shades = mpl.colormaps["viridis"](positions)
    return dict(zip(weights, shades, strict=True))


def _legend_of_weights(axis: Axes) -> None:
    axis.legend(title="AW", fontsize=7, title_fontsize=7)


# ---- figures ----


def figure_2(
    rows: DataFrame,
    arms: DataFrame,
    epochs: DataFrame,
    note: str = "",
) -> Figure:
    """Draw weight width over epochs at the largest width, and weight width, RLCT and accuracy over widths.

    A sweep of a single width has these three over the self-model's weight. Lines are means over seeds with 95 % t
    intervals, crosses are the paper's values. RLCTs of another status than "ok" are drawn hollow, and are in no mean.

    Args:
        rows: one row per network.
        arms: from `summarize_arms`.
        epochs: from `summarize_epochs`.
        note: end of the title.
    """
    figure, axes = _subplots(2, 2)
    colors = _colors(rows)
    widths = sorted_values(rows["hidden_size"])
    first, *others = axes.flat
    draw_epochs(
        first,
        epochs,
        widths[-1],
        "weight_width",
        colors,
    )
    _legend_of_weights(first)
    for axis, measure in zip(others, TITLES, strict=True):
        if len(widths) == 1:
            draw_over_weights(
                axis,
                rows,
                arms,
                measure,
                "grey",
                "mean",
            )
            draw_published_over_weights(axis, rows, measure)
            set_weight_ticks(axis, rows, measure)
        else:
            draw_over_widths(axis, arms, measure, colors)
            draw_published_over_widths(axis, rows, measure, colors)
            if measure == "rlct":
                draw_not_ok(axis, rows, "hidden_size", colors)
    title = f"{task_of_rows(rows)}: {_seeds(rows)} seeds; bars: 95 % t intervals; x: published{note}"
    figure.suptitle(title, fontsize=9)
    return figure


def _seeds(rows: DataFrame) -> str:
    """Return how many seeds the arms have."""
    sizes = rows.groupby(ARM).size()
    least = sizes.min()
    most = sizes.max()
    return f"{least}" if least == most else f"{least} to {most}"


def over_epochs(curves: DataFrame, epochs: DataFrame) -> Figure:
    """Draw each measure followed while training over epochs, a row of panels for each width.

    Bands are 95 % t intervals. RLCTs of another status than "ok" are left out.

    Args:
        curves: one row per network and epoch.
        epochs: from `summarize_epochs`.
    """
    widths = sorted_values(curves["hidden_size"])
    measures = [measure for measure in MEASURES if measure in curves]
    figure, axes = _subplots(len(widths), len(measures))
    colors = _colors(curves)
    for row, width in zip(axes, widths, strict=True):
        for axis, measure in zip(row, measures, strict=True):
            draw_epochs(
                axis,
                epochs,
                width,
                measure,
                colors,
            )
    _legend_of_weights(axes[0, 0])
    return figure


def rlct_over_weight(rows: DataFrame, arms: DataFrame) -> Figure:
    """Draw the RLCT of each network over the self-model's weight, a panel for each width.

    RLCTs of another status than "ok" are drawn hollow, and are in no mean.

    Args:
        rows: one row per network.
        arms: from `summarize_arms`.
    """
    widths = sorted_values(rows["hidden_size"])
    figure, axes = _subplots(1, len(widths))
    colors = _colors(rows)
    for axis, width in zip(axes[0], widths, strict=True):
        own = of_width(rows, width)
        good = usable(own, "rlct")
        for weight, arm in good.groupby("aux_weight"):
            axis.plot(
                arm["aux_weight"],
                arm["rlct"],
                "o",
                markersize=3,
                color=colors[weight],
            )
        draw_not_ok(axis, own, "aux_weight", colors)
        means = means_of(of_width(arms, width), "rlct")
        axis.plot(means["aux_weight"], means["mean"], color="grey", linewidth=1)
        draw_published_over_weights(axis, own, "rlct")
        handles, _ = axis.get_legend_handles_labels()
        if handles:
            axis.legend(fontsize=7)
        set_weight_ticks(axis, own, "rlct")
    return figure


def targets_compared(rows: DataFrame) -> Figure:
    """Draw each measure over the self-model's weight, targets detached and attached, a row of panels for each width.

    Lines are means over the same seeds with 95 % t intervals, crosses are the paper's values. RLCTs that are not "ok"
    are drawn hollow.

    Args:
        rows: from `with_both_targets`.
    """
    widths = sorted_values(rows["hidden_size"])
    figure, axes = _subplots(len(widths), len(TITLES))
    arms = summarize_arms(rows)
    for row, width in zip(axes, widths, strict=True):
        own = of_width(rows, width)
        for axis, measure in zip(row, TITLES, strict=True):
            for name, (detach, color) in KINDS.items():
                kind = _of_targets(own, detach)
                kind_arms = _of_targets(of_width(arms, width), detach)
                draw_over_weights(
                    axis,
                    kind,
                    kind_arms,
                    measure,
                    color,
                    name,
                )
            draw_published_over_weights(axis, own, measure)
            set_weight_ticks(axis, own, measure)
    axes[0, 0].legend(fontsize=7)
    return figure


def weight_distributions(rows: DataFrame, folder: SweepFolder) -> Figure:
    """Draw the density of the final classification weights, all seeds of an arm together, a panel for each width."""
    widths = sorted_values(rows["hidden_size"])
    figure, axes = _subplots(1, len(widths))
    colors = _colors(rows)
    for axis, width in zip(axes[0], widths, strict=True):
        own = of_width(rows, width)
        for weight, arm in own.groupby("aux_weight"):
            networks = map(folder.final_weights, arm.to_dict("records"))
            values = np.concatenate(list(networks))
            values = values[np.isfinite(values)]
            if len(values) == 0:
                continue  # every network of this arm has diverged
            counts, edges = histogram(values, DENSITY_BINS)
            widths_of_bins = np.diff(edges)
            density = counts / (counts.sum() * widths_of_bins)
            axis.stairs(density, edges, color=colors[weight], label=f"{weight:g}")
        axis.set(xlabel="weight", ylabel="density", title=f"h = {width}")
    _legend_of_weights(axes[0, 0])
    return figure
