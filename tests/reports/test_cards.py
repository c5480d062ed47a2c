"""The whole cards of a sweep, from given rows."""

import hashlib
import json
import re
import runpy
from pathlib import Path

import pytest

from selfmod_hf.errors import InputError
from selfmod_hf.experiments.arms import Cell, make_arms
from selfmod_hf.experiments.folder import CURVE_COLUMNS, RESULT_COLUMNS, SweepFolder
from selfmod_hf.hub.results import load_results
from selfmod_hf.json_records import RecordedSettings
from selfmod_hf.reports.cards import dataset_card, sweep_card
from selfmod_hf.reports.sweep_results import read_results
from tests.reports.folders import write_study
from tests.reports.test_local_paths import CONFIG

EXPECTED = {name: Path(__file__).parent / f"expected_{name}.md" for name in ("sweep_card", "dataset_card")}
SETTINGS = {
    "task": "mnist",
    "training": {"optim": "sgd", "learning_rate": 0.005, "per_device_train_batch_size": 512, "num_train_epochs": 50},
    "sampling": {"sampler": "sgld", "num_chains": 4, "nbeta": "batch/log batch", "preset": "paper (mnist)"},
    "data": {"dataset_name": "ylecun/mnist", "max_train_samples": None},
}


def given_sweep(path: Path) -> SweepFolder:
    """Four networks, one of them without an RLCT."""
    for weight, seed, accuracy, width, rlct, status in (
        (0.0, 1, 0.96, 0.26, 33.0, "ok"),
        (0.0, 2, 0.97, 0.25, 32.0, "ok"),
        (10.0, 1, 0.94, 0.23, 25.0, "ok"),
        (10.0, 2, 0.11, 0.09, -5.0, "not_at_minimum"),
    ):
        cell = Cell(f"h64-aw{weight:g}", seed)
        keys = {"task": "mnist", "hidden_size": 64, "aux_weight": weight, "detach_targets": True, **vars(cell)}
        row = keys | {"accuracy": accuracy, "weight_width": width, "rlct": rlct, "rlct_standard_error": 0.5}
        row |= {"rlct_status": status, "rlct_status_reason": "given", "nbeta": 82.07, "rlct_preset": "paper (mnist)"}
        row = dict.fromkeys(RESULT_COLUMNS) | {"num_epochs": 50, "batch_size": 512} | row
        point = dict.fromkeys(CURVE_COLUMNS) | keys | {"epoch": 50}
        config = {"model_type": "self_modeling", "backbone": "mlp", "target_layers": ["hidden.relu1"]}
        config |= {"architectures": ["…ForImageClassification"]}
        folder = path / "cells" / cell.name
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_text(cell.name)
        row["weights_sha256"] = hashlib.sha256(cell.name.encode()).hexdigest()
        for name, content in (("row", row), ("curve", [point]), ("config", config)):
            (folder / f"{name}.json").write_text(json.dumps(content))
    run = {"settings": SETTINGS, "versions": {"torch": "2.15.0"}, "git_commit": "abc", "sessions": []}
    (path / "run.json").write_text(json.dumps(run))
    return SweepFolder(path)


def cards(path: Path) -> dict[str, str]:
    results = read_results(given_sweep(path))
    card = sweep_card(results, "me/mnist", "Mine.")
    return {"sweep_card": f"{card}\n", "dataset_card": f"{dataset_card(results, 'me/mnist')}\n"}


@pytest.mark.parametrize("name", list(EXPECTED))
def test_the_whole_card(name, tmp_path):
    # after a wanted change:
    # python -c "from tests.reports.test_cards import *; write_expected()"
    assert rounded(cards(tmp_path)[name]) == rounded(EXPECTED[name].read_text())


def rounded(text: str) -> str:
    """Without the last digits of numbers, in which versions of scipy differ."""
    return re.sub(r"\d+\.\d{10,}", lambda number: f"{float(number[0]):.9g}", text)


def write_expected() -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        for name, card in cards(Path(folder)).items():
            EXPECTED[name].write_text(card)


def test_arms_read_back_with_what_decides_them(tmp_path):
    """An arm without an RLCT that is "ok" publishes none; values carry nβ and the number of networks left out."""
    found = {
        (r.metric_type, r.metric_args["aux_weight"]): r
        for r in sweep_card(read_results(given_sweep(tmp_path)), "me/mnist").data.eval_results
    }
    rlct = found["rlct", 10.0]
    assert (rlct.metric_value, rlct.metric_args["networks"], rlct.metric_args["left_out"]) == (25.0, 1, 1)
    assert (rlct.metric_args["nbeta"], rlct.metric_args["nbeta_rule"]) == (82.07, "batch/log batch")
    assert (rlct.dataset_type, rlct.dataset_split) == ("ylecun/mnist", "train")
    # names and values are all that a table of metrics shows: nβ must be among them
    assert rlct.metric_name == "RLCT at nβ = 82.07 (sgld), 1 seed, h = 64, AW = 10, targets detached"
    assert found["accuracy", 0.0].metric_value == pytest.approx(0.965)


def test_metrics_that_no_network_has_stay_out_of_the_metadata(tmp_path):
    folder = given_sweep(tmp_path)
    folder.write_run(folder.read_run().with_fields(test_samples=100, chance=0.98))
    data = sweep_card(read_results(folder), "me/mnist").data  # all four are at chance level
    assert (data.metrics, data.eval_results) == (None, None)


def test_a_sweep_of_texts(tmp_path):
    """Another task's folder gives a card of its own kind, with the paper's values for it."""
    folder = given_sweep(tmp_path)
    for path in tmp_path.glob("cells/*/*.json"):
        text = path.read_text().replace('"mnist"', '"imdb"').replace('"hidden_size": 64', '"hidden_size": 128')
        bag = '"embedding_bag", "backbone_kwargs": {"num_embeddings": 9, "embedding_dim": 4}'
        path.write_text(text.replace("ForImage", "ForSequence").replace('"mlp"', bag))
    run = folder.read_run()
    settings = SETTINGS | {"task": "imdb", "data": {"dataset_name": "stanfordnlp/imdb"}}
    folder.write_run(run.with_fields(settings=RecordedSettings.model_validate(settings)))
    card = sweep_card(read_results(folder), "me/imdb")
    assert (card.data.pipeline_tag, card.data.datasets) == ("text-classification", ["stanfordnlp/imdb"])
    assert "AutoModelForSequenceClassification" in card.text
    assert "| 2.05 |" in card.text


def test_the_script_writes_the_cards_of_any_sweep(tmp_path, capsys):
    main = runpy.run_path(str(Path(__file__).parents[2] / "scripts" / "model_cards.py"))["main"]
    folder = given_sweep(tmp_path / "sweep")
    assert main([f"{folder.path}=me/mnist"], tmp_path) == 0
    card = sweep_card(read_results(folder), "me/mnist", figure=None)
    assert (tmp_path / "mnist.md").read_text() == f"{card}\n"
    assert (tmp_path / "mnist-results.md").read_text() == EXPECTED["dataset_card"].read_text()
    assert (main([f"{tmp_path}=me/x"], tmp_path), main(["me/x"], tmp_path)) == (2, 2)
    assert "holds no finished network" in capsys.readouterr().err


def test_no_sweep_no_results(tmp_path):
    with pytest.raises(InputError, match="holds no finished network"):
        read_results(SweepFolder(tmp_path))


def test_a_study_of_named_arms(tmp_path):
    """The answer first, arms by name, further measures in a table, each column described."""
    named = {"baseline": {"aux_weight": 0.0}, "self-model": {"aux_weight": 10.0}, "decay": {"weight_decay": 0.003}}
    folder = write_study(tmp_path, make_arms({}, named), [1, 2, 3], measures=["unit_free_width", "my`own"], epochs=2)
    for cell in (folder / "cells").iterdir():
        (cell / "config.json").write_text(json.dumps(CONFIG | {"base_model": "me/encoder"}))
    results = read_results(SweepFolder(folder))
    card = sweep_card(results, "me/x", figure="arms")
    assert card.text.index("self-model against the baseline: the RLCT is") < card.text.index("9 networks on digits")
    assert "in 3 arms (`baseline`, `self-model`, `decay`)" in card.text
    assert "| arm | AW | weight decay | seeds |" in card.text
    assert "Further measures: mean over seeds" in card.text
    assert "](figures/arms.png)" in card.text
    assert "Our means beside the paper's" not in card.text
    assert card.data.base_model == "me/encoder"
    arms = {result.metric_args["arm"] for result in card.data.eval_results}
    assert arms == set(named)
    assert {result.metric_type for result in card.data.eval_results} == {
        "rlct", "accuracy", "weight_width", "train_loss",
    }  # fmt: skip
    tables = f"{dataset_card(results, 'me/x')}"
    assert "| `weight_decay` | setting of the arm: weight decay coefficient applied by the optimizer |" in tables
    assert "| `unit_free_width` | weight width after" in tables
    assert "| `my'own` | a measure of the study's author |" in tables


def test_results_of_a_study_are_read_with_the_names_of_its_networks(tmp_path):
    named = {"baseline": {"aux_weight": 0.0}, "self-model": {"aux_weight": 10.0}}
    folder = write_study(tmp_path, make_arms({"hidden_sizes": [[8], [8, 4]]}, named), [1, 2], epochs=2)
    SweepFolder(folder).write_tables()
    table = load_results(str(folder))
    assert {"h8-baseline-seed1", "h8x4-baseline-seed2"} < set(table["network"])
    assert table["weights_checked"].all()
    assert table.set_index("network").loc["h8x4-self-model-seed2", "arm"] == "h8x4-self-model"
    assert set(table["rlct_num_draws"]) == {40}
