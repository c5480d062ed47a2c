"""One population of a sweep on another machine: what travels there, the work, and what comes back.

No common file system is needed. The worker trains and measures in a temporary folder, and returns the finished
networks' files. Only the driver writes the results folder.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ..data import TaskData
from ..errors import InputError
from ..files import write_file
from ..json_records import PopulationSeconds
from .arms import Cell
from .folder import SweepFolder
from .prepared_sweep import PreparedSweep
from .setting import Say
from .surroundings import own_version
from .sweep_population import measure_population, train_population

CURVE = "curve.json"
ROW = "row.json"


@dataclass(frozen=True)
class Work:
    """Hold all that a worker needs besides the data.

    Attributes:
        sweep: with the shape of these networks alone, and without data.
        cells: the networks of the population.
        threads: of torch on a CPU. The numbers depend on them by rounding.
        path: the driver's folder of the population, absolute.
        mark: the driver's file, absolute. A worker with this file has a common file system, and `path` for checkpoints.
        curves: files of other networks. Networks that stop at another one's training loss read them.
        version: of the driver's package.
    """

    sweep: PreparedSweep
    cells: Sequence[Cell]
    threads: int
    path: Path
    mark: Path
    curves: Mapping[str, bytes]
    version: str


@dataclass(frozen=True)
class Finished:
    """Hold the results of a population.

    Attributes:
        files: content by the name within `cells`.
        spent: seconds of its parts.
    """

    files: Mapping[str, bytes]
    spent: PopulationSeconds


def make_work(sweep: PreparedSweep, path: Path, cells: Sequence[Cell], mark: Path, threads: int) -> Work:
    """Return the work of a population.

    Args:
        sweep: its settings and its folder of results.
        path: folder of the population.
        cells: its networks.
        mark: a file in the folder of results.
        threads: of torch on a CPU.
    """
    key = sweep.plan.shape_of(sweep.arms[cells[0].arm])
    no_data: Any = None
    shape = replace(sweep.shapes[key], data=no_data)
    curves = {}
    for cell in sweep.waits_for(cells):
        curves[f"{cell.name}/{CURVE}"] = (sweep.folder.cells / cell.name / CURVE).read_bytes()
    light = replace(sweep, shapes={key: shape}, functions=())
    return Work(light, cells, threads, path.absolute(), mark.absolute(), curves, own_version())


def run_work(work: Work, data: TaskData[Any], say: Say) -> Finished:
    """Train and measure a population in a temporary folder, and return its files.

    Args:
        work: from `make_work`.
        data: of its shape.
        say: called with each line of progress.

    Raises:
        InputError: the driver has another version of the package.
    """
    if own_version() != work.version:
        raise InputError("on", work.version, f"a worker has version {own_version()} of selfmod_hf; install the same")
    torch.set_num_threads(work.threads)
    ((key, shape),) = work.sweep.shapes.items()
    with tempfile.TemporaryDirectory() as own:
        folder = SweepFolder(own)
        for name, content in work.curves.items():
            _write(folder.cells / name, content)
        sweep = replace(work.sweep, folder=folder, shapes={key: replace(shape, data=data)})
        path = work.path
        if not work.mark.is_file():
            path = folder.open_population(work.cells)
        start = time.perf_counter()
        trainer = train_population(sweep, path, work.cells, say)
        trained = time.perf_counter()
        measure_population(sweep, trainer, work.cells, say)
        measured = time.perf_counter()
        spent = PopulationSeconds(networks=len(work.cells), training=trained - start, rlct=measured - trained)
        return Finished(_files(folder, work.cells), spent)


def _files(folder: SweepFolder, cells: Sequence[Cell]) -> dict[str, bytes]:
    """Return the files of the finished networks. A network's row is last, because it marks the network as finished."""
    files = {}
    for cell in cells:
        paths = sorted(path for path in (folder.cells / cell.name).rglob("*") if path.is_file())
        for path in sorted(paths, key=lambda path: path.name == ROW):
            files[str(path.relative_to(folder.cells))] = path.read_bytes()
    return files


def keep(sweep: PreparedSweep, finished: Finished) -> None:
    """Write the files of finished networks into the folder of results."""
    for name, content in finished.files.items():
        _write(sweep.folder.cells / name, content)


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, content)
