"""The report of a sweep as one HTML file: tables, the paper's panels as interactive figures, each network's trace.

It holds all it needs, Plotly too (compressed; the browser unpacks it), and asks no host for anything.
"""

from __future__ import annotations

import base64
import gzip
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..complexity.weight_width import histogram
from ..files import entries_of, to_json, write_file
from .folder import SweepFolder
from .plan import Cell, describe_setting
from .published import compare_with_published, published_value, published_values
from .report import DIGITS, NAMES
from .statistics import ARM, MEASURES, compare_with_baseline, mark_chance, mean_interval, summarize_arms, trends, usable

if TYPE_CHECKING:
    import pandas as pd

TRACE_POINTS, BINS = 60, 40  # of a chain's trace, of a network's histogram: what a figure of this size can show
PANELS = {
    "epochs": "Over epochs, mean over seeds",
    "weight_width": "Weight width",
    "rlct": "RLCT",
    "accuracy": "Test accuracy",
}
MEASURE_TITLES = {"weight_width": "SD of the last layer's weights", "rlct": "RLCT", "accuracy": "test accuracy"}
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


@dataclass(frozen=True)
class Table:
    """A table of the page; `links`: its first column names networks."""

    caption: str
    header: Sequence[str]
    rows: list[list[str]]
    links: bool = False


def write_html_report(folder: SweepFolder, path: Path) -> Path:
    """Write the report of a sweep's finished networks; returns the path.

    Raises:
        InputError: no network is finished.
    """
    from jinja2 import Environment, FileSystemLoader
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    from .. import __version__

    rows, run = folder.rows(), folder.read_run()
    curves = mark_chance(folder.curves(), rows)
    networks = _networks(folder, rows)
    task = str(rows["task"].iloc[0])
    with entries_of(folder.path / "run.json"):
        tables = _tables(rows, run, networks)
    environment = Environment(loader=FileSystemLoader(str(files(__package__) / "html")), autoescape=True)
    table = environment.get_template("table.html.jinja")
    page = environment.get_template("report.html.jinja").render(
        title=f"Self-modeling networks on {task}",
        summary=_summary(rows),
        setting=describe_setting(run["settings"], folder.finished_cells()),
        version=__version__,
        sections=SECTIONS,
        panels=PANELS,
        widths=[int(width) for width in sorted(rows["hidden_size"].unique())],
        followed={measure: MEASURE_TITLES[measure] for measure in _followed(curves)},
        networks=networks,
        tables=tables,
        table=lambda content: Markup(table.render(table=content)),
        source=published_values()["source"],
        data=Markup(_for_script(_data(rows, curves, networks))),
        plotly=Markup(base64.b64encode(gzip.compress(get_plotlyjs().encode(), 9, mtime=0)).decode()),
        css=Markup(_file("report.css")),
        js=Markup(_file("report.js")),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, page)
    return path


def _file(name: str) -> str:
    return files(__package__).joinpath("html", name).read_text(encoding="utf-8")


def _for_script(value: Any) -> str:
    """JSON that cannot end the script element it stands in."""
    return json.dumps(json.loads(to_json(value)), separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c")


def _summary(rows: pd.DataFrame) -> str:
    def listed(values: Iterable[float]) -> str:
        return ", ".join(f"{value:g}" for value in sorted(set(values)))

    bad = int((rows["rlct_status"] != "ok").sum())
    return (
        f"{len(rows)} networks: widths {listed(rows['hidden_size'])}; weights of the self-modeling loss (AW) "
        f"{listed(rows['aux_weight'])}; {rows['seed'].nunique()} seeds. RLCT at nβ = {listed(rows['nbeta'].round(2))}, "
        f'preset {", ".join(sorted(set(rows["rlct_preset"])))}; {bad} of them not "ok".'
    )


# ---- what the figures need ----


def _networks(folder: SweepFolder, rows: pd.DataFrame) -> list[dict[str, Any]]:
    networks = []
    for index, row in enumerate(rows.to_dict("records")):
        cell = Cell(**{key: row[key] for key in ("hidden_size", "aux_weight", "seed", "detach_targets")})
        extra = {"index": index, "name": cell.name, "histogram": _histogram(folder.final_weights(row))}
        networks.append({**row, **extra, "trace": _trace(folder.cells / cell.name / "rlct.json")})
    return networks


def _histogram(weights: np.ndarray) -> dict[str, Any]:
    finite = weights[np.isfinite(weights)]
    counts, edges = histogram(finite, BINS)
    return {"counts": counts.tolist(), "low": _short(edges[0]), "high": _short(edges[-1])}


def _trace(path: Path) -> dict[str, Any] | None:
    """Each chain's trace as block means, where the sweep has kept it."""
    if not path.is_file():
        return None
    from ..complexity import LLCResult

    result = LLCResult.load(path)
    trace = result.llc_trace(paired=result.settings.paired)  # (C, T)
    parts = np.array_split(trace, min(TRACE_POINTS, trace.shape[1]), axis=1)
    chains = np.stack([part.mean(axis=1) for part in parts], axis=1)  # (C, points)
    values = [[_short(value) for value in chain] for chain in chains]
    return {"chains": values, "draws": trace.shape[1], "burnin": result.settings.num_burnin_steps}


def _short(value: float) -> float | None:
    """Four digits: more than a figure shows."""
    return float(f"{value:.4g}") if math.isfinite(value) else None


def _data(rows: pd.DataFrame, curves: pd.DataFrame, networks: list[dict[str, Any]]) -> dict[str, Any]:
    arms = rows[["aux_weight", "detach_targets"]].drop_duplicates().sort_values(["aux_weight", "detach_targets"])
    keys = [(row.aux_weight, row.detach_targets) for row in arms.itertuples()]
    widths = sorted(rows["hidden_size"].unique().tolist())
    means = [
        {name: entry[name] for name in ("hidden_size", "measure", "mean", "low", "high", "count")}
        | {"arm": keys.index((entry["aux_weight"], entry["detach_targets"]))}
        for entry in summarize_arms(rows).to_dict("records")
    ]
    task = rows["task"].iloc[0]
    published = [
        {"hidden_size": width, "arm": index, "measure": measure, "value": value}
        for width in widths
        for index, (weight, _) in enumerate(keys)
        for measure in MEASURES
        if (value := published_value(task, measure, width, weight)) is not None
    ]
    return {
        "networks": networks,
        "arms": [{"aux_weight": weight, "detach_targets": detach} for weight, detach in keys],
        "weights": sorted(rows["aux_weight"].unique().tolist()),
        "widths": widths,
        "seeds": sorted(rows["seed"].unique().tolist()),
        "measures": MEASURE_TITLES,
        "epochs": [
            _over_epochs(key, measure, arm)
            for measure in _followed(curves)
            for key, arm in usable(curves, measure).groupby(ARM)
        ],
        "means": means,
        "published": published,
    }


def _followed(curves: pd.DataFrame) -> list[str]:
    """The measures that were taken while training."""
    return [measure for measure in MEASURE_TITLES if measure in curves]


def _over_epochs(key: Any, measure: str, curves: pd.DataFrame) -> dict[str, Any]:
    table = [(epoch, *mean_interval(values.to_numpy(float))) for epoch, values in curves.groupby("epoch")[measure]]
    columns = [[_short(value) for value in column] for column in zip(*table, strict=True)]
    entry = dict(zip(ARM, key, strict=True)) | {"measure": measure}
    return entry | dict(zip(("epoch", "mean", "low", "high"), columns, strict=True))


# ---- tables ----


def _tables(rows: pd.DataFrame, run: dict[str, Any], networks: list[dict[str, Any]]) -> dict[str, Table]:
    return {
        "arms": _arms_table(rows),
        "published": _published_table(rows),
        "tests": _tests_table(rows),
        "trends": _trends_table(rows),
        "warnings": _warnings_table(networks),
        "settings": _settings_table(run),
        "sessions": _sessions_table(run),
        "networks": _networks_table(networks),
    }


def _number(value: float | None, form: str) -> str:
    return "-" if value is None or not math.isfinite(value) else format(value, form)


def _arm_cells(entry: dict[str, Any]) -> list[str]:
    targets = "detached" if entry["detach_targets"] else "attached"
    return [f"{entry['hidden_size']}", targets, f"{entry['aux_weight']:g}"]


ARM_HEADER = ["h", "targets", "AW"]


def _arms_table(rows: pd.DataFrame) -> Table:
    lines = []
    for _, arm in summarize_arms(rows).groupby(ARM):
        entries = {entry["measure"]: entry for entry in arm.to_dict("records")}
        cells = []
        for measure in MEASURES:
            mean, low, high = (
                _number(entries[measure][name], f".{DIGITS[measure]}f") for name in ("mean", "low", "high")
            )
            cells.append("none ok" if entries[measure]["count"] == 0 else f"{mean} [{low}, {high}]")
        rlct, accuracy = entries["rlct"], entries["accuracy"]
        lines.append([*_arm_cells(rlct), f"{accuracy['count']}", *cells, f"{rlct['left_out']}"])
    header = [*ARM_HEADER, "seeds", *(f"{NAMES[measure]} [95 %]" for measure in MEASURES), "RLCT left out"]
    return Table("Each arm: mean over seeds and 95 % t interval", header, lines)


def _published_table(rows: pd.DataFrame) -> Table:
    found = compare_with_published(rows)
    lines = [
        [
            NAMES[row["measure"]], *_arm_cells(row), _number(row["ours"], f".{DIGITS[row['measure']]}f"),
            f"{row['published']:g}", f"{row['percent']:+.1f} %", f"{row['seeds']}", f"{row['not_ok']}",
        ]
        for row in (found.sort_values(["measure", *ARM]) if len(found) else found).to_dict("records")
    ]  # fmt: skip
    header = ["measure", *ARM_HEADER, "ours", "published", "difference", "seeds", "not ok"]
    return Table("Our means beside the paper's", header, lines)


def _tests_table(rows: pd.DataFrame) -> Table:
    lines = [
        [
            *_arm_cells(test), NAMES[test["measure"]], test["test"], _number(test["difference"], "+.4f"),
            _number(test["effect"], "+.2f"), _number(test["p"], ".2g"), _number(test["p_holm"], ".2g"),
        ]
        for test in compare_with_baseline(rows).to_dict("records")
    ]  # fmt: skip
    header = [*ARM_HEADER, "measure", "test", "difference", "Cohen's d", "p", "p (Holm)"]
    return Table("Each arm against the baseline of its width", header, lines)


def _trends_table(rows: pd.DataFrame) -> Table:
    lines = []
    for trend in trends(rows).to_dict("records"):
        rho, low, high = (_number(trend[name], "+.3f") for name in ("rho", "low", "high"))
        targets = "detached" if trend["detach_targets"] else "attached"
        counts = [f"{trend['count']}", f"{trend['left_out']}"]
        arm = [f"{trend['hidden_size']}", targets, NAMES[trend["measure"]]]
        lines.append([*arm, f"{rho} [{low}, {high}]", _number(trend["p"], ".2g"), *counts])
    header = ["h", "targets", "measure", "rho [95 %]", "p", "networks", "left out"]
    return Table("Trend over the self-model's weight (Spearman)", header, lines)


def _warnings_table(networks: list[dict[str, Any]]) -> Table:
    lines = [
        [n["name"], n["rlct_status"], _number(n["rlct"], ".2f"), n["rlct_status_reason"]]
        for n in networks
        if n["rlct_status"] != "ok"
    ]
    why = "no more accurate than guessing the most frequent class"
    lines += [[n["name"], "at chance", f"accuracy {n['accuracy']:.4f}", why] for n in networks if n["at_chance"]]
    return Table(
        "RLCTs that are not ok, and networks at chance level", ["network", "status", "value", "why"], lines, links=True
    )


def _networks_table(networks: list[dict[str, Any]]) -> Table:
    lines = [
        [
            n["name"], _number(n["accuracy"], ".4f"), _number(n["weight_width"], ".4f"), _number(n["rlct"], ".2f"),
            _number(n["rlct_standard_error"], ".2f"), n["rlct_status"], _number(n["nbeta"], ".2f"),
            _number(n["rlct_rhat"], ".3f"), _number(n["rlct_ess"], ".0f"), _number(n["train_loss"], ".4f"),
        ]
        for n in networks
    ]  # fmt: skip
    header = ["network", "accuracy", "SD", "RLCT", "error", "status", "nβ", "R-hat", "ESS", "training loss"]
    return Table("All networks", header, lines, links=True)


def _settings_table(run: dict[str, Any]) -> Table:
    lines = []
    for group, values in (run.get("settings") or {}).items():
        pairs = values.items() if isinstance(values, dict) else [("", values)]
        lines += [[f"{group} {name}".strip().replace("_", " "), f"{value}"] for name, value in pairs]
    for group in ("versions", "machine"):
        lines += [[f"{group}: {name}", f"{value}"] for name, value in run.get(group, {}).items()]
    lines.append(["git commit", f"{run.get('git_commit') or 'none'}"])
    return Table("Settings", ["setting", "value"], lines)


def _sessions_table(run: dict[str, Any]) -> Table:
    lines = []
    for session in run.get("sessions", []):
        seconds = session.get("seconds", {})
        networks = sum(part.get("networks", 0) for part in seconds.values())
        spent = {what: sum(part.get(what, 0.0) for part in seconds.values()) for what in ("training", "rlct")}
        times = [f"{networks}", *(f"{value:.0f}" for value in spent.values())]
        lines.append([str(session.get("started", "")), *times, " ".join(map(str, session.get("command", [])))])
    return Table("Sessions", ["started", "networks", "training, s", "RLCT, s", "command"], lines)
