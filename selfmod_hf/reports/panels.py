"""Draw what the panels of the figures are made of: means with intervals, the paper's values, single networks."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from pandas import DataFrame, Series

from .published import published_for

TITLES = {"weight_width": "SD of the last layer's weights", "rlct": "RLCT", "accuracy": "test accuracy"}

Colors = dict[float, Any]  # by self-model weight


def of_width(table: DataFrame, width: int) -> DataFrame:
    """Return the rows of one width."""
    return table[table["hidden_size"] == width]


def sorted_values(column: Series) -> list[Any]:
    """Return the distinct values of a column, sorted."""
    return sorted(column.unique().tolist())


def task_of_rows(rows: DataFrame) -> str:
    """Return the name of the task, the same for all rows."""
    return str(rows["task"].iloc[0])


def means_of(arms: DataFrame, measure: str) -> DataFrame:
    """Return the arms with a mean of a measure, in the order of their weights."""
    own = arms[arms["measure"] == measure]
    own = own[own["count"] > 0]
    return own.sort_values(["aux_weight", "hidden_size"])


def _draw_bars(
    axis: Axes,
    x: str,
    means: DataFrame,
    color: Any,
    label: str,
) -> None:
    """Draw means with their intervals. A mean of a single value has no bar."""
    below = means["mean"] - means["low"]
    above = means["high"] - means["mean"]
    bars = np.stack([below, above])
    axis.errorbar(
        means[x],
        means["mean"],
        np.nan_to_num(bars),
        color=color,
        marker="o",
        markersize=3,
        capsize=2,
        label=label,
    )


def draw_epochs(
    axis: Axes,
    epochs: DataFrame,
    width: int,
    measure: str,
    colors: Colors,
) -> None:
    """Draw the mean of each arm of one width over epochs, with its interval as a band."""
    axis.set(xlabel="epoch", ylabel=TITLES[measure], title=f"h = {width}")
    own = of_width(epochs, width)
    own = own[own["measure"] == measure]
    for weight, arm in own.groupby("aux_weight"):
        color = colors[weight]
        epoch = arm["epoch"]
        axis.plot(epoch, arm["mean"], color=color, label=f"{weight:g}")
        axis.fill_between(
            epoch,
            arm["low"],
            arm["high"],
            color=color,
            alpha=0.2,
            linewidth=0,
        )


def draw_over_widths(
    axis: Axes,
    arms: DataFrame,
    measure: str,
    colors: Colors,
) -> None:
    """Draw the mean of each arm over widths, a line for each self-model weight."""
    means = means_of(arms, measure)
    for weight, own in means.groupby("aux_weight"):
        _draw_bars(
            axis,
            "hidden_size",
            own,
            colors[weight],
            f"{weight:g}",
        )
    axis.set_xscale("log", base=2)
    axis.set(xlabel="hidden units", ylabel=TITLES[measure])
    widths = sorted_values(arms["hidden_size"])
    axis.set_xticks(widths, list(map(str, widths)))


def draw_over_weights(  # noqa: PLR0913 - the axis, its data and its style
    axis: Axes,
    rows: DataFrame,
    arms: DataFrame,
    measure: str,
    color: str,
    label: str,
) -> None:
    """Draw the mean of each arm over the self-model's weight. All rows and arms are of one width."""
    means = means_of(arms, measure)
    _draw_bars(
        axis,
        "aux_weight",
        means,
        color,
        label,
    )
    if measure == "rlct":
        colors = dict.fromkeys(rows["aux_weight"], color)
        draw_not_ok(axis, rows, "aux_weight", colors)


def draw_not_ok(
    axis: Axes,
    rows: DataFrame,
    x: str,
    colors: Colors,
) -> None:
    """Draw RLCTs of another status than "ok" as hollow marks."""
    bad = rows[rows["rlct_status"] != "ok"]
    for row in bad.to_dict("records"):
        axis.plot(
            row[x],
            row["rlct"],
            "o",
            markerfacecolor="none",
            color=colors[row["aux_weight"]],
            markersize=4,
        )


def draw_published_over_widths(
    axis: Axes,
    rows: DataFrame,
    measure: str,
    colors: Colors,
) -> None:
    """Draw the paper's values for the widths and self-model weights of the rows."""
    paper = published_for(task_of_rows(rows))
    if paper is None:
        return
    for width in rows["hidden_size"].unique():
        values = paper[measure].get(str(width), [])
        for weight, value in zip(paper["aux_weights"], values, strict=False):
            color = colors.get(weight)
            if color is not None:
                axis.plot(
                    width,
                    value,
                    "x",
                    color=color,
                    markersize=6,
                )


def draw_published_over_weights(axis: Axes, rows: DataFrame, measure: str) -> None:
    """Draw the paper's values. All rows are of one width."""
    width = str(rows["hidden_size"].iloc[0])
    paper = published_for(task_of_rows(rows))
    if paper is not None and width in paper[measure]:
        axis.plot(
            paper["aux_weights"],
            paper[measure][width],
            "x",
            color="black",
            markersize=6,
            label="published",
        )


def set_weight_ticks(axis: Axes, rows: DataFrame, measure: str) -> None:
    """Scale the axis of self-model weights: linear up to the smallest above zero, then logarithmic."""
    weights = sorted_values(rows["aux_weight"])
    above_zero = [weight for weight in weights if weight > 0]
    axis.set_xscale("symlog", linthresh=min(above_zero, default=1))
    width = rows["hidden_size"].iloc[0]
    axis.set(xlabel="AW", ylabel=TITLES[measure], title=f"h = {width}")
    axis.set_xticks(weights, [f"{weight:g}" for weight in weights])
    axis.minorticks_off()
