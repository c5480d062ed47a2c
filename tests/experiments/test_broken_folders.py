"""Results folders that are not what a sweep writes: refused by one line that names the file, and nothing of theirs is
run or shown as code."""

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from selfmod_hf import load_results
from selfmod_hf.cli import main
from selfmod_hf.complexity import LLCResult
from selfmod_hf.errors import InputError
from selfmod_hf.experiments.folder import SweepFolder
from selfmod_hf.files import to_json
from selfmod_hf.hub.model_folder import facts_of, write_model_card
from selfmod_hf.reports.cards import dataset_card, sweep_card
from selfmod_hf.reports.sweep_results import read_results
from selfmod_hf.reports.sweep_tables import overview

CELL = "cells/h8-aw0-seed1"
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(1)>|`[a](javascript:alert(1))\n---\n# owned"
pytestmark = pytest.mark.usefixtures("blank_figures")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)


@pytest.fixture
def sweep(small_sweep, tmp_path) -> Path:
    return shutil.copytree(small_sweep, tmp_path / "sweep")


@pytest.fixture
def model(small_model, tmp_path) -> Path:
    return shutil.copytree(small_model, tmp_path / "model")


def entry(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    """Changes the JSON in a file."""

    def apply(path: Path) -> None:
        value = json.loads(path.read_text())
        path.write_text(json.dumps(change(value) or value))

    return apply


def text(content: str | bytes) -> Callable[[Path], None]:
    return lambda path: (path.write_bytes(content.encode() if isinstance(content, str) else content), None)[1]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def gone(path: Path) -> None:
    path.unlink()


# file, what is done to it, commands that must refuse it
BROKEN: list[tuple[str, Callable[[Path], None], tuple[str, ...]]] = [
    (f"{CELL}/row.json", cut, ("report", "push")),
    (f"{CELL}/row.json", text("[]"), ("report", "push")),
    (f"{CELL}/row.json", text("5"), ("report", "push")),
    (f"{CELL}/row.json", text(b"\xff\xfe"), ("report", "push")),
    (f"{CELL}/row.json", text("[" * 100_000), ("report", "push")),
    (f"{CELL}/row.json", entry(lambda row: row.pop("rlct")), ("report", "push")),
    (f"{CELL}/row.json", entry(lambda row: row.update(hidden_size="../../x")), ("report", "push")),
    (f"{CELL}/row.json", entry(lambda row: row.update(accuracy="0.9")), ("report", "push")),
    (f"{CELL}/row.json", entry(lambda row: row.update(aux_weight=None)), ("report", "push")),
    (f"{CELL}/row.json", entry(lambda row: row.update(task=5)), ("report", "push")),
    (f"{CELL}/row.json", entry(lambda row: row.update(rlct_status=[])), ("report", "push")),
    (f"{CELL}/curve.json", cut, ("report", "push")),
    (f"{CELL}/curve.json", gone, ("report", "push")),
    (f"{CELL}/curve.json", text("{}"), ("report", "push")),
    (f"{CELL}/curve.json", text("[5]"), ("report", "push")),
    (f"{CELL}/model.safetensors", cut, ("report",)),
    (f"{CELL}/model.safetensors", gone, ("report",)),
    (f"{CELL}/rlct.json", cut, ("report",)),
    (f"{CELL}/rlct.json", text("[]"), ("report",)),
    (f"{CELL}/rlct.safetensors", cut, ("report",)),
    (f"{CELL}/rlct.safetensors", gone, ("report",)),
    (f"{CELL}/config.json", cut, ("push",)),
    (f"{CELL}/config.json", entry(lambda config: config.update(hidden_sizes=[10**9] * 2000)), ("push",)),
    ("run.json", cut, ("report", "push")),
    ("run.json", text("[]"), ("report", "push")),
    ("run.json", entry(lambda run: run.update(settings=None)), ("report", "push")),
    ("run.json", entry(lambda run: run["settings"].update(sampling=5)), ("report", "push")),
    ("run.json", entry(lambda run: run.update(sessions=[5])), ("report",)),
    ("run.json", entry(lambda run: run.update(versions=[1])), ("report", "push")),
    ("run.json", entry(lambda run: run.update(metrics=[])), ("report", "push")),
]  # fmt: skip


@pytest.mark.parametrize(
    ("number", "command"),
    [(number, command) for number, (_, _, commands) in enumerate(BROKEN) for command in commands],
    ids=lambda value: BROKEN[value][0].rsplit("/")[-1] + f"-{value}" if isinstance(value, int) else value,
)
def test_a_broken_file_is_named(sweep, capsys, monkeypatch, number, command):
    monkeypatch.chdir(sweep.parent)
    file, damage, _ = BROKEN[number]
    damage(sweep / file)
    capsys.readouterr()
    assert main([command, "sweep", *(["--repo=me/x", "--quiet"] if command == "push" else [])]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("selfmod: error")]
    assert Path(file).name.partition(".")[0] in line
    assert "connection" not in line  # refused before the Hub was asked


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    file=st.sampled_from([f"{CELL}/row.json", f"{CELL}/curve.json", "run.json", f"{CELL}/rlct.json"]),
    place=st.randoms(use_true_random=False),
    value=JSON,
)
def test_any_entry_is_used_or_refused(small_sweep, tmp_path, file, place, value):
    """Anywhere in a file something else: what is read makes tables and cards, or is refused."""
    folder = tmp_path / "sweep"
    if not folder.is_dir():
        shutil.copytree(small_sweep, folder)
    path, whole = folder / file, (small_sweep / file).read_text()
    path.write_text(json.dumps(_with_one_changed(json.loads(whole), place, value)))
    try:
        sweep = SweepFolder(folder)
        assert overview(read_results(sweep))
        LLCResult.load(folder / CELL / "rlct.json")
        run = sweep.read_run()
        assert run is not None
        assert json.loads(to_json(run.to_dict())) == json.loads((folder / "run.json").read_text())
    except ValueError as error:  # InputError is one
        assert str(error)  # noqa: PT017
    finally:
        path.write_text(whole)


def _with_one_changed(value: Any, place: random.Random, new: Any) -> Any:
    """The value with one entry, at any depth, replaced."""
    keys = list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    if not keys or place.random() < 0.2:
        return new
    key = place.choice(keys)
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[key] = _with_one_changed(value[key], place, new)
    return copy


# ------------------------------------------------------------------------------------------- results


@pytest.mark.parametrize(
    "damage", [cut, text(b""), text(b"PAR1 no parquet"), gone], ids=["cut", "empty", "other", "gone"]
)
def test_a_broken_table_is_named(sweep, damage):
    damage(sweep / "results.parquet")
    with pytest.raises(InputError, match=r"results\.parquet"):
        load_results(str(sweep))


def test_broken_tables_can_be_made_anew(sweep):
    """They are made of the cells' own files."""
    cut(sweep / "results.parquet")
    SweepFolder(sweep).write_tables()
    assert len(load_results(str(sweep))) == 4


@pytest.mark.parametrize(
    "change",
    [
        lambda rlct: rlct.pop("llc"),
        lambda rlct: rlct.update(settings=None),
        lambda rlct: rlct["settings"].pop("seed"),
        lambda rlct: [rlct],
    ],
)
def test_a_broken_rlct_is_named(model, change):
    entry(change)(model / "rlct.json")
    with pytest.raises(InputError, match=r"rlct\.json"):
        load_results(str(model))


@pytest.mark.parametrize(
    "change",
    [
        lambda rlct: rlct.update(traces="../../../etc/passwd"),
        lambda rlct: rlct.update(traces="/etc/passwd"),
        lambda rlct: rlct.update(status="fine"),
        lambda rlct: rlct.update(nbeta="1"),
        lambda rlct: rlct.update(llc_per_chain=[1.0]),
        lambda rlct: rlct["settings"].update(num_draws=7),
        lambda rlct: rlct["settings"].update(more=1),
        lambda rlct: rlct.update(llc={"a": 1}),
    ],
)
def test_an_rlct_of_another_shape_is_refused(model, change):
    entry(change)(model / "rlct.json")
    with pytest.raises((ValueError, OSError), match="rlct"):
        LLCResult.load(model / "rlct.json")
    with pytest.raises((ValueError, OSError), match="rlct"):
        facts_of(model, "me/x")


# ------------------------------------------------------------------------------------------- text of strangers


def test_cards_and_reports_show_hostile_text_as_text(sweep, model):
    """Names, reasons and settings stand there, but not as HTML, links, cells or metadata of their own."""
    for name in ("rlct_status_reason", "rlct_preset", "task"):
        for path in sweep.glob("cells/*/row.json"):
            entry(lambda row, name=name: row.update({name: HOSTILE}))(path)
    for path in sweep.glob("cells/*/curve.json"):
        entry(lambda curve: [point | {"task": HOSTILE} for point in curve])(path)
    for path in sweep.glob("cells/*/config.json"):
        entry(lambda config: config.update(target_layers=[HOSTILE]))(path)
    hostile_run = {"task": HOSTILE, HOSTILE: HOSTILE}
    entry(lambda run: [run["settings"].update(hostile_run), run["settings"]["data"].update(dataset_name=HOSTILE)][2:])(
        sweep / "run.json"
    )
    assert main(["report", str(sweep)]) == 0
    entry(lambda rlct: rlct.update(status_reason=HOSTILE))(model / "rlct.json")
    entry(lambda run: run["task"].update(name=HOSTILE, dataset_name=HOSTILE, test_split=HOSTILE))(model / "run.json")
    entry(lambda config: config.update(target_layers=[HOSTILE]))(model / "config.json")
    page = (sweep / "report" / "report.html").read_text()
    results = read_results(SweepFolder(sweep))
    cards = [sweep_card(results, "me/x"), dataset_card(results, "me/x")]
    texts = [str(card) for card in cards] + [write_model_card(model, "me/x").read_text()]
    assert "<script>alert" not in page
    assert "<img" not in page
    for card in texts:
        body = card.split("\n---\n", 1)[1]
        assert "<script>" not in body
        assert "<img" not in body
        assert "](javascript" not in body
        assert "\n# owned" not in body
    assert "alert(1)" in texts[0]
    assert "alert(1)" in texts[2]
    for card in cards:
        assert card.data.license is None


def _in_run(group: str, key: str) -> Callable[[Path], None]:
    return lambda sweep: entry(lambda run: (run["settings"][group] if group else run).update({key: HOSTILE}))(
        sweep / "run.json"
    )


def _in_cells(file: str, key: str, value: Any = HOSTILE) -> Callable[[Path], None]:
    def apply(sweep: Path) -> None:
        for path in sweep.glob(f"cells/*/{file}.json"):
            entry(lambda content: content.update({key: value}))(path)

    return apply


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        _in_run("data", "dataset_name"),
        _in_run("data", HOSTILE),
        _in_run("training", "optim"),
        _in_run("training", HOSTILE),
        _in_run("sampling", "preset"),
        _in_run("sampling", "nbeta"),
        _in_run("sampling", HOSTILE),
        _in_run("", "git_commit"),
        lambda sweep: entry(lambda run: run["versions"].update({HOSTILE: HOSTILE}))(sweep / "run.json"),
        lambda sweep: entry(lambda run: run["settings"].update(task=HOSTILE))(sweep / "run.json"),
        _in_cells("row", "task"),
        _in_cells("row", "rlct_status_reason"),
        _in_cells("row", "rlct_preset"),
        _in_cells("config", "target_layers", [HOSTILE]),
    ],
)
def test_one_hostile_field_beside_valid_ones(sweep, change):
    """What a valid task makes of it is shown too: in what the sweep departs from the recipe."""
    change(sweep)
    assert main(["report", str(sweep)]) == 0
    page = (sweep / "report" / "report.html").read_text(encoding="utf-8")
    assert "<script>alert" not in page
    assert "<img" not in page
    results = read_results(SweepFolder(sweep))
    for card in (sweep_card(results, "me/x"), dataset_card(results, "me/x")):
        body = str(card).split("\n---\n", 1)[1]
        for mark in ("<script>", "<img", "](javascript", "\n# owned"):
            assert mark not in body


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda settings: settings.update(task=["digits"]), "settings.task"),
        (lambda settings: settings.pop("task") and None, "settings.task"),
        (lambda settings: settings["data"].update(dataset_name=5), "settings.data.dataset_name"),
    ],
)
def test_settings_of_another_type_are_refused_in_one_line(sweep, capsys, change, named):
    entry(lambda run: change(run["settings"]))(sweep / "run.json")
    for command in (["report", str(sweep)], ["push", str(sweep), "--repo=me/x"]):
        assert main(command) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert named in line


def test_a_number_too_large_for_a_float_is_shown(sweep):
    entry(lambda run: run["settings"]["training"].update(learning_rate=10**400))(sweep / "run.json")
    assert main(["report", str(sweep)]) == 0


def test_a_local_folder_that_is_gone_is_no_data_set_of_the_hub(sweep):
    """Neither by its name nor, where that could be an id, by what the run recorded."""
    for name, local in (("./data/mnist", None), ("/data/mnist", None), ("my/data/mnist", None), ("my/mnist", True)):
        entry(lambda run, name=name: run["settings"]["data"].update(dataset_name=name))(sweep / "run.json")
        entry(lambda run, local=local: run.update(local_data=local))(sweep / "run.json")
        assert sweep_card(read_results(SweepFolder(sweep)), "me/x").data.datasets is None
    entry(lambda run: run.update(local_data=False))(sweep / "run.json")
    assert sweep_card(read_results(SweepFolder(sweep)), "me/x").data.datasets == ["my/mnist"]


@pytest.mark.slow
def test_files_are_utf_8_whatever_the_locale(sweep, model):
    """Settings, notes and reports with letters that ASCII lacks, where the locale is C."""
    entry(lambda run: run["settings"]["training"].update(optim="β"))(sweep / "run.json")
    program = r"""
import sys
from selfmod_hf.cli import main
from selfmod_hf.hub.card import BEGIN
from selfmod_hf.hub.model_folder import write_model_card
assert main(["report", sys.argv[1]]) == 0
card = write_model_card(sys.argv[2], "me/x")
card.write_bytes(card.read_bytes().replace(BEGIN.encode(), BEGIN.encode() + "\nMine: n\u03b2.".encode()))
assert "Mine: n\u03b2." in write_model_card(sys.argv[2], "me/x").read_bytes().decode()
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(sweep), str(model)],
        env=os.environ | {"PYTHONUTF8": "0", "LC_ALL": "C"}, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    assert "optim β" in (sweep / "report" / "report.txt").read_text(encoding="utf-8")
