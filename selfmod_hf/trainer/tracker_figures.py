"""Figures for trackers besides scalars.

These are the histogram of the last layer's weights, a picture of predicted against actual activations, and the
hyperparameters.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import TrainerCallback

from ..data import TensorData
from .adapters import classifier_weight
from .population import SelfModelingPopulation
from .trackers import Setting, trackers_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from transformers import Trainer, TrainerControl, TrainerState, TrainingArguments

SAMPLES, BINS = 64, 80  # of an image of activations


class TrackerFigures(TrainerCallback):
    """Gives trackers what transformers does not. Costs nothing where the Trainer reports to none that takes it.

    When the training begins: the hyperparameters. After every n-th epoch: `classifier.weight`, the histogram of the
    last layer's weights, and `activations`, a picture of predicted against actual activations (of the evaluation set's
    first samples; where there is none, the training set's). Of a population: a histogram for each of the process's
    members, and no picture.

    Args:
        trainer: whose callbacks report to trackers.
        every_n_epochs: n; 0: no histogram and no picture.
    """

    def __init__(self, trainer: Trainer, every_n_epochs: int) -> None:
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
        if not self.every_n_epochs or round(state.epoch or 0) % self.every_n_epochs:
            return
        trackers = list(trackers_of(self.trainer))
        if not trackers:
            return
        model = self.trainer.accelerator.unwrap_model(kwargs["model"])
        for name, weights in _final_weights(model).items():
            if weights.isfinite().all():  # of a run that diverged there is no histogram
                for tracker in trackers:
                    tracker.histogram(name, weights.flatten().float().cpu().numpy(), state.global_step)
        if getattr(model, "self_model_head", None) is None:
            return
        predicted, actual = self._activations(model)
        if np.isfinite(predicted).all() and np.isfinite(actual).all():
            for tracker in trackers:
                tracker.picture("activations", activations_image(predicted, actual), state.global_step)

    def _activations(self, model: nn.Module) -> tuple[np.ndarray, np.ndarray]:
        """Predicted and actual, (B, n) each; the training goes on as if nobody had looked."""
        was_training = model.training
        model.eval()
        with torch.no_grad(), torch.random.fork_rng(devices=[]):  # a data set may draw numbers for its samples
            output = model(**self._batch(), return_dict=True)
        model.train(was_training)
        predicted, actual = (output[f"self_model_{name}"].float().cpu() for name in ("predictions", "targets"))
        return predicted.numpy(), actual.numpy()

    def _batch(self) -> dict[str, Tensor]:
        data = self.trainer.train_dataset if self.trainer.eval_dataset is None else self.trainer.eval_dataset
        data = next(iter(data.values())) if isinstance(data, dict) else data
        if isinstance(data, TensorData):
            batch = data.take(torch.arange(min(SAMPLES, len(data)), device=data.labels.device))
        else:  # without a DataLoader, which Accelerate would make all processes take part in
            collate = self.trainer._get_collator_with_removed_columns(self.trainer.data_collator)
            batch = collate(list(islice(data, SAMPLES)))
        return self.trainer._prepare_inputs(batch)


def hyperparameters(trainer: Any) -> dict[str, Setting]:
    """Return what tells one training from another, for the trackers.

    Args:
        trainer: a `SelfModelingTrainer`.
    """
    args, config = trainer.args, trainer.accelerator.unwrap_model(trainer.model).config
    optimizer = str(getattr(args.optim, "value", args.optim))
    found: dict[str, Setting] = {
        "hidden_sizes": list(config.hidden_sizes),
        "target_layers": list(config.target_layers),
        "learning_rate": args.learning_rate,
        "batch_size": args.train_batch_size * args.gradient_accumulation_steps * args.world_size,
        "num_train_epochs": float(args.num_train_epochs),
        "optim": optimizer,
        "weight_decay": args.weight_decay,
        "backbone": config.backbone,
    }
    if trainer.task is not None:
        found["task"] = trainer.task.name
        found["data"] = trainer.task.train_data
    population = getattr(trainer, "population", None)
    if population is not None:
        return found | {"members": [member.name for member in population.members]}
    return found | {
        "aux_weight": float(config.aux_weight),
        "detach_targets": config.detach_targets,
        "seed": args.seed,
    }


def _final_weights(model: nn.Module) -> dict[str, Tensor]:
    """The last layer's weights by the name of their histogram."""
    if not isinstance(model, SelfModelingPopulation):
        return {"classifier.weight": classifier_weight(model)}
    stacked = model.stacked.get_parameter("classifier.weight").detach()  # (K, num_labels, F)
    return {f"classifier.weight/{member.name}": weight for member, weight in zip(model.members, stacked, strict=True)}


def activations_image(predicted: np.ndarray, actual: np.ndarray) -> Figure:
    """How often which value was predicted for which; on the diagonal where the network knows itself.

    Args:
        predicted: (B, n).
        actual: (B, n).
    """
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4, 4), dpi=100, layout="constrained")
    axis = figure.subplots()
    ends = [float(min(predicted.min(), actual.min())), float(max(predicted.max(), actual.max()))]
    axis.hist2d(actual.ravel(), predicted.ravel(), bins=BINS, range=[ends, ends], norm=LogNorm(), cmap="viridis_r")
    axis.plot(ends, ends, ":", color="grey", linewidth=1)
    error = np.mean((predicted - actual) ** 2)
    axis.set(xlabel="actual", ylabel="predicted", title=f"{predicted.shape[1]} activations, MSE {error:.3g}")
    return figure
