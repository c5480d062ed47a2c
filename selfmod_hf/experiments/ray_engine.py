"""A sweep on a Ray cluster: each population is a task with its share of the processors, retried if its worker dies.

Ray was chosen among Ray, submitit, Dask and Parsl. See docs/scaling.md.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from ..errors import InputError
from ..extras import need
from ..json_records import PopulationSeconds
from .arms import Cell
from .population_apart import Finished, keep, make_work, run_work
from .prepared_sweep import PreparedSweep
from .processes_together import join_processes
from .progress_lines import ProgressLines
from .setting import Say

NAME = "ray"
RETRIES = 5  # of a population whose worker died. An error in its training is not tried again.
LOOK = 0.5  # seconds between two looks for lines of progress
ANSWER = 10.0  # seconds until a cluster's address has to answer
STORE_BYTES = 1 << 30  # of a local Ray's objects; more of them go to the disk


def check_engine(on: str | None) -> None:
    """Check whether a sweep can run on an engine.

    Args:
        on: None, `ray` (a new Ray on this machine, or the cluster in the environment's RAY_ADDRESS), or `ray:ADDRESS`.

    Raises:
        InputError: another engine, an address without an answer, or a launcher of several processes.
        ImportError: Ray is missing.
    """
    if on is None:
        return
    name, _, address = on.partition(":")
    if name != NAME:
        raise InputError("on", on, "allowed are ray and ray:ADDRESS")
    if join_processes().num_processes > 1:
        raise InputError("on", on, "allowed in a single process: Ray starts the others")
    need("a sweep on Ray", "ray")
    _check_answer(on, address)


def _check_answer(on: str, address: str) -> None:
    """Raise an InputError if nothing answers at HOST:PORT, because Ray itself tries it for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        return  # such as auto
    try:
        socket.create_connection((host, int(port)), ANSWER).close()
    except (OSError, OverflowError) as error:
        raise InputError("on", on, f"nothing answers at this address ({error})") from error


def run_on_ray(
    sweep: PreparedSweep,
    populations: Iterable[tuple[Path, list[Cell]]],
    say: Say,
    on: str,
) -> Iterator[tuple[Path, PopulationSeconds]]:
    """Run populations as tasks, and yield each when its networks are in the folder of results.

    A population with networks that stop at another network's training loss waits for that network.

    Args:
        sweep: its input and its folder, which is locked.
        populations: the folder and the cells of each.
        say: called with each line of progress.
        on: as for `check_engine`.

    Raises:
        InputError: there is no cluster at the address.
    """
    waiting = list(populations)
    if not waiting:
        return
    unique = uuid4().hex
    mark = sweep.folder.path / f".ray-{unique}"
    with _connected(on) as ray:
        nodes = ray.nodes()
        share = share_of_task(nodes, len(waiting), _threads())
        work_there = ray.remote(run_work).options(**share, max_retries=RETRIES)
        tasks = _Tasks(sweep, work_there, share["num_cpus"], mark, say)
        try:
            mark.touch()
            while waiting or tasks.running:
                waiting = tasks.start(waiting)
                for path, finished in tasks.wait():
                    keep(sweep, finished)
                    yield path, finished.spent
        finally:
            mark.unlink(missing_ok=True)


@contextmanager
def _connected(on: str) -> Iterator[Any]:
    """Connect to a cluster, or start Ray on this machine, and yield the module of Ray.

    A connection of the caller's own is used and kept.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    if ray.is_initialized():
        yield ray
        return
    _, _, address = on.partition(":")
    options: dict[str, Any] = {"address": address}
    if not address and "RAY_ADDRESS" not in os.environ:
        options = {
            "address": "local",
            "include_dashboard": False,
            "object_store_memory": STORE_BYTES,
        }
    try:
        ray.init(
            **options,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except ConnectionError as error:
        reason = str(error).splitlines()[0]
        raise InputError("on", on, reason) from error
    try:
        yield ray
    finally:
        ray.shutdown()


class _Said:
    """Pass a worker's lines of progress on. They begin with the name of the population."""

    def __init__(self, lines: Any, name: str) -> None:
        self.lines = lines
        self.name = name

    def __call__(self, line: str) -> None:
        self.lines.add.remote(f"{self.name}: {line.strip()}")


class _Tasks:
    """Start populations as tasks, and wait for them.

    Args:
        sweep: its input.
        work_there: runs `run_work` in a worker.
        threads: of a worker.
        mark: a file for workers to recognize a common file system.
        say: called with each line of progress.
    """

    def __init__(self, sweep: PreparedSweep, work_there: Any, threads: int, mark: Path, say: Say) -> None:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        self.sweep = sweep
        self.mark = mark
        self.say = say
        self.work_there = work_there
        self.threads = threads
        self.running: dict[Any, Path] = {}
        self._data: dict[int, Any] = {}
        node = ray.get_runtime_context().get_node_id()
        here = NodeAffinitySchedulingStrategy(node, soft=False)
        actor = ray.remote(ProgressLines).options(num_cpus=0, scheduling_strategy=here)
        self._lines: Any = actor.remote()

    def start(self, populations: list[tuple[Path, list[Cell]]]) -> list[tuple[Path, list[Cell]]]:
        """Start those populations that wait for no network, and return the others.

        Networks that cannot train are left out.

        Raises:
            InputError: none can start and none is running, because a network was never planned.
        """
        folder = self.sweep.folder
        waiting = []
        for path, opened in populations:
            cells = self.sweep.can_train(opened, self.say)
            needed = self.sweep.waits_for(cells)
            if not cells:
                folder.close_population(path)
            elif all(map(folder.is_finished, needed)):
                self._start_one(path, cells)
            else:
                waiting.append((path, cells))
        if waiting and not self.running:
            _, cells = waiting[0]
            missing = self.sweep.waits_for(cells)[0]
            raise InputError("stop_at_train_loss", missing.arm, f"its network {missing.name} is not finished")
        return waiting

    def _start_one(self, path: Path, cells: list[Cell]) -> None:
        """Start a population."""
        work = make_work(self.sweep, path, cells, self.mark, self.threads)
        data = self._put(cells)
        say = _Said(self._lines, path.name)
        task = self.work_there.remote(work, data, say)
        self.running[task] = path

    def _put(self, cells: Sequence[Cell]) -> Any:
        """Return the data of these networks in the object store. Each data set is put there once."""
        import ray

        data = self.sweep.shape_of(cells[0]).data
        key = id(data)
        if key not in self._data:
            self._data[key] = ray.put(data)
        return self._data[key]

    def wait(self) -> Iterator[tuple[Path, Finished]]:
        """Wait a moment, and yield the folder and the results of each finished population."""
        import ray

        running = list(self.running)
        ready, _ = ray.wait(running, timeout=LOOK)
        lines = ray.get(self._lines.take.remote())
        for line in lines:
            self.say(line)
        for task in ready:
            path = self.running.pop(task)
            yield path, ray.get(task)


def _threads() -> int | None:
    """Return the number of threads in the environment, which counts for Ray's tasks as for this process."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    if not given.isdecimal():
        return None
    return int(given) or None


def share_of_task(nodes: Sequence[dict[str, Any]], count: int, threads: int | None = None) -> dict[str, int]:
    """Return the processors of each task: a GPU if the cluster has some, and its share of the cores.

    Args:
        nodes: of the cluster, as `ray.nodes()` describes them.
        count: number of populations.
        threads: number of cores of each task. None: its share. The numbers depend on it by rounding.

    Raises:
        InputError: no machine has so many cores.

    Example:
        >>> share_of_task([{"Alive": True, "Resources": {"CPU": 8.0}}] * 2, 4)
        {'num_cpus': 4, 'num_gpus': 0}
    """
    cores = []  # of each machine with some
    gpus = 0.0
    for node in nodes:
        if not node["Alive"]:
            continue
        own = node["Resources"]
        gpus += own.get("GPU", 0)
        number = int(own.get("CPU", 0))
        if number > 0:
            cores.append(number)
    least = min(cores, default=0)
    most = max(cores, default=0)
    tasks_at_once = int(gpus) or count
    share = threads
    if not share:
        share = min(sum(cores) // tasks_at_once, least)
        share = max(1, share)
    if share > most:
        raise InputError("on", "ray", f"no machine of the cluster has {share} cores; at most {most}")
    return {"num_cpus": share, "num_gpus": min(1, int(gpus))}
