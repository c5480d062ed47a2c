"""The time and memory of a sweep, from a few real steps and draws of each shape."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import PrinterCallback, TrainerCallback

from ..data import TensorData
from ..trainer.rlct import estimate_rlct
from .arms import Cell
from .plan import run_changes
from .prepared_sweep import PreparedSweep
from .setting import Values
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


def describe_work(sweep: PreparedSweep, work: Sequence[Estimate]) -> str:
    """Return the plan of a sweep with an estimate of memory and time, as lines of text.

    Args:
        sweep: its input. Nothing is written into its folder.
        work: of `estimate_work`.
    """
    cells = sweep.plan.cells
    folder = sweep.folder
    num_finished = sum(map(folder.is_finished, cells))
    lines = [f"{len(cells)} networks in {folder.path}, {num_finished} of them finished"]
    singles = []
    reasons = []
    for part in work:
        count = len(part.cells)
        shape = sweep.shape_of(part.cells[0])
        if count > 1:
            lines.append(_work_line(f"{count:4} networks {shape.label}".rstrip(), [part]))
        else:
            singles.append(part)
        reasons.append(shape.explain())
    if singles:
        lines.append(_work_line(f"{len(singles):4} networks one by one", singles))
    for reason in dict.fromkeys(reasons):
        if reason is not None:
            lines.append(reason)
    lines += sweep.all_left_out()
    minutes = sum(part.seconds for part in work) / 60
    lines.append(f"about {minutes:.1f} min in all, by a few real steps of each shape")
    for name, values in sweep.plan.settings.items():
        lines.append(f"{name}: {values}")
    return "\n".join(lines)


def _work_line(what: str, parts: Sequence[Estimate]) -> str:
    gibibytes = max(part.bytes for part in parts) / 2**30
    minutes = sum(part.seconds for part in parts) / 60
    first = parts[0].cells[0].name
    last = parts[-1].cells[-1].name
    return f"  {what}, {first} .. {last}: about {gibibytes:.2f} GiB, {minutes:.1f} min"


def estimate_work(sweep: PreparedSweep) -> list[Estimate]:
    """Return the work of each unfinished population: memory by count, time by a probe of each shape.

    Evaluation and writing are left out. Steps of an interrupted population are not subtracted.

    Args:
        sweep: its input.
    """
    groups = [cells for _, cells in sweep.interrupted_populations()]
    groups += sweep.populations_to_open()
    seconds: dict[str, float] = {}  # of one network, by shape
    work = []
    for group in groups:
        left_out = sweep.left_out(group)
        cells = [cell for cell in group if cell not in left_out]
        if not cells:
            continue
        key = sweep.plan.shape_of(sweep.arms[cells[0].arm])
        if key not in seconds:
            seconds[key] = _seconds_per_network(sweep, cells)
        count = len(cells)
        num_bytes = count * sweep.shapes[key].memory.bytes_per_member()
        work.append(Estimate(cells, num_bytes, count * seconds[key]))
    return work


def _seconds_per_network(sweep: PreparedSweep, cells: Sequence[Cell]) -> float:
    """Return the seconds of training and sampling of one network in a population."""
    # a network whose stop is another one's training loss is probed without that rule
    arms = {name: replace(arm, changes=run_changes(arm)) for name, arm in sweep.arms.items()}
    sweep = replace(sweep, arms=arms)
    plan = sweep.plan
    shape = sweep.shape_of(cells[0])
    batch_size = shape.run.training.per_device_train_batch_size
    num_epochs = int(shape.run.training.num_train_epochs)
    epoch_steps = math.ceil(len(shape.data.train) / batch_size)
    watch = _Stopwatch()
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(
            sweep,
            Path(folder),
            cells,
            max_steps=WARM_UP + STEPS,
            eval_strategy="no",
            save_strategy="no",
            logging_strategy="no",
        )
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(watch)
        trainer.train()
    step = watch.seconds / STEPS / len(cells)  # seconds of one network's step
    at_once = shape.memory.sampled_at_once()
    networks = trainer.networks()[: min(RLCT_NETWORKS, at_once)]
    models = [network.model() for network in networks]
    num_estimates = 1
    if plan.rlct_every_n_epochs:
        num_estimates += (num_epochs - 1) // plan.rlct_every_n_epochs
    training = num_epochs * epoch_steps * step
    estimate = _sampling_seconds(plan.sampling, shape.data.train, models, trainer.args.device, step / batch_size)
    return training + num_estimates * estimate


class _Stopwatch(TrainerCallback):
    """Measures the seconds of all steps after the warm-up."""

    seconds = start = 0.0

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step in (WARM_UP, WARM_UP + STEPS):
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            now = time.perf_counter()
            self.seconds = now - self.start
            self.start = now


def _sampling_seconds(
    sampling: Values, train: TensorData, models: Sequence[Any], device: Any, per_sample: float
) -> float:
    """Return the seconds of one network's RLCT: the loss over the training set, the first draws, and all others.

    Args:
        sampling: arguments of `estimate_llc`.
        train: the training set.
        models: networks for one sampling.
        device: of the networks.
        per_sample: seconds of a sample in training, and about those of a sample in a chain.
    """
    batch_size = sampling["batch_size"]
    pass_seconds = len(models) * per_sample  # of one sample in all networks
    draw_seconds = pass_seconds * sampling["num_chains"] * batch_size
    affordable = round(PROBE_SECONDS / draw_seconds)
    num_draws = min(DRAWS, max(2, affordable))
    affordable = round(PROBE_SECONDS / pass_seconds)
    num_samples = min(len(train), max(batch_size, affordable))
    probe = train.first(num_samples)
    seconds = []
    for count in (num_draws, 2 * num_draws):
        settings = {**sampling, "num_draws": count, "num_burnin_steps": 0}
        start = time.perf_counter()
        estimate_rlct(models, probe, device=device, **settings)
        seconds.append(time.perf_counter() - start)
    once, twice = seconds
    for_draws = max(twice - once, 0)
    for_probe = max(once - for_draws, 0)
    for_data = for_probe * len(train) / num_samples
    for_all_draws = for_draws / num_draws * sampling["num_draws"]
    return (for_data + for_all_draws) / len(models)
