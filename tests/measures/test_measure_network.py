"""The further measures, against closed forms and against what they must not depend on."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig
from transformers import BertConfig, BertForSequenceClassification

from selfmod_hf import (
    Member,
    SelfModelingConfig,
    SelfModelingForImageClassification,
    SelfModelingForSequenceClassification,
    SelfModelingPopulation,
    TaskSpec,
    load_images,
)
from selfmod_hf.data import ImageTensors, TaskData, TextTensors
from selfmod_hf.errors import InputError
from selfmod_hf.measures import (
    MEASURES,
    calibration_error,
    dead_units,
    effective_rank,
    mean_square,
    measure_network,
    measure_networks,
    modelability,
    prunable_share,
    unit_free_width,
    unit_scores,
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


def test_an_unpredictable_unit_counts_by_its_variance(digits):
    """One of two units is linear in the input, and the other one is a fold of it."""
    model = mlp(size=2)

    def measured(size):
        with torch.no_grad():
            model.hidden.linear1.bias[:] = torch.tensor([100.0, 0.0])
            model.hidden.linear1.weight[1] = size * model.hidden.linear1.weight[1].sign()
        found = measure_network(model, digits, ["modelability", "modelability_of_variance"])
        return found["modelability"], found["modelability_of_variance"]

    small_mean, small_variance = measured(0.01)
    large_mean, large_variance = measured(10.0)
    assert small_mean == pytest.approx(large_mean, rel=1e-3)
    assert small_mean < 0.99
    assert small_variance > 0.999
    assert large_variance == pytest.approx(2 * large_mean - 1, abs=1e-3)  # the R² of the large unit alone


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
    with pytest.raises(InputError, match=r"measures.*'rank'.*effective_rank.*modelability_from_other"):
        measure_network(mlp(), digits, ["rank"])
    assert set(measure_network(mlp(), digits)) == set(MEASURES)


# ---- several networks ----


def diverged(value=math.nan):
    model = mlp(seed=7)
    with torch.no_grad():
        model.hidden.linear1.weight[0] = value
    return model


def test_several_networks_are_measured_as_each_alone(digits):
    models = [mlp(0), diverged(), mlp(1, size=5)]
    others = [mlp(2), mlp(2), None]
    names = [*MEASURES, "modelability_from_other"]
    together = measure_networks(models, digits, names, others=others)
    for model, other, found in zip(models, others, together, strict=True):
        alone = measure_network(model, digits, names, other=other)
        assert set(found) == set(names)
        for name, value in alone.items():
            assert found[name] == (value if value is None else pytest.approx(value, rel=1e-9)), name
    assert together[2]["modelability_from_other"] is None
    assert None not in together[0].values()


@pytest.mark.parametrize("value", [math.nan, math.inf, 3e38])
def test_a_diverged_network_has_no_measures(digits, value):
    """The weights of the last one are finite, and its activations are not."""
    found = measure_network(diverged(value), digits, [*MEASURES, lambda *_: {"own": 1}], other=mlp())
    assert found == dict.fromkeys([*MEASURES, "modelability_from_other"])


def test_a_diverged_other_network_predicts_nothing(digits):
    assert measure_network(mlp(), digits, [], other=diverged()) == {"modelability_from_other": None}


def test_as_many_others_as_networks(digits):
    with pytest.raises(InputError, match=r"^others=1: allowed is one for each of 2 networks"):
        measure_networks([mlp(), mlp()], digits, others=[mlp()])


def texts(padded):
    class Tokenizer:
        pad_token_id = 0

        def __len__(self):
            return 20

    lengths = torch.arange(40) % 7 + 2
    offsets = torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)])
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(1, 20, (int(offsets[-1]),), dtype=torch.int32, generator=generator)
    data = TextTensors(tokens, offsets, torch.arange(40) % 2, tokenizer=Tokenizer(), padded=padded)
    return TaskData(data, data, ["a", "b"])


def encoder():
    bert = BertConfig(
        vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8,
        max_position_embeddings=16,
    )  # fmt: skip
    config = SelfModelingConfig(backbone_config=bert, num_labels=2, target_layers=["encoder.layer.0"], hidden_sizes=[])
    return SelfModelingForSequenceClassification(config), texts(padded=True)


def timm_network():
    pixels = torch.randint(0, 256, (60, 1, 32, 32), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    images = ImageTensors(pixels, torch.arange(60) % 10)
    config = SelfModelingConfig(backbone="timm/test_resnet", image_size=32, target_layers=["layer4"])
    return SelfModelingForImageClassification(config), TaskData(images, images.first(40), list("0123456789"))


def without_hidden_layers():
    data = load_images(TaskSpec(name="digits", dataset_name=None), max_train_samples=100, max_test_samples=40)
    return SelfModelingForImageClassification(SelfModelingConfig(hidden_sizes=[], image_size=8)), data


def member():
    data = load_images(TaskSpec(name="digits", dataset_name=None), max_train_samples=100, max_test_samples=40)
    config = SelfModelingConfig(hidden_sizes=[6, 5], image_size=8, target_layers=["hidden.relu1"])
    return SelfModelingPopulation(config, [Member(0, 1.0), Member(1, 1.0, target_source="random")]).member(1), data


@pytest.mark.parametrize("make", [encoder, timm_network, without_hidden_layers, member])
def test_any_network_is_measured(make):
    torch.manual_seed(0)
    model, data = make()
    found = measure_network(model, data, other=model)
    undefined = {name for name, value in found.items() if value is None}
    assert undefined == ({"accuracy_under_noise"} if make is encoder else set())
    assert 0.95 < found["modelability_from_other"] <= 1.0


@pytest.mark.parametrize("bias", ["none", "all"])
def test_the_last_layer_s_adapter_is_measured(tmp_path, bias):
    torch.manual_seed(0)
    bert = BertConfig.from_dict(encoder()[0].config.backbone_config)
    BertForSequenceClassification(bert).save_pretrained(tmp_path)
    lora = LoraConfig(r=2, target_modules=["classifier"], init_lora_weights=False, bias=bias)
    adapted = SelfModelingForSequenceClassification.from_backbone_pretrained(str(tmp_path), head="own", adapter=lora)
    if bias == "all":
        with torch.no_grad():
            adapted.last_layer[1].base_layer.bias += torch.tensor([3.0, -3.0])
    merged = type(adapted).wrap(adapted.prune(adapter="merge"))
    names = ["unit_free_width", "prunable_share", "calibration_error"]
    found = measure_network(adapted.train(), texts(padded=True), names)
    assert found == pytest.approx(measure_network(merged, texts(padded=True), names), rel=1e-4)
    assert adapted.training


def test_samples_without_a_label_are_left_out_of_what_needs_labels(digits):
    names = ["prunable_share", "calibration_error", "accuracy_under_noise", "dead_units"]
    model = mlp()
    some = TaskData(digits.train, digits.test.first(150), digits.label_names)
    expected = measure_network(model, some, names[:2])
    unlabelled = load_images(TaskSpec(name="digits", dataset_name=None), max_train_samples=300, max_test_samples=200)
    unlabelled.test.labels[150:] = -100
    found = measure_network(model, unlabelled, names)
    assert {name: found[name] for name in names[:2]} == pytest.approx(expected, rel=1e-6)
    unlabelled.test.labels[:] = -100
    nothing = measure_network(model, unlabelled, names)
    assert nothing == {**dict.fromkeys(names), "dead_units": found["dead_units"]}


# ---- measures of the user's own ----


def test_functions_add_their_columns(digits):
    def modes(model, data):
        assert not model.training
        return {"samples": np.float32(len(data.test)), "nothing": None, "undefined": math.inf}

    model = mlp().train()
    found = measure_network(
        model, digits, ["dead_units", modes, lambda model, _: {"units": model.config.hidden_sizes[0]}]
    )
    assert model.training
    assert found == {**found, "samples": 200.0, "nothing": None, "undefined": None, "units": 12.0}
    assert list(found) == ["dead_units", "samples", "nothing", "undefined", "units"]


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (3.0, "returns float; allowed is a dict"),
        ({"accuracy": 1.0}, "'accuracy', which exists"),
        ({"dead_units": 1.0}, "'dead_units', which exists"),
        ({"own share": 1.0}, "'own share'; allowed are letters"),
        ({"own": "high"}, "returns str for 'own'; allowed are numbers"),
        ({"own": torch.ones(2)}, "returns Tensor for 'own'"),
    ],
)
def test_results_that_are_no_columns_are_rejected(digits, result, message):
    def own(model, data):
        return result

    with pytest.raises(InputError, match=f"^measures='own': .*{message}"):
        measure_network(mlp(), digits, [own])


def test_two_functions_of_one_column_are_rejected(digits):
    with pytest.raises(InputError, match="'one', which exists"):
        measure_network(mlp(), digits, [lambda *_: {"one": 1}, lambda *_: {"one": 2}])
    with pytest.raises(InputError, match="'weight_decay', which exists"):
        measure_networks([mlp()], digits, [lambda *_: {"weight_decay": 1}], columns=["weight_decay"])


def test_an_error_of_a_function_is_its_own(digits):
    def broken(model, data):
        return {"share": 1 / 0}

    model = mlp().train()
    with pytest.raises(ZeroDivisionError) as error:
        measure_network(model, digits, [broken])
    assert error.traceback[-1].name == "broken"
    assert model.training


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


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_modelability_does_not_depend_on_company(seed):
    generator = np.random.default_rng(seed)
    inputs, held_out = generator.normal(size=(30, 4)), generator.normal(size=(20, 4))
    networks = []
    for units in (1, 3):
        weights = generator.normal(size=(4, units))
        networks.append([np.maximum(rows @ weights, 0) for rows in (inputs, held_out)])
    scores = unit_scores(inputs, [fitted for fitted, _ in networks], held_out, [read for _, read in networks])
    together = [found.of_units() for found in scores]
    alone = [modelability(inputs, fitted, held_out, read) for fitted, read in networks]
    assert together == pytest.approx(alone, rel=1e-9)


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
