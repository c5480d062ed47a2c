"""The examples of docs/examples.md run, with small random models and data under the names of the real ones."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Image, List, Value
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    BertConfig,
    GPT2Config,
    PreTrainedTokenizerFast,
    ViTConfig,
    ViTImageProcessor,
    set_seed,
)

from tests import warm
from tests.conftest import write_repo
from tests.hub.test_publish_encoders import bert_tokenizer
from tests.loopback_hub import LoopbackHub
from tests.pages import RUN, page_commands
from tests.test_docs_your_own import write_pairs

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "examples.md").read_text()
SMALL = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24, "num_hidden_layers": 2}


@pytest.fixture
def hub(tmp_path):
    set_seed(0)
    models, data = tmp_path / "seed" / "models", tmp_path / "seed" / "datasets"
    bert = models / "sentence-transformers" / "all-MiniLM-L6-v2"
    AutoModel.from_config(BertConfig(**SMALL, vocab_size=60)).save_pretrained(bert)
    bert_tokenizer(bert)
    vit = models / "google" / "vit-base-patch16-224-in21k"
    AutoModel.from_config(ViTConfig(**SMALL, image_size=32)).save_pretrained(vit)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(vit)
    gpt2 = models / "openai-community" / "gpt2"
    config = GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=60, bos_token_id=3, eos_token_id=3)
    AutoModelForCausalLM.from_config(config).save_pretrained(gpt2)
    bert_tokenizer(gpt2)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(gpt2)
    tokenizer.eos_token = "[SEP]"
    tokenizer.save_pretrained(gpt2)
    write_pairs(data / "nyu-mll" / "glue")
    reviews = {"text": ["the film is good and the film is bad"] * 60, "label": [0, 1] * 30}
    features = Features({"text": Value("string"), "label": ClassLabel(names=["neg", "pos"])})
    write_repo(data / "stanfordnlp" / "imdb", "plain_text", features, {"train": reviews, "test": reviews})
    write_photos(tmp_path / "photos")
    with LoopbackHub(tmp_path / "hub", seeds=[tmp_path / "seed"]) as running:
        yield running


def write_photos(folder: Path) -> None:
    """Write images with a list of classes each."""
    generator = np.random.default_rng(0)
    names = ClassLabel(names=["cat", "dog", "tree"])
    for split in ("train", "test"):
        pixels = generator.integers(0, 256, (12, 40, 30, 3), dtype=np.uint8)
        rows = {"image": list(pixels), "labels": [[], [0], [0, 2]] * 4}
        features = Features({"image": Image(), "labels": List(names)})
        Dataset.from_dict(rows, features=features).to_parquet(folder / f"{split}-00000-of-00001.parquet")


@pytest.mark.slow
def test_every_example(hub, tmp_path):
    def python(*arguments: str) -> str:
        done = warm.run(arguments, hub.env(), tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    examples = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert [max(len(line) for line in example.splitlines()) <= 120 for example in examples] == [True] * 3
    printed = python("-c", "\n".join(examples).replace("block_size=128", "block_size=16"))
    figures = [set(re.findall(r"'(eval_\w+)'", line)) for line in printed.splitlines() if "eval_loss" in line]
    wanted = [["f1", "matthews_correlation"], ["f1", "accuracy"], ["perplexity"]]
    assert len(figures) == len(wanted)
    for found, names in zip(figures, wanted, strict=True):
        assert {"eval_self_modeling_loss", *(f"eval_{name}" for name in names)} <= found
    (command,) = page_commands(PAGE)
    python("-c", RUN, json.dumps([[*command, "--block_size=16", "--quiet", "--output_dir=runs/flags"]]))
    settings = [
        json.loads((tmp_path / "runs" / name / "adapter" / "adapter_config.json").read_text())
        for name in ("reviews", "flags")
    ]
    for name in ("r", "lora_alpha", "base_model_name_or_path", "revision", "fan_in_fan_out"):
        assert settings[0][name] == settings[1][name]
