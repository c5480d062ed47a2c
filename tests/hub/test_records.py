"""Figures of other weights than those beside them: left out or rejected wherever they would be shown."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file

from selfmod_hf.complexity import LLCResult
from selfmod_hf.errors import InputError
from selfmod_hf.experiments.folder import SweepFolder
from selfmod_hf.hub.agreement import compare_with_published
from selfmod_hf.hub.model_folder import write_model_card
from selfmod_hf.hub.records import former_files, move_aside, recorded_weights, stale_files
from selfmod_hf.hub.results import load_results
from selfmod_hf.hub.upload import Target, push_model
from selfmod_hf.reports.on_hub import push_sweep
from selfmod_hf.weights import weights_sha256

CELL = "h8-aw10-seed2"
RLCT = {"rlct.json", "rlct.safetensors", "rlct.png"}


def get_other_weights(folder: Path) -> None:
    """Change one number of a network."""
    state = load_file(folder / "model.safetensors")
    state["classifier.bias"] += 1
    save_file(state, folder / "model.safetensors", {"format": "pt"})


@pytest.fixture
def changed(small_model, tmp_path) -> Path:
    """A folder whose weights were replaced after everything in it was measured."""
    folder = shutil.copytree(small_model, tmp_path / "net")
    get_other_weights(folder)
    return folder


def test_a_push_leaves_out_what_describes_other_weights(loopback_hub, changed, caplog):
    (changed / "README.md").unlink(missing_ok=True)
    push_model(loopback_hub.api(), changed, Target("me/net"))
    there = set(loopback_hub.api().list_repo_files("me/net"))
    assert "model.safetensors" in there
    assert not there & (RLCT | {"run.json", "trainer_state.json", "all_results.json", "eval_results.json"})
    (line,) = [line for line in caplog.messages if "left out, because they describe other weights" in line]
    assert all(name in line for name in ("rlct.json", "run.json"))
    card = ModelCard.load(loopback_hub.root / "models/me/net/README.md")
    assert {result.metric_type for result in card.data.eval_results} == {"weight_width"}
    assert "| training | not recorded |" in card.text  # the data and the recipe were another training's
    assert " epochs:" not in card.text
    assert "an unnamed data set" in card.text


def test_one_figure_of_other_weights_alone_is_left_out(loopback_hub, small_model, tmp_path):
    """A push removes it from the repository, too."""
    api, folder = loopback_hub.api(), shutil.copytree(small_model, tmp_path / "net")
    push_model(api, folder, Target("me/net"))
    rlct = LLCResult.load(folder / "rlct.json")
    replace(rlct, weights_sha256="0" * 64).save(folder / "rlct.json")
    push_model(api, folder, Target("me/net"))
    there = set(api.list_repo_files("me/net"))
    assert not there & RLCT
    assert {"run.json", "trainer_state.json"} <= there
    shown = {r.metric_type for r in ModelCard.load(loopback_hub.root / "models/me/net/README.md").data.eval_results}
    assert shown == {"accuracy", "weight_width"}


def test_results_of_other_weights_are_rejected(changed):
    with pytest.raises(InputError, match=r"rlct\.json.*describes other weights than those of the model"):
        load_results(str(changed))


def test_a_published_figure_of_other_weights_is_not_compared(small_model):
    ours = LLCResult.load(small_model / "rlct.json")
    theirs = replace(ours, llc=ours.llc + 1, weights_sha256="0" * 64)
    found = compare_with_published(ours, theirs)
    assert found.agrees is None
    assert found.text == "not compared: the published rlct.json describes other weights than those published"
    unknown = compare_with_published(ours, replace(theirs, weights_sha256=None))
    assert unknown.text.endswith("(not checked against the weights)")


@pytest.fixture
def changed_sweep(small_sweep, tmp_path) -> Path:
    """A sweep of four, one of which got other weights."""
    folder = shutil.copytree(small_sweep, tmp_path / "sweep")
    get_other_weights(folder / "cells" / CELL)
    return folder


def test_a_row_of_other_weights_is_in_no_table(changed_sweep, caplog):
    rows = SweepFolder(changed_sweep).rows()
    assert len(rows) == 3
    assert not ((rows["aux_weight"] == 10) & (rows["seed"] == 2)).any()
    assert f"{CELL}: left out, because row.json describes other weights" in caplog.text
    caplog.clear()
    table = load_results(str(changed_sweep))  # its parquet was written before
    assert CELL not in set(table["network"])
    assert table["weights_checked"].all()
    assert f"left out, because their figures are of other weights: {CELL}" in caplog.text


def test_a_network_whose_row_is_anothers_is_not_published(loopback_hub, changed_sweep):
    push_sweep(loopback_hub.api(), changed_sweep, Target("me/sweep"))
    there = loopback_hub.api().list_repo_files("me/sweep")
    assert not [name for name in there if name.startswith(CELL)]
    assert sum(name.endswith("/model.safetensors") for name in there) == 3


def test_what_is_made_from_a_file_goes_with_it(changed, small_model):
    assert stale_files(small_model) == []
    found = stale_files(changed)
    assert set(found) >= RLCT | {"run.json", "trainer_state.json", "all_results.json"}
    assert "training_args.json" not in found
    assert stale_files(changed, weights_sha256(small_model)) == []


def test_a_folder_is_moved_aside_as_often_as_needed(tmp_path):
    for number in (1, 2):
        (tmp_path / "rlct.json").write_text(f"{number}")
        assert move_aside(tmp_path, ["rlct.json"]).name == f"previous-{number}"
    assert (tmp_path / "previous-1" / "rlct.json").read_text() == "1"
    (tmp_path / "run.json").write_text("3")
    assert move_aside(tmp_path, ["run.json"], tmp_path / "previous-2").name == "previous-2"
    (tmp_path / "run.json").write_text("4")
    assert move_aside(tmp_path, ["run.json"], tmp_path / "previous-2").name == "previous-3"


def without_checksums(folder: Path, history: list[dict[str, float]]) -> None:
    """Make a folder look as version 0.1.0 wrote it: no file names its weights."""
    for name in ("run.json", "all_results.json", "eval_results.json", "train_results.json", "rlct.json"):
        path = folder / name
        content = json.loads(path.read_text())
        for entry in ("weights_sha256", "results", "epoch", "eval_accuracy"):
            content.pop(entry, None)
        path.write_text(json.dumps(content))
    (folder / "trainer_state.json").write_text(json.dumps({"epoch": 2.0, "log_history": history}))


def test_the_newest_accuracy_and_the_present_width_are_shown(small_model, tmp_path):
    folder = shutil.copytree(small_model, tmp_path / "net")
    first = {"epoch": 1.0, "eval_accuracy": 0.125, "weight_width": 7.0}
    last = {"epoch": 2.0, "eval_accuracy": 0.75, "weight_width": 9.0}
    without_checksums(folder, [first, last])
    card = ModelCard.load(write_model_card(folder, "me/net"))
    shown = {result.metric_type: result.metric_value for result in card.data.eval_results}
    width = load_file(folder / "model.safetensors")["classifier.weight"].std(correction=0).item()
    assert shown["accuracy"] == 0.75
    assert shown["weight_width"] == pytest.approx(width, rel=1e-5)
    assert "after 2 epochs:" in card.text
    assert "The accuracy is not checked against the weights" in card.text


def test_curves_stand_two_in_a_row(small_model, tmp_path):
    """So that a phone shows them large enough to be read."""
    from PIL import Image

    folder = shutil.copytree(small_model, tmp_path / "net")
    write_model_card(folder, "me/net")
    with Image.open(folder / "training.png") as picture:
        width, height = picture.size
    assert width < 1.5 * height


def test_a_card_without_an_accuracy_says_nothing_of_it(small_model, tmp_path):
    folder = shutil.copytree(small_model, tmp_path / "net")
    without_checksums(folder, [])
    card = ModelCard.load(write_model_card(folder, "me/net"))
    assert "The accuracy" not in card.text
    assert card.data.metrics is None


def test_the_last_entry_of_a_log_names_the_weights(tmp_path):
    """A training that went on has the entry of its first part, too."""
    log = [{"weights_sha256": "a"}, {"loss": 1.0}, {"weights_sha256": "b"}]
    (tmp_path / "trainer_state.json").write_text(json.dumps({"log_history": log}))
    assert recorded_weights(tmp_path / "trainer_state.json") == "b"


def test_a_file_without_a_checksum_is_of_the_present_weights(small_model, tmp_path):
    folder = shutil.copytree(small_model, tmp_path / "net")
    without_checksums(folder, [])
    assert former_files(folder, weights_sha256(folder)) == []
    assert set(former_files(folder, "0" * 64)) >= {"rlct.json", "rlct.png", "run.json", "trainer_state.json"}
