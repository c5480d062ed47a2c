"""Tuning with Optuna: accuracy up, RLCT and weight width down. Trials of one shape train as one population.

Task models with their own heads have the first metric of their labels in place of the accuracy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import PrinterCallback, ProgressCallback, TrainerCallback
from transformers.trainer import TRAINER_STATE_NAME, TrainerState

from ..complexity import llc_preset
from ..complexity.settings import LLCSettings
from ..data import TensorData
from ..errors import InputError
from ..extras import need
from ..trainer import SelfModelingTrainer, estimate_rlct
from ..trainer.checkpoints import newest_complete_checkpoint
from .chance import chance_of
from .folder_names import check_output_dir
from .run_settings import RunSettings
from .setting import Say, Values, check_names
from .trial_group import Group, Measured, is_worse
from .trial_networks import TrialNetworks
from .tune_settings import DEFAULT_SPACE, TuneSettings
from .tuning_result import TuningResult

if TYPE_CHECKING:
    from .shared_database import SharedDatabase
    from .tuning import Tuning

GAVE_UP = "gave_up"  # a file of a group: its training ended half-way


def tune(
    base: RunSettings | str,
    space: Values | None = None,
    *,
    output_dir: str | Path | None = None,
    say: Say | None = None,
    **settings: Any,
) -> TuningResult:
    """Search for accurate and simple networks.

    A second call with the same arguments continues an interrupted first one. Workers in several processes share a
    folder. Needs optuna (`pip install 'selfmod_hf[tune]'`).

    Args:
        base: settings of all trials, or the name of a built-in task.
        space: range or choices of each searched setting of a run. For example `{"aux_weight": "0:20",
            "learning_rate": "0.01:0.1:log", "hidden_sizes": [[16], [32, 16]], "augment": [True, False]}`. Default:
            `{"aux_weight": "0:20"}`.
        output_dir: the folder. Default: `runs/tune-<task>`.
        say: called with each line of progress.
        settings: other fields of `TuneSettings`, such as `trials`.

    Returns:
        All trials, the Pareto front and the best trial. They are also in the folder.

    Raises:
        ValueError: an unusable setting, or a folder of other settings.

    Example:
        from selfmod_hf import RunSettings, tune

        found = tune(RunSettings.make(task="digits", num_train_epochs=20), {"aux_weight": "0:20"}, trials=16)
        print(found.table, found.settings(found.best).command())
    """
    run = RunSettings.make(task=base) if isinstance(base, str) else base
    if not isinstance(run, RunSettings):
        raise InputError("base", base, "allowed are RunSettings and names of built-in tasks")
    check_names(TuneSettings, settings)
    search = TuneSettings(space or DEFAULT_SPACE, **settings)
    tuner = Tuner(run, search, output_dir)
    tuner.work(say or _ignore)
    return tuner.finish()


def _ignore(line: str) -> None:
    pass


class Tuner:
    """One worker of a tuning. Its input is checked and its data are loaded.

    Args:
        base: settings of all trials.
        settings: of the search.
        output_dir: the folder. None: `runs/tune-<task>`.

    Raises:
        ValueError: an unusable setting, or a folder of other settings.
    """

    def __init__(self, base: RunSettings, settings: TuneSettings, output_dir: str | Path | None = None) -> None:
        need("a tuning", "tune")
        from .space import parse_space
        from .tuning import Tuning

        self.base = base
        self.settings = settings
        check_output_dir(output_dir)
        space = parse_space(settings.space)
        self.networks = TrialNetworks(base, space)
        self.data, self.metric = self.networks.check()
        self.sampling = self._sampling()
        folder = Path(output_dir or f"runs/tune-{base.task.name.replace('/', '--')}")
        shared = _shared_database(settings.storage, folder)
        kept = {"train": base.result_fields(), "sampling": self.sampling, "give_up_below": settings.give_up_below}
        network = base.network
        if not network.detach_targets:
            kept["attached_targets"] = True  # version 0.1.0 detached them in populations nevertheless
        self.tuning = Tuning(
            folder,
            space,
            kept,
            stack=settings.stack,
            can_stack=self.networks.can_stack,
            give_up_below=settings.give_up_below,
            chance=self._chance(),
            metric=self.metric,
            member={"aux_weight": network.aux_weight, "detach_targets": network.detach_targets},
            seed=base.training.seed,
            shared=shared,
        )

    def _chance(self) -> float:
        """Return the metric of guessing."""
        classes = len(self.data.label_names)
        if self.base.network.head == "new":
            return 1 / classes
        chance = chance_of(self.metric, self.data.test, classes)
        return math.nan if chance is None else chance

    def _sampling(self) -> dict[str, Any]:
        """Return the settings of each RLCT."""
        sampling = llc_preset(self.base.training.rlct_preset, self.base.task.name)
        for name in ("num_chains", "num_draws"):
            value = getattr(self.settings, name)
            if value is not None:
                sampling[name] = value
        LLCSettings(**sampling)  # raises now what sampling would raise after the training
        return sampling

    def work(self, say: Say) -> None:
        """Run trials until the tuning has all of them.

        Args:
            say: called with each line of progress.
        """
        for path, group in self.tuning.work(self.settings.trials):
            numbers = ", ".join(map(str, group.trials))
            say(f"trials {numbers}: {group.shared or 'one shape'}")
            measured = self._measure(path / "training", group)
            data = self.networks.data(group.shared)
            self.tuning.finish(path, group, measured, partial(self._estimate, data.train))
            counts = self.tuning.counts()
            state = "{complete} complete, {pruned} pruned".format_map(counts)
            say(f"  {state} of {self.settings.trials}")

    def finish(self) -> TuningResult:
        """Write the files of the result, and return it."""
        result = self.tuning.result(self.base, self.settings.keep_accuracy)
        self.tuning.write_results(result)
        return result

    def _measure(self, folder: Path, group: Group) -> list[Measured]:
        """Train a group from its last checkpoint, and return the measures of each trial."""
        trainer = self._trainer(folder, group)
        half = _half(trainer.args.num_train_epochs)
        checkpoint = newest_complete_checkpoint(folder)
        if checkpoint is not None and (folder / GAVE_UP).is_file():
            state = TrainerState.load_from_json(str(Path(checkpoint, TRAINER_STATE_NAME)))
            if round(state.epoch or 0) >= half:
                trainer.args.num_train_epochs = half  # killed after the training, which is not to go on
        trainer.train(resume_from_checkpoint=checkpoint)
        return _measured(trainer, half, f"eval_{self.metric}")

    def _trainer(self, folder: Path, group: Group) -> SelfModelingTrainer:
        data = self.networks.data(group.shared)
        run, model = self.networks.build(group.shared, group.members)
        run = run.replace(output_dir=str(folder), disable_tqdm=True)
        trainer = run.make_trainer(data, model)
        trainer.remove_callback(PrinterCallback)
        trainer.remove_callback(ProgressCallback)
        trainer.add_callback(_GiveUp(self.tuning, trainer))
        return trainer

    def _estimate(self, train: TensorData, models: Sequence[Any], seeds: Sequence[int]) -> Sequence[Any]:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        return estimate_rlct(models, train, members=list(seeds), device=device, **self.sampling)


def _shared_database(url: str | None, folder: Path) -> SharedDatabase | None:
    """Return the database of a tuning, or None for a journal in the folder."""
    if url is None:
        return None
    from .shared_database import SharedDatabase  # it needs optuna

    if (folder / "journal.log").is_file():
        problem = "holds a tuning with a journal of its own; take another folder with `storage`"
        raise InputError("output_dir", str(folder), problem)
    return SharedDatabase(url, folder)


class _GiveUp(TrainerCallback):
    """Ends the training half-way if every trial of the group is hopeless."""

    def __init__(self, tuning: Tuning, trainer: SelfModelingTrainer) -> None:
        self.tuning = tuning
        self.trainer = trainer

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        epoch = round(state.epoch)
        if epoch != _half(args.num_train_epochs):
            return
        values = []
        figure = f"eval_{self.tuning.metric}"
        for network in self.trainer.networks():
            last = max(_evaluated(network.figures, figure))  # earlier if a stopping rule ended its training
            values.append(network.figures[last][figure])
        limit = self.tuning.threshold("half_way", values)
        finite = [value for value in values if not math.isnan(value)]
        hopeful = [value for value in finite if not is_worse(self.tuning.metric, value, limit)]
        if not hopeful:
            Path(args.output_dir, GAVE_UP).touch()
            control.should_training_stop = True


def _half(epochs: float) -> int:
    return max(1, round(epochs / 2))


def _evaluated(figures: Mapping[int, Values], figure: str) -> list[int]:
    """Return the epochs after which a network was evaluated, those with this figure."""
    return [epoch for epoch in figures if figure in figures[epoch]]


def _measured(trainer: SelfModelingTrainer, half: int, figure: str) -> list[Measured]:
    """Return the measures of each trial of a group.

    Args:
        trainer: of the group.
        half: the epoch half-way.
        figure: name of the metric in the log.
    """
    found = []
    for network in trainer.networks():
        figures = network.figures
        evaluated = _evaluated(figures, figure)
        last = figures[max(evaluated)]
        at_half = last
        if half in evaluated:
            at_half = figures[half]
        found.append(
            Measured(
                half_way=at_half[figure],
                final=last[figure],
                weight_width=last["weight_width"],
                model=network.model(),
            )
        )
    return found
