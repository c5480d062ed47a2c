"""One population of a sweep: training it, and measuring its networks."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate import PartialState
from transformers import PrinterCallback, ProgressCallback, TrainerCallback

from ..errors import InputError
from ..files import plain
from ..hub.model_folder import run_facts
from ..json_records import CurvePoint, NetworkRow
from ..stacking import chunk_ranges
from ..trainer import RLCTCallback, SelfModelingTrainer
from ..trainer.callbacks import RLCTsCallback
from ..trainer.checkpoints import newest_complete_checkpoint
from ..trainer.member import Member
from ..trainer.population import SelfModelingPopulation
from ..trainer.rlct import estimate_rlct
from ..trainer.task_losses import training_loss
from .arms import STOP, Cell, stop_arm
from .folder import CURVE_RLCT_COLUMNS
from .plan import axis_columns, left_to_members, own_columns
from .prepared_sweep import PreparedSweep
from .processes_together import from_main
from .run_settings import RunSettings
from .setting import Say, Values

if TYPE_CHECKING:
    from ..complexity import LLCResult

SLOW_SAVE = 0.5  # seconds of a checkpoint
SAVE_SHARE = 0.05  # of the time, for slow checkpoints
TRAINING: Values = {
    "save_total_limit": 2,
    "report_to": "none",
    "disable_tqdm": True,
}


def train_population(sweep: PreparedSweep, path: Path, cells: Sequence[Cell], say: Say) -> SelfModelingTrainer:
    """Train a population to its end, from its newest checkpoint if there is one.

    Args:
        sweep: its settings and data.
        path: folder of the population.
        cells: its networks.
        say: called with each line of progress.
    """
    name = path.name
    if len(cells) > 1:
        name += f" and {len(cells) - 1} more"
    description = _describe(sweep, cells)
    say(f"{name}: training {description}")
    trainer = make_trainer(sweep, path, cells)
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    metric = sweep.shape_of(cells[0]).metrics[0]
    trainer.add_callback(_Progress(say, metric))
    if sweep.plan.rlct_every_n_epochs:
        trainer.add_callback(_rlct_callback(sweep, trainer, cells))
    trainer.add_callback(_SeldomSlowSaves)
    checkpoint = from_main(lambda: newest_complete_checkpoint(path / "training"))
    trainer.train(resume_from_checkpoint=checkpoint)
    return trainer


def _describe(sweep: PreparedSweep, cells: Sequence[Cell]) -> str:
    """Return a description: the networks, and their split over the processes."""
    what = f"{len(cells)} networks"
    split = "the members"
    if len(cells) == 1:
        what = "a single network"
        split = "each batch"
    label = sweep.shape_of(cells[0]).label
    text = f"{what} {label}".rstrip()
    processes = PartialState().num_processes
    if processes == 1:
        return text
    return f"{text}, {split} over {processes} processes"


def make_trainer(sweep: PreparedSweep, path: Path, cells: Sequence[Cell], **changes: Any) -> SelfModelingTrainer:
    """Return the Trainer of a population, or of a single network.

    Args:
        sweep: its settings and data.
        path: folder of the population.
        cells: the networks.
        changes: training arguments in place of the plan's.

    Raises:
        InputError: a single network with a batch of no even split over the processes.
    """
    plan = sweep.plan
    shape = sweep.shape_of(cells[0])
    arms = [sweep.arms[cell.arm] for cell in cells]
    stops = sweep.training_losses(cells)
    members = plan.members(cells, sweep.arms, stops)
    run = shape.run.replace(**left_to_members(arms))
    arguments = dict(TRAINING)
    if "per_device_eval_batch_size" not in run.given:
        arguments["per_device_eval_batch_size"] = _eval_batch_size(run)
    if len(cells) == 1:
        own = plan.run_of(arms[0])
        run = own.replace(**_stop_of(members[0]))
        arguments["seed"] = cells[0].seed
        arguments["per_device_train_batch_size"] = _share_of_batch(own)
    arguments["output_dir"] = str(path / "training")
    run = run.replace(**arguments, **changes)
    model: Any
    if len(cells) == 1 and shape.alone is not None:
        model = run.build_network(shape.data)
    else:
        model = SelfModelingPopulation(shape.config, members)
        if len(cells) == 1:
            model = model.member(0)
    return SelfModelingTrainer(
        model=model,
        args=run.training,
        train_dataset=shape.data.train,
        eval_dataset=shape.data.test,
        task=shape.task,
    )


def _stop_of(member: Member) -> dict[str, Any]:
    """Return the rule of a network that stops at another one's training loss, as a field of its run."""
    loss = member.stop_at_train_loss
    if loss is None:
        return {}
    return {STOP: loss}


def _eval_batch_size(run: RunSettings) -> int:
    """Return the batch of an evaluation. The activations of 1000 samples in a large network are more than a step's."""
    if run.network.is_encoder:
        return run.training.per_device_eval_batch_size
    if run.network.backbone in (None, "mlp") and run.task.text_column is None:
        return 1000
    return min(1000, 4 * run.training.per_device_train_batch_size)


def _share_of_batch(run: RunSettings) -> int:
    batch = run.training.per_device_train_batch_size
    processes = PartialState().num_processes
    if batch % processes:
        raise InputError("train_batch_size", batch, f"allowed are multiples of {processes} processes")
    return batch // processes


class _Progress(TrainerCallback):
    """Pass a line with the main metric to `say` after each evaluation."""

    def __init__(self, say: Say, metric: str) -> None:
        self.say = say
        self.metric = metric
        self.start = time.perf_counter()

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
        epoch = state.epoch
        value = math.nan
        if metrics is not None:
            value = metrics.get(f"eval_{self.metric}", math.nan)
        words = self.metric.replace("_", " ")
        parts = [
            f"  epoch {epoch:g}/{args.num_train_epochs:g}",
            f"mean {words} {value:.4f}",
        ]
        logged: dict[str, Any] = {}
        for entry in state.log_history:
            if entry.get("epoch") == epoch:
                logged |= entry
        if "rlct" in logged:
            rlct = logged["rlct"]
            parts.append(f"mean RLCT {rlct:.2f}")
        seconds = time.perf_counter() - self.start
        parts.append(f"{seconds:.0f} s")
        self.say("  ".join(parts))


class _SeldomSlowSaves(TrainerCallback):
    """Leave out slow checkpoints (of many large networks) until they are a small share of the time.

    The results do not depend on it.
    """

    def __init__(self) -> None:
        self.evaluated = self.saved = time.perf_counter()
        self.slow = 0.0  # seconds of the last checkpoint, if it was slow

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        is_last = state.global_step >= state.max_steps
        if self.slow and not is_last:
            wait = self.slow / SAVE_SHARE
            control.should_save = from_main(lambda: time.perf_counter() - self.saved > wait)

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.evaluated = time.perf_counter()

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.saved = time.perf_counter()
        took = from_main(lambda: self.saved - self.evaluated)
        self.slow = 0.0
        if took > SLOW_SAVE:
            self.slow = took


def _rlct_callback(sweep: PreparedSweep, trainer: Any, cells: Sequence[Cell]) -> TrainerCallback:
    """Return the callback for RLCTs during the training. Those of the last epoch are estimated afterwards."""
    plan = sweep.plan
    shape = sweep.shape_of(cells[0])
    train = shape.data.train
    every = plan.rlct_every_n_epochs
    before_last = int(shape.run.training.num_train_epochs) - 1
    if len(cells) == 1:
        settings = {**plan.sampling, "members": [cells[0].seed]}
        return RLCTCallback(trainer, train, every, settings, before_last)
    at_once = shape.memory.sampled_at_once()
    return RLCTsCallback(trainer, train, every, dict(plan.sampling), before_last, at_once=at_once)


# ---- measuring ----


def measure_population(sweep: PreparedSweep, trainer: SelfModelingTrainer, cells: Sequence[Cell], say: Say) -> None:
    """Estimate the RLCTs of the unfinished networks after their training, and keep them.

    Args:
        sweep: its settings and data.
        trainer: of `train_population`.
        cells: its networks.
        say: called with each line of progress.
    """
    plan = sweep.plan
    shape = sweep.shape_of(cells[0])
    data = shape.data
    networks = trainer.networks()
    processor = data.train.processor()
    batch_size = shape.run.training.per_device_train_batch_size
    run = run_facts(shape.task, data.train, data.test, batch_size)
    at_once = shape.memory.sampled_at_once()
    for group in chunk_ranges(len(cells), at_once):
        missing = from_main(partial(_missing, sweep, cells, group))
        if not missing:
            continue
        first, last = cells[group[0]], cells[group[-1]]
        say(f"  RLCT of {first.name} .. {last.name}")
        models = [networks[k].model() for k in group]
        # chains of equal seeds share their noise, so that arms are compared under common random numbers
        seeds = [cells[k].seed for k in group]
        estimates = estimate_rlct(
            models,
            data.train,
            members=seeds,
            device=trainer.args.device,
            data=shape.task.train_data,
            **plan.sampling,
        )
        if not PartialState().is_main_process:
            continue
        for k, model, estimate in zip(group, models, estimates, strict=True):
            if k not in missing:
                continue
            row, curve = _results(sweep, cells[k], networks[k].figures, estimate)
            sweep.folder.finish(cells[k], model, estimate, row, curve, processor, run)


def _missing(sweep: PreparedSweep, cells: Sequence[Cell], group: Sequence[int]) -> list[int]:
    """Return the numbers of the unfinished cells in a group."""
    found = []
    for k in group:
        if not sweep.folder.is_finished(cells[k]):
            found.append(k)
    return found


def _results(
    sweep: PreparedSweep,
    cell: Cell,
    figures: Mapping[int, Mapping[str, float]],
    estimate: LLCResult,
) -> tuple[NetworkRow, list[CurvePoint]]:
    """Return the row and the curve of a network.

    Args:
        sweep: its settings.
        cell: the network.
        figures: from its log, by epoch.
        estimate: its RLCT.
    """
    keys = _keys(sweep, cell)
    metrics = sweep.shape_of(cell).metrics
    curve = _curve(keys, figures, metrics)
    last = curve[-1]
    row = _row(sweep, cell, keys, last, estimate)
    if _has_rule(sweep, cell):
        logged = figures[last.epoch]
        row = row.with_fields(stopped_epoch=logged.get("stopped_epoch"))
    if sweep.plan.rlct_every_n_epochs:
        rlct = {name: getattr(row, name) for name in CURVE_RLCT_COLUMNS}
        curve[-1] = last.with_fields(**rlct)
    return row, curve


def _curve(keys: Values, figures: Mapping[int, Mapping[str, float]], metrics: Sequence[str]) -> list[CurvePoint]:
    """Return one network's figures after each epoch from its log, with these metrics."""
    curve = []
    for epoch, logged in sorted(figures.items()):
        if f"eval_{metrics[0]}" not in logged:
            continue
        values = {**keys, "epoch": epoch}
        values["weight_width"] = logged["weight_width"]
        for name in metrics:
            values[name] = logged[f"eval_{name}"]
        for name in ("classification_loss", "self_modeling_loss", "loss"):
            values[name] = logged.get(name)  # a network without a self-model has no loss of it
        for name in CURVE_RLCT_COLUMNS:
            if name in logged:
                values[name] = logged[name]
        curve.append(CurvePoint.model_validate(plain(values)))
    return curve


def _has_rule(sweep: PreparedSweep, cell: Cell) -> bool:
    """Return whether a rule may stop the training of a network before the planned epochs."""
    arm = sweep.arms[cell.arm]
    if stop_arm(arm) is not None:
        return True
    training = sweep.plan.run_of(arm).training
    if training.stop_at_train_loss is not None:
        return True
    return training.early_stopping_patience is not None


def _keys(sweep: PreparedSweep, cell: Cell) -> dict[str, Any]:
    """Return the fields that distinguish a network from others."""
    run = sweep.plan.run_of(sweep.arms[cell.arm])
    sizes = sweep.shape_of(cell).config.hidden_sizes
    keys = {
        "task": sweep.plan.task,
        "hidden_size": sizes[-1] if sizes else None,
        "aux_weight": run.network.aux_weight,
        "seed": cell.seed,
        "detach_targets": run.network.detach_targets,
        "arm": cell.arm,
    }
    metric = sweep.shape_of(cell).metrics[0]
    if metric != "accuracy":
        keys["metric"] = metric
    return keys


def _row(sweep: PreparedSweep, cell: Cell, keys: Values, last: CurvePoint, rlct: LLCResult) -> NetworkRow:
    """Return a network's row of the results, with its values on the axes of the study."""
    arm = sweep.arms[cell.arm]
    own = sweep.plan.run_of(arm)
    training = own.training
    columns = axis_columns(sweep.arms.values())
    values = {
        **keys,
        **own_columns(own, arm, columns),
        **last.metrics(),
        "weight_width": last.weight_width,
        "rlct": rlct.llc,
        "rlct_standard_error": rlct.standard_error,
        "rlct_status": rlct.status,
        "rlct_status_reason": rlct.status_reason,
        "nbeta": rlct.nbeta,
        "rlct_preset": sweep.plan.sampling["preset"],
        "rlct_rhat": rlct.rhat,
        "rlct_ess": rlct.ess,
        "train_loss": training_loss(rlct, sweep.shape_of(cell).config.num_labels),
        "num_epochs": last.epoch,
        "batch_size": training.per_device_train_batch_size,
        "learning_rate": training.learning_rate,
    }
    return NetworkRow.model_validate(plain(values))
