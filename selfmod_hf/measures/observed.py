"""Run a network over samples, and keep what the measures are computed from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor

from ..data import BlockTensors, TensorData, TextTensors
from ..data.tasks import CLASSES
from ..data.tensors import IGNORED_LABEL, Batch
from ..models import SelfModelingPreTrainedModel
from ..models.classifier_weights import last_layer

SMALL_BACKBONES = ("mlp", "embedding_bag")
BATCH = 500  # samples in one forward of a small backbone
LARGE_BATCH = 64  # of any other
TOKENS_BATCH = 8  # of one with logits of each token


@dataclass(frozen=True)
class Observed:
    """Hold the features and logits of N samples, on the CPU.

    Attributes:
        features: (N, F), the inputs of the last layer. If it reads each token, their mean over the tokens of a sample.
        logits: (N, C). Without a class of each sample (N, 0).
        labels: (N,), -100 for a sample without a label, or without one class.
        are_means: whether the features are means over tokens.
    """

    features: Tensor
    logits: Tensor
    labels: Tensor
    are_means: bool = False

    @property
    def is_finite(self) -> bool:
        """Whether no feature and no logit is NaN or infinite."""
        return bool(self.features.isfinite().all() and self.logits.isfinite().all())

    def labelled(self) -> Observed:
        """Return the samples with a label."""
        rows = self.labels != IGNORED_LABEL
        return Observed(self.features[rows], self.logits[rows], self.labels[rows], self.are_means)


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
    read: list[Tensor] = []  # inputs of the last layer, (B, F) or (B, T, F)
    _, layer = last_layer(model)
    handle = layer.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0].float().cpu()))
    if rows is None:
        rows = range(len(data))
    batch_size = _batch_size(model, data)
    has_classes = data.problem_type == CLASSES
    are_means = False
    generator = torch.Generator().manual_seed(0)
    was_training = model.training
    model.eval()
    features, logits, labels = [], [], []
    try:
        for start in range(0, len(rows), batch_size):
            some = list(rows[start : start + batch_size])
            batch = data.batch(some)
            own_labels = batch.pop("labels").cpu()
            if noise:
                pixels = batch["pixel_values"]
                drawn = torch.randn(pixels.shape, generator=generator)
                batch["pixel_values"] = pixels + noise * drawn.to(pixels)
            outputs = _forward(model, batch)  # (B, C), or (B, T, C)
            [inputs] = read
            read.clear()
            are_means = inputs.dim() == 3
            features.append(_over_tokens(inputs, batch.get("attention_mask")) if are_means else inputs)
            if not has_classes:
                outputs = outputs.new_zeros(len(some), 0)
                own_labels = torch.full((len(some),), IGNORED_LABEL)
            logits.append(outputs)
            labels.append(own_labels)
    finally:
        handle.remove()
        model.train(was_training)
    return Observed(torch.cat(features), torch.cat(logits), torch.cat(labels), are_means)


def _batch_size(model: SelfModelingPreTrainedModel, data: TensorData) -> int:
    """Return the samples of one forward."""
    if data.problem_type is None:
        return TOKENS_BATCH
    has_own_head = getattr(model, "kind", None) is not None
    if model.config.backbone in SMALL_BACKBONES and not has_own_head:
        return BATCH
    return LARGE_BATCH


def _over_tokens(features: Tensor, mask: Tensor | None) -> Tensor:
    """Return the mean over the tokens of each sample, (B, F).

    Args:
        features: (B, T, F).
        mask: (B, T), 0 for padding. None: there is none.
    """
    if mask is None:
        return features.mean(dim=1)
    counted = mask.cpu().unsqueeze(2).to(features)  # (B, T, 1)
    return (features * counted).sum(dim=1) / counted.sum(dim=1).clamp(min=1)


def _forward(model: SelfModelingPreTrainedModel, batch: Batch) -> Tensor:
    inputs = {}
    for name, value in batch.items():
        inputs[name] = value.to(model.device)
        if value.is_floating_point():
            inputs[name] = inputs[name].to(model.dtype)
    output = model(**inputs, return_dict=True)
    return output.logits.float().cpu()


def has_finite_weights(model: SelfModelingPreTrainedModel) -> bool:
    """Return whether no weight and no buffer of a network is NaN or infinite."""
    values = model.state_dict().values()
    return all(bool(value.isfinite().all()) for value in values)


def as_matrix(data: TensorData, rows: Sequence[int]) -> Any:
    """Return the inputs of N samples as a matrix: pixels (N, D), or each token's share of a text (N, V), sparse."""
    if isinstance(data, TextTensors):
        lengths = data.offsets.diff()[list(rows)].numpy()  # (N,)
        texts = [data.tokens[data.offsets[row] : data.offsets[row + 1]].numpy() for row in rows]
        return _token_shares(np.concatenate(texts), lengths, len(data.tokenizer))
    if isinstance(data, BlockTensors):
        blocks = data.tokens[list(rows)].cpu().numpy()  # (N, T)
        lengths = np.full(len(blocks), blocks.shape[1])
        return _token_shares(blocks.ravel(), lengths, len(data.tokenizer))
    pixels = data.batch(list(rows))["pixel_values"]  # (N, C, H, W)
    return pixels.flatten(start_dim=1).double().cpu().numpy()


def _token_shares(tokens: np.ndarray, lengths: np.ndarray, vocabulary: int) -> csr_matrix:
    """Return each token's share of a text, (N, V).

    Args:
        tokens: of all texts one after another.
        lengths: (N,), of the texts.
        vocabulary: number of tokens, V.
    """
    bounds = np.concatenate([[0], np.cumsum(lengths)])
    values = np.repeat(1 / np.maximum(lengths, 1), lengths)
    shares = csr_matrix((values, tokens, bounds), shape=(len(lengths), vocabulary))
    shares.sum_duplicates()
    return shares
