"""What ran where: versions, machine, git commit."""

from __future__ import annotations

import os
import platform
import subprocess
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from .. import __version__

PACKAGES = ("torch", "transformers", "accelerate", "datasets", "numpy")


def surroundings() -> dict[str, Any]:
    """Return versions, machine and git commit, as the index of a folder records them."""
    device = f"CPU, {torch.get_num_threads()} threads"
    if torch.cuda.is_available():
        device = torch.cuda.get_device_name()
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):  # a checkout that is not installed, or a machine without datasets
            versions[name] = version(name)
    versions["selfmod_hf"] = own_version()
    return {
        "versions": versions,
        "machine": {"system": platform.platform(), "device": device, "cores": os.cpu_count()},
        "git_commit": _git_commit(),
    }


def own_version() -> str:
    """Return the version of this package."""
    return __version__


def _git_commit() -> str | None:
    """Return the commit of the package's checkout, with a mark if files differ from it. None: no checkout."""
    try:
        commit = _git("rev-parse", "HEAD")
        changed = _git("status", "--porcelain", "-uno")
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{commit} with changes" if changed else commit


def _git(*words: str) -> str:
    folder = Path(__file__).parent
    done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()
