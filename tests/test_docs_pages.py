"""The commands and snippets of most pages run, as a reader would run them: in one folder, from top to bottom.

Small random models and small data stand under the names of the real ones. Flags that are appended make the commands
short, since later flags win. `tests/docs_blocks.py` lists what is left out, and the pages that other tests run.
"""

import json
import re
import shlex
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import ClassLabel, Features, Image

from tests import warm
from tests.conftest import write_repo
from tests.docs_blocks import ROOT, RUN_BY, commands, is_run
from tests.experiments.test_study import write_images
from tests.hub.test_publish_encoders import bert_tokenizer
from tests.loopback_hub import LoopbackHub
from tests.pages import RUN, blocks, with_flags
from tests.test_docs_own_studies import write_reviews
from tests.test_docs_your_own import write_pairs

SMALL = {"hidden_size": 16, "num_attention_heads": 4, "intermediate_size": 24}
FEW = ["--max_train_samples=48", "--max_test_samples=24", "--num_train_epochs=1", "--quiet"]
FEWER = [*FEW, "--max_train_samples=12", "--max_test_samples=12"]
DRAWS = ["--num_chains=2", "--num_draws=8"]
SMALL_GENERATOR = {"model_type": "gpt2", "n_embd": 16, "n_layer": 2, "n_head": 2}
SHORT = {
    "train": FEW,
    "sweep": [*FEW, *DRAWS, "--seeds", "1", "2"],
    "rlct": [*DRAWS, "--batch_size=16", "--max_train_samples=48", "--max_test_samples=24", "--quiet"],
    "tune": [*FEW[:2], "--trials=2", "--num_draws=40", "--quiet"],
    "report": [],
    "push": ["--quiet"],
}


@dataclass(frozen=True)
class Reading:
    """How a page is run.

    Attributes:
        before: commands that the page takes for granted.
        names: code in front of the snippets, which defines what the page takes for granted.
        smaller: texts of the snippets, and what takes their place.
        short: other flags that are appended, by the beginning of a command.
    """

    before: tuple[str, ...] = ()
    names: str = ""
    smaller: dict[str, str] = field(default_factory=dict)
    short: dict[str, list[str]] = field(default_factory=dict)


TRAINED = "selfmod train --task mnist --aux_weight 10 --output_dir runs/mnist-h64-aw10-seed42"
CLASSIFIER = """
import torch
torch.manual_seed(0)
model = module = torch.nn.Linear(3, 2)
inputs, targets = torch.randn(200, 3), torch.randint(0, 2, (200,))
"""
ATTENTION = """
import torch
class Attending(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = torch.nn.MultiheadAttention(8, 2, batch_first=True)
        self.fc = torch.nn.Linear(8, 2)
    def forward(self, x):
        return self.fc(self.attention(x, x, x)[0].mean(1))
"""
READINGS = {
    "docs/devinterp.md": Reading(names=CLASSIFIER),
    "docs/formats.md": Reading(
        before=(
            "selfmod train --task digits --output_dir runs/self-model",
            "selfmod rlct --model runs/self-model",
        )
    ),
    "docs/ground-truth.md": Reading(smaller={"loss_fn=model.loss_fn)": "loss_fn=model.loss_fn, num_draws=40)"}),
    "docs/publishing.md": Reading(
        before=(
            "selfmod sweep --task digits --aux_weights 0 1 --output_dir runs/sweep-digits",
            "selfmod push runs/sweep-digits --repo me/digits",
        ),
    ),
    "docs/rlct.md": Reading(
        before=(TRAINED, "selfmod push runs/mnist-h64-aw10-seed42 --repo me/my-network"),
        names=f"{CLASSIFIER}\n{ATTENTION}\ntexts = ['the film is good', 'the film is bad and the film is dull'] * 8\n",
        smaller={
            "num_draws=4000": "num_draws=40",
            'pad_token="<|endoftext|>"': 'pad_token="[PAD]"',
            'parameters=["network.transformer.h.3.*"])': 'parameters=["network.transformer.h.3.*"], num_draws=8)',
            'heads=["transformer.h.3:0,2"])': 'heads=["transformer.h.3:0,2"], num_draws=8)',
            "mask = torch.zeros": "module, inputs = Attending(), torch.randn(9, 3, 8)\n"
            "targets = torch.randint(0, 2, (9,))\n"
            "mask = torch.zeros",
            "result = estimate_llc(module, inputs, targets, probes": CLASSIFIER
            + "result = estimate_llc(module, inputs, targets, probes",
        },
    ),
    "docs/studies.md": Reading(
        before=("selfmod train --task mnist --aux_weight 0 --seed 99 --output_dir runs/other",),
        names="from selfmod_hf import Member\n",
        smaller={"seeds=[1, 2], ": "seeds=[1, 2], num_train_epochs=2, num_draws=40, "},
        short={
            "sweep": [*FEW, *DRAWS, "--seeds", "1"],
            "sweep --dataset_name ./photos": [*FEW, *DRAWS, "--seeds", "1", "--backbone=timm/test_resnet"],
            "sweep --head own": [*FEWER, *DRAWS, "--seeds", "1", "--backbone_config", json.dumps(SMALL_GENERATOR)],
        },
    ),
    "docs/training.md": Reading(),
    "docs/tuning.md": Reading(
        smaller={"num_train_epochs=20": "num_train_epochs=1", "trials=40": "trials=2, num_draws=40"}
    ),
    "docs/tutorials/any-module.md": Reading(),
    "docs/tutorials/cluster.md": Reading(),
    "docs/tutorials/encoder.md": Reading(),
    "docs/tutorials/own-images.md": Reading(),
    "docs/get-started.md": Reading(),
}


@pytest.fixture(scope="module")
def seed(tmp_path_factory, hub_seed) -> Path:
    """Models and data of the pages, small, in the layout of a Hub."""
    import transformers as hf

    hf.set_seed(0)
    folder = tmp_path_factory.mktemp("seed")
    models, data = folder / "models", folder / "datasets"
    words = {**SMALL, "num_hidden_layers": 6, "vocab_size": 200}
    for name in ("sentence-transformers/all-MiniLM-L6-v2", "me/bert"):
        kind = hf.AutoModelForSequenceClassification if name == "me/bert" else hf.AutoModel
        kind.from_config(hf.BertConfig(**words)).save_pretrained(models / name)
        bert_tokenizer(models / name)
    limited = hf.PreTrainedTokenizerFast.from_pretrained(models / "me/bert")
    limited.model_max_length = 64  # as published tokenizers have one, because reviews are longer than the positions
    limited.save_pretrained(models / "me/bert")
    distilled = hf.DistilBertConfig(dim=16, hidden_dim=24, n_heads=2, n_layers=2, vocab_size=200)
    hf.AutoModel.from_config(distilled).save_pretrained(models / "distilbert/distilbert-base-uncased")
    bert_tokenizer(models / "distilbert/distilbert-base-uncased")
    for name in ("google/vit-base-patch16-224-in21k", "google/vit-base-patch16-224"):
        kind = hf.AutoModel if name.endswith("k") else hf.AutoModelForImageClassification
        kind.from_config(hf.ViTConfig(**SMALL, num_hidden_layers=12, image_size=32)).save_pretrained(models / name)
        hf.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(models / name)
    generator = hf.GPT2Config(n_embd=16, n_layer=4, n_head=4, vocab_size=200, bos_token_id=3, eos_token_id=3)
    name = "openai-community/gpt2"
    hf.AutoModelForCausalLM.from_config(generator).save_pretrained(models / name)
    bert_tokenizer(models / name)
    tokenizer = hf.PreTrainedTokenizerFast.from_pretrained(models / name)
    tokenizer.eos_token = "[SEP]"
    tokenizer.save_pretrained(models / name)
    write_pairs(data / "nyu-mll" / "glue")
    shutil.copytree(hub_seed.path / "datasets/ylecun/mnist", data / "zalando-datasets/fashion_mnist")
    pixels = np.random.default_rng(0).integers(0, 256, (48, 32, 32, 3), dtype=np.uint8)
    rows = {"image": list(pixels), "label": [0, 1] * 24}
    features = Features({"image": Image(), "label": ClassLabel(names=["LABEL_0", "LABEL_1"])})
    write_repo(data / "me" / "pictures", "default", features, {"train": rows, "test": rows})
    return folder


def commands_of(page: str) -> list[str]:
    """The commands `selfmod ...` of a page that are to be run."""
    text = (ROOT / page).read_text(encoding="utf-8")
    lines = re.findall(r"^    (selfmod [^\n]*)$", text.replace("\\\n", " "), flags=re.MULTILINE)
    return [line for line in commands("\n".join(lines)) if is_run(page, line)]


def snippets_of(page: str) -> str:
    """The Python of a page that is to be run."""
    found = [block for block in blocks((ROOT / page).read_text(encoding="utf-8")) if block.kind == "python"]
    return "\n".join(block.text for block in found if is_run(page, block.text.splitlines()[0]))


def test_each_page_is_read():
    assert {page for page, tests in RUN_BY.items() if any("test_docs_pages" in test for test in tests)} == set(READINGS)


LONG = ("docs/studies.md",)  # of twelve commands


def marked(page: str) -> Any:
    return pytest.param(page, marks=pytest.mark.weekly if page in LONG else pytest.mark.slow)


@pytest.mark.timeout(1200)  # long pages take minutes beside other tests
@pytest.mark.parametrize("page", [marked(page) for page in READINGS])
def test_the_page_runs(page, seed, hub_seed, tmp_path):
    reading = READINGS[page]
    write_images(tmp_path / "photos", side=32)
    write_reviews(tmp_path / "reviews.csv")
    (tmp_path / "run.yaml").write_text("task: digits\naux_weight: 2\n")
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    typed = [shlex.split(line)[1:] for line in (*reading.before, *commands_of(page))]
    shortened = [with_flags(words, SHORT | reading.short) for words in typed]
    with LoopbackHub(tmp_path / "hub", seeds=[hub_seed.path, seed]) as hub:
        program = RUN.replace("sys.argv[1]", repr(json.dumps(shortened)))
        snippets = snippets_of(page)
        for text, smaller in reading.smaller.items():
            assert text in snippets, text
            snippets = snippets.replace(text, smaller)
        for code in (program, reading.names + snippets):
            done = warm.run(["-c", code], hub.env(), tmp_path)
            assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
