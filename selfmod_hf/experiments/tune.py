"""Tuning with Optuna: accuracy up, RLCT and weight width down. Trials of one shape train as one population."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import torch
from transformers import PrinterCallback, ProgressCallback, TrainerCallback

from ..complexity import llc_preset
from ..complexity.settings import LLCSettings
from ..errors import InputError
from ..trainer import SelfModelingTrainer, estimate_rlct
from ..trainer.checkpoints import newest_complete_checkpoint
from ..trainer.population import SelfModelingPopulation
from .folder_names import check_output_dir
from .network_settings import build_network
from .run_settings import RunSettings
from .space import LAYER_PARAMETERS, as_run_fields, parse_space
from .tuning import Group, Measured, Tuning
from .tuning_result import TuningResult

DEFAULT_SPACE = {"aux_weight": "0:20"}


@dataclass(frozen=True)
class TuneSettings:
    """How a tuning searches.

    Attributes:
        space: range of each searched parameter; see `parse_space`.
        trials: number of trials, over all workers.
        stack: trials of one shape that train as one population. 1: one at a time.
        give_up_below: a trial is pruned if its accuracy, half-way or at the end, is below this share of the way from
            chance to the best. 0: no trial is.
        keep_accuracy: the best trial has the lowest RLCT within this of the best accuracy.
        num_chains: chains of each RLCT. None: the preset's.
        num_draws: draws of each chain. None: the preset's.

    Raises:
        InputError: a number outside its range.
    """

    space: Mapping[str, Any] = field(default_factory=lambda: dict(DEFAULT_SPACE))
    trials: int = 40
    stack: int = 8
    give_up_below: float = 0.5
    keep_accuracy: float = 0.01
    num_chains: int | None = None
    num_draws: int | None = None

    def __post_init__(self) -> None:
        for name in ("trials", "stack"):
            if getattr(self, name) < 1:
                raise InputError(name, getattr(self, name), "allowed are integers of at least 1")
        for name in ("give_up_below", "keep_accuracy"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(name, getattr(self, name), "allowed are numbers from 0 to 1")


def tune(
    base: RunSettings | str,
    space: Mapping[str, Any] | None = None,
    *,
    output_dir: str | Path | None = None,
    say: Callable[[str], None] | None = None,
    **settings: Any,
) -> TuningResult:
    """Search for networks that are accurate and simple.

    A second call with the same arguments continues where the first one stopped. Workers in several processes share a
    folder. Needs optuna (`pip install 'selfmod_hf[tune]'`).

    Args:
        base: settings that all trials share, or the name of a built-in task.
        space: range of each searched parameter: `aux_weight`, `learning_rate`, `hidden_sizes`, `target_layers`. For
            example `{"aux_weight": "0:20", "learning_rate": "0.01:0.1:log", "hidden_sizes": [[16], [32, 16]]}`.
            Default: `{"aux_weight": "0:20"}`.
        output_dir: the folder. Default: `runs/tune-<task>`.
        say: called with each line of progress.
        settings: other fields of `TuneSettings`, such as `trials`.

    Returns:
        All trials, the Pareto front and the best trial. They are also in the folder.

    Raises:
        ValueError: a setting that cannot be used, or a folder that was begun with other settings.

    Example:
        from selfmod_hf import RunSettings, tune

        found = tune(RunSettings.make(task="digits", num_train_epochs=20), {"aux_weight": "0:20"}, trials=16)
        print(found.table, found.settings(found.best).command())
    """
    run = RunSettings.make(task=base) if isinstance(base, str) else base
    tuner = Tuner(run, TuneSettings(dict(DEFAULT_SPACE if space is None else space), **settings), output_dir)
    tuner.work(say or _ignore)
    return tuner.finish()


def _ignore(line: str) -> None:
    pass


class Tuner:
    """One worker of a tuning. Its input is checked and its data are loaded.

    Args:
        base: settings that all trials share.
        settings: of the search.
        output_dir: the folder. None: `runs/tune-<task>`.

    Raises:
        ValueError: a setting that cannot be used, or a folder that was begun with other settings.
    """

    def __init__(self, base: RunSettings, settings: TuneSettings, output_dir: str | Path | None = None) -> None:
        self.base, self.settings = base, settings
        check_output_dir(output_dir)
        space = parse_space(settings.space)
        for name in space:
            if name in base.given:
                raise InputError(name, base.given[name], "is searched by `space`; give it in one place")
        self.data = base.load_data()
        self.task = self.data.task or base.task
        self.sampling = self._sampling()
        for shape in _shapes(space):
            build_network(self._run(shape).network, self.data)  # raises an error for a shape that does not exist
        folder = Path(output_dir or f"runs/tune-{base.task.name.replace('/', '--')}")
        kept = {"train": base.result_fields(), "sampling": self.sampling, "give_up_below": settings.give_up_below}
        self.tuning = Tuning(
            folder,
            space,
            kept,
            stack=settings.stack,
            give_up_below=settings.give_up_below,
            chance=1 / len(self.data.label_names),
            aux_weight=base.network.aux_weight,
            seed=base.training.seed,
        )

    def _sampling(self) -> dict[str, Any]:
        """Return the settings of each RLCT."""
        changes = {}
        for name in ("num_chains", "num_draws"):
            if getattr(self.settings, name) is not None:
                changes[name] = getattr(self.settings, name)
        sampling = llc_preset(self.base.training.rlct_preset, self.base.task.name) | changes
        LLCSettings(**sampling)  # raises now what sampling would raise after the training
        return sampling

    def _run(self, shape: Mapping[str, Any], **changes: Any) -> RunSettings:
        """Return the settings of trials of one shape."""
        return self.base.replace(**{**as_run_fields(shape), "aux_weight": 1.0, **changes})

    def work(self, say: Callable[[str], None]) -> None:
        """Run trials until the tuning has all of them.

        Args:
            say: called with each line of progress.
        """
        for path, group in self.tuning.work(self.settings.trials):
            say(f"trials {', '.join(map(str, group.trials))}: {group.shared or 'one shape'}")
            self.tuning.finish(path, group, self._measure(path, group), self._estimate)
            counts = self.tuning.counts()
            say(f"  {counts['complete']} complete, {counts['pruned']} pruned of {self.settings.trials}")

    def finish(self) -> TuningResult:
        """Write the files of the result, and return it."""
        result = self.tuning.result(self.base, self.settings.keep_accuracy)
        self.tuning.write_results(result)
        return result

    def _measure(self, path: Path, group: Group) -> list[Measured]:
        """Train a group from its last checkpoint, and return what came out of each trial."""
        trainer = self._trainer(path / "training", group)
        trainer.train(resume_from_checkpoint=newest_complete_checkpoint(path / "training"))
        return _measured(trainer)

    def _trainer(self, folder: Path, group: Group) -> SelfModelingTrainer:
        changes: dict[str, Any] = {"output_dir": str(folder), "disable_tqdm": True, "seed": group.members[0].seed}
        rates = [member.learning_rate for member in group.members if member.learning_rate is not None]
        if rates:
            changes["learning_rate"] = max(rates)  # a single network's own; a population has its members'
        run = self._run(group.shared, **changes)
        population = SelfModelingPopulation(build_network(run.network, self.data).config, group.members)
        model = population.member(0) if len(group.members) == 1 else population
        trainer = run.make_trainer(self.data, model)
        trainer.remove_callback(PrinterCallback)
        trainer.remove_callback(ProgressCallback)
        trainer.add_callback(_GiveUp(self.tuning, trainer))
        return trainer

    def _estimate(self, models: Sequence[Any], seeds: Sequence[int]) -> Sequence[Any]:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        return estimate_rlct(models, self.data.train, members=list(seeds), device=device, **self.sampling)


def _shapes(space: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return every architecture in a space."""
    names = [name for name in LAYER_PARAMETERS if name in space]
    choices = [space[name].choices for name in names]
    return [dict(zip(names, values, strict=True)) for values in product(*choices)]


class _GiveUp(TrainerCallback):
    """Ends the training half-way if every trial of the group is hopeless."""

    def __init__(self, tuning: Tuning, trainer: SelfModelingTrainer) -> None:
        self.tuning, self.trainer = tuning, trainer

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        epoch = round(state.epoch)
        if epoch != _half(args.num_train_epochs):
            return
        accuracies = [network.figures[epoch]["eval_accuracy"] for network in self.trainer.networks()]
        least = self.tuning.threshold("half_way", accuracies)
        if not any(accuracy >= least for accuracy in accuracies):  # a NaN is hopeless too
            control.should_training_stop = True


def _half(epochs: float) -> int:
    return max(1, round(epochs / 2))


def _measured(trainer: SelfModelingTrainer) -> list[Measured]:
    """Return what came out of each trial of a group."""
    half = _half(trainer.args.num_train_epochs)
    found = []
    for network in trainer.networks():
        logged = [entry for _, entry in sorted(network.figures.items()) if "eval_accuracy" in entry]
        last = logged[-1]
        half_way = {**last, **network.figures.get(half, {})}["eval_accuracy"]
        found.append(Measured(half_way, last["eval_accuracy"], last["weight_width"], network.model()))
    return found
