"""Run a network over samples, and keep what the measures are computed from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor

from ..data import TensorData, TextTensors
from ..data.tensors import IGNORED_LABEL, Batch
from ..models import SelfModelingPreTrainedModel

SMALL_BACKBONES = ("mlp", "embedding_bag")
BATCH = 500  # samples in one forward of a small backbone
LARGE_BATCH = 64  # of any other


@dataclass(frozen=True)
class Observed:
    """Hold the features and logits of N samples, on the CPU.

    Attributes:
        features: (N, F), the inputs of the last layer.
        logits: (N, C).
        labels: (N,), -100 for a sample without a label.
    """

    features: Tensor
    logits: Tensor
    labels: Tensor

    @property
    def is_finite(self) -> bool:
        """Whether no feature and no logit is NaN or infinite."""
        return bool(self.features.isfinite().all() and self.logits.isfinite().all())

    def labelled(self) -> Observed:
        """Return the samples with a label."""
        rows = self.labels != IGNORED_LABEL
        return Observed(self.features[rows], self.logits[rows], self.labels[rows])


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
    if rows is None:
        rows = range(len(data))
    batch_size = LARGE_BATCH
    if model.config.backbone in SMALL_BACKBONES:
        batch_size = BATCH
    generator = torch.Generator().manual_seed(0)
    was_training = model.training
    model.eval()
    logits, labels = [], []
    try:
        for start in range(0, len(rows), batch_size):
            some = list(rows[start : start + batch_size])
            batch = data.batch(some)
            own_labels = batch.pop("labels")
            labels.append(own_labels.cpu())
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


def has_finite_weights(model: SelfModelingPreTrainedModel) -> bool:
    """Return whether no weight and no buffer of a network is NaN or infinite."""
    values = model.state_dict().values()
    return all(bool(value.isfinite().all()) for value in values)


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
