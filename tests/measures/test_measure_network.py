"""The further measures, against closed forms and against what they must not depend on."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from selfmod_hf import (
    SelfModelingConfig,
    SelfModelingForImageClassification,
    SelfModelingForSequenceClassification,
    TaskSpec,
    load_images,
)
from selfmod_hf.data import TaskData, TextTensors
from selfmod_hf.errors import InputError
from selfmod_hf.measures import (
    MEASURES,
    calibration_error,
    dead_units,
    effective_rank,
    mean_square,
    measure_network,
    modelability,
    prunable_share,
    unit_free_width,
)


@pytest.fixture(scope="module")
def digits():
    return load_images(TaskSpec(name="digits", dataset_name=None), max_train_samples=300, max_test_samples=200)


def mlp(seed=0, size=12):
    torch.manual_seed(seed)
    return SelfModelingForImageClassification(SelfModelingConfig(hidden_sizes=[size], image_size=8))


def rescaled(model, factors):
    """Return the same function with each hidden unit scaled, and its outgoing weights divided."""
    copy = SelfModelingForImageClassification(model.config)
    copy.load_state_dict(model.state_dict())
    with torch.no_grad():
        copy.hidden.linear1.weight.mul_(factors[:, None])
        copy.hidden.linear1.bias.mul_(factors)
        copy.classifier.weight.div_(factors)
    return copy


def test_rescaling_hidden_units_changes_only_what_has_a_unit(digits):
    model = mlp()
    factors = torch.linspace(0.25, 4, 12)
    before, after = measure_network(model, digits), measure_network(rescaled(model, factors), digits)
    for name in ("dead_units", "unit_free_width", "calibration_error", "accuracy_under_noise", "modelability"):
        assert after[name] == pytest.approx(before[name], rel=1e-3), name
    assert after["activation_mean_square"] != pytest.approx(before["activation_mean_square"], rel=0.1)


def test_dead_units_are_counted(digits):
    model = mlp()
    before = measure_network(model, digits, ["dead_units"])["dead_units"]
    with torch.no_grad():
        model.hidden.linear1.bias[:3] = -1e4
    dead = measure_network(model, digits, ["dead_units", "effective_rank"])
    assert dead["dead_units"] >= 3 / 12
    assert dead["dead_units"] >= before
    assert dead["effective_rank"] <= 9


def test_a_network_is_left_as_it_was(digits):
    model = mlp().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    assert measure_network(model, digits) == measure_network(model, digits)
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)
    assert not model.classifier._forward_pre_hooks
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_features_of_a_copy_are_predicted_perfectly(digits):
    model = mlp()
    found = measure_network(model, digits, [], other=model)
    assert found == {"modelability_from_other": pytest.approx(1.0, abs=1e-6)}
    assert measure_network(model, digits, [], other=mlp(seed=1))["modelability_from_other"] < 0.999


def test_linear_features_are_read_from_the_input(digits):
    linear = SelfModelingForImageClassification(SelfModelingConfig(hidden_sizes=[8], image_size=8))
    with torch.no_grad():
        linear.hidden.linear1.bias.fill_(100.0)  # no ReLU is ever at its kink
    found = measure_network(linear, digits, ["modelability", "dead_units"])
    assert found["modelability"] == pytest.approx(1.0, abs=1e-4)
    assert found["dead_units"] == 0


def test_texts_have_no_noise_and_are_read_by_their_tokens():
    torch.manual_seed(0)
    tokens = torch.randint(0, 20, (400,), dtype=torch.int32)
    offsets = torch.arange(0, 401, 10)
    data = TextTensors(tokens, offsets, torch.arange(40) % 2, tokenizer=range(20))
    bag = {"num_embeddings": 20, "embedding_dim": 6}
    model = SelfModelingForSequenceClassification(
        SelfModelingConfig(backbone="embedding_bag", backbone_kwargs=bag, num_labels=2)
    )
    found = measure_network(model, TaskData(data, data, ["a", "b"]))
    assert found["accuracy_under_noise"] is None
    assert found["modelability"] == pytest.approx(1.0, abs=1e-4)  # a mean of embeddings is linear in the shares


def test_an_unknown_measure_is_rejected(digits):
    with pytest.raises(InputError, match=r"measures.*'rank'.*effective_rank"):
        measure_network(mlp(), digits, ["rank"])
    assert set(measure_network(mlp(), digits)) == set(MEASURES)


# ---- closed forms ----


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 12), st.floats(0.01, 100))
def test_effective_rank_of_equal_directions_is_their_number(rank, scale):
    rows = torch.eye(rank, dtype=torch.float64) * scale
    padded = torch.zeros(2 * rank, 16, dtype=torch.float64)
    padded[:rank, :rank], padded[rank:, :rank] = rows, -rows
    assert effective_rank(padded) == pytest.approx(rank, rel=1e-6)


def test_effective_rank_by_its_definition():
    activations = torch.randn(50, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    values = np.linalg.svd(activations.numpy() - activations.numpy().mean(axis=0), compute_uv=False)
    shares = values / values.sum()
    assert effective_rank(activations) == pytest.approx(math.exp(-(shares * np.log(shares)).sum()), rel=1e-9)


def test_activations_that_are_all_the_same():
    same = torch.full((10, 4), 2.0)
    assert (mean_square(same), dead_units(same), effective_rank(same)) == (4.0, 1.0, 0.0)
    assert math.isnan(modelability(np.zeros((10, 2)), same, np.zeros((10, 2)), same))


def test_unit_free_width_of_units_of_size_one_is_the_width():
    weight = torch.randn(10, 5, generator=torch.Generator().manual_seed(0))
    features = torch.tensor([[1.0, -1.0, 1.0, -1.0, 1.0]] * 4)
    assert unit_free_width(weight, features) == pytest.approx(float(weight.double().std(correction=0)))


def test_the_smallest_weights_go_until_the_accuracy_falls():
    features = torch.tensor([[1.0, 0.0], [0.0, 1.0]] * 50)
    labels = torch.tensor([0, 1] * 50)
    weight, bias = torch.tensor([[3.0, 1.0], [1.0, 2.0]]), torch.tensor([0.5, 0.0])
    assert prunable_share(weight, bias, features, labels) == 0.5  # without the 2, class 1 is never predicted
    assert prunable_share(weight, bias, features, labels, loss=0.5) == 1.0
    assert prunable_share(torch.zeros(2, 2), bias, features, labels) == 1.0


def test_calibration_error_of_sure_answers_is_their_error_rate():
    logits = torch.tensor([[50.0, 0.0]] * 10)
    labels = torch.tensor([0] * 7 + [1] * 3)
    assert calibration_error(logits, labels) == pytest.approx(0.3, abs=1e-6)
