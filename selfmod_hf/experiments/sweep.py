"""Runs a plan: cells of one width are trained as populations, then their RLCTs are sampled together.

What is computed together is fixed when a population is opened and kept in its members.json, so that a resumed sweep
takes up the same populations and gives the same numbers, to the bit on the same machine.
"""

from __future__ import annotations

import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import PrinterCallback, ProgressCallback, TrainerCallback

from ..data import TaskData, TaskSpec
from ..models import SelfModelingConfig
from ..stacking import chunk_ranges, copies_that_fit
from ..trainer import SelfModelingTrainer, SelfModelingTrainingArguments
from ..trainer.population import Member, SelfModelingPopulation
from ..trainer.rlct import estimate_rlct
from .folder import SweepFolder
from .plan import Cell, Plan

if TYPE_CHECKING:
    from ..complexity import LLCResult
    from ..trainer.population_trainer import PopulationTrainer

# Of a step's images on a CPU: beyond this the C library maps and unmaps memory each step. Measured at width 64,
# batch 512: 0.13 s a network-epoch with 10 members (15 MiB), 0.21 s with 60.
CPU_BATCH_BYTES = 16 << 20
RLCT_GROUP = 10  # networks whose chains are sampled together; an interrupted sweep samples at most these again
PACKAGES = ("torch", "transformers", "accelerate", "datasets", "numpy", "selfmod_hf")


def run_sweep(
    plan: Plan,
    spec: TaskSpec,
    data: TaskData,
    folder: SweepFolder,
    *,
    members_per_population: int | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Do what of the plan is not done yet; tables are written after each population.

    Args:
        plan: cells and settings.
        spec, data: the task.
        folder: results; held locked meanwhile.
        members_per_population: how many networks train at once; default: as many as fit into half the free memory.
        say: takes a line of progress.

    Raises:
        InputError: the folder is in use, or was begun with other settings.
    """
    with folder.locked():
        folder.check_settings(plan.settings)
        run = folder.read_run()
        session: dict[str, Any] = {
            "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "command": sys.argv[1:],
        }
        session |= {"seconds": {}}
        run = {"settings": plan.settings, **_surroundings(), "sessions": [*run["sessions"], session]}
        folder.write_run(run)
        for path, cells in _populations(plan, folder, data, members_per_population):
            seconds = _run_population(plan, spec, data, folder, path, cells, say)
            session["seconds"][path.name] = {"networks": len(cells), **seconds}
            folder.write_tables()
            folder.write_run(run)
        folder.write_tables()  # the last session may have been cut between its last network and its tables


def _populations(
    plan: Plan, folder: SweepFolder, data: TaskData, members: int | None
) -> Iterator[tuple[Path, list[Cell]]]:
    """Interrupted populations first, then new ones of what is left."""
    planned = set(plan.cells)
    for path, cells in folder.unfinished_populations():
        if planned.intersection(cells):
            yield path, cells
    for cells in populations_to_open(plan, folder, data, members):
        yield folder.open_population(cells), cells


def populations_to_open(
    plan: Plan, folder: SweepFolder, data: TaskData, members: int | None = None
) -> list[list[Cell]]:
    """The unfinished cells that no interrupted population holds, in groups that train together."""
    held = {cell for _, cells in folder.unfinished_populations() for cell in cells}
    groups = []
    for hidden_size in dict.fromkeys(cell.hidden_size for cell in plan.cells):
        cells = [
            cell
            for cell in plan.cells
            if cell.hidden_size == hidden_size and cell not in held and not folder.is_finished(cell)
        ]
        size = members or members_that_fit(hidden_size, plan, data)
        groups += [[cells[index] for index in chunk] for chunk in chunk_ranges(len(cells), size)]
    return groups


# ---- memory and time ----


def num_parameters(hidden_size: int, data: TaskData) -> int:
    """Of the MLP with its self-model."""
    inputs, outputs = data.train.pixels[0].numel(), len(data.label_names) + hidden_size
    return (inputs + 1) * hidden_size + (hidden_size + 1) * outputs


def bytes_per_member(hidden_size: int, plan: Plan, data: TaskData) -> int:
    """What training one member takes: weights, gradient, optimizer state and its update; batch and activations."""
    per_sample = 2 * data.train.pixels[0].numel() + 8 * hidden_size
    return 4 * (5 * num_parameters(hidden_size, data) + plan.training["per_device_train_batch_size"] * per_sample)


def free_memory() -> int:
    """Bytes that are free on the accelerator, or in the machine."""
    if torch.cuda.is_available():
        return torch.cuda.mem_get_info()[0]
    for line in Path("/proc/meminfo").read_text().splitlines() if Path("/proc/meminfo").is_file() else ():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def members_that_fit(hidden_size: int, plan: Plan, data: TaskData) -> int:
    """How many members train at once: within half the free memory, and on a CPU as many as run well."""
    fit = copies_that_fit(bytes_per_member(hidden_size, plan, data), free_memory() // 2)
    if torch.cuda.is_available():
        return fit
    batch = 4 * plan.training["per_device_train_batch_size"] * data.train.pixels[0].numel()
    return min(fit, copies_that_fit(batch, CPU_BATCH_BYTES))


@dataclass(frozen=True)
class Estimate:
    """What a population is expected to take."""

    cells: list[Cell]
    bytes: int
    seconds: float


def estimate_work(plan: Plan, folder: SweepFolder, data: TaskData, members: int | None = None) -> list[Estimate]:
    """For each population still to be trained: memory, and time from arithmetic and a probe of this machine.

    6 operations per parameter and sample (forward, backward), for epochs and chains, at a third of the rate of a
    plain matrix product: a rough figure.
    """
    rate = _matmul_rate() / 3
    sampling = plan.sampling
    steps = sampling["num_chains"] * sampling["num_draws"] * min(sampling["batch_size"], len(data.train)) * 4 / 3
    samples = (
        plan.training["num_train_epochs"] * len(data.train) + steps
    )  # draws are compared with w*: one more forward
    open_cells = [cells for _, cells in folder.unfinished_populations() if set(plan.cells) & set(cells)]
    return [
        Estimate(
            cells,
            len(cells) * bytes_per_member(cells[0].hidden_size, plan, data),
            len(cells) * 6 * num_parameters(cells[0].hidden_size, data) * samples / rate,
        )
        for cells in (*open_cells, *populations_to_open(plan, folder, data, members))
    ]


def _matmul_rate() -> float:
    """Operations a second of a float32 matrix product on the device, measured for a moment."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    a = torch.randn(1024, 1024, device=device)
    best = math.inf
    for _ in range(4):
        start = time.perf_counter()
        float((a @ a)[0, 0])
        best = min(best, time.perf_counter() - start)
    return 2 * 1024**3 / best


# ---- one population ----


def _run_population(
    plan: Plan, spec: TaskSpec, data: TaskData, folder: SweepFolder, path: Path, cells: Sequence[Cell], say: Any
) -> dict[str, float]:
    """Train, measure, keep; returns the seconds each part took in this session."""
    start = time.perf_counter()
    say(f"{path.name} and {len(cells) - 1} more: training {len(cells)} networks of width {cells[0].hidden_size}")
    trainer = _train(plan, spec, data, path, cells, say)
    trained = time.perf_counter()
    curves = _curves(trainer)
    population = trainer.population.cpu()
    for group in chunk_ranges(len(cells), RLCT_GROUP):
        if all(folder.is_finished(cells[k]) for k in group):
            continue
        models = [population.member(k).eval() for k in group]
        say(f"  RLCT of {cells[group[0]].name} .. {cells[group[-1]].name}")
        # chains of equal seeds share their noise: the arms are compared under common random numbers
        estimates = estimate_rlct(
            models, data.train, members=[cells[k].seed for k in group], device=trainer.args.device, **plan.sampling
        )
        for k, model, estimate in zip(group, models, estimates, strict=True):
            if not folder.is_finished(cells[k]):
                row = _row(plan, cells[k], curves[k][-1], estimate)
                folder.finish(cells[k], model, estimate, row, [_keys(plan, cells[k]) | entry for entry in curves[k]])
    folder.close_population(path)
    return {"training": trained - start, "rlct": time.perf_counter() - trained}


def _train(
    plan: Plan, spec: TaskSpec, data: TaskData, path: Path, cells: Sequence[Cell], say: Any
) -> PopulationTrainer:
    args = SelfModelingTrainingArguments(output_dir=str(path / "training"), **plan.training, **_FIXED)
    population = SelfModelingPopulation(_config(cells[0].hidden_size, data), [_member(cell) for cell in cells])
    trainer: Any = SelfModelingTrainer(
        model=population, args=args, train_dataset=data.train, eval_dataset=data.test, task=spec
    )
    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)
    trainer.add_callback(_Progress(say))
    trainer.train(resume_from_checkpoint=_whole_checkpoint(path / "training"))
    return trainer


_FIXED: dict[str, Any] = {
    "eval_strategy": "epoch",
    "logging_strategy": "epoch",
    "save_strategy": "epoch",
    "save_total_limit": 2,
    "report_to": "none",
    "disable_tqdm": True,
    "per_device_eval_batch_size": 1000,
}


def _whole_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint that was written to its end: the Trainer's state is the last of its files."""
    whole = [path for path in folder.glob("checkpoint-*") if _is_whole(path / "trainer_state.json")]
    newest = max(whole, key=lambda path: int(path.name.rpartition("-")[2]), default=None)
    return None if newest is None else str(newest)


def _is_whole(path: Path) -> bool:
    return path.is_file() and path.read_text().rstrip().endswith("}")


class _Progress(TrainerCallback):
    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say
        self.start = time.perf_counter()

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
        seconds = time.perf_counter() - self.start
        accuracy = (metrics or {}).get("eval_accuracy", math.nan)
        self.say(f"  epoch {state.epoch:g}/{args.num_train_epochs:g}  mean accuracy {accuracy:.4f}  {seconds:.0f} s")


def _config(hidden_size: int, data: TaskData) -> SelfModelingConfig:
    _, channels, height, width = data.train.pixels.shape
    return SelfModelingConfig(
        hidden_sizes=[hidden_size],
        target_layers=["hidden.relu1"],
        image_size=(height, width),
        num_channels=channels,
        id2label=dict(enumerate(data.label_names)),
        label2id={name: number for number, name in enumerate(data.label_names)},
    )


def _member(cell: Cell) -> Member:
    return Member(cell.seed, cell.aux_weight, cell.detach_targets)


# ---- rows ----


def _keys(plan: Plan, cell: Cell) -> dict[str, Any]:
    return {"task": plan.task, **vars(cell)}


def _curves(trainer: PopulationTrainer) -> list[list[dict[str, float]]]:
    """Each member's figures after each epoch, from the Trainer's log."""
    epochs: dict[int, dict[str, float]] = {}
    for entry in trainer.state.log_history:
        epochs.setdefault(round(entry["epoch"]), {}).update(entry)
    names = {
        "weight_width": "weight_width",
        "accuracy": "eval_accuracy",
        **{name: name for name in ("classification_loss", "self_modeling_loss", "loss")},
    }
    return [
        [
            {"epoch": epoch} | {ours: entry[f"{theirs}/{member.name}"] for ours, theirs in names.items()}
            for epoch, entry in sorted(epochs.items())
            if f"eval_accuracy/{member.name}" in entry
        ]
        for member in trainer.population.members
    ]


def _row(plan: Plan, cell: Cell, last: dict[str, float], rlct: LLCResult) -> dict[str, Any]:
    return _keys(plan, cell) | {
        "accuracy": last["accuracy"],
        "weight_width": last["weight_width"],
        "rlct": rlct.llc,
        "rlct_standard_error": rlct.standard_error,
        "rlct_status": rlct.status,
        "rlct_status_reason": rlct.status_reason,
        "nbeta": rlct.nbeta,
        "rlct_preset": plan.sampling["preset"],
        "rlct_rhat": rlct.rhat,
        "rlct_ess": rlct.ess,
        "train_loss": rlct.init_loss,
        "num_epochs": plan.training["num_train_epochs"],
        "batch_size": plan.training["per_device_train_batch_size"],
        "learning_rate": plan.training["learning_rate"],
    }


# ---- what ran where ----


def _surroundings() -> dict[str, Any]:
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    return {
        "versions": {"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
        "machine": {"system": platform.platform(), "device": device, "cores": os.cpu_count()},
        "git_commit": _git_commit(),
    }


def _git_commit() -> str | None:
    """Of the package's checkout, with a mark where files differ from it; None for an installed package."""
    folder = Path(__file__).parent

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        return git("rev-parse", "HEAD") + (" with changes" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return None
