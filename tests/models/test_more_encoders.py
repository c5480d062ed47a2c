"""Further encoders of transformers, each by its configuration alone: what holds for BERT and ViT holds for them."""

import pytest
import torch
from transformers import AutoConfig

from selfmod_hf import SelfModelingConfig, SelfModelingForImageClassification, SelfModelingForSequenceClassification
from selfmod_hf.trainer import estimate_rlct
from tests.models.test_encoders import batch, images, in_a_loop, texts

SIZES = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 20}
TEXT = {**SIZES, "vocab_size": 30, "max_position_embeddings": 40, "pad_token_id": 0}
IMAGE = {**SIZES, "image_size": 8, "patch_size": 4}
SWIN = {"image_size": 8, "patch_size": 2, "embed_dim": 8, "depths": [1], "num_heads": [2], "window_size": 2}
STAGES = {"depths": [1, 1], "hidden_sizes": [8, 12], "num_stages": 2}
ENCODERS = {
    "roberta": ({**TEXT, "bos_token_id": 1, "eos_token_id": 2}, "encoder.layer.*.output"),
    "albert": ({**TEXT, "embedding_size": 6}, "encoder.albert_layer_groups.0.albert_layers.0"),
    "electra": ({**TEXT, "embedding_size": 6}, "encoder.layer.*"),
    "mpnet": ({**TEXT, "bos_token_id": 1, "eos_token_id": 2}, "encoder.layer.*.output"),
    "deberta-v2": (TEXT, "encoder.layer.*.intermediate"),
    "deit": (IMAGE, "layers.*"),
    "dinov2": (IMAGE, "encoder.layer.*"),
    "swin": (SWIN, "*"),
    "convnextv2": ({"image_size": 8, "patch_size": 2, **STAGES}, "encoder.stages.*"),
    "resnet": ({"embedding_size": 8, "layer_type": "basic", **STAGES}, "encoder.stages.*"),
}


def network(name: str, **fields):
    settings, layers = ENCODERS[name]
    torch.manual_seed(0)
    text = "vocab_size" in settings
    model_class = SelfModelingForSequenceClassification if text else SelfModelingForImageClassification
    config = SelfModelingConfig(
        backbone_config=AutoConfig.for_model(name, **settings), target_layers=[layers], aux_weight=1.0, num_labels=3,
        hidden_sizes=[6], **({} if text else {"image_size": 8, "num_channels": 3}),
    )  # fmt: skip
    return model_class(config).eval(), text


@pytest.mark.parametrize("name", ENCODERS)
def test_targets_padding_gradients_pruning_and_saving(tmp_path, name):
    model, text = network(name)
    kind = "bert" if text else "vit"
    output = model(**batch(kind, [5, 2, 7]))
    assert output.self_model_predictions.shape == output.self_model_targets.shape
    if text:
        padded = model(**batch(kind, [5, 2, 7], padding=4))
        for field in ("loss", "self_model_targets", "logits"):
            torch.testing.assert_close(padded[field], output[field], rtol=1e-4, atol=1e-5)
    output.loss.backward()
    assert torch.stack([p.grad.abs().sum() for p in model.parameters() if p.grad is not None]).isfinite().all()
    inputs = batch(kind, [5, 2, 7])
    assert torch.equal(model.prune()(**inputs).logits, output.logits)
    model.save_pretrained(tmp_path)
    assert torch.equal(type(model).from_pretrained(tmp_path).eval()(**inputs).loss, output.loss)


@pytest.mark.parametrize("name", ENCODERS)
def test_the_rlct_of_stacked_chains_is_that_of_chains_in_a_loop(name):
    model, text = network(name)
    data = texts() if text else images()
    # longer steps blow MPNet's random weights up
    sampling = {"num_draws": 4, "batch_size": 5, "num_chains": 2, "step_size": 1e-7, "localization": 10.0}
    (found,) = estimate_rlct([model], data, **sampling)
    expected = in_a_loop(model, data, None, sampling)
    torch.testing.assert_close(torch.tensor(found.loss_trace), torch.tensor(expected.loss_trace), rtol=1e-3, atol=0)
