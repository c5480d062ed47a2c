"""Each study of examples/ is accepted, with data of its task's layout."""

from pathlib import Path

import pytest

from selfmod_hf.cli.arguments import make_parser, with_config_file
from selfmod_hf.cli.sweep import flag_classes
from selfmod_hf.experiments.prepared_sweep import PreparedSweep
from selfmod_hf.experiments.run_settings import RunSettings
from selfmod_hf.experiments.sweep_settings import SweepSettings
from tests.conftest import generate_seed

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))
DATA = {"mnist": "ylecun/mnist", "imdb": "stanfordnlp/imdb"}


@pytest.fixture(scope="module")
def seed(tmp_path_factory):
    return generate_seed(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def parser():
    return make_parser("sweep", *flag_classes())


def other_networks(text: str) -> list[str]:
    words = text.replace('"', " ").split()
    return [word.removeprefix("network:") for word in words if word.startswith("network:")]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_study_is_accepted(path, parser, seed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    values = with_config_file({"config": str(path)}, parser)
    data = {"dataset_name": str(seed / "datasets" / DATA[values["task"]])}
    (size,) = values["hidden_sizes"]
    run = RunSettings.make(task=values["task"], hidden_sizes=[int(size)], aux_weight=0, **data)
    network = run.build_network(run.load_data())
    for name in other_networks(path.read_text()):
        network.save_pretrained(name)
    sweep = PreparedSweep.make(SweepSettings.make(**values, **data), "runs/study")
    names = {arm.name for arm in sweep.plan.arms}
    assert "baseline" in names
    assert len(sweep.plan.cells) == len(names) * len(values["seeds"])
    assert not any(arm.panel for arm in sweep.plan.arms)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_header_trains_the_other_networks(path):
    header, _, arms = path.read_text().partition("arms:\n")
    assert f"--config examples/{path.name}" in header
    for name in other_networks(arms):
        assert f"--output_dir {name} " in header.replace("\n", " ")


def test_plan_has_the_commands_of_the_studies():
    plan = (ROOT / "docs" / "preregistration.md").read_text()
    for path in EXAMPLES:
        if path.stem != "control_study":
            assert f"--config examples/{path.name}" in plan
