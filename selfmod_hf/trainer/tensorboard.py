"""Histograms and images in TensorBoard.

Scalars go through `Trainer.log` to whatever `--report_to` names: TensorBoard, wandb, trackio. What is drawn here has no
such way in transformers, so it goes to TensorBoard alone, by the writer that the Trainer's own callback holds.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import TrainerCallback
from transformers.integrations import TensorBoardCallback

from ..data import TensorData
from .population import SelfModelingPopulation

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from transformers import Trainer, TrainerControl, TrainerState, TrainingArguments

SAMPLES, BINS = 64, 80  # of an image of activations


class TensorBoardFigures(TrainerCallback):
    """Writes after every n-th epoch `classifier.weight`, the histogram of the last layer's weights, and
    `activations`, an image of predicted against actual activations (of the evaluation set's first samples; where there
    is none, the training set's). Costs nothing where the Trainer does not report to TensorBoard.

    Of a population: a histogram for each of the process's members, and no image.

    Args:
        trainer: whose TensorBoardCallback has the writer.
        every_n_epochs: n.
    """

    def __init__(self, trainer: Trainer, every_n_epochs: int) -> None:
        self.trainer = trainer
        self.every_n_epochs = every_n_epochs

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        writer = self._writer()
        if writer is None or round(state.epoch or 0) % self.every_n_epochs:
            return
        model = self.trainer.accelerator.unwrap_model(kwargs["model"])
        for name, weights in _final_weights(model).items():
            if weights.isfinite().all():  # of a run that diverged there is no histogram
                writer.add_histogram(name, weights.flatten(), state.global_step)
        if getattr(model, "self_model_head", None) is not None:
            predicted, actual = self._activations(model)
            if np.isfinite(predicted).all() and np.isfinite(actual).all():
                writer.add_figure("activations", activations_image(predicted, actual), state.global_step)

    def _writer(self) -> Any:
        """None on processes that do not write, too."""
        writers = [c.tb_writer for c in self.trainer.callback_handler.callbacks if isinstance(c, TensorBoardCallback)]
        return writers[0] if writers else None

    def _activations(self, model: nn.Module) -> tuple[np.ndarray, np.ndarray]:
        """Predicted and actual, (B, n) each; the training goes on as if nobody had looked."""
        was_training = model.training
        model.eval()
        with torch.no_grad(), torch.random.fork_rng(devices=[]):  # a data set may draw numbers for its samples
            output = model(**self._batch())
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


def _final_weights(model: nn.Module) -> dict[str, Tensor]:
    """The last layer's weights by the name of their histogram."""
    if not isinstance(model, SelfModelingPopulation):
        return {"classifier.weight": model.get_parameter("classifier.weight").detach()}
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
