"""Data sets that cannot be used: refused by one line that names flag and value, whatever reads them underneath."""

import io
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, Features, Image, Value
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image as PILImage

from selfmod_hf import TaskSpec, load_images, load_texts
from selfmod_hf.errors import InputError


def png(shape: tuple[int, ...] = (6, 6), value: int = 9, kind: str = "PNG", dtype: Any = np.uint8) -> dict[str, Any]:
    buffer = io.BytesIO()
    PILImage.fromarray(np.full(shape, value, dtype)).save(buffer, format=kind)
    return {"bytes": buffer.getvalue(), "path": None}


def write(folder: Path, **splits: dict[str, list[Any]]) -> str:
    for split, columns in splits.items():
        features = {}
        for name, values in columns.items():
            if name == "image":
                features[name] = Image()
            elif name == "names":
                features[name] = ClassLabel(names=["a", "b"])
            else:
                kinds = {bool: "bool", int: "int64", float: "float64", str: "string"}
                found = [kinds[type(value)] for value in values if value is not None]
                features[name] = Value(found[0] if found else "string")
        Dataset.from_dict(columns, features=Features(features)).to_parquet(folder / f"{split}.parquet")
    return str(folder)


GOOD = {"image": [png(value=v) for v in (1, 200, 3, 250)], "label": [0, 1, 0, 1], "text": ["a b", "c", "a", "c d"]}


def changed(**columns: Any) -> dict[str, Any]:
    kept = GOOD | columns
    return {name: values for name, values in kept.items() if values is not None}


def with_first(name: str, value: Any) -> dict[str, Any]:
    return changed(**{name: [value, *GOOD[name][1:]]})


BOMB = png()["bytes"]
BOMB = BOMB[:16] + (60_000).to_bytes(4, "big") * 2 + BOMB[24:29] + (0).to_bytes(4, "big") + BOMB[33:]

# what is wrong -> (training split, test split, the name that the message begins with, what it says)
IMAGES = {
    "no image column": (changed(image=None), changed(image=None), "image_column=None", "no column holds images"),
    "no image in the test split": (GOOD, changed(image=None), "image_column='image'", "row 0 holds no image"),
    "no label column": (changed(label=None), changed(label=None), "label_column=None", "no column holds class"),
    "images are numbers": (
        changed(image=None) | {"picture": [1] * 4}, changed(image=None) | {"picture": [1] * 4}, "image_column", ""
    ),
    "labels are fractions": (changed(label=[0.5, 1.0, 0.0, 1.0]), GOOD, "label_column='label'", "allowed are"),
    "a label is missing": (with_first("label", None), GOOD, "label_column='label'", "row 0 of split 'train'"),
    "a label is negative": (with_first("label", -1), GOOD, "label_column='label'", "row 0 of split 'train'"),
    "a label of the test is new": (GOOD, with_first("label", 7), "label_column='label'", "row 0 of split 'test'"),
    "a name of the test is new": (
        changed(label=list("abab")), changed(label=list("abac")), "label_column='label'", "row 3 of split 'test'"
    ),
    "one class": (changed(label=[1] * 4), GOOD, "label_column='label'", "at least two"),
    "a huge label": (with_first("label", 2**40), GOOD, "label_column='label'", ""),
    "all labels missing": (changed(label=[None] * 4), GOOD, "label_column='label'", ""),
    "empty training split": ({k: [] for k in GOOD}, GOOD, "train_split='train'", "empty"),
    "empty test split": (GOOD, {k: [] for k in GOOD}, "test_split='test'", "empty"),
    "no image": (with_first("image", None), GOOD, "image_column='image'", "row 0 holds no image"),
    "no picture": (
        with_first("image", {"bytes": b"no picture", "path": None}), GOOD, "image_column='image'", "row 0 cannot"
    ),
    "half a picture": (
        with_first("image", {"bytes": png()["bytes"][:45], "path": None}), GOOD, "image_column='image'", "row 0"
    ),
    "no bytes": (with_first("image", {"bytes": b"", "path": None}), GOOD, "image_column='image'", "row 0"),
    "a bomb": (with_first("image", {"bytes": BOMB, "path": None}), GOOD, "image_column='image'", "row 0 cannot"),
    "another size": (with_first("image", png((7, 6))), GOOD, "image_column='image'", "row 1 is 6x6, expected 7x6"),
    "another size in the test": (GOOD, with_first("image", png((5, 5))), "image_column='image'", "row 0 is 5x5"),
    "NaN pixels": (
        with_first("image", png(value=np.nan, kind="TIFF", dtype=np.float32)), GOOD, "image_column='image'",
        "row 0 has pixels outside",
    ),
    "16 bits": (
        with_first("image", png(value=40_000, dtype=np.uint16)), GOOD, "image_column='image'", "row 0 has pixels"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", IMAGES)
def test_images_that_cannot_be_used(case, tmp_path):
    train, test, begin, problem = IMAGES[case]
    with pytest.raises(InputError) as error:
        load_images(TaskSpec(name="x", dataset_name=write(tmp_path, train=train, test=test)))
    assert str(error.value).startswith(begin)
    assert problem in str(error.value)


def test_pixels_within_range_of_a_wider_mode_are_taken(tmp_path):
    images = [png(value=v, kind="TIFF", dtype=np.float32) for v in (1, 200, 3, 250)]
    data = load_images(TaskSpec(name="x", dataset_name=write(tmp_path, train=changed(image=images), test=GOOD)))
    assert data.train.pixels.flatten(1)[:, 0].tolist() == [1, 200, 3, 250]


TEXTS = {
    "no text column": (changed(text=None), changed(text=None), "text_column='text'", "no such column"),
    "numbers": (changed(text=[1, 2, 3, 4]), changed(text=[1, 2, 3, 4]), "text_column='text'", "allowed are strings"),
    "a text is missing": (with_first("text", None), GOOD, "text_column='text'", "row 0 holds no text"),
}


@pytest.mark.parametrize("case", TEXTS)
def test_texts_that_cannot_be_used(case, tmp_path):
    train, test, begin, problem = TEXTS[case]
    with pytest.raises(InputError) as error:
        load_texts(TaskSpec(name="x", dataset_name=write(tmp_path, train=train, test=test), text_column="text"))
    assert str(error.value).startswith(begin)
    assert problem in str(error.value)


def test_empty_texts_are_texts(tmp_path):
    """They have no token; a network's answer to them is finite."""
    import torch

    from selfmod_hf import SelfModelingConfig, SelfModelingForSequenceClassification

    folder = write(tmp_path, train=changed(text=["", "  ", "", ""]), test=GOOD)
    data = load_texts(TaskSpec(name="x", dataset_name=folder, text_column="text"))
    assert data.train.offsets.tolist() == [0] * 5
    kwargs = {"num_embeddings": len(data.train.tokenizer), "embedding_dim": 3}
    model = SelfModelingForSequenceClassification(
        SelfModelingConfig(backbone="embedding_bag", backbone_kwargs=kwargs, num_labels=2)
    )
    assert model(**data.train.take(torch.arange(4))).loss.isfinite()


def _truncate(folder: Path) -> None:
    path = folder / "train.parquet"
    path.write_bytes(path.read_bytes()[:200])


def _lie_about_features(folder: Path) -> None:
    """The metadata says that a column of integers holds images."""
    table = (
        pq.read_table(folder / "train.parquet").drop_columns(["image"]).append_column("image", pa.array([1, 2, 3, 4]))
    )
    features = {"image": {"_type": "Image"}, "label": {"dtype": "int64", "_type": "Value"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(table.replace_schema_metadata(metadata), folder / "train.parquet")


def _only(folder: Path, name: str, content: bytes) -> None:
    for path in folder.iterdir():
        path.unlink()
    (folder / name).write_bytes(content)


FILES = {
    "truncated parquet": _truncate,
    "features that are not there": _lie_about_features,
    "not UTF-8": lambda folder: _only(folder, "train.csv", b"text,label\n\xff\xfe\xe9,0\n\xe9,1\n"),
    "no JSON": lambda folder: _only(folder, "train.jsonl", b'{"text": "a"\n{{'),
    "nothing": lambda folder: _only(folder, "notes", b""),
    "a card that is no YAML": lambda folder: (folder / "README.md").write_text("---\nconfigs: [\n---\n"),
    "a card that names files elsewhere": lambda folder: (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files: ../../../../etc/passwd\n---\n"
    ),
}


@pytest.mark.parametrize("case", FILES)
def test_files_that_cannot_be_read(case, tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    name = write(folder, train=GOOD, test=GOOD)
    FILES[case](folder)
    with pytest.raises(InputError) as error:
        load_images(TaskSpec(name="x", dataset_name=name))
    assert str(error.value).partition("=")[0].isidentifier()
    assert "\n" not in str(error.value)
    assert "root:" not in str(error.value)  # nothing of a file outside


CELL = st.none() | st.integers(-2, 3) | st.floats(-1, 2) | st.booleans() | st.text(max_size=3)


@pytest.mark.slow  # each example is read by `datasets`
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(labels=st.lists(CELL, min_size=4, max_size=4), texts=st.lists(CELL, min_size=4, max_size=4))
def test_any_column_is_used_or_refused(tmp_path, labels, texts):
    folder = Path(tempfile.mkdtemp(dir=tmp_path))  # of each example
    for split in ("train", "test"):
        rows = [json.dumps({"text": text, "label": label}) for text, label in zip(texts, labels, strict=True)]
        (folder / f"{split}.jsonl").write_text("\n".join(rows))
    try:
        data = load_texts(TaskSpec(name="x", dataset_name=str(folder), text_column="text"))
    except InputError as error:
        assert str(error).partition("=")[0].isidentifier()  # noqa: PT017
        return
    assert None not in labels
    assert len(set(labels)) == len(data.label_names) >= 2 or all(isinstance(label, (int, bool)) for label in labels)
    assert data.train.labels.tolist() == [
        int(label) if not isinstance(label, str) else sorted(set(labels)).index(label) for label in labels
    ]
