"""`selfmod reproduce`: the paper's experiment with one command: search, sweep, measures, figures, logs, report.

    selfmod reproduce --tasks digits                                 # a quick look, no network needed
    selfmod reproduce --tasks mnist cifar10 imdb --scale full        # the paper's grids

`selfmod_hf/experiments/reproduction_folder.py` describes the folder. The same command continues an interrupted one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..experiments.setting import setting
from .arguments import line_printer, make_parser, parse, quieten
from .usage_errors import one_line

if TYPE_CHECKING:
    from ..experiments.reproduction_folder import ReproductionFolder

EPOCH_LINES = 15.0  # seconds between two lines about epochs


@dataclass
class ReproduceArguments:
    """Flags of the command itself."""

    output_dir: str | None = setting("Folder of the reproduction; default: runs/reproduce-<scale>.")
    quiet: bool = setting("No progress: the final tables only.", default=False)


def flag_classes() -> tuple[type, ...]:
    """Return the dataclasses of this command's flags."""
    from ..experiments.reproduce_settings import ReproduceSettings

    return (ReproduceSettings, ReproduceArguments)


def run(argv: Sequence[str]) -> None:
    """Do the unfinished parts, then print each task's table and the place of its report.

    Raises:
        UsageError: unusable input, before any training.
    """
    settings, args = parse(make_parser("reproduce", *flag_classes()), argv)
    quieten(args.quiet)
    with one_line():
        from ..reproduction import Reproduction

        reproduction = Reproduction(settings, args.output_dir, ["reproduce", *argv])
    reproduction.work(_with_fewer_epochs(line_printer(args.quiet)))
    for name in settings.names:
        print(_summary(reproduction.folder, name))
    print(f"\n{reproduction.folder.path}: study.json, a folder for each task")


def _with_fewer_epochs(say: Callable[[str], None]) -> Callable[[str], None]:
    """Return `say` with fewer lines about epochs."""
    last = 0.0

    def say_some(line: str) -> None:
        nonlocal last
        now = time.monotonic()
        if line.startswith("  epoch") and now < last + EPOCH_LINES:
            return
        last = now
        say(line)

    return say_some


def _summary(folder: ReproductionFolder, task: str) -> str:
    """Return the answer of a task's study, the place of its report, and its tables."""
    from ..experiments.folder import SweepFolder
    from ..reports.sweep_results import read_results
    from ..reports.sweep_tables import overview

    path = folder.path / task
    results = read_results(SweepFolder(path / "sweep"))
    tables = overview(results).removeprefix(results.answer).strip()
    report = f"report: {path / 'report' / 'report.html'}"
    return "\n\n".join([f"\n{task}. {results.answer}", report, folder.task(task)["setting"], tables])
