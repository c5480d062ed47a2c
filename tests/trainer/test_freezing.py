"""Frozen parameters keep their weights, and the others train."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from selfmod_hf import RunSettings, SelfModelingTrainer, SweepSettings
from selfmod_hf.cli import main
from selfmod_hf.errors import InputError
from selfmod_hf.experiments.prepared_sweep import PreparedSweep
from selfmod_hf.trainer import freeze_parameters
from tests.models import test_encoders
from tests.trainer import test_gradient_checkpointing, test_processes, test_wrapped_training

DIGITS = ["--task", "digits", "--max_train_samples", "100", "--num_train_epochs", "1", "--quiet"]


def frozen_bert():
    model = test_encoders.network("bert")
    frozen = freeze_parameters(model, ["backbone.embeddings*", "*.layer.0.*"])
    return model, frozen


def test_frozen_parameters_stay_and_the_others_train(tmp_path):
    model, frozen = frozen_bert()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    after = test_gradient_checkpointing.trained(tmp_path, model, weight_decay=0.1).state_dict()
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert "backbone.embeddings.word_embeddings.weight" in frozen
    assert any(name.startswith("backbone.encoder.layer.0.output") for name in frozen)
    assert changed.isdisjoint(frozen)
    assert {"classifier.weight", "backbone.encoder.layer.1.output.dense.weight"} <= changed


def test_a_training_with_frozen_parameters_resumes_exactly(tmp_path):
    weights = []
    for resume in (None, f"{tmp_path}/checkpoint-2"):
        model, _ = frozen_bert()
        args = test_gradient_checkpointing.arguments(tmp_path, max_steps=4, save_strategy="steps", save_steps=2)
        data = {"train_dataset": test_processes.texts(17), "data_collator": test_processes.padded}
        run = SelfModelingTrainer(model=model, args=args, **data)
        run.train(resume_from_checkpoint=resume)
        weights.append(run.model.state_dict())
    first, second = weights
    for name, value in first.items():
        assert torch.equal(second[name], value), name


def test_the_flag_freezes_what_it_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = ["train", *DIGITS, "--freeze", "hidden.*", "self_model_head.bias"]
    assert main([*flags, "--output_dir", "run"]) == 0
    settings = RunSettings.make(task="digits", max_train_samples=100, freeze=["hidden.*", "self_model_head.bias"])
    first = settings.build_network(settings.load_data()).state_dict()
    for name, value in load_file("run/model.safetensors").items():
        is_frozen = name.startswith("hidden.") or name == "self_model_head.bias"
        assert torch.equal(value, first[name]) is is_frozen, name


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        (["hidden.*", "encoder.*"], "--freeze='encoder.*': matches no parameter; allowed are names such as hidden.lin"),
        (["*"], "--freeze=['*']: leaves no parameter to train"),
    ],
)
def test_patterns_of_nothing_and_of_everything_are_one_line(tmp_path, capsys, patterns, message):
    assert main(["train", *DIGITS, "--output_dir", str(tmp_path), "--freeze", *patterns]) == 2
    assert capsys.readouterr().err.startswith(f"selfmod: error: {message}")


def test_a_pattern_freezes_nothing_if_another_one_is_wrong():
    model = test_encoders.network("bert")
    with pytest.raises(InputError, match=r"^freeze='none'"):
        freeze_parameters(model, ["*", "none"])
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize(
    ("kind", "pattern", "frozen"),
    [
        ("tokens", "backbone.embeddings.word*", "task_model.bert.embeddings.word_embeddings.weight"),
        ("tokens", "embeddings.word*", None),
        ("next tokens", "lm_head*", "task_model.transformer.wte.weight"),  # one parameter of two names
    ],
)
def test_names_of_task_models(kind, pattern, frozen):
    model = test_wrapped_training.network(kind)
    if frozen is None:
        with pytest.raises(InputError, match=r"matches no parameter"):
            freeze_parameters(model, [pattern])
        return
    assert freeze_parameters(model, [pattern]) == [frozen]
    assert not model.get_parameter(frozen).requires_grad


def test_runs_with_other_frozen_parameters_have_other_folders():
    plain = RunSettings.make(task="digits").training.output_dir
    frozen = RunSettings.make(task="digits", freeze=["hidden.*"]).training.output_dir
    assert Path(frozen).name.startswith(Path(plain).name.removesuffix("-seed42") + "-freeze_")


def test_networks_of_a_sweep_with_frozen_parameters_train_one_at_a_time(tmp_path):
    settings = SweepSettings.make(task="digits", max_train_samples=100, freeze=["hidden.*"], seeds=[1, 2])
    sweep = PreparedSweep.make(settings, tmp_path)
    assert all("parameters are frozen: one at a time" in reason for reason in sweep.reasons_for_singles())
    assert {len(cells) for cells in sweep.populations_to_open()} == {1}
