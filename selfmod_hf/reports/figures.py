"""Draw the figures of a study, each as PNG and PDF: measures over the arms, over epochs and over the training loss."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pandas import DataFrame, concat

from ..complexity.weight_width import histogram
from ..experiments.folder import SweepFolder
from ..files import write_figure
from .drawn_measures import COMPLEXITY, MAIN, PUBLISHED, far_rlcts
from .panels import (
    Colors,
    baseline_curve,
    colors_of,
    draw_epochs,
    draw_over_arms,
    draw_over_loss,
    draw_over_widths,
    draw_published,
    label_arms,
)
from .study_layout import StudyLayout
from .sweep_results import SweepResults

FORMATS = ("png", "pdf")
DENSITY_BINS = 80
MAX_PANELS = 6  # side by side
LEGEND_LINES = 14
MARKS = "hollow: RLCT not ok, a triangle: beyond the axis"
PAPER_SETTINGS = {"hidden_sizes", "aux_weight", "detach_targets"}  # in which arms of the paper's grids differ
KINDS = {True: ("detached", "C0"), False: ("attached", "C1")}

Places = list[tuple[Axes, str, str]]  # axes, panel, measure


@dataclass(frozen=True)
class Drawn:
    """Keep all that the figures of a study share.

    Attributes:
        results: of the study.
        networks: rows of the study with the column `is_far`.
        colors: by label.
        panels: names of the panels that are drawn.
        left_out: number of panels that are not drawn.
    """

    results: SweepResults
    networks: DataFrame
    colors: Colors
    panels: list[str]
    left_out: int

    @property
    def layout(self) -> StudyLayout:
        """Return the places of the arms."""
        return self.results.layout

    def rows(self, panel: str) -> DataFrame:
        """Return the networks of a panel with their places."""
        return self.layout.on(self.networks, panel)

    def means(self, panel: str, measure: str) -> DataFrame:
        """Return the means of a measure in a panel with their places."""
        return self._on(self.results.arms, panel, measure)

    def published(self, panel: str, measure: str) -> DataFrame:
        """Return the paper's values of a measure in a panel with their places."""
        return self._on(self.results.published, panel, measure)

    def epochs(self, panel: str, measure: str) -> DataFrame:
        """Return the means over epochs of a measure in a panel with their places."""
        return self._on(self.results.epochs, panel, measure)

    def _on(self, table: DataFrame, panel: str, measure: str) -> DataFrame:
        own = table[table["measure"] == measure]
        return self.layout.on(own, panel)


def draw_figures(results: SweepResults, output: Path) -> list[Path]:
    """Draw all figures of a study into a folder, and return the files."""
    output.mkdir(parents=True, exist_ok=True)
    files = []
    for name, figure in sweep_figures(results).items():
        for kind in FORMATS:
            files.append(write_figure(figure, output / f"{name}.{kind}"))
    return files


def sweep_figures(results: SweepResults) -> dict[str, Figure]:
    """Return all figures of a study by their names."""
    drawn = prepare(results)
    figures: dict[str, Figure] = {}
    kinds = _paper_panels(drawn)
    for detached, panels in kinds.items():
        suffix = "" if detached else "_attached"
        figures[f"figure2{suffix}"] = figure_2(replace(drawn, panels=panels))
    if len(kinds) == 2:
        figures["targets"] = targets_compared(drawn, kinds)
    figures["arms"] = over_arms(drawn, MAIN)
    figures["training_loss"] = over_loss(drawn)
    if not results.epochs.empty:  # all networks may be at chance level
        figures["epochs"] = over_epochs(drawn)
    if results.further_measures:
        figures["measures"] = over_arms(drawn, results.further_measures)
    learned = results.rows[~results.rows["at_chance"]]
    if not learned.empty:
        figures["weights"] = weight_distributions(drawn, learned, results.folder)
    return figures


def prepare(results: SweepResults) -> Drawn:
    """Return all that the figures of a study share."""
    panels = results.layout.panels
    left_out = max(0, len(panels) - MAX_PANELS)
    networks = results.rows.assign(is_far=far_rlcts(results.rows))
    return Drawn(results, networks, colors_of(results.layout), panels[:MAX_PANELS], left_out)


def _subplots(rows: int, columns: int, labels: int = 0) -> tuple[Figure, Any]:
    """Return a figure and its axes (rows, columns), wide enough for the labels of arms."""
    width = max(4.0, 0.3 * labels)
    size = (width * columns, 3.0 * rows)
    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def _subplots_of(measures: Sequence[str], panels: Sequence[str], labels: int = 0) -> tuple[Figure, Places]:
    """Return a figure, and its axes with the panel and the measure of each: a column for each panel.

    With a single panel there are two columns of measures.
    """
    pairs = [(panel, measure) for measure in measures for panel in panels]
    columns = len(panels)
    if columns == 1:
        columns = min(2, len(measures))
    rows = math.ceil(len(pairs) / columns)
    figure, axes = _subplots(rows, columns, labels)
    for axis in axes.flat[len(pairs) :]:
        axis.remove()
    places = [(axis, panel, measure) for axis, (panel, measure) in zip(axes.flat, pairs, strict=False)]
    return figure, places


def _title(figure: Figure, drawn: Drawn, text: str) -> None:
    """Write the task, the number of seeds and a text above a figure, and how many panels are not drawn."""
    rows = drawn.results.rows
    sizes = rows.groupby("arm").size()
    seeds = f"{sizes.min()}" if sizes.min() == sizes.max() else f"{sizes.min()} to {sizes.max()}"
    words = "seed" if seeds == "1" else "seeds"
    parts = [f"{drawn.results.task}: {seeds} {words}", text]
    if drawn.left_out:
        parts.append(f"{drawn.left_out} further panels are in report.html")
    if drawn.results.setting.startswith("NOT"):
        parts.append("another setting")
    letters = int(11 * figure.get_figwidth())
    figure.suptitle(textwrap.fill("; ".join(parts), letters), fontsize=9)


def _legend(figure: Figure, axis: Axes, drawn: Drawn) -> None:
    """Write the labels of a panel's lines beside the figure."""
    handles, labels = axis.get_legend_handles_labels()
    if handles:
        figure.legend(
            handles,
            labels,
            title=drawn.layout.title,
            loc="outside right center",
            ncols=math.ceil(len(labels) / LEGEND_LINES),
            fontsize=7,
            title_fontsize=7,
        )


# ---- figures of any study ----


def over_arms(drawn: Drawn, measures: Sequence[str]) -> Figure:
    """Draw measures over the arms, a row of panels for each measure, a column for each panel of the study.

    Faint points are networks, larger marks are means with 95 % t intervals, crosses are the paper's values. RLCTs of
    another status than "ok" are hollow.

    Args:
        drawn: from `prepare`.
        measures: their names.
    """
    figure, places = _subplots_of(measures, drawn.panels, len(drawn.layout.labels))
    for axis, panel, measure in places:
        means = drawn.means(panel, measure)
        draw_over_arms(axis, drawn.rows(panel), means, measure, drawn.colors)
        draw_published(axis, drawn.published(panel, measure), measure)
        label_arms(axis, drawn.layout)
        axis.set_title(panel, fontsize=9)
    _title(figure, drawn, f"bars: 95 % t intervals; {MARKS}")
    return figure


def over_loss(drawn: Drawn) -> Figure:
    """Draw weight width and RLCT over the training loss, a column for each panel of the study.

    A network that was trained less has narrower weights and a smaller RLCT. The dashed line shows this: it is the
    baseline over its epochs. Diamonds are means.
    """
    figure, places = _subplots_of(COMPLEXITY, drawn.panels)
    curves = drawn.results.curves
    for axis, panel, measure in places:
        own = drawn.rows(panel)
        means = concat([drawn.means(panel, measure), drawn.means(panel, "train_loss")])
        baselines = own[own["is_baseline"]]["arm"]
        curve = baseline_curve(curves[curves["arm"].isin(baselines)], list(COMPLEXITY))
        draw_over_loss(axis, own, means, curve, measure, drawn.colors)
        axis.set_title(panel, fontsize=9)
    _legend(figure, places[-1][0], drawn)
    _title(figure, drawn, f"diamonds: means; dashed: the baseline over its epochs; {MARKS}")
    return figure


def over_epochs(drawn: Drawn) -> Figure:
    """Draw each measure followed while training over epochs, a row of panels for each panel of the study.

    Bands are 95 % t intervals over the networks that count, see `statistics.counted`.
    """
    measures = followed(drawn.results.curves)
    figure, axes = _subplots(len(drawn.panels), len(measures))
    for panel, row in zip(drawn.panels, axes, strict=True):
        for measure, axis in zip(measures, row, strict=True):
            draw_epochs(axis, drawn.epochs(panel, measure), measure, drawn.colors)
            axis.set_title(panel, fontsize=9)
    _legend(figure, axes[0, 0], drawn)
    _title(figure, drawn, "means over seeds; bands: 95 % t intervals")
    return figure


def followed(curves: DataFrame) -> list[str]:
    """Return the measures that a study has followed while training."""
    return [measure for measure in MAIN if measure in curves]


def weight_distributions(drawn: Drawn, rows: DataFrame, folder: SweepFolder) -> Figure:
    """Draw the density of the final classification weights, all seeds of an arm together, a column for each panel."""
    figure, axes = _subplots(1, len(drawn.panels))
    for panel, axis in zip(drawn.panels, axes[0], strict=True):
        own = drawn.layout.on(rows, panel)
        for label, arm in own.groupby("label", sort=False):
            networks = map(folder.final_weights, arm.to_dict("records"))
            values = np.concatenate(list(networks))
            values = values[np.isfinite(values)]
            if len(values) == 0:
                continue  # every network of this arm has diverged
            counts, edges = histogram(values, DENSITY_BINS)
            widths_of_bins = np.diff(edges)
            density = counts / (counts.sum() * widths_of_bins)
            axis.stairs(density, edges, color=drawn.colors[label], label=label)
        axis.set(xlabel="weight", ylabel="density")
        axis.set_title(panel, fontsize=9)
    _legend(figure, axes[0, 0], drawn)
    _title(figure, drawn, "weights of the last layer, all seeds of an arm")
    return figure


# ---- figures of the paper's grid ----


def _paper_panels(drawn: Drawn) -> dict[bool, list[str]]:
    """Return the panels of detached and of attached targets. It is empty unless the study is like the paper's."""
    names = {name for arm in drawn.results.study for name in arm.changes}
    if drawn.layout.axis != "aux_weight" or not names <= PAPER_SETTINGS:
        return {}
    if drawn.results.rows["hidden_size"].isna().any():
        return {}
    kinds: dict[bool, list[str]] = {}
    for panel in drawn.layout.panels:
        own = drawn.rows(panel)
        own = own[own["aux_weight"] > 0]
        detached = bool(own["detach_targets"].all())
        kinds.setdefault(detached, []).append(panel)
    return kinds


def figure_2(drawn: Drawn) -> Figure:
    """Draw weight width over epochs at the largest width, and weight width, RLCT and accuracy over widths.

    A study of a single width has these three over the self-model's weight. Lines are means over seeds with 95 % t
    intervals, crosses are the paper's values. RLCTs of another status than "ok" are drawn hollow.
    """
    figure, axes = _subplots(2, 2)
    rows = {panel: drawn.rows(panel) for panel in drawn.panels}
    widest = max(rows, key=lambda panel: rows[panel]["hidden_size"].max())
    everything = concat(rows.values(), ignore_index=True)
    first, *others = axes.flat
    draw_epochs(first, drawn.epochs(widest, "weight_width"), "weight_width", drawn.colors)
    first.set_title(f"h = {rows[widest]['hidden_size'].max()}", fontsize=9)
    if first.lines:
        first.legend(title=drawn.layout.title, fontsize=7, title_fontsize=7)
    for axis, measure in zip(others, PUBLISHED, strict=True):
        if len(rows) == 1:
            means = drawn.means(widest, measure)
            draw_over_arms(axis, everything, means, measure, drawn.colors)
            draw_published(axis, drawn.published(widest, measure), measure)
            label_arms(axis, drawn.layout)
        else:
            means = concat([drawn.means(panel, measure) for panel in drawn.panels])
            published = concat([drawn.published(panel, measure) for panel in drawn.panels])
            means = means.merge(published[["arm", "published"]], on="arm", how="left")
            draw_over_widths(axis, everything, means, measure, drawn.colors)
    _title(figure, drawn, "bars: 95 % t intervals; x: published")
    return figure


def targets_compared(drawn: Drawn, kinds: dict[bool, list[str]]) -> Figure:
    """Draw each measure over the self-model's weight, targets detached and attached, a row of panels for each width.

    Marks are means with 95 % t intervals, crosses are the paper's values. RLCTs that are not "ok" are drawn hollow.

    Args:
        drawn: from `prepare`.
        kinds: panels by whether their targets are detached.
    """
    attached = kinds[False][:MAX_PANELS]
    figure, axes = _subplots(len(attached), len(PUBLISHED))
    for panel, row in zip(attached, axes, strict=True):
        width = drawn.rows(panel)["hidden_size"].iloc[0]
        for axis, measure in zip(row, PUBLISHED, strict=True):
            limits = []
            for detached, (name, color) in KINDS.items():
                colors = dict.fromkeys(drawn.layout.labels, color)
                for other in kinds[detached]:
                    own = drawn.rows(other)
                    if own["hidden_size"].iloc[0] == width:
                        draw_over_arms(axis, own, drawn.means(other, measure), measure, colors)
                        axis.plot([], [], "D", color=color, label=name)
                        limits += axis.get_ylim()
            axis.set_ylim(min(limits), max(limits))
            draw_published(axis, drawn.published(panel, measure), measure)
            label_arms(axis, drawn.layout)
            axis.set_title(f"h = {width}", fontsize=9)
    axes[0, 0].legend(fontsize=7)
    _title(figure, drawn, "bars: 95 % t intervals; x: published")
    return figure
