"""The time and memory of a sweep, from a few real steps and draws of each width."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PrinterCallback, TrainerCallback

from ..trainer.rlct import estimate_rlct
from .plan import Cell
from .prepared_sweep import PreparedSweep
from .sweep_population import make_trainer

WARM_UP = 3  # optimizer steps that are not timed
STEPS = 8  # optimizer steps that are timed
DRAWS = 20
RLCT_NETWORKS = 3  # sampled in a probe; ten at once take a little less each
PROBE_SECONDS = 10.0  # of each part of a probe; large networks get fewer draws, and a part of the data


@dataclass(frozen=True)
class Estimate:
    """The expected work of a population.

    Attributes:
        cells: its networks.
        bytes: of memory.
        seconds: of training and sampling.
    """

    cells: Sequence[Cell]
    bytes: int
    seconds: float


def describe_work(sweep: PreparedSweep) -> str:
    """Return the plan of a sweep with an estimate of memory and time, as lines of text.

    Args:
        sweep: its input. Nothing is written into its folder.
    """
    plan, work = sweep.plan, estimate_work(sweep)
    finished = sum(sweep.folder.is_finished(cell) for cell in plan.cells)
    lines = [f"{len(plan.cells)} networks in {sweep.folder.path}, {finished} of them finished"]
    for part in work:
        if len(part.cells) > 1:
            what = f"{len(part.cells):4} networks of width {part.cells[0].hidden_size}"
            lines.append(_work_line(what, [part]))
    singles = [part for part in work if len(part.cells) == 1]
    if singles:
        lines.append(_work_line(f"{len(singles):4} networks one by one", singles))
    for hidden_size in {part.cells[0].hidden_size for part in work}:
        reason = sweep.memory.explain(hidden_size)
        if reason is not None:
            lines.append(reason)
    minutes = sum(part.seconds for part in work) / 60
    lines.append(f"about {minutes:.1f} min in all, by a few real steps of each width")
    for name, values in plan.settings.items():
        lines.append(f"{name}: {values}")
    return "\n".join(lines)


def _work_line(what: str, parts: Sequence[Estimate]) -> str:
    gibibytes = max(part.bytes for part in parts) / 2**30
    minutes = sum(part.seconds for part in parts) / 60
    first, last = parts[0].cells[0], parts[-1].cells[-1]
    return f"  {what}, {first.name} .. {last.name}: about {gibibytes:.2f} GiB, {minutes:.1f} min"


def estimate_work(sweep: PreparedSweep) -> list[Estimate]:
    """Return the work of each population that is not finished: memory by count, time by a probe of each width.

    Evaluation and writing are left out. The steps that an interrupted population has done are not subtracted.

    Args:
        sweep: its input.
    """
    groups = [cells for _, cells in sweep.interrupted_populations()]
    groups += sweep.populations_to_open()
    seconds: dict[int, float] = {}  # of one network, by width
    work = []
    for cells in groups:
        size, count = cells[0].hidden_size, len(cells)
        if size not in seconds:
            seconds[size] = _seconds_per_network(sweep, cells)
        work.append(Estimate(cells, count * sweep.memory.bytes_per_member(size), count * seconds[size]))
    return work


def _seconds_per_network(sweep: PreparedSweep, cells: Sequence[Cell]) -> float:
    """Return the seconds of training and sampling that one network of a population takes."""
    plan = sweep.plan
    batch, epochs = plan.training["per_device_train_batch_size"], plan.training["num_train_epochs"]
    steps = epochs * -(-len(sweep.data.train) // batch)
    watch = _Stopwatch()
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(
            sweep, Path(folder), cells,
            max_steps=WARM_UP + STEPS, eval_strategy="no", save_strategy="no", logging_strategy="no",
        )  # fmt: skip
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(watch)
        trainer.train()
    step = watch.seconds / STEPS / len(cells)
    count = min(RLCT_NETWORKS, sweep.memory.sampled_at_once(cells[0].hidden_size), len(cells))
    models = [network.model() for network in trainer.networks()[:count]]
    every = plan.rlct_every_n_epochs
    estimates = 1 + (epochs - 1) // every if every else 1
    return steps * step + estimates * _sampling_seconds(sweep, models, trainer.args.device, step / batch)


class _Stopwatch(TrainerCallback):
    """Measures the seconds of all steps after the warm-up."""

    seconds = start = 0.0

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step in (WARM_UP, WARM_UP + STEPS):
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            now = time.perf_counter()
            self.start, self.seconds = now, now - self.start


def _sampling_seconds(sweep: PreparedSweep, models: Sequence[Any], device: Any, per_sample: float) -> float:
    """Return the seconds of one network's RLCT: the loss over the training set, the first draws, and all others.

    Args:
        sweep: its data and sampling settings are used.
        models: networks that are sampled together.
        device: of the networks.
        per_sample: seconds of a sample in training, and about those of a sample in a chain.
    """
    sampling, train = sweep.plan.sampling, sweep.data.train
    batch_size = sampling["batch_size"]
    draw = len(models) * sampling["num_chains"] * batch_size * per_sample
    draws = min(DRAWS, max(2, round(PROBE_SECONDS / draw)))
    affordable = round(PROBE_SECONDS / (len(models) * per_sample))
    samples = min(len(train), max(batch_size, affordable))
    seconds = []
    for count in (draws, 2 * draws):
        settings = {**sampling, "num_draws": count, "num_burnin_steps": 0}
        start = time.perf_counter()
        estimate_rlct(models, train.first(samples), device=device, **settings)
        seconds.append(time.perf_counter() - start)
    once, twice = seconds
    per_draw = max(twice - once, 0) / draws
    over_data = max(once - draws * per_draw, 0) * len(train) / samples
    return (over_data + per_draw * sampling["num_draws"]) / len(models)
