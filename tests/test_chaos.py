"""`scripts/chaos.py`, a short version: a run that is killed, or whose disk is full, and started again ends the same."""

import os
import sys

import pytest

from scripts.chaos import main

CAN_MOUNT = sys.platform == "linux" and os.geteuid() == 0


@pytest.mark.parametrize(
    ("command", "faults"),
    [
        pytest.param("train", ["kill", "disk"], marks=pytest.mark.slow),
        pytest.param("rlct", ["term"], marks=pytest.mark.weekly),
        # a trial of its own fills the disk for certain
        pytest.param("rlct", ["disk"], marks=pytest.mark.slow),
        pytest.param("sweep", ["term", "disk"], marks=pytest.mark.weekly),
        pytest.param("tune", ["kill", "disk"], marks=pytest.mark.weekly),
        pytest.param("push", ["term", "disk"], marks=pytest.mark.weekly),
        pytest.param("push_model", ["kill", "disk"], marks=pytest.mark.weekly),
    ],  # sweeps are killed in test_sweep.py
)
def test_a_disturbed_command_ends_the_same(command, faults, capsys):
    possible = [fault for fault in faults if fault != "disk" or CAN_MOUNT]
    if not possible:
        pytest.skip("only root can mount a small disk")
    code = main([command, "--faults", *possible, "--trials", str(len(possible))])
    printed = capsys.readouterr().out
    assert code == 0, printed
    assert printed.count("the same") == len(possible)
