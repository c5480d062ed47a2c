"""The trackers' runs: one for each training, named after the output folder, in a project named after the task.

transformers' callbacks name neither by themselves. trackio then opens a second run for the evaluation after the
training, and all runs are in the project "huggingface".
"""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers.integrations import TensorBoardCallback, TrackioCallback, WandbCallback

from ..files import write_file
from .trackers import LikeWandb, hyperparameters

if TYPE_CHECKING:
    from ..data import TaskSpec
    from .terms_trainer import TermsTrainer
    from .training_args import SelfModelingTrainingArguments

DEFAULT_PROJECT = "huggingface"  # of transformers
WANDB_ID_FILE = "wandb_run.txt"
_OPENED_HERE: set[str] = set()  # ids of wandb's runs, opened by a Trainer of this process


class NamedTrackio(TrackioCallback):
    """Give every run of transformers' callback the Trainer's hyperparameters.

    The callback opens the run again for the evaluation after the training, and then trackio keeps only the settings
    given at this moment.

    Args:
        trainer: a `SelfModelingTrainer`.
    """

    def __init__(self, trainer: TermsTrainer) -> None:
        super().__init__()
        self.trainer = trainer

    def setup(self, args: Any, state: Any, model: Any, **kwargs: Any) -> None:
        super().setup(args, state, model, **kwargs)
        if state.is_world_process_zero:
            LikeWandb(self._trackio).settings(hyperparameters(self.trainer))


class TrackerRuns:
    """Name the runs of one Trainer.

    Args:
        trainer: its arguments get `run_name` and `project`, unless they are given.
        task: its name is the project's.
    """

    def __init__(self, trainer: TermsTrainer, task: TaskSpec | None) -> None:
        self.trainer = trainer
        self.named_by_user = trainer.args.run_name is not None
        callbacks = trainer.callback_handler.callbacks
        for place, callback in enumerate(callbacks):
            if type(callback) is TrackioCallback:
                callbacks[place] = NamedTrackio(trainer)
        args = trainer.args
        if args.project == DEFAULT_PROJECT and task is not None:
            args.project = task.name.replace("/", "--")
        self.folder_name = Path(args.output_dir).absolute().name
        self._set_name(args.run_name or self.folder_name)

    def begin(self, resumed: bool) -> None:
        """Name the run of the next training, and close the previous one.

        A folder's second training does not continue its first one, so `-2` is added to its name.

        Args:
            resumed: whether the training continues from a checkpoint, and in the run of that training.
        """
        if not self.trainer.is_world_process_zero():
            return
        kinds = (TensorBoardCallback, WandbCallback, TrackioCallback)
        callbacks = self.trainer.callback_handler.callbacks
        trackers = [callback for callback in callbacks if isinstance(callback, kinds)]
        taken: set[str] = set()
        for callback in trackers:
            _close(callback)
            if not self.named_by_user:
                taken.update(_runs(callback, self.trainer.args))
        if not self.named_by_user:
            self._set_name(_choose(self.folder_name, taken, newest=resumed))
        for callback in trackers:
            if isinstance(callback, WandbCallback):
                self._open_wandb(callback, resumed)

    def _set_name(self, name: str) -> None:
        """Give this name to the runs to come."""
        args = self.trainer.args
        args.run_name = name
        if "TENSORBOARD_LOGGING_DIR" in os.environ:
            return
        for callback in self.trainer.callback_handler.callbacks:
            if isinstance(callback, TensorBoardCallback):
                callback.logging_dir = str(_tensorboard_folder(args) / name)

    def _open_wandb(self, callback: Any, resumed: bool) -> None:
        """Open the run here, since transformers' callback takes the project from the environment alone.

        The run's id is kept in the output folder, so that a resumed training goes on in the same run.
        """
        wandb = callback._wandb
        args = self.trainer.args
        if wandb.run is not None:  # the user's own
            return
        kept = Path(args.output_dir, WANDB_ID_FILE)
        same = {}
        if resumed and kept.is_file():
            same["id"] = kept.read_text(encoding="utf-8")
            same["resume"] = "allow"
        project = os.environ.get("WANDB_PROJECT", args.project)
        run = wandb.init(project=project, name=args.run_name, **same)
        _OPENED_HERE.add(run.id)
        write_file(kept, run.id)


def _close(callback: Any) -> None:
    """Close the run of this process's previous training."""
    if isinstance(callback, TensorBoardCallback):
        callback.on_train_end(None, None, None)
    elif isinstance(callback, WandbCallback):
        run = callback._wandb.run
        if run is not None and run.id in _OPENED_HERE:
            callback._wandb.finish()
        callback._initialized = False
    elif callback._initialized:
        callback._trackio.finish()
        callback._initialized = False


def _runs(callback: Any, args: SelfModelingTrainingArguments) -> list[str]:
    """Return the names of a tracker's runs on this machine."""
    if isinstance(callback, TensorBoardCallback):
        return [path.name for path in _tensorboard_folder(args).glob("*")]
    if not isinstance(callback, TrackioCallback) or args.trackio_space_id is not None:
        return []
    try:
        runs = callback._trackio.Api().runs(args.project)
        return [run.name for run in runs]
    except ValueError:  # the project is new
        return []


def _tensorboard_folder(args: SelfModelingTrainingArguments) -> Path:
    """Return the folder of all runs of TensorBoard."""
    return Path(args.output_dir, "runs")


def _choose(name: str, taken: Collection[str], newest: bool) -> str:
    """Return the first free name of `name`, `name-2`, `name-3`, ..., or the last one in use.

    Example:
        >>> _choose("digits", ["digits", "digits-2"], newest=False), _choose("digits", ["digits"], newest=True)
        ('digits-3', 'digits')
    """
    last = name
    candidate = name
    number = 1
    while candidate in taken:
        number += 1
        last = candidate
        candidate = f"{name}-{number}"
    if newest:
        return last
    return candidate
