"""Which call of which module is a target: threads, several calls, skipped layers, modules that were replaced."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from selfmod_hf import SelfModelingConfig, SelfModelingForSequenceClassification
from tests.models import test_encoders, test_more_encoders
from tests.models.test_modeling_self_modeling import batch, mlp

OPT = {
    "model_type": "opt", "hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2, "ffn_dim": 20,
    "vocab_size": 30, "max_position_embeddings": 40, "word_embed_proj_dim": 12, "layerdrop": 0.25,
}  # fmt: skip


def decoder(layer: str, **settings) -> SelfModelingForSequenceClassification:
    torch.manual_seed(0)
    config = SelfModelingConfig(
        backbone_config={**OPT, **settings}, hidden_sizes=[6], target_layers=[layer], aux_weight=1.0, num_labels=3
    )
    return SelfModelingForSequenceClassification(config)


@pytest.mark.parametrize("name", ["mlp", "bert", "embedding_bag", "timm/test_resnet"])
def test_threads_get_their_own_activations(name):
    model = test_encoders.network(name, target_layers=[test_encoders.LAYERS[name][-1], "hidden.relu1"])
    inputs = [test_encoders.batch(name, [length, 3, 2]) for length in (4, 5, 6)]
    with torch.no_grad():
        expected = [model(**each).self_model_targets for each in inputs]

    def targets(k: int) -> list[torch.Tensor]:
        with torch.no_grad():
            return [model(**inputs[k]).self_model_targets for _ in range(30)]

    with ThreadPoolExecutor(len(inputs)) as pool:
        found = list(pool.map(targets, range(len(inputs))))
    for mine, theirs in zip(found, expected, strict=True):
        for each in mine:
            torch.testing.assert_close(each, theirs)


def test_a_forward_within_a_forward_keeps_both_apart():
    outer, inner, inputs = mlp(), mlp(), batch()
    with torch.no_grad():
        inner.hidden.linear2.bias.add_(10)
    seen = []
    outer.hidden.linear1.register_forward_hook(lambda *_: seen.append(inner(**inputs).self_model_targets))
    found = outer(**inputs).self_model_targets
    assert torch.equal(found, mlp()(**inputs).self_model_targets)
    assert torch.equal(seen[0], inner(**inputs).self_model_targets)


def test_a_network_can_be_pickled_and_copied_after_a_call():
    model, inputs = mlp(), batch()
    expected = model(**inputs).self_model_targets
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin(**inputs).self_model_targets, expected)


def test_of_several_calls_the_last_one_counts():
    """ALBERT's two layers are one module."""
    model, _ = test_more_encoders.network("albert")
    inputs = test_encoders.batch("bert", [4, 4])
    outputs = []
    layer = model.backbone.encoder.albert_layer_groups[0].albert_layers[0]
    layer.register_forward_hook(lambda module, args, output: outputs.append(output))
    targets = model(**inputs).self_model_targets
    first, last = (output.mean(dim=1) for output in outputs)
    torch.testing.assert_close(targets, last)
    assert not torch.allclose(first, last)


@pytest.mark.parametrize("chunk", [1, 3])
def test_a_layer_that_sees_tokens_in_chunks_is_rejected(chunk):
    chunks = {**test_encoders.ENCODERS["bert"].to_dict(), "chunk_size_feed_forward": chunk}
    with pytest.raises(ValueError, match=rf"^target_layers: .*intermediate' gives \(2, {chunk}, 20\) for two samples"):
        test_encoders.network("bert", backbone_config=chunks, target_layers=["encoder.layer.0.intermediate"])
    test_encoders.network("bert", backbone_config=chunks, target_layers=["encoder.layer.0"])


# ------------------------------------------------------------------------------------- layers that are left out


@pytest.mark.parametrize("layer", ["decoder.layers.*", "decoder.layers.1.self_attn"])
def test_a_layer_that_layerdrop_may_skip_is_rejected(layer):
    with pytest.raises(ValueError, match=r"^target_layers: 'backbone\.decoder\.layers\..* layerdrop=0\.25; allowed"):
        decoder(layer)


def test_layerdrop_beside_the_targets_trains():
    inputs = test_encoders.batch("bert", [5, 2, 7])
    for model in (decoder("decoder.final_layer_norm"), decoder("decoder.layers.*", layerdrop=0.0)):
        for _ in range(4):  # some of them skip a layer
            loss = model(**inputs).loss
            loss.backward()
            assert loss.isfinite()


def test_tokens_that_patch_dropout_leaves_out_cannot_be_predicted_one_by_one():
    fields = {
        "backbone": "timm/test_vit", "image_size": 32, "num_channels": 3, "target_layers": ["blocks.0"],
        "backbone_kwargs": {"img_size": 32, "patch_size": 8, "patch_drop_rate": 0.5},
    }  # fmt: skip
    with pytest.raises(ValueError, match=r"^target_layers: 'backbone\.blocks\.0' .* patch_drop_rate=0\.5; allowed"):
        mlp(**fields, target_pooling="flatten")
    mlp(**fields)(**batch(2, 3, 32)).loss.backward()


def test_a_target_that_is_not_called_is_named():
    model = mlp()
    model.hidden = model.hidden[:2]  # without the second layer
    with pytest.raises(ValueError, match=r"^target_layers: 'hidden\.relu2' is no longer a module of the network"):
        model(**batch())


# ------------------------------------------------------------------------------------- modules that were replaced


class Doubled(nn.Module):
    """As an adapter does it: calls the layer that it replaces, and changes what that gives."""

    def __init__(self, base_layer: nn.Module):
        super().__init__()
        self.base_layer = base_layer

    def forward(self, x):
        return 2 * self.base_layer(x)


@pytest.mark.parametrize("compiled", [False, True])
def test_the_target_is_what_a_replaced_module_gives(compiled):
    model, inputs = mlp(target_layers=["hidden.linear1", "hidden.relu2"]), batch()
    before = model(**inputs).self_model_targets
    base_layer = model.hidden.linear1
    model.hidden.linear1 = Doubled(base_layer)
    call = torch.compile(model, backend="aot_eager") if compiled else model
    found = call(**inputs).self_model_targets
    torch.testing.assert_close(found[:, :8], 2 * before[:, :8])
    assert not torch.allclose(found[:, 8:], before[:, 8:])
    model.hidden.linear1 = base_layer
    assert torch.equal(model(**inputs).self_model_targets, before)


def test_the_target_follows_a_parametrized_weight():
    model, inputs = mlp(target_layers=["hidden.linear1"]), batch()
    parametrizations.spectral_norm(model.hidden.linear1)
    model.eval()
    expected = model.hidden.linear1(inputs["pixel_values"].flatten(1))
    torch.testing.assert_close(model(**inputs).self_model_targets, expected)


def test_checkpointed_layers_give_the_same_gradient():
    """Gradient checkpointing calls the layers once more in the backward pass."""
    inputs = test_encoders.batch("bert", [5, 2, 7])
    gradients = []
    for checkpointing in (False, True):
        model = test_encoders.network("bert", target_layers=["encoder.layer.*.output"], detach_targets=False).train()
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        if checkpointing:
            model.backbone.gradient_checkpointing_enable()
        model(**inputs).loss.backward()
        gradients.append([p.grad for p in model.parameters()])
    for mine, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_a_layer_that_is_called_by_itself_is_no_target_of_the_next_forward():
    model, inputs = mlp(target_layers=["hidden.relu1"]), batch()
    expected = model(**inputs).self_model_targets
    model.hidden.relu1(torch.full((7, 8), 5.0))
    assert torch.equal(model(**inputs).self_model_targets, expected)


def test_a_network_with_replaced_modules_is_pruned_only_after_they_are_merged():
    model, inputs = mlp(), batch()
    base_layer = model.hidden.linear1
    model.hidden.linear1 = Doubled(base_layer)
    with pytest.raises(ValueError, match=r"^prune: .*hidden\.linear1\.base_layer.* merge"):
        model.prune()
    model.hidden.linear1 = base_layer
    assert torch.equal(model.prune()(**inputs).logits, model(**inputs).logits)
