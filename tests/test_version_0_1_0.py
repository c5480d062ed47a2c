"""What version 0.1.0 wrote still loads: one sample of each kind, see tests/samples/0.1.0/README.md."""

from __future__ import annotations

import json
import shutil
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch

import selfmod_hf
from selfmod_hf import (
    LLCResult,
    Member,
    SelfModelingConfig,
    SelfModelingForImageClassification,
    SelfModelingPopulation,
    SelfModelingTrainer,
    SelfModelingTrainingArguments,
    load_results,
)
from selfmod_hf.cli import main
from selfmod_hf.data import ImageTensors

SAMPLES = Path(__file__).parent / "samples" / "0.1.0"
EXPECTED = json.loads((SAMPLES / "expected.json").read_text(encoding="utf-8"))


def inputs_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return the inputs for which expected.json holds the outputs."""
    if model.main_input_name == "input_ids":
        return {"input_ids": torch.tensor([[2, 3, 4, 1], [3, 2, 2, 4]])}
    return {"pixel_values": torch.linspace(-1, 1, 2 * 64).reshape(2, 1, 8, 8)}


@pytest.mark.parametrize("name", ["model", "vit", "bert", "embedding_bag"])
def test_networks_give_the_outputs_they_gave(name):
    model = getattr(selfmod_hf, EXPECTED[name]["class"]).from_pretrained(SAMPLES / name).eval()
    with torch.no_grad():
        output = model(**inputs_of(model))
    for field in ("logits", "self_model_predictions"):
        np.testing.assert_allclose(output[field].numpy(), EXPECTED[name][field], rtol=1e-5, atol=1e-6)


@pytest.mark.skipif(version("numpy").startswith("1."), reason="numpy 2 wrote the states of random numbers")
def test_a_checkpoint_goes_on(tmp_path):
    shutil.copytree(SAMPLES / "model", tmp_path / "run")
    flags = ["--task=digits", "--hidden_sizes=8", "--aux_weight=1", "--num_train_epochs=3", "--quiet"]
    assert main(["train", *flags, "--resume_from_checkpoint=last", f"--output_dir={tmp_path}/run"]) == 0
    state = json.loads((tmp_path / "run" / "trainer_state.json").read_text(encoding="utf-8"))
    epochs = [entry["epoch"] for entry in state["log_history"] if "weight_width" in entry]
    assert epochs == [1, 2, 3]


def test_a_checkpoint_of_a_population_comes_back(tmp_path):
    shutil.copytree(SAMPLES / "population", tmp_path / "run")
    config = SelfModelingConfig(hidden_sizes=[4], image_size=8, num_labels=3, target_layers=["hidden.relu1"])
    members = [Member(seed=1, aux_weight=0.0), Member(seed=2, aux_weight=5.0, detach_targets=False)]
    population = SelfModelingPopulation(config, members)
    args = SelfModelingTrainingArguments(
        str(tmp_path / "run"),
        max_steps=2,
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        per_device_train_batch_size=6,
        optim="sgd",
    )
    data = ImageTensors(torch.zeros(12, 1, 8, 8, dtype=torch.uint8), torch.arange(12) % 3)
    trainer = SelfModelingTrainer(model=population, args=args, train_dataset=data)
    trainer.train(resume_from_checkpoint=True)  # nothing is left to train
    found = population.member(1).state_dict()
    for name, values in EXPECTED["population"]["member 1"].items():
        np.testing.assert_array_equal(found[name].numpy(), np.array(values, dtype=np.float32))


def test_an_rlct_loads_with_its_traces():
    result = LLCResult.load(SAMPLES / "model" / "rlct.json")
    assert result.loss_trace.shape == (2, 60)
    kept = result.llc_trace()[:, result.kept]
    assert result.llc == pytest.approx(kept.mean())


@pytest.mark.parametrize("name", ["sweep", "dataset"])
def test_a_sweep_and_its_data_set_are_read(name):
    table = load_results(str(SAMPLES / name)).set_index("network")
    assert sorted(table.index) == ["h4-aw0-seed1", "h4-aw0-seed2", "h4-aw1-seed1", "h4-aw1-seed2"]
    for network, row in table.iterrows():
        saved = LLCResult.load(SAMPLES / "sweep" / "cells" / network / "rlct.json")
        assert row["rlct"] == pytest.approx(saved.llc)
        assert row["rlct_num_draws"] == 40


def test_a_sweep_is_reported(tmp_path):
    shutil.copytree(SAMPLES / "sweep", tmp_path / "sweep")
    assert main(["report", str(tmp_path / "sweep")]) == 0
    report = tmp_path / "sweep" / "report" / "report.html"
    for network in ("h4-aw0-seed1", "h4-aw1-seed2"):
        assert network in report.read_text(encoding="utf-8")


def test_an_rlct_of_a_network_can_be_made_again(tmp_path):
    shutil.copytree(SAMPLES / "model", tmp_path / "run")
    before = LLCResult.load(tmp_path / "run" / "rlct.json")
    assert main(["rlct", f"--model={tmp_path}/run", "--num_draws=60", "--num_chains=2", "--quiet"]) == 0
    again = LLCResult.load(tmp_path / "run" / "rlct.json")
    np.testing.assert_allclose(again.loss_trace, before.loss_trace, rtol=1e-5)


def test_image_processors_of_networks_are_read():
    from transformers import AutoImageProcessor

    processor = AutoImageProcessor.from_pretrained(SAMPLES / "model")
    assert list(processor.image_mean) == [0.5]
    assert SelfModelingForImageClassification.from_pretrained(SAMPLES / "model").config.aux_weight == 1
