"""Activations that are computed again in the backward pass: the same training, and what is rejected."""

import pytest
import torch
from torch import nn

from selfmod_hf import Member, SelfModelingPopulation, SelfModelingTrainer, SelfModelingTrainingArguments
from selfmod_hf.errors import InputError
from tests.models import test_encoders
from tests.trainer import test_processes, test_trainer

LAYERS = ["encoder.layer.*", "encoder.layer.*.output", "encoder.layer.0.intermediate"]


def arguments(folder, **settings) -> SelfModelingTrainingArguments:
    defaults = {
        "max_steps": 3, "per_device_train_batch_size": 6, "save_strategy": "no", "report_to": "none",
        "disable_tqdm": True, "use_cpu": True, "learning_rate": 1e-2,
    }  # fmt: skip
    return SelfModelingTrainingArguments(str(folder), **{**defaults, **settings})


def trained(folder, model, **settings) -> nn.Module:
    run = SelfModelingTrainer(
        model=model,
        args=arguments(folder, **settings),
        train_dataset=test_processes.texts(17),
        data_collator=test_processes.padded,
    )
    run.train()
    return run.model


@pytest.mark.parametrize("detach", [True, False])
def test_recomputed_activations_give_the_same_training(tmp_path, detach):
    """With dropout, because the second call of a layer drops the same numbers."""
    calls: list[bool] = []
    weights = []
    for recompute in (False, True):
        model = test_encoders.network("bert", target_layers=LAYERS, detach_targets=detach)
        model.backbone.encoder.layer[0].attention.register_forward_hook(lambda *_, again=recompute: calls.append(again))
        weights.append(trained(tmp_path, model, gradient_checkpointing=recompute).state_dict())
    assert calls == [False] * 3 + [True] * 6
    plain, again = weights
    for name, value in plain.items():
        assert torch.equal(again[name], value), name


def test_the_form_that_loses_gradients_is_rejected(tmp_path):
    settings = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}}
    model = test_encoders.network("bert", detach_targets=False)
    with pytest.raises(InputError, match=r"^gradient_checkpointing_kwargs=.*use_reentrant loses .* `detach_targets`"):
        trained(tmp_path, model, **settings)
    plain = trained(tmp_path, test_encoders.network("bert")).state_dict()
    again = trained(tmp_path, test_encoders.network("bert"), **settings).state_dict()
    for name, value in plain.items():
        assert torch.equal(again[name], value), name


def test_networks_without_layers_that_can_be_recomputed_are_rejected(tmp_path):
    args = arguments(tmp_path, gradient_checkpointing=True)
    run = SelfModelingTrainer(model=test_trainer.network(), args=args, train_dataset=test_trainer.images(9))
    with pytest.raises(InputError, match=r"^gradient_checkpointing=True: allowed with a transformers backbone"):
        run.train()
    population = SelfModelingPopulation(test_trainer.network().config, [Member(1, 1.0), Member(2, 1.0)])
    with pytest.raises(ValueError, match=r"^gradient_checkpointing=True: with a population allowed is False"):
        SelfModelingTrainer(model=population, args=args, train_dataset=test_trainer.images(9))
