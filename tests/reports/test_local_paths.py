"""What is published names no path of this machine."""

import json
from pathlib import Path

import pandas as pd

from selfmod_hf.experiments.arms import make_arms
from selfmod_hf.experiments.folder import SweepFolder
from selfmod_hf.reports.cards import dataset_card, sweep_card
from selfmod_hf.reports.local_paths import hide_local_paths, local_paths
from selfmod_hf.reports.sweep_results import read_results
from tests.reports.folders import write_study

CONFIG = {
    "model_type": "self_modeling", "backbone": "mlp", "target_layers": ["hidden.relu1"],
    "architectures": ["SelfModelingForImageClassification"],
}  # fmt: skip


def local_study(folder: Path, data: str, other: str) -> SweepFolder:
    """A study of a local data set, one arm of which predicts a local network's activations."""
    named = {"baseline": {"aux_weight": 0.0}, "other": {"aux_weight": 1.0, "target_source": f"network:{other}"}}
    write_study(folder, make_arms({}, named), [1, 2], epochs=2, task="pictures")
    for cell in (folder / "cells").iterdir():
        (cell / "config.json").write_text(json.dumps(CONFIG))
    run = json.loads((folder / "run.json").read_text())
    run["settings"]["data"] = {"dataset_name": data, "test_fraction": 0.2}
    run["sessions"][0]["command"] = ["sweep", f"--dataset_name={data}", "--arms", json.dumps(named)]
    (folder / "run.json").write_text(json.dumps(run))
    sweep = SweepFolder(folder)
    sweep.write_tables()
    return sweep


def test_cards_name_folders_by_their_last_part(tmp_path):
    data, other = f"{tmp_path}/private/pictures", f"{tmp_path}/private/teacher"
    results = read_results(local_study(tmp_path / "study", data, other))
    for card in (sweep_card(results, "me/x"), dataset_card(results, "me/x")):
        assert "private" not in f"{card}"
        assert "pictures" in f"{card}"
    assert "network:teacher" in sweep_card(results, "me/x").text
    assert sweep_card(results, "me/x").data.datasets is None


def test_files_of_a_published_study(tmp_path):
    data, other = f"{tmp_path}/private/pictures", f"{tmp_path}/private/teacher"
    sweep = local_study(tmp_path / "study", data, other)
    staged = tmp_path / "staged"
    staged.mkdir()
    for name in ("run.json", "results.json", "results.parquet", "curves.parquet"):
        (staged / name).symlink_to(sweep.path / name)
    (staged / "report.html").write_text(f"<p>{data}</p>")
    row = sweep.cells / "other-seed1" / "row.json"
    (staged / "row.json").symlink_to(row)
    before = row.read_text()
    hide_local_paths(staged, local_paths(sweep.read_run()))
    for file in staged.iterdir():
        assert b"private" not in file.read_bytes()
    assert (staged / "curves.parquet").is_symlink()  # nothing to hide
    assert row.read_text() == before
    run = json.loads((staged / "run.json").read_text())
    assert (run["settings"]["data"]["dataset_name"], run["local_data"]) == ("pictures", True)
    assert pd.read_parquet(staged / "results.parquet")["target_source"].tolist()[-1] == "network:teacher"
    assert "private" in (sweep.path / "run.json").read_text()


def test_names_of_arms_and_commands_hold_no_path(tmp_path):
    private = f"{tmp_path}/private/study"
    arms = make_arms({"target_source": ["own", f"network:{private}/cells/teacher"]})
    write_study(tmp_path / "study", arms, [1], epochs=2)
    run = json.loads((tmp_path / "study" / "run.json").read_text())
    run["sessions"][0]["command"] = [
        "sweep", "--recipe", "digits", "--output_dir", f"{private}/out", f"--config={private}/my plans/study.yaml",
        "--tokenizer_name", "~/private/words", "--grid", f"target_source=own,network:{private}/cells/teacher",
        "--logging_dir", "runs/x", "--cache", "/p",
    ]  # fmt: skip
    (tmp_path / "study" / "run.json").write_text(json.dumps(run))
    sweep = SweepFolder(tmp_path / "study")
    sweep.write_tables()
    hide_local_paths(sweep.path, local_paths(sweep.read_run()))
    for file in sweep.path.rglob("*"):
        assert "private" not in str(file.relative_to(sweep.path))
        if file.is_file():
            assert b"private" not in file.read_bytes(), file
    command = json.loads((sweep.path / "run.json").read_text())["sessions"][0]["command"]
    assert command[4:] == [
        "out", "--config=study.yaml", "--tokenizer_name", "words", "--grid", "target_source=own,network:teacher",
        "--logging_dir", "runs/x", "--cache", "/p",
    ]  # fmt: skip


def test_ids_of_the_hub_and_rules_are_no_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    named = {"baseline": {"aux_weight": 0.0}, "other": {"aux_weight": 1.0, "target_source": "network:me/teacher"}}
    write_study(tmp_path / "study", make_arms({}, named), [1], epochs=2)
    run = SweepFolder(tmp_path / "study").read_run()
    sampling = {**run.settings.sampling, "nbeta": "batch/log batch"}
    settings = run.settings.with_fields(sampling=sampling, data={"dataset_name": "me/pictures"})
    assert local_paths(run.with_fields(settings=settings)) == {}
