"""The space of a tuning: which settings trials can have for themselves, and that each trial trains with its own."""

import json
import shlex
from dataclasses import fields
from pathlib import Path

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from transformers import ViTConfig, ViTImageProcessor, ViTModel

from selfmod_hf import RunSettings, tune
from selfmod_hf.cli import main
from selfmod_hf.errors import InputError
from selfmod_hf.experiments.run_settings import GROUPS
from selfmod_hf.experiments.space import parse_space
from selfmod_hf.experiments.tune import Tuner, TuneSettings

QUICK = {"num_chains": 1, "num_draws": 6, "give_up_below": 0.0}


def quick_base(**fields) -> RunSettings:
    return RunSettings.make(task="digits", max_train_samples=200, num_train_epochs=1, **fields)


def entries(folder: Path) -> list[dict]:
    return json.loads((folder / "trials.json").read_text())


def test_a_range_has_the_type_of_its_field():
    assert parse_space({"num_train_epochs": "5:20", "weight_decay": "1e-5:1e-2:log", "max_length": "8:64:log"}) == {
        "num_train_epochs": IntDistribution(5, 20),
        "weight_decay": FloatDistribution(1e-5, 1e-2, log=True),
        "max_length": IntDistribution(8, 64, log=True),
    }


def test_choices_have_the_type_of_their_field():
    found = parse_space(
        {
            "train_batch_size": "32,64",
            "augment": "true,false",
            "optim": "sgd,adamw_torch",
            "image_size": [[8, 8], 12],
            "weight_decay_parameters": [["classifier.*"], ["classifier.*", "hidden.*"]],
            "optim_args": ["momentum=0.9,nesterov=True", "momentum=0.5"],
            "backbone_kwargs": [{"drop_rate": 0.1}],
        }
    )
    assert found == {
        "train_batch_size": CategoricalDistribution([32, 64]),
        "augment": CategoricalDistribution([True, False]),
        "optim": CategoricalDistribution(["sgd", "adamw_torch"]),
        "image_size": CategoricalDistribution(["8-8", "12"]),
        "weight_decay_parameters": CategoricalDistribution(["classifier.*", "classifier.*+hidden.*"]),
        "optim_args": CategoricalDistribution(["momentum=0.9,nesterov=True", "momentum=0.5"]),
        "backbone_kwargs": CategoricalDistribution(['{"drop_rate": 0.1}']),
    }


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"train_batch_size": "8:16.5"}, "allowed are integers"),
        ({"num_train_epochs": "0.5:2"}, "allowed are integers"),
        ({"augment": "true,perhaps"}, "allowed are true and false"),
        ({"augment": "0:1"}, "allowed is a list of choices"),
        ({"weight_decay": "0:1:log"}, "a logarithmic range begins above 0"),
        ({"weight_decay": "-1:1"}, "allowed are finite numbers of at least 0"),
    ],
)
def test_an_unusable_range_is_rejected(entry, message):
    with pytest.raises(InputError, match=rf"^space=.*{message}"):
        parse_space(entry)


def test_every_setting_of_a_run_is_searched_or_rejected_by_name():
    searched, rejected = set(), set()
    for group in GROUPS:
        for field in fields(group):
            problem = ""
            try:
                parse_space({field.name: "1"})
            except InputError as error:
                problem = str(error)
            of_the_name = problem.startswith(f"space='{field.name}': ") and "allowed are backbone, " in problem
            (rejected if of_the_name else searched).add(field.name)
    assert searched >= {"learning_rate", "max_train_samples", "dataloader_drop_last", "mixed_precision", "adam_beta1"}
    assert rejected >= {"output_dir", "seed", "hub_model_id", "hub_token", "report_to", "logging_steps", "save_steps"}
    assert rejected >= {"task", "test_split", "max_test_samples"}


@pytest.mark.parametrize(
    ("fields", "space", "message"),
    [
        ({"per_device_train_batch_size": 8}, {"train_batch_size": "8,16"}, "counts for nothing with `per_device"),
        ({}, {"num_train_epochs": "1:2", "max_steps": "1:2"}, "counts for nothing with `max_steps`"),
        ({}, {"learning_rate": "0:1"}, "learning_rate"),
        ({}, {"optim": "sgd,sdg"}, "sdg"),
        ({}, {"image_size": [8, [8, 8]]}, "digits are 8x8 as they are"),
        ({}, {"max_length": "8:16"}, "max_length=8: the task is one of images"),
    ],
)
def test_a_value_that_no_trial_could_train_with_is_rejected_before_any_training(tmp_path, fields, space, message):
    base = RunSettings.make(task="digits", max_train_samples=200, **fields)
    with pytest.raises(ValueError, match=message):
        tune(base, space, output_dir=tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_trials_of_one_population_differ_in_numbers_of_members_only(tmp_path):
    """Others are common to a group. The command of a trial holds all of them and trains it again."""
    space = {
        "aux_weight": "0:9",
        "weight_decay": "1e-4:1e-2:log",
        "detach_targets": "true,false",
        "weight_decay_parameters": [["classifier.*"], ["hidden.*"]],
        "train_batch_size": "50,100",
        "num_train_epochs": "2:3",
        "max_train_samples": "150,200",
    }
    lines = []
    base = RunSettings.make(task="digits")
    found = tune(base, space, trials=6, stack=3, say=lines.append, output_dir=tmp_path, **QUICK)
    first, second = found.trials[:3], found.trials[3:]
    for name in ("train_batch_size", "num_train_epochs", "max_train_samples"):
        assert len({trial.params[name] for trial in first}) == len({trial.params[name] for trial in second}) == 1
        assert name in lines[0]
    assert len({trial.params["weight_decay"] for trial in found.trials}) == 6
    assert {type(trial.params["num_train_epochs"]) for trial in found.trials} == {int}
    for trial in (first[0], second[-1]):
        words = shlex.split(found.settings(trial).command())
        for name in space:
            assert sum(word.startswith(f"--{name}=") for word in words) == 1
        assert main([*words[1:], "--quiet", f"--output_dir={tmp_path / str(trial.number)}"]) == 0
        log = json.loads((tmp_path / str(trial.number) / "trainer_state.json").read_text())["log_history"]
        widths = [entry["weight_width"] for entry in log if "weight_width" in entry]
        assert len(widths) == trial.params["num_train_epochs"]
        assert trial.user_attrs["weight_width"] == pytest.approx(widths[-1], rel=1e-5)


def test_attached_targets_hold_for_all_trials(tmp_path):
    """A population trained with detached ones instead."""
    found = {}
    for detach in (True, False):
        tune(
            quick_base(detach_targets=detach), {"aux_weight": "9"}, trials=2, output_dir=tmp_path / str(detach), **QUICK
        )
        found[detach] = [entry["weight_width"] for entry in entries(tmp_path / str(detach))]
    alone = tune(quick_base(detach_targets=False), {"aux_weight": "9"}, trials=2, stack=1, output_dir=tmp_path, **QUICK)
    assert [trial.user_attrs["weight_width"] for trial in alone.trials] == pytest.approx(found[False], rel=1e-5)
    assert found[True] != pytest.approx(found[False], rel=1e-3)


def test_each_distinct_data_set_is_loaded_once(tmp_path, monkeypatch):
    loaded = []
    load = RunSettings.load_data

    def counted(self):
        loaded.append((self.data.max_train_samples, self.data.augment))
        return load(self)

    monkeypatch.setattr(RunSettings, "load_data", counted)
    base = RunSettings.make(task="digits", num_train_epochs=1, hidden_sizes=[4])
    space = {"max_train_samples": "100,200", "augment": [True, False]}
    found = tune(base, space, trials=6, stack=1, output_dir=tmp_path, **QUICK)
    assert len({(trial.params["max_train_samples"], trial.params["augment"]) for trial in found.trials}) > 1
    assert len(loaded) == len(set(loaded)) == 4


@pytest.mark.parametrize("kind", ["dropout", "optimizer"])
def test_networks_that_cannot_stack_train_one_at_a_time(tmp_path, kind):
    config = {"model_type": "vit", "hidden_size": 4, "num_hidden_layers": 1, "num_attention_heads": 1}
    config |= {"intermediate_size": 4, "image_size": 8, "patch_size": 4, "num_channels": 1, "hidden_dropout_prob": 0.1}
    fields = {"dropout": {"backbone_config": config}, "optimizer": {"optim": "adafactor", "optim_args": ""}}[kind]
    lines = []
    base = quick_base(target_layers=["layers.0"] if kind == "dropout" else None, **fields)
    found = tune(base, {"aux_weight": "0:1"}, trials=2, say=lines.append, output_dir=tmp_path, **QUICK)
    assert [line[:9] for line in lines if line.startswith("trial")] == ["trials 0:", "trials 1:"]
    assert all("accuracy" in trial.user_attrs for trial in found.trials)


def test_a_pretrained_backbone_of_each_trial_starts_from_its_weights(tmp_path):
    """One at a time. Different backbones bring their own preprocessing."""
    folder = tmp_path / "vit"
    sizes = {"hidden_size": 4, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 4}
    ViTModel(ViTConfig(**sizes, image_size=8, patch_size=4)).save_pretrained(folder)
    ViTImageProcessor(size={"height": 8, "width": 8}).save_pretrained(folder)
    base = quick_base(target_layers=["layers.0"])
    tuner = Tuner(base, TuneSettings({"backbone_name": str(folder), "aux_weight": "1:2"}, trials=2, **QUICK), tmp_path)
    (common,) = tuner.networks._shapes()
    assert not tuner.networks.can_stack(common)
    tuner.work(lambda line: None)
    for trial in tuner.finish().trials:
        assert trial.params["backbone_name"] == str(folder)
        assert "accuracy" in trial.user_attrs
