"""Networks that stop at the training loss of another one, which may have diverged or be unfinished."""

from importlib.util import find_spec

import pytest

from selfmod_hf import SweepSettings, run_sweep
from selfmod_hf.cli import main
from selfmod_hf.experiments.arms import Cell
from selfmod_hf.experiments.folder import SweepFolder
from selfmod_hf.experiments.prepared_sweep import PreparedSweep

FEW = {"num_train_epochs": 2, "num_chains": 2, "num_draws": 4, "max_train_samples": 100}
WILD = """
task: digits
hidden_sizes: [8]
num_train_epochs: 2
num_chains: 2
num_draws: 4
max_train_samples: 100
seeds: [1, 2]
measures: [dead_units]
arms:
  early: {aux_weight: 0, stop_at_train_loss: wild}
  wild: {aux_weight: 1}
  baseline: {aux_weight: 0}
"""


def diverge(monkeypatch, name: str) -> None:
    """Let the training of a network diverge: the last loss of its curve is missing."""
    loss = SweepFolder.final_training_loss
    monkeypatch.setattr(
        SweepFolder, "final_training_loss", lambda folder, cell: None if cell.name == name else loss(folder, cell)
    )


def test_a_network_that_waits_for_a_diverged_one_is_left_out(tmp_path, capsys, monkeypatch):
    (tmp_path / "study.yaml").write_text(WILD)
    flags = ["sweep", f"--config={tmp_path / 'study.yaml'}", f"--output_dir={tmp_path / 'sweep'}"]
    line = "early-seed1: left out, because wild-seed1 diverged and has no training loss"
    with monkeypatch.context() as patched:
        diverge(patched, "wild-seed1")
        assert main(flags) == 0
        printed = capsys.readouterr().out.splitlines()
        assert printed.count(line) == 2
        assert line in printed[-4:]
        rows = SweepFolder(tmp_path / "sweep").rows()
        assert sorted(zip(rows["arm"], rows["seed"], strict=True)) == [
            ("baseline", 1), ("baseline", 2), ("early", 2), ("wild", 1), ("wild", 2),
        ]  # fmt: skip
        assert rows["dead_units"].notna().all()
        assert main([*flags, "--dry_run"]) == 0
        assert line in capsys.readouterr().out.splitlines()
    assert main([*flags, "--quiet"]) == 0
    assert len(SweepFolder(tmp_path / "sweep").rows()) == 6


def test_an_arm_of_diverged_networks_ends_no_study(tmp_path, capsys):
    (tmp_path / "study.yaml").write_text(WILD.replace("wild: {aux_weight: 1}", "wild: {learning_rate: 1e30}"))
    flags = ["sweep", f"--config={tmp_path / 'study.yaml'}", f"--output_dir={tmp_path / 'sweep'}"]
    assert main([*flags, "--quiet"]) == 0
    assert capsys.readouterr().out.count(": left out, because wild-seed") == 2
    assert sorted(set(SweepFolder(tmp_path / "sweep").rows()["arm"])) == ["baseline", "wild"]
    assert not list((tmp_path / "sweep" / "populations").iterdir())


@pytest.mark.weekly
@pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed")
def test_on_ray_an_arm_of_diverged_networks_ends_no_study(tmp_path, capsys):
    (tmp_path / "study.yaml").write_text(WILD.replace("wild: {aux_weight: 1}", "wild: {learning_rate: 1e30}"))
    flags = ["sweep", f"--config={tmp_path / 'study.yaml'}", f"--output_dir={tmp_path / 'sweep'}"]
    assert main([*flags, "--on=ray"]) == 0
    assert capsys.readouterr().out.count("early-seed1: left out, because wild-seed1 diverged") == 2
    rows = SweepFolder(tmp_path / "sweep").rows()
    assert sorted(set(rows["arm"])) == ["baseline", "wild"]
    assert rows.set_index("arm").loc["baseline", "dead_units"].notna().all()
    assert not list((tmp_path / "sweep" / "populations").iterdir())


def test_interrupted_networks_that_wait_come_last(tmp_path):
    arms = {"early": {"aux_weight": 0, "stop_at_train_loss": "late"}, "late": {"aux_weight": 5}}
    settings = SweepSettings.make("digits", arms=arms, seeds=[1, 2], hidden_sizes=[8], **FEW)
    folder = SweepFolder(tmp_path)
    folder.open_population([Cell("early", 1)])
    folder.open_population([Cell("late", 1)])
    folder.open_population([Cell("early", 2)])  # that of late-seed2 was not opened
    sweep = PreparedSweep.make(settings, tmp_path)
    names = [path.name for path, _ in sweep.interrupted_populations()]
    assert names == ["late-seed1", "early-seed1", "early-seed2"]
    run_sweep(settings, output_dir=tmp_path)
    assert list(folder.read_run().sessions[0].seconds) == ["late-seed1", "late-seed2", "early-seed1", "early-seed2"]
    assert len(folder.rows()) == 4
