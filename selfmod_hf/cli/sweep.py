"""`selfmod sweep`: the paper's grid of networks, trained as populations, with accuracy, weight width and RLCT.

`selfmod sweep --recipe mnist` is Figure 2; flags narrow it. The results folder is described in
`selfmod_hf/experiments/folder.py`. A sweep that was interrupted goes on where it was when started again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from .arguments import check_output_dir, make_parser, parse, quieten
from .data_flags import DataArguments, flag, load_data, note_unseen_classes
from .usage_errors import UsageError, one_line

if TYPE_CHECKING:
    from ..data import TaskData, TaskSpec
    from ..experiments.folder import SweepFolder
    from ..experiments.footprint import MemoryPlan
    from ..experiments.plan import Plan


@dataclass
class SweepArguments:
    """Which networks, with what settings, and where the results go."""

    recipe: str = flag(
        "mnist, cifar10, imdb (the paper's grids: 240, 40, 30 networks), cifar10-paper-text (the same by the paper's "
        "text), or digits (small; needs no network).",
        "digits",
    )
    hidden_sizes: list[int] | None = flag("Widths of the hidden layer; default: the recipe's, as for all that follows.")
    aux_weights: list[float] | None = flag("Weights of the self-modeling loss; 0 is the baseline.")
    seeds: list[int] | None = flag("One network of each width and weight per seed.")
    detach_targets: str | None = flag("true (published recipe), false (the paper's text), or both.")
    num_train_epochs: int | None = flag("Epochs of training.")
    train_batch_size: int | None = flag("Samples a step, of each network.")
    learning_rate: float | None = flag("Of the recipe's optimizer.")
    bf16: bool = flag("Train in bfloat16 (autocast); faster, the figures hold within the seeds' spread.", default=False)
    dataset_name: str | None = flag("In place of the recipe's data: Hub id, or local folder in Hub layout.")
    max_train_samples: int | None = flag("Use so many training samples, spread evenly over the split.")
    max_test_samples: int | None = flag("Use so many test samples, spread evenly over the split.")
    rlct_preset: str = flag("Settings of the RLCT: paper, paper-text or theory.", "paper")
    num_chains: int | None = flag("Chains of each RLCT.")
    num_draws: int | None = flag("Draws of each chain; the first half is left out.")
    rlct_every_n_epochs: int = flag("Estimate RLCTs while networks train, too, after every n-th epoch; 0: not.", 0)
    members_per_population: int | None = flag("Networks trained at once; default: what fits into --memory_gib.")
    memory_gib: float | None = flag("Memory for training, of each process; default: half of what is free.")
    report_to: str = flag("tensorboard: write each network's figures to <output_dir>/tensorboard; none: not.", "none")
    output_dir: str | None = flag("Results folder; default: runs/sweep-<recipe>.")
    dry_run: bool = flag("Print what would be done, with an estimate of time and memory; do nothing.", default=False)
    quiet: bool = flag("No progress: the final table only.", default=False)


def flag_classes() -> tuple[type, ...]:
    """Return the dataclasses of this command's flags."""
    return (SweepArguments,)


def run(argv: Sequence[str]) -> None:
    """Train and measure what is not done yet; print the table.

    Raises:
        UsageError: input that cannot be used, before any training.
    """
    (args,) = parse(make_parser("sweep", *flag_classes()), argv)
    quieten(args.quiet)
    with one_line():
        sweep = prepare(args)
    if args.dry_run:
        description = _describe(sweep)
        if sweep.is_main:
            print(description)
        return
    sweep.run((lambda line: None) if args.quiet else (lambda line: print(line, flush=True)))
    if sweep.is_main and args.report_to == "tensorboard":
        from ..reports.tensorboard import write_tensorboard

        write_tensorboard(sweep.folder, sweep.folder.path / "tensorboard")
    if sweep.is_main:
        from ..reports.sweep_results import read_results
        from ..reports.sweep_tables import overview

        print(overview(read_results(sweep.folder)))
        print(f"\n{sweep.folder.path}: results.json, results.parquet, curves.parquet, run.json, cells/")


@dataclass(frozen=True)
class Sweep:
    """A sweep that can begin: its input has been checked, its data are there."""

    plan: Plan
    spec: TaskSpec
    data: TaskData
    folder: SweepFolder
    memory: MemoryPlan
    is_main: bool

    def run(self, say: Callable[[str], None]) -> None:
        """Do what is not done yet; the main process says how it goes."""
        from ..experiments.sweep import run_sweep

        for hidden_size in dict.fromkeys(cell.hidden_size for cell in self.plan.cells):
            if self.is_main and (reason := self.memory.explain(hidden_size)):
                say(reason)
        run_sweep(self.plan, self.spec, self.data, self.folder, self.memory, say=say)


def prepare(args: SweepArguments) -> Sweep:
    """Check everything and load the data; nothing is written.

    Raises:
        UsageError, ValueError: input that cannot be used.
    """
    from ..experiments.folder import SweepFolder
    from ..experiments.footprint import MemoryPlan, measure_footprint
    from ..experiments.sweep import from_main, join_processes
    from ..trainer.recipe_network import recipe_config

    spec = _spec(args)
    plan = make_plan(args, spec)
    check_output_dir(args.output_dir)
    folder = SweepFolder(args.output_dir or f"runs/sweep-{args.recipe}")
    folder.check_settings(plan.settings)
    state = join_processes()
    data_args = DataArguments(
        augment=plan.data.get("augment", False),
        max_train_samples=args.max_train_samples,
        max_test_samples=args.max_test_samples,
    )
    with state.main_process_first():
        data = load_data(spec, data_args)
    note_unseen_classes(data)
    footprints = {
        size: measure_footprint(recipe_config(spec, data, hidden_sizes=[size]), data.train)
        for size in dict.fromkeys(cell.hidden_size for cell in plan.cells)
    }
    limit = from_main(lambda: _memory_limit(args, state.num_processes))
    batch_size = plan.training["per_device_train_batch_size"]
    memory = MemoryPlan(footprints, batch_size, limit, state.num_processes, args.members_per_population)
    return Sweep(plan, spec, data, folder, memory, state.is_main_process)


def _spec(args: SweepArguments) -> TaskSpec:
    from ..data import get_task
    from ..experiments.plan import GRIDS

    if args.recipe not in GRIDS:
        raise UsageError(f"--recipe {args.recipe}: allowed are {', '.join(GRIDS)}")
    spec = get_task(args.recipe)
    return spec if args.dataset_name is None else replace(spec, dataset_name=args.dataset_name)


def make_plan(args: SweepArguments, spec: TaskSpec) -> Plan:
    """The recipe's grid and settings, what was typed in their place."""
    from ..complexity import llc_preset
    from ..complexity.settings import LLCSettings
    from ..experiments.plan import GRIDS, Plan, make_cells, recipe_training

    for name in ("num_train_epochs", "train_batch_size", "members_per_population", "learning_rate", "memory_gib"):
        value = getattr(args, name)
        if value is not None and not 0 < value < math.inf:
            raise UsageError(f"--{name} {value}: allowed are finite numbers above 0")
    if args.rlct_every_n_epochs < 0:
        raise UsageError(f"--rlct_every_n_epochs {args.rlct_every_n_epochs}: allowed are integers of at least 0")
    if args.report_to not in ("none", "tensorboard"):
        raise UsageError(f"--report_to {args.report_to}: allowed are none, tensorboard")
    recipe, grid = spec.recipe, GRIDS[args.recipe]
    targets = str(recipe.get("detach_targets", True)) if args.detach_targets is None else args.detach_targets
    detach = {"true": (True,), "false": (False,), "both": (True, False)}.get(targets.lower())
    if detach is None:
        raise UsageError(f"--detach_targets {args.detach_targets}: allowed are true, false, both")
    cells = make_cells(
        args.hidden_sizes or grid.hidden_sizes, args.aux_weights or grid.aux_weights, args.seeds or grid.seeds, detach
    )
    typed_training = {
        "learning_rate": args.learning_rate,
        "per_device_train_batch_size": args.train_batch_size,
        "num_train_epochs": args.num_train_epochs,
    }
    training = recipe_training(recipe) | {name: value for name, value in typed_training.items() if value is not None}
    training |= {"bf16": True} if args.bf16 else {}  # absent: as in folders begun before this flag was there
    typed = {name: getattr(args, name) for name in ("num_chains", "num_draws") if getattr(args, name) is not None}
    sampling = llc_preset(args.rlct_preset, spec.name) | typed
    LLCSettings(**sampling)  # refuses now what sampling would refuse after the training
    data = {name: getattr(args, name) for name in ("max_train_samples", "max_test_samples")}
    data |= {"augment": True} if recipe.get("augment") else {}
    data = {"dataset_name": spec.dataset_name, **data}
    return Plan(spec.name, cells, training, sampling, data, args.rlct_every_n_epochs)


def _memory_limit(args: SweepArguments, num_processes: int) -> int:
    """Bytes that training may take in each process."""
    from ..experiments.footprint import free_memory

    return free_memory(num_processes) // 2 if args.memory_gib is None else int(args.memory_gib * 2**30)


def _describe(sweep: Sweep) -> str:
    from ..experiments.estimate import estimate_work

    plan, folder, memory = sweep.plan, sweep.folder, sweep.memory
    work = estimate_work(plan, sweep.spec, folder, sweep.data, memory)
    done = sum(folder.is_finished(cell) for cell in plan.cells)
    lines = [f"{len(plan.cells)} networks in {folder.path}, {done} of them finished"]
    singles = [part for part in work if len(part.cells) == 1]
    for part in work:
        first, last = part.cells[0], part.cells[-1]
        if len(part.cells) > 1:
            lines.append(
                f"  {len(part.cells):4} networks of width {first.hidden_size}, {first.name} .. {last.name}: "
                f"about {part.bytes / 2**30:.2f} GiB, {part.seconds / 60:.1f} min"
            )
    if singles:
        first, last = singles[0].cells[0], singles[-1].cells[0]
        lines.append(
            f"  {len(singles):4} networks one by one, {first.name} .. {last.name}: "
            f"about {max(part.bytes for part in singles) / 2**30:.2f} GiB, "
            f"{sum(part.seconds for part in singles) / 60:.1f} min"
        )
    lines += [reason for size in {part.cells[0].hidden_size for part in work} if (reason := memory.explain(size))]
    lines.append(f"about {sum(part.seconds for part in work) / 60:.1f} min in all, by a few real steps of each width")
    for name, values in plan.settings.items():
        lines.append(f"{name}: {values}")
    return "\n".join(lines)
