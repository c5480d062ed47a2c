"""Texts for a causal language model: joined, cut into blocks of equal length, and the tokenizer of their byte pairs."""

from __future__ import annotations

from pathlib import Path

import datasets
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from selfmod_hf import TaskSpec
from selfmod_hf.data import BlockTensors, basic_english_tokenizer, load_blocks, load_images, load_texts, tokenizing
from selfmod_hf.data.tasks import make_task
from selfmod_hf.data.tokenizer import END, byte_pair_tokenizer
from selfmod_hf.errors import InputError

TEXTS = [f"It is film number {row}, and a film it is." for row in range(12)]


def write(folder: Path, texts: list[str | None] = TEXTS, **fields) -> TaskSpec:
    for split in ("train", "test"):
        rows = {"text": texts, "label": [row % 2 for row in range(len(texts))]}
        datasets.Dataset.from_dict(rows).to_parquet(folder / f"{split}.parquet")
    return TaskSpec(**{"name": "x", "dataset_name": str(folder), "task_type": "causal-lm", **fields})


def test_blocks_hold_the_texts_one_after_another(tmp_path):
    data = load_blocks(write(tmp_path, block_size=16), vocab_size=300)
    tokenizer = data.train.processor()
    joined = tokenizer.decode(data.train.tokens.flatten())
    assert (f"{END}".join(TEXTS) + END).startswith(joined)
    assert data.train.tokens.shape[1] == data.train.longest == 16
    everything = sum(len(tokenizer(text)["input_ids"]) + 1 for text in TEXTS)
    assert len(data.train) == everything // 16
    assert (data.label_names, data.unseen_classes, data.train.problem_type) == ([], {}, None)
    assert data.task.train_data.endswith("train, blocks of 16 tokens")


def test_a_batch_predicts_its_own_tokens(tmp_path):
    data = load_blocks(write(tmp_path, block_size=8), vocab_size=300).train
    batch = data.batch([2, 0])
    assert batch["input_ids"].dtype == torch.long
    assert torch.equal(batch["labels"], batch["input_ids"])
    assert torch.equal(batch["labels"], data.tokens[[2, 0]].long())
    assert data.batch([-1])["labels"].tolist() == [[-100] * 8]
    assert data.labels.tolist() == [7] * len(data)
    assert torch.equal(data.first(3).to("cpu").tokens, data.tokens[:3])
    assert torch.equal(data[-1]["input_ids"], data.tokens[-1].long())


def test_limits_count_blocks(tmp_path):
    spec = write(tmp_path, block_size=8)
    every = load_blocks(spec, vocab_size=300).train
    some = load_blocks(spec, vocab_size=300, max_train_samples=4).train
    rows = [index * len(every) // 4 for index in range(4)]
    assert torch.equal(some.tokens, every.tokens[rows])


def test_a_share_of_the_texts_is_held_out(tmp_path):
    write(tmp_path)
    spec = TaskSpec(name="x", dataset_name=str(tmp_path), task_type="causal-lm", test_fraction=0.25, block_size=8)
    data = load_blocks(spec, vocab_size=300)
    assert data.train.processor().decode(data.test.tokens.flatten()).count(END) in (2, 3)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.text(max_size=12), max_size=6))
def test_byte_pairs_lose_nothing_and_are_the_same_again(texts):
    """In another order of the texts too."""
    tokenizer = byte_pair_tokenizer(texts, vocab_size=270)
    again = byte_pair_tokenizer(texts[::-1], vocab_size=270)
    assert tokenizer.get_vocab() == again.get_vocab()
    for text in [*texts, "é\n\t人 <|", "\x00"]:
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert tokenizer.eos_token_id == tokenizer.pad_token_id == 0
    assert len(tokenizer) <= 270


def test_byte_pairs_are_trained_once_and_saved(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    spec = write(tmp_path / "data", block_size=8)
    first = load_blocks(spec, vocab_size=300)
    other = load_blocks(spec, vocab_size=265)
    assert len(other.train.processor()) == 265 < len(first.train.processor())
    first.train.processor().save_pretrained(tmp_path / "saved")
    saved = load_blocks(spec, tokenizer=str(tmp_path / "saved"))
    assert torch.equal(saved.train.tokens, first.train.tokens)
    assert AutoTokenizer.from_pretrained(tmp_path / "saved").eos_token == END
    monkeypatch.setattr("selfmod_hf.data.blocks.byte_pair_tokenizer", None)  # training again would fail
    again = load_blocks(spec, vocab_size=300)
    assert torch.equal(again.train.tokens, first.train.tokens)


def test_the_same_texts_have_tokens_of_their_own_for_each_use(tmp_path):
    """Whole texts, and joined ones with an end. Each is in the cache under its own name."""
    spec = write(tmp_path, block_size=8)
    tokenizer = byte_pair_tokenizer(TEXTS, 300)
    of_texts = TaskSpec(name="x", dataset_name=str(tmp_path))
    for _ in range(2):
        blocks = load_blocks(spec, tokenizer=tokenizer).train
        texts = load_texts(of_texts, tokenizer=tokenizer).train
        assert 0 in blocks.tokens
        assert 0 not in texts.tokens
    tokenizer.eos_token = "!"
    assert 0 not in load_blocks(spec, tokenizer=tokenizer).train.tokens


@pytest.mark.parametrize(
    ("fields", "arguments", "message"),
    [
        ({"block_size": 1}, {}, "block_size=1: allowed are integers of at least 2"),
        ({"block_size": 5000}, {}, "block_size=5000: split 'train' has "),
        ({"label_column": "label"}, {}, "label_column='label': allowed without `task_type` causal-lm"),
        ({"text_column": "label"}, {}, "text_column='label': has type Value('int64'); allowed are strings"),
        ({"text_column": ["text", "label"]}, {}, "text_column=['text', 'label']: allowed is one column with"),
        ({"problem_type": "regression"}, {}, "problem_type='regression': allowed with a label for each sample"),
        ({}, {"vocab_size": 256}, "vocab_size=256: allowed are integers of at least 257"),
        ({}, {"max_test_samples": 0}, "max_test_samples=0"),
        ({}, {"tokenizer": basic_english_tokenizer(TEXTS)}, "tokenizer_name='': has no end-of-text token"),
        ({}, {"tokenizer": byte_pair_tokenizer(TEXTS, 260), "vocab_size": 300}, "vocab_size=300: is that of"),
        ({"task_type": None}, {}, "task_type=None: allowed is causal-lm"),
    ],
)
def test_unusable_settings_are_one_line(fields, arguments, message, tmp_path):
    with pytest.raises(InputError) as error:
        load_blocks(write(tmp_path, **fields), **arguments)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_a_missing_text_is_named_or_left_out(tmp_path):
    spec = write(tmp_path, [*TEXTS, None], block_size=8)
    with pytest.raises(InputError, match=r"text_column='text': row 12 holds no text"):
        load_blocks(spec)
    spec = write(tmp_path, [*TEXTS, None], block_size=8, skip_missing=True)
    assert isinstance(load_blocks(spec, vocab_size=300).train, BlockTensors)


def test_a_block_fits_the_tokenizers_network(tmp_path):
    tokenizer = byte_pair_tokenizer(TEXTS, 300)
    tokenizer.model_max_length = 20
    assert load_blocks(write(tmp_path), tokenizer=tokenizer).task.block_size == 20
    with pytest.raises(InputError, match=r"block_size=21: the tokenizer's network reads at most 20 tokens"):
        load_blocks(write(tmp_path, block_size=21), tokenizer=tokenizer)


def test_other_readers_name_the_task(tmp_path):
    for load in (load_texts, load_images):
        with pytest.raises(InputError, match="task_type='causal-lm': allowed"):
            load(write(tmp_path))


def test_a_built_in_task_without_its_labels():
    task = make_task("imdb", {"task_type": "causal-lm", "block_size": 64})
    assert (task.label_column, task.train_data) == (None, "stanfordnlp/imdb, train, blocks of 64 tokens")
    with pytest.raises(InputError, match="task_type='causal-lm': is a task of texts"):
        make_task("mnist", {"task_type": "causal-lm"})
    assert tokenizing.limit_of(byte_pair_tokenizer([], 300)) is None
