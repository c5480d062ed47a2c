"""The core works without the packages of the extras, and names the extra where one is needed."""

import json
import pickle
import subprocess
import sys
from importlib.metadata import metadata
from pathlib import Path

import pytest

from selfmod_hf.extras import EXTRAS, MissingExtraError, is_installed, need

ROOT = Path(__file__).resolve().parents[1]
CORE = """
import json, sys
from pathlib import Path
from tests.without_packages import hide
from selfmod_hf.extras import EXTRAS

hidden = {module for modules in EXTRAS.values() for module in modules} | {"joblib", "narwhals", "tensorboardX"}
hide(*hidden)

import torch
from selfmod_hf import SelfModelingConfig, SelfModelingForImageClassification, SelfModelingTrainer
from selfmod_hf import SelfModelingTrainingArguments, estimate_rlct, weight_width
from selfmod_hf.cli import main
from selfmod_hf.data import ImageTensors
from selfmod_hf.hub.model_folder import write_model_card
from selfmod_hf.models import load_model

folder = Path(sys.argv[1])
data = ImageTensors(torch.arange(40 * 16).reshape(40, 1, 4, 4) % 251, torch.arange(40) % 2)
shape = {"image_size": 4, "num_labels": 2, "hidden_sizes": [6], "target_layers": ["hidden.relu1"]}
model = SelfModelingForImageClassification(SelfModelingConfig(**shape, aux_weight=1.0))
args = SelfModelingTrainingArguments(str(folder / "run"), num_train_epochs=1)
trainer = SelfModelingTrainer(model, args, train_dataset=data, eval_dataset=data)
trainer.train()
trainer.save_model(str(folder / "model"))
loaded = load_model(folder / "model")
assert all(torch.equal(a, b) for a, b in zip(model.parameters(), loaded.parameters(), strict=True))
assert weight_width(loaded).sd > 0
(rlct,) = estimate_rlct([loaded], data, num_draws=6)
rlct.save(folder / "model" / "rlct.json")
write_model_card(folder / "model", "me/net")
assert not hidden & set(sys.modules), hidden & set(sys.modules)
"""

COMMANDS = """
from selfmod_hf.cli import main

run = [f"--output_dir={folder}/none", "--quiet"]
commands = {
    "train": ["train", "--task=digits", *run],
    "train f1": ["train", "--task=digits", "--metrics=f1", *run],
    "train log": ["train", "--task=digits", "--report_to=tensorboard", *run],
    "train lora": ["train", "--backbone_name=me/x", "--head=own", "--lora_r=2", "--dataset_name=me/d", *run],
    "sweep": ["sweep", "--recipe=digits", *run],
    "sweep measures": ["sweep", "--recipe=digits", "--measures=calibration_error", *run],
    "sweep log": ["sweep", "--recipe=digits", "--report_to=tensorboard", *run],
    "sweep ray": ["sweep", "--recipe=digits", "--on=ray", *run],
    "tune": ["tune", "--task=digits", *run],
    "report": ["report", str(folder)],
    "reproduce": ["reproduce", *run],
    "completion": ["completion", "bash"],
}
(folder / "cells").mkdir()
commands["push"] = ["push", str(folder), "--repo=me/sweep"]
for name, argv in commands.items():
    print(f"== {name}", file=sys.stderr)
    assert main(argv) == 2, name
"""

LINES = {
    "train": "--task='digits' needs scikit-learn: pip install 'selfmod_hf[metrics]'",
    "train f1": "--task='digits' needs scikit-learn: pip install 'selfmod_hf[metrics]'",
    "train log": "--report_to='tensorboard' needs tensorboard: pip install 'selfmod_hf[tensorboard]'",
    "train lora": "--lora_r=2: needs peft: pip install 'selfmod_hf[peft]'",
    "sweep": "--task='digits' needs scikit-learn: pip install 'selfmod_hf[metrics]'",
    "sweep measures": "the measure calibration_error needs torchmetrics: pip install 'selfmod_hf[metrics]'",
    "sweep log": "--report_to='tensorboard' needs tensorboard: pip install 'selfmod_hf[tensorboard]'",
    "sweep ray": "a sweep on Ray needs ray: pip install 'selfmod_hf[ray]'",
    "tune": "a tuning needs optuna: pip install 'selfmod_hf[tune]'",
    "report": "a report needs matplotlib: pip install 'selfmod_hf[report]'",
    "reproduce": "a reproduction needs scikit-learn: pip install 'selfmod_hf[reproduce]'",
    "completion": "a completion script needs shtab: pip install 'selfmod_hf[completion]'",
    "push": "pushing a sweep needs matplotlib: pip install 'selfmod_hf[report]'",
}


def test_the_core_needs_no_extra_and_commands_name_theirs(tmp_path):
    program = [sys.executable, "-c", CORE + COMMANDS, str(tmp_path)]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((tmp_path / "model" / "rlct.json").read_text())["settings"]["num_draws"] == 6
    assert (tmp_path / "model" / "README.md").is_file()
    assert not (tmp_path / "model" / "rlct.png").exists()
    printed = {}
    for part in done.stderr.split("== ")[1:]:
        name, *lines = part.splitlines()
        printed[name] = lines
    assert printed == {name: [f"selfmod: error: {line}"] for name, line in LINES.items()}


def test_a_missing_extra_is_one_line_in_python(monkeypatch):
    monkeypatch.setitem(sys.modules, "plotly", None)
    with pytest.raises(MissingExtraError) as caught:
        need("a report", "report")
    assert str(caught.value) == "a report needs plotly: pip install 'selfmod_hf[report]'"
    assert caught.value.name == "plotly"
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_every_extra_installs_its_modules():
    """Of the extras in `dev`, because the others are not installed here."""
    missing = []
    for extra in EXTRAS.keys() - {"mysql"}:
        missing += [(extra, module) for module in EXTRAS[extra] if not is_installed(module)]
    assert missing == []


def test_get_started_lists_every_extra():
    """Except for those that work in a checkout alone."""
    page = (ROOT / "docs" / "get-started.md").read_text(encoding="utf-8")
    extras = metadata("selfmod_hf").get_all("Provides-Extra")
    table = "\n".join(line for line in page.splitlines() if line.startswith("| `"))
    for extra in set(extras) - {"dev", "docs", "bench"}:
        assert f"`{extra}`" in table, extra
