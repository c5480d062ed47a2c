"""Task models of rarer kinds, types of weights, and models in memory with labels of the user's."""

import pytest
import torch
from transformers import (
    AutoModelForImageClassification,
    DeiTConfig,
    DeiTForImageClassificationWithTeacher,
    FunnelConfig,
    GPT2Config,
    OPTConfig,
    XLNetConfig,
)

from selfmod_hf import (
    SelfModelingConfig,
    SelfModelingForCausalLM,
    SelfModelingForImageClassification,
    SelfModelingForSequenceClassification,
)
from tests.models.task_models import GPT2, IMAGE, batch, network, plain


def test_a_model_whose_head_reads_the_only_part_of_its_base():
    sizes = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2, "ffn_dim": 20, "vocab_size": 30}
    opt = OPTConfig(**sizes, max_position_embeddings=40, word_embed_proj_dim=12)
    fields = {"target_layers": ["decoder.layers.*"], "aux_weight": 1.0}
    model = SelfModelingForCausalLM(SelfModelingConfig(wrapped_config=opt, **fields)).eval()
    assert model.feature_layer == "model.decoder"
    output = model(**batch("causal-lm"), output_hidden_states=True)
    assert output.self_modeling_loss > 0


def test_layers_of_fewer_tokens_than_the_text_are_rejected():
    funnel = FunnelConfig(vocab_size=30, block_sizes=[1, 1], d_model=8, n_head=2, d_head=4, d_inner=8, num_labels=2)
    config = SelfModelingConfig(wrapped_config=funnel, target_layers=["encoder.blocks.0.0"], aux_weight=1.0)
    with pytest.raises(ValueError, match=r"feature_layer='funnel': gives .* for texts of 3 tokens; allowed are layers"):
        SelfModelingForSequenceClassification(config)


def test_a_language_model_that_does_not_predict_the_next_token_is_rejected():
    config = SelfModelingConfig(wrapped_config=XLNetConfig(vocab_size=30, d_model=8, n_layer=1, n_head=2, d_inner=8))
    with pytest.raises(ValueError, match="model_type='xlnet' compares its outputs with the labels of the same places"):
        SelfModelingForCausalLM(config)


def test_a_type_with_several_classes_of_task_models(tmp_path):
    deit = DeiTConfig(**IMAGE, num_labels=3)
    config = SelfModelingConfig(wrapped_config=deit, target_layers=["layers.*"], aux_weight=1.0)
    model = SelfModelingForImageClassification(config)
    model.prune().save_pretrained(tmp_path / "plain")
    assert type(AutoModelForImageClassification.from_pretrained(tmp_path / "plain")).__name__ == (
        "DeiTForImageClassification"
    )
    DeiTForImageClassificationWithTeacher(deit).save_pretrained(tmp_path / "teacher")
    with pytest.warns(UserWarning, match="has no weights for classifier"):
        model = SelfModelingForImageClassification.from_backbone_pretrained(tmp_path / "teacher", head="own")
    assert type(model.task_model).__name__ == "DeiTForImageClassification"


@pytest.mark.parametrize(("kind", "name"), [("causal-lm", "gpt2"), ("image-classification", "vit")])
def test_a_model_in_half_precision_is_wrapped(kind, name):
    task_model = plain(kind, name).to(torch.bfloat16)
    wrap = {"causal-lm": SelfModelingForCausalLM, "image-classification": SelfModelingForImageClassification}[kind]
    layer = "h.0" if name == "gpt2" else "layers.0"
    model = wrap.wrap(task_model, target_layers=[layer], aux_weight=1.0)
    assert model.self_model_head.weight.dtype == torch.bfloat16
    inputs = batch(kind)
    if "pixel_values" in inputs:
        inputs["pixel_values"] = inputs["pixel_values"].bfloat16()
    model(**inputs).loss.backward()
    assert model.self_model_head.weight.grad.isfinite().all()


def test_a_class_that_takes_no_arguments_for_its_loss_gets_none():
    """timm's models hand every further argument to the network."""
    task_model = plain("image-classification", "convnext")
    assert task_model.accepts_loss_kwargs is False
    given = []
    task_model.register_forward_pre_hook(lambda _, args, kwargs: given.append(set(kwargs)), with_kwargs=True)
    model = SelfModelingForImageClassification.wrap(task_model, target_layers=[], aux_weight=0.0)
    model(**batch("image-classification"), num_items_in_batch=torch.tensor(3))
    assert "num_items_in_batch" not in given[-1]


def test_labels_of_the_user_for_a_model_in_memory():
    names = {0: "a", 1: "b", 2: "c"}
    fields = {"id2label": names, "problem_type": "multi_label_classification"}
    model = SelfModelingForSequenceClassification.wrap(plain("text-classification", "bert"), **fields)
    for config in (model.config, model.prune().config):
        assert (config.id2label, config.label2id) == (names, {"a": 0, "b": 1, "c": 2})
        assert config.problem_type == "multi_label_classification"
    with pytest.raises(ValueError, match="num_labels=5: allowed is 3, because the task model's head has so many"):
        SelfModelingForSequenceClassification.wrap(plain("text-classification", "bert"), num_labels=5)


def test_the_padding_token_of_a_classifier_of_texts_is_in_its_vocabulary():
    fields = {**GPT2, "pad_token_id": None, "eos_token_id": 50256, "num_labels": 2}
    with pytest.raises(ValueError, match=r"pad_token_id=50256: allowed are 0 to 29, .*eos_token_id is its default"):
        SelfModelingForSequenceClassification(SelfModelingConfig(wrapped_config=GPT2Config(**fields)))
    model = network("text-classification", "gpt2", inner={"pad_token_id": None})
    assert (model.config.pad_token_id, model.config.wrapped_config.pad_token_id) == (2, 2)


def test_a_pretrained_head_keeps_the_order_of_its_labels(tmp_path):
    names = {"id2label": {0: "yes", 1: "no"}, "label2id": {"yes": 0, "no": 1}}
    plain("text-classification", "bert", num_labels=2, **names).save_pretrained(tmp_path)
    load = SelfModelingForSequenceClassification.from_backbone_pretrained
    with pytest.raises(ValueError, match=r"id2label=.*: the head of .* has these labels in the order .*'yes'"):
        load(str(tmp_path), head="own", id2label={0: "No", 1: "Yes"})
    model = load(str(tmp_path), head="own", id2label={0: "good", 1: "bad"})
    assert model.prune().config.label2id == model.config.label2id == {"good": 0, "bad": 1}
