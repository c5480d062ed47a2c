"""The trackers' runs: one for each training, named after the output folder, in a project named after the task.

Left to themselves, transformers' callbacks name neither: trackio then opens a second run for the evaluation after the
training, and all are in the project "huggingface".
"""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers.integrations import TensorBoardCallback, TrackioCallback, WandbCallback

from ..files import write_file
from .tracker_figures import hyperparameters
from .trackers import LikeWandb

if TYPE_CHECKING:
    from ..data import TaskSpec
    from .tracking import TrackingTrainer
    from .training_args import SelfModelingTrainingArguments

DEFAULT_PROJECT = "huggingface"  # of transformers
WANDB_ID_FILE = "wandb_run.txt"
_OPENED_HERE: set[str] = set()  # runs of wandb that a Trainer of this process has opened


class NamedTrackio(TrackioCallback):
    """transformers' callback, whose every run has the Trainer's hyperparameters.

    It opens the run again for the evaluation after the training, and then trackio keeps the settings of that moment
    alone.

    Args:
        trainer: a `SelfModelingTrainer`.
    """

    def __init__(self, trainer: TrackingTrainer) -> None:
        super().__init__()
        self.trainer = trainer

    def setup(self, args: Any, state: Any, model: Any, **kwargs: Any) -> None:
        super().setup(args, state, model, **kwargs)
        if state.is_world_process_zero:
            LikeWandb(self._trackio).settings(hyperparameters(self.trainer))


class TrackerRuns:
    """Names the runs of one Trainer.

    Args:
        trainer: whose arguments get `run_name` and `project`, where they are not given.
        task: its name is the project's.
    """

    def __init__(self, trainer: TrackingTrainer, task: TaskSpec | None) -> None:
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
        """Name the run of the training that is about to begin, and let go of the one before.

        A folder's second training is not its first one's continuation: `-2` is added to its name.

        Args:
            resumed: whether it goes on from a checkpoint, and in the run of that training.
        """
        if not self.trainer.is_world_process_zero():
            return
        trackers = [callback for callback in self.trainer.callback_handler.callbacks if _is_tracker(callback)]
        for callback in trackers:
            _let_go(callback)
        if not self.named_by_user:
            taken = {name for callback in trackers for name in _runs(callback, self.trainer.args)}
            self._set_name(_choose(self.folder_name, taken, newest=resumed))
        for callback in trackers:
            if isinstance(callback, WandbCallback):
                self._open_wandb(callback, resumed)

    def _set_name(self, name: str) -> None:
        args = self.trainer.args
        args.run_name = name
        for callback in self.trainer.callback_handler.callbacks:
            if isinstance(callback, TensorBoardCallback) and "TENSORBOARD_LOGGING_DIR" not in os.environ:
                callback.logging_dir = str(_tensorboard_folder(args) / name)

    def _open_wandb(self, callback: Any, resumed: bool) -> None:
        """Open the run here, since transformers' callback takes the project from the environment alone.

        The run's id is kept in the output folder, so that a resumed training goes on in the same run.
        """
        wandb, args = callback._wandb, self.trainer.args
        if wandb.run is not None:  # the user's own
            return
        kept = Path(args.output_dir, WANDB_ID_FILE)
        same = {"id": kept.read_text(encoding="utf-8"), "resume": "allow"} if resumed and kept.is_file() else {}
        run = wandb.init(project=os.environ.get("WANDB_PROJECT", args.project), name=args.run_name, **same)
        _OPENED_HERE.add(run.id)
        write_file(kept, run.id)


def _is_tracker(callback: Any) -> bool:
    return isinstance(callback, (TensorBoardCallback, WandbCallback, TrackioCallback))


def _let_go(callback: Any) -> None:
    """Close the run of this process's training before."""
    if isinstance(callback, TensorBoardCallback):
        callback.on_train_end(None, None, None)
    elif isinstance(callback, WandbCallback):
        if callback._wandb.run is not None and callback._wandb.run.id in _OPENED_HERE:
            callback._wandb.finish()
        callback._initialized = False
    elif callback._initialized:
        callback._trackio.finish()
        callback._initialized = False


def _runs(callback: Any, args: SelfModelingTrainingArguments) -> list[str]:
    """Return the names of the runs that a tracker keeps where it can be asked: here."""
    if isinstance(callback, TensorBoardCallback):
        folder = _tensorboard_folder(args)
        return [path.name for path in folder.iterdir()] if folder.is_dir() else []
    if not isinstance(callback, TrackioCallback) or args.trackio_space_id is not None:
        return []
    try:
        return [run.name for run in callback._trackio.Api().runs(args.project)]
    except ValueError:  # the project is new
        return []


def _tensorboard_folder(args: SelfModelingTrainingArguments) -> Path:
    return Path(args.output_dir, "runs")


def _choose(name: str, taken: Collection[str], newest: bool) -> str:
    """Return the first of `name`, `name-2`, `name-3`, ... that is free, or the last that is not.

    >>> _choose("digits", ["digits", "digits-2"], newest=False), _choose("digits", ["digits"], newest=True)
    ('digits-3', 'digits')
    """
    last, number = name, 1
    candidate = name
    while candidate in taken:
        number += 1
        last, candidate = candidate, f"{name}-{number}"
    return last if newest else candidate
