"""The package is on no index: what is pushed brings it, and is used by who has nothing else."""

import os
import re
import shlex
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from urllib.request import urlopen

import pytest
from packaging.requirements import Requirement

import selfmod_hf
from selfmod_hf.hub.own_package import WHEEL, requirements, wheel
from selfmod_hf.hub.upload import Target, push_space
from selfmod_hf.metrics import metric_path
from tests.test_wheel import Environment

ROOT = Path(__file__).resolve().parents[2]
PIP = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]


def clean(*more):
    """Return the environment without this checkout."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return environment | dict(more)


def python(program, *arguments, cwd, **environment):
    """Run a program in a folder outside of the checkout."""
    command = [sys.executable, "-c", program, *map(str, arguments)]
    done = subprocess.run(
        command, cwd=cwd, env=clean(*environment.items()), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_wheel_holds_the_package_alone(tmp_path):
    (tmp_path / WHEEL).write_bytes(wheel())
    assert wheel() == wheel()
    with zipfile.ZipFile(tmp_path / WHEEL) as archive:
        assert archive.testzip() is None
        names = archive.namelist()
    tops = {name.partition("/")[0] for name in names}
    assert tops == {"selfmod_hf", f"selfmod_hf-{selfmod_hf.__version__}.dist-info"}
    assert "selfmod_hf/py.typed" in names
    assert not [name for name in names if "test_" in name or name.endswith(".pyc")]
    sources = list(Path(selfmod_hf.__file__).parent.rglob("*.py"))
    assert sum(name.endswith(".py") for name in names) == len(sources)


def test_requirements_of_extras_do_not_name_the_package():
    core, space = requirements(), requirements(["space"])
    assert any(line.startswith("torch") for line in core)
    assert any(line.startswith("gradio") for line in space)
    assert set(core) < set(space)
    assert not any(line.startswith("selfmod") for line in requirements(["dev"]))


def test_a_space_that_does_not_use_the_package_is_pushed_as_it_is(loopback_hub, tmp_path):
    for name, text in {"app.py": "", "README.md": "---\nsdk: gradio\n---\n", "requirements.txt": "numpy\n"}.items():
        (tmp_path / name).write_text(text)
    api = loopback_hub.api()
    push_space(api, tmp_path, Target("me/own"))
    assert set(api.list_repo_files("me/own", repo_type="space")) - {".gitattributes"} == {
        "app.py",
        "README.md",
        "requirements.txt",
    }


USE_METRIC = """
import sys
from pathlib import Path
import evaluate
import selfmod_hf
assert Path(selfmod_hf.__file__).is_relative_to(sys.argv[1]), selfmod_hf.__file__
metric = evaluate.load(sys.argv[2])
losses = [[1.0, 1.1, 1.2, 1.1, 1.0, 1.1], [1.1, 1.0, 1.1, 1.2, 1.1, 1.0]]
found = metric.compute(predictions=losses, references=[[1.0] * 6] * 2, nbeta=10.0)
assert abs(found["rlct"] - 1.0) < 0.5, found
"""


@pytest.mark.slow
def test_a_pushed_metric_is_used_with_its_pushed_wheel(loopback_hub, tmp_path):
    """The wheel's address is that of the card. The other packages are those of this environment."""
    api = loopback_hub.api()
    push_space(api, Path(metric_path("rlct")), Target("me/rlct"))
    pushed = loopback_hub.root / "spaces/me/rlct"
    line = (pushed / "README.md").read_text().rstrip().splitlines()[-1].strip()
    assert line == f"pip install {loopback_hub.url}/spaces/me/rlct/resolve/main/{WHEEL}"
    address = line.removeprefix("pip install ")
    here = tmp_path / "installed"
    subprocess.run([*PIP, "install", "--no-deps", "--target", str(here), address], env=clean(), check=True)
    python(USE_METRIC, here, pushed, cwd=tmp_path, PYTHONPATH=str(here), HF_HOME=str(tmp_path / "home"))


START_SPACE = """
import sys
from pathlib import Path
import app
import selfmod_hf
assert Path(selfmod_hf.__file__).is_relative_to(Path.cwd()), selfmod_hf.__file__
app.main()
"""


@pytest.mark.slow
def test_a_pushed_space_starts_with_what_was_pushed(loopback_hub, small_model, tmp_path):
    """Pip finds every requirement in this environment. The package is imported from beside the app."""
    push_space(loopback_hub.api(), ROOT / "spaces/explorer", Target("me/explorer"))
    pushed = loopback_hub.root / "spaces/me/explorer"
    file = pushed / "requirements.txt"
    names = {Requirement(line).name for line in file.read_text().splitlines()}
    assert names >= {"torch", "gradio", "transformers"}
    assert "selfmod_hf" not in names
    subprocess.run([*PIP, "install", "--dry-run", "--no-index", "-r", str(file)], env=clean(), check=True)
    line = (pushed / "README.md").read_text().rstrip().splitlines()[-1].strip()
    assert line == f"pip install 'selfmod_hf[space] @ {loopback_hub.url}/spaces/me/explorer/resolve/main/{WHEEL}'"
    install = ["install", "--dry-run", "--no-index", *shlex.split(line.removeprefix("pip install "))]
    subprocess.run([*PIP, *install], env=clean(), check=True)  # it is found, and so is what the extra requires
    command = [sys.executable, "-u", "-c", START_SPACE, "--repo", str(small_model)]
    check_page(command, pushed, clean())


def check_page(command, folder, environment):
    """Start the page in a folder, read it, and stop it."""
    app = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        address = next((found[0] for line in app.stdout if (found := re.findall(r"http://127\S+", line))), None)
        assert address, app.wait(10)
        with urlopen(address) as page:
            assert "Self-modeling networks" in page.read().decode()
    finally:
        app.terminate()
        app.wait(30)
        app.stdout.close()


@pytest.mark.weekly
@pytest.mark.timeout(3600)
def test_the_environment_of_a_pushed_space_is_built(loopback_hub, small_model):
    """From its requirements.txt alone and an index, as the Hub does it: some 6 GB."""
    push_space(loopback_hub.api(), ROOT / "spaces/explorer", Target("me/explorer"))
    pushed = loopback_hub.root / "spaces/me/explorer"
    with tempfile.TemporaryDirectory() as folder:  # pytest's own folders are kept
        new = Environment(Path(folder))
        if new.pip("download", "--no-deps", "filelock").returncode != 0:
            pytest.skip("needs an index of packages, and none answers")
        installed = new.pip("install", "-r", pushed / "requirements.txt")
        assert installed.returncode == 0, installed.stderr
        assert new.run("python", "-m", "pip", "show", "selfmod_hf").returncode == 1
        check_page([str(new.bin / "python"), "-u", "app.py", "--repo", str(small_model)], pushed, new.env)
