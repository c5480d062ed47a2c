"""Collect the data of the page's figures: networks with traces and histograms, means, curves, places of the arms."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from pandas import DataFrame

from ..complexity import LLCResult
from ..complexity.weight_width import histogram
from .drawn_measures import COMPLEXITY, drawn_measure, main_of
from .drawn_study import Drawn
from .panels import baseline_curve

BINS = 40  # of a network's histogram
# points of each chain's trace: enough for a figure of its size, and fewer if the page has many networks
MOST_TRACE_POINTS, LEAST_TRACE_POINTS, ALL_TRACE_POINTS = 60, 12, 100_000
MOST_EPOCHS, LEAST_EPOCHS, ALL_EPOCHS = 200, 20, 30_000  # likewise, of each arm's curve
OF_NETWORK = (
    "seed", "is_far", "rlct_status", "rlct_status_reason", "rlct_standard_error", "nbeta", "rlct_preset",
)  # fmt: skip


def figure_data(drawn: Drawn) -> dict[str, Any]:
    """Return the data for the figures of `report.js`.

    Arms are named by their place in the list `arms`.

    Args:
        drawn: from `prepare`.

    Raises:
        InputError: weights or trace of a network cannot be used.
    """
    results = drawn.results
    distinct = dict.fromkeys(drawn.layout.places["arm"])
    names = list(distinct)
    numbers = {name: number for number, name in enumerate(names)}
    seeds = results.rows["seed"].unique()
    return {
        "axis": _axis(drawn),
        "measures": _measures(drawn),
        "metric": results.metric,
        "glance": main_of(results.metric),
        "against_loss": COMPLEXITY,
        "arms": _arms(drawn, names),
        "panels": _panels(drawn, numbers),
        "seeds": sorted(seeds.tolist()),
        "networks": _networks(drawn, numbers),
        "means": _means(results.arms, numbers),
        "epochs": _epochs(results.epochs, numbers),
        "ways": _ways(drawn, numbers),
        "published": _published(results.published, numbers),
    }


def trace_points(networks: int, chains: int) -> int:
    """Return the number of points of each chain's trace.

    Example:
        >>> trace_points(240, 4), trace_points(1000, 4), trace_points(100_000, 4)
        (60, 25, 12)
    """
    traces = max(1, networks * chains)
    points = ALL_TRACE_POINTS // traces
    points = min(MOST_TRACE_POINTS, points)
    return max(LEAST_TRACE_POINTS, points)


# ---- the study ----


def _axis(drawn: Drawn) -> dict[str, Any]:
    layout = drawn.layout
    return {
        "title": layout.title,
        "labels": layout.labels,
        "baseline": layout.baseline,
        "ordered": layout.is_ordered,
    }


def _measures(drawn: Drawn) -> dict[str, Any]:
    """Return title and bounds of each measure."""
    found = {}
    for name in _names_of_measures(drawn):
        measure = drawn_measure(name)
        found[name] = vars(measure)
    return found


def _names_of_measures(drawn: Drawn) -> list[str]:
    """Return the main measures and those of this study."""
    return [*main_of(drawn.results.metric), *drawn.results.further_measures]


def _arms(drawn: Drawn, names: list[str]) -> list[dict[str, Any]]:
    places = drawn.layout.places.drop_duplicates("arm")
    places = places.set_index("arm")
    arms = []
    for name in names:
        place = places.loc[name]
        arm = {
            "name": name,
            "position": int(place["position"]),
            "baseline": bool(place["is_baseline"]),
        }
        arms.append(arm)
    return arms


def _panels(drawn: Drawn, numbers: dict[str, int]) -> list[dict[str, Any]]:
    panels = []
    by_panel = drawn.layout.places.groupby("panel", sort=False)
    for name, places in by_panel:
        panel = {
            "name": name or "all arms",
            "arms": [numbers[arm] for arm in places["arm"]],
        }
        panels.append(panel)
    return panels


# ---- means ----


def _means(means: DataFrame, numbers: dict[str, int]) -> list[dict[str, Any]]:
    """Return mean and interval of each arm and measure."""
    entries = []
    for row in means.to_dict("records"):
        entry = {
            "mean": shortened(row["mean"]),
            "low": shortened(row["low"]),
            "high": shortened(row["high"]),
            "arm": numbers[row["arm"]],
            "measure": row["measure"],
            "count": row["count"],
        }
        entries.append(entry)
    return entries


def _epochs(epochs: DataFrame, numbers: dict[str, int]) -> list[dict[str, Any]]:
    """Return mean and interval over epochs of each arm and measure."""
    curves = epochs.groupby(["measure", "arm"], sort=False)
    entries = []
    for (measure, arm), curve in curves:
        curve = curve.sort_values("epoch")
        curve = _thinned(curve, curves.ngroups)
        entry = {
            "measure": measure,
            "arm": numbers[arm],
            "epoch": _list(curve["epoch"]),
            "mean": _list(curve["mean"]),
            "low": _list(curve["low"]),
            "high": _list(curve["high"]),
        }
        entries.append(entry)
    return entries


def _ways(drawn: Drawn, numbers: dict[str, int]) -> list[dict[str, Any]]:
    """Return the way of each baseline over its epochs: training loss and measures, means over the seeds."""
    curves = drawn.results.curves
    places = drawn.layout.places
    is_baseline = places["is_baseline"]
    baselines = places[is_baseline]["arm"].unique()
    entries = []
    for arm in baselines:
        is_own = curves["arm"] == arm
        curve = baseline_curve(curves[is_own], [*COMPLEXITY, drawn.results.metric])
        curve = _thinned(curve, len(baselines))
        entry: dict[str, Any] = {
            "arm": numbers[arm],
            "epoch": curve.index.tolist(),
        }
        for column in curve:
            entry[str(column)] = _list(curve[column])
        entries.append(entry)
    return entries


def _thinned(curve: DataFrame, curves: int) -> DataFrame:
    """Return evenly spaced rows of one of many curves, with the first and the last."""
    points = ALL_EPOCHS // max(1, curves)
    points = min(MOST_EPOCHS, points)
    points = max(LEAST_EPOCHS, points)
    if len(curve) <= points:
        return curve
    last = len(curve) - 1
    places = np.linspace(0, last, points).round()
    return curve.iloc[places.astype(int)]


def _published(published: DataFrame, numbers: dict[str, int]) -> list[dict[str, Any]]:
    """Return the paper's values for arms of the study."""
    entries = []
    for row in published.to_dict("records"):
        entry = {
            "arm": numbers[row["arm"]],
            "measure": row["measure"],
            "value": row["published"],
        }
        entries.append(entry)
    return entries


# ---- networks ----


def _networks(drawn: Drawn, numbers: dict[str, int]) -> list[dict[str, Any]]:
    folder = drawn.results.folder
    cells = drawn.results.cells
    rows = drawn.networks.to_dict("records")
    measures = _names_of_measures(drawn)
    networks = []
    for cell, row in zip(cells, rows, strict=True):
        network: dict[str, Any] = {column: row[column] for column in OF_NETWORK}
        for measure in measures:
            value = row.get(measure)
            network[measure] = shortened(value, digits=6)
        network["name"] = cell.name
        network["arm"] = numbers[row["arm"]]
        network["histogram"] = _histogram(folder.final_weights(row)) if folder.has_networks else None
        path = folder.cells / cell.name / "rlct.json"
        network["trace"] = _trace(path, len(rows))
        networks.append(network)
    return networks


def _histogram(weights: np.ndarray) -> dict[str, Any]:
    is_finite = np.isfinite(weights)
    counts, edges = histogram(weights[is_finite], BINS)
    return {
        "counts": counts.tolist(),
        "low": shortened(edges[0]),
        "high": shortened(edges[-1]),
    }


def _trace(path: Path, networks: int) -> dict[str, Any] | None:
    """Return each chain's trace as block means, or None if the study has kept no trace."""
    if not path.is_file():
        return None
    result = LLCResult.load(path)
    trace = result.llc_trace(paired=result.settings.paired)  # (C, T)
    chains, draws = trace.shape
    points = trace_points(networks, chains)
    points = min(points, draws)
    blocks = np.array_split(trace, points, axis=1)
    means = np.stack([block.mean(axis=1) for block in blocks])  # (points, C)
    return {
        "chains": [_list(chain) for chain in means.T],
        "draws": draws,
        "burnin": result.settings.num_burnin_steps,
    }


# ---- numbers ----


def shortened(value: float | None, digits: int = 4) -> float | None:
    """Return a number with few digits, because a figure shows fewer, or None if it is not finite."""
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.{digits}g}")


def _list(values: Iterable[float]) -> list[float | None]:
    return [shortened(value) for value in values]
