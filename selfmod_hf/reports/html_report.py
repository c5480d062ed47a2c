"""Write the report of a study as one HTML file: the answer, interactive figures, tables, traces of networks.

The file holds all it needs, Plotly too (compressed, and unpacked by the browser). It asks no host for anything.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from markupsafe import Markup
from plotly.offline import get_plotlyjs

from .. import __version__
from ..files import to_json, write_file
from ..json_records import SweepRun
from .arm_columns import measure_name
from .drawn_measures import COMPLEXITY, drawn_measure, main_of
from .drawn_study import Drawn, prepare
from .figures import followed
from .page_data import MOST_TRACE_POINTS, figure_data
from .statistics import count_not_ok
from .sweep_results import SweepResults
from .sweep_tables import number_text
from .table import Table, as_html, environment

SIDE_BY_SIDE = 40  # arms at most in one figure of all panels
SECTIONS = {
    "figures": "Figures",
    "tables": "Tables",
    "network": "One network",
    "warnings": "Warnings",
    "run": "How it was run",
    "all": "All networks",
}
# of the table of all networks, beside the compared metric: column -> header and format
COLUMNS = {
    "weight_width": ("SD", ".4f"),
    "train_loss": ("training loss", ".4f"),
    "rlct": ("RLCT", ".2f"),
    "rlct_standard_error": ("error", ".2f"),
    "nbeta": ("nβ", ".2f"),
    "rlct_rhat": ("R-hat", ".3f"),
    "rlct_ess": ("ESS", ".0f"),
}
WARNINGS = ("not_ok", "at_chance")  # tables of this section


def write_html_report(results: SweepResults, tables: Mapping[str, Table], path: Path) -> None:
    """Write the page.

    Args:
        results: of the study.
        tables: from `sweep_tables`.
        path: the file.

    Raises:
        InputError: a network's weights or trace, or an entry of run.json, cannot be used.
    """
    drawn = prepare(results)
    data = figure_data(drawn)
    rows = results.rows.assign(name=[network["name"] for network in data["networks"]])
    networks = rows.to_dict("records")
    of_run = {"settings": _settings_table(results.run), "sessions": _sessions_table(results.run)}
    of_networks = {
        "warnings": _warnings_table(networks, results.metric),
        "networks": _networks_table(networks, results.metric, results.further_measures),
    }
    main = main_of(results.metric)
    panels = drawn.layout.panels
    page = (
        environment()
        .get_template("report.html.jinja")
        .render(
            title=f"Self-modeling networks on {results.task}",
            answer=results.answer,
            summary=_summary(drawn),
            setting=results.setting,
            version=__version__,
            sections=SECTIONS,
            panels=panels,
            all_panels=len(panels) * len(drawn.layout.labels) <= SIDE_BY_SIDE,
            at_a_glance=_titles(main),
            against_loss=_titles(COMPLEXITY),
            measures=_titles([*main, *results.further_measures]),
            first_choice=next(iter(results.further_measures), results.metric),
            first_axis="" if results.further_measures else "train_loss",
            followed=_titles(followed(results.curves)),
            axis=drawn.layout.title,
            networks=[{"name": row["name"], "arm": row["arm"]} for row in networks],
            trace_note=_trace_note(data["networks"]),
            table_names=[name for name in tables if name not in WARNINGS],
            tables={**tables, **of_run, **of_networks},
            table=as_html,
            data=Markup(_script_json(data)),
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


def _titles(measures: Iterable[str]) -> dict[str, str]:
    titles = {}
    for name in measures:
        titles[name] = drawn_measure(name).title
    return titles


def _summary(drawn: Drawn) -> str:
    """Return a sentence each about the networks, the arms and the RLCTs."""
    rows = drawn.results.rows
    layout = drawn.layout
    arms = rows["arm"].nunique()
    seeds = rows["seed"].nunique()
    seeds_text = "1 seed" if seeds == 1 else f"{seeds} seeds"
    baseline = "none is finished"
    if layout.baseline is not None:
        label = layout.labels[layout.baseline]
        baseline = f"{layout.title} {label}".strip()
    sentences = [
        f"{len(rows)} networks: {arms} arms, {seeds_text}.",
        f"Baseline: {baseline}.",
    ]
    if len(layout.panels) > 1:
        panels = ", ".join(layout.panels)
        sentences.append(f"Panels: {panels}.")
    nbetas = sorted(rows["nbeta"].round(2).unique())
    nbetas_text = ", ".join(f"{value:g}" for value in nbetas)
    presets = ", ".join(sorted(rows["rlct_preset"].unique()))
    sentences.append(f"RLCT at nβ = {nbetas_text}, preset {presets}.")
    bad = count_not_ok(rows)
    sentences.append(f'{bad} of them are not "ok".')
    return " ".join(sentences)


def _trace_note(networks: list[dict[str, Any]]) -> str:
    """Return how far the traces are shortened."""
    traces = [network["trace"] for network in networks if network["trace"]]
    if not traces:
        return "which were not kept"
    points = max(len(trace["chains"][0]) for trace in traces)
    text = f"{points} means over blocks of draws for each chain"
    if points < min(MOST_TRACE_POINTS, traces[0]["draws"]):
        text += " (fewer than usual, because the networks are many)"
    return text


# ---- tables of this form alone ----


def _warnings_table(networks: list[dict[str, Any]], metric: str) -> Table:
    lines = []
    for network in networks:
        if network["rlct_status"] != "ok":
            value = number_text(network["rlct"], ".2f")
            lines.append([network["name"], network["rlct_status"], value, network["rlct_status_reason"]])
    for network in networks:
        if network["at_chance"]:
            value = f"{metric.replace('_', ' ')} {number_text(network[metric], '.4f')}"
            why = "no better than the same answer for each sample"
            lines.append([network["name"], "at chance", value, why])
    return Table(
        "RLCTs that are not ok, and networks at chance level",
        ["network", "status", "value", "why"],
        lines,
        if_empty='None: every RLCT is "ok", and no network is at chance level.',
    )


def _networks_table(networks: list[dict[str, Any]], metric: str, measures: Sequence[str]) -> Table:
    """Return one line per network.

    Args:
        networks: rows of the study with the column `name`.
        metric: that the study compares.
        measures: further measures.
    """
    lines = []
    columns = {metric: (metric.replace("_", " "), ".4f"), **COLUMNS}
    for network in networks:
        line = [network["name"], network["rlct_status"]]
        for name, (_, form) in columns.items():
            line.append(number_text(network[name], form))
        for name in measures:
            line.append(number_text(network[name], ".4g"))
        lines.append(line)
    header = ["network", "status"]
    header += [title for title, _ in columns.values()]
    header += [measure_name(name) for name in measures]
    return Table("All networks", header, lines)


def _settings_table(run: SweepRun | None) -> Table:
    found: dict[str, Any] = {}
    if run is not None:
        for group, values in run.settings.to_dict().items():
            if not isinstance(values, dict):
                values = {"": values}
            for name, value in values.items():
                setting = f"{group} {name}".strip()
                words = setting.replace("_", " ")
                found[words] = value
        for name, number in run.versions.items():
            found[f"versions: {name}"] = number
        for name, value in run.machine.items():
            found[f"machine: {name}"] = value
        found["git commit"] = run.git_commit or "none"
    lines = [[name, f"{value}"] for name, value in found.items()]
    return Table("Settings", ["setting", "value"], lines)


def _sessions_table(run: SweepRun | None) -> Table:
    lines = []
    sessions = [] if run is None else run.sessions
    for session in sessions:
        networks = 0
        training = 0.0
        rlct = 0.0
        for part in session.seconds.values():
            networks += part.networks
            training += part.training
            rlct += part.rlct
        line = [
            session.started,
            f"{networks}",
            f"{training:.0f}",
            f"{rlct:.0f}",
            " ".join(session.command),
        ]
        lines.append(line)
    header = ["started", "networks", "training, s", "RLCT, s", "command"]
    return Table("Sessions", header, lines)
