"""`selfmod sweep`: the paper's grid of networks, trained as populations, with accuracy, weight width and RLCT.

`selfmod sweep --recipe mnist` is Figure 2, and flags narrow it. `selfmod_hf/experiments/folder.py` describes the
results folder. The same command continues an interrupted sweep.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..experiments.setting import setting
from ..experiments.sweep_settings import SweepSettings
from .arguments import line_printer, make_parser, note_unseen_classes, parse, quieten
from .usage_errors import UsageError, one_line


@dataclass
class SweepArguments:
    """Flags of the command itself."""

    report_to: str = setting(
        "tensorboard: write each network's figures to <output_dir>/tensorboard; none: do not.", "none"
    )
    output_dir: str | None = setting("Results folder; default: runs/sweep-<recipe>.")
    dry_run: bool = setting("Print the plan with an estimate of time and memory; do nothing.", default=False)
    quiet: bool = setting("No progress: the final table only.", default=False)


def flag_classes() -> tuple[type, ...]:
    """Return the dataclasses of this command's flags."""
    return (SweepSettings, SweepArguments)


def run(argv: Sequence[str]) -> None:
    """Train and measure the unfinished networks, then print the table.

    Raises:
        UsageError: unusable input, before any training.
    """
    settings, args = parse(make_parser("sweep", *flag_classes()), argv)
    quieten(args.quiet)
    if args.report_to not in ("none", "tensorboard"):
        raise UsageError(f"--report_to {args.report_to}: allowed are none, tensorboard")
    with one_line():
        from ..experiments.prepared_sweep import PreparedSweep
        from ..experiments.processes_together import join_processes

        sweep = PreparedSweep.make(settings, args.output_dir)
    note_unseen_classes(sweep.data)
    is_main = join_processes().is_main_process
    if args.dry_run:
        from ..experiments.estimate import describe_work, estimate_work

        description = describe_work(sweep, estimate_work(sweep))
        if is_main:
            print(description)
        return
    from ..experiments.sweep import run_prepared_sweep

    run_prepared_sweep(sweep, line_printer(args.quiet), ["sweep", *argv])
    if not is_main:
        return
    from ..reports.sweep_results import read_results
    from ..reports.sweep_tables import overview

    folder = sweep.folder
    if args.report_to == "tensorboard":
        from ..reports.tensorboard import write_tensorboard

        write_tensorboard(folder, folder.path / "tensorboard")
    print(overview(read_results(folder)))
    print(f"\n{folder.path}: results.json, results.parquet, curves.parquet, run.json, cells/")
