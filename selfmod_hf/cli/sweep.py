"""`selfmod sweep`: a study of many networks, trained as populations, with accuracy, weight width and RLCT of each.

    selfmod sweep --recipe mnist                                     # the paper's Figure 2; flags narrow it
    selfmod sweep --dataset_name me/photos --backbone timm/resnet18 --target_layers backbone.layer4 --aux_weights 0 1
    selfmod sweep --config controls.yaml                             # named arms

It takes every flag of `selfmod train` but those of its processes, which `accelerate launch` or `--on` starts.
`selfmod_hf/experiments/folder.py` describes the results folder. The same command continues an interrupted sweep.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from ..experiments.setting import setting
from ..extras import need
from . import train
from .arguments import line_printer, make_parser, note_unseen_classes, quieten, typed_values, with_config_file
from .usage_errors import one_line


@dataclass
class SweepArguments:
    """Flags of the command itself."""

    report_to: Literal["none", "tensorboard"] = setting(
        "Write each network's figures to <output_dir>/tensorboard.", "none"
    )
    output_dir: str | None = setting("Results folder; default: runs/sweep-<recipe or data>.")
    on: str | None = setting("ray (on this machine) or ray:ADDRESS (of a cluster): each population is a task of Ray.")
    dry_run: bool = setting("Print the plan with an estimate of time and memory; do nothing.", default=False)
    quiet: bool = setting("No progress: the final table only.", default=False)


def flag_classes() -> tuple[type, ...]:
    """Return the dataclasses of this command's flags. A later one's flag replaces an earlier one's of the same name."""
    from ..experiments.sweep_settings import StudySettings

    return (*train.run_classes(), StudySettings, SweepArguments)


def run(argv: Sequence[str]) -> None:
    """Train and measure the unfinished networks, then print the answer and the table.

    Raises:
        UsageError: unusable input, before any training.
    """
    parser = make_parser("sweep", *flag_classes())
    given = with_config_file(typed_values(parser, argv), parser)
    own = {name: given.pop(name, value) for name, value in vars(SweepArguments()).items()}
    args = SweepArguments(**own)
    quieten(args.quiet)
    backbone = given.get("backbone_name")
    with one_line(hub=f"--backbone_name {backbone}" if backbone else ""):
        from ..experiments.prepared_sweep import PreparedSweep
        from ..experiments.processes_together import join_processes
        from ..experiments.ray_engine import check_engine
        from ..experiments.sweep_settings import SweepSettings

        check_engine(args.on)
        if args.report_to == "tensorboard":
            need("report_to='tensorboard'", "tensorboard")
        sweep = PreparedSweep.make(SweepSettings.make(**given), args.output_dir)
    note_unseen_classes(sweep.data)
    is_main = join_processes().is_main_process
    if args.dry_run:
        from ..experiments.estimate import describe_work, estimate_work

        description = describe_work(sweep, estimate_work(sweep))
        if is_main:
            print(description)
        return
    from ..experiments.sweep import run_here, run_on_ray, run_prepared_sweep

    engine = run_here if args.on is None else partial(run_on_ray, on=args.on)
    run_prepared_sweep(sweep, engine, line_printer(args.quiet), ["sweep", *argv])
    if not is_main:
        return
    from ..reports.sweep_results import read_results
    from ..reports.sweep_tables import overview

    folder = sweep.folder
    if args.report_to == "tensorboard":
        from ..reports.tensorboard import write_tensorboard

        write_tensorboard(folder, folder.path / "tensorboard")
    print("\n".join([overview(read_results(folder)), *sweep.all_left_out()]))
    print(f"\n{folder.path}: results.json, results.parquet, curves.parquet, run.json, cells/")
