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


def test_every_module_is_imported_without_fcntl():
    """As on Windows. So is no other module that only POSIX has."""
    program = """
import importlib, pkgutil, sys
import accelerate, datasets, filelock, optuna, pandas, timm, torch, transformers  # of these it is their own business
for name in ("fcntl", "grp", "pwd", "resource", "termios"):
    sys.modules[name] = None
import selfmod_hf
names = [module.name for module in pkgutil.walk_packages(selfmod_hf.__path__, "selfmod_hf.")]
for name in names:
    if not name.startswith("selfmod_hf.metrics.") and not name.endswith("__main__"):  # evaluate's, and the command
        importlib.import_module(name)
print(len(names))
"""
    done = warm.run(["-c", program])
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 150
