"""Trackers that take more than scalars: TensorBoard, wandb, trackio.

Scalars go through `Trainer.log` to every tracker that `report_to` names. Histograms, pictures and hyperparameters have
no such way in transformers, so each tracker here is given them in its own form, through the callback that transformers
has for it. The names are the same in all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from transformers.integrations import TensorBoardCallback, TrackioCallback, WandbCallback

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from transformers import Trainer

Setting = str | int | float | bool | list[Any]


class TensorBoard:
    """A TensorBoard run.

    Args:
        writer: `torch.utils.tensorboard.SummaryWriter`.
    """

    def __init__(self, writer: Any) -> None:
        self.writer = writer

    def histogram(self, name: str, values: np.ndarray, step: int) -> None:
        """Write the histogram of `values`, (n,)."""
        self.writer.add_histogram(name, values, step)

    def picture(self, name: str, figure: Figure, step: int) -> None:
        """Write a figure as an image."""
        self.writer.add_figure(name, figure, step)

    def settings(self, settings: Mapping[str, Setting]) -> None:
        """Write the hyperparameters of the run, for the tab HPARAMS."""
        from torch.utils.tensorboard.summary import hparams

        # SummaryWriter.add_hparams would make a run of its own
        metrics = {"eval/accuracy": 0.0, "train/weight_width": 0.0}
        values = {name: _without_lists(value) for name, value in settings.items()}
        for summary in hparams(values, metrics):
            self.writer.file_writer.add_summary(summary)


class LikeWandb:
    """The current run of wandb, or of trackio, whose interface is wandb's.

    Args:
        module: `wandb` or `trackio`.
    """

    def __init__(self, module: Any) -> None:
        self.module = module

    def histogram(self, name: str, values: np.ndarray, step: int) -> None:
        """Log the histogram of `values`, (n,)."""
        self._log(name, self.module.Histogram(values), step)

    def picture(self, name: str, figure: Figure, step: int) -> None:
        """Log a figure as an image."""
        self._log(name, self.module.Image(_pixels(figure)), step)

    def settings(self, settings: Mapping[str, Setting]) -> None:
        """Add hyperparameters to the run's configuration."""
        self.module.config.update(dict(settings), allow_val_change=True)

    def _log(self, name: str, value: Any, step: int) -> None:
        self.module.log({name: value, "train/global_step": step})  # as transformers logs scalars


def trackers_of(trainer: Trainer) -> Iterator[TensorBoard | LikeWandb]:
    """Yield the trackers that take histograms and pictures and have a run. Processes that do not log have none.

    Args:
        trainer: whose callbacks report to trackers.
    """
    if not trainer.is_world_process_zero():
        return
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, TensorBoardCallback) and callback.tb_writer is not None:
            yield TensorBoard(callback.tb_writer)
        elif isinstance(callback, WandbCallback) and callback._initialized:
            yield LikeWandb(callback._wandb)
        elif isinstance(callback, TrackioCallback) and callback._initialized:
            yield LikeWandb(callback._trackio)


def _without_lists(value: Setting) -> str | int | float | bool:
    """Return a list as text, since TensorBoard takes none."""
    return " ".join(map(str, value)) if isinstance(value, list) else value


def _pixels(figure: Figure) -> np.ndarray:
    """Return a figure as an image, (height, width, 3), uint8."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
