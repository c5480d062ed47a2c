"""Draw the figures of the paper's grid: its figure 2, and detached beside attached targets."""

from __future__ import annotations

from collections.abc import Callable

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pandas import DataFrame, concat

from .drawn_measures import PUBLISHED
from .drawn_study import MAX_PANELS, MEDIUM, SMALL, Drawn, subplots, write_title
from .panels import draw_epochs, draw_over_arms, draw_over_widths, draw_published, label_arms

PAPER_SETTINGS = {"hidden_sizes", "aux_weight", "detach_targets"}  # in which arms of the paper's grids differ
KINDS = {True: ("detached", "C0"), False: ("attached", "C1")}


def paper_panels(drawn: Drawn) -> dict[bool, list[str]]:
    """Return the panels of detached and of attached targets. It is empty unless the study is like the paper's."""
    if not _is_like_paper(drawn):
        return {}
    kinds: dict[bool, list[str]] = {}
    for panel in drawn.layout.panels:
        own = drawn.rows(panel)
        has_self_model = own["aux_weight"] > 0
        detached = own[has_self_model]["detach_targets"].all()
        kinds.setdefault(bool(detached), []).append(panel)
    return kinds


def _is_like_paper(drawn: Drawn) -> bool:
    """Return whether arms differ in width, weight and kind of targets only, and each network has a width."""
    if drawn.layout.axis != "aux_weight":
        return False
    for arm in drawn.results.study:
        if not set(arm.changes) <= PAPER_SETTINGS:
            return False
    widths = drawn.results.rows["hidden_size"]
    return not widths.isna().any()


def figure_2(drawn: Drawn) -> Figure:
    """Draw weight width over epochs at the largest width, and weight width, RLCT and accuracy over widths.

    A study of a single width has these three over the self-model's weight. Lines are means over seeds with 95 % t
    intervals, crosses are the paper's values. RLCTs of another status than "ok" are drawn hollow.
    """
    figure, axes = subplots(2, 2)
    rows = []
    widths = {}
    for panel in drawn.panels:
        own = drawn.rows(panel)
        rows.append(own)
        widths[panel] = own["hidden_size"].max()
    widest = max(drawn.panels, key=widths.__getitem__)
    everything = concat(rows, ignore_index=True)
    first, *others = axes.flat
    epochs = drawn.epochs(widest, "weight_width")
    draw_epochs(first, epochs, "weight_width", drawn.colors)
    first.set_title(f"h = {widths[widest]}", fontsize=MEDIUM)
    if first.lines:
        first.legend(title=drawn.layout.title, fontsize=SMALL, title_fontsize=SMALL)
    for axis, measure in zip(others, PUBLISHED, strict=True):
        if len(rows) == 1:
            _draw_one_width(axis, drawn, everything, measure)
        else:
            _draw_widths(axis, drawn, everything, measure)
    write_title(figure, drawn, "bars: 95 % t intervals; x: published")
    return figure


def _draw_one_width(axis: Axes, drawn: Drawn, rows: DataFrame, measure: str) -> None:
    """Draw a measure over the self-model's weight, for a study of a single panel."""
    (panel,) = drawn.panels
    means = drawn.means(panel, measure)
    published = drawn.published(panel, measure)
    draw_over_arms(axis, rows, means, measure, drawn.colors)
    draw_published(axis, published, measure)
    label_arms(axis, drawn.layout)


def _draw_widths(axis: Axes, drawn: Drawn, rows: DataFrame, measure: str) -> None:
    """Draw a measure over the widths of all panels."""
    means = _of_all_panels(drawn, drawn.means, measure)
    published = _of_all_panels(drawn, drawn.published, measure)
    published_by_arm = published[["arm", "published"]]
    means = means.merge(published_by_arm, on="arm", how="left")
    draw_over_widths(axis, rows, means, measure, drawn.colors)


def _of_all_panels(
    drawn: Drawn,
    table_of: Callable[[str, str], DataFrame],
    measure: str,
) -> DataFrame:
    """Return a table of a measure in all panels together."""
    tables = []
    for panel in drawn.panels:
        table = table_of(panel, measure)
        tables.append(table)
    return concat(tables)


def targets_compared(drawn: Drawn, kinds: dict[bool, list[str]]) -> Figure:
    """Draw each measure over the self-model's weight, targets detached and attached, a row of panels for each width.

    Marks are means with 95 % t intervals, crosses are the paper's values. RLCTs that are not "ok" are drawn hollow.

    Args:
        drawn: from `prepare`.
        kinds: panels by whether their targets are detached.
    """
    attached = kinds[False][:MAX_PANELS]
    figure, axes = subplots(len(attached), len(PUBLISHED))
    for panel, row in zip(attached, axes, strict=True):
        width = _width(drawn.rows(panel))
        for axis, measure in zip(row, PUBLISHED, strict=True):
            _draw_both_kinds(axis, drawn, kinds, width, measure)
            published = drawn.published(panel, measure)
            draw_published(axis, published, measure)
            label_arms(axis, drawn.layout)
            axis.set_title(f"h = {width}", fontsize=MEDIUM)
    axes[0, 0].legend(fontsize=SMALL)
    write_title(figure, drawn, "bars: 95 % t intervals; x: published")
    return figure


def _width(rows: DataFrame) -> int:
    """Return the width of a panel's first network."""
    return rows["hidden_size"].iloc[0]


def _draw_both_kinds(
    axis: Axes,
    drawn: Drawn,
    kinds: dict[bool, list[str]],
    width: int,
    measure: str,
) -> None:
    """Draw a measure of all networks of a width, with a color for each kind of targets."""
    limits: list[float] = []
    for detached, (name, color) in KINDS.items():
        colors = dict.fromkeys(drawn.layout.labels, color)
        for panel in kinds[detached]:
            rows = drawn.rows(panel)
            if _width(rows) != width:
                continue
            means = drawn.means(panel, measure)
            draw_over_arms(axis, rows, means, measure, colors)
            axis.plot([], [], "D", color=color, label=name)
            limits += axis.get_ylim()
    lowest = min(limits)
    highest = max(limits)
    axis.set_ylim(lowest, highest)
