"""Run a network over a task's data, and compute the further measures from its features and logits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor

from ..data import ImageTensors, TaskData, TensorData, TextTensors
from ..data.tensors import Batch, spread
from ..errors import InputError
from ..models import SelfModelingPreTrainedModel
from .hidden import dead_units, effective_rank, mean_square
from .last_layer import prunable_share, unit_free_width
from .modelability import modelability
from .predictions import accuracy, calibration_error

MEASURES = (
    "activation_mean_square",
    "dead_units",
    "effective_rank",
    "unit_free_width",
    "prunable_share",
    "calibration_error",
    "accuracy_under_noise",
    "modelability",
)

NOISE = 1.0  # of `accuracy_under_noise`, in standard deviations of the test split's inputs
FITTED = 5000  # samples at most that `modelability` is fitted to
BATCH = 500  # samples in one forward


@dataclass(frozen=True)
class Observed:
    """Hold the features and logits of N samples, on the CPU.

    Attributes:
        features: (N, F), the inputs of the last layer.
        logits: (N, C).
        labels: (N,).
    """

    features: Tensor
    logits: Tensor
    labels: Tensor


@torch.no_grad()
def observe(
    model: SelfModelingPreTrainedModel, data: TensorData, rows: Sequence[int] | None = None, noise: float = 0.0
) -> Observed:
    """Run a network, in evaluation mode, over samples.

    Args:
        model: the network.
        data: the samples.
        rows: their numbers. Default: all.
        noise: standard deviation of normal noise on each pixel, in the network's units. It is the same in each call.
    """
    features: list[Tensor] = []

    def keep(_: Any, inputs: tuple[Tensor, ...]) -> None:
        features.append(inputs[0].float().cpu())

    handle = model.classifier.register_forward_pre_hook(keep)
    rows = range(len(data)) if rows is None else rows
    generator = torch.Generator().manual_seed(0)
    was_training = model.training
    model.eval()
    logits, labels = [], []
    try:
        for start in range(0, len(rows), BATCH):
            batch = data.batch(list(rows[start : start + BATCH]))
            labels.append(batch.pop("labels").cpu())
            if noise:
                pixels = batch["pixel_values"]
                drawn = torch.randn(pixels.shape, generator=generator)
                batch["pixel_values"] = pixels + noise * drawn.to(pixels)
            logits.append(_forward(model, batch))
    finally:
        handle.remove()
        model.train(was_training)
    return Observed(torch.cat(features), torch.cat(logits), torch.cat(labels))


def _forward(model: SelfModelingPreTrainedModel, batch: Batch) -> Tensor:
    inputs = {}
    for name, value in batch.items():
        inputs[name] = value.to(model.device)
        if value.is_floating_point():
            inputs[name] = inputs[name].to(model.dtype)
    output = model(**inputs, return_dict=True)
    return output.logits.float().cpu()  # (B, C)


def measure_network(
    model: SelfModelingPreTrainedModel,
    data: TaskData[Any],
    measures: Sequence[str] = MEASURES,
    *,
    other: SelfModelingPreTrainedModel | None = None,
) -> dict[str, float | None]:
    """Return measures of a trained network. docs/measures.md defines them, with their sources.

    All are computed on the test split, from the inputs of the last layer. `modelability` is fitted to at most
    5,000 samples of the training split.

    Args:
        model: the network.
        data: both splits of its task.
        measures: names of MEASURES.
        other: a network of another seed. Its features predict this one's: the measure `modelability_from_other`.

    Returns:
        A number for each measure. None: it is not defined for these data (noise is not for texts).

    Raises:
        InputError: an unknown measure.

    Example:
        >>> from selfmod_hf import SelfModelingConfig, SelfModelingForImageClassification, TaskSpec, load_images
        >>> data = load_images(TaskSpec(name="digits", dataset_name=None))
        >>> network = SelfModelingForImageClassification(SelfModelingConfig(hidden_sizes=[16], image_size=8))
        >>> sorted(measure_network(network, data, ["dead_units", "effective_rank"]))
        ['dead_units', 'effective_rank']
    """
    for name in measures:
        if name not in MEASURES:
            raise InputError("measures", name, f"allowed are {', '.join(MEASURES)}")
    network = _Network(model, data)
    found: dict[str, float | None] = {}
    for name in measures:
        found[name] = getattr(network, name)()
    if other is not None:
        found["modelability_from_other"] = network.modelability_from(other)
    return found


class _Network:
    """Compute each of MEASURES by the method of its name, from one pass over the test split."""

    def __init__(self, model: SelfModelingPreTrainedModel, data: TaskData[Any]) -> None:
        self.model = model
        self.data = data
        self.test = observe(model, data.test)
        self.weight = model.classifier.weight.detach().float().cpu()  # (C, F)
        self.bias = model.classifier.bias.detach().float().cpu()  # (C,)

    def activation_mean_square(self) -> float:
        return mean_square(self.test.features)

    def dead_units(self) -> float:
        return dead_units(self.test.features)

    def effective_rank(self) -> float:
        return effective_rank(self.test.features)

    def unit_free_width(self) -> float:
        return unit_free_width(self.weight, self.test.features)

    def prunable_share(self) -> float:
        return prunable_share(self.weight, self.bias, self.test.features, self.test.labels)

    def calibration_error(self) -> float:
        return calibration_error(self.test.logits, self.test.labels)

    def accuracy_under_noise(self) -> float | None:
        if not isinstance(self.data.test, ImageTensors):
            return None
        some = self.data.test.batch(spread(len(self.data.test), FITTED))
        size = float(some["pixel_values"].std())
        noisy = observe(self.model, self.data.test, noise=NOISE * size)
        return accuracy(noisy.logits, noisy.labels)

    def modelability(self) -> float:
        rows = spread(len(self.data.train), FITTED)
        fitted = as_matrix(self.data.train, rows)
        held_out = as_matrix(self.data.test, range(len(self.data.test)))
        return modelability(fitted, self._fitted_features(rows), held_out, self.test.features)

    def modelability_from(self, other: SelfModelingPreTrainedModel) -> float:
        rows = spread(len(self.data.train), FITTED)
        fitted = observe(other, self.data.train, rows).features
        held_out = observe(other, self.data.test).features
        return modelability(fitted, self._fitted_features(rows), held_out, self.test.features)

    def _fitted_features(self, rows: Sequence[int]) -> Tensor:
        return observe(self.model, self.data.train, rows).features


def as_matrix(data: TensorData, rows: Sequence[int]) -> Any:
    """Return the inputs of N samples as a matrix: pixels (N, D), or each token's share of a text (N, V), sparse."""
    if isinstance(data, TextTensors):
        return _token_shares(data, rows)
    pixels = data.batch(list(rows))["pixel_values"]  # (N, C, H, W)
    return pixels.flatten(start_dim=1).double().cpu().numpy()


def _token_shares(data: TextTensors, rows: Sequence[int]) -> csr_matrix:
    lengths = data.offsets.diff()[list(rows)].numpy()  # (N,)
    texts = [data.tokens[data.offsets[row] : data.offsets[row + 1]].numpy() for row in rows]
    columns = np.concatenate(texts)
    bounds = np.concatenate([[0], np.cumsum(lengths)])
    values = np.repeat(1 / np.maximum(lengths, 1), lengths)
    shares = csr_matrix((values, columns, bounds), shape=(len(rows), len(data.tokenizer)))
    shares.sum_duplicates()
    return shares
