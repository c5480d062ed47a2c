"""The commands and snippets of docs/studies.md and docs/measures.md run."""

import re
import shlex
from pathlib import Path

import pytest

from selfmod_hf import SelfModelingConfig, SelfModelingForImageClassification
from selfmod_hf.cli import main

DOCS = Path(__file__).resolve().parents[1] / "docs"
# appended to the commands: a few samples and one epoch
FEW = ["--max_train_samples=64", "--max_test_samples=32", "--num_train_epochs=1", "--hidden_sizes=8", "--quiet"]


def snippets(page: str) -> list[str]:
    """Return the Python snippets of a page."""
    text = (DOCS / page).read_text(encoding="utf-8")
    return re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)


def commands(page: str, name: str) -> list[list[str]]:
    """Return the arguments of a page's commands of this name."""
    lines = (DOCS / page).read_text(encoding="utf-8").splitlines()
    start = f"    selfmod {name} "
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith(start)]


def test_the_controls_train(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = commands("studies.md", "train")
    assert len(found) == 3
    for command in found:
        assert main([*command, *FEW, f"--output_dir={tmp_path}/run"]) == 0


def test_a_population_of_controls_is_built():
    (snippet,) = [snippet for snippet in snippets("studies.md") if "SelfModelingPopulation" in snippet]
    names: dict = {}
    exec(snippet, names)
    assert [member.name for member in names["population"].members] == [
        "aw0-seed1",
        "aw0-wd0.001-onclassifier.*-seed1",
        "aw10-shuffled-seed1",
    ]


@pytest.mark.slow
def test_a_sweep_in_python(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (snippet,) = [snippet for snippet in snippets("studies.md") if "run_sweep" in snippet]
    exec(snippet.replace("seeds=[1, 2], ", "seeds=[1, 2], num_train_epochs=2, num_draws=40, "), {})
    assert "weight_width" in capsys.readouterr().out
    assert (tmp_path / "runs/small/report/report.html").is_file()


def test_the_sweeps_plan_is_printed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["sweep", "--recipe=digits", "--dry_run", "--hidden_sizes=4", "--seeds", "1", "2"]) == 0
    assert "8 networks" in capsys.readouterr().out


def test_the_measures_of_a_network(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    network = SelfModelingForImageClassification(SelfModelingConfig(hidden_sizes=[8], image_size=8))
    network.save_pretrained("runs/self-model")
    first, own = snippets("measures.md")
    names: dict = {}
    exec(first.replace("print(measure_network(network, data))", "found = measure_network(network, data)"), names)
    exec(own.replace("\nprint(measure_network(", "\nprint(with_own := measure_network("), names)
    assert sorted(names["with_own"]) == ["dead_units", "silent_units"]
    page = (DOCS / "measures.md").read_text(encoding="utf-8")
    assert names["found"]
    assert all(f"| `{name}` |" in page for name in names["found"])
