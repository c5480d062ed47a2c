"""What a sweep will take: a few real steps and draws of each width, timed."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PrinterCallback, TrainerCallback

from ..data import TaskData
from ..trainer.rlct import estimate_rlct
from .folder import SweepFolder
from .memory import MemoryPlan
from .plan import Cell, Plan
from .sweep import make_trainer, populations_to_open

WARM_UP, STEPS = 3, 8  # optimizer steps: not timed, timed
DRAWS = 20
RLCT_NETWORKS = 3  # sampled in a probe; ten at once take a little less each


@dataclass(frozen=True)
class Estimate:
    """What a population is expected to take."""

    cells: Sequence[Cell]
    bytes: int
    seconds: float


def estimate_work(plan: Plan, folder: SweepFolder, data: TaskData, memory: MemoryPlan) -> list[Estimate]:
    """For each population still to be trained: memory by count, time by a probe of each width.

    Evaluation and writing are left out. What an interrupted population has done already is not taken off.
    """
    open_cells = [cells for _, cells in folder.unfinished_populations() if set(plan.cells) & set(cells)]
    groups = [*open_cells, *populations_to_open(plan, folder, memory)]
    seconds: dict[int, float] = {}  # of one network, by width
    for cells in groups:
        if cells[0].hidden_size not in seconds:
            seconds[cells[0].hidden_size] = _seconds_per_network(plan, data, cells)
    return [
        Estimate(
            cells,
            len(cells) * memory.bytes_per_member(cells[0].hidden_size),
            len(cells) * seconds[cells[0].hidden_size],
        )
        for cells in groups
    ]


def _seconds_per_network(plan: Plan, data: TaskData, cells: Sequence[Cell]) -> float:
    steps_per_epoch = -(-len(data.train) // plan.training["per_device_train_batch_size"])
    steps = plan.training["num_train_epochs"] * steps_per_epoch
    watch = _Stopwatch()
    settings: dict[str, Any] = dict.fromkeys(("eval_strategy", "save_strategy", "logging_strategy"), "no")
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(plan, data, Path(folder), cells, max_steps=WARM_UP + STEPS, **settings)
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(watch)
        trainer.train()
    return steps * watch.seconds / STEPS / len(cells) + _sampling_seconds(plan, data, trainer, cells)


class _Stopwatch(TrainerCallback):
    """Seconds that the steps after the warm-up took together."""

    seconds = start = 0.0

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step in (WARM_UP, WARM_UP + STEPS):
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            now = time.perf_counter()
            self.start, self.seconds = now, now - self.start


def _sampling_seconds(plan: Plan, data: TaskData, trainer: Any, cells: Sequence[Cell]) -> float:
    """Of one network's RLCT: the loss over the training set and the first draws, then so much for each further one."""
    count = min(RLCT_NETWORKS, len(cells))
    models = [trainer.population.member(k) for k in range(count)] if len(cells) > 1 else [trainer.model]
    once, twice = (
        _timed_sampling(models, data, trainer, {**plan.sampling, "num_draws": draws, "num_burnin_steps": 0})
        for draws in (DRAWS, 2 * DRAWS)
    )
    per_draw = max(twice - once, 0) / DRAWS
    return (once + per_draw * (plan.sampling["num_draws"] - DRAWS)) / count


def _timed_sampling(models: Sequence[Any], data: TaskData, trainer: Any, sampling: dict[str, Any]) -> float:
    start = time.perf_counter()
    estimate_rlct(models, data.train, device=trainer.args.device, **sampling)
    return time.perf_counter() - start
