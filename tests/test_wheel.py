"""The built wheel, installed alone: the commands, and a small training, without the checkout."""

import os
import shlex
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import pytest

import selfmod_hf
from selfmod_hf.hub import own_package

ROOT = Path(__file__).resolve().parents[1]
PIP = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Path of the wheel that hatchling builds."""
    pytest.importorskip("hatchling", reason="needs hatchling, which the extra dev installs")
    folder = tmp_path_factory.mktemp("dist")
    command = [*PIP, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run(command, check=True)
    (wheel,) = folder.iterdir()
    return wheel


def test_no_workflow_negates_a_command():
    """`bash -e` goes on after `! command`, whether the command fails or not."""
    for file in (ROOT / ".github" / "workflows").iterdir():
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
        assert not [line for line in lines if line.startswith("! ")], file.name


@pytest.mark.slow
def test_the_wheel_runs_alone(built, tmp_path):
    """Torch and the other packages are those of this environment, so that it takes seconds."""
    here = tmp_path / "installed"
    subprocess.run([*PIP, "install", "--no-deps", "--target", str(here), str(built)], check=True)
    env = {**os.environ, "PYTHONPATH": str(here)}

    def run(*command):
        done = subprocess.run(
            list(map(str, command)), cwd=tmp_path, env=env, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()

    place = run(sys.executable, "-c", "import selfmod_hf; print(selfmod_hf.__file__)")
    assert Path(place).is_relative_to(here)
    version = f"selfmod_hf {selfmod_hf.__version__}"
    assert run(here / "bin" / "selfmod", "--version") == version
    accelerate = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes=1"]
    assert run(*accelerate, "-m", "selfmod_hf", "--version") == version
    few = ["--num_train_epochs=1", "--max_train_samples=100", "--quiet", "--output_dir=run"]
    run(sys.executable, "-m", "selfmod_hf", "train", "--task=digits", *few)
    assert (tmp_path / "run" / "model.safetensors").is_file()


CORE = """
import torch
from selfmod_hf import SelfModelingConfig, SelfModelingForImageClassification, SelfModelingTrainer
from selfmod_hf import SelfModelingTrainingArguments, estimate_rlct
from selfmod_hf.data import ImageTensors

data = ImageTensors(torch.arange(40 * 16).reshape(40, 1, 4, 4) % 251, torch.arange(40) % 2)
shape = {"image_size": 4, "num_labels": 2, "hidden_sizes": [6], "target_layers": ["hidden.relu1"]}
model = SelfModelingForImageClassification(SelfModelingConfig(**shape, aux_weight=1.0))
args = SelfModelingTrainingArguments("core", num_train_epochs=1)
trainer = SelfModelingTrainer(model, args, train_dataset=data, eval_dataset=data)
trainer.train()
trainer.save_model("core")
print(estimate_rlct([SelfModelingForImageClassification.from_pretrained("core")], data, num_draws=6)[0].status)
"""


class Environment:
    """A new environment of this interpreter, in which commands run outside of the checkout."""

    def __init__(self, folder):
        subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True)
        self.bin, self.cwd = folder / "venv" / "bin", folder
        self.env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(self, program, *arguments):
        command = [str(self.bin / program), *map(str, arguments)]
        return subprocess.run(command, cwd=self.cwd, env=self.env, capture_output=True, text=True, check=False)

    def pip(self, *arguments):
        return self.run("python", "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments)


@pytest.mark.weekly
@pytest.mark.timeout(3600)
def test_the_wheel_installs_in_a_new_environment(built):
    """With what it requires, from the index of pip's settings: some 6 GB. The extra is added as the error says."""
    with tempfile.TemporaryDirectory() as folder:  # pytest's own folders are kept
        new = Environment(Path(folder))
        if new.pip("download", "--no-deps", "filelock").returncode != 0:
            pytest.skip("needs an index of packages, and none answers")
        installed = new.pip("install", built)
        assert installed.returncode == 0, installed.stderr
        assert new.run("selfmod", "--version").stdout.strip() == f"selfmod_hf {selfmod_hf.__version__}"
        core = new.run("python", "-c", CORE)
        assert core.returncode == 0, core.stderr
        train = ["train", "--task=digits", "--num_train_epochs=1", "--quiet", "--output_dir=digits"]
        rejected = new.run("selfmod", *train)
        assert rejected.returncode == 2
        install = "pip install 'selfmod_hf[metrics]'"
        assert rejected.stderr.splitlines() == [f"selfmod: error: --task='digits' needs scikit-learn: {install}"]
        added = new.pip(*shlex.split(install)[1:])
        assert added.returncode == 0, added.stderr
        trained = new.run("selfmod", *train)
        assert trained.returncode == 0, trained.stderr
        assert "weight width" in trained.stdout


@pytest.mark.slow
def test_it_holds_what_a_pushed_wheel_holds(built, tmp_path):
    """And no tests, no scripts."""
    pushed = tmp_path / own_package.WHEEL
    pushed.write_bytes(own_package.wheel())
    assert built.name == pushed.name
    names = []
    for wheel in (built, pushed):
        with zipfile.ZipFile(wheel) as archive:
            names.append({name for name in archive.namelist() if not name.startswith("selfmod_hf-")})
    assert names[0] == names[1]
    assert {name.partition("/")[0] for name in names[0]} == {"selfmod_hf"}
