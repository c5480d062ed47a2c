"""The settings of a training run: made in Python, changed by field, and written as a command."""

import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import BitImageProcessor, ViTConfig, ViTModel

from selfmod_hf import RunSettings
from selfmod_hf.cli import main
from selfmod_hf.cli.arguments import typed_values
from selfmod_hf.cli.train import parser, run_settings
from selfmod_hf.errors import InputError

FEW = {"max_train_samples": 100, "max_test_samples": 50, "num_train_epochs": 2}


def test_what_is_given_overrides_the_recipe_and_the_recipe_the_defaults():
    settings = RunSettings.make(task="digits", learning_rate=1)
    assert settings.training.learning_rate == 1.0
    assert isinstance(settings.training.learning_rate, float)
    assert settings.training.num_train_epochs == 100  # the recipe's
    assert settings.training.save_total_limit == 1  # the package's, not transformers'
    assert settings.network.hidden_sizes == [64]
    assert settings.training.output_dir == "runs/digits-h64-aw1-seed42"


def test_a_changed_field_changes_what_follows_from_it():
    settings = RunSettings.make(dataset_name="me/data", output_dir="here")
    assert settings.network.target_layers == ["hidden.relu1"]
    deeper = settings.replace(hidden_sizes=(8, 4), train_batch_size=12)
    assert deeper.network.target_layers == ["hidden.relu2"]
    assert deeper.training.per_device_train_batch_size == 12
    assert deeper.training.output_dir == "here"
    assert deeper.replace(hidden_sizes=None, train_batch_size=None) == settings
    assert settings.network.hidden_sizes == [128]  # the original is as it was


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"lr": 1}, "lr=1: no setting of a run has this name; did you mean learning_rate"),
        ({"aux_wieght": 1}, "did you mean aux_weight"),
        ({"aux_weight": float("nan")}, "aux_weight=nan: allowed are finite numbers"),
        ({"task": "minst"}, "task='minst': allowed are digits"),
        ({"train_batch_size": 0}, "train_batch_size=0: allowed are multiples of 1 processes"),
        ({"mixed_precision": "fp8"}, "mixed_precision='fp8': allowed are no, bf16, fp16"),
        ({"augment": "False"}, "augment='False': allowed are True and False"),
        ({"hidden_sizes": 16}, "hidden_sizes=16: allowed are lists of integers or None"),
        ({"hidden_sizes": [8, 4.5]}, r"hidden_sizes=\[8, 4.5\]: allowed are lists of integers"),
        ({"target_layers": "hidden.relu1"}, "target_layers='hidden.relu1': allowed are lists of texts"),
        ({"aux_weight": "abc"}, "aux_weight='abc': allowed are numbers"),
        ({"aux_weight": True}, "aux_weight=True: allowed are numbers"),
        ({"num_train_epochs": "3"}, "num_train_epochs='3': allowed are numbers"),
        ({"seed": 1.5}, "seed=1.5: allowed are integers"),
        ({"max_train_samples": float("inf")}, "max_train_samples=inf: allowed are integers or None"),
        ({"bf16": 1}, "bf16=1: allowed are True and False"),
        ({"dataset_name": 3}, "dataset_name=3: allowed are texts or None"),
        ({"metric_for_best_model": "f1"}, "metric_for_best_model='f1': allowed are loss, classification_loss"),
    ],
)
def test_a_field_that_cannot_be_used_is_named(fields, message):
    with pytest.raises(InputError, match=message):
        RunSettings.make(**fields)


def test_values_of_the_same_meaning_are_accepted():
    settings = RunSettings.make(
        output_dir=Path("runs/here"), hidden_sizes=(np.int64(8), 4.0), seed=2.0, aux_weight=2, report_to="none"
    )
    assert settings.network.hidden_sizes == [8, 4]
    assert all(type(size) is int for size in settings.network.hidden_sizes)
    assert type(settings.training.seed) is int
    assert type(settings.network.aux_weight) is float
    assert settings.training.output_dir == str(Path("runs/here"))
    assert RunSettings.make(report_to=["none"], lr_scheduler_kwargs={}, optim="sgd").training.optim == "sgd"


def test_a_given_default_counts_where_the_recipe_has_another_value():
    plain = RunSettings.make(task="digits")
    given = RunSettings.make(task="digits", learning_rate=5e-5)  # transformers' default
    assert given.training.learning_rate != plain.training.learning_rate
    assert given.result_fields() == {"task": "digits", "learning_rate": 5e-5}
    assert plain.replace(aux_weight=1.0).result_fields() == {"task": "digits", "aux_weight": 1.0}  # as in 0.1.0
    assert plain.replace(seed=42, disable_tqdm=True).result_fields() == plain.result_fields()


def test_the_command_of_settings_gives_these_settings():
    settings = RunSettings.make(
        task="imdb", aux_weight=2, hidden_sizes=[8, 4], backbone_kwargs={"embedding_dim": 4}, detach_targets=False
    )
    words = shlex.split(settings.command())
    assert words[:2] == ["selfmod", "train"]
    again, _ = run_settings(typed_values(parser(), words[2:]))
    assert again.result_fields() == settings.result_fields()
    assert (again.network, again.data, again.task) == (settings.network, settings.data, settings.task)


@pytest.mark.parametrize("fields", [{"hidden_sizes": [], "target_layers": []}, {"weight_decay_parameters": []}])
def test_the_command_of_settings_with_an_empty_list_gives_these_settings(fields):
    settings = RunSettings.make(task="digits", **fields)
    again, _ = run_settings(typed_values(parser(), shlex.split(settings.command())[2:]))
    assert again.given == settings.given


def test_a_token_is_in_no_command():
    assert "hf_" not in RunSettings.make(hub_token="hf_abcdefghijklmnopqrst").command()


def test_python_and_the_command_line_train_the_same_network(tmp_path):
    settings = RunSettings.make(task="digits", output_dir=str(tmp_path / "python"), disable_tqdm=True, **FEW)
    data = settings.load_data()
    trainer = settings.make_trainer(data, settings.build_network(data))
    trainer.train()
    trainer.save_model()
    flags = [f"--{name}={value}" for name, value in FEW.items()]
    assert main(["train", "--task=digits", *flags, "--quiet", f"--output_dir={tmp_path / 'command'}"]) == 0
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("python", "command"))
    assert one.keys() == other.keys()
    assert all(torch.equal(values, other[name]) for name, values in one.items())


@pytest.mark.parametrize("pads", [True, False])
def test_preprocessing_of_a_backbone_that_is_not_followed_is_named(tmp_path, caplog, pads):
    config = ViTConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, image_size=8, patch_size=4,
        num_channels=1,
    )  # fmt: skip
    ViTModel(config).save_pretrained(tmp_path)
    crop = {"height": 8, "width": 8}
    processor = BitImageProcessor(
        size={"shortest_edge": 8}, crop_size=crop, do_pad=pads, do_convert_rgb=False, image_mean=[0.5], image_std=[0.5]
    )
    processor.save_pretrained(tmp_path)
    RunSettings.make(task="digits", backbone_name=str(tmp_path), max_train_samples=20).load_data()
    line = "its image processor pads pictures, which is not done here"
    assert (line in caplog.text) == pads
    assert ("image processor" in caplog.text) == pads
