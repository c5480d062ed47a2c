"""Sweeps of texts and of convolutional networks, on small generated data sets in the layout of the real ones."""

import json
import math
from pathlib import Path

import pandas as pd
import pytest
import torch

from selfmod_hf import SelfModelingForImageClassification, SelfModelingForSequenceClassification
from selfmod_hf.cli import main
from selfmod_hf.data import ImageTensors, TaskData, get_task
from selfmod_hf.experiments import footprint
from selfmod_hf.experiments.footprint import MemoryPlan, measure_footprint
from selfmod_hf.experiments.sweep_settings import SweepSettings
from selfmod_hf.models import model_class_of
from selfmod_hf.trainer.recipe_network import recipe_config
from tests.conftest import generate_seed

LIMITS = ["--num_chains=2", "--num_draws=20", "--quiet"]
IMDB = ["--recipe=imdb", "--aux_weights", "0", "100", "--seeds", "1", "2", "--num_train_epochs=4", *LIMITS]
NARROW = '--backbone_kwargs={"layers": [1, 1, 1, 1], "channels": [8, 8, 16, 16]}'  # of the recipe's ResNet-18
CIFAR10 = [
    "--recipe=cifar10", NARROW, "--hidden_sizes=16", "--aux_weights", "0", "1", "--seeds=1", "--num_train_epochs=1",
    "--train_batch_size=16", "--max_train_samples=32", "--max_test_samples=20", *LIMITS, "--num_draws=4",
]  # fmt: skip


@pytest.fixture(scope="module")
def datasets(tmp_path_factory) -> Path:
    return generate_seed(tmp_path_factory.mktemp("hub")) / "datasets"


def sweep(flags: list[str], data: Path, folder: Path) -> Path:
    assert main(["sweep", *flags, f"--dataset_name={data}", f"--output_dir={folder}"]) == 0
    return folder


def network(model) -> dict:
    """Its configuration, without where it was read from and what transformers' Trainer takes from a tokenizer."""
    return {key: value for key, value in model.config.to_dict().items() if key not in ("_name_or_path", "pad_token_id")}


@pytest.fixture(scope="module")
def imdb(datasets, tmp_path_factory) -> Path:
    """Its RLCTs followed over epochs."""
    return sweep([*IMDB, "--rlct_every_n_epochs=2"], datasets / "stanfordnlp/imdb", tmp_path_factory.mktemp("imdb"))


def test_rlcts_over_epochs_leave_training_as_it_is(imdb, datasets, tmp_path):
    plain = sweep(IMDB, datasets / "stanfordnlp/imdb", tmp_path)
    followed, curves = (pd.read_parquet(folder / "curves.parquet") for folder in (imdb, plain))
    pd.testing.assert_frame_equal(followed[curves.columns], curves, check_exact=True)
    rows = pd.read_parquet(imdb / "results.parquet")
    pd.testing.assert_frame_equal(rows, pd.read_parquet(plain / "results.parquet"), check_exact=True)
    assert set(followed[followed["rlct_status"].notna()]["epoch"]) == {2, 4}
    assert followed["rlct"].isna().tolist() == [epoch % 2 == 1 for epoch in followed["epoch"]]
    assert followed[followed["epoch"] == 4]["rlct"].tolist() == rows["rlct"].tolist()
    run = json.loads((imdb / "run.json").read_text())
    assert run["settings"]["sampling"]["rlct_every_n_epochs"] == 2
    assert run["local_data"]


def test_a_text_network_equals_the_one_trained_alone(imdb, datasets, tmp_path):
    flags = ["--task=imdb", f"--dataset_name={datasets / 'stanfordnlp/imdb'}", "--aux_weight=100", "--seed=2"]
    assert main(["train", *flags, "--num_train_epochs=4", "--quiet", f"--output_dir={tmp_path}"]) == 0
    alone = SelfModelingForSequenceClassification.from_pretrained(tmp_path)
    member = SelfModelingForSequenceClassification.from_pretrained(imdb / "cells" / "h128-aw100-seed2")
    assert network(alone) == network(member)
    for name, value in alone.state_dict().items():
        torch.testing.assert_close(member.state_dict()[name], value, rtol=0, atol=1e-5)
    assert (imdb / "cells" / "h128-aw100-seed2" / "tokenizer.json").is_file()


def test_a_sweep_that_follows_rlcts_goes_on_where_it_was_cut(imdb, datasets, tmp_path, monkeypatch):
    from selfmod_hf.trainer import callbacks

    original, calls = callbacks.estimate_rlct, []

    def cut(*args, **kwargs):
        calls.append(1)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    flags = ["sweep", *IMDB, "--rlct_every_n_epochs=2", f"--dataset_name={datasets / 'stanfordnlp/imdb'}"]
    monkeypatch.setattr(callbacks, "estimate_rlct", cut)
    assert main([*flags, f"--output_dir={tmp_path}"]) == 130
    assert (tmp_path / "populations").is_dir()
    assert main([*flags, f"--output_dir={tmp_path}"]) == 0
    for name in ("results.json", "curves.parquet"):
        assert (tmp_path / name).read_bytes() == (imdb / name).read_bytes()


def test_a_report_of_one_width(imdb, tmp_path, capsys):
    assert main(["report", str(imdb), f"--output_dir={tmp_path}"]) == 0
    assert "2.05" in capsys.readouterr().out  # the paper's weight width of the baseline
    assert {"figure2.png", "epochs.png", "arms.png", "weights.png"} <= {path.name for path in tmp_path.iterdir()}
    page = (tmp_path / "report.html").read_text()
    assert '<option value="rlct">' in page.partition('id="measure-choice"')[2].partition("</select>")[0]


def test_single_width_panels_are_over_the_weight(imdb):
    from selfmod_hf.experiments.folder import SweepFolder
    from selfmod_hf.reports.drawn_study import prepare
    from selfmod_hf.reports.paper_figures import figure_2
    from selfmod_hf.reports.sweep_results import read_results

    results = read_results(SweepFolder(imdb))
    axes = figure_2(prepare(results)).axes
    assert [axis.get_xlabel() for axis in axes] == ["epoch", "AW", "AW", "AW"]
    for axis in axes[1:]:
        assert [text.get_text() for text in axis.get_xticklabels()] == ["0", "100"]


def treat_as_large(patched: pytest.MonkeyPatch) -> None:
    """Let the narrow network count as too large to be stacked on a CPU, as the recipe's is."""
    patched.setattr(footprint, "CPU_ACTIVATION_BYTES", 1 << 20)


@pytest.fixture(scope="module")
def cifar10(datasets, tmp_path_factory) -> Path:
    with pytest.MonkeyPatch.context() as patched:
        treat_as_large(patched)
        return sweep(CIFAR10, datasets / "uoft-cs/cifar10", tmp_path_factory.mktemp("cifar10"))


def test_a_convolutional_network_equals_the_one_trained_alone(cifar10, datasets, tmp_path):
    data = f"--dataset_name={datasets / 'uoft-cs/cifar10'}"
    flags = ["--task=cifar10", data, NARROW, "--hidden_sizes=16", "--aux_weight=1"]
    limits = ["--seed=1", "--num_train_epochs=1", "--train_batch_size=16", "--max_train_samples=32", "--quiet"]
    assert main(["train", *flags, *limits, "--max_test_samples=20", f"--output_dir={tmp_path}"]) == 0
    alone = SelfModelingForImageClassification.from_pretrained(tmp_path)
    member = SelfModelingForImageClassification.from_pretrained(cifar10 / "cells" / "h16-aw1-seed1")
    assert network(alone) == network(member)
    assert member.config.small_image_stem
    for name, value in alone.state_dict().items():
        torch.testing.assert_close(member.state_dict()[name], value, rtol=0, atol=1e-5)


def test_convolutional_rows_and_settings(cifar10):
    rows = pd.read_parquet(cifar10 / "results.parquet")
    assert rows["aux_weight"].tolist() == [0, 1]
    assert rows["rlct"].map(math.isfinite).all()
    run = json.loads((cifar10 / "run.json").read_text())
    assert run["settings"]["data"]["augment"] is True
    assert run["settings"]["training"]["optim"] == "adamw_torch_fused"
    assert "h16-aw0-seed1" in run["sessions"][0]["seconds"]  # one by one: on a CPU company gains nothing


@pytest.mark.slow
def test_dry_run_takes_the_time_of_real_steps(datasets, tmp_path, capsys, monkeypatch):
    treat_as_large(monkeypatch)
    monkeypatch.setattr("selfmod_hf.experiments.estimate.DRAWS", 2)
    flags = ["sweep", *CIFAR10, f"--dataset_name={datasets / 'uoft-cs/cifar10'}", f"--output_dir={tmp_path / 'new'}"]
    assert main([*flags, "--dry_run"]) == 0
    shown = capsys.readouterr().out
    assert "2 networks one by one, h16-aw0-seed1 .. h16-aw1-seed1" in shown
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("recipe", "networks", "training"),
    [
        ("cifar10", 40, {"learning_rate": 1e-4, "num_train_epochs": 250, "per_device_train_batch_size": 64}),
        ("cifar10-paper-text", 40, {"learning_rate": 1e-3, "num_train_epochs": 250}),
        ("imdb", 30, {"optim": "sgd", "learning_rate": 0.1, "num_train_epochs": 500}),
    ],
)
def test_the_papers_grids(recipe, networks, training):
    plan = SweepSettings.make(recipe).plan()
    assert len(plan.cells) == networks
    assert training.items() <= plan.settings["training"].items()
    attached = {arm.changes["detach_targets"] for arm in plan.arms if arm.changes["aux_weight"] > 0}
    assert attached == {recipe != "cifar10-paper-text"}


def images(channels: int, side: int) -> TaskData:
    pixels = torch.randint(0, 256, (4, channels, side, side), dtype=torch.uint8)
    train = ImageTensors(pixels, torch.arange(4))
    return TaskData(train, train, [f"class {k}" for k in range(10)])


@pytest.mark.parametrize(("task", "data"), [("mnist", images(1, 28)), ("cifar10", images(3, 32))])
def test_memory_counts_the_networks_own_parameters(task, data):
    config = recipe_config(get_task(task), data)
    measured = measure_footprint(config, data.train)
    assert measured.parameters == sum(p.numel() for p in model_class_of(config)(config).parameters())
    assert measured.sample_bytes == 4 * data.train.pixels[0].numel()


def test_memory_decides_how_many_at_once(monkeypatch):
    data = images(3, 32)
    measured = measure_footprint(recipe_config(get_task("cifar10"), data), data.train)
    plan = MemoryPlan(measured, batch_size=64, limit=64 << 30)
    if not torch.accelerator.is_available():
        assert plan.members_at_once() == 1
    assert plan.sampled_at_once() == 10
    assert MemoryPlan(measured, batch_size=64, limit=1 << 30).sampled_at_once() == 1
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    assert 40 < plan.members_at_once() < 80
    assert "over the 1024 MiB there are" in str(MemoryPlan(measured, 64, 1 << 30).explain())
