"""Trainings of controls: pictures for trackers, checks before training, saved files, and resuming."""

import json

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from selfmod_hf import SelfModelingForImageClassification
from selfmod_hf.cli import main
from selfmod_hf.errors import InputError
from selfmod_hf.trainer.population import Member, SelfModelingPopulation
from selfmod_hf.trainer.trackers import TrackerFigures, hyperparameters

from . import test_population as populations
from .test_sample_checks import images as colours
from .test_sample_checks import training
from .test_trainer import network, trainer

# ---- trackers ----


@pytest.mark.parametrize("source", ["random", "shuffled"])
def test_the_picture_of_a_control_is_drawn(tmp_path, monkeypatch, source):
    monkeypatch.chdir(tmp_path)
    flags = ["--task=digits", "--hidden_sizes=8", "--aux_weight=3", "--max_train_samples=100", "--max_test_samples=50"]
    flags += ["--num_train_epochs=1", "--quiet", "--output_dir=run", "--report_to=tensorboard"]
    assert main(["train", *flags, f"--target_source={source}"]) == 0
    log = EventAccumulator(str(next((tmp_path / "run").rglob("events.*")).parent), size_guidance={"images": 0})
    assert len(log.Reload().Images("activations")) == 1


def test_the_picture_shows_the_targets_of_the_training(tmp_path):
    for source in ("own", "shuffled", "random"):
        run = trainer(tmp_path, network(target_source=source), report_to="none")
        _, actual = TrackerFigures(run, 1)._activations(run.model)
        inputs = run.eval_dataset.batch(range(41))
        given = {}
        if source == "random":
            given["self_model_targets"] = run.outside_targets().for_network(inputs)
        expected = run.model(**inputs, **given).self_model_targets
        assert torch.allclose(torch.from_numpy(actual), expected, atol=1e-6), source


def test_without_labels_nothing_is_shuffled_and_there_is_no_picture(tmp_path):
    run = trainer(tmp_path, network(target_source="shuffled"))
    labelled = run.eval_dataset
    run.eval_dataset = [{"pixel_values": labelled[k]["pixel_values"]} for k in range(4)]
    run.data_collator = lambda rows: {"pixel_values": torch.stack([row["pixel_values"] for row in rows])}
    assert TrackerFigures(run, 1)._activations(run.model)[1] is None


def test_trackers_know_the_control(tmp_path):
    fields = {"target_source": "shuffled", "target_normalization": "rms", "activation_penalty": 0.5}
    fields["hidden_activation"] = "leaky_relu"
    assert fields.items() <= hyperparameters(trainer(tmp_path, network(**fields))).items()
    assert not fields.keys() & hyperparameters(trainer(tmp_path)).keys()


# ---- checks before training ----


@pytest.mark.parametrize("members", [[], [Member(0, 1.0)], [Member(0, 1.0, target_source="own"), Member(1, 1.0)]])
def test_a_batch_of_one_sample_is_named_for_a_control_too(tmp_path, members):
    run = training(tmp_path, colours(5))
    config = run.model.config
    config.target_source = "random"
    if members:
        run = training(tmp_path, colours(5), members=1)
        run.model = SelfModelingPopulation(config, members)
    with pytest.raises(InputError, match=r"^per_device_train_batch_size=4: of 5 samples a batch gets one alone"):
        run.train()


# ---- files ----


def test_a_saved_network_does_not_name_a_folder_of_this_machine(tmp_path):
    other = tmp_path / "private" / "other"
    network().save_pretrained(other)
    source = f"network:{other}"
    run = trainer(tmp_path / "run", network(target_source=source), save_strategy="epoch", num_train_epochs=2)
    run.train()
    run.save_model()
    assert run.model.config.target_source == source
    for folder in (tmp_path / "run", tmp_path / "run" / "checkpoint-2"):
        text = (folder / "config.json").read_text()
        assert str(tmp_path) not in text
        assert json.loads(text)["target_source"] == "network:other"
        loaded = SelfModelingForImageClassification.from_pretrained(folder)
        assert loaded.config.target_source == "network:other"
    again = trainer(tmp_path / "run", network(target_source=source))
    again.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    assert again.state.global_step == 6
    member = SelfModelingPopulation(network().config, [Member(0, 1.0, target_source=source)]).member(0)
    member.save_pretrained(tmp_path / "member")
    assert "private" not in (tmp_path / "member" / "config.json").read_text()


# ---- resuming ----

CHANGES = {
    "target_source": ("own", "shuffled"),
    "target_normalization": ("none", "rms"),
    "activation_penalty": (0.0, 0.5),
    "classification_weight": (1.0, 0.5),
    "detach_targets": (True, False),
    "aux_weight": (2.0, 3.0),
    "target_layers": (["hidden.relu1"], ["hidden.linear1"]),
    "hidden_activation": ("relu", "leaky_relu"),
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    trainer(folder, save_strategy="epoch", num_train_epochs=1).train()
    return folder


@pytest.mark.parametrize("field", CHANGES)
def test_a_checkpoint_of_another_training_is_rejected(trained, field):
    before, after = CHANGES[field]
    run = trainer(trained, network(**{field: after}))
    problem = f"was trained with {field}={before!r}; allowed is {after!r}"
    with pytest.raises(InputError, match=r"^resume_from_checkpoint='.*checkpoint-2': ") as error:
        run.train(resume_from_checkpoint=str(trained / "checkpoint-2"))
    assert problem in str(error.value)
    assert run.state.global_step == 0


def test_a_checkpoint_of_a_population_with_another_configuration_is_rejected(tmp_path):
    run = populations.trainer(tmp_path, populations.population(), save_strategy="epoch", num_train_epochs=1)
    run.train()
    changed = populations.population(fields={**populations.FIELDS, "target_normalization": "rms"})
    with pytest.raises(InputError, match=r"resume_from_checkpoint=.*target_normalization='none'; allowed is 'rms'"):
        populations.trainer(tmp_path, changed).train(resume_from_checkpoint=True)
