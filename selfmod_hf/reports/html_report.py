"""Write the report of a sweep as one HTML file: tables, the paper's panels as interactive figures, traces of networks.

The file holds all it needs, Plotly too (compressed, and unpacked by the browser). It asks no host for anything.
"""

from __future__ import annotations

import base64
import gzip
import json
import math
from collections.abc import Iterable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from .. import __version__
from ..complexity import LLCResult
from ..complexity.weight_width import histogram
from ..files import to_json, write_file
from ..json_records import SweepRun
from .panels import TITLES
from .published import published_value
from .statistics import MEASURES
from .sweep_results import SweepResults
from .sweep_tables import number_text
from .table import Table, as_html, environment

TRACE_POINTS, BINS = 60, 40  # of a chain's trace, of a network's histogram: enough for a figure of this size
PANELS = {
    "epochs": "Over epochs, mean over seeds",
    "weight_width": "Weight width",
    "rlct": "RLCT",
    "accuracy": "Test accuracy",
}
SECTIONS = {
    "overview": "Overview",
    "figures": "Figures",
    "network": "One network",
    "published": "Measured against published",
    "statistics": "Statistics",
    "warnings": "Warnings",
    "run": "How it was run",
    "all": "All networks",
}


def write_html_report(results: SweepResults, tables: Mapping[str, Table], path: Path) -> None:
    """Write the page.

    Args:
        results: of the sweep.
        tables: from `sweep_tables`.
        path: the file.

    Raises:
        InputError: a network's weights or trace, or an entry of run.json, cannot be used.
    """
    networks = _networks(results)
    of_run = {"settings": _settings_table(results.run), "sessions": _sessions_table(results.run)}
    of_networks = {"warnings": _warnings_table(networks), "networks": _networks_table(networks)}
    page = (
        environment()
        .get_template("report.html.jinja")
        .render(
            title=f"Self-modeling networks on {results.task}",
            summary=_summary(results.rows),
            setting=results.setting,
            version=__version__,
            sections=SECTIONS,
            panels=PANELS,
            widths=_sorted(results.rows["hidden_size"]),
            followed={measure: title for measure, title in TITLES.items() if measure in results.curves},
            networks=networks,
            tables={**tables, **of_run, **of_networks},
            table=as_html,
            data=Markup(_script_json(_figure_data(results, networks))),
            plotly=Markup(_packed(get_plotlyjs())),
            css=Markup(_file("report.css")),
            js=Markup(_file("report.js")),
        )
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, page)


def _file(name: str) -> str:
    return files(__package__).joinpath("html", name).read_text(encoding="utf-8")


def _packed(text: str) -> str:
    compressed = gzip.compress(text.encode(), 9, mtime=0)
    return base64.b64encode(compressed).decode()


def _script_json(value: Any) -> str:
    """Return JSON for a script element, without any text to end it early."""
    finite = json.loads(to_json(value))
    text = json.dumps(finite, separators=(",", ":"), ensure_ascii=False)
    return text.replace("<", "\\u003c")


def _sorted(values: pd.Series) -> list[Any]:
    return sorted(values.unique().tolist())


def _summary(rows: pd.DataFrame) -> str:
    bad = int((rows["rlct_status"] != "ok").sum())
    presets = ", ".join(_sorted(rows["rlct_preset"]))
    nbetas = _listed(rows["nbeta"].round(2))
    return (
        f"{len(rows)} networks: widths {_listed(rows['hidden_size'])}; weights of the self-modeling loss (AW) "
        f"{_listed(rows['aux_weight'])}; {rows['seed'].nunique()} seeds. RLCT at nβ = {nbetas}, preset {presets}; "
        f'{bad} of them not "ok".'
    )


def _listed(values: pd.Series) -> str:
    return ", ".join(f"{value:g}" for value in _sorted(values))


# ---- data of the figures ----


def _networks(results: SweepResults) -> list[dict[str, Any]]:
    networks = []
    rows = results.rows.to_dict("records")
    for index, (row, cell) in enumerate(zip(rows, results.cells, strict=True)):
        networks.append(
            {
                **row,
                "index": index,
                "name": cell.name,
                "histogram": _histogram(results.folder.final_weights(row)),
                "trace": _trace(results.folder.cells / cell.name / "rlct.json"),
            }
        )
    return networks


def _histogram(weights: np.ndarray) -> dict[str, Any]:
    finite = weights[np.isfinite(weights)]
    counts, edges = histogram(finite, BINS)
    return {
        "counts": counts.tolist(),
        "low": _short(edges[0]),
        "high": _short(edges[-1]),
    }


def _trace(path: Path) -> dict[str, Any] | None:
    """Return each chain's trace as block means, or None if the sweep has kept no trace."""
    if not path.is_file():
        return None
    result = LLCResult.load(path)
    trace = result.llc_trace(paired=result.settings.paired)  # (C, T)
    draws = trace.shape[1]
    points = min(TRACE_POINTS, draws)
    blocks = np.array_split(trace, points, axis=1)
    means = np.stack([block.mean(axis=1) for block in blocks])  # (points, C)
    return {
        "chains": [_shortened(chain) for chain in means.T],
        "draws": draws,
        "burnin": result.settings.num_burnin_steps,
    }


def _short(value: float) -> float | None:
    """Return a number with four digits (a figure shows fewer), or None if it is not finite."""
    return float(f"{value:.4g}") if math.isfinite(value) else None


def _shortened(values: Iterable[float]) -> list[float | None]:
    return [_short(value) for value in values]


def _figure_data(results: SweepResults, networks: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the data for the figures of `report.js`."""
    rows = results.rows
    keys = ["aux_weight", "detach_targets"]
    arms = rows[keys].drop_duplicates().sort_values(keys).to_dict("records")
    return {
        "networks": networks,
        "arms": arms,
        "weights": _sorted(rows["aux_weight"]),
        "widths": _sorted(rows["hidden_size"]),
        "seeds": _sorted(rows["seed"]),
        "measures": TITLES,
        "epochs": _epochs(results.epochs),
        "means": _means(results.arms, arms),
        "published": _published(results, arms),
    }


def _epochs(epochs: pd.DataFrame) -> list[dict[str, Any]]:
    """Return mean and interval over epochs of each arm and measure."""
    keys = ["measure", "hidden_size", "detach_targets", "aux_weight"]
    entries = []
    for key, arm in epochs.groupby(keys):
        entry = dict(zip(keys, key, strict=True))
        for column in ("epoch", "mean", "low", "high"):
            entry[column] = _shortened(arm[column])
        entries.append(entry)
    return entries


def _means(means: pd.DataFrame, arms: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return mean and interval of each arm and measure, each with the number of its arm."""
    entries = []
    for mean in means.to_dict("records"):
        arm = {
            "aux_weight": mean["aux_weight"],
            "detach_targets": mean["detach_targets"],
        }
        entry = {name: mean[name] for name in ("hidden_size", "measure", "mean", "low", "high", "count")}
        entry["arm"] = arms.index(arm)
        entries.append(entry)
    return entries


def _published(results: SweepResults, arms: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the paper's values for the widths and weights of the sweep."""
    entries = []
    for width in _sorted(results.rows["hidden_size"]):
        for index, arm in enumerate(arms):
            for measure in MEASURES:
                value = published_value(results.task, measure, width, arm["aux_weight"])
                if value is not None:
                    entries.append(
                        {
                            "hidden_size": width,
                            "arm": index,
                            "measure": measure,
                            "value": value,
                        }
                    )
    return entries


# ---- tables of this form alone ----


def _warnings_table(networks: list[dict[str, Any]]) -> Table:
    lines = []
    for network in networks:
        if network["rlct_status"] != "ok":
            value = number_text(network["rlct"], ".2f")
            lines.append([network["name"], network["rlct_status"], value, network["rlct_status_reason"]])
    for network in networks:
        if network["at_chance"]:
            why = "no more accurate than guessing the most frequent class"
            lines.append([network["name"], "at chance", f"accuracy {network['accuracy']:.4f}", why])
    return Table(
        "RLCTs that are not ok, and networks at chance level",
        ["network", "status", "value", "why"],
        lines,
        if_empty='None: every RLCT is "ok", and no network is at chance level.',
    )


def _networks_table(networks: list[dict[str, Any]]) -> Table:
    lines = []
    for network in networks:
        lines.append(
            [
                network["name"],
                number_text(network["accuracy"], ".4f"),
                number_text(network["weight_width"], ".4f"),
                number_text(network["rlct"], ".2f"),
                number_text(network["rlct_standard_error"], ".2f"),
                network["rlct_status"],
                number_text(network["nbeta"], ".2f"),
                number_text(network["rlct_rhat"], ".3f"),
                number_text(network["rlct_ess"], ".0f"),
                number_text(network["train_loss"], ".4f"),
            ]
        )
    header = ["network", "accuracy", "SD", "RLCT", "error", "status", "nβ", "R-hat", "ESS", "training loss"]
    return Table("All networks", header, lines)


def _settings_table(run: SweepRun | None) -> Table:
    lines = []
    if run is not None:
        for group, values in run.settings.to_dict().items():
            pairs = values.items() if isinstance(values, dict) else [("", values)]
            for name, value in pairs:
                setting = f"{group} {name}".strip()
                lines.append([setting.replace("_", " "), f"{value}"])
        for name, number in run.versions.items():
            lines.append([f"versions: {name}", number])
        for name, value in run.machine.items():
            lines.append([f"machine: {name}", f"{value}"])
        lines.append(["git commit", run.git_commit or "none"])
    return Table("Settings", ["setting", "value"], lines)


def _sessions_table(run: SweepRun | None) -> Table:
    lines = []
    for session in run.sessions if run is not None else []:
        networks, training, rlct = 0, 0.0, 0.0
        for part in session.seconds.values():
            networks += part.networks
            training += part.training
            rlct += part.rlct
        command = " ".join(session.command)
        lines.append([session.started, f"{networks}", f"{training:.0f}", f"{rlct:.0f}", command])
    header = ["started", "networks", "training, s", "RLCT, s", "command"]
    return Table("Sessions", header, lines)
