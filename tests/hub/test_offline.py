"""Off line, everything that was used once is used again: data, tokenizers, backbones, networks, results."""

import json
import shutil
from pathlib import Path

import pytest
from transformers import AutoConfig, AutoModel

from tests import warm
from tests.hub.test_publish_encoders import BERT, bert_tokenizer
from tests.loopback_hub import LoopbackHub

RUN = """
import sys
from selfmod_hf import SelfModelingForImageClassification, load_results
from selfmod_hf.cli import main

few = ["--max_train_samples=60", "--max_test_samples=20", "--num_train_epochs=1", "--quiet"]
texts = ["--dataset_name=stanfordnlp/imdb", "--max_length=12", *few]
commands = [
    ["train", *texts, "--hidden_sizes=4", "--output_dir=bag"],
    ["train", *texts, "--backbone_name=someone/bert", "--output_dir=bert"],
    ["train", "--dataset_name=uoft-cs/cifar10", *few, "--output_dir=images"],
    ["rlct", "--model=someone/net", "--num_draws=4", "--quiet"],
]
for command in commands:
    assert main(command) == 0, command
print(load_results("someone/net")["rlct"].tolist(), load_results("someone/sweep")["rlct"].tolist())
print(float(next(SelfModelingForImageClassification.from_pretrained("someone/net").parameters()).sum()))
"""


@pytest.mark.slow
def test_what_was_used_once_is_used_off_line(hub_seed, small_model, small_sweep, tmp_path):
    seed = tmp_path / "seed"
    bert_tokenizer(seed / "models/someone/bert")
    AutoModel.from_config(AutoConfig.for_model(**json.loads(BERT))).save_pretrained(seed / "models/someone/bert")
    for name in ("config.json", "model.safetensors", "run.json", "rlct.json", "preprocessor_config.json"):
        _copy(small_model / name, seed / "models/someone/net" / name)
    for name in ("results.parquet", "run.json"):
        _copy(small_sweep / name, seed / "datasets/someone/sweep" / name)
    with LoopbackHub(tmp_path / "hub", seeds=[hub_seed.path, seed]) as hub:
        env = hub.env()
        first = _run(env, tmp_path)
        made = _entries(env)
        asked = len(hub.requests)
        assert _run(env | {"HF_HUB_OFFLINE": "1"}, tmp_path) == first
        assert len(hub.requests) == asked
        assert _entries(env) == made  # nothing was decoded or tokenized again
    assert len(made) == 7  # of two splits images and tokens by two tokenizers, and a vocabulary


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target)


def _run(env: dict[str, str], folder: Path) -> str:
    done = warm.run(["-c", RUN], env, folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _entries(env: dict[str, str]) -> dict[Path, int]:
    """The package's entries in the cache of `datasets`, and when each was written."""
    found = Path(env["HF_HOME"]).rglob("selfmod-*")
    return {path: path.stat().st_mtime_ns for path in found if path.suffix != ".seal"}
