"""Keep the state of a run's chains in a folder, so that an estimate that was killed goes on at its last block.

The names of the files begin with a checksum of the estimate. The state of another estimate is never used.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from ..errors import InputError
from ..files import write_file
from ..stacking import part_of
from .chain_state import State
from .input_checks import named_inputs
from .pieces import Run
from .problem import Problem

_TRIED = 16  # samples with a loss away from w*
# settings without an effect on the chains, and those whose tensors and losses are in the checksum
_NOT_BY_TEXT = {"progress", "data", "preset", "target_standard_error", "resume_from", "device"}
_NOT_BY_TEXT |= {"parameters", "probes", "loss_fn"}


@dataclass(frozen=True)
class Snapshots:
    """Name the files of an estimate.

    Attributes:
        folder: one file for each piece.
        estimate: a checksum of the networks, the data, the losses and the settings.
    """

    folder: Path
    estimate: str

    @classmethod
    def of(cls, run: Run) -> Snapshots | None:
        """Return the snapshots of a run, or None if it keeps none."""
        folder = run.settings.resume_from
        if folder is None:
            return None
        return cls(Path(folder), _checksum(run))

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
        with contextlib.suppress(OSError):  # it holds other files, or another process was first
            self.folder.rmdir()


def _checksum(run: Run) -> str:
    """Return a checksum of all that decides the numbers of an estimate."""
    checksum = hashlib.sha256()
    settings = run.settings
    for setting in fields(settings):
        if setting.name not in _NOT_BY_TEXT:
            checksum.update(f"{setting.name}={getattr(settings, setting.name)!r}\n".encode())
    for value in (settings.of_paper, list(run.groups), list(run.chains), run.problem.layout):
        checksum.update(f"{value!r}\n".encode())
    tensors = list(_tensors(run.problem))
    if run.starts is not None:
        tensors.append(run.starts)
    for tensor in tensors:
        bits = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        checksum.update(f"{tensor.dtype} {tuple(tensor.shape)}\n".encode())
        checksum.update(bits.numpy().tobytes())
    return checksum.hexdigest()


def _tensors(problem: Problem) -> Iterator[Tensor]:
    """Yield the tensors that decide the numbers of an estimate."""
    yield problem.anchors
    yield from problem.fixed.values()
    yield problem.targets
    yield from named_inputs(problem.inputs).values()
    if problem.probes is not None:
        inputs, targets = problem.probes
        yield targets
        yield from named_inputs(inputs).values()
    yield problem.anchor_losses
    yield _losses_away(problem)


def _losses_away(problem: Problem) -> Tensor:
    """Return losses at weights that are not w*, where another loss or network may have the same ones."""
    anchors = problem.anchors
    state = problem.stack.state | problem.layout.views(1.25 * anchors + 0.25)
    few = slice(0, _TRIED)
    with torch.no_grad():
        return problem.losses_of_one_batch(state, {}, part_of(problem.inputs, few), problem.targets[few])
