"""`selfmod train --head own`: task models with their own heads, from flags to a saved network."""

import json
import math
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import (
    AutoModelForImageClassification,
    BertConfig,
    BertForTokenClassification,
    PreTrainedTokenizerFast,
    set_seed,
)

from selfmod_hf import RunSettings, TaskSpec, load_texts, report
from selfmod_hf.cli import main
from selfmod_hf.data import BlockTensors
from selfmod_hf.hub.metric_names import metric_title
from selfmod_hf.hub.model_folder import write_model_card
from selfmod_hf.hub.saved import SavedNetwork
from selfmod_hf.models import load_model

WORDS = list("abcdefgh")
SPECIAL = ["[PAD]", "[UNK]", "[SEP]", "[CLS]"]
SIZES = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 20}
BERT = json.dumps({"model_type": "bert", **SIZES, "max_position_embeddings": 64})
GPT2 = json.dumps({"model_type": "gpt2", "n_embd": 12, "n_layer": 2, "n_head": 2, "n_positions": 64})
VIT = json.dumps({"model_type": "vit", **SIZES, "patch_size": 4})
COMMON = ["--head=own", "--aux_weight=1", "--num_train_epochs=1", "--train_batch_size=8", "--quiet"]
SMALL = ["--num_train_epochs=1", "--train_batch_size=8", "--max_train_samples=24", "--max_test_samples=8"]
TEXTS = [f"--backbone_config={BERT}", "--target_layers=encoder.layer.*", "--tokenizer_name=tokenizer"]
LANGUAGE = [f"--backbone_config={GPT2}", "--target_layers=h.*"]
# data -> flags, class of the network, figures
RUNS = {
    "words": (
        ["--task_type=token-classification", "--text_column=words", "--target_pooling=tokens", *TEXTS],
        "SelfModelingForTokenClassification",
        ["accuracy", "f1"],
    ),
    "scores": (
        ["--problem_type=regression", *TEXTS],
        "WrappedForSequenceClassification",
        ["pearson", "spearmanr", "mse"],
    ),
    "pairs": (
        ["--text_column", "sentence1", "sentence2", *TEXTS],
        "WrappedForSequenceClassification",
        ["accuracy", "f1", "matthews_correlation"],
    ),
    "several": (TEXTS, "WrappedForSequenceClassification", ["f1", "accuracy"]),
    "plain": (
        [
            "--task_type=causal-lm",
            "--block_size=16",
            "--vocab_size=300",
            f"--backbone_config={GPT2}",
            "--target_layers=h.*",
        ],
        "SelfModelingForCausalLM",
        ["perplexity"],
    ),
}


def rows(kind: str, count: int) -> list[dict]:
    generator = np.random.default_rng(count)
    found = []
    for k in range(count):
        words = generator.choice(WORDS, 3 + k % 4).tolist()
        text = " ".join(words)
        if kind == "words":
            found.append({"words": words, "label": ["first" if word in "abc" else "other" for word in words]})
        elif kind == "scores":
            found.append({"text": text, "label": float(generator.random())})
        elif kind == "pairs":
            found.append({"sentence1": text, "sentence2": text[::-1], "label": k % 2})
        elif kind == "several":
            found.append({"text": text, "label": ["p", "q", "r"][: k % 3 + 1]})
        else:
            found.append({"text": " ".join(generator.choice(WORDS, 60))})
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Data sets and a tokenizer."""
    place = tmp_path_factory.mktemp("own")
    for kind in RUNS:
        for split, count in (("train", 40), ("test", 13)):
            datasets.Dataset.from_list(rows(kind, count)).to_parquet(place / kind / f"{split}-00000-of-00001.parquet")
    vocabulary = {word: number for number, word in enumerate([*SPECIAL, *WORDS])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", sep_token="[SEP]", model_max_length=40
    )
    fast.save_pretrained(place / "tokenizer")
    return place


class OfWords(SavedNetwork):
    """A network whose files name data of this folder, as those of a published one name data of the Hub."""

    def data_entries(self, given=None):
        return {"dataset_name": "words", "task_type": "token-classification", "text_column": "words"}


class OfBlocks(SavedNetwork):
    """The same of a language model."""

    def data_entries(self, given=None):
        return {"dataset_name": "plain", "task_type": "causal-lm", "block_size": 16}


SLOW = ("scores", "several")
KINDS = [pytest.param(kind, marks=pytest.mark.slow) if kind in SLOW else kind for kind in RUNS]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_labels_trains_from_the_command_line(folder, tmp_path, monkeypatch, capsys, kind):
    monkeypatch.chdir(folder)
    flags, class_name, figures = RUNS[kind]
    assert main(["train", f"--dataset_name={kind}", *flags, *COMMON, f"--output_dir={tmp_path}"]) == 0
    results = json.loads((tmp_path / "eval_results.json").read_text())
    assert [name for name in figures if f"eval_{name}" not in results] == []
    network = load_model(tmp_path)
    shown = capsys.readouterr().out.lower()  # by the names of the card, which say what an F1 is a mean of
    for name in figures:
        assert f"\n{metric_title(name, network.config)}  ".lower() in f"\n{shown}"
    write_model_card(tmp_path, "me/net")
    entries = ModelCard.load(tmp_path / "README.md").data.eval_results
    card = {entry.metric_type: entry.metric_value for entry in entries}
    assert {name: card[name] for name in figures} == {name: results[f"eval_{name}"] for name in figures}
    if kind == "plain":
        assert results["eval_perplexity"] == pytest.approx(math.exp(results["eval_classification_loss"]))
        task_model = network.prune()
        special = [getattr(task_model.config, f"{name}_token_id") for name in ("bos", "eos", "pad")]
        assert special == [0, 0, 0]
        assert task_model.generation_config.eos_token_id in (0, [0])
        _, replicated = OfBlocks(str(tmp_path)).training_data()
        assert isinstance(replicated, BlockTensors)
    assert type(network).__name__ == class_name
    assert network.config.target_layers == ["h.*" if kind == "plain" else "encoder.layer.*"]
    assert network.self_model_head.out_features == 24


@pytest.mark.parametrize("pad", ["[PAD]", None])
def test_a_decoder_reads_the_same_token_of_a_text_in_every_batch(folder, tmp_path, monkeypatch, pad):
    """Without a padding token of its own, such as GPT-2's, the tokenizer's end of text pads."""
    monkeypatch.chdir(folder)
    backend = PreTrainedTokenizerFast.from_pretrained("tokenizer").backend_tokenizer
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]", eos_token="[SEP]", pad_token=pad)
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    flags = ["--dataset_name=pairs", "--text_column=sentence1", f"--tokenizer_name={tmp_path}/tokenizer", *LANGUAGE]
    assert main(["train", *flags, *COMMON, f"--output_dir={tmp_path}/run"]) == 0
    network = load_model(tmp_path / "run").eval()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tmp_path / "run")
    assert tokenizer.pad_token == (pad or "[SEP]")
    with torch.no_grad():
        alone = network(**tokenizer(["a b c"], return_tensors="pt")).logits
        beside = network(**tokenizer(["a b c", "a b c d e f"], return_tensors="pt", padding=True)).logits
    torch.testing.assert_close(beside[:1], alone)


def test_a_pretrained_head_reads_labels_in_its_own_order(folder, tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(folder)
    config = BertConfig(**SIZES, vocab_size=12, id2label={0: "Other", 1: "first"}, label2id={"Other": 0, "first": 1})
    pretrained = BertForTokenClassification(config)
    for name, model in (("own", pretrained), ("others", pretrained)):
        model.config.id2label = {0: "Other", 1: "first"} if name == "own" else {0: "Person", 1: "Place"}
        model.save_pretrained(tmp_path / name)
        PreTrainedTokenizerFast.from_pretrained("tokenizer").save_pretrained(tmp_path / name)
    given = {"dataset_name": "words", "task_type": "token-classification", "text_column": "words", "head": "own"}
    settings = RunSettings.make(**given, backbone_name=str(tmp_path / "own"))
    data = settings.load_data()
    plain = load_texts(data.task, tokenizer=str(tmp_path / "own"))
    assert (plain.label_names, data.label_names) == (["first", "other"], ["other", "first"])
    for ours, theirs in ((data.train, plain.train), (data.test, plain.test)):
        counted = theirs.token_labels >= 0
        assert torch.equal(ours.token_labels[counted], 1 - theirs.token_labels[counted])
    assert settings.build_network(data).config.id2label == {0: "other", 1: "first"}
    assert not caplog.records
    flags = ["--dataset_name=words", "--task_type=token-classification", "--text_column=words"]
    flags += [f"--backbone_name={tmp_path / 'own'}", "--target_layers=encoder.layer.0", "--target_pooling=tokens"]
    assert main(["train", *COMMON, *flags, f"--output_dir={tmp_path / 'run'}"]) == 0
    _, replicated = OfWords(str(tmp_path / "run")).training_data()  # what `replicate_rlct` measures
    assert torch.equal(replicated.token_labels, data.train.token_labels)
    data = RunSettings.make(**given, backbone_name=str(tmp_path / "others")).load_data()
    assert data.label_names == ["first", "other"]
    assert "classes of other names, which are taken by their numbers: first, other for Person, Place" in caplog.text


def test_a_pretrained_task_model_keeps_its_head(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder)
    set_seed(0)
    names = {0: "first", 1: "other"}
    config = BertConfig(
        **SIZES, vocab_size=len(SPECIAL) + len(WORDS), id2label=names, label2id={"first": 0, "other": 1}
    )
    pretrained = BertForTokenClassification(config)
    pretrained.save_pretrained(tmp_path / "model")
    PreTrainedTokenizerFast.from_pretrained(folder / "tokenizer").save_pretrained(tmp_path / "model")
    settings = RunSettings.make(
        dataset_name="words", task_type="token-classification", text_column="words", head="own",
        backbone_name=str(tmp_path / "model"), target_layers=["encoder.layer.0"],
    )  # fmt: skip
    network = settings.build_network(settings.load_data())
    assert torch.equal(network.prune().classifier.weight, pretrained.classifier.weight)


def test_images_and_their_sizes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = ["--task=digits", "--max_train_samples=60", "--max_test_samples=20", f"--backbone_config={VIT}"]
    layers = ["--target_layers=layers.0", "--feature_layer=layers.1"]
    assert main(["train", *flags, *layers, *COMMON, "--output_dir=run"]) == 0
    assert load_model("run").feature_layer == "vit.layers.1"
    load_model("run").prune().save_pretrained("plain")
    plain = AutoModelForImageClassification.from_pretrained("plain")
    assert (plain.config.image_size, plain.config.num_labels) == (8, 10)


def test_a_task_model_without_targets_is_no_linear_baseline(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    flags = ["--dataset_name=pairs", "--text_column", "sentence1", "sentence2", TEXTS[0], TEXTS[2], "--head=own"]
    assert main(["train", *flags, *SMALL, f"--output_dir={tmp_path}"]) == 0
    assert "trains a baseline that does not model itself" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "--head='own': allowed with a --backbone_config, or a --backbone_name of transformers"),
        (["--backbone_name=timm/resnet10t"], "--head='own': allowed with a --backbone_config, or a --backbone_name of"),
        ([*TEXTS, "--hidden_sizes=8"], "--hidden_sizes=[8]: allowed without --head own, because the task model has"),
        ([*TEXTS, "--feature_pooling=first"], "--feature_pooling='first': allowed without --head own"),
        (
            [*TEXTS, "--load_best_model_at_end", "--metric_for_best_model=pearson"],
            "--metric_for_best_model='pearson': allowed are loss, classification_loss, self_modeling_loss, acc",
        ),
        (
            [*TEXTS, "--metrics=mse"],
            "--metrics='mse': allowed with these labels are accuracy, f1, matthews",
        ),
    ],
)
def test_settings_that_do_not_go_with_an_own_head_are_one_line(folder, tmp_path, monkeypatch, capsys, flags, message):
    monkeypatch.chdir(folder)
    base = ["train", "--dataset_name=pairs", "--text_column", "sentence1", "sentence2", f"--output_dir={tmp_path}"]
    assert main([*base, *COMMON, *flags]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"selfmod: error: {message}")


def check_training_loss(kind: str, study: Path, row: dict) -> None:
    """Compare a row with the task model's own loss of all training samples. A figure shows both over one axis."""
    if kind not in ("scores", "several"):
        return
    cell = study / "cells" / f"{row['arm']}-seed{row['seed']}"
    problem = "regression" if kind == "scores" else "multi_label_classification"
    spec = TaskSpec(name=kind, dataset_name=kind, text_column="text", problem_type=problem)
    train = load_texts(spec, max_train_samples=24, **SavedNetwork(str(cell)).reading()).train
    with torch.no_grad():
        found = load_model(cell)(**train.take(torch.arange(len(train))))
    assert row["train_loss"] == pytest.approx(found.classification_loss.item(), rel=1e-5)


# kind of data -> the metrics of a study, the compared one first
STUDIES = {
    "plain": ["perplexity"],
    "words": ["accuracy", "f1"],
    "several": ["f1", "accuracy"],
    "scores": ["pearson", "spearmanr", "mse"],
}
SHORT = ["--num_chains=1", "--num_draws=4", "--measures", "modelability", "prunable_share", "--quiet"]


LONG = [("plain", ["0", "1"]), ("words", ["1"]), ("several", ["1"]), ("scores", ["1"])]


@pytest.mark.parametrize(
    ("kind", "weights"), [("plain", ["1"]), *(pytest.param(*study, marks=pytest.mark.slow) for study in LONG)]
)
def test_a_study_compares_the_first_metric_of_its_labels(folder, tmp_path, monkeypatch, kind, weights):
    monkeypatch.chdir(folder)
    study = ["--aux_weights", *weights, "--seeds", "1"]
    if kind == "plain":
        study += ["--grid", f"target_normalization={','.join(['none', 'rms'][-len(weights) :])}"]
    flags = [f"--dataset_name={kind}", *RUNS[kind][0], "--head=own"]
    assert main(["sweep", *flags, *study, *SMALL, *SHORT, f"--output_dir={tmp_path}"]) == 0
    run = json.loads((tmp_path / "run.json").read_text())
    rows = json.loads((tmp_path / "results.json").read_text())
    metrics = STUDIES[kind]
    assert run["metrics"] == metrics
    assert {row.get("metric", "accuracy") for row in rows} == {metrics[0]}
    measured = [*metrics, "rlct", "weight_width", "train_loss", "modelability"]
    if kind == "scores":  # a network that gives equal scores has no correlation
        measured = measured[2:]
    assert [name for row in rows for name in measured if row[name] is None or not math.isfinite(row[name])] == []
    check_training_loss(kind, tmp_path, rows[0])
    if len(weights) == 1:
        return
    names = ["aw0-target_normalization_none", "aw1-target_normalization_none", "aw1-target_normalization_rms"]
    assert [row["arm"] for row in rows] == names  # networks of weight 0 are one arm
    written = report(tmp_path, keep_chance=True)
    assert set(measured) <= set(written.results.measures)
    assert metrics[0] in written.results.answer.lower()
    assert f'"metric":"{metrics[0]}"' in (tmp_path / "report" / "report.html").read_text()


@pytest.mark.slow
def test_a_tuning_of_language_models_finds_the_lowest_perplexity(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder)
    flags = ["--dataset_name=plain", *RUNS["plain"][0], "--head=own", *SMALL, "--learning_rate=1e-2", "--quiet"]
    search = ["--trials=2", "--space", "aux_weight=0,1", "--num_chains=1", "--num_draws=4", "--give_up_below=0"]
    assert main(["tune", *flags, *search, f"--output_dir={tmp_path}"]) == 0
    trials = json.loads((tmp_path / "trials.json").read_text())
    assert [trial["perplexity"] > 1 for trial in trials] == [True, True]
    front = json.loads((tmp_path / "pareto.json").read_text())["front"]
    assert front == sorted(front, key=lambda entry: entry["perplexity"])


@pytest.mark.parametrize("flag", ["--target_pooling=tokens", "--feature_layer=encoder.layer.0"])
def test_settings_of_an_own_head_alone(folder, monkeypatch, capsys, flag):
    monkeypatch.chdir(folder)
    assert main(["train", "--dataset_name=several", *TEXTS, flag, "--quiet"]) == 2
    name, _, value = flag.partition("=")
    assert f"{name}={value!r}: allowed with --head own" in capsys.readouterr().err
