"""Which rows, columns and splits a task has where its data set says so and the user does not."""

import bz2
import gzip
import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Image, Value
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image as PILImage

from selfmod_hf import TaskSpec, load_images, load_texts
from selfmod_hf.data import basic_english_tokenizer, get_task, resolve_task
from selfmod_hf.errors import InputError

WORDS = ["red one", "green two", "blue three", "red four", "green five", "blue six", "red seven", "green eight"]
LABELS = [0, 1, 0, 1, 0, 1, 0, 1]


def write(folder: Path, features: dict[str, Any] | None = None, **splits: dict[str, list[Any]]) -> TaskSpec:
    folder.mkdir(parents=True, exist_ok=True)
    for split, columns in splits.items():
        rows = Dataset.from_dict(columns, features=None if features is None else Features(features))
        rows.to_parquet(folder / f"{split}.parquet")
    return TaskSpec(name="x", dataset_name=str(folder))


def texts_of(data: Any) -> list[str]:
    """The texts that a split's tokens say."""
    return [data.tokenizer.decode(data[row]["input_ids"]) for row in range(len(data))]


def message(spec: TaskSpec, load: Any = load_texts, **settings: Any) -> str:
    with pytest.raises(InputError) as error:
        load(spec, **settings)
    assert "\n" not in str(error.value)
    return str(error.value)


# ------------------------------------------------------------------------------------- a test split


@pytest.mark.parametrize("name", ["test", "validation", "dev", "valid", "val"])
def test_the_test_split_is_found(name, tmp_path):
    """By its own name where the data set names its files; folders have dev, valid and val under `validation`."""
    spec = write(tmp_path / "data", train={"text": WORDS, "label": LABELS}, other={"text": WORDS[:2], "label": [1, 0]})
    files = [{"split": "train", "path": "data/train.parquet"}, {"split": name, "path": "data/other.parquet"}]
    card = {"configs": [{"config_name": "default", "data_files": files}]}
    (tmp_path / "README.md").write_text(f"---\n{json.dumps(card)}\n---\n")
    data = load_texts(TaskSpec(name="x", dataset_name=str(tmp_path)))
    assert data.task.test_split == name
    assert texts_of(data.test) == WORDS[:2]
    with pytest.raises(InputError, match=r"^test_split='other'"):
        load_texts(TaskSpec(name="x", dataset_name=str(tmp_path), test_split="other"))
    assert spec.test_split is None


def test_test_goes_before_validation(tmp_path):
    parts = {name: {"text": [*WORDS, name], "label": [*LABELS, 0]} for name in ("validation", "train", "test")}
    data = load_texts(write(tmp_path, **parts))
    assert data.task.test_split == "test"
    assert len(data.test) == len(WORDS) + 1


def test_a_training_split_alone_asks_for_a_share(tmp_path):
    spec = write(tmp_path, train={"text": WORDS, "label": LABELS})
    line = message(spec)
    assert line.startswith("test_split=None: the data set has no split called test, validation")
    assert "but train; name one, or hold out a share of train by `test_fraction`" in line


ROWS = st.lists(st.sampled_from(["a", "b", "c"]), min_size=8, max_size=30).filter(lambda labels: len(set(labels)) > 1)


def numbered(folder: Path, labels: list[Any], **fields: Any) -> tuple[list[int], list[int]]:
    """The rows that are trained on and those held out."""
    texts = [f"r{row}" for row in range(len(labels))]
    name = write(folder, train={"text": texts, "label": labels}).dataset_name
    data = load_texts(TaskSpec(name="x", dataset_name=name, **fields), tokenizer=basic_english_tokenizer(texts))
    train, test = ([int(text[1:]) for text in texts_of(part)] for part in (data.train, data.test))
    return train, test


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(labels=ROWS, fraction=st.sampled_from([0.25, 0.5]))
def test_a_share_is_held_out_of_each_class(tmp_path_factory, labels, fraction):
    """Every row once, and each class by its share."""
    shared = {name: count for name, count in Counter(labels).items() if count > 1}
    folder = tmp_path_factory.mktemp("share")
    if int(np.ceil(fraction * sum(shared.values()))) < len(shared):
        with pytest.raises(InputError, match=rf"^test_fraction={fraction}: {len(labels)} rows of"):
            numbered(folder, labels, test_fraction=fraction)
        return
    train, test = numbered(folder, labels, test_fraction=fraction)
    assert sorted(train + test) == list(range(len(labels)))
    assert (train, test) == (sorted(train), sorted(test))
    counts = Counter(labels[row] for row in test)
    for name, count in Counter(labels).items():
        assert abs(counts[name] - fraction * shared.get(name, 0)) <= 1
        assert counts[name] < count


def test_a_share_of_many_rows_is_that_of_each_class(tmp_path):
    labels = [0] * 60 + [1] * 28 + [2] * 12
    _, test = numbered(tmp_path, labels, test_fraction=0.25)
    assert Counter(labels[row] for row in test) == {0: 15, 1: 7, 2: 3}


def test_the_rows_held_out_follow_the_seed_alone(tmp_path):
    labels = [0, 1] * 10
    first = numbered(tmp_path / "a", labels, test_fraction=0.2)
    assert numbered(tmp_path / "b", labels, test_fraction=0.2) == first
    assert numbered(tmp_path / "a", labels, test_fraction=0.2, split_seed=1) != first
    assert len(first[1]) == 4


def test_limits_come_after_the_share(tmp_path):
    spec = write(tmp_path, train={"text": WORDS, "label": LABELS})
    spec = replace(spec, test_fraction=0.5)
    whole, part = load_texts(spec), load_texts(spec, max_train_samples=3, max_test_samples=1)
    assert (len(whole.train), len(whole.test)) == (4, 4)
    assert (len(part.train), len(part.test)) == (3, 1)
    assert set(texts_of(part.train)) < set(texts_of(whole.train))


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"test_fraction": 0.0}, "test_fraction=0.0: allowed are numbers between 0 and 1"),
        ({"test_fraction": 1.0}, "test_fraction=1.0: allowed are"),
        ({"test_fraction": "half"}, "test_fraction='half': allowed are"),
        ({"test_fraction": 0.2, "test_split": "test"}, "test_fraction=0.2: allowed without `test_split`, which is"),
        ({"split_seed": -1}, "split_seed=-1: allowed are integers from 0"),
        ({"split_seed": "a"}, "split_seed='a': allowed are integers from 0"),
    ],
)
def test_a_share_that_is_none_is_rejected(fields, line):
    with pytest.raises(InputError) as error:
        TaskSpec(name="x", dataset_name="x", **fields)
    assert str(error.value).startswith(line)


# ------------------------------------------------------------------------------------- columns


def picture(value: int) -> PILImage.Image:
    return PILImage.fromarray(np.full((4, 4), value, np.uint8))


IMAGES = [picture(value) for value in range(8)]
TEXT, INT, CLASS = Value("string"), Value("int64"), ClassLabel(names=["no", "yes"])
FOUND = {
    "one column of texts": ({"sentence": TEXT, "label": CLASS}, ("sentence", "label")),
    "text goes before others": ({"title": TEXT, "text": TEXT, "label": CLASS}, ("text", "label")),
    "one ClassLabel": ({"idx": INT, "text": TEXT, "topic": CLASS}, ("text", "topic")),
    "one column of integers": ({"text": TEXT, "stars": INT}, ("text", "stars")),
    "labels that are strings": ({"review": TEXT, "label": TEXT}, ("review", "label")),
    "one column of images": ({"picture": Image(), "caption": TEXT, "kind": CLASS}, ("picture", "kind")),
    "image goes before others": ({"small": Image(), "image": Image(), "label": INT}, ("image", "label")),
}
AMBIGUOUS = {
    "two columns of texts": (
        {"title": TEXT, "body": TEXT, "label": CLASS}, "text_column=None: several columns hold strings: title, body"
    ),
    "two columns of images": (
        {"left": Image(), "right": Image(), "label": INT}, "image_column=None: several columns hold images: left, right"
    ),
    "two ClassLabels": (
        {"text": TEXT, "coarse": CLASS, "fine": CLASS}, "label_column=None: several columns hold class labels: coarse"
    ),
    "two columns of integers": ({"text": TEXT, "id": INT, "y": INT}, "label_column=None: several columns hold class"),
    "no label": ({"text": TEXT, "score": Value("float64")}, "label_column=None: no column holds class labels"),
    "neither": ({"x": Value("float64"), "label": CLASS}, "dataset_name="),
}  # fmt: skip


def columns_of(folder: Path, features: dict[str, Any]) -> TaskSpec:
    """A data set with these columns."""
    columns: dict[str, list[Any]] = {}
    for name, feature in features.items():
        columns[name] = IMAGES if isinstance(feature, Image) else LABELS
        if feature is TEXT:
            columns[name] = WORDS if name != "label" else ["b", "a"] * 4
        if isinstance(feature, Value) and "float" in feature.dtype:
            columns[name] = [0.5] * 8
    return write(folder, features, train=columns, test=columns)


@pytest.mark.parametrize("case", FOUND)
def test_columns_are_found_by_their_type(case, tmp_path):
    features, (content, label) = FOUND[case]
    spec = columns_of(tmp_path, features)
    task = resolve_task(spec)
    images = isinstance(features[content], Image)
    assert (task.image_column if images else task.text_column, task.label_column) == (content, label)
    assert (task.text_column is None, task.test_split) == (images, "test")
    data = (load_images if images else load_texts)(spec)
    assert data.task == task
    assert data.train.labels.tolist() == ([1, 0] * 4 if features[label] is TEXT else LABELS)


@pytest.mark.parametrize("case", AMBIGUOUS)
def test_columns_that_are_not_clear_are_asked_for(case, tmp_path):
    features, line = AMBIGUOUS[case]
    spec = columns_of(tmp_path, features)
    with pytest.raises(InputError) as error:
        resolve_task(spec)
    assert str(error.value).startswith(line)
    if case == "two columns of texts":
        assert load_texts(replace(spec, text_column="body")).task.text_column


def test_built_in_tasks_name_everything():
    """So they read what they read before columns were found."""
    for name in ("digits", "mnist", "cifar10", "cifar10-paper-text", "imdb"):
        assert resolve_task(get_task(name)) is get_task(name)


# ------------------------------------------------------------------------------------- single files


def rows() -> Dataset:
    return Dataset.from_dict({"text": WORDS, "label": ["no", "yes"] * 4})


def _json(path: Path) -> None:
    path.write_text(json.dumps([dict(row) for row in rows()]))


FILES = {
    "a.csv": lambda path: rows().to_csv(path),
    "a.CSV": lambda path: rows().to_csv(path),
    "b.tsv": lambda path: rows().to_csv(path, sep="\t"),
    "c.json": _json,
    "d.jsonl": lambda path: rows().to_json(path),
    "e.parquet": lambda path: rows().to_parquet(path),
    "f.csv.gz": lambda path: path.write_bytes(gzip.compress(rows().to_pandas().to_csv(index=False).encode())),
    "g.jsonl.bz2": lambda path: path.write_bytes(
        bz2.compress(rows().to_pandas().to_json(orient="records", lines=True).encode())
    ),
    "with space.csv": lambda path: rows().to_csv(path),
    "[1] *.csv": lambda path: rows().to_csv(path),
}


@pytest.mark.parametrize("name", FILES)
def test_a_single_file_is_a_data_set(name, tmp_path):
    FILES[name](tmp_path / name)
    spec = TaskSpec(name="x", dataset_name=str(tmp_path / name), test_fraction=0.25)
    data = load_texts(spec, tokenizer=basic_english_tokenizer(WORDS))
    assert sorted(texts_of(data.train) + texts_of(data.test)) == sorted(WORDS)
    assert data.label_names == ["no", "yes"]
    assert spec.train_data == f"file {name}, train, without a test fraction of 0.25 (seed 0)"


def test_a_file_that_changed_is_read_again(tmp_path):
    path = tmp_path / "a.csv"
    for word in ("first", "second"):
        path.write_text("text,label\n" + f"{word},0\n{word},1\n" * 4)
        data = load_texts(TaskSpec(name="x", dataset_name=str(path), test_fraction=0.25))
        assert set(texts_of(data.train)) == {word}


def test_files_of_other_kinds_and_configurations_are_rejected(tmp_path):
    (tmp_path / "a.xlsx").write_bytes(b"PK")
    line = message(TaskSpec(name="x", dataset_name=str(tmp_path / "a.xlsx")))
    assert line.endswith("allowed are files that end with .csv, .tsv, .json, .jsonl, .parquet, compressed ones (.gz, "
                         ".bz2, .xz, .zst) too")  # fmt: skip
    rows().to_csv(tmp_path / "a.csv")
    line = message(TaskSpec(name="x", dataset_name=str(tmp_path / "a.csv"), dataset_config="en"))
    assert line == "dataset_config='en': a single file has no configurations"


def test_a_missing_configuration_is_asked_for(tmp_path):
    for name in ("en", "de"):
        write(tmp_path / name, train={"text": WORDS, "label": LABELS}, test={"text": WORDS, "label": LABELS})
    configs = [{"config_name": name, "data_dir": name} for name in ("en", "de")]
    (tmp_path / "README.md").write_text(f"---\n{json.dumps({'configs': configs})}\n---\n")
    spec = TaskSpec(name="x", dataset_name=str(tmp_path))
    assert message(spec) == "dataset_config=None: the data set has several configurations; allowed are 'en', 'de'"
    line = message(replace(spec, dataset_config="fr"))
    assert line.startswith("dataset_config='fr': BuilderConfig 'fr' not found. Available: ")
    assert len(load_texts(replace(spec, dataset_config="de")).train) == 8


# ------------------------------------------------------------------------------------- missing values


def test_missing_texts_are_named_or_left_out(tmp_path):
    holes = {"text": [*WORDS[:5], None, None, WORDS[7]], "label": LABELS}
    spec = write(tmp_path, train={"text": WORDS, "label": LABELS}, test=holes)
    line = "text_column='text': row 5 holds no text (split 'test', 2 of 8 rows; `skip_missing` leaves such rows out)"
    assert message(spec) == line
    data = load_texts(replace(spec, skip_missing=True))
    assert texts_of(data.test) == [*WORDS[:5], WORDS[7]]
    assert data.test.labels.tolist() == [0, 1, 0, 1, 0, 1]
    assert len(data.train) == 8


def test_missing_texts_are_named_by_their_row_in_the_split(tmp_path):
    """Also where few rows are used."""
    holes = {"text": [*WORDS[:6], None, WORDS[7]], "label": [0, 0, 1, 1] * 2}
    spec = write(tmp_path, train=holes, test={"text": WORDS, "label": LABELS})
    assert "row 6 holds no text (split 'train', 1 of 4 rows;" in message(spec, max_train_samples=4)
    assert len(load_texts(spec, max_train_samples=3).train) == 3  # rows 0, 2 and 5


def test_missing_texts_are_named_by_their_row_also_where_a_share_is_held_out(tmp_path):
    """Not by their place among the rows that are left."""
    holes = {"text": [f"word{row}" for row in range(20)] + [None] * 20, "label": [0, 1] * 20}
    spec = replace(write(tmp_path, train=holes), test_fraction=0.5)
    line = message(spec, max_train_samples=10)
    row = re.search(r"row (\d+) holds no text \(split 'train', ", line)
    assert 20 <= int(row[1]) < 40


def test_missing_images_and_labels_are_left_out(tmp_path):
    features = {"image": Image(), "label": INT}
    holes = {"image": [None, *IMAGES[1:]], "label": [*LABELS[:6], None, 1]}
    spec = write(tmp_path, features, train=holes, test={"image": IMAGES, "label": LABELS})
    assert message(spec, load_images).startswith("image_column='image': row 0 holds no image")
    data = load_images(replace(spec, skip_missing=True))
    assert data.train.pixels[:, 0, 0, 0].tolist() == [1, 2, 3, 4, 5, 7]
    assert data.train.labels.tolist() == [1, 0, 1, 0, 1, 1]


def test_cells_that_are_missing_in_a_csv_file(tmp_path):
    """Integers with a missing one among them are read as fractions."""
    path = tmp_path / "a.csv"
    path.write_text("text,label\na,0\nb,1\nc,\n" + "d,0\ne,1\n" * 4)
    spec = TaskSpec(name="x", dataset_name=str(path), label_column="label", test_fraction=0.3)
    assert "row 2 of split 'train' holds no label (`skip_missing` leaves" in message(spec)
    path.write_text("text,label\na,0\nb,1\nc,\n,0\n" + "d,0\ne,1\n" * 4)
    assert "row 3 holds no text (split 'train', 1 of" in message(spec)
    data = load_texts(replace(spec, skip_missing=True))
    assert len(data.train) + len(data.test) == 10
    assert data.label_names == ["0", "1"]


def test_a_split_without_a_value_is_rejected(tmp_path):
    features = {"text": TEXT, "label": INT}
    spec = write(tmp_path, features, train={"text": [None] * 8, "label": LABELS}, test={"text": WORDS, "label": LABELS})
    line = message(replace(spec, skip_missing=True))
    assert line == "skip_missing=True: leaves no row of split 'train': each lacks text or label"
