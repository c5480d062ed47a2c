"""`scripts/chaos.py`, a short version: a run that is killed, or whose disk is full, and started again ends the same."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "chaos.py"


@pytest.mark.slow
@pytest.mark.parametrize("command", ["train", "rlct"])  # the sweep has its own, in test_sweep.py
@pytest.mark.parametrize("fault", ["kill", "term", "disk"])
def test_a_disturbed_run_ends_the_same(command, fault):
    if fault == "disk" and (os.geteuid() != 0 or sys.platform != "linux"):
        pytest.skip("only root can mount a small disk")
    done = subprocess.run(
        [sys.executable, SCRIPT, command, "--faults", fault, "--trials", "1"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the same" in done.stdout
