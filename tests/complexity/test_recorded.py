"""Sampling steps run as a recorded list of operations, and a result says whether they did."""

import logging

import pytest
import torch
from torch import nn
from transformers import BertConfig, ViTConfig

from selfmod_hf import (
    LLCResult,
    SelfModelingConfig,
    SelfModelingForImageClassification,
    SelfModelingForSequenceClassification,
    estimate_llc,
    estimate_rlct,
)
from selfmod_hf.data import ImageTensors, TextTensors, basic_english_tokenizer

SETTINGS = {"step_size": 1e-6, "localization": 100.0, "num_chains": 2, "num_draws": 100, "batch_size": 8}


def images(channels: int, size: int) -> ImageTensors:
    pixels = torch.randint(0, 256, (12, channels, size, size), dtype=torch.uint8)
    return ImageTensors(pixels, torch.arange(12) % 3)


def image_network(**fields) -> SelfModelingForImageClassification:
    return SelfModelingForImageClassification(SelfModelingConfig(num_labels=3, **fields))


def mlp():
    return image_network(hidden_sizes=[8, 4], image_size=8), images(1, 8)


def resnet():
    return image_network(backbone="timm/test_resnet", hidden_sizes=[4], image_size=32, num_channels=3), images(3, 32)


def vit():
    encoder = ViTConfig(
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        image_size=8,
        patch_size=4,
        num_channels=1,
    )
    return image_network(backbone_config=encoder, image_size=8), images(1, 8)


def text_data() -> TextTensors:
    tokens = torch.randint(2, 12, (36,), dtype=torch.int32)
    offsets = torch.arange(0, 37, 3)
    return TextTensors(tokens, offsets, torch.arange(12) % 3, basic_english_tokenizer(["one two"]))


def embedding_bag():
    fields = {"backbone": "embedding_bag", "backbone_kwargs": {"num_embeddings": 12, "embedding_dim": 4}}
    config = SelfModelingConfig(num_labels=3, hidden_sizes=[4], **fields)
    return SelfModelingForSequenceClassification(config), text_data()


def bert():
    encoder = BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, vocab_size=16)
    data = text_data()
    padded = TextTensors(data.tokens, data.offsets, data.labels, data.tokenizer, padded=True)
    return SelfModelingForSequenceClassification(SelfModelingConfig(num_labels=3, backbone_config=encoder)), padded


@pytest.mark.parametrize("make", [mlp, resnet, vit, bert])
@pytest.mark.parametrize("networks", [1, 2])
def test_steps_of_our_networks_are_recorded(make, networks):
    torch.manual_seed(0)
    model, data = make()
    # a preset of the paper: no biases are foretold, which takes long
    results = estimate_rlct([model] * networks, data, preset="paper (mnist)", **SETTINGS)
    assert [result.recorded for result in results] == [True] * networks


def test_steps_on_bags_of_words_are_not_recorded():
    """The number of words differs from batch to batch, and a recording has fixed shapes."""
    model, data = embedding_bag()
    (result,) = estimate_rlct([model], data, **SETTINGS)
    assert result.recorded is False


class DecidesByData(nn.Linear):
    def forward(self, x):
        return super().forward(x * 2 if bool(self.weight.detach().sum() > 1e6) else x)


@pytest.mark.parametrize("module", [nn.Linear(6, 3), nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 3))])
def test_steps_of_plain_modules_are_recorded_and_the_file_says_so(module, tmp_path):
    result = estimate_llc(module, torch.randn(12, 6), torch.arange(12) % 3, **SETTINGS)
    assert result.recorded is True
    assert LLCResult.load(result.save(tmp_path / "rlct.json")).recorded is True


def test_few_draws_are_not_recorded():
    """Recording takes as long as it saves in a hundred draws."""
    result = estimate_llc(nn.Linear(6, 3), torch.randn(12, 6), torch.arange(12) % 3, **SETTINGS | {"num_draws": 99})
    assert result.recorded is False


def test_a_module_that_cannot_be_recorded_says_so(caplog):
    arguments = DecidesByData(6, 3), torch.randn(12, 6), torch.arange(12) % 3
    with caplog.at_level(logging.DEBUG, logger="selfmod_hf.stacking.replay"), pytest.warns(UserWarning, match="vmap"):
        result = estimate_llc(*arguments, **SETTINGS)
    assert result.recorded is False
    assert "not recorded" in caplog.text
