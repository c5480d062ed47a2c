"""Bases of adapters: neither weights nor running statistics change, and a loaded network is the saved one."""

import pytest
import torch
from peft import AdaptionPromptConfig, LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoModelForImageClassification

from selfmod_hf import (
    SelfModelingForCausalLM,
    SelfModelingForImageClassification,
    SelfModelingTrainer,
    SelfModelingTrainingArguments,
)
from selfmod_hf.models import load_model
from tests.models.task_models import batch, plain

LORA = {"r": 2, "target_modules": ["c_attn"], "fan_in_fan_out": True}
PROMPTS = {"adapter_len": 2, "adapter_layers": 1, "task_type": "CAUSAL_LM"}


def gpt2(place, dtype=torch.float32, **sizes):
    """A pretrained language model, beside the folders of the networks over it."""
    plain("causal-lm", "gpt2", **sizes).save_pretrained(place / "base")
    return AutoModelForCausalLM.from_pretrained(place / "base", dtype=dtype)


def wrap(adapted):
    return SelfModelingForCausalLM.wrap(adapted, target_layers=["h.*"], aux_weight=1.0)


def logits(model, inputs):
    with torch.no_grad():
        return model.eval()(**inputs).logits


def test_prompts_of_attention_are_trained_saved_and_loaded(tmp_path):
    """The tuner of this adapter has no prefix by which its weights could be known."""
    plain("causal-lm", "llama").save_pretrained(tmp_path / "base")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    adapted = get_peft_model(base, AdaptionPromptConfig(**PROMPTS))
    network = SelfModelingForCausalLM.wrap(adapted, target_layers=["layers.*"], aux_weight=1.0)
    checksum = network.config.base_checksum
    inputs = batch("causal-lm")
    before = logits(network, inputs)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    for _ in range(2):  # the gate is 0 in the first
        network(**inputs).loss.backward()
        optimizer.step()
    network.save_pretrained(tmp_path / "network")
    loaded = load_model(tmp_path / "network")
    assert not torch.equal(logits(network, inputs), before)
    assert torch.equal(logits(loaded, inputs), logits(network, inputs))
    assert loaded.config.base_checksum == checksum
    assert checksum.startswith("float32:")


# ------------------------------------------------------------------------------------------ running statistics


def resnet_trainer(place, **settings):
    """A trainer of two steps of a network with an adapter. Its base has layers with running statistics."""
    torch.manual_seed(0)
    lora = LoraConfig(r=2, target_modules=["convolution"], **settings)
    fields = {"target_layers": ["encoder.stages.*"], "aux_weight": 1.0, "image_size": 8, "head": "own"}
    network = SelfModelingForImageClassification.from_backbone_pretrained(place / "base", adapter=lora, **fields)
    args = SelfModelingTrainingArguments(
        place / "run", num_train_epochs=2, per_device_train_batch_size=3, save_strategy="epoch", learning_rate=0.01
    )
    inputs = batch("image-classification")
    rows = []
    for image, label in zip(inputs["pixel_values"], inputs["labels"], strict=True):
        rows.append({"pixel_values": image, "labels": label})
    return SelfModelingTrainer(network, args, train_dataset=rows)


@pytest.mark.parametrize("saved", [None, ["normalization"]])
def test_running_statistics_are_those_that_are_loaded(tmp_path, saved):
    base = plain("image-classification", "resnet")
    base.save_pretrained(tmp_path / "base")
    complete, resumed = (resnet_trainer(tmp_path, modules_to_save=saved) for _ in range(2))
    complete.train()
    network = complete.model
    statistics = {name: value for name, value in network.named_buffers() if name.endswith("running_mean")}
    moved = [name for name, value in statistics.items() if value.any()]  # the base's are 0
    assert moved == [name for name in statistics if ".modules_to_save." in name]
    inputs = {"pixel_values": batch("image-classification")["pixel_values"]}
    complete.save_model(tmp_path / "network")
    loaded = load_model(tmp_path / "network")
    assert not torch.equal(logits(loaded, inputs), logits(base, inputs))
    assert torch.equal(logits(loaded, inputs), logits(network, inputs))
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-1"))
    found = resumed.model.state_dict()
    assert all(torch.equal(found[name], value) for name, value in network.state_dict().items())
    for training in (False, True):
        kept = network.train(training).prune(adapter="keep")
        assert torch.equal(kept(**inputs).logits, network(**inputs).logits)


def test_running_statistics_of_another_base_are_found(tmp_path):
    plain("image-classification", "resnet").save_pretrained(tmp_path / "base")
    base = AutoModelForImageClassification.from_pretrained(tmp_path / "base")
    base.resnet.embedder.embedder.normalization.running_mean += 1
    adapted = get_peft_model(base, LoraConfig(r=2, target_modules=["convolution"]))
    network = SelfModelingForImageClassification.wrap(adapted, image_size=8)
    network.save_pretrained(tmp_path / "network")
    with pytest.raises(ValueError, match="has other weights than when the adapter was made"):
        load_model(tmp_path / "network")


# ------------------------------------------------------------------------------------------ the checksum


def permute_rows(weights):
    weights.copy_(weights.flip(0))


def flip_two_signs(weights):
    numbers = weights.view(-1)
    found = [int((numbers > 0).nonzero()[0]), int((numbers < 0).nonzero()[0])]
    numbers[found] *= -1


@pytest.mark.parametrize("change", [permute_rows, flip_two_signs])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_order_of_the_weights_enters_the_checksum(tmp_path, change, dtype):
    base = gpt2(tmp_path, dtype)
    before = wrap(get_peft_model(base, LoraConfig(**LORA))).config.base_checksum
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=dtype)
    with torch.no_grad():
        change(base.transformer.h[0].mlp.c_fc.weight)
    network = wrap(get_peft_model(base, LoraConfig(**LORA)))
    assert network.config.base_checksum != before
    network.save_pretrained(tmp_path / "network")
    with pytest.raises(ValueError, match="has other weights than when the adapter was made"):
        load_model(tmp_path / "network")


def test_the_order_of_many_weights_enters_the_checksum(tmp_path):
    """They are added up in chunks, whose numbers are a divisor of 2^20."""
    base = gpt2(tmp_path, vocab_size=90_000)
    before = wrap(get_peft_model(base, LoraConfig(**LORA))).config.base_checksum
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    with torch.no_grad():
        numbers = base.transformer.wte.weight.view(-1)
        numbers[[5, 5 + 2**20]] = numbers[[5 + 2**20, 5]]
    assert wrap(get_peft_model(base, LoraConfig(**LORA))).config.base_checksum != before


@pytest.mark.parametrize("fields", [{"modules_to_save": ["wte"]}, {"trainable_token_indices": [3, 4]}])
def test_tied_weights_below_a_trained_copy_enter_the_checksum(tmp_path, fields):
    """The output layer, or the tokens that are not trained, use the weights of the base."""
    base = gpt2(tmp_path)
    with torch.no_grad():
        base.lm_head.weight[7] += 0.5
    wrap(get_peft_model(base, LoraConfig(**LORA, **fields))).save_pretrained(tmp_path / "network")
    with pytest.raises(ValueError, match="has other weights than when the adapter was made"):
        load_model(tmp_path / "network")


# ------------------------------------------------------------------------------------------ trained and lost


def test_an_initialization_with_random_changes_of_the_base_is_rejected(tmp_path):
    adapted = get_peft_model(gpt2(tmp_path), LoraConfig(init_lora_weights="pissa_niter_4", **LORA))
    message = "init_lora_weights='pissa_niter_4': changes the base at random, .*; allowed is 'pissa', or True"
    with pytest.raises(ValueError, match=message):
        wrap(adapted)


def test_trained_weights_that_no_file_would_hold_are_rejected(tmp_path):
    adapted = get_peft_model(gpt2(tmp_path), LoraConfig(**LORA))
    adapted.get_base_model().transformer.ln_f.requires_grad_(True)
    with pytest.raises(
        ValueError, match=r"transformer\.ln_f\.weight would be trained, but the adapter's file does not"
    ):
        wrap(adapted)


def test_a_disabled_adapter_is_rejected(tmp_path):
    adapted = get_peft_model(gpt2(tmp_path), LoraConfig(**LORA))
    adapted.disable_adapter_layers()
    with pytest.raises(ValueError, match=r"its adapter is disabled, .* allowed after enable_adapter_layers\(\)"):
        wrap(adapted)
    adapted.enable_adapter_layers()
    assert wrap(adapted).config.adapter


def test_disabled_prompts_of_attention_are_rejected(tmp_path):
    plain("causal-lm", "llama").save_pretrained(tmp_path)
    adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(tmp_path), AdaptionPromptConfig(**PROMPTS))
    adapted.base_model.disable_adapter_layers()
    with pytest.raises(ValueError, match="its adapter is disabled"):
        SelfModelingForCausalLM.wrap(adapted, target_layers=["layers.*"], aux_weight=1.0)


def test_a_frozen_adapter_is_rejected(tmp_path):
    base = gpt2(tmp_path)
    get_peft_model(base, LoraConfig(**LORA)).save_pretrained(tmp_path / "adapter")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    with pytest.raises(ValueError, match=r"its adapter is frozen, .*is_trainable=True"):
        wrap(PeftModel.from_pretrained(base, tmp_path / "adapter"))
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    assert wrap(PeftModel.from_pretrained(base, tmp_path / "adapter", is_trainable=True)).config.adapter
