"""The checksum by which a figure names the weights it was measured on."""

import hashlib
import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from selfmod_hf import SelfModelingConfig, SelfModelingForImageClassification
from selfmod_hf.weights import INDEX, WEIGHTS, belongs, combined_sha256, state_digest, weights_sha256

SHARDS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]


def write_shards(folder, contents: dict[str, bytes]) -> None:
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    (folder / INDEX).write_text(json.dumps({"weight_map": {f"w{k}": name for k, name in enumerate(SHARDS)}}))


def test_of_one_file_it_is_the_files_own(tmp_path):
    assert weights_sha256(tmp_path) is None
    for content in (b"first", b"other"):  # written twice at once, of the same length
        (tmp_path / WEIGHTS).write_bytes(content)
        assert weights_sha256(tmp_path) == hashlib.sha256(content).hexdigest()


def test_of_several_files_every_one_counts(tmp_path):
    write_shards(tmp_path, {SHARDS[0]: b"a", SHARDS[1]: b"b"})
    both = weights_sha256(tmp_path)
    (tmp_path / "model-00009-of-00009.safetensors").write_bytes(b"left over")  # the index does not list it
    assert weights_sha256(tmp_path) == both
    (tmp_path / SHARDS[1]).write_bytes(b"c")
    assert weights_sha256(tmp_path) != both
    (tmp_path / SHARDS[1]).unlink()
    assert weights_sha256(tmp_path) is None
    (tmp_path / WEIGHTS).write_bytes(b"one")  # which transformers prefers to an index
    assert weights_sha256(tmp_path) == hashlib.sha256(b"one").hexdigest()


@given(st.dictionaries(st.sampled_from(SHARDS), st.text("0123456789abcdef", min_size=64, max_size=64), min_size=1))
def test_the_order_of_the_files_does_not_count(shards):
    assert combined_sha256(shards) == combined_sha256(dict(reversed(shards.items())))
    swapped = {name: digest[::-1] for name, digest in shards.items()}
    assert (combined_sha256(swapped) == combined_sha256(shards)) == (swapped == shards)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool])
def test_each_number_in_memory_counts(dtype):
    state = {"a": torch.zeros(3, 2).to(dtype), "b": torch.ones(()).to(dtype)}
    before = state_digest(state)
    assert state_digest(dict(reversed(state.items()))) == before
    state["a"][2, 1] = 1
    assert state_digest(state) != before
    assert state_digest({"a": state["a"].flatten(), "b": state["b"]}) != state_digest(state)


def test_loading_and_saving_again_keeps_it(tmp_path):
    config = SelfModelingConfig(hidden_sizes=[4], image_size=4, num_labels=2, target_layers=["hidden.relu1"])
    SelfModelingForImageClassification(config).save_pretrained(tmp_path / "first")
    model = SelfModelingForImageClassification.from_pretrained(tmp_path / "first")
    model.save_pretrained(tmp_path / "second")
    assert weights_sha256(tmp_path / "second") == weights_sha256(tmp_path / "first")


def test_without_a_checksum_nothing_is_said():
    assert (belongs("a", "a"), belongs("a", "b")) == (True, False)
    assert [belongs(None, "a"), belongs("a", None), belongs(None, None)] == [None] * 3
