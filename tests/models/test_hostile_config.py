"""Configurations and weights from strangers: refused by name, before memory is taken, and nothing of theirs is run."""

import json
import re
import resource
import shutil
import struct
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import AutoConfig

from selfmod_hf import SelfModelingConfig, SelfModelingForImageClassification
from selfmod_hf.models import check_config, load_config, load_model

BERT = {"model_type": "bert", "hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1, "vocab_size": 9}
HUGE = 10**12

# field -> values that are of a wrong type, out of range, too large, or a way out of the folder
WRONG = {
    "backbone": [5, None, ["mlp"], "", "cnn", "timm/", "timm/../../x", "timm//etc/passwd", "timm/hf-hub:me/x",
                 "timm/local-dir:/tmp", "/etc/passwd", "timm/no_such_model"],
    "hidden_sizes": [5, None, "abc", [0], [-1], [1.5], ["8"], [True], [10**9], [HUGE], [10**30], [10**9, 10**9],
                     [1] * 2000, {"a": 1}],
    "image_size": ["x", 0, -3, [1, 2, 3], [1.5, 2], 10**9, [8, HUGE], {}],
    "num_channels": ["1", 0, -1, True, 1.5, HUGE, [1]],
    "num_labels": ["a", 0, -1, HUGE, 10**7, 2.5, True],
    "id2label": [5, [1], "x", {"a": "b"}, {}, {1: "a"}, {0: 5}],
    "target_layers": [5, [5], {"a": 1}, ["hidden.relu9"], ["../x"], None],
    "target_pooling": [5, [], "max", None],
    "feature_pooling": [5, [], "flatten", None],
    "aux_weight": ["1", None, -1, float("nan"), float("inf"), True, [1]],
    "classification_weight": ["1", None, -1, float("nan"), float("-inf"), False],
    "detach_targets": ["no", 1, None],
    "small_image_stem": ["x", 1, True],
    "base_model": [5, ["x"]],
    "dtype": ["evil", 5],
}  # fmt: skip
KWARGS = {
    "embedding_bag": [None, {}, "x", [1], {"num_embeddings": "x", "embedding_dim": 3},
                      {"num_embeddings": 0, "embedding_dim": 3}, {"num_embeddings": HUGE, "embedding_dim": 3},
                      {"num_embeddings": 2**31 - 1, "embedding_dim": 2**31 - 1}, {"num_embeddings": 3}],
    "timm/resnet18": [{"foo": 1}, {"checkpoint_path": "/etc/passwd"}, {"pretrained": True}, {"num_classes": 5},
                      {"pretrained_cfg": {"file": "/etc/passwd"}}, {"features_only": True}, {"base_width": HUGE},
                      {"layers": [2, 10**9, 2, 2]}, {"base_width": "x"}],
    "mlp": [{"x": 1}],
}  # fmt: skip
ENCODERS = [
    5, [], {}, {"model_type": 5}, {"model_type": "nope"}, {"model_type": "../bert"}, {**BERT, "hidden_size": "x"},
    {**BERT, "hidden_size": 0}, {**BERT, "num_attention_heads": 3}, {**BERT, "vocab_size": HUGE},
    {**BERT, "vocab_size": 2**31 - 1, "hidden_size": 2**20, "num_attention_heads": 1},
    {**BERT, "num_hidden_layers": 10**9}, {**BERT, "num_labels": HUGE}, {**BERT, "hidden_act": "evil"},
    {"model_type": "clip"}, {"model_type": "vit", "image_size": 10**9, "patch_size": 1},
]  # fmt: skip
CASES = (
    [(name, {name: value}) for name, values in WRONG.items() for value in values]
    + [("backbone", {"backbone": name, "backbone_kwargs": kwargs}) for name, all_ in KWARGS.items() for kwargs in all_]
    + [("backbone_config", {"backbone_config": config}) for config in ENCODERS]
)
FIELDS = {"hidden_sizes": [4], "image_size": 8, "num_labels": 3}


def refused(name: str, fields: dict) -> str:
    """The refusal, after a look at how much memory it took."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError) as error:  # noqa: PT011
        check_config(SelfModelingConfig(**{**FIELDS, **fields}))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**20  # KiB: less than 1 GiB
    return str(error.value)


@pytest.mark.parametrize("case", range(len(CASES)), ids=lambda i: f"{CASES[i][0]}-{i}")
def test_wrong_fields_are_refused_by_name(case):
    name, fields = CASES[case]
    message = refused(name, fields)
    known = (name, "backbone", "config", "model", "hidden size")
    assert any(word in message for word in known), message


def test_messages_name_field_value_and_what_is_allowed():
    """In one line, for a wrong type and for a value out of range, in a new configuration and in a changed one."""
    config = SelfModelingConfig(**FIELDS)
    for name, value, allowed in [
        ("aux_weight", "1", "is int | float"),
        ("aux_weight", -1, "are finite numbers of at least 0"),
        ("hidden_sizes", [4, "8"], "is list[int] | tuple[int, ...]"),
        ("image_size", [8, 0], "are integers from 1 to 16384, one or height and width"),
    ]:
        message = f"^{re.escape(f'{name}={value!r}: allowed {allowed}')}$"
        with pytest.raises(ValueError, match=message):
            SelfModelingConfig(**{**FIELDS, name: value})
        with pytest.raises(ValueError, match=message):
            setattr(config, name, value)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("hiden_sizes", "hidden_sizes"), ("hidden_size", "hidden_sizes"), ("aux_weights", "aux_weight"),
     ("target_layer", "target_layers"), ("aux_wieght", "aux_weight"), ("num_label", "num_labels")],
)  # fmt: skip
def test_a_mistyped_field_is_refused(tmp_path, typed, meant):
    message = rf"{typed}=\[8\]: no such field; did you mean {meant}\?"
    with pytest.raises(ValueError, match=message):
        SelfModelingConfig(**{typed: [8]})
    with pytest.raises(ValueError, match=message):
        SelfModelingForImageClassification.from_backbone_pretrained("timm/resnet18", **{typed: [8]})
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "self_modeling", **FIELDS, typed: [8]}))
    with pytest.raises(ValueError, match=message):
        load_config(tmp_path)


def test_what_transformers_adds_is_no_mistyped_field(tmp_path):
    """Its own names, old and new, and whatever else a file holds; through every door by which a file is read."""
    others = {
        "_commit_hash": "1", "_name_or_path": "x", "attn_implementation": "eager", "torch_dtype": "float32",
        "architectures": ["SelfModelingForImageClassification"], "auto_map": {"AutoConfig": "x.Y"}, "revision": "main",
        "num_layers": 3, "in_channels": 1, "tie_word_embeddings": False, "pad_token_id": 0, "use_cache": True,
    }  # fmt: skip
    SelfModelingConfig(**FIELDS, **others).save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**others, **written}))
    for read in (SelfModelingConfig.from_pretrained, AutoConfig.from_pretrained, load_config):
        assert read(tmp_path).hidden_sizes == FIELDS["hidden_sizes"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from([*WRONG, "backbone_kwargs", "backbone_config", "label2id", "architectures"]), value=JSON)
def test_a_config_file_is_used_or_refused(tmp_path, name, value):
    """Whatever JSON stands in a field: a network of finite weights, or a ValueError (OSError: no JSON for the Hub)."""
    fields = {"model_type": "self_modeling", **FIELDS, name: value}
    (tmp_path / "config.json").write_text(json.dumps(fields))
    try:
        check_config(load_config(tmp_path))
    except (ValueError, OSError) as error:
        assert str(error)  # noqa: PT017


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"5", b"null", b'"x"', b"\xff\xfe", b"[" * 100_000, b"{}", b'{"model_type": "bert"}']
)
def test_a_broken_config_file_is_refused(tmp_path, content):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises((ValueError, OSError), match=r"config\.json"):
        load_config(tmp_path)


# ------------------------------------------------------------------------------------------- weights


@pytest.fixture
def folder(tmp_path, small_model) -> Path:
    for name in ("config.json", "model.safetensors"):
        shutil.copy(small_model / name, tmp_path)
    return tmp_path


def _header(length: int, content: bytes = b"{}") -> bytes:
    return struct.pack("<Q", length) + content


WEIGHTS = {
    "empty": b"",
    "no safetensors": b"\x80\x04pickle",
    "a header of 2**60 bytes": _header(2**60),
    "a header of 90 MB that is not there": _header(90_000_000),
    "a header that is no JSON": _header(2, b"[["),
    "a tensor beyond the file": _header(
        100, json.dumps({"a": {"dtype": "F32", "shape": [10**9, 10**9], "data_offsets": [0, 4 * 10**18]}})
        .encode().ljust(100),
    ),
    "negative offsets": _header(
        90, json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}}).encode().ljust(90)
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WEIGHTS)
def test_broken_weights_are_refused(folder, case):
    (folder / "model.safetensors").write_bytes(WEIGHTS[case])
    with pytest.raises((ValueError, OSError), match="model"):
        load_model(folder)


def test_weights_that_do_not_fit_are_refused(folder):
    """transformers alone would draw the missing ones at random and go on."""
    weights = load_file(folder / "model.safetensors")
    name = "classifier.weight"
    for changed, message in (
        ({key: tensor for key, tensor in weights.items() if key != name}, f"missing: {name}"),
        (weights | {"more": torch.zeros(1)}, "unexpected: more"),
        (weights | {name: torch.zeros(3, 5)}, "mismatched"),
        (weights | {name: torch.full_like(weights[name], torch.nan)}, f"{name} holds NaN"),
    ):
        save_file(changed, folder / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(ValueError, match=message):
            load_model(folder)


def test_pickles_are_never_opened(folder):
    """Not where they are all there is, and not beside the weights."""
    import pickle

    class Bomb:
        def __reduce__(self):
            return (Path.touch, (folder / "opened",))

    for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt"):
        (folder / name).write_bytes(pickle.dumps(Bomb()))
    load_model(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(OSError, match="safetensors"):
        load_model(folder)
    assert not (folder / "opened").exists()


def test_code_of_strangers_is_not_run_and_not_asked_about(tmp_path, monkeypatch):
    """A backbone that brings its own code, a tokenizer that does, and one of ours whose `auto_map` points elsewhere."""
    from selfmod_hf import SelfModelingForSequenceClassification
    from selfmod_hf.data.tokenizing import load_tokenizer

    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked"))
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    auto_map = {"AutoConfig": "evil.Config", "AutoModel": "evil.Model", "AutoTokenizer": ["evil.Tokenizer", None]}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "evil", "auto_map": auto_map}))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "Tokenizer", "auto_map": auto_map}))
    with pytest.raises(ValueError, match="trust_remote_code"):
        SelfModelingForSequenceClassification.from_backbone_pretrained(str(tmp_path))
    with pytest.raises(ValueError, match="tokenizer"):
        load_tokenizer(str(tmp_path))
    config = SelfModelingConfig(backbone_config={**BERT, "auto_map": auto_map}, num_labels=3)
    check_config(config)
    assert not (tmp_path / "ran").exists()
