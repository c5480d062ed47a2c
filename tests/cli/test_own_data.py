"""What is trained on a data set of one's own, and what is said about it."""

import json
from pathlib import Path

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Image, Value
from transformers import TrainerState

from selfmod_hf.cli import main
from selfmod_hf.cli.progress import newest_rlct, rlct_text

KINDS = {"images": "image", "texts": "text"}
FEW = ["--num_train_epochs=2", "--quiet", "--output_dir=out"]


def write(folder: Path, kind: str, train: list[int], test: list[int]) -> str:
    """A local folder in Hub layout whose samples show their class."""
    (folder / "data").mkdir(parents=True)
    column = KINDS[kind]
    value = Image() if kind == "images" else Value("string")
    features = Features({column: value, "label": ClassLabel(names=["ant", "bee", "cat"])})
    for split, labels in (("train", train), ("test", test)):
        samples = [sample(kind, label) for label in labels]
        data = Dataset.from_dict({column: samples, "label": labels}, features=features)
        data.to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")
    return str(folder)


def sample(kind: str, label: int):
    if kind == "images":
        pixels = np.zeros((4, 4), np.uint8)
        pixels[label] = 255
        return pixels
    return " ".join(["ant", "bee", "cat"][label : label + 1] * 5 + ["and", "the", "sky"])


@pytest.fixture(params=KINDS)
def data(request, tmp_path, monkeypatch) -> str:
    monkeypatch.chdir(tmp_path)
    return write(tmp_path / "mine", request.param, [0, 1, 2] * 20, [0, 1, 2] * 5)


def config() -> dict:
    return json.loads(Path("out/config.json").read_text())


def test_a_data_set_alone_trains_a_network_that_models_itself_and_learns(data, capsys):
    assert main(["train", f"--dataset_name={data}", "--num_train_epochs=15", "--quiet", "--output_dir=out"]) == 0
    assert "self-modeling loss" in capsys.readouterr().out
    assert (config()["hidden_sizes"], config()["target_layers"], config()["aux_weight"]) == ([128], ["hidden.relu1"], 1)
    assert json.loads(Path("out/eval_results.json").read_text())["eval_accuracy"] > 0.9


@pytest.mark.parametrize(
    ("flags", "sizes", "targets", "weight"),
    [
        (["--hidden_sizes", "8", "4"], [8, 4], ["hidden.relu2"], 1),
        (["--aux_weight=5"], [128], ["hidden.relu1"], 5),
        (["--aux_weight=0"], [128], [], 0),
        (["--target_layers", "hidden.linear1"], [128], ["hidden.linear1"], 1),
    ],
)
def test_what_is_typed_replaces_single_entries(data, flags, sizes, targets, weight, capsys):
    assert main(["train", f"--dataset_name={data}", *flags, *FEW]) == 0
    assert (config()["hidden_sizes"], config()["target_layers"], config()["aux_weight"]) == (sizes, targets, weight)
    assert "baseline" not in capsys.readouterr().err  # nobody who asks for one is told


def test_tune_on_a_data_set_alone(data):
    space = ["--space", "aux_weight=1:5", "hidden_sizes=4,4-4"]
    limits = ["--trials=2", "--stack=1", "--num_draws=4", "--give_up_below=0"]
    assert main(["tune", f"--dataset_name={data}", *space, *limits, *FEW]) == 0


def test_a_baseline_that_nobody_asked_for_is_said(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    data = write(tmp_path / "mine", "images", [0, 1, 2] * 20, [0, 1, 2] * 5)
    assert main(["train", f"--dataset_name={data}", "--backbone=mlp", *FEW]) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        "selfmod: trains a linear baseline that does not model itself, because --target_layers is not given"
    )


@pytest.mark.parametrize("command", ["train", "tune", "sweep"])
def test_classes_that_training_never_saw_are_said(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    data = write(tmp_path / "mine", "images", [0, 1] * 20, [0, 1, 2, 2])
    flags = {
        "train": [],
        "tune": ["--trials=1", "--num_draws=4"],
        "sweep": [
            "--hidden_sizes=4",
            "--aux_weights=0",
            "--seeds=1",
            "--num_chains=1",
            "--num_draws=4",
            "--recipe=mnist",
        ],
    }
    assert main([command, f"--dataset_name={data}", *flags[command], *FEW]) == 0
    assert "selfmod: no training sample has these classes: cat (2 test samples)" in capsys.readouterr().err


def test_rlcts_of_the_training_are_in_the_lines_and_the_table(tmp_path, capsys):
    flags = ["--task=digits", "--max_train_samples=200", "--num_train_epochs=3", "--rlct_every_n_epochs=2"]
    assert main(["train", *flags, f"--output_dir={tmp_path}"]) == 0
    first, second, third, *table = capsys.readouterr().out.splitlines()
    text = rlct_text(newest_rlct(TrainerState.load_from_json(str(tmp_path / "trainer_state.json")).log_history))
    assert "RLCT" not in first + third  # it is of the second epoch
    assert second.endswith(f"RLCT {text}")
    assert f"RLCT                  {text}, estimated after epoch 2" in table


def test_an_rlct_that_diverged_is_no_number():
    entry = {"rlct": float("nan"), "rlct_standard_error": float("nan"), "rlct_status": "diverged"}
    assert rlct_text(entry) == "none (diverged)"


def test_a_sweep_says_its_rlcts_while_training(tmp_path, capsys):
    flags = ["--hidden_sizes=4", "--aux_weights=0", "--seeds", "1", "2", "--num_chains=1", "--num_draws=4"]
    limits = ["--num_train_epochs=3", "--max_train_samples=50", "--rlct_every_n_epochs=2"]
    assert main(["sweep", *flags, *limits, f"--output_dir={tmp_path}"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  epoch")]
    assert ["mean RLCT" in line for line in lines] == [False, True, False]
