"""A folder that is trained into again: what described the former weights is moved, what is of the new ones stays."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import ModelCard
from transformers import TrainerCallback

from selfmod_hf import SelfModelingForImageClassification, estimate_rlct
from selfmod_hf.hub.card import BEGIN
from selfmod_hf.weights import weights_sha256
from tests.trainer.test_trainer import images, network, trainer

SAMPLING = {"num_chains": 2, "num_draws": 4, "batch_size": 16, "nbeta": 10.0}


def train_into(folder: Path, learning_rate: float = 0.1, **settings):
    run = trainer(folder, learning_rate=learning_rate, num_train_epochs=1, **settings)
    run.train()
    run.evaluate()
    run.save_model()
    run.save_state()
    return run


def measure(run, folder: Path) -> None:
    (result,) = estimate_rlct([run.model], images(), **SAMPLING)
    replace(result, weights_sha256=weights_sha256(folder)).save(folder / "rlct.json")


def test_former_results_are_moved_and_a_persons_text_stays(tmp_path, caplog):
    run = train_into(tmp_path)
    measure(run, tmp_path)
    run.create_model_card()
    card = tmp_path / "README.md"
    card.write_text(card.read_text().replace(BEGIN, f"{BEGIN}\nMine."))
    former = weights_sha256(tmp_path)
    train_into(tmp_path, learning_rate=0.2)
    assert weights_sha256(tmp_path) != former
    moved = {path.name for path in (tmp_path / "previous-1").iterdir()}
    assert moved >= {"rlct.json", "rlct.safetensors", "rlct.png", "run.json", "trainer_state.json", "README.md"}
    assert not (tmp_path / "rlct.json").exists()
    assert "Mine." in card.read_text()
    assert "self-modeling* image" not in card.read_text()  # the former network's figures
    assert f"{tmp_path}: what described the former weights is now in {tmp_path}/previous-1" in caplog.text
    for name in ("run.json", "trainer_state.json"):
        content = json.loads((tmp_path / name).read_text())
        entry = content["log_history"][-1] if "log_history" in content else content
        assert entry["weights_sha256"] == weights_sha256(tmp_path)


def test_the_same_weights_keep_their_results(tmp_path):
    measure(train_into(tmp_path), tmp_path)
    train_into(tmp_path)  # the same seed
    assert (tmp_path / "rlct.json").is_file()
    assert not list(tmp_path.glob("previous-*"))


def test_checkpoints_of_a_former_training_are_moved_unless_it_goes_on(tmp_path):
    train_into(tmp_path, save_strategy="epoch")
    going_on = trainer(tmp_path, num_train_epochs=2, save_strategy="epoch")
    going_on.train(resume_from_checkpoint=True)
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-2", "checkpoint-4"]
    train_into(tmp_path, save_strategy="epoch")
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-2"]
    assert (tmp_path / "previous-1" / "checkpoint-4" / "model.safetensors").is_file()


def test_metrics_of_other_weights_are_not_joined(tmp_path):
    run = train_into(tmp_path)
    run.save_metrics("train", {"train_loss": 1.0})
    run.save_metrics("eval", {"eval_loss": 2.0})
    together = json.loads((tmp_path / "all_results.json").read_text())
    assert together == {"train_loss": 1.0, "eval_loss": 2.0, "weights_sha256": weights_sha256(tmp_path)}
    other = train_into(tmp_path, learning_rate=0.2)
    other.save_metrics("eval", {"eval_loss": 3.0})
    together = json.loads((tmp_path / "all_results.json").read_text())
    assert together == {"eval_loss": 3.0, "weights_sha256": weights_sha256(tmp_path)}


def test_a_network_in_parts_replaces_one_in_a_single_file_and_the_reverse(tmp_path):
    model = network()
    run = trainer(tmp_path, model)
    run.save_model()
    model.save_pretrained(tmp_path / "parts", max_shard_size=100)
    for path in (tmp_path / "parts").glob("model-*"):
        path.rename(tmp_path / path.name)
    run.save_model()
    assert not list(tmp_path.glob("model-*"))
    loaded = SelfModelingForImageClassification.from_pretrained(tmp_path)
    assert loaded.classifier.weight.equal(model.classifier.weight)


class Remember(TrainerCallback):
    """Keeps the checksum of each checkpoint's weights and of those that its run.json names."""

    def __init__(self) -> None:
        self.pairs: list[tuple[str | None, str]] = []

    def on_save(self, args, state, control, **kwargs):
        folder = Path(args.output_dir, f"checkpoint-{state.global_step}")
        self.pairs.append((weights_sha256(folder), json.loads((folder / "run.json").read_text())["weights_sha256"]))


def test_each_checkpoint_names_its_own_weights(tmp_path):
    run, remember = trainer(tmp_path, save_strategy="epoch", eval_strategy="epoch"), Remember()
    run.add_callback(remember)
    run.train()
    found = [json.loads(path.read_text()) for path in tmp_path.glob("checkpoint-*/run.json")]
    assert all("eval_accuracy" in run_file["results"] for run_file in found)  # of its own epoch
    assert len(set(remember.pairs)) == 3
    assert all(own == named for own, named in remember.pairs)


def test_the_card_is_of_the_best_model(tmp_path):
    settings = {"eval_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": True}
    run = trainer(tmp_path, **settings, metric_for_best_model="accuracy", learning_rate=1e-9)  # the first is the best
    run.train()
    run.save_model()
    run.create_model_card()
    assert run.state.best_global_step == 2
    first = next(entry for entry in run.state.log_history if "eval_accuracy" in entry)
    run_file = json.loads((tmp_path / "run.json").read_text())
    assert run_file["results"]["eval_accuracy"] == first["eval_accuracy"]
    assert {result.metric_type for result in ModelCard.load(tmp_path / "README.md").data.eval_results} == {
        "accuracy", "weight_width",
    }  # fmt: skip
    assert run_file["epoch"] == pytest.approx(1.0)
    assert "after 1 epoch:" in (tmp_path / "README.md").read_text()
    assert json.loads((tmp_path / "trainer_state.json").read_text())["best_model_checkpoint"] == "checkpoint-2"
    assert json.loads((tmp_path / "training_args.json").read_text())["output_dir"] == tmp_path.name


def test_an_estimate_of_other_weights_is_left_out_of_the_folder(tmp_path, caplog):
    run = trainer(tmp_path)
    (run.rlct_result,) = estimate_rlct([run.model], images(), **SAMPLING)
    run.train()
    run.save_model()
    run.create_model_card()
    assert not (tmp_path / "rlct.json").exists()
    assert "the newest RLCT is of other weights than those saved, and is left out" in caplog.text
    (run.rlct_result,) = estimate_rlct([run.model], images(), **SAMPLING)
    run.create_model_card()
    saved = json.loads((tmp_path / "rlct.json").read_text())
    assert saved["weights_sha256"] == weights_sha256(tmp_path)
    assert np.isclose(saved["llc"], run.rlct_result.llc)
