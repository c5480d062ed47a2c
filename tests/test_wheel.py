"""The built wheel, installed alone: the commands, and a small training, without the checkout."""

import os
import subprocess
import sys
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
