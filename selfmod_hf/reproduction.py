"""Reproduction of the paper: for each task a search, the sweep, its logs and its report, in one folder."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from .errors import InputError
from .experiments.folder import SweepFolder
from .experiments.folder_names import check_output_dir
from .experiments.prepared_sweep import PreparedSweep
from .experiments.recipes import describe_setting
from .experiments.reproduce_settings import ReproduceSettings
from .experiments.reproduction_folder import ReproductionFolder
from .experiments.setting import Say, check_names
from .experiments.surroundings import surroundings
from .experiments.sweep import run_here, run_prepared_sweep
from .experiments.tune import Tuner
from .experiments.tuning_result import TuningResult
from .extras import need
from .reports.report import report
from .tokens import without_tokens


def reproduce(
    tasks: str | Sequence[str] = ("digits",),
    *,
    output_dir: str | Path | None = None,
    say: Say | None = None,
    **settings: Any,
) -> ReproductionFolder:
    """Run the paper's experiment on each task: a search, the sweep, TensorBoard logs and the report.

    A second call with the same arguments continues an interrupted first one.

    Args:
        tasks: of digits (needs no network), mnist, cifar10 and imdb.
        output_dir: the folder. Default: `runs/reproduce-<scale>`.
        say: called with each line of progress.
        settings: other fields of `ReproduceSettings`, such as `scale="full"`.

    Returns:
        The folder. Its `content` is the index with the files of each part.

    Raises:
        ValueError: an unusable setting, or a folder of other settings.

    Example:
        from selfmod_hf import reproduce

        folder = reproduce("digits", output_dir="runs/digits")
        print(folder.content["tasks"]["digits"]["setting"])
    """
    check_names(ReproduceSettings, settings)
    names: Any = [tasks] if isinstance(tasks, str) else tasks
    reproduction = Reproduction(ReproduceSettings(names, **settings), output_dir)
    reproduction.work(say or _ignore)
    return reproduction.folder


def _ignore(line: str) -> None:
    pass


class Reproduction:
    """One reproduction. Its input is checked and the data of all tasks are loaded.

    Args:
        settings: tasks and scale.
        output_dir: the folder. None: `runs/reproduce-<scale>`.
        command: arguments of the command line for the record. Empty: the call is one from Python.

    Raises:
        ValueError: an unusable setting, or a folder of other settings.
    """

    def __init__(
        self, settings: ReproduceSettings, output_dir: str | Path | None = None, command: Sequence[str] = ()
    ) -> None:
        settings.check()
        need("a reproduction", "reproduce")
        check_output_dir(output_dir)
        self.settings = settings
        self.command = without_tokens(command)
        self.folder = ReproductionFolder(output_dir or f"runs/reproduce-{settings.scale}")
        self.folder.check(settings.scale, {task: settings.fields_of(task) for task in settings.names})
        self.tasks = []
        for task in settings.names:
            if not self.folder.is_finished(task, "report"):
                self.tasks.append(_Task(self.folder, task, settings, self.command))

    def work(self, say: Say) -> None:
        """Do the unfinished parts.

        Args:
            say: called with each line of progress.
        """
        with SweepFolder(self.folder.path).locked():
            self._begin()
            for task in self.tasks:
                task.work(say)

    def _begin(self) -> None:
        """Write the index with a new session."""
        folder, settings = self.folder, self.settings
        started = datetime.now(timezone.utc)
        session = {
            "started": started.isoformat(timespec="seconds"),
            "command": self.command,
        }
        folder.content["scale"] = settings.scale
        folder.content |= surroundings()
        folder.content["sessions"].append(session)
        for task in settings.names:
            entry = folder.task(task)
            entry["flags"] = settings.fields_of(task)
        folder.write()


class _Task:
    """The parts of one task, in their order."""

    def __init__(
        self, folder: ReproductionFolder, name: str, settings: ReproduceSettings, command: Sequence[str]
    ) -> None:
        self.folder = folder
        self.name = name
        self.settings = settings
        self.command = command
        self.path = folder.path / name
        self.tuner: Tuner | None = None
        self.sweep: PreparedSweep | None = None
        self.say: Say = _ignore
        if not settings.use_tuned:
            self.sweep = self._prepare_sweep()
        if settings.tune and not folder.is_finished(name, "tune"):
            base, search = settings.tune_settings(name)
            self.tuner = Tuner(base, search, self.path / "tune")

    def work(self, say: Say) -> None:
        """Do the unfinished parts."""
        self.say = say
        if self.tuner is not None:
            self._part("tune", self._tune)
        if self.sweep is None:
            self.sweep = self._prepare_sweep(learning_rate=self._tuned_rate())
        self._part("sweep", self._sweep)
        self._part("tensorboard", self._tensorboard)
        self._part("report", self._report)

    def _prepare_sweep(self, **found: Any) -> PreparedSweep:
        settings = self.settings.sweep_settings(self.name, **found)
        return PreparedSweep.make(settings, self.path / "sweep")

    def _tuned_rate(self) -> float:
        entry = self.folder.task(self.name)
        rate = entry["tuned"]["learning_rate"]
        if rate is None:
            raise InputError("use_tuned", True, f"the search on {self.name} found no network with a usable RLCT")
        return rate

    def _part(self, part: str, do: Callable[[], dict[str, Any]]) -> None:
        if self.folder.is_finished(self.name, part):
            self.say(f"{self.name}, {part}: finished before")
            return
        start = time.perf_counter()
        facts = do()
        seconds = time.perf_counter() - start
        self.folder.finish(self.name, part, seconds, **facts)

    def _tune(self) -> dict[str, Any]:
        assert self.tuner is not None
        search = self.tuner.settings
        space = " ".join(search.space)
        self.say(f"{self.name}, tune: {search.trials} trials over {space}")
        self.tuner.work(_ignore)
        result = self.tuner.finish()
        use = "the experiment keeps the recipe's settings"
        if self.settings.use_tuned:
            use = "the experiment uses its learning rate"
        entry = self.folder.task(self.name)
        entry["tuned"] = {**_tuned(result), "used": use}
        best = "no trial is usable"
        if result.best is not None:
            best = ", ".join(f"{name} {value:.3g}" for name, value in result.best.params.items())
        self.say(f"{self.name}, tune: best {best}; {use}")
        return {"results": f"{self.name}/tune/pareto.json"}

    def _sweep(self) -> dict[str, Any]:
        assert self.sweep is not None
        plan = self.sweep.plan
        setting = describe_setting(plan.settings, plan.arms, plan.seeds)
        entry = self.folder.task(self.name)
        entry["setting"] = setting
        self.say(f"{self.name}, sweep: {len(plan.cells)} networks. {setting}")
        run_prepared_sweep(self.sweep, run_here, self.say, self.command)
        return {"networks": len(plan.cells), "results": f"{self.name}/sweep/results.json"}

    def _tensorboard(self) -> dict[str, Any]:
        from .reports.tensorboard import write_tensorboard

        write_tensorboard(SweepFolder(self.path / "sweep"), self.path / "tensorboard")
        return {"logs": f"{self.name}/tensorboard"}

    def _report(self) -> dict[str, Any]:
        report(self.path / "sweep", self.path / "report")
        return {"results": f"{self.name}/report/report.html"}


def _tuned(result: TuningResult) -> dict[str, Any]:
    """Return the index's entry for a search."""
    best = result.best
    found: dict[str, Any] = {
        "trials": result.counts,
        "best_trial": None,
        "learning_rate": None,
        "aux_weight": None,
    }
    if best is not None:
        found["best_trial"] = best.number
        found["learning_rate"] = best.params["learning_rate"]
        found["aux_weight"] = best.params["aux_weight"]
    return found
