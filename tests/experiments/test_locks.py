"""Locks of files, also where the system has no `fcntl`."""

import subprocess
import sys

from selfmod_hf.experiments.locks import hold, try_to_hold
from tests import warm

OTHER = """
import sys
from pathlib import Path
from selfmod_hf.experiments.locks import try_to_hold
sys.exit(try_to_hold(Path(sys.argv[1])) is None)
"""


def held_by_another(path):
    """Return whether another process cannot hold the file."""
    return subprocess.run([sys.executable, "-c", OTHER, str(path)], check=False).returncode == 1


def test_one_process_at_a_time(tmp_path):
    path = tmp_path / ".lock"
    with hold(path):
        assert held_by_another(path)
        assert try_to_hold(path) is None
    assert not held_by_another(path)
    with try_to_hold(path):
        assert held_by_another(path)
    assert not held_by_another(path)


def test_a_missing_folder_is_not_made(tmp_path):
    assert try_to_hold(tmp_path / "missing" / ".lock") is None
    assert not (tmp_path / "missing").exists()


def test_commands_are_imported_without_fcntl():
    """As on Windows."""
    program = """
import sys
import filelock, optuna, torch, transformers  # of these it is their own business
sys.modules["fcntl"] = None
import selfmod_hf.experiments.tuning, selfmod_hf.reproduction
"""
    done = warm.run(["-c", program])
    assert done.returncode == 0, done.stderr
