"""Draw the parts of a figure's panels: means with intervals, single networks, curves, the paper's values."""

from __future__ import annotations

from itertools import cycle, islice
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from pandas import DataFrame, Series, concat

from .drawn_measures import DrawnMeasure, axis_range, drawn_measure
from .statistics import usable
from .study_layout import StudyLayout

BASELINE_COLOR = "black"
JITTER = 0.3  # width of an arm's points, of the distance between arms
LONG_LABELS = 4  # characters. Longer labels of many arms are written upwards
LETTERS_IN_A_LINE = 24  # of all labels of a panel

Colors = dict[str, Any]  # by label of an arm


def colors_of(layout: StudyLayout) -> Colors:
    """Return a color for each label: black for the baseline, a scale for numbers, distinct colors for names."""
    others = list(layout.labels)
    if layout.baseline is not None:
        del others[layout.baseline]
    count = len(others)
    shades = _scale(count) if layout.is_ordered else _distinct(count)
    colors: Colors = dict(zip(others, shades, strict=True))
    if layout.baseline is not None:
        name = layout.labels[layout.baseline]
        colors[name] = BASELINE_COLOR
    return colors


def _scale(count: int) -> list[Any]:
    """Return so many colors of a scale, from dark to light."""
    places = np.linspace(0.1, 0.85, count)
    scale = mpl.colormaps["viridis"]
    return list(scale(places))


def _distinct(count: int) -> list[Any]:
    """Return so many colors, distinct up to 20."""
    name = "tab10" if count <= 10 else "tab20"
    palette = mpl.colormaps[name].colors  # type: ignore[attr-defined]
    endless = cycle(palette)
    return list(islice(endless, count))


def _bars(means: DataFrame, measure: DrawnMeasure) -> np.ndarray:
    """Return the lengths of the intervals below and above the means (2, arms), cut at the measure's bounds."""
    low = means["low"].clip(lower=measure.low)
    high = means["high"].clip(upper=measure.high)
    middle = means["mean"]
    bars = np.stack([middle - low, high - middle])
    numbers = np.nan_to_num(bars)
    return numbers.clip(min=0)


# ---- over the arms ----


def draw_over_arms(
    axis: Axes,
    rows: DataFrame,
    means: DataFrame,
    measure: str,
    colors: Colors,
) -> None:
    """Draw single networks, faint, and each arm's mean over the positions of the arms.

    RLCTs of another status than "ok" are hollow. A dotted line is at the mean of the baseline.

    Args:
        axis: the panel.
        rows: networks with their places, from `StudyLayout.on`.
        means: of this measure, with their places.
        measure: a column of the rows.
        colors: by label.
    """
    drawn = drawn_measure(measure)
    x = rows["position"] + _beside(rows)
    draw_networks(axis, x, rows, measure, colors)
    has_mean = means["count"] > 0
    means = means[has_mean]
    bars = _bars(means, drawn)
    for mean, bar in zip(means.to_dict("records"), bars.T, strict=True):
        color = colors[mean["label"]]
        _draw_mean(axis, mean, bar, color)
    near = near_values(rows, measure)
    bounds = [*means["low"], *means["high"]]
    low, high = axis_range(drawn, near, bounds)
    axis.set_ylim(low, high)
    axis.set_ylabel(drawn.title)


def _draw_mean(axis: Axes, mean: dict[str, Any], bar: np.ndarray, color: Any) -> None:
    """Draw the mean of an arm with its interval.

    Args:
        axis: the panel.
        mean: a row of the means.
        bar: (2,), the lengths of the interval below and above the mean.
        color: of the arm.
    """
    x = mean["position"]
    y = mean["mean"]
    marker = "D"
    if mean["is_baseline"]:
        marker = "s"
        axis.axhline(y, color=BASELINE_COLOR, linestyle=":", linewidth=0.8)
    axis.errorbar(x, y, bar[:, None], color=color, capsize=2.5)
    axis.plot(
        x,
        y,
        marker,
        color=color,
        markersize=4.5,
        clip_on=False,
        zorder=3,
    )


def near_values(rows: DataFrame, measure: str) -> Series:
    """Return the values that set the scale of an axis."""
    if measure != "rlct":
        return rows[measure]
    is_far = rows["is_far"]
    return rows[~is_far]["rlct"]


def _beside(rows: DataFrame) -> Series:
    """Return the distance of each network from its arm's position, by the rank of its seed."""
    rank = rows["seed"].rank(method="dense")
    last = rank.max()
    middle = (1 + last) / 2
    steps = max(1, last - 1)
    return JITTER * (rank - middle) / steps


def draw_networks(
    axis: Axes,
    x: Series,
    rows: DataFrame,
    measure: str,
    colors: Colors,
) -> None:
    """Draw single networks as faint points.

    Those that do not count for the measure are plus signs. Of the others, those with an RLCT of another status than
    "ok" are hollow. Those far from all others are triangles at the edge.
    """
    values = rows[measure]
    shades: Any = np.array([mpl.colors.to_rgba(colors[label]) for label in rows["label"]])
    is_far = np.zeros(len(rows), dtype=bool)
    is_full = np.ones(len(rows), dtype=bool)
    is_counted = rows.index.isin(usable(rows, measure).index)
    if measure == "rlct":
        is_far = rows["is_far"].to_numpy(bool)
        is_full = (rows["rlct_status"] == "ok").to_numpy()
    is_full = is_full & is_counted
    axis.scatter(
        x[is_full],
        values[is_full],
        s=12,
        alpha=0.35,
        facecolors=shades[is_full],
        edgecolors="none",
    )
    is_left_out = ~is_counted & ~is_far
    if is_left_out.any():
        color = shades[is_left_out]
        axis.scatter(x[is_left_out], values[is_left_out], s=24, marker="+", alpha=0.9, color=color)
    is_hollow = is_counted & ~is_full & ~is_far
    if is_hollow.any():
        axis.scatter(
            x[is_hollow],
            values[is_hollow],
            s=16,
            alpha=0.9,
            facecolors="none",
            edgecolors=shades[is_hollow],
        )
    for place in np.flatnonzero(is_far):
        _draw_at_edge(axis, x.iloc[place], rows["is_below"].iloc[place], shades[place])


def _draw_at_edge(axis: Axes, x: float, is_below: bool, shade: np.ndarray) -> None:
    """Draw a network that lies beyond a panel as a triangle that points there."""
    height, marker = 0.97, "^"
    if is_below:
        height, marker = 0.03, "v"
    axis.plot(
        x,
        height,
        marker,
        color=shade,
        markerfacecolor="none",
        transform=axis.get_xaxis_transform(),
    )


def label_arms(axis: Axes, layout: StudyLayout) -> None:
    """Write the labels of all arms below a panel. The baseline's is bold."""
    labels = layout.labels
    count = len(labels)
    ticks = axis.set_xticks(range(count), labels, fontsize=8)
    longest = max(map(len, labels))
    if longest > LONG_LABELS and longest * count > LETTERS_IN_A_LINE:
        for tick in ticks:
            tick.label1.set(rotation=45, ha="right", rotation_mode="anchor")
    if layout.baseline is not None:
        tick = ticks[layout.baseline]
        tick.label1.set_fontweight("bold")
    axis.set_xlim(-0.6, count - 0.4)
    axis.set_xlabel(layout.title)


def draw_published(axis: Axes, published: DataFrame, measure: str) -> None:
    """Draw the paper's values of the arms as crosses, and widen the panel for them.

    Args:
        axis: the panel.
        published: the column `published` with the places of the arms. It may be empty.
        measure: its name.
    """
    if published.empty:
        return
    drawn = drawn_measure(measure)
    values = published["published"]
    everything = [*axis.get_ylim(), *values]
    axis.plot(published["position"], values, "kx", markersize=6, label="published")
    axis.set_ylim(axis_range(drawn, everything))


# ---- over epochs, and over the training loss ----


def draw_epochs(
    axis: Axes,
    epochs: DataFrame,
    measure: str,
    colors: Colors,
) -> None:
    """Draw the mean of each arm over epochs, with its interval as a band.

    Args:
        axis: the panel.
        epochs: of this measure, with their places.
        measure: its name.
        colors: by label.
    """
    drawn = drawn_measure(measure)
    axis.set(xlabel="epoch", ylabel=drawn.title)
    for label, arm in epochs.groupby("label", sort=False):
        color = colors[label]
        numbers = arm["epoch"]
        axis.plot(numbers, arm["mean"], color=color, label=label)
        low = arm["low"].clip(lower=drawn.low)
        high = arm["high"].clip(upper=drawn.high)
        axis.fill_between(numbers, low, high, color=color, alpha=0.2, linewidth=0)
    if not epochs.empty:
        bounds = [*epochs["low"], *epochs["high"]]
        lowest, highest = axis_range(drawn, epochs["mean"], bounds)
        axis.set_ylim(lowest, highest)


def draw_over_loss(  # noqa: PLR0913 - the axis, its data and its style
    axis: Axes,
    rows: DataFrame,
    means: DataFrame,
    curve: DataFrame,
    measure: str,
    colors: Colors,
) -> None:
    """Draw networks and arms over their training loss, and the way of the baseline over its epochs.

    Args:
        axis: the panel.
        rows: networks with their places.
        means: of this measure and of the training loss, with their places.
        curve: means over the baseline's seeds, one row per epoch: classification_loss, and the measure if followed.
        measure: a column of the rows.
        colors: by label.
    """
    drawn = drawn_measure(measure)
    loss = drawn_measure("train_loss")
    losses: list[float] = []
    values: list[float] = []
    if measure in curve:
        losses = curve["classification_loss"].tolist()
        values = curve[measure].tolist()
    axis.plot(losses, values, color=BASELINE_COLOR, linewidth=1, linestyle="--")
    x = rows["train_loss"]
    draw_networks(axis, x, rows, measure, colors)
    _draw_means_over_loss(axis, means, measure, colors)
    lowest_loss, highest_loss = axis_range(loss, x, losses)
    axis.set_xlim(lowest_loss, highest_loss)
    axis.locator_params(axis="x", nbins=5)
    is_own = means["measure"] == measure
    own_means = means[is_own]["mean"]
    near = near_values(rows, measure)
    lowest, highest = axis_range(drawn, near, [*own_means, *values])
    axis.set_ylim(lowest, highest)
    axis.set(xlabel=loss.title, ylabel=drawn.title)


def _draw_means_over_loss(axis: Axes, means: DataFrame, measure: str, colors: Colors) -> None:
    """Draw the mean of each arm over its mean training loss, for arms that have both."""
    table = means.pivot_table(index="label", columns="measure", values="mean", sort=False)
    if measure not in table or "train_loss" not in table:
        return
    for label, mean in table.iterrows():
        axis.plot(
            mean["train_loss"],
            mean[measure],
            "D",
            color=colors[str(label)],
            label=label,
            markersize=5,
            clip_on=False,
        )


def baseline_curve(curves: DataFrame, measures: list[str]) -> DataFrame:
    """Return the baseline's means over seeds by epoch: classification_loss, and each measure that was followed.

    Args:
        curves: of the baseline's networks.
        measures: columns that may be missing.
    """
    found = []
    for name in ["classification_loss", *measures]:
        if name in curves:
            by_epoch = usable(curves, name).groupby("epoch")
            found.append(by_epoch[name].mean())
    if not found:
        return DataFrame()
    curve = concat(found, axis=1)
    return curve.dropna(how="all")


# ---- over widths ----


def draw_over_widths(
    axis: Axes,
    rows: DataFrame,
    means: DataFrame,
    measure: str,
    colors: Colors,
) -> None:
    """Draw the mean of each arm over widths, a line for each label, and the paper's values.

    RLCTs of another status than "ok" are hollow.

    Args:
        axis: the panel.
        rows: networks with their places.
        means: of this measure, with their places and the column `published`.
        measure: its name.
        colors: by label.
    """
    drawn = drawn_measure(measure)
    arms = rows.drop_duplicates("arm")
    widths = arms.set_index("arm")["hidden_size"]
    has_mean = means["count"] > 0
    means = means[has_mean]
    own_widths = means["arm"].map(widths)
    means = means.assign(hidden_size=own_widths)
    means = means.sort_values("hidden_size")
    if measure == "rlct":
        is_bad = rows["rlct_status"] != "ok"
        bad = rows[is_bad]
        draw_networks(axis, bad["hidden_size"], bad, measure, colors)
    for label, own in means.groupby("label", sort=False):
        color = colors[label]
        x = own["hidden_size"]
        axis.errorbar(
            x,
            own["mean"],
            _bars(own, drawn),
            color=color,
            marker="o",
            markersize=3,
            capsize=2,
            label=label,
        )
        axis.plot(x, own["published"], "x", color=color, markersize=6)
    axis.set_xscale("log", base=2)
    axis.set(xlabel="hidden units", ylabel=drawn.title)
    sizes = sorted(widths.unique().tolist())
    texts = list(map(str, sizes))
    axis.set_xticks(sizes, texts)
