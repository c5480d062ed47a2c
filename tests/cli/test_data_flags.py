"""Data sets as people have them: one file, no test split, columns of any name; measured later on the same rows."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image, Value
from PIL import Image as PILImage

from selfmod_hf import SelfModelingTrainer, SelfModelingTrainingArguments, TaskSpec, load_texts
from selfmod_hf.cli import main
from selfmod_hf.complexity import LLCResult
from selfmod_hf.data.tokenizing import load_tokenizer
from selfmod_hf.models import SelfModelingForSequenceClassification, load_model
from selfmod_hf.trainer.recipe_network import recipe_config

QUICK = ["--num_draws=4", "--num_chains=1", "--batch_size=8", "--quiet"]


@pytest.fixture
def reviews(tmp_path) -> Path:
    """Reviews in one CSV file, some without text."""
    numbers = np.random.default_rng(0)
    lines = ["review,mood"]
    for row in range(60):
        words = " ".join(numbers.choice(["dull", "great", "film", "the", "long"], size=4))
        lines.append(f"{words if row % 20 else ''},{'good' if row % 3 else 'bad'}")
    path = tmp_path / "reviews.csv"
    path.write_text("\n".join(lines))
    return path


def train(reviews: Path, *flags: str) -> Path:
    folder = reviews.parent / "run"
    columns = ["--text_column=review", "--label_column=mood"]
    few = ["--num_train_epochs=1", "--quiet", f"--output_dir={folder}", "--max_train_samples=30"]
    assert main(["train", f"--dataset_name={reviews}", *columns, *few, *flags]) == 0
    return folder


def last_line(capsys: Any) -> str:
    return capsys.readouterr().err.strip().splitlines()[-1]


def test_rlct_samples_the_rows_that_were_trained_on(reviews, capsys):
    """The share held out, its seed and the rows left out come from run.json. The file itself must be named."""
    folder = train(reviews, "--test_fraction=0.3", "--split_seed=5", "--skip_missing")
    task = json.loads((folder / "run.json").read_text())["task"]
    assert (task["test_fraction"], task["split_seed"], task["skip_missing"]) == (0.3, 5, True)
    assert (task["dataset_name"], task["text_column"], task["label_column"]) == (None, "review", "mood")
    assert main(["rlct", f"--model={folder}"]) == 2
    assert "the network's own data, reviews.csv, are no data set of the Hub; name them here" in last_line(capsys)
    assert main(["rlct", f"--model={folder}", f"--dataset_name={reviews}", *QUICK]) == 0

    spec = TaskSpec(
        name="x", dataset_name=str(reviews), text_column="review", label_column="mood", test_fraction=0.3, split_seed=5,
        skip_missing=True,
    )  # fmt: skip
    found = LLCResult.load(folder / "rlct.json")
    assert found.settings.data == spec.train_data
    assert spec.train_data == (
        "file reviews.csv, train, without a test fraction of 0.3 (seed 5), without rows that lack a value"
    )
    losses = {}
    for seed in (5, 6):
        tokenizer = load_tokenizer(str(folder))
        data = load_texts(replace(spec, split_seed=seed), tokenizer=tokenizer, max_train_samples=30).train
        with torch.no_grad():
            losses[seed] = float(load_model(folder)(**data.take(torch.arange(30))).classification_loss)
    assert found.init_loss == pytest.approx(losses[5], rel=1e-4)
    assert found.init_loss != pytest.approx(losses[6], rel=1e-4)


def test_a_typed_share_goes_before_the_recorded_one(reviews):
    folder = train(reviews, "--test_fraction=0.3", "--skip_missing")
    typed = ["--test_fraction=0.5", "--split_seed=1"]
    assert main(["rlct", f"--model={folder}", f"--dataset_name={reviews}", *typed, *QUICK]) == 0
    found = LLCResult.load(folder / "rlct.json").settings
    assert "without a test fraction of 0.5 (seed 1)" in found.data
    assert found.num_samples == 28  # of 57, and no longer limited to 30


def test_data_that_lost_rows_are_noticed(reviews, capsys):
    folder = train(reviews, "--test_fraction=0.3", "--skip_missing")
    lines = reviews.read_text().splitlines()
    reviews.write_text("\n".join(lines[:31]))
    assert main(["rlct", f"--model={folder}", f"--dataset_name={reviews}", *QUICK]) == 0
    assert "training samples here, but the network was trained on 30" in capsys.readouterr().err


def test_other_data_are_read_as_they_are(reviews, tmp_path, small_model):
    """A typed data set that is not the recorded one takes nothing of it."""
    from selfmod_hf.hub.agreement import data_of_folder

    folder = train(reviews, "--test_fraction=0.3", "--skip_missing")
    run = json.loads((folder / "run.json").read_text())
    run["task"]["dataset_name"] = "me/reviews"
    (folder / "run.json").write_text(json.dumps(run))
    assert data_of_folder(folder, "me/others") == {}
    assert data_of_folder(folder, "me/reviews")["split_seed"] == 0
    assert data_of_folder(small_model, "me/others") == {}


def test_what_is_missing_is_said_by_flags(reviews, capsys):
    start = ["train", f"--dataset_name={reviews}", "--quiet"]
    lines = {
        (): "--text_column=None: several columns hold strings: review, mood; name one of them",
        ("--text_column=review",): "--label_column=None: no column holds class labels; the data set has review",
        ("--text_column=review", "--label_column=mood"): "by --test_fraction",
        ("--text_column=review", "--label_column=mood", "--test_fraction=0.3"): "holds no text (split 'train', ",
        ("--test_fraction=2",): "--test_fraction=2.0: allowed are numbers between 0 and 1",
        ("--test_fraction=0.2", "--test_split=x"): "--test_fraction=0.2: allowed without --test_split, which is 'x'",
    }
    for flags, line in lines.items():
        assert main([*start, *flags]) == 2
        assert line in last_line(capsys)
    assert main(["train", "--test_fraction=0.2"]) == 2
    assert "--test_fraction=0.2: digits is built in" in last_line(capsys)


def test_images_without_any_flag(tmp_path, capsys):
    """Columns and the validation split are found; a class that training lacks is said."""
    features = Features({"picture": Image(), "kind": ClassLabel(names=["dark", "light", "rare"])})
    for split, labels in (("train", [0, 1] * 6), ("validation", [0, 1, 2, 2])):
        images = [PILImage.fromarray(np.full((4, 4), 100 * label + 9, np.uint8)) for label in labels]
        data = Dataset.from_dict({"picture": images, "kind": labels}, features=features)
        data.to_parquet(tmp_path / "data" / f"{split}.parquet")
    flags = ["--num_train_epochs=1", "--quiet", f"--output_dir={tmp_path / 'run'}"]
    assert main(["train", f"--dataset_name={tmp_path / 'data'}", *flags]) == 0
    assert "selfmod: no training sample has these classes: rare (2 test samples)" in capsys.readouterr().err
    task = json.loads((tmp_path / "run" / "run.json").read_text())["task"]
    assert (task["image_column"], task["label_column"], task["test_split"]) == ("picture", "kind", "validation")


def test_the_python_route_records_the_same(reviews):
    """`data.task` has what was found."""
    rows = Dataset.from_csv(str(reviews)).filter(lambda row: row["review"] is not None)
    rows = rows.cast_column("mood", Value("string")).rename_column("mood", "label")
    folder = reviews.parent / "data"
    folder.mkdir()
    rows.to_parquet(folder / "train.parquet")
    data = load_texts(TaskSpec(name="x", dataset_name=str(folder), test_fraction=0.25))
    model = SelfModelingForSequenceClassification(recipe_config(data.task, data))
    args = SelfModelingTrainingArguments(str(reviews.parent / "run"), num_train_epochs=1, report_to="none")
    trainer = SelfModelingTrainer(model, args, train_dataset=data.train, eval_dataset=data.test, task=data.task)
    trainer.save_model()
    task = json.loads((reviews.parent / "run" / "run.json").read_text())["task"]
    assert (task["text_column"], task["label_column"], task["test_fraction"]) == ("review", "label", 0.25)
