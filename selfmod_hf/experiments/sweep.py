"""Runs a plan: cells of one width are trained as populations, then their RLCTs are sampled together.

What is computed together is fixed when a population is opened and kept in its members.json, so that a resumed sweep
takes up the same populations and gives the same numbers, to the bit on the same machine.

Under a launcher of several processes all of them run this code together: members, and then chains, are split over them
(`PopulationTrainer`, `estimate_llc`). A population of one network is that network, trained with data parallelism. The
main process alone decides what is next, and alone writes.
"""

from __future__ import annotations

import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from transformers import PrinterCallback, ProgressCallback, TrainerCallback

from ..data import TaskData, TaskSpec
from ..errors import InputError
from ..files import plain
from ..hub.model_folder import run_facts
from ..json_records import CurvePoint, NetworkRow, PopulationSeconds, Session, SweepRun, SweepSettings
from ..stacking import chunk_ranges
from ..tokens import without_tokens
from ..trainer import RLCTCallback, SelfModelingTrainer, SelfModelingTrainingArguments
from ..trainer.callbacks import RLCTsCallback
from ..trainer.checkpoints import newest_complete_checkpoint
from ..trainer.member import Member
from ..trainer.population import SelfModelingPopulation
from ..trainer.recipe_network import recipe_config
from ..trainer.rlct import estimate_rlct
from .folder import CURVE_RLCT_COLUMNS, SweepFolder
from .footprint import MemoryPlan
from .plan import Cell, Plan

if TYPE_CHECKING:
    from ..complexity import LLCResult

SLOW_SAVE, SAVE_SHARE = 0.5, 0.05  # seconds of a checkpoint that is slow; the share of the time these may take
PACKAGES = ("torch", "transformers", "accelerate", "datasets", "numpy", "selfmod_hf")
T = TypeVar("T")


def join_processes() -> PartialState:
    """Meet the other processes of a launcher, where there is one."""
    return PartialState(cpu=not torch.accelerator.is_available())


def from_main(decide: Callable[[], T]) -> T:
    """What the main process decides; all processes must ask together.

    Raises:
        ValueError: in all processes, the one that the main process raises.
    """
    state = PartialState()
    if state.num_processes == 1:
        return decide()
    answer: list[Any] = [None, None]
    if state.is_main_process:
        try:
            answer = [decide(), None]
        except ValueError as error:
            answer = [None, error]
    decision, problem = broadcast_object_list(answer)
    if problem is not None:
        raise problem
    return decision


def run_sweep(
    plan: Plan,
    spec: TaskSpec,
    data: TaskData,
    folder: SweepFolder,
    memory: MemoryPlan,
    *,
    say: Callable[[str], None] = print,
) -> None:
    """Do what of the plan is not done yet; tables are written after each population.

    Args:
        plan: cells and settings.
        spec, data: the task.
        folder: results; held locked meanwhile.
        memory: how many networks train at once.
        say: takes a line of progress, in the main process.

    Raises:
        InputError: the folder is in use, or was begun with other settings.
    """
    main = join_processes().is_main_process
    with ExitStack() as stack:
        from_main(lambda: stack.enter_context(folder.locked()))
        from_main(lambda: folder.check_settings(plan.settings))
        started = datetime.now(timezone.utc).isoformat(timespec="seconds")
        session = Session(started=started, command=without_tokens(sys.argv[1:]), seconds={})
        before = folder.read_run()
        run = SweepRun(
            settings=SweepSettings.model_validate(plan.settings),
            local_data=bool(spec.dataset_name) and Path(str(spec.dataset_name)).is_dir(),  # it may go some day
            train_samples=len(data.train),
            test_samples=len(data.test),
            largest_class_share=float(data.test.labels.bincount().max() / len(data.test)),
            **surroundings(),
            sessions=[session] if before is None else [*before.sessions, session],
        )
        if main:
            folder.write_run(run)
        todo = _populations(plan, folder, memory)
        while (population := from_main(lambda: next(todo, None))) is not None:
            path, cells = population
            at_once = memory.sampled_at_once(cells[0].hidden_size)
            seconds = _run_population(plan, spec, data, folder, path, cells, at_once, say if main else _silent)
            session.seconds[path.name] = PopulationSeconds(networks=len(cells), **seconds)
            if main:
                folder.write_tables()
                folder.write_run(run)
        if main:
            folder.write_tables()  # the last session may have been cut between its last network and its tables


def _silent(line: str) -> None:
    pass


def _populations(plan: Plan, folder: SweepFolder, memory: MemoryPlan) -> Iterator[tuple[Path, list[Cell]]]:
    """Interrupted populations first, then new ones of what is left."""
    planned = set(plan.cells)
    for path, cells in folder.unfinished_populations():
        if planned.intersection(cells):
            yield path, cells
    for cells in populations_to_open(plan, folder, memory):
        yield folder.open_population(cells), cells


def populations_to_open(plan: Plan, folder: SweepFolder, memory: MemoryPlan) -> list[list[Cell]]:
    """The unfinished cells that no interrupted population holds, in groups that train together."""
    held = {cell for _, cells in folder.unfinished_populations() for cell in cells}
    groups = []
    for hidden_size in dict.fromkeys(cell.hidden_size for cell in plan.cells):
        cells = [
            cell
            for cell in plan.cells
            if cell.hidden_size == hidden_size and cell not in held and not folder.is_finished(cell)
        ]
        size = memory.members_at_once(hidden_size)
        groups += [[cells[index] for index in chunk] for chunk in chunk_ranges(len(cells), size)]
    return groups


# ---- one population ----


def _run_population(
    plan: Plan,
    spec: TaskSpec,
    data: TaskData,
    folder: SweepFolder,
    path: Path,
    cells: Sequence[Cell],
    sampled_at_once: int,
    say: Callable[[str], None],
) -> dict[str, float]:
    """Train, measure, keep; returns the seconds each part took in this session."""
    state = PartialState()
    start = time.perf_counter()
    say(f"{path.name}{_and_more(cells)}: training {_how(cells, state.num_processes)}")
    trainer = make_trainer(plan, spec, data, path, cells)
    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)
    trainer.add_callback(_Progress(say))
    if plan.rlct_every_n_epochs:
        trainer.add_callback(_rlct_callback(plan, data, trainer, cells, sampled_at_once))
    trainer.add_callback(_SeldomSlowSaves)
    trainer.train(resume_from_checkpoint=from_main(lambda: newest_complete_checkpoint(path / "training")))
    trained = time.perf_counter()
    networks = trainer.networks()
    curves = [_curve(network.figures) for network in networks]
    processor = data.train.processor()
    facts = run_facts(spec, data.train, data.test, plan.training["per_device_train_batch_size"])
    for group in chunk_ranges(len(cells), sampled_at_once):
        missing = from_main(lambda group=group: [k for k in group if not folder.is_finished(cells[k])])  # type: ignore[misc]
        if not missing:
            continue
        models = [networks[k].model() for k in group]
        say(f"  RLCT of {cells[group[0]].name} .. {cells[group[-1]].name}")
        # chains of equal seeds share their noise: the arms are compared under common random numbers
        estimates = estimate_rlct(
            models, data.train, members=[cells[k].seed for k in group], device=trainer.args.device,
            data=spec.train_data, **plan.sampling,
        )  # fmt: skip
        for k, model, estimate in zip(group, models, estimates, strict=True):
            if k in missing and state.is_main_process:
                row = _row(plan, cells[k], curves[k][-1], estimate)
                curve = [CurvePoint.model_validate(plain(_keys(plan, cells[k]) | entry)) for entry in curves[k]]
                if plan.rlct_every_n_epochs:
                    curve[-1] = curve[-1].with_fields(**{name: getattr(row, name) for name in CURVE_RLCT_COLUMNS})
                folder.finish(cells[k], model, estimate, row, curve, processor, facts)
    from_main(lambda: folder.close_population(path))
    return {"training": trained - start, "rlct": time.perf_counter() - trained}


def _and_more(cells: Sequence[Cell]) -> str:
    return f" and {len(cells) - 1} more" if len(cells) > 1 else ""


def _how(cells: Sequence[Cell], processes: int) -> str:
    """What is trained, and how it is split."""
    width = f"of width {cells[0].hidden_size}"
    if len(cells) == 1:
        return f"a single network {width}" + (f", each batch over {processes} processes" if processes > 1 else "")
    return f"{len(cells)} networks {width}" + (f", the members over {processes} processes" if processes > 1 else "")


def make_trainer(
    plan: Plan, spec: TaskSpec, data: TaskData, path: Path, cells: Sequence[Cell], **settings: Any
) -> SelfModelingTrainer:
    """The Trainer of a population; of one network alone where that is all there is.

    Args:
        plan: its training settings are used.
        spec, data: the task; its recipe's network is trained.
        path: folder of the population.
        cells: the networks.
        settings: training arguments in place of the plan's.

    Raises:
        InputError: a single network whose batch cannot be split evenly over the processes.
    """
    members = [Member(cell.seed, cell.aux_weight, cell.detach_targets) for cell in cells]
    config = recipe_config(spec, data, hidden_sizes=[cells[0].hidden_size])
    population = SelfModelingPopulation(config, members)
    settings = {**plan.training, **_FIXED, "use_cpu": not torch.accelerator.is_available(), **settings}
    if config.backbone != "mlp":  # 1000 samples' activations of a large network are more than a step's
        settings["per_device_eval_batch_size"] = min(1000, 4 * plan.training["per_device_train_batch_size"])
    if len(cells) == 1:
        settings |= {"seed": cells[0].seed, "per_device_train_batch_size": _share_of_batch(plan)}
    trainer: Any = SelfModelingTrainer(
        model=population.member(0) if len(cells) == 1 else population,
        args=SelfModelingTrainingArguments(output_dir=str(path / "training"), **settings),
        train_dataset=data.train,
        eval_dataset=data.test,
        task=spec,
    )
    return trainer


def _share_of_batch(plan: Plan) -> int:
    batch, processes = plan.training["per_device_train_batch_size"], PartialState().num_processes
    if batch % processes:
        raise InputError("train_batch_size", batch, f"allowed are multiples of {processes} processes")
    return batch // processes


_FIXED: dict[str, Any] = {
    "eval_strategy": "epoch",
    "logging_strategy": "epoch",
    "save_strategy": "epoch",
    "save_total_limit": 2,
    "report_to": "none",
    "disable_tqdm": True,
    "per_device_eval_batch_size": 1000,
}


class _Progress(TrainerCallback):
    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say
        self.start = time.perf_counter()

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
        seconds = time.perf_counter() - self.start
        accuracy = (metrics or {}).get("eval_accuracy", math.nan)
        line = f"  epoch {state.epoch:g}/{args.num_train_epochs:g}  mean accuracy {accuracy:.4f}"
        estimates = [entry["rlct"] for entry in state.log_history if "rlct" in entry and entry["epoch"] == state.epoch]
        if estimates:
            line += f"  mean RLCT {estimates[-1]:.2f}"
        self.say(f"{line}  {seconds:.0f} s")


class _SeldomSlowSaves(TrainerCallback):
    """Leave out checkpoints that are slow to write (many large networks) until they are a small share of the time.

    What is computed does not depend on it.
    """

    def __init__(self) -> None:
        self.evaluated = self.saved = time.perf_counter()
        self.slow = 0.0  # seconds that the last one took, where that is slow

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.slow and state.global_step < state.max_steps:
            wait = self.slow / SAVE_SHARE
            control.should_save = from_main(lambda: time.perf_counter() - self.saved > wait)

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.evaluated = time.perf_counter()

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.saved = time.perf_counter()
        took = from_main(lambda: self.saved - self.evaluated)
        self.slow = took if took > SLOW_SAVE else 0.0


def _rlct_callback(
    plan: Plan, data: TaskData, trainer: Any, cells: Sequence[Cell], sampled_at_once: int
) -> TrainerCallback:
    """Estimates RLCTs while the networks train; those of the last epoch are estimated, and kept, afterwards."""
    settings, before_last = dict(plan.sampling), plan.training["num_train_epochs"] - 1
    given = (trainer, data.train, plan.rlct_every_n_epochs)
    if len(cells) == 1:
        return RLCTCallback(*given, {**settings, "members": [cells[0].seed]}, before_last)
    return RLCTsCallback(*given, settings, before_last, at_once=sampled_at_once)


# ---- what came out ----


def _curve(figures: Mapping[int, Mapping[str, float]]) -> list[dict[str, float]]:
    """Return one network's figures after each epoch, from those that were logged."""
    curve = []
    for epoch, logged in sorted(figures.items()):
        if "eval_accuracy" not in logged:
            continue
        entry = {"epoch": epoch, "weight_width": logged["weight_width"], "accuracy": logged["eval_accuracy"]}
        entry |= {name: logged[name] for name in ("classification_loss", "self_modeling_loss", "loss")}
        entry |= {name: logged[name] for name in CURVE_RLCT_COLUMNS if name in logged}
        curve.append(entry)
    return curve


def _keys(plan: Plan, cell: Cell) -> dict[str, Any]:
    return {"task": plan.task, **vars(cell)}


def _row(plan: Plan, cell: Cell, last: dict[str, float], rlct: LLCResult) -> NetworkRow:
    values = _keys(plan, cell) | {
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
    return NetworkRow.model_validate(plain(values))


# ---- what ran where ----


def surroundings() -> dict[str, Any]:
    """Versions, machine, git commit."""
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
