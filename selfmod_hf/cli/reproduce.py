"""`selfmod reproduce`: the paper's study with one command: search, experiment, measures, figures, logs, report.

    selfmod reproduce --tasks digits                                 # a quick look, no network needed
    selfmod reproduce --tasks mnist cifar10 imdb --scale full        # the paper's grids

It composes `selfmod tune`, `selfmod sweep` and `selfmod report`; the folder is described in
`selfmod_hf/experiments/study.py`. Started again, it goes on where it was interrupted.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from ..tokens import without_tokens
from .arguments import as_flags, check_output_dir, make_parser, parse, quieten
from .data_flags import flag
from .usage_errors import UsageError, one_line

if TYPE_CHECKING:
    from ..experiments.study import StudyFolder
    from .sweep import Sweep
    from .tune import Worker

EPOCH_LINES = 15.0  # seconds between two lines about epochs


@dataclass
class ReproduceArguments:
    """Which tasks, at which scale, and where it all goes."""

    tasks: list[str] | None = flag("digits (default; needs no network), mnist, cifar10, imdb; one or more.")
    scale: str = flag("quick: a first look, fewer seeds, epochs or samples; full: the paper's grids.", "quick")
    tune: bool = flag("Search learning rate and self-modeling weight first, by a short Optuna study.", default=True)
    use_tuned: bool = flag(
        "Run the experiment with the learning rate that the search found best; default: the recipe's, the paper's.",
        default=False,
    )
    output_dir: str | None = flag("Folder of the study; default: runs/reproduce-<scale>.")
    quiet: bool = flag("No progress: the final tables only.", default=False)


def flag_classes() -> tuple[type, ...]:
    """Return the dataclasses of this command's flags."""
    return (ReproduceArguments,)


def run(argv: Sequence[str]) -> None:
    """Do what is not done yet; print each task's table and where its report is.

    Raises:
        UsageError: input that cannot be used, before any training.
    """
    (args,) = parse(make_parser("reproduce", *flag_classes()), argv)
    quieten(args.quiet)
    with one_line():
        from ..experiments.folder import SweepFolder

        study = _checked_study(args)
        todo = [task for task in args.tasks or [] if not study.is_finished(task, "report")]
        # loads all data: what cannot be had is missed now, not in hours
        prepared = [_prepared(study, task, args) for task in todo]
    with SweepFolder(study.path).locked():
        _begin(study, args)
        for task in prepared:
            task.work()
    for name in args.tasks or []:
        print(_summary(study, name))
    print(f"\n{study.path}: study.json, a folder for each task")


# ---- before any work ----


def _checked_study(args: ReproduceArguments) -> StudyFolder:
    """The folder, all input checked.

    Raises:
        UsageError: a task or scale that is not there, flags that contradict each other, a launcher of several.
    """
    from ..experiments.study import SCALES, STUDY, StudyFolder

    args.tasks = args.tasks or ["digits"]
    for task in args.tasks:
        if task not in STUDY or args.tasks.count(task) > 1:
            raise UsageError(f"--tasks {' '.join(args.tasks)}: allowed are different ones of {', '.join(STUDY)}")
    if args.scale not in SCALES:
        raise UsageError(f"--scale {args.scale}: allowed are {', '.join(SCALES)}")
    if args.use_tuned and not args.tune:
        raise UsageError("--use_tuned True: allowed with --tune True")
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise UsageError(
            f"WORLD_SIZE {os.environ['WORLD_SIZE']}: reproduce runs in one process; start scripts/sweep.py with the "
            "launcher, --output_dir FOLDER/TASK/sweep, and reproduce afterwards"
        )
    check_output_dir(args.output_dir)
    study = StudyFolder(args.output_dir or f"runs/reproduce-{args.scale}")
    study.check(args.scale, {task: _flags(args, task) for task in args.tasks})
    return study


def _flags(args: ReproduceArguments, task: str) -> dict[str, Any]:
    """What decides a task's numbers."""
    from ..experiments.study import STUDY

    tune = dict(STUDY[task].tune) if args.tune else None
    return {"sweep": STUDY[task].of(args.scale), "tune": tune, "use_tuned": args.use_tuned}


def _prepared(study: StudyFolder, task: str, args: ReproduceArguments) -> _Task:
    """A task whose search (where it is asked for, and not finished) and sweep can begin."""
    from . import sweep, tune

    path, flags = study.path / task, _flags(args, task)

    def make_sweep(**found: Any) -> Sweep:
        given = {"recipe": task, "output_dir": str(path / "sweep"), **flags["sweep"], **found}
        return sweep.prepare(sweep.SweepArguments(**given))

    worker = None
    if args.tune and not study.is_finished(task, "tune"):
        given = {"task": task, "output_dir": path / "tune", "quiet": True, **flags["tune"]}
        worker = tune.prepare(as_flags(given))
    return _Task(study, task, args, worker, make_sweep)


def _begin(study: StudyFolder, args: ReproduceArguments) -> None:
    from ..experiments.sweep import surroundings

    started = datetime.now(timezone.utc).isoformat(timespec="seconds")
    session = {"started": started, "command": without_tokens(sys.argv[1:])}
    study.content |= {"scale": args.scale, **surroundings()}
    study.content["sessions"].append(session)
    for task in args.tasks or []:
        study.task(task)["flags"] = _flags(args, task)
    study.write()


# ---- one task ----


class _Task:
    """A task's parts, in their order."""

    def __init__(
        self,
        study: StudyFolder,
        name: str,
        args: ReproduceArguments,
        worker: Worker | None,
        make_sweep: Callable[..., Sweep],
    ) -> None:
        self.study, self.name, self.args = study, name, args
        self.worker, self.make_sweep = worker, make_sweep
        self.sweep = None if args.use_tuned else make_sweep()  # what was found is known after the search
        self.path = study.path / name
        self.said = 0.0

    def work(self) -> None:
        if self.worker is not None:
            self._part("tune", self._tune)
        sweep = self.sweep or self.make_sweep(**self._found())
        self._part("sweep", lambda: self._sweep(sweep))
        self._part("tensorboard", lambda: self._tensorboard(sweep))
        self._part("report", lambda: self._report(sweep))

    def _found(self) -> dict[str, Any]:
        """Flags of the sweep that the search has found."""
        rate = self.study.task(self.name)["tuned"]["learning_rate"]
        if rate is None:
            raise UsageError(f"--use_tuned True: the search on {self.name} found no network with a usable RLCT")
        return {"learning_rate": rate}

    def _part(self, part: str, do: Callable[[], dict[str, Any]]) -> None:
        if self.study.is_finished(self.name, part):
            self._say(f"{self.name}, {part}: finished before")
            return
        start = time.perf_counter()
        facts = do()
        self.study.finish(self.name, part, time.perf_counter() - start, **facts)

    def _say(self, line: str) -> None:
        """Lines about epochs come now and then."""
        now = time.monotonic()
        if self.args.quiet or (line.startswith("  epoch") and now < self.said + EPOCH_LINES):
            return
        self.said = now
        print(line, flush=True)

    def _tune(self) -> dict[str, Any]:
        assert self.worker is not None
        flags = _flags(self.args, self.name)["tune"]
        self._say(f"{self.name}, tune: {flags['trials']} trials over {' '.join(flags['space'])}")
        self.worker.work()
        tuning = self.worker.tuning
        best = tuning.best(self.worker.args.keep_accuracy)
        tuning.write_results(self.worker.command)
        uses = "uses its learning rate" if self.args.use_tuned else "keeps the recipe's settings"
        self.study.task(self.name)["tuned"] = {
            "trials": tuning.counts(),
            "best_trial": None if best is None else best.number,
            "learning_rate": None if best is None else best.params["learning_rate"],
            "aux_weight": None if best is None else best.params["aux_weight"],
            "used": f"the experiment {uses}",
        }
        text = "no trial is usable" if best is None else ", ".join(f"{k} {v:.3g}" for k, v in best.params.items())
        self._say(f"{self.name}, tune: best {text}; the experiment {uses}")
        return {"results": f"{self.name}/tune/pareto.json"}

    def _sweep(self, sweep: Sweep) -> dict[str, Any]:
        from ..experiments.plan import describe_setting

        setting = describe_setting(sweep.plan.settings, sweep.plan.cells)
        self.study.task(self.name)["setting"] = setting
        self._say(f"{self.name}, sweep: {len(sweep.plan.cells)} networks. {setting}")
        sweep.run(self._say)
        return {"networks": len(sweep.plan.cells), "results": f"{self.name}/sweep/results.json"}

    def _tensorboard(self, sweep: Sweep) -> dict[str, Any]:
        from ..reports.tensorboard import write_tensorboard

        write_tensorboard(sweep.folder, self.path / "tensorboard")
        return {"logs": f"{self.name}/tensorboard"}

    def _report(self, sweep: Sweep) -> dict[str, Any]:
        from ..reports.report import report

        report(sweep.folder.path, self.path / "report")
        return {"results": f"{self.name}/report/report.html"}


def _summary(study: StudyFolder, task: str) -> str:
    from ..experiments.folder import SweepFolder
    from ..reports.sweep_results import read_results
    from ..reports.sweep_tables import overview

    table = overview(read_results(SweepFolder(study.path / task / "sweep")))
    setting = study.task(task)["setting"]
    return f"\n{task}. {setting}\n{table}\nreport: {study.path / task / 'report' / 'report.html'}"
