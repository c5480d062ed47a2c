"""Encoders of transformers, of texts and of images, as backbones."""

from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    BertConfig,
    BertModel,
    DistilBertConfig,
    ModernBertConfig,
    ViTConfig,
    set_seed,
)

from selfmod_hf import (
    SelfModelingConfig,
    SelfModelingForImageClassification,
    SelfModelingForSequenceClassification,
    SelfModelingTrainer,
    SelfModelingTrainingArguments,
    estimate_rlct,
)
from selfmod_hf.complexity import estimate_llc
from selfmod_hf.data import ImageTensors, TextTensors
from tests import warm

SIZES = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 20}
TEXT = {"vocab_size": 30, "max_position_embeddings": 40}
NO_TOKEN = {f"{name}_token_id": 0 for name in ("bos", "eos", "cls", "sep", "pad")}
ENCODERS = {
    "bert": BertConfig(**SIZES, **TEXT),
    "distilbert": DistilBertConfig(dim=12, n_layers=2, n_heads=2, hidden_dim=20, **TEXT),
    "modernbert": ModernBertConfig(**SIZES, **TEXT, **NO_TOKEN, local_attention=4),
    "vit": ViTConfig(**SIZES, image_size=8, patch_size=4, num_channels=3),
}
LAYERS = {
    "bert": ["encoder.layer.*.output", "encoder.layer.0.intermediate", "embeddings", "encoder.layer.1.attention.self"],
    "distilbert": ["transformer.layer.*", "transformer.layer.1.ffn.lin1", "embeddings"],
    "modernbert": ["layers.*", "layers.0.mlp", "final_norm"],
    "vit": ["layers.*", "layers.0.mlp", "embeddings"],
    "embedding_bag": ["backbone", "hidden.linear1"],
    "timm/test_resnet": ["layer4", "layer1.0.act1", "hidden.linear1"],
    "mlp": ["hidden.linear1"],
}
READS_TEXT = ("bert", "distilbert", "modernbert", "embedding_bag")


def network(name: str, **fields):
    set_seed(0)
    defaults = {"hidden_sizes": [6], "target_layers": LAYERS[name][:1], "aux_weight": 2.0, "num_labels": 3}
    if name in ENCODERS:
        defaults["backbone_config"] = ENCODERS[name]
    elif name == "embedding_bag":
        defaults |= {"backbone": name, "backbone_kwargs": {"num_embeddings": 30, "embedding_dim": 5}}
    else:
        defaults |= {"backbone": name, "image_size": 8, "num_channels": 3}
    text = name in READS_TEXT
    model_class = SelfModelingForSequenceClassification if text else SelfModelingForImageClassification
    return model_class(SelfModelingConfig(**{**defaults, **fields})).eval()


def batch(name: str, lengths: list[int], padding: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(len(lengths)) % 3
    if name not in READS_TEXT:
        return {"pixel_values": torch.randn(len(lengths), 3, 8, 8, generator=generator), "labels": labels}
    input_ids = torch.randint(1, 30, (len(lengths), max(lengths)), generator=generator)
    mask = (torch.arange(max(lengths) + padding) < torch.tensor(lengths)[:, None]).long()
    # where the mask is zero stands anything, and something else for each amount of padding
    ids = torch.where(mask == 1, F.pad(input_ids, (0, padding)), padding + torch.arange(mask.shape[1]))
    return {"input_ids": ids % 30, "attention_mask": mask, "labels": labels}


# ------------------------------------------------------------------------------------- what holds for all of them


@cache
def built(name: str, layers: tuple[str, ...], pooling: str):
    return network(name, target_layers=layers, target_pooling=pooling)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_targets_fit_predictions_padding_is_no_part_and_pruning_keeps_every_bit(data):
    name = data.draw(st.sampled_from(sorted(LAYERS)))
    known = [layer for layer in LAYERS[name] if layer != "backbone"] + ["hidden.relu1"]
    layers = tuple(data.draw(st.lists(st.sampled_from(known), min_size=1, max_size=3, unique=True)))
    pooling = data.draw(st.sampled_from(["mean", "first"] if name in READS_TEXT else ["mean", "first", "flatten"]))
    lengths = data.draw(st.lists(st.integers(0, 9), min_size=1, max_size=4).filter(any))
    padding = data.draw(st.integers(0, 6))
    model = built(name, layers, pooling)
    with torch.no_grad():
        output = model(**batch(name, lengths))
        padded = model(**batch(name, lengths, padding))
        pruned = model.prune()(**batch(name, lengths))
    assert output.self_model_predictions.shape == output.self_model_targets.shape
    assert output.self_model_targets.shape[0] == len(lengths)
    for field in ("loss", "self_modeling_loss", "self_model_targets", "logits"):
        torch.testing.assert_close(padded[field], output[field], rtol=1e-4, atol=1e-5)
    assert torch.equal(pruned.logits, output.logits)


@pytest.mark.parametrize("name", ENCODERS)
def test_targets_are_the_encoders_own_activations_averaged_over_real_tokens(name):
    layers = LAYERS[name][1:3]
    model, inputs = network(name, target_layers=layers), batch(name, [5, 2, 7])
    seen = {}
    for layer in layers:
        model.backbone.get_submodule(layer).register_forward_hook(
            lambda module, args, output, layer=layer: seen.update({layer: output})
        )
    output = model(**inputs)
    mask = inputs.get("attention_mask")
    parts = output.self_model_targets.split([seen[layer].shape[-1] for layer in layers], dim=1)
    for layer, found in zip(layers, parts, strict=True):
        tokens = seen[layer]
        for row in range(3):
            own = tokens[row] if mask is None else tokens[row, : int(mask[row].sum())]
            torch.testing.assert_close(found[row], own.mean(dim=0))


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_first_token_is_the_first_that_is_no_padding(side):
    """Of targets and of what the heads read, on whichever side texts are padded; zeros for a text without tokens."""
    model = network(
        "bert", target_layers=["embeddings.word_embeddings"], target_pooling="first", feature_pooling="first"
    )
    texts = [[3, 4, 5], [6], []]
    rows = [[0] * (4 - len(t)) + t if side == "left" else t + [0] * (4 - len(t)) for t in texts]
    mask = torch.tensor([[int(token > 0) for token in row] for row in rows])
    seen = {}
    model.backbone.register_forward_hook(lambda module, args, output: seen.update(tokens=output.last_hidden_state))
    model.hidden.register_forward_hook(lambda module, args, output: seen.update(read=args[0]))
    output = model(input_ids=torch.tensor(rows), attention_mask=mask)
    table = model.backbone.embeddings.word_embeddings.weight
    assert torch.equal(output.self_model_targets, torch.stack([table[3], table[6], torch.zeros(12)]))
    first = mask.argmax(dim=1)
    assert torch.equal(seen["read"][:2], seen["tokens"][[0, 1], first[:2]])
    assert not seen["read"][2].any()


def test_the_loss_is_the_formula_on_a_plain_bert():
    model, inputs = network("bert", target_layers=["encoder.layer.1.output"]), batch("bert", [5, 2, 7])
    plain = BertModel(ENCODERS["bert"], add_pooling_layer=False).eval()
    plain.load_state_dict(model.backbone.state_dict())
    tokens = plain(inputs["input_ids"], inputs["attention_mask"]).last_hidden_state  # layer 1's output
    mask = inputs["attention_mask"][:, :, None].float()
    mean = (tokens * mask).sum(1) / mask.sum(1)
    hidden = model.hidden(mean)
    predicted = model.self_model_head(hidden)
    loss = F.cross_entropy(model.classifier(hidden), inputs["labels"]) + 2.0 * (predicted - mean).square().mean()
    torch.testing.assert_close(model(**inputs).loss, loss)


def test_a_wildcard_stands_within_one_part_of_a_name():
    model = network("bert", target_layers=["encoder.layer.*.output", "hidden.*", "encoder.layer.1.output"])
    assert model.target_layers == [
        "backbone.encoder.layer.0.output",  # not ...attention.output
        "backbone.encoder.layer.1.output",
        "hidden.linear1",
        "hidden.relu1",
    ]


@pytest.mark.parametrize(
    ("name", "layers", "message"),
    [
        ("bert", ["encoder.layer.*.outptu"], "no module is named 'encoder.layer.*.outptu'; allowed are"),
        ("bert", ["embeddings.position_embeddings"], "gives (1, 3, 12) for two samples"),
        ("bert", ["encoder.layer.0.output", "encoder.layer"], "'encoder.layer' gives no activation"),
        ("bert", ["encoder.*"], "name a layer within it, such as 'encoder.*.*'"),
        ("vit", ["layers"], "'layers' gives no activation"),
    ],
)
def test_layers_without_an_activation_of_each_sample_are_refused(name, layers, message):
    with pytest.raises(ValueError, match="target_layers") as error:
        network(name, target_layers=layers)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_seed_gives_every_arm_the_same_initial_network():
    for name in ENCODERS:
        baseline = network(name, target_layers=[], aux_weight=0)
        for key, value in baseline.state_dict().items():
            assert torch.equal(value, network(name).state_dict()[key])


@pytest.mark.parametrize("name", [*sorted(LAYERS), "ragged"])
def test_compiles_without_graph_break(name):
    ragged, name = name == "ragged", "embedding_bag" if name == "ragged" else name
    model = network(name, target_layers=["hidden.relu1"] if name == "embedding_bag" else LAYERS[name][:1])
    inputs = batch(name, [5, 2, 7])
    if ragged:  # as it is trained; its sparse gradient alone cannot be compiled
        tokens = inputs["input_ids"][inputs.pop("attention_mask") == 1]
        inputs |= {"input_ids": tokens, "offsets": torch.tensor([0, 5, 7, 14])}
    expected = model(**inputs)
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    found = compiled(**inputs)
    for field in ("loss", "classification_loss", "self_modeling_loss"):
        torch.testing.assert_close(found[field], expected[field])
    found.loss.backward()
    mine = {key: p.grad.clone() for key, p in model.named_parameters()}
    model.zero_grad()
    expected.loss.backward()
    for key, parameter in model.named_parameters():
        torch.testing.assert_close(mine[key], parameter.grad, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["bert", "vit", "embedding_bag"])
def test_losses_are_float32_under_autocast(name, dtype):
    model = network(name, target_layers=["hidden.relu1"])
    with torch.autocast("cpu", dtype):
        output = model(**batch(name, [5, 2, 7]))
    assert output.logits.dtype == dtype
    assert {output.loss.dtype, output.self_modeling_loss.dtype, output.classification_loss.dtype} == {torch.float32}


@pytest.mark.parametrize("name", ["bert", "vit"])
def test_fp16_with_a_loss_scaler_trains_where_a_square_error_of_halves_would_overflow(name):
    model, inputs = network(name, target_layers=["hidden.relu1"], aux_weight=1e-3), batch(name, [5, 2, 7])
    with torch.no_grad():
        model.hidden.linear1.bias.fill_(400.0)  # its square is beyond float16
    optimizer = torch.optim.SGD([model.self_model_head.weight, model.self_model_head.bias], lr=1e-3)
    scaler = torch.amp.GradScaler("cpu")
    found = []
    for _ in range(40):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.float16):
            output = model(**inputs)
        scaler.scale(output.loss).backward()
        scaler.step(optimizer)
        scaler.update()
        found.append(output.self_modeling_loss.item())
    assert found[0] > torch.finfo(torch.float16).max
    assert found[-1] < found[0] / 2


# ------------------------------------------------------------------------------------- saving and loading


@pytest.mark.parametrize("name", ENCODERS)
def test_round_trip_is_bit_for_bit(tmp_path, name):
    model, inputs = network(name), batch(name, [5, 2])
    model.save_pretrained(tmp_path)
    auto = AutoModelForSequenceClassification if name in READS_TEXT else AutoModelForImageClassification
    loaded = auto.from_pretrained(tmp_path).eval()
    assert type(loaded) is type(model)
    assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in model.state_dict().items())
    assert torch.equal(loaded(**inputs).loss, model(**inputs).loss)


WITHOUT_PACKAGE = """
import sys
sys.modules["selfmod_hf"] = None  # importing it now fails
import torch
from transformers import AutoModelForSequenceClassification
model = AutoModelForSequenceClassification.from_pretrained(sys.argv[1], trust_remote_code=True).eval()
inputs = torch.load(sys.argv[2], weights_only=True)
assert torch.equal(model(**inputs).loss, torch.load(sys.argv[3], weights_only=True))
"""


def test_loads_where_the_package_is_not_installed(tmp_path):
    model, inputs = network("bert"), batch("bert", [5, 2])
    model.save_pretrained(tmp_path / "model")
    torch.save(inputs, tmp_path / "inputs")
    torch.save(model(**inputs).loss.detach(), tmp_path / "loss")
    files = [str(tmp_path / name) for name in ("model", "inputs", "loss")]
    warm.run(["-c", WITHOUT_PACKAGE, *files], cwd=tmp_path, check=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ENCODERS)
def test_a_pretrained_backbone_keeps_its_weights(tmp_path, name, dtype):
    """Also one that is stored in half precision, which is trained in float32."""
    torch.manual_seed(7)
    pretrained = AutoModel.from_config(ENCODERS[name]).to(dtype)
    pretrained.save_pretrained(tmp_path)
    model_class = SelfModelingForSequenceClassification if name in READS_TEXT else SelfModelingForImageClassification
    fields = {"target_layers": LAYERS[name][:1], "aux_weight": 1.0, "num_labels": 3}
    torch.manual_seed(0)
    model = model_class.from_backbone_pretrained(str(tmp_path), **fields)
    assert (model.config.base_model, model.config.num_labels) == (None, 3)  # a folder is no Hub id
    theirs = pretrained.state_dict()
    assert all(torch.equal(value, theirs[key].float()) for key, value in model.backbone.state_dict().items())
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    model(**batch(name, [5, 2, 7])).loss.backward()
    torch.manual_seed(0)
    drawn = model_class(model.config)
    assert torch.equal(model.classifier.weight, drawn.classifier.weight)


def test_texts_and_images_are_told_apart_by_the_encoders_class():
    """BEiT has a vocabulary, and a configuration need not state its own."""
    kinds = {"beit": False, "vit": False, "resnet": False, "distilbert": True, "canine": True, "funnel": True}
    for model_type, text in kinds.items():
        assert SelfModelingConfig(backbone_config={"model_type": model_type}).reads_text == text
        assert SelfModelingConfig(backbone_config=AutoConfig.for_model(model_type)).reads_text == text


def test_token_types_reach_the_encoders_that_take_them():
    inputs = batch("bert", [5, 2])
    zeros, ones = torch.zeros_like(inputs["input_ids"]), torch.ones_like(inputs["input_ids"])
    model = network("bert")
    assert torch.equal(model(**inputs, token_type_ids=zeros).logits, model(**inputs).logits)
    assert not torch.equal(model(**inputs, token_type_ids=ones).logits, model(**inputs).logits)
    other = network("distilbert")
    assert torch.equal(other(**inputs, token_type_ids=ones).logits, other(**inputs).logits)


@pytest.mark.parametrize("channels", [1, 3])
def test_an_encoder_of_rgb_sees_grey_pictures_as_rgb(channels):
    """`channels` is what a pipeline gives: it turns every picture into RGB."""
    model = network("vit", num_channels=1)
    grey = torch.randn(2, 1, 8, 8)
    expected = network("vit")(pixel_values=grey.expand(-1, 3, -1, -1)).logits
    torch.testing.assert_close(model(pixel_values=grey.expand(-1, channels, -1, -1)).logits, expected)


def test_a_pretrained_backbone_is_never_unpickled(tmp_path):
    AutoModel.from_config(ENCODERS["bert"]).save_pretrained(tmp_path)
    torch.save({}, tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(OSError, match="safetensors"):
        SelfModelingForSequenceClassification.from_backbone_pretrained(str(tmp_path))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"backbone_config": {"hidden_size": 3}}, "a 'model_type' is needed"),
        ({"backbone": "transformers", "backbone_config": None}, "goes with a backbone_config"),
        ({"feature_pooling": "last"}, "feature_pooling='last': allowed are mean, first"),
        ({"target_pooling": "max"}, "target_pooling='max': allowed are mean, first, flatten"),
        ({"backbone_kwargs": {"a": 1}}, "takes none"),
        ({"backbone_config": {"model_type": "fnet", **SIZES}}, "FNetModel takes no attention_mask"),
        ({"backbone_config": {"model_type": "t5", "d_model": 12, "num_layers": 1}}, "has a decoder"),
    ],
)
def test_wrong_fields_are_refused_in_one_line(fields, message):
    with pytest.raises(ValueError, match=message):
        network("bert", **fields)


# ------------------------------------------------------------------------------------- training and complexity


class Tokenizer:
    """Stands in for a tokenizer. The Trainer saves nothing of it."""

    pad_token_id = 0

    def save_pretrained(self, folder: str) -> None:
        pass


def texts(count: int = 40) -> TextTensors:
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, 9, (count,), generator=generator)
    labels = torch.arange(count) % 3
    tokens = torch.randint(1, 10, (int(lengths.sum()),), generator=generator) + 9 * labels.repeat_interleave(lengths)
    return TextTensors(tokens.int(), F.pad(lengths.cumsum(0), (1, 0)), labels, Tokenizer(), padded=True)


def images(count: int = 40) -> ImageTensors:
    pixels = torch.randint(0, 200, (count, 3, 8, 8), generator=torch.Generator().manual_seed(0))
    labels = torch.arange(count) % 3
    return ImageTensors((pixels + 25 * labels.view(-1, 1, 1, 1)).to(torch.uint8), labels)


@pytest.mark.parametrize("name", ENCODERS)
def test_the_trainer_trains_every_parameter_and_the_losses_fall(tmp_path, name):
    data = texts() if name in READS_TEXT else images()
    model = network(name)
    before = {key: p.detach().clone() for key, p in model.named_parameters()}
    args = SelfModelingTrainingArguments(
        output_dir=str(tmp_path), learning_rate=5e-3, num_train_epochs=40, save_strategy="no", report_to="none",
        disable_tqdm=True, logging_strategy="epoch", per_device_eval_batch_size=7,
    )  # fmt: skip
    run = SelfModelingTrainer(model=model, args=args, train_dataset=data, eval_dataset=data)
    first = run.evaluate()
    run.train()
    last = run.evaluate()
    unused = ("mask_token",)  # of ViT, for pretraining alone
    still = [key for key, p in model.named_parameters() if torch.equal(p, before[key]) and not key.endswith(unused)]
    assert not still
    # how many of 40 images are right differs by versions of transformers, which draw other first weights
    assert last["eval_classification_loss"] < 2 / 3 * first["eval_classification_loss"]


# of each backbone all but the embeddings (or the stem), and the last block alone
PARTS = {
    "bert": [["network.backbone.encoder.*", "network.hidden.*", "network.classifier.*"], ["*.encoder.layer.1.*"]],
    "distilbert": [["network.backbone.transformer.*"], ["*.transformer.layer.1.*"]],
    "modernbert": [["network.backbone.layers.*", "*.final_norm.*"], ["*.backbone.layers.1.*"]],
    "vit": [["network.backbone.layers.*", "network.classifier.*"], ["*.backbone.layers.1.*"]],
    "timm/test_resnet": [["network.backbone.layer*"], ["*.layer4.*"]],
}


@pytest.mark.parametrize("name", ["bert", *(pytest.param(name, marks=pytest.mark.slow) for name in [*PARTS][1:])])
def test_the_rlct_of_stacked_chains_is_that_of_chains_in_a_loop(name, monkeypatch):
    """Minibatches that are padded and some that are not; the whole network, a part, and its last block alone."""
    monkeypatch.setattr("selfmod_hf.stacking.replay.RECORDED_FROM", 1)  # few draws, but recorded like many
    data = texts() if name in READS_TEXT else images()
    model = network(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    sampling = {"num_draws": 6, "batch_size": 5, "num_chains": 2, "step_size": 1e-4, "localization": 10.0}
    sampling["preset"] = "paper (mnist)"  # no biases are foretold, which takes long on a large network
    sizes = []
    for parameters in (None, *PARTS[name]):
        (found,) = estimate_rlct([model], data, parameters=parameters, **sampling)
        expected = in_a_loop(model, data, parameters, sampling)
        torch.testing.assert_close(torch.tensor(found.loss_trace), torch.tensor(expected.loss_trace), rtol=1e-4, atol=0)
        sizes.append(found.settings.num_parameters)
    blocks = {"bert": "encoder.layer.1", "distilbert": "transformer.layer.1", "timm/test_resnet": "layer4"}
    block = model.backbone.get_submodule(blocks.get(name, "layers.1"))
    assert sizes[0] == sum(p.numel() for p in model.prune().parameters()) > sizes[1] > sizes[2]
    assert sizes[2] == sum(p.numel() for p in block.parameters())
    for key, value in model.state_dict().items():  # BatchNorm's statistics too
        assert torch.equal(value, before[key])


def in_a_loop(model, data, parameters, sampling):
    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = model.prune()

        def forward(self, **inputs):
            return self.network(**inputs).logits

    inputs = data.take(torch.arange(len(data)))
    labels = inputs.pop("labels")
    return estimate_llc(Plain(), inputs, labels, parameters=parameters, vectorize=False, **sampling)
