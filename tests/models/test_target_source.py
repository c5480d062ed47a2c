"""Controls: targets other than the network's own activations, their normalization, and a penalty on activations."""

import pytest
import torch

from selfmod_hf import (
    SelfModelingConfig,
    SelfModelingForImageClassification,
    SelfModelingForSequenceClassification,
)


def network(**fields):
    torch.manual_seed(0)
    given = {"hidden_sizes": [6], "image_size": 4, "target_layers": ["hidden.relu1"], "aux_weight": 2.0, **fields}
    return SelfModelingForImageClassification(SelfModelingConfig(**given)).double()


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randn(5, 1, 4, 4, generator=generator, dtype=torch.float64)
    return {"pixel_values": pixels, "labels": torch.tensor([0, 1, 0, 1, 1])}


def mean_square(values):
    return values.square().mean(dim=1)


def test_own_activations_are_the_default(batch):
    output = network()(**batch)
    own = output.self_model_targets
    expected = mean_square(output.self_model_predictions - own).mean()
    assert torch.allclose(output.self_modeling_loss, expected, rtol=1e-12)


def test_shuffled_targets_are_those_of_the_previous_sample(batch):
    own = network()(**batch).self_model_targets
    output = network(target_source="shuffled")(**batch)
    assert torch.equal(output.self_model_targets, own.roll(1, dims=0))
    expected = mean_square(output.self_model_predictions - own.roll(1, dims=0)).mean()
    assert torch.allclose(output.self_modeling_loss, expected, rtol=1e-12)


def test_the_only_sample_of_a_batch_keeps_its_own_targets(batch):
    one = {name: value[:1] for name, value in batch.items()}
    output = network(target_source="shuffled")(**one)
    assert torch.equal(output.self_model_targets, network()(**one).self_model_targets)


@pytest.mark.parametrize("source", ["random", "network:runs/other"])
def test_targets_from_outside_are_given(batch, source):
    given = torch.randn(5, 6, dtype=torch.float64)
    output = network(target_source=source)(**batch, self_model_targets=given)
    assert torch.equal(output.self_model_targets, given)
    expected = mean_square(output.self_model_predictions - given).mean()
    assert torch.allclose(output.self_modeling_loss, expected, rtol=1e-12)


def test_missing_and_needless_targets_are_errors(batch):
    given = torch.zeros(5, 6, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"target_source='random'.*self_model_targets"):
        network(target_source="random")(**batch)
    with pytest.raises(ValueError, match=r"self_model_targets: of shape \(5, 6\) with target_source='own'"):
        network()(**batch, self_model_targets=given)
    with pytest.raises(ValueError, match=r"of shape \(5, 4\).*allowed are \(5, 6\)"):
        network(target_source="random")(**batch, self_model_targets=given[:, :4])
    assert network(target_source="random")(batch["pixel_values"]).self_model_targets is None


@pytest.mark.parametrize("value", ["other", "network:", "Own", ""])
def test_unknown_sources_are_rejected(value):
    with pytest.raises(ValueError, match=r"target_source=.*own, shuffled, random, network:<folder or Hub id>"):
        network(target_source=value)


def test_normalized_targets_do_not_depend_on_the_size_of_activations(batch):
    model = network(target_normalization="rms", detach_targets=False)
    targets = model(**batch).self_model_targets
    live = targets.abs().sum(dim=1) > 0
    assert torch.allclose(mean_square(targets)[live], torch.ones(live.sum(), dtype=torch.float64), rtol=1e-9)
    with torch.no_grad():
        model.hidden.linear1.weight.mul_(7)
        model.hidden.linear1.bias.mul_(7)
    assert torch.allclose(model(**batch).self_model_targets, targets, rtol=1e-9)


def test_normalized_targets_of_a_dead_sample_are_zero(batch):
    model = network(target_normalization="rms", detach_targets=False)
    with torch.no_grad():
        model.hidden.linear1.bias.fill_(-1e4)
    output = model(**batch)
    output.loss.backward()
    assert (output.self_model_targets == 0).all()
    assert torch.isfinite(model.hidden.linear1.weight.grad).all()


def test_the_penalty_is_the_mean_square_of_the_activations(batch):
    plain = network(aux_weight=0.0)(**batch)
    output = network(aux_weight=0.0, activation_penalty=0.5)(**batch)
    size = mean_square(plain.self_model_targets).mean()
    assert torch.allclose(output.activation_loss, size, rtol=1e-12)
    assert torch.allclose(output.loss, plain.loss + 0.5 * size, rtol=1e-12)
    assert plain.activation_loss is None


def test_the_gradient_of_the_penalty_flows_into_the_activations(batch):
    grads = []
    for weight in (0.0, 0.5):
        model = network(aux_weight=0.0, activation_penalty=weight)
        model(**batch).loss.backward()
        grads.append(model.hidden.linear1.weight.grad)
    model = network(aux_weight=0.0, detach_targets=False)
    mean_square(model(**batch).self_model_targets).mean().backward()
    assert torch.allclose(grads[1] - grads[0], 0.5 * model.hidden.linear1.weight.grad, rtol=1e-9, atol=1e-12)


def test_ignored_samples_enter_no_term(batch):
    model = network(activation_penalty=0.5, target_source="random")
    given = torch.randn(5, 6, dtype=torch.float64)
    whole = model(**batch, self_model_targets=given)
    more = {
        "pixel_values": torch.cat([batch["pixel_values"], torch.ones(2, 1, 4, 4, dtype=torch.float64)]),
        "labels": torch.cat([batch["labels"], torch.tensor([-100, -100])]),
        "self_model_targets": torch.cat([given, torch.ones(2, 6, dtype=torch.float64)]),
    }
    padded = model(**more)
    for name in ("loss", "self_modeling_loss", "activation_loss"):
        assert torch.allclose(padded[name], whole[name], rtol=1e-12), name


def test_a_penalty_needs_a_layer():
    with pytest.raises(ValueError, match=r"activation_penalty=0.5 without target_layers"):
        network(target_layers=[], aux_weight=0.0, activation_penalty=0.5)


def test_pruning_leaves_no_control_behind(batch):
    model = network(target_source="random", activation_penalty=0.5)
    pruned = model.prune()
    assert pruned.config.target_source == "own"
    assert pruned.config.activation_penalty == 0
    assert torch.equal(pruned(**batch).logits, model(batch["pixel_values"]).logits)


def test_controls_come_back_from_a_folder(batch, tmp_path):
    network(target_source="network:me/other", target_normalization="rms", activation_penalty=0.5).save_pretrained(
        tmp_path
    )
    loaded = SelfModelingForImageClassification.from_pretrained(tmp_path)
    found = loaded.config
    assert (found.target_source, found.target_normalization, found.activation_penalty) == (
        "network:me/other",
        "rms",
        0.5,
    )


def test_texts_have_controls_too():
    torch.manual_seed(0)
    config = SelfModelingConfig(
        backbone="embedding_bag",
        backbone_kwargs={"num_embeddings": 9, "embedding_dim": 4},
        hidden_sizes=[6],
        target_layers=["hidden.relu1"],
        aux_weight=1.0,
        target_source="random",
    )
    model = SelfModelingForSequenceClassification(config)
    given = torch.randn(2, 6)
    tokens = {"input_ids": torch.tensor([[1, 2, 3], [4, 5, 0]]), "attention_mask": torch.tensor([[1, 1, 1], [1, 1, 0]])}
    output = model(**tokens, labels=torch.tensor([0, 1]), self_model_targets=given)
    assert torch.equal(output.self_model_targets, given)
