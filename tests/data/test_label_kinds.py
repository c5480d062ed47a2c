"""Labels other than one class: several classes, scores, a class of each word. Bad ones are one line each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from datasets import ClassLabel, Features, List, Value
from hypothesis import given, settings
from hypothesis import strategies as st

from selfmod_hf import TaskSpec, load_images, load_texts
from selfmod_hf.data import ImageTensors, TensorDataLoader
from selfmod_hf.data.augmentation import RandomAffine
from selfmod_hf.data.batches import EpochBatchSampler
from selfmod_hf.data.rows import Rows
from selfmod_hf.errors import InputError

TEXT, INT, FLOAT, BOOL = Value("string"), Value("int64"), Value("float64"), Value("bool")
NAMES = ClassLabel(names=["x", "y", "z"])


def write(folder: Path, kind: Any, train: list[Any], test: list[Any], samples: Any = None, **fields: Any) -> TaskSpec:
    """Write texts, or samples of another type, with these labels."""
    for split, labels in (("train", train), ("test", test)):
        column = [f"text {row}" for row in range(len(labels))]
        sample_type: Any = TEXT
        if samples is not None:
            column, sample_type = samples[: len(labels)], List(TEXT)
        rows = {"text": column, "label": labels}
        features = Features({"text": sample_type, "label": kind})
        datasets.Dataset.from_dict(rows, features=features).to_parquet(folder / f"{split}.parquet")
    return TaskSpec(name="x", dataset_name=str(folder), **fields)


# ------------------------------------------------------------------------------------- several classes

# type, training labels -> names, labels as numbers
SEVERAL = {
    "ClassLabel": (List(NAMES), [[0, 2], [], [1]], ["x", "y", "z"], [[1, 0, 1], [0, 0, 0], [0, 1, 0]]),
    "strings": (List(TEXT), [["b"], ["a", "b"], []], ["a", "b"], [[0, 1], [1, 1], [0, 0]]),
    "integers": (List(INT), [[3], [0, 1], [0]], ["0", "1", "2", "3"], [[0, 0, 0, 1], [1, 1, 0, 0], [1, 0, 0, 0]]),
    "marks": (List(BOOL), [[True, False], [True, True], [False, False]], ["0", "1"], [[1, 0], [1, 1], [0, 0]]),
    "marks of a fixed length": (List(FLOAT, length=2), [[1.0, 0.0], [0.0, 0.0]], ["0", "1"], [[1, 0], [0, 0]]),
    "a large list": (datasets.LargeList(INT), [[1], [0]], ["0", "1"], [[0, 1], [1, 0]]),
}


@pytest.mark.parametrize("case", SEVERAL)
def test_several_classes_of_a_sample(case, tmp_path):
    kind, train, names, numbers = SEVERAL[case]
    data = load_texts(write(tmp_path, kind, train, train))
    assert data.label_names == names
    assert data.train.labels.dtype == torch.float32
    assert data.train.labels.tolist() == numbers
    assert data.train.problem_type == data.task.problem_type == "multi_label_classification"
    assert torch.equal(data.test.batch([1])["labels"], data.train.labels[1:2])


@settings(max_examples=25, deadline=None)
@given(rows=st.lists(st.one_of(st.none(), st.lists(st.integers(0, 5), max_size=4)), min_size=1, max_size=8))
def test_lists_are_read_without_loss(rows):
    data = datasets.Dataset.from_dict({"a": rows}, features=Features({"a": List(INT)}))
    lists = Rows(data, "train", np.arange(len(rows))).lists("a")
    entries = lists.values.to_pylist()
    found: list[Any] = [None if missing else [] for missing in lists.missing]
    for place, entry in zip(lists.rows, entries, strict=True):
        found[place].append(entry)
    assert found == rows


def test_classes_that_only_test_samples_have_are_counted(tmp_path):
    data = load_texts(write(tmp_path, List(NAMES), [[0], [1]], [[2, 0], [2]]))
    assert data.unseen_classes == {"z": 2}


def test_images_of_several_classes(tmp_path):
    """Batches of the augmented images too. A process without a sample has a row that enters no loss."""
    features = Features({"image": datasets.Image(), "labels": List(NAMES)})
    images = [np.full((4, 4), 50 * row, np.uint8) for row in range(3)]
    for split in ("train", "test"):
        rows = datasets.Dataset.from_dict({"image": images, "labels": [[0, 2], [1], []]}, features=features)
        rows.to_parquet(tmp_path / f"{split}.parquet")
    data = load_images(TaskSpec(name="x", dataset_name=str(tmp_path)))
    assert (data.task.label_column, data.label_names) == ("labels", ["x", "y", "z"])
    assert data.train.labels.tolist() == [[1, 0, 1], [0, 1, 0], [0, 0, 0]]
    assert data.train.batch([-1])["labels"].isnan().all()
    augmented = ImageTensors(data.train.pixels, data.train.labels, augmentation=RandomAffine())
    sampler = EpochBatchSampler(3, batch_size=2, seed=0, num_processes=2, process_index=1)
    batches = [batch["labels"] for batch in TensorDataLoader(augmented, sampler)]
    assert [tuple(labels.shape) for labels in batches] == [(1, 3)]
    alone = EpochBatchSampler(1, batch_size=1, seed=0, num_processes=2, process_index=1)
    [batch] = TensorDataLoader(augmented.first(1), alone)
    assert batch["labels"].shape == (1, 3)
    assert batch["labels"].isnan().all()


# ------------------------------------------------------------------------------------- scores


def test_scores(tmp_path):
    data = load_texts(write(tmp_path, FLOAT, [0.5, 1.0, -2.25], [3.5], problem_type="regression"))
    assert (data.label_names, data.train.problem_type) == (["label"], "regression")
    assert data.train.labels.dtype == torch.float32
    assert (data.train.labels.tolist(), data.test.labels.tolist()) == ([0.5, 1.0, -2.25], [3.5])
    assert data.unseen_classes == {}


@pytest.mark.parametrize("kind", [FLOAT, INT, BOOL, Value("float16"), Value("uint8")])
def test_whole_numbers_are_scores_where_the_task_says_so(kind, tmp_path):
    spec = write(tmp_path, kind, [1, 0, 1], [0], problem_type="regression")
    assert load_texts(spec).train.labels.tolist() == [1.0, 0.0, 1.0]
    assert load_texts(TaskSpec(name="x", dataset_name=str(tmp_path))).train.labels.tolist() == [1, 0, 1]


def test_scores_are_held_out_at_random(tmp_path):
    """Each value occurs once, so it cannot be divided."""
    spec = write(tmp_path, FLOAT, [row / 7 for row in range(20)], [0.0])
    spec = TaskSpec(name="x", dataset_name=spec.dataset_name, problem_type="regression", test_fraction=0.25)
    data = load_texts(spec)
    found = sorted([*data.train.labels.tolist(), *data.test.labels.tolist()])
    assert found == pytest.approx([row / 7 for row in range(20)])
    assert len(data.test) == 5


# ------------------------------------------------------------------------------------- a class of each word

WORDS = [["New York", "is", "big"], ["unheard", "of"], ["big", "of", "is"]]


@pytest.mark.parametrize(
    ("kind", "labels", "names"),
    [
        (List(NAMES), [[0, 1, 2], [2, 2], [0, 0, 0]], ["x", "y", "z"]),
        (List(TEXT), [["x", "y", "z"], ["z", "z"], ["x", "x", "x"]], ["x", "y", "z"]),
        (List(INT), [[0, 1, 2], [2, 2], [0, 0, 0]], ["0", "1", "2"]),
    ],
)
def test_the_first_token_of_each_word_has_its_label(kind, labels, names, tmp_path):
    data = load_texts(write(tmp_path, kind, labels, labels, WORDS, task_type="token-classification"))
    assert (data.label_names, data.train.kind, data.train.problem_type) == (names, "token-classification", None)
    batch = data.train.batch([0, 1])
    assert batch["labels"].tolist() == [[0, -100, 1, 2], [2, 2, -100, -100]]  # "New York" has two tokens
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert data.train.labels.tolist() == [3, 2, 3]
    assert data.train.batch([-1])["labels"].tolist() == [[-100] * 4]
    assert data.train.first(2).class_counts(3).tolist() == [1, 1, 3]


def test_words_without_a_class_and_words_that_are_cut(tmp_path):
    labels = [[-100, 1, 0], [1, -100], [-100, -100, -100]]
    spec = write(tmp_path, List(INT), labels, labels, WORDS, task_type="token-classification")
    data = load_texts(spec, max_length=3)
    assert data.train.batch([0, 1, 2])["labels"].tolist() == [[-100, -100, 1], [1, -100, -100], [-100, -100, -100]]
    assert data.train.labels.tolist() == [1, 1, 0]


# ------------------------------------------------------------------------------------- bad labels

REGRESSION = {"problem_type": "regression"}
TOKENS = {"task_type": "token-classification"}
NAN = float("nan")
# type of the labels, training labels, test labels, fields of the task, the error
BAD = {
    "a string of several": (
        List(TEXT), [["a"], ["b"]], [["a", "c"], ["d"]], {},
        "row 0 of split 'test' has label 'c', allowed are 'a', 'b'; 2 of 2 rows have such labels: 'c', 'd'",
    ),
    "a number of several": (List(INT), [[0], [1]], [[1], [9]], {}, "row 1 of split 'test' has label 9, allowed are 0"),
    "no class of a ClassLabel": (List(NAMES), [[0], [-1]], [[1]], {}, "row 1 of split 'train' has label -1, allowed"),
    "a missing list": (List(INT), [[0], None], [[1]], {}, "row 1 of split 'train' holds no label (`skip_missing`"),
    "a missing entry": (List(INT), [[0], [1, None]], [[1]], {}, "row 1 of split 'train' has a list with a missing"),
    "a label twice": (List(INT), [[0, 1, 0], [1]], [[1]], {}, "row 0 of split 'train' has label '0' several times"),
    "marks of another number": (
        List(BOOL), [[True, False], [True]], [[True, True]], {}, "row 1 of split 'train' has 1 entries, allowed are 2"
    ),
    "a mark of a share": (
        List(FLOAT), [[1.0, 0.0], [0.5, 0.0]], [[1.0, 1.0]], {}, "row 1 of split 'train' has entry 0.5, allowed are 0 "
    ),
    "no label anywhere": (List(TEXT), [[], []], [[]], {}, "no training sample has a label"),
    "equal lists": (List(INT), [[0, 1], [1, 0]], [[1]], {}, "all training samples have the same labels"),
    "lists with one class": (
        List(INT), [[0], [1]], [[1]], {"problem_type": "single_label_classification"},
        "has type List(Value('int64')); allowed are ClassLabel, int, string (lists with `problem_type` multi_",
    ),
    "several classes without lists": (
        INT, [0, 1], [1], {"problem_type": "multi_label_classification"}, "has type Value('int64'); allowed are lists"
    ),
    "lists of lists": (List(List(INT)), [[[0]]], [[[0]]], {}, "has type List(List(Value('int64'))); allowed are lists"),
    "fractions": (
        FLOAT, [0.5, 1.0], [0.5], {},
        "row 0 of split 'train' has label 0.5, allowed are 0 to 1; with `problem_type` regression such labels are sco",
    ),
    "NaN": (FLOAT, [0.5, NAN, NAN], [0.5], REGRESSION, "row 1 of split 'train' has score nan, allowed are finite"),
    "infinity": (FLOAT, [0.5, 1.5], [-1e300], REGRESSION, "row 0 of split 'test' has score -1e+300, allowed are"),
    "a missing score": (FLOAT, [0.5, None], [0.5], REGRESSION, "row 1 of split 'train' holds no label"),
    "equal scores": (FLOAT, [0.5, 0.5], [0.5], REGRESSION, "all training scores are the same"),
    "scores are strings": (TEXT, ["a", "b"], ["a"], REGRESSION, "has type Value('string'); allowed are float, int"),
    "scores of a ClassLabel": (NAMES, [0, 1], [0], REGRESSION, "has type ClassLabel"),
    "another number of words": (
        List(INT), [[0, 1, 1], [1]], [[0, 1, 0]], TOKENS,
        "row 1 of split 'train' has 1 labels for 2 words (`text_column` text), allowed is one for each word",
    ),
    "no class of a word": (
        List(INT), [[0, 1, 1], [1, 0]], [[0, 7, -1]], TOKENS, "row 0 of split 'test' has label 7, allowed are 0 to 1"
    ),
    "words of one class": (List(INT), [[1, 1, 1], [1, -100]], [[0, 1, 0]], TOKENS, "all training labels are the same"),
    "words without classes": (List(INT), [[-100] * 3], [[0, 1, 0]], TOKENS, "no training word has a label"),
    "words with scores": (List(FLOAT), [[0.5] * 3], [[0.5] * 3], TOKENS, "has type List(Value('float64')); allowed"),
    "one class for all words": (INT, [0, 1], [1], TOKENS, "has type Value('int64'); allowed are lists of ClassLabel"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_labels_are_one_line_with_row_and_value(case, tmp_path):
    kind, train, test, fields, problem = BAD[case]
    samples = WORDS if fields == TOKENS else None
    with pytest.raises(InputError) as error:
        load_texts(write(tmp_path, kind, train, test, samples, **fields))
    assert str(error.value).startswith(f"label_column='label': {problem}")
    assert "\n" not in str(error.value)


def test_rows_without_labels_are_left_out(tmp_path):
    spec = write(tmp_path, List(INT), [[0], None, [1], []], [[1]], skip_missing=True)
    assert load_texts(spec).train.labels.tolist() == [[1, 0], [0, 1], [0, 0]]


def test_words_are_strings(tmp_path):
    spec = write(tmp_path, INT, [0, 1], [1], WORDS)
    with pytest.raises(InputError, match=r"text_column=None: no column holds strings"):
        load_texts(spec)
    with pytest.raises(InputError, match=r"allowed are strings \(lists of words with `task_type` token-classification"):
        load_texts(TaskSpec(name="x", dataset_name=str(tmp_path), text_column="text"))
    missing = [["a", None], ["b", "c"]]
    spec = write(tmp_path, List(INT), [[0, 1], [1, 0]], [[0, 1]], missing, task_type="token-classification")
    with pytest.raises(InputError, match=r"text_column='text': row 0 of split 'train' has a list with a missing entry"):
        load_texts(spec)


def test_missing_labels_are_of_no_class():
    pixels = torch.zeros(3, 1, 2, 2, dtype=torch.uint8)
    assert ImageTensors(pixels, torch.tensor([1, -100, 1])).class_counts(3).tolist() == [0, 2, 0]
    marks = torch.tensor([[1.0, 0.0], [-100.0, -100.0], [torch.nan, 1.0]])
    assert ImageTensors(pixels, marks).class_counts(2).tolist() == [1, 1]
