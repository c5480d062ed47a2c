"""Keep the state of a run's chains in a folder, so that an estimate that was killed goes on at its last block.

The names of the files begin with a checksum of the estimate. The state of another estimate is never used.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save

from ..errors import InputError
from ..files import write_file
from .chain_state import State
from .pieces import Group, Run
from .problem import Problem
from .settings import LLCSettings

_WITHOUT_EFFECT = ("progress", "data", "preset", "target_standard_error", "resume_from", "device", "probes", "loss_fn")


@dataclass(frozen=True)
class Snapshots:
    """Name the files of an estimate.

    Attributes:
        folder: one file for each piece.
        estimate: a checksum of the networks, their losses and the settings.
    """

    folder: Path
    estimate: str

    @classmethod
    def of(cls, run: Run) -> Snapshots | None:
        """Return the snapshots of a run, or None if it keeps none."""
        folder = run.settings.resume_from
        if folder is None:
            return None
        return cls(Path(folder), _checksum(run.problem, run.groups, run.settings))

    def path(self, groups: range, chains: Sequence[int]) -> Path:
        """Return the file of a piece, by the places of its groups and the numbers of its chains."""
        name = f"{self.estimate[:16]}-groups-{groups.start}-{groups.stop}-chains-{chains[0]}-{chains[-1]}"
        return self.folder / f"{name}.safetensors"

    def read(self, path: Path) -> State | None:
        """Return the state in a file of `path`, or None if it is missing.

        Raises:
            InputError: the file is damaged.
        """
        if not path.is_file():
            return None
        try:
            return load_file(path)
        except (OSError, SafetensorError) as error:
            raise InputError("resume_from", str(path), f"cannot be read ({error})") from error

    def write(self, path: Path, state: State) -> None:
        """Write the state to a file of `path`, complete or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, save(state))

    def remove(self, paths: Sequence[Path]) -> None:
        """Remove files, and the folder if it is empty then."""
        for path in paths:
            path.unlink(missing_ok=True)
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()


def _checksum(problem: Problem, groups: Sequence[Group], settings: LLCSettings) -> str:
    """Return a checksum of all that decides the numbers of an estimate."""
    checksum = hashlib.sha256()
    for setting in fields(settings):
        if setting.name not in _WITHOUT_EFFECT and setting.name != "parameters":
            checksum.update(f"{setting.name}={getattr(settings, setting.name)!r}\n".encode())
    checksum.update(repr(list(groups)).encode())
    checksum.update(repr(problem.layout).encode())
    tensors = [problem.anchors, problem.anchor_losses]
    if problem.probes is not None:
        tensors.append(problem.probes[1])
    for tensor in tensors:
        checksum.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return checksum.hexdigest()
