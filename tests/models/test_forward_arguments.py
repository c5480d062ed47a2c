"""Arguments of a forward call that other models of transformers take too, and labels of -100."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import ConvNextConfig

from .test_encoders import LAYERS, READS_TEXT, batch, network
from .test_modeling_self_modeling import batch as images
from .test_modeling_self_modeling import mlp

FIELDS = ("loss", "logits", "classification_loss", "self_modeling_loss", "self_model_targets")


def with_targets(name: str):
    """Return a network that predicts its last layer, and one of the encoder's where there is an encoder."""
    own = [] if name == "embedding_bag" else LAYERS[name][:1]
    return network(name, target_layers=[*own, "hidden.relu1"])


def table(model) -> torch.nn.Module:
    """Return the layer that turns tokens into embeddings."""
    weights = model.get_input_embeddings() or model.backbone
    return torch.nn.Embedding.from_pretrained(weights.weight.detach())


@pytest.mark.parametrize("name", READS_TEXT)
@pytest.mark.parametrize("padding", [0, 3])
def test_embeddings_of_the_tokens_give_what_the_tokens_give(name, padding):
    model = with_targets(name)
    by_tokens = batch(name, [5, 2, 7])
    expected = model(**by_tokens)
    padded = batch(name, [5, 2, 7], padding)  # other tokens where the mask is zero
    embeddings = table(model)(padded.pop("input_ids")).requires_grad_()
    found = model(inputs_embeds=embeddings, **padded)
    for field in FIELDS:
        torch.testing.assert_close(found[field], expected[field], rtol=1e-4, atol=1e-5)
    found.loss.backward()
    real = padded["attention_mask"] == 1
    assert embeddings.grad[real].any(dim=1).all()
    assert not embeddings.grad[~real].any()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "^input_ids, inputs_embeds: exactly one"),
        ({"input_ids": torch.ones(2, 3).long(), "inputs_embeds": torch.ones(2, 3, 5)}, "^input_ids, inputs_embeds: ex"),
        ({"inputs_embeds": torch.ones(2, 3, 5), "offsets": torch.tensor([0, 1, 3])}, "^offsets: allowed with input_i"),
    ],
)
def test_one_of_tokens_and_embeddings_is_asked_for(given, message):
    with pytest.raises(ValueError, match=message):
        with_targets("embedding_bag")(**given)


def test_a_target_that_embeddings_pass_by_is_reported():
    model = network("bert", target_layers=["embeddings.word_embeddings"])
    with pytest.raises(ValueError, match=r"^target_layers: 'backbone\.embeddings\.word_embeddings' gave no activation"):
        model(inputs_embeds=torch.ones(2, 3, 12))


@pytest.mark.parametrize("name", ["bert", "distilbert", "vit"])
@pytest.mark.parametrize("by_configuration", [True, False])
def test_states_are_the_encoders_own(name, by_configuration):
    model, inputs = network(name), batch(name, [4, 6])
    asked = {"output_hidden_states": True, "output_attentions": True}
    model.backbone.set_attn_implementation("eager")
    plain = model(**inputs)
    own = model.backbone(**{key: value for key, value in inputs.items() if key != "labels"}, **asked)
    if by_configuration:
        model.config.output_hidden_states = model.config.output_attentions = True
    found = model(**inputs, **({} if by_configuration else asked))
    for states in ("hidden_states", "attentions"):
        assert len(found[states]) == len(own[states]) > 0
        for mine, theirs in zip(found[states], own[states], strict=True):
            assert torch.equal(mine, theirs)
    for field in FIELDS:
        assert torch.equal(found[field], plain[field])
    assert "hidden_states" not in plain
    in_a_tuple = model(**inputs, **asked, return_dict=False)
    assert torch.equal(in_a_tuple[0], plain.loss)
    assert torch.equal(in_a_tuple[-1][0], own.attentions[0])


@pytest.mark.parametrize("argument", ["output_hidden_states", "output_attentions"])
@pytest.mark.parametrize("name", ["mlp", "embedding_bag"])
def test_states_of_what_is_no_encoder_are_an_error(name, argument):
    with pytest.raises(ValueError, match=f"^{argument}=True: allowed with an encoder of transformers, not with backb"):
        with_targets(name)(**batch(name, [3]), **{argument: True})


def test_attentions_that_an_encoder_does_not_give_are_an_error():
    fused = network("bert")
    with pytest.raises(ValueError, match=r"^output_attentions=True: BertModel gives none with .*'sdpa'"):
        fused(**batch("bert", [3]), output_attentions=True)
    config = ConvNextConfig(num_channels=3, hidden_sizes=[4, 8], depths=[1, 1], num_stages=2, image_size=8)
    convolutional = network("vit", backbone_config=config, target_layers=["hidden.relu1"])
    with pytest.raises(ValueError, match=r"^output_attentions=True: ConvNextModel gives none"):
        convolutional(**batch("vit", [3]), output_attentions=True)


def test_an_encoder_that_is_set_to_tuples_is_read_all_the_same():
    config = network("bert").config.backbone_config
    model = network("bert", backbone_config={**config, "return_dict": False}, return_dict=False)
    expected = network("bert")(**batch("bert", [3, 4]))
    assert torch.equal(model(**batch("bert", [3, 4]))[0], expected.loss)


# ------------------------------------------------------------------------------------------- labels of -100


@settings(max_examples=30, deadline=None)
@given(labelled=st.lists(st.booleans(), min_size=1, max_size=9), detach=st.booleans())
def test_a_sample_without_a_label_changes_no_loss_and_no_gradient(labelled, detach):
    model, inputs = mlp(detach_targets=detach).double(), images(len(labelled))
    inputs["pixel_values"] = inputs["pixel_values"].double()
    kept = torch.tensor(labelled)
    marked = {**inputs, "labels": inputs["labels"].masked_fill(~kept, -100)}

    def loss_and_gradient(batch):
        model.zero_grad()
        output = model(**batch)
        output.loss.backward()
        return output, [parameter.grad for parameter in model.parameters()]

    found, gradients = loss_and_gradient(marked)
    if not kept.any():
        assert (found.loss, found.classification_loss, found.self_modeling_loss) == (0, 0, 0)
        assert not any(gradient.any() for gradient in gradients)
        return
    expected, expected_gradients = loss_and_gradient({name: value[kept] for name, value in inputs.items()})
    for field in ("loss", "classification_loss", "self_modeling_loss"):
        torch.testing.assert_close(found[field], expected[field])
    for mine, theirs in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("count", [0, torch.tensor(0), torch.tensor(0.0)])
def test_a_count_of_no_labels_gives_a_loss_of_zero(count):
    model, inputs = mlp(), images()
    output = model(pixel_values=inputs["pixel_values"], labels=torch.full((7,), -100), num_items_in_batch=count)
    output.loss.backward()
    assert output.loss == 0
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
