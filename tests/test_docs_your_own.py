"""What docs/your-own.md says is run: each command and the example, on real clients."""

import json
import re
from pathlib import Path

import pytest
from datasets import ClassLabel, Features, Value
from safetensors import safe_open

from tests import warm
from tests.conftest import write_repo
from tests.hub.test_publish_encoders import bert_tokenizer
from tests.loopback_hub import LoopbackHub
from tests.pages import RUN, page_commands

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "your-own.md").read_text()
# appended to the commands, whose later flags win: a few samples in place of thousands
FEW = ["--max_train_samples", "48", "--max_test_samples", "24"]
SHORT = {
    "train": [*FEW, "--num_train_epochs", "1", "--quiet"],
    "rlct": [*FEW, "--num_draws", "4", "--batch_size", "8", "--quiet"],
}


@pytest.fixture
def hub(tmp_path, hub_seed):
    """A Hub that holds, under the pretrained models' names, small random ones of the same architecture."""
    from transformers import AutoModel, BertConfig, ViTConfig, ViTImageProcessor, set_seed

    set_seed(0)
    models = tmp_path / "seed" / "models"
    small = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24}
    bert = models / "sentence-transformers" / "all-MiniLM-L6-v2"
    AutoModel.from_config(BertConfig(**small, num_hidden_layers=6, vocab_size=200)).save_pretrained(bert)
    bert_tokenizer(bert)
    vit = models / "google" / "vit-base-patch16-224-in21k"
    AutoModel.from_config(ViTConfig(**small, num_hidden_layers=2)).save_pretrained(vit)
    ViTImageProcessor().save_pretrained(vit)
    write_pairs(tmp_path / "seed" / "datasets" / "nyu-mll" / "glue")
    with LoopbackHub(tmp_path / "hub", seeds=[hub_seed.path, tmp_path / "seed"]) as running:
        yield running


def write_pairs(repo: Path) -> None:
    """Write pairs in the layout of GLUE's mrpc."""
    labels = ClassLabel(names=["not_equivalent", "equivalent"])
    features = Features(
        {"sentence1": Value("string"), "sentence2": Value("string"), "label": labels, "idx": Value("int32")}
    )
    rows = {
        "sentence1": ["the film is good"] * 48,
        "sentence2": ["a good film", "the film is dull"] * 24,
        "label": [1, 0] * 24,
        "idx": list(range(48)),
    }
    write_repo(repo, "mrpc", features, {"train": rows, "validation": rows})


@pytest.mark.slow
def test_every_command_and_the_example(hub, tmp_path):
    def python(*arguments: str) -> str:
        done = warm.run(arguments, hub.env(), tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    commands = page_commands(PAGE)
    assert [words[0] for words in commands] == ["train", "train", "train", "train", "rlct", "train"]
    python("-c", RUN, json.dumps([[*words, *SHORT[words[0]]] for words in commands]))
    config = json.loads((tmp_path / "runs/minilm/config.json").read_text())
    assert config["base_model"] == "sentence-transformers/all-MiniLM-L6-v2"
    with safe_open(tmp_path / "runs/minilm/model.safetensors", "pt") as weights:
        assert weights.get_slice("self_model_head.weight").get_shape() == [2 * 16, 16]
    assert json.loads((tmp_path / "runs/minilm/rlct.json").read_text())["settings"]["num_draws"] == 4
    with safe_open(tmp_path / "runs/uoft-cs--cifar10-resnet18-h256-aw1-seed42/model.safetensors", "pt") as weights:
        assert weights.get_slice("self_model_head.weight").get_shape() == [512 * 4 * 4 + 256, 256]

    task = json.loads((tmp_path / "runs/mrpc/run.json").read_text())["task"]
    assert (task["text_column"], task["test_split"]) == (["sentence1", "sentence2"], "validation")

    example, images_in_a_file = re.findall(r"```python\n(.*?)```", PAGE, flags=re.S)
    python("-c", images_in_a_file)
    printed = python("-c", example.replace("4000", "48").replace("1000", "24"))
    assert "eval_self_modeling_loss" in printed
