"""Sentence pairs by flags, from training to the RLCT, and labels that the network cannot learn: one line each."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, Image, List, Value
from transformers import BertTokenizer

from selfmod_hf import RunSettings, SweepSettings
from selfmod_hf.cli import main
from selfmod_hf.complexity import LLCResult
from selfmod_hf.experiments.prepared_sweep import PreparedSweep
from selfmod_hf.hub.saved import SavedNetwork
from selfmod_hf.models import load_model

QUICK = ["--num_train_epochs=1", "--quiet"]
ENCODER = {
    "model_type": "bert", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8,
    "vocab_size": 10, "max_position_embeddings": 32,
}  # fmt: skip


@pytest.fixture
def pairs(tmp_path) -> Path:
    """Pairs of equal or different words, with a class and a score of each."""
    numbers = np.random.default_rng(0)
    first = [" ".join(numbers.choice(["a", "b", "c"], size=3)) for _ in range(24)]
    second = [text if row % 2 else text[::-1] + " d" for row, text in enumerate(first)]
    rows = {"one": first, "two": second, "label": [row % 2 for row in range(24)]}
    rows["score"] = [row / 7 for row in range(24)]
    rows["parts"] = [[row % 2, 2] for row in range(24)]
    rows["words"] = [text.split() for text in first]
    rows["tags"] = [["x", "y", "y"]] * 24
    folder = tmp_path / "pairs"
    for split in ("train", "test"):
        Dataset.from_dict(rows).to_parquet(folder / f"{split}.parquet")
    return folder


def last_line(capsys: Any) -> str:
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1].startswith("selfmod")
    assert not any(line.startswith("Traceback") for line in lines)
    return lines[-1]


def test_pairs_from_training_to_the_rlct(pairs, tmp_path, capsys):
    """The words of both texts reach an embedding bag. `selfmod rlct` reads both columns from run.json."""
    run = tmp_path / "run"
    columns = ["--text_column", "one", "two", "--label_column=label"]
    assert main(["train", f"--dataset_name={pairs}", *columns, *QUICK, f"--output_dir={run}"]) == 0
    task = json.loads((run / "run.json").read_text())["task"]
    assert (task["text_column"], task["label_column"]) == (["one", "two"], "label")
    assert not {"task_type", "problem_type", "block_size"} & set(task)
    measured = ["--num_draws=4", "--num_chains=1", "--batch_size=8", "--quiet"]
    assert main(["rlct", f"--model={run}", f"--dataset_name={pairs}", *measured]) == 0
    found = LLCResult.load(run / "rlct.json")
    assert found.settings.data == "folder pairs, train, pairs of one and two"
    data = RunSettings.make(dataset_name=str(pairs), text_column=["one", "two"], label_column="label").load_data()
    with torch.no_grad():
        batch = data.train.batch(list(range(24)))
        assert found.init_loss == pytest.approx(float(load_model(run)(**batch).classification_loss), rel=1e-4)


def test_an_encoder_sees_which_text_is_which(pairs, tmp_path):
    """In training, and where the saved network reads its data again."""
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcd"]))
    BertTokenizer(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path / "words")
    settings = RunSettings.make(
        dataset_name=str(pairs), text_column=["one", "two"], label_column="label", backbone_config=ENCODER,
        tokenizer_name=str(tmp_path / "words"), num_train_epochs=1, output_dir=str(tmp_path / "run"),
    )  # fmt: skip
    data = settings.load_data()
    batch = data.train.batch([0, 1])
    assert batch["token_type_ids"].sum(dim=1).tolist() == [5, 4]  # the second text and its end
    model = settings.build_network(data)
    settings.make_trainer(data, model).save_model()
    saved = SavedNetwork(str(tmp_path / "run"))
    taken = saved.data_entries({"dataset_name": str(pairs)})
    assert taken["text_column"] == ["one", "two"]
    measured = ["--num_draws=4", "--num_chains=2", "--batch_size=8", "--quiet"]
    assert main(["rlct", f"--model={tmp_path / 'run'}", f"--dataset_name={pairs}", *measured]) == 0
    found = LLCResult.load(tmp_path / "run" / "rlct.json")
    with torch.no_grad():
        every = data.train.batch(list(range(24)))
        assert found.init_loss == pytest.approx(float(model.eval()(**every).classification_loss), rel=1e-4)
    changed = {**batch, "token_type_ids": torch.zeros_like(batch["token_type_ids"])}
    with torch.no_grad():
        assert not torch.equal(model.eval()(**batch).logits, model(**changed).logits)


def test_encoders_of_a_study_train_one_at_a_time(pairs, tmp_path):
    """With dropout, and without it, where attention looks into the mask. Neither can be done for all at once."""
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcd"]))
    BertTokenizer(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path / "words")
    plain = {**ENCODER, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    fields = {"dataset_name": str(pairs), "text_column": ["one", "two"], "label_column": "label"}
    fields["tokenizer_name"] = str(tmp_path / "words")
    for encoder, reason in ((ENCODER, "random numbers"), (plain, "by values of their inputs")):
        settings = SweepSettings.make(**fields, backbone_config=encoder, aux_weights=[0], seeds=[1, 2])
        sweep = PreparedSweep.make(settings, tmp_path / "sweep")
        [line] = sweep.reasons_for_singles()
        assert reason in line
        assert line.endswith("one at a time")


def test_one_column_is_recorded_as_before(pairs):
    given = {"dataset_name": str(pairs), "label_column": "label"}
    for column in ("one", ["one"]):
        settings = RunSettings.make(**given, text_column=column)
        assert settings.given["text_column"] == settings.task.text_column == settings.data.text_column == "one"
    both = RunSettings.make(**given, text_column=["one", "two"])
    assert both.task.text_columns == ("one", "two")
    assert "--text_column one two" in both.command()
    again = RunSettings.make(**both.given)
    assert again.task == both.task


# flags -> the line
NOT_LEARNED = {
    "scores": (
        ["--text_column", "one", "two", "--label_column=score", "--problem_type=regression"],
        "--problem_type='regression': the network's loss is the cross-entropy of one class",
    ),
    "several classes": (
        ["--text_column=one", "--label_column=parts"], "--problem_type='multi_label_classification': the network's"
    ),
    "a class of each word": (
        ["--task_type=token-classification", "--label_column=tags"],
        "--task_type='token-classification': the network has one output for each sample",
    ),
    "text to continue": (
        ["--task_type=causal-lm", "--text_column=one", "--block_size=4", "--vocab_size=260"],
        "--task_type='causal-lm': the network has one output for each sample",
    ),
}  # fmt: skip


@pytest.mark.parametrize("command", ["train", "sweep", "tune"])
@pytest.mark.parametrize("case", NOT_LEARNED)
def test_labels_that_the_network_cannot_learn_are_one_line(case, command, pairs, tmp_path, capsys):
    flags, line = NOT_LEARNED[case]
    more = {
        "train": [],
        "sweep": ["--seeds=1", "--aux_weights=1"],
        "tune": ["--trials=1", "--num_draws=4"],
    }
    start = [command, f"--dataset_name={pairs}", *flags, *more[command], *QUICK, f"--output_dir={tmp_path / 'out'}"]
    assert main(start) == 2
    assert line in last_line(capsys)


CONTRADICTIONS = {
    "an unknown task": (["--task_type=chess"], "--task_type='chess': allowed are image-classification, text-cl"),
    "an unknown label": (["--problem_type=both"], "--problem_type='both': allowed are single_label_classification"),
    "three columns": (["--text_column", "one", "two", "label"], "--text_column=['one', 'two', 'label']: allowed are"),
    "a score of blocks": (
        ["--task_type=causal-lm", "--text_column=one", "--problem_type=regression"],
        "--problem_type='regression': allowed with a label for each sample; --task_type causal-lm has one for each",
    ),
    "blocks of a class": (["--block_size=8"], "--block_size=8: allowed with --task_type causal-lm"),
    "a vocabulary of a class": (["--text_column=one", "--vocab_size=300"], "--vocab_size=300: allowed with --task_ty"),
    "a limit of blocks": (
        ["--task_type=causal-lm", "--text_column=one", "--max_length=8"],
        "--max_length=8: allowed without --task_type causal-lm, whose texts are joined and cut by --block_size",
    ),
    "images of texts": (["--task_type=image-classification"], "--image_column=None: no column holds images"),
    "columns of several kinds": (["--task_type=text-classification"], "--text_column=None: several columns hold str"),
    "several lists": (
        ["--text_column=one", "--problem_type=multi_label_classification", "--label_column=two"],
        "--label_column='two': has type Value('string'); allowed are lists of ClassLabel",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_contradicting_flags_are_one_line(case, pairs, capsys):
    flags, line = CONTRADICTIONS[case]
    assert main(["train", f"--dataset_name={pairs}", *flags, *QUICK]) == 2
    assert line in last_line(capsys)


def test_a_vocabulary_of_images_is_one_line(tmp_path, capsys):
    features = Features({"image": Image(), "label": Value("int64"), "tags": List(Value("int64"))})
    images = [np.full((4, 4), 50 * row, np.uint8) for row in range(4)]
    rows = Dataset.from_dict({"image": images, "label": [0, 1] * 2, "tags": [[0], [1], [], [0, 1]]}, features=features)
    for split in ("train", "test"):
        rows.to_parquet(tmp_path / "data" / f"{split}.parquet")
    start = ["train", f"--dataset_name={tmp_path / 'data'}", *QUICK]
    assert main([*start, "--vocab_size=300"]) == 2
    assert "--vocab_size=300: the task is one of images" in last_line(capsys)
    assert main([*start, "--label_column=tags"]) == 2
    assert "--problem_type='multi_label_classification': the network's loss" in last_line(capsys)


def test_runs_that_differ_in_their_labels_have_folders_of_their_own(pairs):
    given = {"dataset_name": str(pairs), "text_column": "one", "label_column": "score"}
    classes = RunSettings.make(**given).training.output_dir
    scores = RunSettings.make(**given, problem_type="regression").training.output_dir
    assert classes != scores
    assert "problem_type_regression" in scores
