"""Hold what all figures of a study share: its networks, colors and panels, and a figure's layout, title and legend."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pandas import DataFrame

from .drawn_measures import far_rlcts
from .panels import Colors, colors_of
from .study_layout import StudyLayout
from .sweep_results import SweepResults

MAX_PANELS = 6  # side by side
_MANY_LABELS = 16  # of arms, which take about five inches
LEGEND_LINES = 14
LETTERS_PER_INCH = 11  # of a title
SMALL = 7  # size of the letters of a legend, points
MEDIUM = 9  # size of the letters of titles, points

Places = list[tuple[Axes, str, str]]  # axes, panel, measure


@dataclass(frozen=True)
class Drawn:
    """Keep all that the figures of a study share.

    Attributes:
        results: of the study.
        networks: rows of the study with the columns `is_far` and `is_below`, the median RLCT of all.
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
        is_own = table["measure"] == measure
        return self.layout.on(table[is_own], panel)


def prepare(results: SweepResults) -> Drawn:
    """Return all that the figures of a study share."""
    layout = results.layout
    is_far = far_rlcts(results.rows)
    is_below = results.rows["rlct"] < results.rows["rlct"].median()
    return Drawn(
        results,
        networks=results.rows.assign(is_far=is_far, is_below=is_below),
        colors=colors_of(layout),
        panels=layout.panels[:MAX_PANELS],
        left_out=max(0, len(layout.panels) - MAX_PANELS),
    )


def subplots(rows: int, columns: int, labels: int = 0) -> tuple[Figure, Any]:
    """Return a figure and its axes (rows, columns), wide enough for the labels of arms."""
    width = max(4.0, 0.3 * labels)
    height = 3.0
    size = (width * columns, height * rows)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    return figure, axes


def subplots_of(
    measures: Sequence[str],
    panels: Sequence[str],
    labels: int = 0,
) -> tuple[Figure, Places]:
    """Return a figure, and its axes with the panel and the measure of each: a column for each panel.

    With a single panel there are two columns of measures, or one if the labels of its arms would be too small to read.
    """
    columns = len(panels)
    if columns == 1 and labels <= _MANY_LABELS:
        columns = min(2, len(measures))
    count = len(measures) * len(panels)
    rows = math.ceil(count / columns)
    figure, axes = subplots(rows, columns, labels)
    free = iter(axes.flat)
    places = []
    for measure in measures:
        for panel in panels:
            axis = next(free)
            places.append((axis, panel, measure))
    for axis in free:
        axis.remove()
    return figure, places


def write_title(figure: Figure, drawn: Drawn, text: str) -> None:
    """Write the task, the number of seeds and a text above a figure, and how many panels are not drawn."""
    seeds = _seeds(drawn)
    parts = [f"{drawn.results.task}: {seeds}", text]
    if drawn.left_out:
        parts.append(f"{drawn.left_out} further panels are in report.html")
    if drawn.results.setting.startswith("NOT"):
        parts.append("another setting")
    title = "; ".join(parts)
    letters = LETTERS_PER_INCH * figure.get_figwidth()
    lines = textwrap.fill(title, int(letters))
    figure.suptitle(lines, fontsize=MEDIUM)


def _seeds(drawn: Drawn) -> str:
    """Return the number of seeds of the arms in words."""
    sizes = drawn.results.rows.groupby("arm").size()
    fewest = sizes.min()
    most = sizes.max()
    if fewest < most:
        return f"{fewest} to {most} seeds"
    if fewest == 1:
        return "1 seed"
    return f"{fewest} seeds"


def write_legend(figure: Figure, axis: Axes, drawn: Drawn) -> None:
    """Write the labels of a panel's lines beside the figure."""
    handles, labels = axis.get_legend_handles_labels()
    if not handles:
        return
    columns = math.ceil(len(labels) / LEGEND_LINES)
    figure.legend(
        handles,
        labels,
        title=drawn.layout.title,
        loc="outside right center",
        ncols=columns,
        fontsize=SMALL,
        title_fontsize=SMALL,
    )
