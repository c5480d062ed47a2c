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

from ..data import TaskData, TaskSpec
from ..trainer.rlct import estimate_rlct
from .folder import SweepFolder
from .footprint import MemoryPlan
from .plan import Cell, Plan
from .sweep import make_trainer, populations_to_open

WARM_UP, STEPS = 3, 8  # optimizer steps: not timed, timed
DRAWS = 20
RLCT_NETWORKS = 3  # sampled in a probe; ten at once take a little less each
PROBE_SECONDS = 10.0  # of each part of a probe, about: large networks get fewer draws, and a part of the data


@dataclass(frozen=True)
class Estimate:
    """What a population is expected to take."""

    cells: Sequence[Cell]
    bytes: int
    seconds: float


def estimate_work(
    plan: Plan, spec: TaskSpec, folder: SweepFolder, data: TaskData, memory: MemoryPlan
) -> list[Estimate]:
    """For each population still to be trained: memory by count, time by a probe of each width.

    Evaluation and writing are left out. What an interrupted population has done already is not taken off.
    """
    open_cells = [cells for _, cells in folder.unfinished_populations() if set(plan.cells) & set(cells)]
    groups = [*open_cells, *populations_to_open(plan, folder, memory)]
    seconds: dict[int, float] = {}  # of one network, by width
    for cells in groups:
        size = cells[0].hidden_size
        if size not in seconds:
            seconds[size] = _seconds_per_network(plan, spec, data, cells, memory.sampled_at_once(size))
    return [
        Estimate(
            cells,
            len(cells) * memory.bytes_per_member(cells[0].hidden_size),
            len(cells) * seconds[cells[0].hidden_size],
        )
        for cells in groups
    ]


def _seconds_per_network(
    plan: Plan, spec: TaskSpec, data: TaskData, cells: Sequence[Cell], sampled_at_once: int
) -> float:
    batch, epochs = (plan.training[name] for name in ("per_device_train_batch_size", "num_train_epochs"))
    steps = epochs * -(-len(data.train) // batch)
    watch = _Stopwatch()
    settings: dict[str, Any] = dict.fromkeys(("eval_strategy", "save_strategy", "logging_strategy"), "no")
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(plan, spec, data, Path(folder), cells, max_steps=WARM_UP + STEPS, **settings)
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(watch)
        trainer.train()
    step = watch.seconds / STEPS / len(cells)
    count = min(RLCT_NETWORKS, sampled_at_once, len(cells))
    models = [trainer.population.member(k) for k in range(count)] if len(cells) > 1 else [trainer.model]
    every = plan.rlct_every_n_epochs
    estimates = 1 + ((epochs - 1) // every if every else 0)
    return steps * step + estimates * _sampling_seconds(plan, data, models, trainer.args.device, step / batch)


class _Stopwatch(TrainerCallback):
    """Seconds that the steps after the warm-up took together."""

    seconds = start = 0.0

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step in (WARM_UP, WARM_UP + STEPS):
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            now = time.perf_counter()
            self.start, self.seconds = now, now - self.start


def _sampling_seconds(plan: Plan, data: TaskData, models: Sequence[Any], device: Any, per_sample: float) -> float:
    """Return the seconds of one network's RLCT: the loss over the training set, the first draws, and all others.

    Args:
        plan: its sampling settings are used.
        data: the task's.
        models: networks that are sampled together.
        device: where.
        per_sample: seconds that training takes for a sample, so about those that a chain takes for one.
    """
    chains, batch_size, num_draws = (plan.sampling[name] for name in ("num_chains", "batch_size", "num_draws"))
    draw = len(models) * chains * batch_size * per_sample
    draws = min(DRAWS, max(2, round(PROBE_SECONDS / draw)))
    affordable = round(PROBE_SECONDS / (len(models) * per_sample))
    samples = min(len(data.train), max(batch_size, affordable))
    train = data.train.first(samples)
    seconds = []
    for count in (draws, 2 * draws):
        settings = {**plan.sampling, "num_draws": count, "num_burnin_steps": 0}
        start = time.perf_counter()
        estimate_rlct(models, train, device=device, **settings)
        seconds.append(time.perf_counter() - start)
    once, twice = seconds
    per_draw = max(twice - once, 0) / draws
    over_data = max(once - draws * per_draw, 0) * len(data.train) / samples
    return (over_data + per_draw * num_draws) / len(models)
