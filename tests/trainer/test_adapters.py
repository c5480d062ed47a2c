"""Networks with adapters of peft: targets, training, the width of the last layer, and what is rejected."""

import pytest
import torch
from peft import IA3Config, LoraConfig, PeftModel, get_peft_model
from torch import nn

from selfmod_hf import (
    SelfModelingForCausalLM,
    SelfModelingTrainer,
    SelfModelingTrainingArguments,
    estimate_rlct,
    weight_width,
)
from selfmod_hf.errors import InputError
from selfmod_hf.models.classifier_weights import classifier_weight
from tests.models import test_encoders
from tests.models.task_models import batch, plain
from tests.trainer.test_trainer import images, network

HEADS = ["classifier", "self_model_head"]
RANK = {"r": 2, "init_lora_weights": False}  # an adapter that changes its layer from the start
ADAPTERS = {
    "lora": LoraConfig(target_modules=["linear1"], modules_to_save=HEADS, **RANK),
    "lora of every layer": LoraConfig(target_modules=["linear1", *HEADS], **RANK),
    "a layer of its own": LoraConfig(target_modules=["classifier"], modules_to_save=["linear1"], **RANK),
    "ia3": IA3Config(target_modules=["linear1"], feedforward_modules=["linear1"], init_ia3_weights=False),
}


def adapted(name: str, **fields) -> PeftModel:
    model = get_peft_model(network(target_layers=["hidden.linear1"], **fields), ADAPTERS[name])
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def trainer(folder, model, **settings) -> SelfModelingTrainer:
    defaults = {
        "num_train_epochs": 2, "learning_rate": 0.1, "report_to": "none", "disable_tqdm": True, "use_cpu": True,
        "save_strategy": "epoch",
    }  # fmt: skip
    args = SelfModelingTrainingArguments(str(folder), **{**defaults, **settings})
    return SelfModelingTrainer(model=model, args=args, train_dataset=images(41), eval_dataset=images(9, seed=1))


@pytest.mark.parametrize("name", ADAPTERS)
def test_the_target_is_what_the_adapted_layer_gives(name):
    pixels = images(9).all()[0]
    plain = network(target_layers=["hidden.linear1"]).eval()(pixel_values=pixels).self_model_targets
    model, seen = adapted(name), []
    model.base_model.model.hidden.linear1.register_forward_hook(lambda module, args, output: seen.append(output))
    targets = model(pixel_values=pixels).self_model_targets
    assert torch.equal(targets, seen[0])
    assert not torch.allclose(targets, plain)


def test_the_target_of_an_encoder_with_adapters_is_that_of_the_merged_encoder():
    layers = ["encoder.layer.0.attention.self.query", "encoder.layer.*.output"]
    model, inputs = test_encoders.network("bert", target_layers=layers), test_encoders.batch("bert", [5, 2, 7])
    before = model(**inputs)
    wrapped = get_peft_model(model, LoraConfig(target_modules=["query", "value"], **RANK)).eval()
    found = wrapped(**inputs)
    assert not torch.allclose(found.self_model_targets, before.self_model_targets)
    with wrapped.disable_adapter():
        torch.testing.assert_close(wrapped(**inputs).self_model_targets, before.self_model_targets)
    merged = wrapped.merge_and_unload()
    for field in ("loss", "logits", "self_model_targets", "self_model_predictions"):
        torch.testing.assert_close(merged(**inputs)[field], found[field], rtol=1e-4, atol=1e-5)
    assert torch.equal(merged.prune()(**inputs).logits, merged(**inputs).logits)


def test_an_adapter_is_trained_saved_and_resumed(tmp_path):
    run = trainer(tmp_path, adapted("lora"))
    frozen = run.model.base_model.model.hidden.linear1.base_layer.weight.clone()
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    run.train()
    changed = [name for name, value in run.model.state_dict().items() if not torch.equal(value, before[name])]
    assert {name.split(".")[-2] for name in changed if "lora" not in name} == {"default"}  # the heads' own copies
    assert any("lora_B" in name for name in changed)
    assert torch.equal(run.model.base_model.model.hidden.linear1.base_layer.weight, frozen)
    resumed = trainer(tmp_path, adapted("lora"))
    resumed.train(resume_from_checkpoint=True)
    assert resumed.evaluate()["eval_loss"] == pytest.approx(run.evaluate()["eval_loss"], abs=1e-6)


@pytest.mark.parametrize("name", ["lora", "lora of every layer"])
def test_the_width_is_that_of_the_classifier_as_it_acts(tmp_path, name):
    run = trainer(tmp_path, adapted(name), report_to="tensorboard")
    run.train()
    logged = [entry["weight_width"] for entry in run.state.log_history if "weight_width" in entry]
    merged = run.model.merge_and_unload()
    assert isinstance(merged.classifier, nn.Linear)
    assert logged[-1] == pytest.approx(weight_width(merged).sd, rel=1e-5)
    torch.testing.assert_close(classifier_weight(merged), merged.classifier.weight)
    (rlct,) = estimate_rlct([merged], images(41), num_draws=4, num_chains=2, batch_size=16)
    assert torch.tensor(rlct.loss_trace).isfinite().all()


def test_the_width_of_a_wrapped_network_is_not_taken_from_another_layer():
    plain = get_peft_model(network(), LoraConfig(target_modules=["linear1"], **RANK))
    assert weight_width(plain).sd == weight_width(plain.get_base_model()).sd
    for name in ("lora", "lora of every layer"):
        with pytest.raises(
            ValueError, match=r"^layer='base_model\.model\.classifier': has become .* merge the adapter"
        ):
            weight_width(adapted(name))


def test_what_needs_a_complete_network_is_rejected_before_training(tmp_path):
    with pytest.raises(InputError, match=r"^rlct_every_n_epochs=1: allowed without an adapter; .* merge_and_unload"):
        trainer(tmp_path, adapted("lora"), rlct_every_n_epochs=1)
    with pytest.raises(InputError, match=r"^push_to_hub=True: allowed without an adapter"):
        trainer(tmp_path, adapted("lora"), push_to_hub=True, hub_token="hf_none")
    with pytest.raises(ValueError, match=r"^prune: modules were replaced .* merge an adapter first"):
        estimate_rlct([adapted("lora")], images(41), num_draws=4)


@pytest.mark.parametrize("place", ["around", "inside"])
def test_a_network_of_model_init_is_checked_before_a_repository_is_made(tmp_path, place):
    def build():
        if place == "around":
            return adapted("lora")
        settings = LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True)
        return SelfModelingForCausalLM.from_backbone_pretrained(tmp_path / "base", adapter=settings)

    plain("causal-lm", "gpt2").save_pretrained(tmp_path / "base")
    args = SelfModelingTrainingArguments(str(tmp_path / "run"), push_to_hub=True, hub_token="hf_none", use_cpu=True)
    with pytest.raises(InputError, match=r"^push_to_hub=True: (allowed without an adapter|the adapter's base is)"):
        SelfModelingTrainer(model_init=build, args=args, train_dataset=images(4))


def test_the_matrices_of_an_adapter_are_sampled_if_parameters_name_them(tmp_path):
    """B of a new adapter is zero. So the loss depends on B, and not on A."""
    plain("causal-lm", "gpt2").save_pretrained(tmp_path)
    settings = LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True)
    model = SelfModelingForCausalLM.from_backbone_pretrained(
        tmp_path, adapter=settings, target_layers=["h.*"], aux_weight=1.0
    )
    rows = [{"input_ids": tokens, "labels": tokens} for tokens in batch("causal-lm", rows=4)["input_ids"]]
    found = {}
    for part in "AB":
        sampling = {"num_chains": 2, "num_draws": 4, "batch_size": 4, "step_size": 1e-2, "seed": 1}
        pattern = f"network.*lora_{part}*"
        [result] = estimate_rlct([model], rows, parameters=[pattern], **sampling)
        [of_text] = estimate_rlct([model], rows, parameters=pattern, **sampling)
        assert of_text.llc == result.llc
        assert len(result.settings.parameters) == 2
        assert all(f"lora_{part}" in name for name in result.settings.parameters)
        found[part] = result.loss_trace - result.init_loss
    assert abs(found["A"]).max() < 1e-6  # rounding
    assert abs(found["B"]).max() > 1e-4
