"""Texts: words as torchtext's basic English has them, tokens gathered without loss, batches in both layouts."""

import itertools
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from selfmod_hf.data import TaskSpec, TextTensors, basic_english_tokenizer, load_texts
from selfmod_hf.errors import InputError
from tests import warm

REVIEWS = [
    'It\'s "fine" (mostly).<br /><br />Not GREAT, not bad; why? Because: reasons!',
    "A film.",
    "Dull dull dull film",
    "Good, good film!",
    "bad",
    "It's the end... or not?",
]


def torchtext_basic_english(line: str) -> list[str]:
    """torchtext.data.utils, written from its documentation."""
    line = line.lower()
    for pattern, replacement in [
        (r"\'", " '  "),
        (r"\"", ""),
        (r"\.", " . "),
        (r"<br \/>", " "),
        (r",", " , "),
        (r"\(", " ( "),
        (r"\)", " ) "),
        (r"\!", " ! "),
        (r"\?", " ? "),
        (r"\;", " "),
        (r"\:", " "),
        (r"\s+", " "),
    ]:
        line = re.sub(pattern, replacement, line)
    return line.split()


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="abC'\".,()!?;: \t\n<br/>é0-", max_size=40))
def test_words_are_those_of_torchtext(text):
    words = torchtext_basic_english(text)
    tokenizer = basic_english_tokenizer([" ".join(words), "x"])
    assert tokenizer.tokenize(text) == words


def test_the_vocabulary_is_every_word_and_unk_the_most_frequent_first():
    tokenizer = basic_english_tokenizer(REVIEWS)
    words = {word for review in REVIEWS for word in torchtext_basic_english(review)}
    assert set(tokenizer.get_vocab()) == {"<unk>", *words}
    assert tokenizer.convert_ids_to_tokens([0, 1]) == ["<unk>", "."]
    assert tokenizer("unheard of film")["input_ids"] == [0, 0, tokenizer.convert_tokens_to_ids("film")]


def test_a_saved_tokenizer_reads_back(tmp_path):
    from transformers import AutoTokenizer

    tokenizer = basic_english_tokenizer(REVIEWS)
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded.get_vocab() == tokenizer.get_vocab()
    assert loaded(REVIEWS)["input_ids"] == tokenizer(REVIEWS)["input_ids"]
    padded = loaded(REVIEWS, padding=True, return_tensors="pt")
    assert padded["attention_mask"].sum(1).tolist() == [len(torchtext_basic_english(text)) for text in REVIEWS]


# ------------------------------------------------------------------------------------- batches


@settings(max_examples=50, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 7), min_size=1, max_size=8),
    rows=st.lists(st.integers(0, 7), min_size=1, max_size=10),
)
def test_batches_hold_each_texts_own_tokens(lengths, rows):
    data = texts(lengths)
    rows = torch.tensor([row % len(lengths) for row in rows])
    expected = [data.tokens[data.offsets[row] : data.offsets[row + 1]].tolist() for row in rows]
    bags = data.batch(rows)
    ends = bags["offsets"].tolist()
    assert [bags["input_ids"][a:b].tolist() for a, b in itertools.pairwise(ends)] == expected
    assert ends[-1] == len(bags["input_ids"])  # nothing wasted
    padded = texts(lengths, padded=True).batch(rows)
    kept = [ids[mask.bool()].tolist() for ids, mask in zip(padded["input_ids"], padded["attention_mask"], strict=True)]
    assert kept == expected
    assert padded["input_ids"].shape[1] == max(1, *(len(tokens) for tokens in expected))
    assert torch.equal(bags["labels"], data.labels[rows])


def texts(lengths: list[int], padded: bool = False) -> TextTensors:
    class Tokenizer:
        pad_token_id = 99

    ends = torch.tensor([0, *lengths]).cumsum(0)
    labels = torch.arange(len(lengths)) % 2
    return TextTensors(torch.arange(int(ends[-1])).int(), ends, labels, Tokenizer(), padded)


def test_members_batches_are_their_own_with_filler_behind():
    data = texts([2, 5, 1, 3])
    rows = torch.tensor([[0, 2], [1, 3]])
    batch = data.take_members(rows)
    assert batch["offsets"].tolist() == [[0, 2, 3], [0, 5, 8]]
    assert batch["input_ids"].shape == (2, 8)
    for k in range(2):
        alone = data.take(rows[k])
        assert torch.equal(batch["input_ids"][k, : len(alone["input_ids"])], alone["input_ids"])
        assert torch.equal(batch["labels"][k], alone["labels"])


def test_index_minus_one_is_no_sample():
    assert texts([2, 3]).batch(torch.tensor([-1]))["labels"].tolist() == [-100]


def test_one_sample_has_its_own_tokens():
    for padded, names in ((False, {"input_ids", "labels"}), (True, {"input_ids", "attention_mask", "labels"})):
        data = texts([2, 5, 1, 3], padded=padded)
        for row in range(4):
            sample = data[row]
            assert set(sample) == names
            assert sample["input_ids"].tolist() == data.tokens[data.offsets[row] : data.offsets[row + 1]].tolist()
            assert (sample["labels"].shape, int(sample["labels"])) == ((), row % 2)
        assert torch.equal(data[-1]["input_ids"], data[3]["input_ids"])
        assert len(list(data)) == 4
        for outside in (4, -5):
            with pytest.raises(IndexError, match=f"index={outside}: allowed are -4 to 3"):
                data[outside]


# ------------------------------------------------------------------------------------- reading


def write_dataset(folder, texts=REVIEWS, labels=(0, 1, 0, 1, 0, 1), text_type="string"):
    from datasets import ClassLabel, Dataset, Features, Value

    (folder / "data").mkdir(parents=True, exist_ok=True)
    features = Features({"review": Value(text_type), "mood": ClassLabel(names=["bad", "good"])})
    columns = {"review": list(texts), "mood": list(labels)}
    for split in ("train", "test"):
        Dataset.from_dict(columns, features=features).to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")


def spec(folder, **fields) -> TaskSpec:
    return TaskSpec(
        **{"name": "own", "dataset_name": str(folder), "text_column": "review", "label_column": "mood", **fields}
    )


def test_texts_and_labels_arrive(tmp_path):
    write_dataset(tmp_path)
    data = load_texts(spec(tmp_path))
    assert data.label_names == ["bad", "good"]
    assert data.train.labels.tolist() == [0, 1, 0, 1, 0, 1]
    for index, review in enumerate(REVIEWS):
        tokens = data.train.take(torch.tensor([index]))["input_ids"]
        assert data.train.tokenizer.convert_ids_to_tokens(tokens.tolist()) == torchtext_basic_english(review)
    assert data.train.longest == len(torchtext_basic_english(REVIEWS[0]))


def test_max_length_cuts(tmp_path):
    write_dataset(tmp_path)
    data = load_texts(spec(tmp_path), max_length=3)
    assert data.train.offsets.diff().tolist() == [3, 3, 3, 3, 1, 3]


def test_texts_are_tokenized_once(tmp_path):
    write_dataset(tmp_path)
    tokenizer = basic_english_tokenizer(REVIEWS)
    first = load_texts(spec(tmp_path), tokenizer=tokenizer)
    calls = []
    tokenizer._encode_plus = lambda *args, **kwargs: calls.append(args)  # tokenizing again would fail
    again = load_texts(spec(tmp_path), tokenizer=tokenizer)
    assert not calls
    assert torch.equal(again.train.tokens, first.train.tokens)
    other = basic_english_tokenizer(REVIEWS[:2])
    assert not torch.equal(load_texts(spec(tmp_path), tokenizer=other).train.tokens, first.train.tokens)


@pytest.mark.parametrize(
    ("written", "asked", "message"),
    [
        ({}, {"text_column": "text"}, "text_column='text': no such column; the data set has review, mood"),
        ({}, {"text_column": "mood"}, "text_column='mood': has type ClassLabel"),
        ({"texts": [*REVIEWS[:5], None]}, {}, "text_column='review': row 5 holds no text"),
        ({"labels": [0] * 6}, {}, "all training labels are the same class"),
        ({"texts": [], "labels": []}, {}, "the split is empty"),
    ],
)
def test_unusable_data_is_refused_in_one_line(tmp_path, written, asked, message):
    write_dataset(tmp_path, **written)
    with pytest.raises(InputError) as error:
        load_texts(spec(tmp_path, **asked))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_an_unknown_tokenizer_is_refused(tmp_path):
    write_dataset(tmp_path)
    with pytest.raises(InputError, match=r"tokenizer_name='\./nowhere'"):
        load_texts(spec(tmp_path), tokenizer="./nowhere")


IMDB = """
from selfmod_hf.data import get_task, load_texts
data = load_texts(get_task("imdb"))
print(len(data.train), len(data.test), len(data.train.tokenizer))
"""


@pytest.mark.weekly
def test_the_vocabulary_of_imdb_is_the_papers(published_hub, published_seed, tmp_path):
    done = warm.run(["-c", IMDB], published_hub.env(), tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == (["25000", "25000", "100683"] if published_seed.real else ["200", "50", "20"])
