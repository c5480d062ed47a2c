"""Every tensor of every encoder is the same bits after it was saved and loaded, whatever names the file gives it."""

import copy

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModel,
    BertConfig,
    BertForSequenceClassification,
    SqueezeBertConfig,
    ViTForImageClassification,
)
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME

from selfmod_hf import SelfModelingConfig, SelfModelingForImageClassification, SelfModelingForSequenceClassification
from selfmod_hf.models import load_model
from tests.models import test_encoders, test_more_encoders
from tests.models.test_encoders import batch

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
IMAGE = {**SIZES, "image_size": 8, "patch_size": 4, "num_channels": 3}
TEXT = {**SIZES, "vocab_size": 30, "max_position_embeddings": 40, "pad_token_id": 0}
DECODER = {**TEXT, "num_key_value_heads": 2, "head_dim": 8}
CONVOLUTIONS = {"num_channels": 3, "hidden_sizes": [8, 12, 16, 20], "depths": [1, 1, 1, 1]}
SEGFORMER = {"depths": [1] * 4, "hidden_sizes": [8] * 4, "num_attention_heads": [1] * 4, "decoder_hidden_size": 8}
# beside those of the other two files; the oldest transformers that is allowed has no gte
FURTHER = {
    "beit": IMAGE,
    "clip_vision_model": IMAGE,
    "data2vec-vision": IMAGE,
    "dinov2_with_registers": IMAGE,
    "dinov3_convnext": CONVOLUTIONS,
    "dinov3_vit": IMAGE,
    "ijepa": IMAGE,
    "pixio": IMAGE,
    "segformer": {**SEGFORMER, "sr_ratios": [1] * 4},
    "siglip_vision_model": IMAGE,
    "swinv2": {**test_more_encoders.SWIN},
    "tipsv2_vision_model": IMAGE,
    "vit_mae": IMAGE,
    "vit_msn": IMAGE,
    "yolos": {**IMAGE, "image_size": [8, 8], "num_detection_tokens": 2},
    "falcon_h1": {**DECODER, "mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 4},
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 40, "vocab_size": 30},
    "gte": TEXT,
    "jina_embeddings_v3": TEXT,
    "mixtral": {**DECODER, "num_local_experts": 2},
    "nomic_bert": TEXT,
    "xlm-roberta": {**TEXT, "bos_token_id": 1, "eos_token_id": 2},
}
CONFIGS = {
    **test_encoders.ENCODERS,
    **{name: AutoConfig.for_model(name, **settings) for name, (settings, _) in test_more_encoders.ENCODERS.items()},
    **{name: AutoConfig.for_model(name, **settings) for name, settings in FURTHER.items() if name in CONFIG_MAPPING},
}
OTHERS = {
    "mlp": {"backbone": "mlp"},
    "embedding_bag": {"backbone": "embedding_bag", "backbone_kwargs": {"num_embeddings": 30, "embedding_dim": 5}},
    "timm/test_resnet": {"backbone": "timm/test_resnet"},
    "timm/test_byobnet": {"backbone": "timm/test_byobnet"},
    "timm/swin_tiny": {
        "backbone": "timm/swin_tiny_patch4_window7_224",  # has buffers that no file holds
        "backbone_kwargs": {"img_size": 32, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 1], "window_size": 4},
    },
}
QUICK = ("vit", "beit", "swin", "resnet", "bert", "mixtral", "falcon_h1", "embedding_bag")
# all of them, those that are like another one in the slow tests alone
ENCODERS = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in CONFIGS]
EACH = ENCODERS + [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in OTHERS]


def side(name: str) -> int:
    """Return the height and width of the images, the least that the backbone can take."""
    return 32 if name.startswith("timm/") or name == "dinov3_convnext" else 8


def network(name: str, seed: int = 0, **fields):
    """A network whose every weight and statistic differs from what a constructor gives."""
    defaults = {"hidden_sizes": [6], "target_layers": ["hidden.relu1"], "aux_weight": 1.0, "num_labels": 3}
    if name in CONFIGS:
        defaults["backbone_config"] = copy.deepcopy(CONFIGS[name])
    if name in OTHERS:
        defaults |= OTHERS[name]
    config = SelfModelingConfig(**{**defaults, **fields})
    if not config.reads_text:
        config = SelfModelingConfig(**{**defaults, "image_size": side(name), "num_channels": 3, **fields})
    model_class = SelfModelingForSequenceClassification if config.reads_text else SelfModelingForImageClassification
    model, generator = model_class(config), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(0.1 + 0.2 * torch.rand(tensor.shape, generator=generator))
    return model.eval()


def tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """All parameters and buffers, those that no file holds too."""
    return dict([*model.named_parameters(), *model.named_buffers()])


def assert_same(mine: nn.Module, theirs: nn.Module) -> None:
    found, expected = tensors(mine), tensors(theirs)
    assert found.keys() == expected.keys()
    different = [name for name, value in expected.items() if not torch.equal(found[name], value)]
    assert not different, different
    assert not [name for name, value in expected.items() if found[name].dtype != value.dtype]


# ------------------------------------------------------------------------------------- saving and loading


@pytest.mark.parametrize("name", EACH)
def test_every_tensor_comes_back(tmp_path, name):
    """By `from_pretrained`, from one file and from parts, by `load_state_dict`, and without the self-model."""
    model = network(name)
    model.save_pretrained(tmp_path / "one")
    assert_same(type(model).from_pretrained(tmp_path / "one"), model)
    size = sum(value.nbytes for value in model.state_dict().values())
    model.save_pretrained(tmp_path / "parts", max_shard_size=size // 2)
    assert (tmp_path / "parts" / SAFE_WEIGHTS_INDEX_NAME).is_file()
    assert_same(load_model(tmp_path / "parts"), model)
    other = network(name, seed=1)
    other.load_state_dict(load_file(tmp_path / "one" / "model.safetensors"))
    assert_same(other, model)
    pruned = model.prune()
    pruned.save_pretrained(tmp_path / "pruned")
    assert_same(load_model(tmp_path / "pruned"), pruned)
    kept = {key: value for key, value in tensors(model).items() if not key.startswith("self_model_head.")}
    assert all(torch.equal(value, tensors(pruned)[key]) for key, value in kept.items())


def with_all_digits(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Give a network another type, and values that no narrower type holds."""
    for value in model.to(dtype).state_dict().values():
        if value.is_floating_point():
            value.div_(3)
    return model


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("name", ["vit", "bert", "resnet", "embedding_bag"])
def test_other_precisions_come_back(tmp_path, name, dtype):
    model = with_all_digits(network(name), dtype)
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in model.state_dict().items())
    other = network(name, seed=1).to(dtype)
    other.load_state_dict(load_file(tmp_path / "model.safetensors"))
    assert_same(other, model)
    assert_same(model.prune(), with_all_digits(network(name, target_layers=[], aux_weight=0), dtype))


def test_pruning_keeps_the_type_of_each_tensor():
    model = network("resnet")
    model.backbone.to(torch.bfloat16)
    pruned = model.prune()
    assert pruned.classifier.weight.dtype == torch.float32
    assert torch.equal(pruned.classifier.weight, model.classifier.weight)
    assert {value.dtype for value in pruned.backbone.parameters()} == {torch.bfloat16}


def test_a_pruned_network_keeps_statistics_of_its_own():
    model = network("resnet")
    before = copy.deepcopy(model.state_dict())
    pruned = model.prune()
    for buffer in pruned.buffers():
        buffer.add_(1)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_class_with_arguments_of_its_own_takes_weights_under_their_names():
    """It cannot be made anew from its configuration alone."""
    plain = network("mlp")

    class WithArgument(type(plain)):
        def __init__(self, config, width):
            super().__init__(config)
            self.width = width

    other = WithArgument(plain.config, 3)
    other.load_state_dict(plain.state_dict())
    assert_same(other, plain)


@pytest.mark.parametrize("wrap", ["compiled", "part of another module"])
def test_weights_are_found_behind_a_wrapper(tmp_path, wrap):
    model, other = network("vit"), network("vit", seed=1)
    model.save_pretrained(tmp_path)
    if wrap == "compiled":
        outer, prefix = torch.compile(other, backend="eager"), "_orig_mod."
    else:
        outer, prefix = nn.ModuleDict({"module": other}), "module."
    state = load_file(tmp_path / "model.safetensors")
    outer.load_state_dict({prefix + name: value for name, value in state.items()})
    assert_same(other, model)


def test_loading_draws_no_random_number(tmp_path):
    network("vit").save_pretrained(tmp_path)
    state, other = load_file(tmp_path / "model.safetensors"), network("vit", seed=1)
    before = torch.get_rng_state()
    other.load_state_dict(state)
    assert torch.equal(torch.get_rng_state(), before)
    state = {name: value for name, value in state.items() if not name.startswith("classifier.")}
    assert other.load_state_dict(state, strict=False).missing_keys == ["classifier.weight", "classifier.bias"]
    assert torch.equal(torch.get_rng_state(), before)


# ------------------------------------------------------------------------------------- files that do not fit


def damaged(folder, name: str, damage: str) -> str:
    """Save a network and damage its file. Return the name that an error must hold."""
    network(name).save_pretrained(folder)
    state = load_file(folder / "model.safetensors")
    key = sorted(state)[0]
    if damage == "missing":
        del state[key]
    elif damage == "unexpected":
        key = "hidden.linear9.weight"
        state[key] = torch.zeros(2)
    else:
        state[key] = torch.cat([state[key], state[key]])
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    return key.rsplit(".", 1)[1]


@pytest.mark.parametrize("damage", ["missing", "unexpected", "mismatched"])
@pytest.mark.parametrize("name", ["vit", "mlp", "timm/test_resnet"])
def test_weights_that_do_not_fit_are_an_error(tmp_path, name, damage):
    leaf = damaged(tmp_path, name, damage)
    model = network(name, seed=1)
    with pytest.raises(ValueError, match=rf"^[^\n]*does not fit config.json \({damage}: [^\n]*{leaf}[^\n]*$"):
        type(model).from_pretrained(tmp_path)
    found, info = type(model).from_pretrained(tmp_path, output_loading_info=True)
    assert len(info[f"{damage}_keys"]) == 1
    assert type(found) is type(model)
    with pytest.raises(RuntimeError, match={"missing": "Missing", "unexpected": "Unexpected"}.get(damage, "mismatch")):
        model.load_state_dict(load_file(tmp_path / "model.safetensors"))


def test_other_shapes_load_where_they_are_asked_for(tmp_path):
    """A classifier for other classes, as transformers does it."""
    model = network("vit")
    model.save_pretrained(tmp_path)
    other = type(model).from_pretrained(tmp_path, num_labels=5, ignore_mismatched_sizes=True)
    assert other.classifier.weight.shape == (5, 6)
    assert torch.equal(other.hidden.linear1.weight, model.hidden.linear1.weight)


def test_a_self_model_that_was_saved_is_not_drawn_anew(tmp_path):
    """A baseline may be given one. A file that lost its own is damaged."""
    model = network("vit")
    model.save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    kept = {name: value for name, value in state.items() if not name.startswith("self_model_head.")}
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"missing: self_model_head.bias, 2 in all"):
        type(model).from_pretrained(tmp_path)


# ------------------------------------------------------------------------------------- pretrained backbones


@pytest.mark.parametrize("name", ENCODERS)
def test_a_pretrained_encoder_comes_complete(tmp_path, name):
    torch.manual_seed(7)
    pretrained = AutoModel.from_config(copy.deepcopy(CONFIGS[name]))
    pretrained.save_pretrained(tmp_path)
    like = network(name)
    shape = {} if like.config.reads_text else {"image_size": side(name), "num_channels": 3}
    model = type(like).from_backbone_pretrained(str(tmp_path), num_labels=3, **shape)
    theirs = tensors(pretrained)
    for key, value in tensors(model.backbone).items():
        assert torch.equal(value, theirs[key]), key


@pytest.mark.parametrize("name", ["vit", "bert"])
def test_an_encoder_is_found_behind_the_head_of_its_task(tmp_path, name):
    classes = {"vit": ViTForImageClassification, "bert": BertForSequenceClassification}
    theirs = classes[name](copy.deepcopy(CONFIGS[name]))
    theirs.save_pretrained(tmp_path)
    model = type(network(name)).from_backbone_pretrained(str(tmp_path), num_labels=3)
    expected = theirs.base_model.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in model.backbone.state_dict().items())
    batched = batch(name, [3, 2])
    assert model(**batched).logits.shape == (2, 3)


@pytest.mark.parametrize("damage", ["renamed", "missing", "mismatched"])
@pytest.mark.parametrize("name", ["vit", "bert"])
def test_an_incomplete_encoder_is_an_error(tmp_path, name, damage):
    """Its weights would be drawn at random, with a warning alone."""
    AutoModel.from_config(copy.deepcopy(CONFIGS[name])).save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    if damage == "renamed":
        state = {f"backbone.{key}": value for key, value in state.items()}
    else:
        key = next(key for key in state if key.endswith("intermediate.dense.weight"))
        value = state.pop(key)
        state |= {key: value[1:].contiguous()} if damage == "mismatched" else {}
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"^/[^\n]*: holds no weights of the right shape for [^\n]*$"):
        type(network(name)).from_backbone_pretrained(str(tmp_path), num_labels=3)


def test_an_encoder_without_its_pooler_is_complete(tmp_path):
    """Masked language models are saved so, and nothing here reads a pooler."""
    encoder = BertConfig(**TEXT)
    AutoModel.from_config(encoder, add_pooling_layer=False).save_pretrained(tmp_path)
    SelfModelingForSequenceClassification.from_backbone_pretrained(str(tmp_path), num_labels=3)


def test_a_pooler_that_no_file_holds_is_not_missing(tmp_path):
    """Of an encoder that has one in any case."""
    sizes = {"hidden_size": 8, "embedding_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    encoder = SqueezeBertConfig(vocab_size=30, intermediate_size=8, **sizes)
    theirs = AutoModel.from_config(encoder)
    theirs.save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    kept = {key: value for key, value in state.items() if not key.startswith("pooler.")}
    assert len(kept) < len(state)
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    model = SelfModelingForSequenceClassification.from_backbone_pretrained(str(tmp_path), num_labels=3)
    assert torch.equal(model.backbone.embeddings.word_embeddings.weight, theirs.embeddings.word_embeddings.weight)
