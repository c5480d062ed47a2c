"""One run for each training, with its histogram, picture and hyperparameters; real trackers, off line."""

import json
import os
from importlib.util import find_spec
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from selfmod_hf import get_task, load_images
from selfmod_hf.cli import main
from selfmod_hf.trainer import SelfModelingTrainer, SelfModelingTrainingArguments
from selfmod_hf.trainer.population import Member, SelfModelingPopulation
from selfmod_hf.trainer.recipe_network import recipe_config
from tests import warm

SMALL = [
    "train", "--task=digits", "--hidden_sizes=8", "--aux_weight=3", "--seed=5", "--max_train_samples=200",
    "--max_test_samples=50", "--num_train_epochs=2", "--save_total_limit=9", "--quiet", "--output_dir=runs/mine",
]  # fmt: skip


def read(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder), size_guidance={"histograms": 0, "images": 0}).Reload()


def settings_of(log: EventAccumulator) -> dict:
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    content = log.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    values = HParamsPluginData.FromString(content).session_start_info.hparams
    return {name: getattr(value, value.WhichOneof("kind")) for name, value in values.items()}


def test_a_training_is_one_run_of_tensorboard(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    argv = [*SMALL, "--report_to=tensorboard"]
    assert main(argv) == 0
    runs = Path("runs/mine/runs")
    assert [path.name for path in runs.iterdir()] == ["mine"]
    log = read(runs / "mine")
    assert [event.step for event in log.Scalars("eval/accuracy")] == [4, 8, 8]  # and the evaluation at the end
    assert [event.step for event in log.Histograms("classifier.weight")] == [4, 8]
    settings = settings_of(log)
    rate = get_task("digits").recipe["learning_rate"]
    expected = {"aux_weight": 3, "seed": 5, "hidden_sizes": "8", "learning_rate": rate, "task": "digits"}
    assert expected.items() <= settings.items()
    assert main([*argv, "--resume_from_checkpoint=runs/mine/checkpoint-4"]) == 0
    assert [path.name for path in runs.iterdir()] == ["mine"]  # the same training
    assert main(argv) == 0
    assert {path.name for path in runs.iterdir()} == {"mine", "mine-2"}
    assert [event.step for event in read(runs / "mine-2").Scalars("train/loss")] == [4, 8]


def test_a_name_that_the_user_gives_is_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([*SMALL, "--report_to=tensorboard", "--run_name=first look"]) == 0
    assert [path.name for path in Path("runs/mine/runs").iterdir()] == ["first look"]


def test_a_population_names_its_members(tmp_path):
    task = get_task("digits")
    data = load_images(task, max_train_samples=100, max_test_samples=50)
    population = SelfModelingPopulation(recipe_config(task, data), [Member(1, 0), Member(2, 10)])
    args = SelfModelingTrainingArguments(
        str(tmp_path / "two"), num_train_epochs=1, report_to="tensorboard", save_strategy="no", disable_tqdm=True
    )
    SelfModelingTrainer(population, args, train_dataset=data.train, task=task).train()
    log = read(tmp_path / "two" / "runs" / "two")
    assert set(log.Tags()["histograms"]) == {"classifier.weight/aw0-seed1", "classifier.weight/aw10-seed2"}
    assert settings_of(log)["members"] == "aw0-seed1 aw10-seed2"


# ---- trackers that need installing ----

THREE_TRAININGS = """
import sys
from selfmod_hf.cli import main
for more in ([], ["--resume_from_checkpoint=runs/mine/checkpoint-4"], []):
    assert main([*sys.argv[1:], *more]) == 0
"""
READ_TRACKIO = """
import json, trackio
found = []
for run in trackio.Api().runs("digits"):
    logs = trackio.sqlite_storage.SQLiteStorage.get_logs("digits", run.name)
    found.append([run.name, dict(run.config), logs])
print(json.dumps(found, default=str))
"""


def python(program: str, *argv: str, cwd: Path, **environment: str) -> str:
    env = {**os.environ, "HF_HUB_OFFLINE": "1", **environment}
    done = warm.run(["-c", program, *argv], env, cwd)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.skipif(not find_spec("trackio"), reason="trackio is not installed")
def test_a_training_is_one_run_of_trackio(tmp_path):
    places = {"TRACKIO_DIR": str(tmp_path / "trackio")}
    python(THREE_TRAININGS, *SMALL, "--report_to=trackio", cwd=tmp_path, **places)
    found = json.loads(python(READ_TRACKIO, cwd=tmp_path, **places).splitlines()[-1])
    assert sorted(name for name, _, _ in found) == ["mine", "mine-2"]
    expected = {"aux_weight": 3, "seed": 5, "hidden_sizes": [8], "task": "digits"}
    for _, config, logs in found:
        assert {name: config.get(name) for name in expected} == expected
        names = {name for entry in logs for name in entry}
        assert {"eval/accuracy", "train/loss", "train/weight_width", "classifier.weight", "activations"} <= names


@pytest.mark.slow
@pytest.mark.skipif(not find_spec("wandb"), reason="wandb is not installed")
def test_a_training_is_one_run_of_wandb(tmp_path):
    modes = {"WANDB_MODE": "offline", "WANDB_SILENT": "true"}
    python(THREE_TRAININGS, *SMALL, "--report_to=wandb", cwd=tmp_path, **modes)
    folders = [path.name for path in (tmp_path / "wandb").glob("offline-run-*")]
    assert len({name.rpartition("-")[2] for name in folders}) == 2  # the resumed training is in the run of the first
    assert len(list((tmp_path / "wandb").rglob("activations_*.png"))) == 5
