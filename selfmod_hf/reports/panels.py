"""Draw the parts of a figure's panels: means with intervals, single networks, curves, the paper's values."""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from pandas import DataFrame, Series, concat

from .drawn_measures import PUBLISHED, DrawnMeasure, axis_range, drawn_measure
from .statistics import usable
from .study_layout import StudyLayout

TITLES = {name: drawn_measure(name).title for name in PUBLISHED}
BASELINE_COLOR = "black"
JITTER = 0.3  # width of an arm's points, of the distance between arms
LONG_LABELS = 4  # characters. Longer labels of many arms are written upwards

Colors = dict[str, Any]  # by label of an arm


def colors_of(layout: StudyLayout) -> Colors:
    """Return a color for each label: black for the baseline, a scale for numbers, distinct colors for names."""
    others = [label for place, label in enumerate(layout.labels) if place != layout.baseline]
    if layout.is_ordered:
        shades = list(mpl.colormaps["viridis"](np.linspace(0.1, 0.85, len(others))))
    else:
        palette = mpl.colormaps["tab10" if len(others) <= 10 else "tab20"].colors  # type: ignore[attr-defined]
        shades = [palette[place % len(palette)] for place in range(len(others))]
    colors: Colors = dict(zip(others, shades, strict=True))
    if layout.baseline is not None:
        colors[layout.labels[layout.baseline]] = BASELINE_COLOR
    return colors


def _bars(means: DataFrame, measure: DrawnMeasure) -> np.ndarray:
    """Return the lengths of the intervals below and above the means (2, arms), cut at the measure's bounds."""
    low = means["low"].clip(lower=measure.low)
    high = means["high"].clip(upper=measure.high)
    bars = np.stack([means["mean"] - low, high - means["mean"]])
    return np.nan_to_num(bars).clip(min=0)


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
    draw_networks(axis, rows["position"] + _beside(rows), rows, measure, colors)
    means = means[means["count"] > 0]
    bars = _bars(means, drawn)
    for place, mean in enumerate(means.to_dict("records")):
        color = colors[mean["label"]]
        if mean["is_baseline"]:
            axis.axhline(mean["mean"], color=BASELINE_COLOR, linestyle=":", linewidth=0.8)
        axis.errorbar(mean["position"], mean["mean"], bars[:, place : place + 1], color=color, capsize=2.5)
        marker = "s" if mean["is_baseline"] else "D"
        axis.plot(mean["position"], mean["mean"], marker, color=color, markersize=4.5, clip_on=False, zorder=3)
    near = near_values(rows, measure)
    axis.set_ylim(*axis_range(drawn, near, [*means["low"], *means["high"]]))
    axis.set_ylabel(drawn.title)


def near_values(rows: DataFrame, measure: str) -> Series:
    """Return the values that set the scale of an axis."""
    return rows[~rows["is_far"]]["rlct"] if measure == "rlct" else rows[measure]


def _beside(rows: DataFrame) -> Series:
    """Return the distance of each network from its arm's position, by the rank of its seed."""
    rank = rows["seed"].rank(method="dense")
    middle = (1 + rank.max()) / 2
    return JITTER * (rank - middle) / max(1, rank.max() - 1)


def draw_networks(
    axis: Axes,
    x: Series,
    rows: DataFrame,
    measure: str,
    colors: Colors,
) -> None:
    """Draw single networks as faint points.

    Those with an RLCT of another status than "ok" are hollow. Those far from all others are triangles at the edge.
    """
    shades = np.array([mpl.colors.to_rgba(colors[label]) for label in rows["label"]])
    is_hollow = (rows["rlct_status"] != "ok").to_numpy() & (measure == "rlct")
    is_far = rows["is_far"].to_numpy(bool) & (measure == "rlct")
    full = ~is_hollow
    hollow = is_hollow & ~is_far
    values = rows[measure]
    axis.scatter(x[full], values[full], s=12, alpha=0.35, facecolors=shades[full], edgecolors="none")
    if hollow.any():
        axis.scatter(x[hollow], values[hollow], s=16, alpha=0.9, facecolors="none", edgecolors=shades[hollow])
    middle = values.median()
    for place in np.flatnonzero(is_far):
        is_below = values.iloc[place] < middle
        axis.plot(
            x.iloc[place],
            0.03 if is_below else 0.97,
            "v" if is_below else "^",
            color=shades[place],
            markerfacecolor="none",
            transform=axis.get_xaxis_transform(),
        )


def label_arms(axis: Axes, layout: StudyLayout) -> None:
    """Write the labels of all arms below a panel. The baseline's is bold."""
    places = range(len(layout.labels))
    longest = max(map(len, layout.labels))
    are_long = longest > LONG_LABELS and longest * len(layout.labels) > 24
    ticks = axis.set_xticks(places, layout.labels, fontsize=8)
    if are_long:
        for tick in ticks:
            tick.label1.set(rotation=45, ha="right", rotation_mode="anchor")
    if layout.baseline is not None:
        ticks[layout.baseline].label1.set_fontweight("bold")
    axis.set_xlim(-0.6, len(layout.labels) - 0.4)
    axis.set_xlabel(layout.title)


def draw_published(axis: Axes, published: DataFrame, measure: str) -> None:
    """Draw the paper's values of the arms as crosses, and widen the panel for them.

    Args:
        axis: the panel.
        published: the column `published` with the places of the arms. It may be empty.
        measure: its name.
    """
    if not published.empty:
        values = published["published"]
        low, high = axis.get_ylim()
        axis.plot(published["position"], values, "kx", markersize=6, label="published")
        axis.set_ylim(axis_range(drawn_measure(measure), [low, high, *values]))


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
        axis.plot(arm["epoch"], arm["mean"], color=color, label=label)
        low = arm["low"].clip(lower=drawn.low)
        high = arm["high"].clip(upper=drawn.high)
        axis.fill_between(arm["epoch"], low, high, color=color, alpha=0.2, linewidth=0)
    if not epochs.empty:
        axis.set_ylim(*axis_range(drawn, epochs["mean"], [*epochs["low"], *epochs["high"]]))


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
    losses, values = [], []
    if measure in curve:
        losses, values = curve["classification_loss"].tolist(), curve[measure].tolist()
    axis.plot(losses, values, color=BASELINE_COLOR, linewidth=1, linestyle="--")
    draw_networks(axis, rows["train_loss"], rows, measure, colors)
    table = means.pivot_table(index="label", columns="measure", values="mean", sort=False)
    if measure in table and "train_loss" in table:
        for label, mean in table.iterrows():
            style = {"color": colors[label], "label": label, "markersize": 5, "clip_on": False}
            axis.plot(mean["train_loss"], mean[measure], "D", **style)
    own = means[means["measure"] == measure]
    axis.set_xlim(*axis_range(loss, rows["train_loss"], losses))
    axis.locator_params(axis="x", nbins=5)
    axis.set_ylim(*axis_range(drawn, near_values(rows, measure), [*own["mean"], *values]))
    axis.set(xlabel=loss.title, ylabel=drawn.title)


def baseline_curve(curves: DataFrame, measures: list[str]) -> DataFrame:
    """Return the baseline's means over seeds by epoch: classification_loss, and each measure that was followed.

    Args:
        curves: of the baseline's networks.
        measures: columns that may be missing.
    """
    found = []
    for name in ["classification_loss", *measures]:
        if name in curves:
            values = usable(curves, name)
            found.append(values.groupby("epoch")[name].mean())
    return concat(found, axis=1).dropna(how="all") if found else DataFrame()


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
    widths = rows.drop_duplicates("arm").set_index("arm")["hidden_size"]
    means = means[means["count"] > 0]
    means = means.assign(hidden_size=means["arm"].map(widths)).sort_values("hidden_size")
    if measure == "rlct":
        bad = rows[rows["rlct_status"] != "ok"]
        draw_networks(axis, bad["hidden_size"], bad, measure, colors)
    for label, own in means.groupby("label", sort=False):
        axis.errorbar(
            own["hidden_size"],
            own["mean"],
            _bars(own, drawn),
            color=colors[label],
            marker="o",
            markersize=3,
            capsize=2,
            label=label,
        )
        axis.plot(own["hidden_size"], own["published"], "x", color=colors[label], markersize=6)
    axis.set_xscale("log", base=2)
    axis.set(xlabel="hidden units", ylabel=drawn.title)
    sizes = sorted(widths.unique().tolist())
    axis.set_xticks(sizes, list(map(str, sizes)))
