"""`selfmod rlct` on task models of transformers, from a folder and from the Hub."""

from __future__ import annotations

import json
import math

import pytest
import torch
from huggingface_hub import ModelCard
from huggingface_hub.utils import filter_repo_objects
from safetensors.torch import load_file, save_file
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import (
    AutoImageProcessor,
    BertConfig,
    BertForSequenceClassification,
    BertForTokenClassification,
    BitImageProcessor,
    ConvNextImageProcessor,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)

from selfmod_hf import LLCResult, SelfModelingForCausalLM
from selfmod_hf.cli import main
from selfmod_hf.data import ImageTensors, TaskData, load_images, make_task
from selfmod_hf.errors import InputError
from selfmod_hf.hub.plain_model import model_labels, plain_reading
from selfmod_hf.hub.saved import NETWORK_FILES
from selfmod_hf.weights import weights_sha256
from tests import warm
from tests.data.test_preprocessing import picture, write
from tests.hub.test_publish_encoders import SMALL, bert_tokenizer

VIT = SMALL | {"image_size": 8, "patch_size": 4, "num_channels": 1}
DRAWS = ["--num_draws=4", "--num_chains=2", "--batch_size=8", "--max_train_samples=60", "--rlct_preset=theory"]


@pytest.fixture
def vit(tmp_path):
    torch.manual_seed(0)
    names = {number: f"{9 - number}" for number in range(10)}  # the digits in another order
    config = ViTConfig(**VIT, id2label=names, label2id={name: number for number, name in names.items()})
    model = ViTForImageClassification(config)
    model.save_pretrained(tmp_path / "my-vit")
    return model


def test_a_task_model_in_a_folder(vit, tmp_path, monkeypatch, capsys):
    """Its classes are matched by their names, and no file is written beside it."""
    monkeypatch.chdir(tmp_path)
    before = sorted(path.name for path in (tmp_path / "my-vit").iterdir())
    flags = ["rlct", "--model=my-vit", "--task=digits", *DRAWS, "--quiet"]
    assert main([*flags, "--parameters", "network.vit.layers.1.*"]) == 0
    assert sorted(path.name for path in (tmp_path / "my-vit").iterdir()) == before
    result = LLCResult.load(tmp_path / "runs/rlct/my-vit/rlct.json")
    images, labels = load_images(make_task("digits"), max_train_samples=60).train.all()
    with torch.no_grad():
        expected = float(vit.eval()(pixel_values=images, labels=9 - labels).loss)
    assert result.init_loss == pytest.approx(expected, rel=1e-5)
    assert result.weights_sha256 == weights_sha256(tmp_path / "my-vit")
    assert result.settings.parameters[0].startswith("network.vit.layers.1.")
    assert main([*flags, "--heads", "vit.layers.0:1", "--output_dir=heads"]) == 0
    result = LLCResult.load(tmp_path / "heads/rlct.json")
    assert result.settings.num_parameters == 3 * (8 * 16 + 8) + 16 * 8
    assert main([*flags, "--heads", "vit.layers.0:2"]) == 2
    assert "--heads='vit.layers.0:2': vit.layers.0.attention has heads 0 to 1" in capsys.readouterr().err


SHAPES = {
    "crops the middle of a picture": BitImageProcessor(
        size={"height": 10, "width": 12}, crop_size={"height": 8, "width": 8}
    ),
    "crops the middle of": BitImageProcessor(size={"shortest_edge": 7}, crop_size={"height": 8, "width": 8}),
    "keeps the ratio of a picture's sides": BitImageProcessor(size={"shortest_edge": 8}, do_center_crop=False),
    "pads pictures": BitImageProcessor(size={"shortest_edge": 8}, crop_size={"height": 8, "width": 8}, do_pad=True),
}
FOLLOWED = {
    "Bit": BitImageProcessor(size={"shortest_edge": 10}, crop_size={"height": 8, "width": 8}),
    "ConvNeXt": ConvNextImageProcessor(size={"shortest_edge": 8}, crop_pct=0.8),
    "ViT": ViTImageProcessor(size={"height": 8, "width": 8}),
}


@pytest.mark.parametrize("words", SHAPES)
def test_shapes_of_pictures_that_are_not_followed_are_reported(vit, tmp_path, caplog, words):
    SHAPES[words].save_pretrained(tmp_path / "my-vit")
    assert plain_reading(tmp_path / "my-vit")["preprocessing"].image_size == (8, 8)
    assert f"the model's image processor {words}" in caplog.text
    assert "here the complete picture is resized to 8 x 8" in caplog.text


@pytest.mark.parametrize("case", FOLLOWED)
def test_the_loss_is_that_of_the_models_own_pictures(tmp_path, caplog, case):
    """Up to one grey level, because two programs round resized pixels."""
    torch.manual_seed(0)
    folder = tmp_path / "rgb"
    model = ViTForImageClassification(ViTConfig(**VIT | {"num_channels": 3}, num_labels=2)).eval()
    model.save_pretrained(folder)
    FOLLOWED[case].save_pretrained(folder)
    pictures = [picture("RGB", 30 + 5 * seed, 20, seed) for seed in range(8)]
    write(tmp_path / "data", pictures)
    flags = ["--model", str(folder), "--dataset_name", str(tmp_path / "data"), "--num_draws=4", "--num_chains=2"]
    assert main(["rlct", *flags, "--batch_size=4", "--output_dir", str(tmp_path / "out"), "--quiet"]) == 0
    result = LLCResult.load(tmp_path / "out/rlct.json")
    own = AutoImageProcessor.from_pretrained(folder)
    with torch.no_grad():
        pixels = own(pictures, return_tensors="pt")["pixel_values"]
        expected = float(model(pixel_values=pixels, labels=torch.arange(8) % 2).loss)
    assert result.init_loss == pytest.approx(expected, rel=1e-4)
    assert "the model's image processor" not in caplog.text


def test_other_preprocessing_than_the_models_is_in_the_record(vit, tmp_path, monkeypatch):
    """Estimates of pictures that were prepared otherwise are never compared."""
    monkeypatch.chdir(tmp_path)
    ViTImageProcessor(size={"height": 8, "width": 8}).save_pretrained(tmp_path / "my-vit")
    flags = ["rlct", "--model=my-vit", "--task=digits", *DRAWS, "--quiet"]
    assert main([*flags, "--image_std", "0.25", "--image_mean", "0.5"]) == 0
    result = LLCResult.load(tmp_path / "runs/rlct/my-vit/rlct.json")
    assert result.settings.data == "digits, train, deviation 0.25"  # the mean is the model's own


def test_errors_about_the_data_name_flags(vit, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    tokenizer = byte_tokenizer(tmp_path / "bert")
    BertForSequenceClassification(BertConfig(**SMALL, vocab_size=len(tokenizer))).save_pretrained(tmp_path / "bert")
    data = rows_of(tmp_path, 40, text=lambda number: WORDS[number % 8], label=lambda number: number % 4)
    assert main(["rlct", "--model=bert", *data, *DRAWS, "--quiet"]) == 2
    assert "selfmod: error: --label_column: labels=3: the model has 2 classes" in capsys.readouterr().err
    assert main(["rlct", "--model=bert", "--task=digits", *DRAWS, "--quiet"]) == 2
    assert "error: --dataset_name: samples='pixel_values': the model takes input_ids" in capsys.readouterr().err
    assert main(["rlct", "--model=my-vit", "--task=digits", *DRAWS, "--quiet", "--parameters=lm_head*"]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert "a name or pattern among network.vit.embeddings.cls_token" in line
    assert "network.vit.layers.*.mlp.fc1.weight" in line
    assert "layers.0" not in line


def test_texts_of_another_length_are_in_the_record(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tokenizer = byte_tokenizer(tmp_path / "bert")
    torch.manual_seed(0)
    BertForSequenceClassification(BertConfig(**SMALL, vocab_size=len(tokenizer))).save_pretrained(tmp_path / "bert")
    data = rows_of(tmp_path, 40, text=lambda number: " ".join(WORDS[number % 8 :]), label=lambda number: number % 2)
    for length, expected in (("6", ", texts of at most 6 tokens"), ("16", "")):  # 16 is the tokenizer's own
        assert main(["rlct", "--model=bert", *data, f"--max_length={length}", *DRAWS, "--quiet"]) == 0
        result = LLCResult.load(tmp_path / "runs/rlct/bert/rlct.json")
        assert result.settings.data.endswith(f"(seed 0){expected}")


def test_classes_are_matched_by_name_or_taken_by_number(caplog):
    train = ImageTensors(torch.zeros(3, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 1, -100]))
    data = TaskData(train, train, ["Cat", "dog"])
    config = BertConfig(id2label={0: "dog", 1: "bird", 2: "cat"}, label2id={"dog": 0, "bird": 1, "cat": 2})
    assert model_labels(data, config).labels.tolist() == [2, 0, -100]
    assert not caplog.records
    assert model_labels(data, BertConfig(num_labels=2)).labels.tolist() == [0, 1, -100]
    assert not caplog.records
    other = BertConfig(id2label={0: "dog", 1: "bird"}, label2id={"dog": 0, "bird": 1})
    assert model_labels(data, other).labels.tolist() == [0, 1, -100]
    assert "no class 'Cat': classes are taken by their numbers" in caplog.text
    nothing_in_common = BertConfig(id2label={0: "car", 1: "bird"}, label2id={"car": 0, "bird": 1})
    numbered = TaskData(train, train, ["0", "1"])
    assert model_labels(numbered, nothing_in_common).labels.tolist() == [0, 1, -100]
    with pytest.raises(InputError, match=r"label_column='Cat': is no class of the model, .* it knows car, bird"):
        model_labels(data, nothing_in_common)


WORDS = ["the", "a", "film", "is", "good", "bad", "great", "dull"]


def rows_of(folder, number_of_rows, **columns):
    """Write a JSONL file of rows, by functions of their numbers."""
    rows = [{name: value(number) for name, value in columns.items()} for number in range(number_of_rows)]
    path = folder / "data.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return [f"--dataset_name={path}", "--test_fraction=0.2"]


def test_a_language_model_on_blocks_of_text(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tokenizer = byte_tokenizer(tmp_path / "gpt2")
    torch.manual_seed(0)
    config = GPT2Config(n_embd=8, n_layer=1, n_head=2, vocab_size=len(tokenizer), n_positions=16)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "gpt2")
    data = rows_of(tmp_path, 40, text=lambda number: " ".join(WORDS[number % 8 :]) + " and so on it goes.")
    flags = ["rlct", "--model=gpt2", *data, "--text_column=text", *DRAWS, "--quiet"]
    assert main([*flags, "--heads", "transformer.h.0:1"]) == 0
    result = LLCResult.load(tmp_path / "runs/rlct/gpt2/rlct.json")
    tokens = result.settings.num_samples * 15  # of blocks of 16 tokens, whose first is not predicted
    assert result.nbeta == pytest.approx(tokens / math.log(tokens))
    assert result.settings.data.endswith("blocks of 16 tokens")  # nobody typed their size
    assert result.loss == "cross-entropy of a token"
    assert result.init_loss == pytest.approx(math.log(len(tokenizer)), abs=0.3)


def test_a_trained_network_over_a_language_model(tmp_path, monkeypatch):
    """Its files name the data, and the self-model is pruned."""
    monkeypatch.chdir(tmp_path)
    byte_tokenizer(tmp_path / "letters")
    backbone = {"model_type": "gpt2", "n_embd": 8, "n_layer": 1, "n_head": 2, "vocab_size": 29, "n_positions": 16}
    data = rows_of(tmp_path, 40, text=lambda number: " ".join(WORDS[number % 8 :]) + " and so on it goes.")
    network = [f"--backbone_config={json.dumps(backbone)}", "--head=own", "--target_layers=h.0", "--aux_weight=1"]
    flags = [*data, "--text_column=text", "--task_type=causal-lm", "--tokenizer_name=letters", *network]
    assert main(["train", *flags, "--num_train_epochs=1", "--output_dir=run", "--quiet"]) == 0
    assert main(["rlct", "--model=run", data[0], *DRAWS, "--quiet"]) == 0
    result = LLCResult.load(tmp_path / "run/rlct.json")
    assert (result.settings.nbeta_rule, result.loss) == ("n/log n, n = tokens", "cross-entropy of a token")
    assert result.weights_sha256 == weights_sha256(tmp_path / "run")
    plain = SelfModelingForCausalLM.from_pretrained(tmp_path / "run").prune()
    assert result.settings.num_parameters == plain.num_parameters()


def test_a_class_of_each_word_is_matched_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    bert_tokenizer(tmp_path / "bert")
    names = {0: "noun", 1: "other"}
    torch.manual_seed(0)
    config = BertConfig(**SMALL, vocab_size=13, id2label=names, label2id={"noun": 0, "other": 1})
    model = BertForTokenClassification(config).eval()
    model.classifier.bias.data = torch.tensor([9.0, 0.0])  # it says that each word is a noun
    model.save_pretrained(tmp_path / "bert")
    data = rows_of(
        tmp_path,
        40,
        words=lambda number: WORDS[: 3 + number % 4],
        tags=lambda number: ["Noun"] * (2 + number % 4) + ["Other"],
    )
    columns = ["--text_column=words", "--label_column=tags"]
    assert main(["rlct", "--model=bert", *data, *columns, *DRAWS, "--quiet"]) == 0
    result = LLCResult.load(tmp_path / "runs/rlct/bert/rlct.json")
    assert result.settings.nbeta_rule == "n/log n, n = tokens"
    assert 1.0 < result.init_loss < 4.0  # about 9 nats for each word that is no noun


def test_several_classes_get_the_columns_of_the_model():
    labels = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    train = ImageTensors(torch.zeros(2, 1, 8, 8, dtype=torch.uint8), labels)
    config = BertConfig(id2label={0: "dog", 1: "bird", 2: "cat"}, label2id={"dog": 0, "bird": 1, "cat": 2})
    found = model_labels(TaskData(train, train, ["Cat", "dog"]), config)
    assert found.labels.tolist() == [[0, 0, 1], [1, 0, 1]]


def byte_tokenizer(folder):
    """Write a tokenizer with a token for each byte of English, and an end of text."""
    letters = sorted(set("abcdefghijklmnopqrstuvwxyz ."))
    vocabulary = {"<|endoftext|>": 0, **{letter: number for number, letter in enumerate(letters, 1)}}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<|endoftext|>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>", model_max_length=16)
    fast.save_pretrained(folder)
    return fast


def changed_config(folder, **fields):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.mark.parametrize("kind", ["no data", "quantized", "lacks weights", "another base", "bad value"])
def test_unusable_task_models_are_one_line(vit, tmp_path, monkeypatch, capsys, kind):
    monkeypatch.chdir(tmp_path)
    folder, flags, message = tmp_path / "my-vit", ["--task=digits"], ""
    if kind == "no data":
        flags, message = [], "--task, --dataset_name=None: name the training data"
    elif kind == "quantized":
        changed_config(folder, quantization_config={"quant_method": "bitsandbytes"})
        message = "has quantized weights"
    elif kind == "lacks weights":
        weights = load_file(folder / "model.safetensors")
        del weights["classifier.weight"]
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
        message = "its files lack weights of the model, classifier.weight (1 in all)"
    elif kind == "bad value":
        changed_config(folder, num_attention_heads=0)
        message = "cannot be loaded ("
    else:
        changed_config(folder, architectures=["ViTModel"])
        message = "model_type='vit'; allowed is"
    assert main(["rlct", f"--model={folder}", *flags, *DRAWS, "--quiet"]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("selfmod: error")]
    assert message in line


def test_a_download_leaves_out_weights_of_other_forms():
    wanted = [
        "config.json", "model.safetensors", "model-00001-of-00002.safetensors", "model.safetensors.index.json",
        "adapter/adapter_model.safetensors", "adapter/adapter_config.json", "tokenizer.json",
    ]  # fmt: skip
    others = ["original/consolidated.safetensors", "onnx/model.safetensors", "onnx/model.onnx", "training.png"]
    assert list(filter_repo_objects([*wanted, *others], allow_patterns=list(NETWORK_FILES))) == wanted


LOAD = """
import sys
from selfmod_hf import load_results
row = load_results("colleague/bert", revision="refs/pr/1").loc[0]
assert row["weights_checked"] and row["rlct_num_samples"] == 60, row
"""


def test_the_rlct_of_a_model_on_the_hub_is_a_pull_request(loopback_hub, tmp_path):
    torch.manual_seed(0)
    folder = tmp_path / "bert"
    bert_tokenizer(folder)
    model = BertForSequenceClassification(BertConfig(**SMALL, vocab_size=13, num_labels=2))
    model.save_pretrained(folder)
    colleague = loopback_hub.api(loopback_hub.colleague_token)
    colleague.create_repo("colleague/bert")
    colleague.upload_folder(repo_id="colleague/bert", folder_path=str(folder))

    def run(*arguments: str) -> str:
        done = warm.run(arguments, loopback_hub.env(), tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stdout

    texts = ["--dataset_name=stanfordnlp/imdb", "--text_column=text", "--max_length=12"]
    shown = run(*warm.SELFMOD, "rlct", "--model=colleague/bert", *texts, *DRAWS, "--push_result", "--quiet")
    assert shown.splitlines()[-1].endswith("/colleague/bert/discussions/1")
    assert (tmp_path / "runs/rlct/colleague--bert/rlct.json").is_file()
    files = colleague.list_repo_files("colleague/bert", revision="refs/pr/1")
    assert {"rlct.json", "rlct.safetensors", "README.md"} <= set(files)
    assert "rlct.json" not in colleague.list_repo_files("colleague/bert")
    card = ModelCard.load(colleague.hf_hub_download("colleague/bert", "README.md", revision="refs/pr/1"))
    (metric,) = card.data.eval_results
    assert (metric.metric_type, metric.task_type, metric.dataset_type) == (
        "rlct", "text-classification", "stanfordnlp/imdb",
    )  # fmt: skip
    assert metric.metric_value == LLCResult.load(tmp_path / "runs/rlct/colleague--bert/rlct.json").llc
    run("-c", LOAD)
