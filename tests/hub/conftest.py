"""What the tests of publishing push: a small sweep and a small model, made once; both are only read."""

from pathlib import Path

import pytest

from selfmod_hf.cli import main


@pytest.fixture(scope="session")
def small_sweep(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sweep")
    flags = ["--recipe=digits", "--hidden_sizes=8", "--aux_weights", "0", "10", "--seeds", "1", "2", "--quiet"]
    limits = ["--num_train_epochs=2", "--num_chains=2", "--num_draws=40", "--max_train_samples=200"]
    assert main(["sweep", *flags, *limits, f"--output_dir={folder}"]) == 0
    return folder


@pytest.fixture(scope="session")
def small_model(tmp_path_factory) -> Path:
    """Trained, its RLCT estimated."""
    folder = tmp_path_factory.mktemp("model")
    assert main(["train", "--task=digits", "--num_train_epochs=2", "--quiet", f"--output_dir={folder}"]) == 0
    assert main(["rlct", f"--model={folder}", "--num_draws=60", "--quiet"]) == 0
    return folder
