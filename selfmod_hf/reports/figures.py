"""Draw the figures of a study, each as PNG and PDF: measures over the arms, over epochs and over the training loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pandas import DataFrame, concat

from ..complexity.weight_width import histogram
from ..experiments.chance import main_metric
from ..experiments.folder import SweepFolder
from ..files import write_figure
from .drawn_measures import COMPLEXITY, main_of
from .drawn_study import MEDIUM, Drawn, prepare, subplots, subplots_of, write_legend, write_title
from .panels import (
    baseline_curve,
    draw_epochs,
    draw_over_arms,
    draw_over_loss,
    draw_published,
    label_arms,
)
from .paper_figures import figure_2, paper_panels, targets_compared
from .sweep_results import SweepResults

FORMATS = ("png", "pdf")
DENSITY_BINS = 80
MARKS = "hollow: RLCT not ok, plus: does not count, a triangle: beyond the axis"


def draw_figures(results: SweepResults, output: Path) -> list[Path]:
    """Draw all figures of a study into a folder, and return the files."""
    output.mkdir(parents=True, exist_ok=True)
    files = []
    for name, figure in sweep_figures(results).items():
        for kind in FORMATS:
            path = output / f"{name}.{kind}"
            files.append(write_figure(figure, path))
    return files


def sweep_figures(results: SweepResults) -> dict[str, Figure]:
    """Return all figures of a study by their names."""
    drawn = prepare(results)
    figures: dict[str, Figure] = {}
    kinds = paper_panels(drawn)
    for detached, panels in kinds.items():
        name = "figure2" if detached else "figure2_attached"
        of_kind = replace(drawn, panels=panels)
        figures[name] = figure_2(of_kind)
    if len(kinds) == 2:
        figures["targets"] = targets_compared(drawn, kinds)
    figures["arms"] = over_arms(drawn, main_of(results.metric))
    figures["training_loss"] = over_loss(drawn)
    if not results.epochs.empty:  # all networks may be at chance level
        figures["epochs"] = over_epochs(drawn)
    if results.further_measures:
        figures["measures"] = over_arms(drawn, results.further_measures)
    at_chance = results.rows["at_chance"]
    learned = results.rows[~at_chance]
    if results.folder.has_networks and not learned.empty:
        figures["weights"] = weight_distributions(drawn, learned, results.folder)
    return figures


def over_arms(drawn: Drawn, measures: Sequence[str]) -> Figure:
    """Draw measures over the arms, a row of panels for each measure, a column for each panel of the study.

    Faint points are networks, larger marks are means with 95 % t intervals, crosses are the paper's values. RLCTs of
    another status than "ok" are hollow.

    Args:
        drawn: from `prepare`.
        measures: their names.
    """
    labels = drawn.layout.labels
    figure, places = subplots_of(measures, drawn.panels, len(labels))
    for axis, panel, measure in places:
        rows = drawn.rows(panel)
        means = drawn.means(panel, measure)
        published = drawn.published(panel, measure)
        draw_over_arms(axis, rows, means, measure, drawn.colors)
        draw_published(axis, published, measure)
        label_arms(axis, drawn.layout)
        axis.set_title(panel, fontsize=MEDIUM)
    write_title(figure, drawn, f"bars: 95 % t intervals; {MARKS}")
    return figure


def over_loss(drawn: Drawn) -> Figure:
    """Draw weight width and RLCT over the training loss, a column for each panel of the study.

    A network that was trained less has narrower weights and a smaller RLCT. The dashed line shows this: it is the
    baseline over its epochs. Diamonds are means.
    """
    figure, places = subplots_of(COMPLEXITY, drawn.panels)
    for axis, panel, measure in places:
        rows = drawn.rows(panel)
        own_means = drawn.means(panel, measure)
        losses = drawn.means(panel, "train_loss")
        means = concat([own_means, losses])
        curve = _curve_of_baseline(drawn, rows)
        draw_over_loss(axis, rows, means, curve, measure, drawn.colors)
        axis.set_title(panel, fontsize=MEDIUM)
    last_axis, _, _ = places[-1]
    write_legend(figure, last_axis, drawn)
    write_title(figure, drawn, f"diamonds: means; dashed: the baseline over its epochs; {MARKS}")
    return figure


def _curve_of_baseline(drawn: Drawn, rows: DataFrame) -> DataFrame:
    """Return the means of the baselines among some networks by epoch."""
    is_baseline = rows["is_baseline"]
    baselines = rows[is_baseline]["arm"]
    curves = drawn.results.curves
    is_own = curves["arm"].isin(baselines)
    return baseline_curve(curves[is_own], list(COMPLEXITY))


def over_epochs(drawn: Drawn) -> Figure:
    """Draw each measure followed while training over epochs, a row of panels for each panel of the study.

    Bands are 95 % t intervals over the networks that count, see `statistics.usable`.
    """
    measures = followed(drawn.results.curves)
    figure, axes = subplots(len(drawn.panels), len(measures))
    for panel, row in zip(drawn.panels, axes, strict=True):
        for measure, axis in zip(measures, row, strict=True):
            epochs = drawn.epochs(panel, measure)
            draw_epochs(axis, epochs, measure, drawn.colors)
            axis.set_title(panel, fontsize=MEDIUM)
    write_legend(figure, axes[0, 0], drawn)
    write_title(figure, drawn, "means over seeds; bands: 95 % t intervals")
    return figure


def followed(curves: DataFrame) -> list[str]:
    """Return the measures that a study has followed while training."""
    main = main_of(main_metric(curves))
    return [measure for measure in main if measure in curves]


def weight_distributions(drawn: Drawn, rows: DataFrame, folder: SweepFolder) -> Figure:
    """Draw the density of the final classification weights, all seeds of an arm together, a column for each panel."""
    figure, axes = subplots(1, len(drawn.panels))
    for panel, axis in zip(drawn.panels, axes[0], strict=True):
        own = drawn.layout.on(rows, panel)
        for label, arm in own.groupby("label", sort=False):
            weights = _finite_weights(arm, folder)
            if len(weights) == 0:
                continue  # every network of this arm has diverged
            _draw_density(axis, weights, str(label), drawn)
        axis.set(xlabel="weight", ylabel="density")
        axis.set_title(panel, fontsize=MEDIUM)
    write_legend(figure, axes[0, 0], drawn)
    write_title(figure, drawn, "weights of the last layer, all seeds of an arm")
    return figure


def _finite_weights(rows: DataFrame, folder: SweepFolder) -> np.ndarray:
    """Return the finite weights of the last layers of some networks together."""
    networks = []
    for row in rows.to_dict("records"):
        weights = folder.final_weights(row)
        networks.append(weights)
    values = np.concatenate(networks)
    is_finite = np.isfinite(values)
    return values[is_finite]


def _draw_density(axis: Axes, values: np.ndarray, label: str, drawn: Drawn) -> None:
    """Draw the density of some values as steps."""
    counts, edges = histogram(values, DENSITY_BINS)
    widths_of_bins = np.diff(edges)
    density = counts / (counts.sum() * widths_of_bins)
    axis.stairs(density, edges, color=drawn.colors[label], label=label)
