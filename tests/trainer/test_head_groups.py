"""Masks of attention heads: a head's numbers change its own output alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard

from selfmod_hf import LLCResult, SelfModelingConfig, SelfModelingForSequenceClassification, estimate_rlct, head_masks
from selfmod_hf.data import get_task
from selfmod_hf.errors import InputError
from selfmod_hf.hub.agreement import compare_with_published
from selfmod_hf.hub.push_rlct import card_with_rlct
from tests.trainer.tiny_models import tiny_model, tiny_rows

FEW = {"num_draws": 4, "num_chains": 2, "batch_size": 5, "step_size": 1e-4, "localization": 1.0}
# model -> the layer that mixes the heads, one block around it, its heads
LAYERS = {
    "bert": ("bert.encoder.layer.1.attention.output.dense", "bert.encoder.layer.1", 2),
    "distilbert": ("distilbert.transformer.layer.0.attention.out_lin", "*.layer.0", 2),
    "vit": ("vit.layers.1.attention.o_proj", "vit.layers.1", 2),
    "gpt2": ("transformer.h.1.attn.c_proj", "transformer.h.1", 2),
    "llama": ("model.layers.1.self_attn.o_proj", "model.layers.1", 4),
}


def outputs_of_heads(model, layer, rows, heads):
    """Return what each head gives to the layer that mixes them, (rows, tokens, heads, size)."""
    seen = []
    handle = model.get_submodule(layer).register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        model(**{name: torch.stack([row[name] for row in rows]) for name in rows[0] if name != "labels"})
    handle.remove()
    return seen[0].unflatten(-1, (heads, -1))


@pytest.mark.parametrize("name", LAYERS)
def test_the_numbers_of_a_head_change_its_output_alone(name):
    layer, block, heads = LAYERS[name]
    model, rows = tiny_model(name), tiny_rows(name)
    before = outputs_of_heads(model, layer, rows, heads)
    masks = head_masks(model, [f"{block}:1"])
    with torch.no_grad():
        for parameter, mask in masks.items():
            values = model.get_parameter(parameter.removeprefix("network."))
            if not parameter.startswith(f"network.{layer}."):
                values[mask] += torch.randn(int(mask.sum()))
    after = outputs_of_heads(model, layer, rows, heads)
    changed = [head for head in range(heads) if not torch.equal(before[:, :, head], after[:, :, head])]
    assert changed == [1]


@pytest.mark.parametrize("name", LAYERS)
def test_the_columns_of_a_head_read_its_output_alone(name):
    layer, block, heads = LAYERS[name]
    model = tiny_model(name)
    mask = head_masks(model, [f"{block}:1"])[f"network.{layer}.weight"]
    module = model.get_submodule(layer)
    width = module.weight.shape[0 if name == "gpt2" else 1]
    inputs = torch.zeros(1, heads, width // heads)
    inputs[:, 1] = 1.0  # of head 1 alone
    with torch.no_grad():
        module.weight[~mask] = 0.0
        alone = module(inputs.flatten(1))
        others = module(1.0 - inputs.flatten(1))
        nothing = module(torch.zeros(1, width))
    assert torch.equal(others, nothing)
    assert not torch.equal(alone, nothing)


def test_a_shared_key_belongs_to_its_group():
    """Llama's heads 0 and 1 share a key, and 2 and 3 another."""
    model = tiny_model("llama")
    alone = head_masks(model, ["model.layers.0:0"])
    both = head_masks(model, ["model.layers.0:0,1"])
    key = "network.model.layers.0.self_attn.k_proj.weight"
    assert key not in alone
    assert both[key].sum(1).tolist() == [16, 16, 16, 16, 0, 0, 0, 0]


def test_the_rlct_of_heads_samples_their_numbers_alone():
    model = tiny_model("gpt2")
    masks = head_masks(model, ["transformer.h.0:1", "transformer.h.1:0"])
    (result,) = estimate_rlct([model], tiny_rows("gpt2"), num_draws=4, num_chains=2, parameters=masks)
    of_one = 3 * 6 * 12 + 3 * 6 + 6 * 12  # query, key, value with biases, and the output's columns
    assert result.settings.num_parameters == 2 * of_one
    assert "transformer.h.0.attn.c_attn.weight (216 chosen numbers, " in str(result.settings.parameters)
    assert result.settings.heads == ("transformer.h.0:1", "transformer.h.1:0")


def test_estimates_of_two_heads_are_two_quantities_that_can_be_repeated(tmp_path):
    """In rlct.json, in the comparison with a published one, and in the metrics of a card."""
    model, rows, spec = tiny_model("gpt2"), tiny_rows("gpt2"), get_task("digits")
    found = []
    card = ""
    for heads in (["transformer.h.0:0"], ["transformer.h.0:1"]):
        (result,) = estimate_rlct([model], rows, heads=heads, **FEW)
        found.append(replace(result, status="ok"))
        card = card_with_rlct(card, "me/net", result, spec, "text-generation")
    first, second = found
    assert first.settings.num_parameters == second.settings.num_parameters
    assert first.settings.parameters != second.settings.parameters
    other_seed = replace(second, settings=replace(second.settings, seed=1))
    assert "not comparable" in compare_with_published(other_seed, first).text
    names = [metric.metric_name for metric in ModelCard(card).data.eval_results]
    assert [name.partition(", of ")[2] for name in names] == [
        "heads transformer.h.0:0 alone",
        "heads transformer.h.0:1 alone",
    ]
    second.save(tmp_path / "rlct.json")
    loaded = LLCResult.load(tmp_path / "rlct.json")
    (again,) = estimate_rlct([model], rows, **loaded.settings.keywords(loaded.nbeta))
    assert np.array_equal(again.loss_trace, second.loss_trace)
    assert again.settings.parameters == second.settings.parameters
    assert "of                    the heads transformer.h.0:1 alone" in again.summary()


def test_an_estimate_with_other_masks_asks_for_them_again():
    model, rows = tiny_model("gpt2"), tiny_rows("gpt2")
    masks = dict(head_masks(model, ["transformer.h.0:0"]))  # of a caller's own
    (result,) = estimate_rlct([model], rows, parameters=masks, **FEW)
    with pytest.raises(
        InputError, match=r"^parameters='.*c_attn.weight \(216 chosen numbers, .*give `parameters` again"
    ):
        result.settings.keywords(result.nbeta)
    assert result.settings.keywords(result.nbeta, masks)["parameters"] is masks
    assert result.settings.heads is None
    with pytest.raises(InputError, match=r"^heads=\['transformer.h.0:0'\]: allowed without `parameters`"):
        estimate_rlct([model], rows, parameters=masks, heads=["transformer.h.0:0"], **FEW)


def test_heads_of_a_self_modeling_network_are_named_like_its_parameters():
    backbone = tiny_model("bert").config.to_dict()
    config = SelfModelingConfig(backbone="transformers", backbone_config=backbone, hidden_sizes=[], num_labels=3)
    network = SelfModelingForSequenceClassification(config)
    masks = head_masks(network, ["*.layer.0:0"])
    assert {name.rpartition(".layer.")[0] for name in masks} == {"network.backbone.encoder"}


@pytest.mark.parametrize(
    ("name", "heads", "message"),
    [
        ("gpt2", "transformer.h.0", "allowed is module:numbers"),
        ("gpt2", "transformer.h.0:a", "allowed is module:numbers"),
        ("gpt2", "transformer.h.0:2", r"transformer\.h\.0\.attn has heads 0 to 1"),
        ("gpt2", "transformer.h.7:0", "no such module; the attentions are transformer.h.0.attn"),
        ("gpt2", "transformer.ln_f:0", "transformer.ln_f has no attention with layers query"),
        ("convnext", "convnext:0", "convnext has no attention with layers query"),
    ],
)
def test_heads_that_are_not_there_are_named(name, heads, message):
    with pytest.raises(InputError, match=f"^heads='{heads}': {message}"):
        head_masks(tiny_model(name), [heads])
