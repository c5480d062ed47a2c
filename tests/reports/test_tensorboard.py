"""TensorBoard logs of a study: one run per network, with its arm and its measures."""

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from selfmod_hf.experiments.arms import make_arms
from selfmod_hf.experiments.folder import SweepFolder
from selfmod_hf.reports.sweep_results import read_results
from selfmod_hf.reports.tensorboard import write_tensorboard
from tests.reports.folders import write_study


def test_networks_of_named_arms_have_their_measures_and_hyperparameters(tmp_path):
    named = {"baseline": {"aux_weight": 0.0}, "deep": {"aux_weight": 1.0, "hidden_sizes": [8, 4]}}
    study = write_study(tmp_path / "study", make_arms({}, named), [1, 2], measures=["dead_units"], epochs=3)
    write_tensorboard(SweepFolder(study), tmp_path / "logs")
    assert sorted(path.name for path in (tmp_path / "logs").iterdir()) == [
        "baseline-seed1", "baseline-seed2", "deep-seed1", "deep-seed2",
    ]  # fmt: skip
    events = EventAccumulator(str(tmp_path / "logs" / "deep-seed2")).Reload()
    row = read_results(SweepFolder(study)).rows.query("arm == 'deep' and seed == 2").iloc[0]
    (measured,) = events.Scalars("measures/dead_units")
    assert measured.value == pytest.approx(row["dead_units"])
    assert [entry.value for entry in events.Scalars("train/epoch")] == [1, 2, 3]
    settings = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    assert b"deep" in settings
    assert b"8 4" in settings
