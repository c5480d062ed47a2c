"""Tokens of texts, of sentence pairs and of words: what the tokenizer gives, each kept for its own settings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, BertTokenizer

from selfmod_hf import TaskSpec, load_texts
from selfmod_hf.data.tokenizer import byte_pair_tokenizer
from selfmod_hf.data.tokenizing import Tokens, token_labels
from selfmod_hf.errors import InputError
from tests.data.test_cache import Letters

WORDS = ["a", "b", "c", "d", "##e", "f"]
FIRST = ["a b", "c", "a a a a a a"]
SECOND = ["d", "a f", "b b"]


@pytest.fixture(scope="module")
def bert(tmp_path_factory) -> BertTokenizer:
    """A small tokenizer of BERT's kind: it marks the texts of a pair, and splits words."""
    vocabulary = tmp_path_factory.mktemp("bert") / "vocab.txt"
    vocabulary.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]))
    return BertTokenizer(str(vocabulary))


def write(folder: Path, **columns: list) -> TaskSpec:
    columns.setdefault("label", [0, 1, 0])
    for split in ("train", "test"):
        datasets.Dataset.from_dict(columns).to_parquet(folder / f"{split}.parquet")
    return TaskSpec(name="x", dataset_name=str(folder))


def pairs(folder: Path, *columns: str) -> TaskSpec:
    spec = write(folder, one=FIRST, two=SECOND)
    return TaskSpec(name="x", dataset_name=spec.dataset_name, text_column=columns or ("one", "two"))


@pytest.mark.parametrize("limit", [None, 6])
def test_pairs_are_those_of_the_tokenizer(limit, bert, tmp_path):
    data = load_texts(pairs(tmp_path), tokenizer=bert, padded=True, max_length=limit).train
    expected = bert(FIRST, SECOND, padding=True, truncation=limit is not None, max_length=limit, return_tensors="pt")
    batch = data.batch([0, 1, 2])
    for name in ("input_ids", "attention_mask", "token_type_ids"):
        assert torch.equal(batch[name], expected[name])
    assert batch["labels"].tolist() == [0, 1, 0]
    assert batch["token_type_ids"].sum() > 0
    moved = data.to("cpu").first(2)
    assert torch.equal(moved.batch([1])["token_type_ids"], batch["token_type_ids"][1:2, : moved.offsets.diff()[1]])
    members = data.take_members(torch.tensor([[0, 1], [2, 0]]))
    assert members["token_type_ids"].shape == members["input_ids"].shape
    assert torch.equal(members["token_type_ids"][0], batch["token_type_ids"][:2, : members["input_ids"].shape[2]])


def test_single_texts_have_no_types(bert, tmp_path):
    spec = write(tmp_path, text=FIRST)
    batch = load_texts(spec, tokenizer=bert, padded=True).train.batch([0, 1])
    assert set(batch) == {"input_ids", "attention_mask", "labels"}


def test_each_choice_of_columns_has_tokens_of_its_own(bert, tmp_path):
    """In the cache too: pairs, their order, each text alone, and words of the same letters."""
    written = write(tmp_path, one=FIRST, two=SECOND)
    found = {}
    for _ in range(2):
        for columns in (("one", "two"), ("two", "one"), ("one",), ("two",)):
            spec = replace(written, text_column=columns)
            data = load_texts(spec, tokenizer=bert, padded=True).train
            rows = [data[row]["input_ids"].tolist() for row in range(3)]
            texts = {"one": FIRST, "two": SECOND}
            assert rows == bert(*[texts[name] for name in columns])["input_ids"]
            found[columns] = rows
    assert len({str(rows) for rows in found.values()}) == 4


def test_pairs_without_a_tokenizer_have_the_words_of_both(tmp_path):
    data = load_texts(pairs(tmp_path)).train
    tokenizer = data.processor()
    assert set(tokenizer.get_vocab()) == {"<unk>", *"abcdf"}
    assert tokenizer.convert_ids_to_tokens(data[1]["input_ids"].tolist()) == ["c", "a", "f"]
    alone = load_texts(pairs(tmp_path, "one")).train.processor()
    assert set(alone.get_vocab()) == {"<unk>", *"abc"}


@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        (("one", "two", "label"), "text_column=['one', 'two', 'label']: allowed are one column, and two columns of"),
        (("one", "one"), "text_column=['one', 'one']: allowed are"),
        ((), "text_column=[]: allowed are"),
        (("one", "three"), "text_column='three': no such column; the data set has one, two, label"),
        (("one", "label"), "text_column='label': has type Value('int64'); allowed are strings"),
    ],
)
def test_columns_that_are_no_pair_are_one_line(columns, problem, tmp_path):
    spec = write(tmp_path, one=FIRST, two=SECOND)
    with pytest.raises(InputError) as error:
        load_texts(TaskSpec(name="x", dataset_name=spec.dataset_name, text_column=columns))
    assert str(error.value).startswith(problem)


def test_both_texts_of_a_pair_are_there(bert, tmp_path):
    spec = write(tmp_path, one=FIRST, two=["d", None, "b"], label=[0, 1, 1])
    fields = {"name": "x", "dataset_name": spec.dataset_name, "text_column": ["one", "two"]}
    with pytest.raises(InputError, match=r"text_column='two': row 1 holds no text"):
        load_texts(TaskSpec(**fields))
    assert len(load_texts(TaskSpec(**fields, skip_missing=True)).train) == 2
    with pytest.raises(InputError, match=r"max_length=3: leaves no place for a text beside 3 special tokens"):
        load_texts(TaskSpec(**fields, skip_missing=True), tokenizer=bert, max_length=3)


def test_words_in_pieces_have_their_label_once(bert, tmp_path):
    """As transformers' collator for token classification expects it."""
    tokens = [["a", "de", "f"], ["de"], ["b", "c", "de", "a", "b"]]
    tags = [["X", "Y", "X"], ["Y"], ["X", "X", "Y", "X", "X"]]
    spec = write(tmp_path, tokens=tokens, tags=tags, label=[0, 0, 0])
    fields = {"text_column": "tokens", "label_column": "tags", "task_type": "token-classification"}
    data = load_texts(TaskSpec(name="x", dataset_name=spec.dataset_name, **fields), tokenizer=bert, max_length=6).train
    batch = data.batch([0, 1, 2])
    pieces = [bert.convert_ids_to_tokens(row) for row in batch["input_ids"].tolist()]
    assert pieces[0] == ["[CLS]", "a", "d", "##e", "f", "[SEP]"]
    assert batch["labels"].tolist() == [
        [-100, 0, 1, -100, 0, -100],
        [-100, 1, -100, -100, -100, -100],
        [-100, 0, 0, 1, -100, -100],  # cut
    ]
    assert data.labels.tolist() == [3, 1, 3]
    as_text = write(tmp_path, text=["a de f", "de", "b"], label=[0, 1, 0])
    whole = load_texts(as_text, tokenizer=bert, padded=True).train
    assert whole.batch([0])["labels"].tolist() == [0]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.integers(0, 3), max_size=4), min_size=1, max_size=5))
def test_labels_of_tokens(pieces):
    """Word w of row r has pieces[r][w] tokens, with a special token on both sides of each row."""
    words, expected, labels, offsets = [], [], [], [0]
    for row in pieces:
        words.append(-1)
        expected.append(-100)
        for number, count in enumerate(row):
            label = len(labels)
            labels.append(label)
            words += [number] * count
            expected += [label, -100, -100][:count]
        words.append(-1)
        expected.append(-100)
        offsets.append(len(words))
    tokens = Tokens(torch.zeros(len(words)), torch.tensor(offsets), words=torch.tensor(words, dtype=torch.int32))
    lengths = np.array([len(row) for row in pieces])
    found = token_labels(tokens, torch.tensor(labels, dtype=torch.long), lengths, -100)
    assert found.tolist() == expected


def test_byte_pairs_see_a_space_before_each_word(tmp_path):
    """As within a text, so that a pretrained table of tokens is used as it was trained. The saved tokenizer too."""
    tokenizer = byte_pair_tokenizer([" film film film"], vocab_size=300)
    rows = [["film", "film"], ["film", "good"], ["film", "film"]]
    write(tmp_path, tokens=rows, tags=[["X", "Y"]] * 3)
    fields = {"text_column": "tokens", "label_column": "tags", "task_type": "token-classification"}
    spec = TaskSpec(name="x", dataset_name=str(tmp_path), **fields)
    data = load_texts(spec, tokenizer=tokenizer).train
    assert data[0]["input_ids"].tolist() == tokenizer(" film film")["input_ids"]
    assert len(data[0]["input_ids"]) == 2
    data.processor().save_pretrained(tmp_path / "saved")
    again = load_texts(spec, tokenizer=AutoTokenizer.from_pretrained(tmp_path / "saved")).train
    assert torch.equal(again.tokens, data.tokens)
    assert tokenizer("film")["input_ids"] != tokenizer(" film")["input_ids"]  # the given one is as it was


def test_words_need_a_tokenizer_that_knows_them(tmp_path):
    write(tmp_path, tokens=[["a"], ["b"], ["c"]], tags=[["X"], ["Y"], ["X"]])
    spec = TaskSpec(name="x", dataset_name=str(tmp_path), text_column="tokens", task_type="token-classification")
    with pytest.raises(InputError, match="tokenizer_name='': is a tokenizer in Python"):
        load_texts(TaskSpec(**{**vars(spec), "label_column": "tags"}), tokenizer=Letters())
