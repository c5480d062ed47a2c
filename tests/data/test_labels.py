"""Labels as they stand in the data: their classes, and those that belong to none."""

from pathlib import Path
from typing import Any

import pytest
from datasets import ClassLabel, Dataset, Features, Value

from selfmod_hf import TaskSpec, load_texts
from selfmod_hf.errors import InputError


def spec_of(folder: Path, train: list[Any], test: list[Any], kind: Any) -> TaskSpec:
    for split, labels in (("train", train), ("test", test)):
        rows = {"text": [f"text {row}" for row in range(len(labels))], "label": labels}
        features = Features({"text": Value("string"), "label": kind})
        Dataset.from_dict(rows, features=features).to_parquet(folder / f"{split}.parquet")
    return TaskSpec(name="x", dataset_name=str(folder))


TEXT, INT, BOOL, FLOAT = Value("string"), Value("int64"), Value("bool"), Value("float64")
# the type, labels of the training rows and of the test rows, what is said of them
WRONG = {
    "a string": (TEXT, ["yes", "no"], [" yes", "no"], "row 0 of split 'test' has label ' yes', allowed are 'no', 'y"),
    "an empty string": (TEXT, ["yes", "no"], ["no", ""], "row 1 of split 'test' has label '', allowed are"),
    "a large string": (Value("large_string"), ["a", "b"], ["c"], "row 0 of split 'test' has label 'c', allowed"),
    "several strings": (
        TEXT, ["a", "b"], ["a", "x", "y", "x"],
        "row 1 of split 'test' has label 'x', allowed are 'a', 'b'; 3 of 4 rows have such labels: 'x', 'y'",
    ),
    "many strings": (
        TEXT, [*"abcdefghij"], [*"klmnopqrst"],
        "row 0 of split 'test' has label 'k', allowed are 'a', 'b', 'c', 'd', 'e', 'f', 'g', 'h' and 2 more; 10 of 10 "
        "rows have such labels: 'k', 'l', 'm', 'n', 'o', 'p', 'q', 'r' and 2 more",
    ),
    "a missing string": (TEXT, ["a", "b"], ["a", None], "row 1 of split 'test' holds no label"),
    "a missing string of the training rows": (TEXT, ["a", None, "b"], ["a"], "row 1 of split 'train' holds no label"),
    "an integer": (INT, [0, 1], [1, 7], "row 1 of split 'test' has label 7, allowed are 0 to 1"),
    "a negative integer": (INT, [0, 1], [-100, 1], "row 0 of split 'test' has label -100, allowed are 0 to 1"),
    "a negative integer of the training rows": (INT, [0, 1, -1], [1], "row 2 of split 'train' has label -1, allowed"),
    "an unsigned integer": (Value("uint8"), [0, 1], [200], "row 0 of split 'test' has label 200, allowed"),
    "a missing integer": (INT, [0, 1], [None, 1], "row 0 of split 'test' holds no label"),
    "a truth value": (BOOL, [True, False], [True, None], "row 1 of split 'test' holds no label"),
    "a fraction": (FLOAT, [0.0, 1.0], [1.0, 0.5], "row 1 of split 'test' has label 0.5, allowed are 0 to 1"),
    "a fraction of the training rows": (FLOAT, [0.5, 1.0, 0.0], [1.0], "row 0 of split 'train' has label 0.5, allowed"),
    "only fractions": (
        FLOAT, [1.5, 2.5], [1.5], "row 0 of split 'train' has label 1.5, allowed are whole numbers from 0, or strings"
    ),
    "no number": (FLOAT, [0.0, 1.0, float("nan")], [1.0], "row 2 of split 'train' has label nan, allowed are 0 to 1"),
    "no number at all": (FLOAT, [float("inf"), 1.0, 0.0], [1.0], "row 0 of split 'train' has label inf, allowed"),
    "no class of a ClassLabel": (
        ClassLabel(names=["no", "yes"]), [0, 1], [-1, 1, -1],
        "row 0 of split 'test' has label -1, allowed are 0 to 1; 2 of 3 rows have such labels: -1",
    ),
    "strings and missing ones": (
        TEXT, ["a", "b"], [None, "x", None], "row 0 of split 'test' holds no label (`skip_missing` leaves such rows "
        "out); 3 of 3 rows have such labels: None, 'x'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_label_that_belongs_to_no_class_is_shown_as_it_stands(case, tmp_path):
    kind, train, test, problem = WRONG[case]
    with pytest.raises(InputError) as error:
        load_texts(spec_of(tmp_path, train, test, kind))
    assert str(error.value).startswith(f"label_column='label': {problem}")
    assert "\n" not in str(error.value)


def test_the_row_is_that_of_the_split(tmp_path):
    """Where few rows are used, and where rows are held out."""
    spec = spec_of(tmp_path, [0, 1, 0, 1, 1, 1, 0, -5], [0, 1], INT)
    with pytest.raises(InputError, match=r"row 7 of split 'train' has label -5"):
        load_texts(TaskSpec(name="x", dataset_name=spec.dataset_name, test_fraction=0.3))
    spec = spec_of(tmp_path, [0, 1], [0, 1, 0, 0, 9, 0], INT)
    with pytest.raises(InputError, match=r"row 4 of split 'test' has label 9"):
        load_texts(spec, max_test_samples=3)


CLASSES = {
    "strings": (TEXT, ["b", "a", "b"], ["a", "b"], [1, 0, 1]),
    "integers with a gap": (INT, [3, 0, 3], ["0", "1", "2", "3"], [3, 0, 3]),
    "truth values": (BOOL, [True, False, True], ["0", "1"], [1, 0, 1]),
    "whole fractions": (FLOAT, [1.0, 0.0, 1.0], ["0", "1"], [1, 0, 1]),
    "a ClassLabel": (ClassLabel(names=["x", "y", "z"]), [1, 0, 1], ["x", "y", "z"], [1, 0, 1]),
}


@pytest.mark.parametrize("case", CLASSES)
def test_classes_and_their_numbers(case, tmp_path):
    kind, labels, names, numbers = CLASSES[case]
    data = load_texts(spec_of(tmp_path, labels, labels, kind))
    assert data.label_names == names
    assert data.train.labels.tolist() == numbers


def test_classes_that_training_never_saw_are_counted(tmp_path):
    kind = ClassLabel(names=["x", "y", "z", "nobody"])
    data = load_texts(spec_of(tmp_path, [0, 1, 0], [2, 1, 2], kind))
    assert data.unseen_classes == {"z": 2}
    assert load_texts(spec_of(tmp_path, [0, 1, 2], [2, 1, 2], kind)).unseen_classes == {}
