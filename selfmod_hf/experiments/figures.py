"""The paper's Figure 2, and two more, from the tables of a sweep; each as PNG and PDF."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..complexity.weight_width import histogram
from ..files import write_figure
from .folder import SweepFolder
from .plan import describe_setting
from .published import published_for
from .statistics import mark_chance, mean_interval, summarize_arms, usable, with_both_targets

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

FORMATS = ("png", "pdf")
TITLES = {"weight_width": "SD of the last layer's weights", "accuracy": "test accuracy", "rlct": "RLCT"}


def draw_figures(folder: SweepFolder, output: Path) -> list[Path]:
    """All figures of a sweep; returns the files."""
    rows = folder.rows()
    curves = mark_chance(folder.curves(), rows)
    changed = describe_setting(folder.read_run()["settings"], folder.finished_cells()).startswith("NOT")
    output.mkdir(parents=True, exist_ok=True)
    files: list[Path] = []
    for detach, part in rows.groupby("detach_targets"):
        # a baseline has no targets: it belongs to both
        own = rows[(rows["detach_targets"] == detach) | (rows["aux_weight"] == 0)]
        followed = curves[(curves["detach_targets"] == detach) | (curves["aux_weight"] == 0)]
        suffix = "" if detach else "_attached"
        if (part["aux_weight"] > 0).any() or detach:
            files += _save(figure_2(own, followed, "; another setting" if changed else ""), output / f"figure2{suffix}")
            files += _save(over_epochs(followed), output / f"epochs{suffix}")
            files += _save(rlct_over_weight(own), output / f"rlct{suffix}")
            learned = own[~own["at_chance"]]
            if not learned.empty:
                files += _save(weight_distributions(learned, folder), output / f"weights{suffix}")
    both = with_both_targets(rows)
    if not both.empty:
        files += _save(targets_compared(both), output / "targets")
    return files


def _save(figure: Any, path: Path) -> list[Path]:
    import matplotlib.pyplot as plt

    paths = [write_figure(figure, path.with_name(f"{path.name}.{kind}")) for kind in FORMATS]
    plt.close(figure)
    return paths


def _subplots(rows: int, columns: int) -> tuple[Any, Any]:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    return plt.subplots(rows, columns, figsize=(4.5 * columns, 3.4 * rows), squeeze=False, layout="constrained")


def _colors(values: np.ndarray) -> dict[float, Any]:
    import matplotlib as mpl

    shades = mpl.colormaps["viridis"](np.linspace(0, 0.85, len(values)))
    return dict(zip(values.tolist(), shades, strict=True))


def figure_2(rows: pd.DataFrame, curves: pd.DataFrame, note: str = "") -> Any:
    """Weight width over epochs at the largest width; weight width, RLCT and accuracy over widths, or over the
    self-model's weight where there is one width only.

    Lines are means over seeds with 95 % t intervals, crosses the paper's values. RLCTs that are not "ok" are drawn
    hollow, beside the means of those that are. `note` ends the title.
    """
    figure, axes = _subplots(2, 2)
    colors = _colors(np.sort(rows["aux_weight"].unique()))
    _over_epochs(axes[0, 0], curves, "weight_width", colors)
    axes[0, 0].legend(title="AW", fontsize=7, title_fontsize=7)
    arms, widths = summarize_arms(rows), rows["hidden_size"].unique()
    for axis, measure in zip((axes[0, 1], axes[1, 0], axes[1, 1]), ("weight_width", "rlct", "accuracy"), strict=True):
        if len(widths) == 1:
            _over_weights(axis, rows, measure, "grey", "mean")
            _paper_over_weight(axis, rows, int(widths[0]), measure)
            _weights_as_ticks(axis, rows, measure)
            continue
        _over_widths(axis, arms[arms["measure"] == measure], measure, colors)
        _paper_crosses(axis, rows, measure, colors)
        if measure == "rlct":
            _not_ok(axis, rows, "hidden_size", colors)
    sizes = rows.groupby(["hidden_size", "aux_weight", "detach_targets"]).size()
    seeds = f"{sizes.min()}" if sizes.nunique() == 1 else f"{sizes.min()} to {sizes.max()}"
    figure.suptitle(
        f"{rows['task'].iloc[0]}: {seeds} seeds; bars: 95 % t intervals; x: published{note}",
        fontsize=9,
    )
    return figure


def over_epochs(curves: pd.DataFrame) -> Any:
    """Each measure that was followed while training, over epochs, a row of panels for each width; bands are 95 % t
    intervals. RLCTs that are not "ok" are left out."""
    widths = np.sort(curves["hidden_size"].unique())
    measures = [measure for measure in ("weight_width", "accuracy", "rlct") if measure in curves]
    figure, axes = _subplots(len(widths), len(measures))
    colors = _colors(np.sort(curves["aux_weight"].unique()))
    for row, width in zip(axes, widths, strict=True):
        for axis, measure in zip(row, measures, strict=True):
            _over_epochs(axis, curves[curves["hidden_size"] == width], measure, colors)
    axes[0, 0].legend(title="AW", fontsize=7, title_fontsize=7)
    return figure


def _over_epochs(axis: Axes, curves: pd.DataFrame, measure: str, colors: dict[float, Any]) -> None:
    largest = curves["hidden_size"].max()
    axis.set(xlabel="epoch", ylabel=TITLES[measure], title=f"h = {largest}")
    followed = usable(curves[curves["hidden_size"] == largest], measure)
    for weight, arm in followed.groupby("aux_weight"):
        by_epoch = arm.groupby("epoch")[measure]
        table = np.array([(epoch, *mean_interval(values.to_numpy(float))) for epoch, values in by_epoch])
        axis.plot(table[:, 0], table[:, 1], color=colors[weight], label=f"{weight:g}")
        axis.fill_between(table[:, 0], table[:, 2], table[:, 3], color=colors[weight], alpha=0.2, linewidth=0)


def _over_widths(axis: Axes, arms: pd.DataFrame, measure: str, colors: dict[float, Any]) -> None:
    for weight, arm in arms.groupby("aux_weight"):
        arm = arm[arm["count"] > 0]
        bars = np.nan_to_num(np.stack([arm["mean"] - arm["low"], arm["high"] - arm["mean"]]))
        axis.errorbar(
            arm["hidden_size"], arm["mean"], bars, color=colors[weight], marker="o", markersize=3, capsize=2,
            label=f"{weight:g}",
        )  # fmt: skip
    axis.set_xscale("log", base=2)
    axis.set(xlabel="hidden units", ylabel=TITLES[measure])
    widths = np.sort(arms["hidden_size"].unique())
    axis.set_xticks(widths, [f"{width}" for width in widths])


def _paper_crosses(axis: Axes, rows: pd.DataFrame, measure: str, colors: dict[float, Any]) -> None:
    paper = published_for(rows["task"].iloc[0])
    if paper is None:
        return
    for hidden_size in rows["hidden_size"].unique():
        for weight, value in zip(paper["aux_weights"], paper[measure].get(str(hidden_size), []), strict=False):
            if float(weight) in colors:
                axis.plot(hidden_size, value, "x", color=colors[float(weight)], markersize=6)


def _not_ok(axis: Axes, rows: pd.DataFrame, x: str, colors: dict[float, Any]) -> None:
    for _, row in rows[rows["rlct_status"] != "ok"].iterrows():
        axis.plot(row[x], row["rlct"], "o", markerfacecolor="none", color=colors[row["aux_weight"]], markersize=4)


def rlct_over_weight(rows: pd.DataFrame) -> Any:
    """RLCT against the self-model's weight, a panel for each width; hollow: not "ok", left out of the mean."""
    widths = np.sort(rows["hidden_size"].unique())
    figure, axes = _subplots(1, len(widths))
    colors = _colors(np.sort(rows["aux_weight"].unique()))
    for axis, width in zip(axes[0], widths, strict=True):
        own = rows[rows["hidden_size"] == width]
        good = usable(own, "rlct")
        for weight, arm in good.groupby("aux_weight"):
            axis.plot([weight] * len(arm), arm["rlct"], "o", markersize=3, color=colors[weight])
        _not_ok(axis, own, "aux_weight", colors)
        means = good.groupby("aux_weight")["rlct"].mean()
        axis.plot(means.index, means, color="grey", linewidth=1)
        _paper_over_weight(axis, own, int(width), "rlct")
        if axis.get_legend_handles_labels()[0]:
            axis.legend(fontsize=7)
        _weights_as_ticks(axis, own, "rlct")
    return figure


def _paper_over_weight(axis: Axes, rows: pd.DataFrame, width: int, measure: str) -> None:
    paper = published_for(rows["task"].iloc[0])
    if paper is not None and str(width) in paper[measure]:
        axis.plot(paper["aux_weights"], paper[measure][str(width)], "x", color="black", markersize=6, label="published")


def _weights_as_ticks(axis: Axes, rows: pd.DataFrame, measure: str) -> None:
    """The self-model's weights along a scale that is linear up to the smallest above zero, then logarithmic."""
    weights = np.sort(rows["aux_weight"].unique())
    axis.set_xscale("symlog", linthresh=min(weights[weights > 0], default=1))
    axis.set(xlabel="AW", ylabel=TITLES[measure], title=f"h = {rows['hidden_size'].iloc[0]}")
    axis.set_xticks(weights, [f"{weight:g}" for weight in weights])
    axis.minorticks_off()


def targets_compared(rows: pd.DataFrame) -> Any:
    """Each measure over the self-model's weight, targets detached and attached, a row of panels for each width.

    Means over the same seeds with 95 % t intervals; crosses: published. RLCTs that are not "ok" are drawn hollow.
    """
    widths = np.sort(rows["hidden_size"].unique())
    figure, axes = _subplots(len(widths), 3)
    for row, width in zip(axes, widths, strict=True):
        own = rows[rows["hidden_size"] == width]
        for axis, measure in zip(row, ("weight_width", "rlct", "accuracy"), strict=True):
            for detach, color, name in ((True, "C0", "detached"), (False, "C1", "attached")):
                arm = own[(own["detach_targets"] == detach) | (own["aux_weight"] == 0)]
                _over_weights(axis, arm, measure, color, name)
            _paper_over_weight(axis, own, int(width), measure)
            _weights_as_ticks(axis, own, measure)
    axes[0, 0].legend(fontsize=7)
    return figure


def _over_weights(axis: Axes, rows: pd.DataFrame, measure: str, color: str, name: str) -> None:
    arms = usable(rows, measure).groupby("aux_weight")[measure]
    table = np.array([(weight, *mean_interval(values.to_numpy(float))) for weight, values in arms]).reshape(-1, 4)
    weights, means, lows, highs = table.T
    bars = np.nan_to_num(np.stack([means - lows, highs - means]))
    axis.errorbar(weights, means, bars, color=color, marker="o", markersize=3, capsize=2, label=name)
    if measure == "rlct":
        _not_ok(axis, rows, "aux_weight", dict.fromkeys(rows["aux_weight"], color))


def weight_distributions(rows: pd.DataFrame, folder: SweepFolder) -> Any:
    """Density of the final classification weights, all seeds of an arm together, a panel for each width."""
    widths = np.sort(rows["hidden_size"].unique())
    figure, axes = _subplots(1, len(widths))
    colors = _colors(np.sort(rows["aux_weight"].unique()))
    for axis, width in zip(axes[0], widths, strict=True):
        for weight, arm in rows[rows["hidden_size"] == width].groupby("aux_weight"):
            values = np.concatenate([folder.final_weights(row) for row in arm.to_dict("records")])
            values = values[np.isfinite(values)]
            if len(values) == 0:
                continue  # every network of this arm has diverged
            counts, edges = histogram(values, 80)
            axis.stairs(counts / (counts.sum() * np.diff(edges)), edges, color=colors[weight], label=f"{weight:g}")
        axis.set(xlabel="weight", ylabel="density", title=f"h = {width}")
    axes[0, 0].legend(title="AW", fontsize=7, title_fontsize=7)
    return figure
