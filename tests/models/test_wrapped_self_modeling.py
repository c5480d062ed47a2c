"""Networks over task models of transformers: the task model's own loss, and a self-model that counts as it counts."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BertConfig

from selfmod_hf import (
    SelfModelingConfig,
    SelfModelingForCausalLM,
    SelfModelingForImageClassification,
    SelfModelingForMaskedLM,
    SelfModelingForSequenceClassification,
    SelfModelingForTokenClassification,
)
from selfmod_hf.models import check_config
from tests.models.task_models import (
    ARCHITECTURES,
    EACH,
    PAIRS,
    batch,
    enable_recomputing,
    gradients,
    network,
    padded,
    part,
    plain,
)

CLOSE = {"rtol": 1e-4, "atol": 1e-6}
TERMS = ("loss", "classification_loss", "self_modeling_loss")
# target layers inside of those that are computed again
INSIDE = {"gpt2": ["h.0.mlp"], "modernbert": ["layers.*"], "vit": ["layers.*.mlp"]}


def pairs(*, texts: bool = False):
    return pytest.mark.parametrize(("kind", "name"), [pair for pair in PAIRS if not texts or "image" not in pair[0]])


@pairs()
def test_the_task_loss_is_the_plain_models_to_the_bit(kind, name):
    expected = plain(kind, name).eval()(**batch(kind)).loss
    model = network(kind, name, aux_weight=0.0)
    inputs = batch(kind)
    output = model(**inputs)
    assert torch.equal(output.loss, expected)
    assert output.self_modeling_loss > 0
    counted = model(**inputs, num_items_in_batch=model.count_items(inputs))
    torch.testing.assert_close(counted.loss, expected, rtol=1e-6, atol=0)


@pairs()
def test_accumulated_gradients_are_those_of_the_complete_batch(kind, name):
    model = network(kind, name)
    inputs = batch(kind)
    model(**inputs).loss.backward()
    expected = gradients(model)
    model.zero_grad()
    items = model.count_items(inputs)
    for rows in (slice(0, 1), slice(1, 3)):
        model(**part(inputs, rows), num_items_in_batch=items).loss.backward()
    found = gradients(model)
    assert found.keys() == expected.keys()
    for parameter in expected:
        torch.testing.assert_close(found[parameter], expected[parameter], rtol=1e-3, atol=2e-6)


@pairs(texts=True)
def test_padding_changes_nothing(kind, name):
    """Exception: the answers' softmax of transformers is over padding too."""
    pooling = ("tokens", "mean", "first")[len(kind + name) % 3]
    model = network(kind, name, target_pooling=pooling)
    inputs = batch(kind)
    with torch.no_grad():
        expected, found = model(**inputs), model(**padded(inputs, 4))
    terms = ["self_modeling_loss"] if kind == "question-answering" else TERMS
    for term in terms:
        torch.testing.assert_close(found[term], expected[term], **CLOSE)


@pairs()
def test_a_sample_without_labels_changes_nothing_and_a_batch_of_them_is_zero(kind, name):
    model = network(kind, name)
    empty = model.kind.empty_label
    inputs = batch(kind, rows=4)
    for label in model.kind.label_names:
        inputs[label][3] = empty
    with torch.no_grad():
        expected, found = model(**part(inputs, slice(0, 3))), model(**inputs)
    assert model.count_items(inputs) == model.count_items(part(inputs, slice(0, 3)))
    for term in TERMS:
        torch.testing.assert_close(found[term], expected[term], **CLOSE)
    nothing = part(inputs, slice(3, 4))
    output = model(**nothing, num_items_in_batch=torch.tensor(5))
    output.loss.backward()
    assert [float(output[term].detach()) for term in TERMS] == [0.0, 0.0, 0.0]
    assert all(bool((gradient == 0).all()) for gradient in gradients(model).values())


@pairs()
def test_inputs_and_the_last_layer_are_the_task_models(kind, name):
    model = network(kind, name)
    assert set(batch(kind)) <= set(model.input_names())
    layer_name, layer = model.last_layer
    assert model.get_submodule(layer_name) is layer
    logits = model(**batch(kind))
    width = logits.start_logits if kind == "question-answering" else logits.logits
    outputs = {"question-answering": 2, "multiple-choice": 1}.get(kind, width.shape[-1])
    assert len(layer.weight) == outputs


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_on_either_side_is_no_target(side):
    """The first token of a pooled target is the first real one, and the mean is over real ones."""
    for pooling in ("mean", "first", "tokens"):
        model = network("causal-lm", "gpt2", target_pooling=pooling, target_layers=["wte"])
        alone = torch.tensor([[5, 6, 7]])
        expected = model(input_ids=alone, labels=alone)
        sides = (0, 2) if side == "right" else (2, 0)
        ids = torch.nn.functional.pad(alone, sides)
        mask = torch.nn.functional.pad(torch.ones_like(alone), sides)
        labels = ids.masked_fill(mask.cumsum(dim=1) < 2, -100).masked_fill(mask == 0, -100)
        positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
        found = model(input_ids=ids, attention_mask=mask, labels=labels, position_ids=positions)
        for term in TERMS:
            torch.testing.assert_close(found[term], expected[term], **CLOSE)


def test_a_place_of_padding_that_predicts_the_first_token_is_no_target():
    """transformers counts its label, so that it is in the divisor of both terms."""
    model = network("causal-lm", "gpt2", target_pooling="tokens")
    ids = torch.tensor([[0, 0, 5, 6, 7]])
    mask = (ids != 0).long()
    with torch.no_grad():
        output = model(input_ids=ids, attention_mask=mask, labels=ids.masked_fill(mask == 0, -100))
    errors = (output.self_model_predictions - output.self_model_targets).square().mean(dim=-1)
    torch.testing.assert_close(output.self_modeling_loss, errors[0, 2:4].sum() / 3)


@settings(max_examples=12, deadline=None)
@given(
    labels=st.lists(st.lists(st.sampled_from([-100, 0, 1, 2]), min_size=5, max_size=5), min_size=1, max_size=4),
    pooling=st.sampled_from(["tokens", "mean"]),
)
def test_only_counted_labels_weigh(labels, pooling):
    """The self-modeling loss is the mean over counted tokens of each token's, or each row's, square error."""
    model = network("token-classification", "roberta", target_pooling=pooling)
    given_labels = torch.tensor(labels)
    ids = torch.arange(3, 3 + given_labels.numel()).view(given_labels.shape)
    with torch.no_grad():
        output = model(input_ids=ids, labels=given_labels)
    errors = (output.self_model_predictions - output.self_model_targets).square().mean(dim=-1)
    if pooling == "mean":
        errors = errors[:, None].expand(given_labels.shape)
    counted = errors[given_labels != -100]
    expected = counted.mean() if counted.numel() else torch.tensor(0.0)
    torch.testing.assert_close(output.self_modeling_loss, expected)


def test_one_score_is_a_regression():
    model = network("text-classification", "bert", inner={"num_labels": 1}, aux_weight=0.0)
    assert model.config.problem_type == "regression"
    labels = torch.tensor([0.5, 1.0, -2.0])
    output = model(**batch("text-classification") | {"labels": labels})
    torch.testing.assert_close(output.loss, (output.logits[:, 0] - labels).square().mean())


def test_token_wise_targets_are_the_layers_own_output():
    model = network("masked-lm", "bert", target_pooling="tokens", target_layers=["encoder.layer.0", "bert.embeddings"])
    seen = {}
    for layer in ("encoder.layer.0", "embeddings"):
        module = model.task_model.bert.get_submodule(layer)
        module.register_forward_hook(lambda _, args, out, layer=layer: seen.update({layer: out}))
    inputs = batch("masked-lm")
    output = model(**inputs, output_hidden_states=True)
    expected = torch.cat([seen["encoder.layer.0"], seen["embeddings"]], dim=-1)
    assert torch.equal(output.self_model_targets, expected)
    predictions = model.self_model_head(output.hidden_states[-1])
    assert torch.equal(output.self_model_predictions, predictions)


def test_patterns_may_name_the_base_the_head_or_the_complete_path():
    names = ["task_model.bert.encoder.layer.0", "backbone.encoder.layer.1", "cls.predictions.transform"]
    model = network("masked-lm", "bert", target_layers=names)
    assert model.target_layers == ["bert.encoder.layer.0", "bert.encoder.layer.1", "cls.predictions.transform"]


def test_the_feature_layer_can_be_chosen():
    model = network("masked-lm", "bert", feature_layer="encoder.layer.0", target_pooling="tokens")
    output = model(**batch("masked-lm"), output_hidden_states=True)
    torch.testing.assert_close(output.self_model_predictions, model.self_model_head(output.hidden_states[1]))


def test_gradients_reach_the_task_model_through_both_terms():
    model = network("causal-lm", "gpt2", classification_weight=0.0, target_layers=["h.0"])
    model(**batch("causal-lm")).loss.backward()
    assert model.task_model.transformer.h[1].mlp.c_fc.weight.grad.abs().sum() > 0
    assert model.task_model.transformer.wte.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("pooling", ["tokens", "mean"])
def test_targets_of_unit_size_do_not_depend_on_their_scale(pooling):
    model = network("causal-lm", "gpt2", target_normalization="rms", target_pooling=pooling)
    targets = model(**batch("causal-lm")).self_model_targets
    torch.testing.assert_close(targets.square().mean(dim=-1), torch.ones(targets.shape[:-1]), rtol=0.01, atol=0)


@pytest.mark.parametrize("detach", [True, False])
@pytest.mark.parametrize(("kind", "name"), EACH)
def test_gradient_checkpointing_gives_the_same_gradients_or_is_rejected(kind, name, detach):
    """With dropout, and with target layers inside of recomputed ones.

    The reentrant form may sum gradients in another order. It does so for a plain Swin as well.
    """
    layers = [ARCHITECTURES[name][1], *INSIDE.get(name, [])]
    model = network(kind, name, target_layers=layers, detach_targets=detach).train()
    inputs = batch(kind)
    expected = loss_and_gradients(model, inputs)
    if not enable_recomputing(model, use_reentrant=False):
        return
    torch.testing.assert_close(loss_and_gradients(model, inputs), expected, rtol=0, atol=0)
    reentrant = {"use_reentrant": True}
    if detach:
        model.gradient_checkpointing_enable(reentrant)
        torch.testing.assert_close(loss_and_gradients(model, inputs), expected, rtol=1e-5, atol=1e-6)
        return
    message = r"gradient_checkpointing_kwargs=.*loses gradients without `detach_targets`"
    with pytest.raises(ValueError, match=message):
        model.gradient_checkpointing_enable(reentrant)


def loss_and_gradients(model, inputs):
    model.zero_grad()
    torch.manual_seed(3)
    loss = model(**inputs).loss
    loss.backward()
    return {"loss": loss.detach(), **gradients(model)}


def test_the_public_classes_make_networks_over_task_models():
    texts = SelfModelingConfig(wrapped_config=BertConfig(num_labels=4, **ARCHITECTURES["bert"][0]))
    model = SelfModelingForSequenceClassification(texts)
    assert isinstance(model, SelfModelingForSequenceClassification)
    assert type(model.task_model).__name__ == "BertForSequenceClassification"
    assert model.config.num_labels == 4
    assert model.config.task_type == "text-classification"
    assert type(copy.deepcopy(model)) is type(model)


WRONG = {
    "hidden_sizes": ({"hidden_sizes": [4]}, "hidden_sizes=.4.: allowed with a wrapped_config is"),
    "task_type": ({"task_type": "speech"}, "task_type='speech': allowed are text-classification, .*masked-lm"),
    "other": ({"task_type": "causal-lm"}, "SelfModelingForMaskedLM is for 'masked-lm'"),
    "layer": ({"target_layers": ["h.*"]}, "no module is named 'h.\\*'; allowed are bert, bert.embeddings"),
    "features": (
        {"feature_layer": "nowhere", "target_layers": ["encoder.layer.0"]},
        "feature_layer: no module is named 'nowhere'",
    ),
    "several features": ({"feature_layer": "encoder.layer.*", "target_layers": ["pooler"]}, "is .*; allowed is one"),
    "pooling": ({"target_pooling": "flatten"}, "target_pooling='flatten': texts differ in length"),
    "weight": ({"aux_weight": 1.0}, "aux_weight=1.0 without target_layers"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_fields_are_rejected_in_one_line(case):
    fields, message = WRONG[case]
    with pytest.raises(ValueError, match=message) as error:
        SelfModelingForMaskedLM(SelfModelingConfig(wrapped_config=BertConfig(**ARCHITECTURES["bert"][0]), **fields))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("given_config", "message"),
    [
        ({"model_type": "of-a-stranger"}, "wrapped_config: model_type='of-a-stranger'; allowed are the model types"),
        ({"model_type": "self_modeling"}, "wrapped_config: model_type='self_modeling'"),
        ({}, "wrapped_config: model_type=None"),
        ({"model_type": "t5"}, "wrapped_config: model_type='t5' is an encoder with a decoder"),
        ({"model_type": "bert", "hidden_size": "wide"}, "wrapped_config: .*hidden_size"),
        ({"model_type": "bert", "num_hidden_layers": 10**9}, "num_hidden_layers=1000000000 is too large"),
    ],
)
def test_wrong_task_models_are_rejected_in_one_line(given_config, message):
    with pytest.raises(ValueError, match=message) as error:
        SelfModelingConfig(wrapped_config=given_config)
    assert "\n" not in str(error.value)


def test_a_model_without_such_a_head_is_rejected():
    with pytest.raises(ValueError, match="model_type='vit' has no model for masked-lm"):
        network("masked-lm", "vit", target_layers=[], aux_weight=0.0)
    config = SelfModelingConfig(wrapped_config=BertConfig(**ARCHITECTURES["bert"][0]))
    with pytest.raises(ValueError, match="task_type=None: needed with a wrapped_config"):
        check_config(config)
    with pytest.raises(ValueError, match="model_type='bert' has no model for image-classification"):
        SelfModelingForImageClassification(config)


def test_fields_of_task_models_need_one():
    for fields in (
        {"task_type": "causal-lm"},
        {"feature_layer": "h.0"},
        {"target_pooling": "tokens"},
        {"adapter": True},
    ):
        with pytest.raises(ValueError, match="allowed with a wrapped_config"):
            SelfModelingConfig(**fields)


def test_masks_with_more_than_one_number_a_token_are_rejected():
    model = network("causal-lm", "gpt2")
    inputs = batch("causal-lm") | {"attention_mask": torch.ones(3, 1, 7, 7)}
    with pytest.raises(ValueError, match=r"attention_mask: of shape \(3, 1, 7, 7\)"):
        model(**inputs)


def test_token_wise_targets_of_another_number_of_tokens_are_rejected():
    with pytest.raises(ValueError, match=r"target_pooling='tokens' allowed are layers that give \(samples, tokens, n"):
        network("text-classification", "bert", target_layers=["pooler"], target_pooling="tokens")


@pytest.mark.parametrize("model_class", [SelfModelingForCausalLM, SelfModelingForTokenClassification])
def test_a_module_is_wrapped_as_it_is(model_class):
    kind = model_class.kind.name
    inner = plain(kind, "gpt2")
    model = model_class.wrap(inner, target_layers=["h.0"], aux_weight=1.0)
    assert model.task_model is inner
    assert model.training == inner.training
    assert model.config.wrapped_config is inner.config
    with pytest.raises(ValueError, match="a GPT2Model is no model for"):
        model_class.wrap(inner.base_model)


def test_float_labels_of_a_model_of_classes_name_the_problem_type():
    """Plain transformers takes the first labels for the problem type. A network's type is set when it is made."""
    model = network("text-classification", "bert")
    inputs = {**batch("text-classification"), "labels": torch.ones(3, 3)}
    with pytest.raises(ValueError, match=r"labels: torch\.float32 with problem_type='single_label_classification'"):
        model(**inputs)
    several = network("text-classification", "bert", inner={"problem_type": "multi_label_classification"})
    assert torch.isfinite(several(**inputs).loss)
