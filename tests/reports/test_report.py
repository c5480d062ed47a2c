"""The report of a sweep, from Python and by the command: the same tables in its text, its page and the card."""

import json
import re
import shutil
from html import unescape
from pathlib import Path

import pytest

from selfmod_hf import report
from selfmod_hf.cli import main
from selfmod_hf.errors import InputError
from selfmod_hf.experiments.folder import SweepFolder
from selfmod_hf.reports.cards import CARD_TABLES, sweep_card
from selfmod_hf.reports.report import Report
from selfmod_hf.reports.sweep_results import read_results
from selfmod_hf.reports.sweep_tables import sweep_tables
from selfmod_hf.reports.table import Table, as_text


@pytest.fixture(scope="module")
def sweep(small_sweep, tmp_path_factory) -> Path:
    """A sweep of version 0.1.0 with attached and detached targets, of MNIST by name, all RLCTs but one ok."""
    folder = shutil.copytree(small_sweep, tmp_path_factory.mktemp("both") / "sweep")
    for cell in sorted((folder / "cells").glob("h8-aw10-seed*")):
        shutil.copytree(cell, cell.with_name(cell.name.replace("aw10", "aw10-attached")))
    for number, path in enumerate(sorted(folder.glob("cells/*/row.json"))):
        attached = "attached" in path.parent.name
        row = json.loads(path.read_text()) | {"hidden_size": 64, "task": "mnist", "detach_targets": not attached}
        row |= {"rlct_status": "diverged" if number == 0 else "ok", "accuracy": 0.9 - number / 100}
        del row["arm"]
        path.write_text(json.dumps(row))
        curve = json.loads(path.with_name("curve.json").read_text())
        keys = {name: row[name] for name in ("hidden_size", "task", "detach_targets")} | {"arm": None}
        path.with_name("curve.json").write_text(json.dumps([point | keys for point in curve]))
        path.parent.rename(path.parent.with_name(path.parent.name.replace("h8", "h64")))
    run = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(run | {"arms": [], "axes": []}))
    return folder


@pytest.fixture(scope="module")
def found(sweep, tmp_path_factory) -> Report:
    return report(sweep, tmp_path_factory.mktemp("report"))


def cells_in_text(table: Table, text: str) -> list[list[str]]:
    """Return the lines below a caption, split where columns are apart."""
    paragraph = text.partition(f"{table.caption}\n\n")[2].partition("\n\n")[0]
    return [re.split(r"\s{2,}", line) for line in paragraph.splitlines()]


def cells_in_page(table: Table, page: str) -> list[list[str]]:
    """Return the cells of the HTML table of a caption."""
    found = page.partition(f"<caption>{table.caption}</caption>")[2].partition("</table>")[0]
    return [re.findall(r"<t[hd][^>]*>([^<]*)</t[hd]>", line) for line in found.split("<tr>")[1:]]


def cells_in_card(table: Table, card: str) -> list[list[str]]:
    """Return the cells of the Markdown table of a caption."""
    header, _, *lines = card.partition(f"{table.caption}\n\n")[2].partition("\n\n")[0].splitlines()
    return [line.strip("| ").split(" | ") for line in (header, *lines)]


def test_tables_are_the_same_in_text_page_and_card(found):
    assert found.text + "\n" == (found.path / "report.txt").read_text()
    assert not found.tables["at_chance"].rows
    page = unescape((found.path / "report.html").read_text())
    card = sweep_card(found.results, "me/x").text
    for name, table in found.tables.items():
        cells = [list(table.header), *map(list, table.rows)]
        if not table.rows:
            continue
        assert cells_in_text(table, found.text) == cells
        assert cells_in_page(table, page) == cells
        if name in CARD_TABLES:
            assert cells_in_card(table, card) == cells
    assert {"arms", "not_ok", "equal_loss", "published", "targets"} == {
        name for name in CARD_TABLES if found.tables[name].rows
    }


def test_attached_against_detached(found):
    table = found.tables["targets"]
    accuracy = dict(zip(table.header, table.rows[1], strict=True))
    # sorted by name, the two attached networks of weight 10 come before the two detached ones
    assert (accuracy["measure"], accuracy["attached"], accuracy["detached"]) == ("acc", "0.8750", "0.8550")
    assert (accuracy["difference"], accuracy["networks"]) == ("+0.0200", "2 and 2")


def test_left_out_networks_are_named_by_arm_and_seed(found):
    (line,) = found.tables["not_ok"].rows
    assert list(line[:6]) == ["64", "detached", "0", "diverged", "no", "1"]
    assert found.tables["not_ok"].caption.startswith("1 of 6 RLCTs are not ok")
    rlct = found.results.arms.query("aux_weight == 0 and measure == 'rlct'").iloc[0]
    (arm,) = [row for row in found.tables["arms"].rows if row[2] == "0"]
    assert arm[-2:] == [f"{rlct['mean']:.2f}", "1"]  # a single value has no interval


def test_the_command_prints_what_the_function_returns(sweep, found, tmp_path, capsys, blank_figures):
    assert main(["report", str(sweep), f"--output_dir={tmp_path}"]) == 0
    assert capsys.readouterr().out.startswith(found.text)
    assert {path.name for path in found.figures} | {"report.html", "report.txt"} == {
        path.name for path in tmp_path.iterdir()
    }
    assert {"figure2.png", "figure2_attached.pdf", "targets.png"} <= {path.name for path in found.figures}


def test_a_sweep_without_published_values_has_no_table_of_them(small_sweep):
    results = read_results(SweepFolder(small_sweep))
    assert "Our means beside the paper's" not in sweep_card(results, "me/x").text
    published = sweep_tables(results)["published"]
    assert "The paper has no values for these networks." in as_text([published])


def test_a_folder_without_networks_is_rejected(tmp_path):
    with pytest.raises(InputError, match="holds no finished network"):
        report(tmp_path)
