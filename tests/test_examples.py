"""Each file of examples/ runs as a script, at tiny settings, with small models under the names of the real ones."""

import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import selfmod_hf
from selfmod_hf.experiments.recipes import GRIDS
from tests.loopback_hub import LoopbackHub
from tests.test_docs_examples import hub  # noqa: F401 - a fixture: models and texts under the names of the real ones

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"
# file -> arguments, and what the last line of its output matches
RUNS = {
    "figure2.py": (
        "--scale=0.02 --seeds 1 2 --aux_weights 0 5 --widths 8",
        r"runs/figure2-digits/report/figure2\.png",
    ),
    "own_images.py": ("--epochs=1", r"weight 1: accuracy 0\.\d+, weight width 0\.\d+, runs/own-images-1"),
    "rlct_any_module.py": ("--draws=60 --samples=200", r"tanh: RLCT .*, interval .*, \w+ \(known: at most 14\.5\)"),
    "finetune_encoder.py": (
        "--samples=32 --layers encoder.layer.1.output",
        r"weight 1: accuracy [01]\.\d+, weight width \d\.\d+, runs/encoder-1",
    ),
    "lora_causal_lm.py": ("--samples=16 --block_size=16", r".*the film is\b.*"),
}  # fmt: skip
NOTEBOOK = "explore_study.py"


# extra -> what it installs, besides packages that others need
EXTRAS = {
    "metrics": ("sklearn", "torchmetrics", "evaluate"),
    "report": ("matplotlib", "plotly"),
    "tensorboard": ("tensorboard", "matplotlib"),
    "tune": ("optuna", "matplotlib"),
    "peft": ("peft",),
    "ray": ("ray",),
}
# run a script as if nothing were installed that its head does not name
BARE = """
import runpy, sys
sys.modules.update(dict.fromkeys({hidden}))
sys.argv = {words}
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def own_extras(text: str) -> set[str]:
    """The extras of this package that an example's head names."""
    found = re.search(r'dependencies = \["selfmod_hf(?:\[([\w,]+)\])?"', text)
    assert found is not None
    return set(filter(None, (found[1] or "").split(",")))


def run_example(name: str, arguments: list[str], folder: Path, hub: LoopbackHub) -> str:  # noqa: F811
    extras = own_extras((EXAMPLES / name).read_text(encoding="utf-8"))
    kept = {package for extra in extras for package in EXTRAS[extra]}
    hidden = {package for packages in EXTRAS.values() for package in packages} - kept
    code = BARE.format(hidden=sorted(hidden), words=[str(EXAMPLES / name), *arguments])
    env = hub.env() | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_each_example_runs(name, hub, tmp_path):  # noqa: F811
    arguments, last = RUNS[name]
    printed = run_example(name, arguments.split(), tmp_path, hub)
    line = printed.splitlines()[-1]
    assert re.fullmatch(last, line), printed
    if (place := line.split()[-1]).startswith("runs/"):
        assert (tmp_path / place).exists()


class Asked(Exception):
    """Ends an example where it would begin to train."""


def test_figure2_takes_a_share_of_the_recipe(monkeypatch):
    asked = {}

    def run_sweep(task, **settings):
        asked.update(settings)
        raise Asked

    monkeypatch.setattr(selfmod_hf, "run_sweep", run_sweep)
    monkeypatch.setattr(sys, "argv", ["figure2.py", "--scale=0.5"])
    with pytest.raises(Asked):
        runpy.run_path(str(EXAMPLES / "figure2.py"), run_name="__main__")
    assert asked["num_train_epochs"] == selfmod_hf.get_task("digits").recipe["num_train_epochs"] / 2
    assert asked["num_draws"] == GRIDS["digits"].num_draws / 2


@pytest.mark.slow
def test_the_notebook_runs_all_cells(small_sweep, hub, tmp_path):  # noqa: F811
    pytest.importorskip("marimo")
    pytest.importorskip("IPython")  # transformers' Trainer imports it where marimo is at work
    run_example(NOTEBOOK, [f"--study={small_sweep}"], tmp_path, hub)
    assert (tmp_path / "runs/explore-report/report.html").is_file()


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_each_example_is_short_and_says_what_it_needs(path):
    """`uv run` installs what the head names: this package from the folder above, with extras that exist.

    Editable, because uv builds a folder again only if its pyproject.toml is newer. It would run the old code.
    """
    text = path.read_text(encoding="utf-8")
    assert path.name in {*RUNS, NOTEBOOK}
    assert len(text.splitlines()) <= 60
    block = re.fullmatch(r"# /// script\n((?:#.*\n)+?)# ///\n.*", text, flags=re.DOTALL)
    assert block is not None
    metadata = tomllib.loads(re.sub(r"^# ?", "", block[1], flags=re.MULTILINE))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert metadata["requires-python"] == project["requires-python"]
    assert metadata["tool"]["uv"]["sources"]["selfmod_hf"] == {"path": "..", "editable": True}
    assert own_extras(text) <= set(project["optional-dependencies"])


@pytest.mark.weekly
@pytest.mark.timeout(3600)
def test_uv_runs_an_example(tmp_path):
    """In an environment of its own, some 6 GB, with the checkout's present code: a second call sees a change of it."""
    if not shutil.which("uv"):
        pytest.skip("needs uv")
    hidden = {"PYTHONPATH", "SSL_CERT_DIR"}  # the second one keeps the other tests from reaching any host
    env = {name: value for name, value in os.environ.items() if name not in hidden} | {"UV_SYSTEM_CERTS": "1"}
    probe = ["uv", "run", "--no-project", "--with", "filelock", "python", "-c", ""]
    if subprocess.run(probe, cwd=tmp_path, env=env, check=False).returncode != 0:
        pytest.skip("needs an index of packages, and none answers")
    copy = tmp_path / "checkout"
    for name in ("examples", "selfmod_hf"):
        shutil.copytree(ROOT / name, copy / name)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)

    def run(*arguments):
        command = ["uv", "run", str(copy / "examples" / "own_images.py"), *arguments]
        return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)

    done = run("--epochs=1")
    assert done.returncode == 0, done.stderr
    assert re.search(RUNS["own_images.py"][1], done.stdout)
    with (copy / "selfmod_hf" / "__init__.py").open("a", encoding="utf-8") as file:
        file.write("\nraise SystemExit('changed')\n")
    assert "changed" in run().stderr
