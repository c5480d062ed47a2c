"""The RLCT of this package's networks on this package's data: `estimate_llc` with the pieces joined."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ..complexity import LLCCalibration, LLCResult, calibrate_llc, estimate_llc_many
from ..data import ImageTensors
from ..models import SelfModelingPreTrainedModel


class _OnPixels(nn.Module):
    """The classification-only network, from uint8 pixels: a minibatch is gathered as bytes, then normalized."""

    def __init__(self, model: SelfModelingPreTrainedModel, data: ImageTensors) -> None:
        super().__init__()
        self.network = model.prune().eval()
        self.mean, self.std = data.mean, data.std

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        values = pixels.mul(1 / (255 * self.std)).sub(self.mean / self.std)  # (B, C, H, W)
        return self.network(pixel_values=values).logits


def estimate_rlct(
    models: Sequence[SelfModelingPreTrainedModel], data: ImageTensors, **settings: Any
) -> list[LLCResult]:
    """RLCT of each network, pruned, with cross-entropy on `data`; all chains of all networks stacked.

    Args:
        models: networks of one architecture at their trained weights.
        data: the training set.
        settings: as for `estimate_llc_many`, for example from `llc_preset("paper", "mnist")`. Parameters are named
            as the pruned network's, after `network.`.
    """
    _check_fit(models[0], data)
    return estimate_llc_many([_OnPixels(model, data) for model in models], data.pixels, data.labels, **settings)


def calibrate_rlct(model: SelfModelingPreTrainedModel, data: ImageTensors, **settings: Any) -> LLCCalibration:
    """`calibrate_llc` for one network, pruned, with cross-entropy on `data`."""
    _check_fit(model, data)
    return calibrate_llc(_OnPixels(model, data), data.pixels, data.labels, **settings)


def _check_fit(model: SelfModelingPreTrainedModel, data: ImageTensors) -> None:
    config = model.config
    expected, found = [config.num_channels, *config.image_size], list(data.pixels.shape[1:])
    if expected != found:
        raise ValueError(f"data of {found} (channels, height, width): the model takes {expected}")
    if int(data.labels.max()) >= config.num_labels:
        raise ValueError(f"data with label {int(data.labels.max())}: the model has {config.num_labels} classes")
