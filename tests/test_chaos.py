"""`scripts/chaos.py`, a short version: a run that is killed, or whose disk is full, and started again ends the same."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "chaos.py"
CAN_MOUNT = sys.platform == "linux" and os.geteuid() == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "fault"), [("train", "kill"), ("train", "disk"), ("rlct", "term"), ("rlct", "disk")]
)
def test_a_disturbed_run_ends_the_same(command, fault):
    if fault == "disk" and not CAN_MOUNT:
        pytest.skip("only root can mount a small disk")
    run(command, [fault])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "fault"),
    [
        ("sweep", "term"),
        ("tune", "kill"),
        ("push", "term"),
        ("push_model", "kill"),
    ],  # sweeps are killed in test_sweep.py
)
def test_a_disturbed_study_and_push_end_the_same(command, fault):
    run(command, [fault, "disk"] if CAN_MOUNT else [fault])


def run(command: str, faults: list[str]) -> None:
    flags = [command, "--faults", *faults, "--trials", str(len(faults))]
    done = subprocess.run([sys.executable, SCRIPT, *flags], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("the same") == len(faults)
