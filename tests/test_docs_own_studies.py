"""The four studies of docs/own-studies.md run by flags alone: report, push and `load_results`."""

import csv
import json
import re
import shutil
from pathlib import Path

import pytest

from tests import warm
from tests.experiments.test_study import write_images
from tests.hub.test_publish_encoders import bert_tokenizer
from tests.loopback_hub import LoopbackHub
from tests.pages import RUN, page_commands, with_flags

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "own-studies.md").read_text()
# appended to the commands that begin so, whose later flags win
FEW = ["--num_train_epochs=1", "--max_train_samples=43", "--max_test_samples=23", "--quiet"]
SWEEP = [*FEW, "--seeds", "1", "2", "--num_chains=2", "--num_draws=6"]
SHORT = {
    "train": FEW,
    "sweep": SWEEP,
    "sweep --dataset_name ./photos": [*SWEEP, "--max_train_samples=8", "--max_test_samples=8"],
    "push": ["--quiet"],
    "report": [],
}


@pytest.fixture
def hub(tmp_path, hub_seed):
    """A Hub with a small random BERT under the name of the page's, and MNIST under that of Fashion-MNIST."""
    from transformers import AutoModel, BertConfig, set_seed

    set_seed(0)
    small = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24, "num_hidden_layers": 2}
    bert = tmp_path / "seed" / "models" / "google" / "bert_uncased_L-2_H-128_A-2"
    AutoModel.from_config(BertConfig(**small, vocab_size=200)).save_pretrained(bert)
    bert_tokenizer(bert)
    fashion = tmp_path / "seed" / "datasets" / "zalando-datasets" / "fashion_mnist"
    shutil.copytree(hub_seed.path / "datasets" / "ylecun" / "mnist", fashion)
    with LoopbackHub(tmp_path / "hub", seeds=[hub_seed.path, tmp_path / "seed"]) as running:
        yield running


def write_reviews(path: Path) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for k in range(60):
            writer.writerow(["a great film" if k % 2 else "a poor film", "good" if k % 2 else "bad"])


@pytest.mark.weekly
def test_four_studies(hub, tmp_path):
    def python(*arguments: str) -> str:
        done = warm.run(arguments, hub.env(), tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    write_images(tmp_path / "photos")
    write_reviews(tmp_path / "reviews.csv")
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    commands = page_commands(PAGE)
    assert [words[0] for words in commands].count("sweep") == 4
    printed = python("-c", RUN, json.dumps([with_flags(words, SHORT) for words in commands]))
    for name in ("photos", "fashion", "reviews", "controls"):
        assert (tmp_path / "runs" / name / "report" / "report.html").is_file()
        assert f"{name}" in printed
    (snippet,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.S)
    shown = python("-c", snippet)
    for arm in ("aw0", "h128x64-aw10", "own-10", "decay-last-3e-3", "as-own-10"):
        assert re.search(rf"^{re.escape(arm)} ", shown, flags=re.M), shown
