"""Histograms, pictures and hyperparameters for trackers: TensorBoard, wandb, trackio.

Scalars go through `Trainer.log` to every tracker in `report_to`. transformers has no such way for histograms, pictures
and hyperparameters. So each tracker here gets them in its own form, through transformers' callback for it. The names
are the same in all trackers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import TrainerCallback
from transformers.integrations import TensorBoardCallback, TrackioCallback, WandbCallback

from ..data import TensorData
from ..models.classifier_weights import classifier_weight, last_layer
from ..models.configuration_self_modeling import CONTROLS
from .population import SelfModelingPopulation
from .training_args import name_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from transformers import Trainer, TrainerControl, TrainerState, TrainingArguments

    from .terms_trainer import TermsTrainer

Setting = str | int | float | bool | list[Any]

SAMPLES = 64  # of an image of activations
BINS = 80

# ---- one form for each tracker ----


class TensorBoard:
    """Write to a TensorBoard run.

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

        values: dict[str, Any] = dict(settings)
        for name, value in settings.items():
            if isinstance(value, list):  # TensorBoard takes none
                values[name] = " ".join(map(str, value))
        metrics = {"eval/accuracy": 0.0, "train/weight_width": 0.0}
        # SummaryWriter.add_hparams would make a run of its own
        for summary in hparams(values, metrics):
            self.writer.file_writer.add_summary(summary)


class LikeWandb:
    """Write to the current run of wandb, or of trackio, because its interface is wandb's.

    Args:
        module: `wandb` or `trackio`.
    """

    def __init__(self, module: Any) -> None:
        self.module = module

    def histogram(self, name: str, values: np.ndarray, step: int) -> None:
        """Log the histogram of `values`, (n,)."""
        histogram = self.module.Histogram(values)
        self._log(name, histogram, step)

    def picture(self, name: str, figure: Figure, step: int) -> None:
        """Log a figure as an image."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        pixels = np.asarray(canvas.buffer_rgba())  # (height, width, 4), uint8
        colors = pixels[..., :3].copy()
        image = self.module.Image(colors)
        self._log(name, image, step)

    def settings(self, settings: Mapping[str, Setting]) -> None:
        """Add hyperparameters to the run's configuration."""
        self.module.config.update(dict(settings), allow_val_change=True)

    def _log(self, name: str, value: Any, step: int) -> None:
        self.module.log({name: value, "train/global_step": step})  # as transformers logs scalars


def trackers_of(trainer: Trainer) -> Iterator[TensorBoard | LikeWandb]:
    """Yield the trackers for histograms and pictures, if they have a run. Only the main process has trackers.

    Args:
        trainer: its callbacks report to trackers.
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


# ---- the histogram, the picture and the hyperparameters ----


class TrackerFigures(TrainerCallback):
    """Give trackers hyperparameters, histograms and pictures, if the Trainer reports to a tracker for them.

    When the training begins: the hyperparameters. After every n-th epoch: `classifier.weight`, the histogram of the
    last layer's weights, and `activations`, a picture of predicted against actual activations. The picture shows the
    evaluation set's first samples, or the training set's if there is no evaluation set. A population has a histogram
    for each of the process's members, and no picture.

    Args:
        trainer: its callbacks report to trackers.
        every_n_epochs: n. 0: no histogram and no picture.
    """

    def __init__(self, trainer: TermsTrainer, every_n_epochs: int) -> None:
        self.trainer = trainer
        self.every_n_epochs = every_n_epochs

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        for tracker in trackers_of(self.trainer):
            tracker.settings(hyperparameters(self.trainer))

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        epoch = round(state.epoch or 0)
        if not self.every_n_epochs or epoch % self.every_n_epochs:
            return
        trackers = list(trackers_of(self.trainer))
        if not trackers:
            return
        model = self.trainer.accelerator.unwrap_model(kwargs["model"])
        for name, weights in self._final_weights(model).items():
            if weights.isfinite().all():  # a diverged run has no histogram
                values = weights.flatten().float().cpu().numpy()
                for tracker in trackers:
                    tracker.histogram(name, values, state.global_step)
        if getattr(model, "self_model_head", None) is None:
            return
        predicted, actual = self._activations(model)
        if actual is None:
            return
        finite = np.isfinite(predicted) & np.isfinite(actual)
        if finite.all():
            for tracker in trackers:
                image = activations_image(predicted, actual)
                tracker.picture("activations", image, state.global_step)

    def _final_weights(self, model: nn.Module) -> dict[str, Tensor]:
        """Return the last layer's weights by the name of their histogram. Members that have stopped have none."""
        if not isinstance(model, SelfModelingPopulation):
            name, _ = last_layer(model)
            return {f"{name}.weight": classifier_weight(model)}
        trainer: Any = self.trainer
        reported = trainer.stopping.reported()
        stacked = model.stacked.get_parameter("classifier.weight").detach()  # (K, num_labels, F)
        by_name = {}
        for k, member, weight in zip(trainer.shares.own, model.members, stacked, strict=True):
            if reported[k]:
                by_name[f"classifier.weight/{member.name}"] = weight
        return by_name

    def _activations(self, model: nn.Module) -> tuple[np.ndarray, np.ndarray | None]:
        """Return predicted and actual activations, (B, n) each. The training is not affected.

        The actual ones are the targets of the training, whatever their source. So the labels stay in the batch: without
        labels a network does not shuffle. Samples without labels then have no actual activations.
        """
        was_training = model.training
        model.eval()
        with torch.no_grad(), torch.random.fork_rng(devices=[]):  # a data set may draw numbers for its samples
            batch = self._batch()
            outside = self.trainer.outside_targets()
            if outside is not None:
                batch["self_model_targets"] = outside.for_network(batch)
            output = model(**batch, return_dict=True)
        model.train(was_training)
        predicted = output["self_model_predictions"].float().cpu().numpy()
        actual = output.get("self_model_targets")
        if actual is None:
            return predicted, None
        return predicted, actual.float().cpu().numpy()

    def _batch(self) -> dict[str, Any]:
        """Return the first samples of the evaluation set, or of the training set if there is none."""
        data = self.trainer.eval_dataset
        if data is None:
            data = self.trainer.train_dataset
        if isinstance(data, dict):
            data = next(iter(data.values()))
        if isinstance(data, TensorData):
            count = min(SAMPLES, len(data))
            rows = torch.arange(count, device=data.labels.device)
            batch = data.take(rows)
        else:  # without a DataLoader, because Accelerate would make all processes take part in it
            collate = self.trainer._get_collator_with_removed_columns(self.trainer.data_collator)
            batch = collate(list(islice(data, SAMPLES)))
        return self.trainer._prepare_inputs(batch)


def hyperparameters(trainer: Any) -> dict[str, Setting]:
    """Return the settings of a training for the trackers.

    Args:
        trainer: a `SelfModelingTrainer`.
    """
    args = trainer.args
    config = trainer.accelerator.unwrap_model(trainer.model).config
    found: dict[str, Setting] = {
        "hidden_sizes": list(config.hidden_sizes),
        "target_layers": list(config.target_layers),
        "learning_rate": args.learning_rate,
        "batch_size": args.train_batch_size * args.gradient_accumulation_steps * args.world_size,
        "num_train_epochs": float(args.num_train_epochs),
        "optim": name_of(args.optim),
        "weight_decay": args.weight_decay,
        "backbone": config.backbone,
    }
    for name, default in {**CONTROLS, "hidden_activation": "relu"}.items():
        value = getattr(config, name)
        if value != default:
            found[name] = value
    for name in ("stop_at_train_loss", "early_stopping_patience"):
        value = getattr(args, name)
        if value is not None:
            found[name] = value
    if trainer.task is not None:
        found["task"] = trainer.task.name
        found["data"] = trainer.task.train_data
    population = getattr(trainer, "population", None)
    if population is not None:
        found["members"] = [member.name for member in population.members]
        return found
    found["aux_weight"] = float(config.aux_weight)
    found["detach_targets"] = config.detach_targets
    found["seed"] = args.seed
    return found


def activations_image(predicted: np.ndarray, actual: np.ndarray) -> Figure:
    """Return a histogram of predicted against actual activations. Right predictions are on the diagonal.

    Args:
        predicted: (B, n), or (B, T, n) of each token.
        actual: likewise.

    Example:
        >>> actual = np.random.default_rng(0).normal(size=(64, 3))
        >>> activations_image(actual + 0.1, actual).axes[0].get_title()
        '3 activations, MSE 0.01'
    """
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4, 4), dpi=100, layout="constrained")
    axis = figure.subplots()
    smallest = min(predicted.min(), actual.min())
    largest = max(predicted.max(), actual.max())
    ends = [float(smallest), float(largest)]
    axis.hist2d(
        actual.ravel(),
        predicted.ravel(),
        bins=BINS,
        range=[ends, ends],
        norm=LogNorm(),
        cmap="viridis_r",
    )
    axis.plot(ends, ends, ":", color="grey", linewidth=1)
    axis.set_xlabel("actual")
    axis.set_ylabel("predicted")
    error = np.mean((predicted - actual) ** 2)
    count = predicted.shape[-1]
    axis.set_title(f"{count} activations, MSE {error:.3g}")
    return figure
