"""Training from the Hub, pushing to it, and loading again: real clients, real processes, the loopback Hub."""

from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from safetensors.torch import load_file

from tests import warm

SCRIPT = str(Path(__file__).resolve().parents[2] / "scripts" / "train.py")

WITHOUT_PACKAGE = """
import sys
sys.modules["selfmod_hf"] = None  # importing it now fails
from PIL import Image
from transformers import pipeline
classify = pipeline("image-classification", model="me/net", trust_remote_code=True)
answer = classify(Image.new("L", (28, 28)))
assert len(answer) == 5 and answer[0]["label"].split()[0].isdigit(), answer
"""


def test_mnist_from_the_hub_to_the_hub(loopback_hub, tmp_path):
    flags = ["--task", "mnist", "--max_train_samples", "400", "--max_test_samples", "100", "--num_train_epochs", "2"]
    push = ["--push_to_hub", "--hub_model_id", "me/net", "--train_batch_size", "64"]
    env = loopback_hub.env()
    warm.run([SCRIPT, *flags, *push], env, tmp_path, check=True)

    api = loopback_hub.api()
    files = set(api.list_repo_files("me/net"))
    assert {"README.md", "config.json", "model.safetensors", "modeling_self_modeling.py"} <= files
    assert {"configuration_self_modeling.py", "preprocessor_config.json", "training_args.json"} <= files
    assert "image_processing_self_modeling.py" in files
    assert not [name for name in files if name.endswith((".bin", ".pt", ".pth", ".pkl"))]
    pushed = api.hf_hub_download("me/net", "model.safetensors", cache_dir=tmp_path / "cache")
    assert Path(pushed).read_bytes() == (tmp_path / "runs/mnist-h64-aw10-seed42/model.safetensors").read_bytes()
    assert load_file(pushed)

    card = ModelCard.load(api.hf_hub_download("me/net", "README.md", cache_dir=tmp_path / "cache"))
    assert card.data.datasets == ["ylecun/mnist"]
    assert {(r.metric_type, r.dataset_type, r.dataset_split) for r in card.data.eval_results} == {
        ("accuracy", "ylecun/mnist", "test"),
        ("weight_width", "ylecun/mnist", "test"),
    }
    warm.run(["-c", WITHOUT_PACKAGE], env, tmp_path, check=True)


NOT_THERE = """
import sys
from selfmod_hf.cli import main
COMMANDS = (["rlct", "--model=me/none"], ["train", "--backbone_name=me/none"], ["report", "me/none"])
for argv in COMMANDS[: int(sys.argv[1])]:
    assert main(argv) == 2
"""


@pytest.mark.slow
def test_what_is_not_on_the_hub_is_named_by_its_flag(loopback_hub, tmp_path):
    names = ["--model me/none: ", "--backbone_name me/none: ", "--folder"]
    lines = errors_of_commands(3, loopback_hub.env(), tmp_path)
    assert all(name in line for name, line in zip(names, lines, strict=True)), lines
    assert all("no such folder here, nor repository" in line for line in lines[:2]), lines

    no_hub = {**loopback_hub.env(), "HF_ENDPOINT": "http://127.0.0.1:9"}  # each command waits long for it
    (line,) = errors_of_commands(1, no_hub, tmp_path)
    assert names[0] in line
    assert "the connection to the Hub failed" in line


def errors_of_commands(count: int, env: dict[str, str], folder: Path) -> list[str]:
    """Return the lines with errors of the first commands."""
    done = warm.run(["-c", NOT_THERE, str(count)], env, folder)
    assert done.returncode == 0, done.stderr
    return [line for line in done.stderr.splitlines() if line.startswith("selfmod: error: ")]


def test_a_token_that_the_hub_refuses(loopback_hub, tmp_path):
    env = {**loopback_hub.env(), "HF_TOKEN": "hf_stolen"}
    flags = ["--push_to_hub", "--hub_model_id", "me/net", "--num_train_epochs", "1"]
    done = warm.run([SCRIPT, *flags], env, tmp_path)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "401" in done.stderr.splitlines()[-1]
    assert "hf_stolen" not in done.stderr
