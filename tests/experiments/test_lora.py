"""`selfmod train --lora_r`: adapters of a pretrained task model, from flags to files, card and RLCT."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
    set_seed,
)

from selfmod_hf import RunSettings, report
from selfmod_hf.cli import main
from selfmod_hf.errors import InputError
from selfmod_hf.experiments.folder import SweepFolder
from selfmod_hf.hub.model_folder import write_model_card
from selfmod_hf.models import load_model
from selfmod_hf.models.classifier_weights import classifier_weight
from selfmod_hf.reports.on_hub import check_weights
from selfmod_hf.weights import weights_sha256
from tests.experiments.test_own_head import SIZES, SPECIAL, WORDS, folder  # noqa: F401 - a fixture

PAIRS = ["--dataset_name=pairs", "--text_column", "sentence1", "sentence2", "--target_layers=encoder.layer.*"]
TRAIN = [
    *PAIRS, "--head=own", "--backbone_name=model", "--aux_weight=1", "--num_train_epochs=2", "--train_batch_size=8",
    "--learning_rate=0.01", "--quiet",
]  # fmt: skip
LORA = ["--lora_r=2", "--lora_dropout=0.1"]
PAIR = ("sentence1", "sentence2")


@pytest.fixture(scope="module")
def place(folder, tmp_path_factory) -> Path:  # noqa: F811
    """A folder with a data set and pretrained task models."""
    found = tmp_path_factory.mktemp("lora")
    for data in ("pairs", "plain"):
        shutil.copytree(folder / data, found / data)
    set_seed(0)
    words = len(SPECIAL) + len(WORDS)
    bert = BertConfig(**SIZES, vocab_size=words, max_position_embeddings=64, num_labels=2)
    BertForSequenceClassification(bert).save_pretrained(found / "model")
    gpt2 = GPT2Config(n_embd=12, n_layer=2, n_head=2, vocab_size=words, n_positions=64, eos_token_id=2, bos_token_id=2)
    GPT2LMHeadModel(gpt2).save_pretrained(found / "gpt2")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder / "tokenizer")
    tokenizer.save_pretrained(found / "model")
    tokenizer.eos_token = "[SEP]"
    tokenizer.save_pretrained(found / "gpt2")
    return found


@pytest.fixture(scope="module")
def trained(place, tmp_path_factory) -> Path:
    """The folder of a trained network with an adapter. It is only read."""
    output = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        assert main(["train", *TRAIN, *LORA, f"--output_dir={output}", "--save_total_limit=2"]) == 0
    return output


def network(place: Path, **settings):
    run = RunSettings.make(
        dataset_name=str(place / "pairs"), text_column=PAIR, head="own", backbone_name=str(place / "model"),
        target_layers=["encoder.layer.*"], aux_weight=1, **settings,
    )  # fmt: skip
    return run.build_network(run.load_data())


def tokens(rows: int = 5) -> dict:
    generator = torch.Generator().manual_seed(rows)
    ids = torch.randint(4, len(SPECIAL) + len(WORDS), (rows, 6), generator=generator)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(**tokens()).logits


# ---------------------------------------------------------------------------------- training and files


def test_only_the_adapter_and_the_self_model_are_trained(place, trained):
    base = BertForSequenceClassification.from_pretrained(place / "model")
    model = load_model(trained)
    state = model.state_dict()
    for name, value in base.state_dict().items():
        inside = f"task_model.base_model.model.{name}"
        head, _, kind = inside.rpartition(".")
        assert torch.equal(state.get(inside, state.get(f"{head}.base_layer.{kind}")), value)
    moved = [name for name, value in state.items() if "lora_B" in name and value.abs().max() > 0]
    assert len(moved) == 4  # query and value of two layers
    settings = json.loads((trained / "adapter" / "adapter_config.json").read_text())
    found = {name: settings[name] for name in ("peft_type", "r", "lora_alpha", "lora_dropout")}
    assert found == {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "lora_dropout": 0.1}
    assert sorted(settings["target_modules"]) == ["query", "value"]
    assert [path.name for path in sorted((trained / "adapter").iterdir())] == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]


def test_the_trained_adapter_is_loaded_by_plain_peft_and_merged(place, trained):
    model = load_model(trained)
    base = AutoModelForSequenceClassification.from_pretrained(place / "model")
    assert torch.equal(logits(PeftModel.from_pretrained(base, trained / "adapter")), logits(model))
    assert torch.equal(logits(model.prune(adapter="keep")), logits(model))
    torch.testing.assert_close(logits(model.prune(adapter="merge")), logits(model), rtol=1e-4, atol=1e-6)


def test_a_resumed_training_is_the_uninterrupted_one(place, trained, tmp_path, monkeypatch):
    monkeypatch.chdir(place)
    checkpoint = sorted(trained.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))[0]
    flags = [f"--output_dir={tmp_path}", f"--resume_from_checkpoint={checkpoint}"]
    assert main(["train", *TRAIN, *LORA, *flags]) == 0
    for name in ("model.safetensors", "adapter/adapter_model.safetensors"):
        complete, resumed = load_file(trained / name), load_file(tmp_path / name)
        assert complete.keys() == resumed.keys()
        assert all(torch.equal(complete[key], resumed[key]) for key in complete)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--lora_r=2", "--lora_alpha=2", "--lora_dropout=0.1"], "was trained with lora_alpha=4; allowed is 2, as in"),
        (["--lora_r=4", "--lora_alpha=4", "--lora_dropout=0.1"], "was trained with r=2; allowed is 4, as in"),
        ([], "was trained with adapter=True; allowed is False"),
    ],
)
def test_another_adapter_is_not_resumed(place, trained, tmp_path, monkeypatch, capsys, flags, message):
    monkeypatch.chdir(place)
    checkpoint = next(iter(trained.glob("checkpoint-*")))
    flags = [*flags, f"--output_dir={tmp_path}", f"--resume_from_checkpoint={checkpoint}"]
    assert main(["train", *TRAIN, *flags]) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_a_complete_network_replaces_the_adapter_in_a_folder(place, trained, tmp_path, monkeypatch):
    monkeypatch.chdir(place)
    shutil.copytree(trained, tmp_path / "run")
    assert main(["train", *TRAIN, "--num_train_epochs=1", f"--output_dir={tmp_path / 'run'}"]) == 0
    assert not list((tmp_path / "run" / "adapter").iterdir())
    recorded = json.loads((tmp_path / "run" / "run.json").read_text())["weights_sha256"]
    assert recorded == weights_sha256(tmp_path / "run")
    assert load_model(tmp_path / "run").config.adapter is False


# ---------------------------------------------------------------------------------- layers and freezing


def test_all_linear_layers_of_a_language_model(place, monkeypatch, recwarn):
    monkeypatch.chdir(place)
    settings = RunSettings.make(
        dataset_name="plain", task_type="causal-lm", block_size=16, head="own", backbone_name="gpt2",
        target_layers=["h.*"], lora_r=3, lora_alpha=5, lora_target_modules=["all-linear"],
    )  # fmt: skip
    model = settings.build_network(settings.load_data())
    adapted = {name.split(".lora_A")[0].rpartition(".")[2] for name, _ in model.named_parameters() if "lora_A" in name}
    assert adapted == {"c_attn", "c_proj", "c_fc"}
    assert model.task_model.peft_config["default"].lora_alpha == 5
    assert not [str(warning.message) for warning in recwarn if "fan_in_fan_out" in str(warning.message)]


def test_frozen_parameters_of_an_adapter_keep_their_weights(place):
    frozen = ["bert.encoder.layer.0.attention.self.query.*", "bert.encoder.layer.1.*.weight", "backbone.embeddings*"]
    model = network(place, lora_r=2, freeze=frozen)
    trained = [name for name, value in model.named_parameters() if value.requires_grad]
    short = "task_model.base_model.model.bert.encoder.layer.0.attention.self.value.lora_{}.default.weight"
    assert trained == [short.format("A"), short.format("B"), "self_model_head.weight", "self_model_head.bias"]


def test_a_layer_with_an_adapter_is_frozen_by_its_plain_name(place):
    model = network(place, lora_r=2, freeze=["bert.encoder.layer.0.attention.self.query.weight"])
    assert any("layer.0.attention.self.query.lora_A" in n for n, p in model.named_parameters() if p.requires_grad)


# ---------------------------------------------------------------------------------- figures, card, RLCT


def test_width_and_card_are_those_of_the_adapted_network(place, tmp_path, monkeypatch):
    monkeypatch.chdir(place)
    output = tmp_path / "run"
    layers = ["--lora_r=2", "--lora_target_modules", "query", "classifier"]
    assert main(["train", *TRAIN, *layers, f"--output_dir={output}"]) == 0
    model = load_model(output)
    merged = model.prune().classifier.weight.detach()
    torch.testing.assert_close(classifier_weight(model), merged)
    width = float(merged.double().std(correction=0))
    log = json.loads((output / "trainer_state.json").read_text())["log_history"]
    assert [entry["weight_width"] for entry in log if "weight_width" in entry][-1] == pytest.approx(width)
    card = write_model_card(output, "me/adapted").read_text()
    assert f"| Weight width (SD of the last layer's weights) | {width:.4f} |" in card
    assert "| adapter | LORA, rank 2, alpha 4, dropout 0.0, at classifier, query |" in card
    assert "pip install peft" in card


def test_a_study_of_adapters_alone_is_reported_and_pushed(place, tmp_path, monkeypatch):
    """Without target layers the files of a network are its configuration and its adapter."""
    monkeypatch.chdir(place)
    few = ["--max_train_samples=16", "--max_test_samples=8", "--num_train_epochs=1", "--num_draws=4", "--quiet"]
    base = ["--head=own", "--backbone_name=model", "--aux_weights=0", "--seeds=1"]
    study = tmp_path / "study"
    assert main(["sweep", *PAIRS[:4], "--target_layers", *base, *LORA, *few, f"--output_dir={study}"]) == 0
    cell = study / "cells" / "aw0-seed1"
    assert not (cell / "model.safetensors").exists()
    report(study)
    row = json.loads((cell / "row.json").read_text())
    assert SweepFolder(study).final_weights(row).std() == pytest.approx(row["weight_width"])
    check_weights(SweepFolder(study))
    adapter = cell / "adapter" / "adapter_model.safetensors"
    adapter.write_bytes(adapter.read_bytes()[:-1])
    with pytest.raises(InputError, match=r"adapter_model\.safetensors'?: is missing or cannot be read"):
        check_weights(SweepFolder(study))


@pytest.mark.slow
def test_the_rlct_is_that_of_the_merged_network(place, trained, tmp_path, monkeypatch):
    monkeypatch.chdir(place)
    load_model(trained).prune().save_pretrained(tmp_path / "merged")
    PreTrainedTokenizerFast.from_pretrained(place / "model").save_pretrained(tmp_path / "merged")
    shutil.copytree(trained, tmp_path / "run")
    sampling = ["--dataset_name=pairs", "--text_column", *PAIR, "--num_chains=2", "--num_draws=20", "--quiet"]
    for name in ("merged", "run"):
        assert main(["rlct", f"--model={tmp_path / name}", *sampling, f"--output_dir={tmp_path / name}-rlct"]) == 0
    merged, adapted = (json.loads((tmp_path / f"{name}-rlct" / "rlct.json").read_text()) for name in ("merged", "run"))
    assert adapted["llc"] == merged["llc"]
    assert adapted["weights_sha256"] == weights_sha256(trained)


# ---------------------------------------------------------------------------------- unusable settings


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--lora_alpha=4"], "--lora_alpha=4: allowed with --lora_r"),
        (["--lora_dropout=0.1"], "--lora_dropout=0.1: allowed with --lora_r"),
        (["--lora_target_modules=query"], "--lora_target_modules=['query']: allowed with --lora_r"),
        (["--lora_r=0"], "--lora_r=0: allowed are integers of at least 1"),
        (["--lora_r=2", "--lora_alpha=-1"], "--lora_alpha=-1: allowed are integers of at least 1"),
        (["--lora_r=2", "--lora_dropout=1"], "--lora_dropout=1.0: allowed are numbers from 0 to below 1"),
        (
            ["--lora_r=2", "--lora_target_modules", "query", "all-linear"],
            "--lora_target_modules=['query', 'all-linear']: all-linear has every layer; give it alone",
        ),
        (
            ["--lora_r=2", "--lora_target_modules", "query", "valeu"],
            "--lora_target_modules=['query', 'valeu']: no module is named 'valeu'; linear layers of this model are cla",
        ),
        (
            ["--lora_r=2", "--lora_target_modules=LayerNorm"],
            "--lora_target_modules=['LayerNorm']: Target module LayerNorm",
        ),
        (["--lora_r=2", "--head=new"], "--lora_r=2: adapts a pretrained task model; allowed with --head own and a"),
    ],
)
def test_unusable_settings_are_one_line(place, tmp_path, monkeypatch, capsys, flags, message):
    monkeypatch.chdir(place)
    assert main(["train", *TRAIN, *flags, f"--output_dir={tmp_path}"]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"selfmod: error: {message}")


def test_without_peft_the_line_says_how_to_install_it(place, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(place)
    monkeypatch.setitem(sys.modules, "peft", None)
    assert main(["train", *TRAIN, *LORA, f"--output_dir={tmp_path}"]) == 2
    line = "selfmod: error: --lora_r=2: needs peft: pip install 'selfmod_hf[peft]'"
    assert capsys.readouterr().err.splitlines()[-1] == line


def test_an_adapter_of_a_local_folder_is_not_pushed(place, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(place)
    flags = [f"--output_dir={tmp_path}", "--push_to_hub", "--hub_model_id=me/adapted"]
    assert main(["train", *TRAIN, *LORA, *flags]) == 2
    assert "--push_to_hub=True: the adapter's base is a folder of this machine" in capsys.readouterr().err


def test_a_base_in_a_folder_is_reported_once(place, tmp_path, monkeypatch):
    monkeypatch.chdir(place)
    shutil.copytree(place / "model", tmp_path / "base")
    flags = [f"--backbone_name={tmp_path / 'base'}", "--save_strategy=steps", "--save_steps=2", "--save_total_limit=3"]
    with pytest.warns(UserWarning, match="names its base by its folder") as found:
        assert main(["train", *TRAIN, *LORA, *flags, f"--output_dir={tmp_path / 'run'}"]) == 0
    assert len(list((tmp_path / "run").glob("checkpoint-*"))) > 1
    assert len([one for one in found if "names its base by its folder" in str(one.message)]) == 1


def test_reentrant_checkpointing_would_lose_the_adapter_s_gradients(place, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(place)
    flags = ["--gradient_checkpointing", '--gradient_checkpointing_kwargs={"use_reentrant": true}']
    assert main(["train", *TRAIN, *LORA, *flags, f"--output_dir={tmp_path}"]) == 2
    assert "use_reentrant loses gradients behind frozen embeddings" in capsys.readouterr().err


def test_the_default_folder_names_the_adapter():
    settings = RunSettings.make(task="digits", head="own", backbone_name="me/vit", lora_r=4)
    assert "lora_r_4" in settings.training.output_dir
