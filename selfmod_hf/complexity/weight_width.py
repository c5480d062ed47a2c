"""How wide the weights of the final classification layer are spread: the paper's first measure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn


@dataclass(frozen=True)
class WeightWidth:
    """The distribution of one layer's weights (biases left out).

    Attributes:
        sd: standard deviation (of the whole population of weights: divided by their number).
        counts: (bins,), weights per bin.
        bin_edges: (bins + 1,).
        num_weights: their number.
        layer: name of the layer.
    """

    sd: float
    counts: NDArray[np.int64] = field(repr=False)
    bin_edges: NDArray[np.float64] = field(repr=False)
    num_weights: int
    layer: str

    def __float__(self) -> float:
        return self.sd

    def to_dict(self) -> dict[str, Any]:
        return {
            "sd": self.sd,
            "layer": self.layer,
            "num_weights": self.num_weights,
            "counts": self.counts.tolist(),
            "bin_edges": self.bin_edges.tolist(),
        }


def weight_width(model: nn.Module, *, layer: str | None = None, bins: int | Sequence[float] = 100) -> WeightWidth:
    """Standard deviation and histogram of the final classification layer's weights.

    Premakumar et al. 2024 (arXiv 2407.10188), section 2. Prune the self-model first.

    Args:
        model: any module.
        layer: name of the layer, as `named_modules()` spells it; default: `classifier` where that is an
            `nn.Linear`, else the last `nn.Linear`. A `classifier` with an adapter is rejected.
        bins: number of equal bins between the smallest and the largest weight, or their edges.

    Raises:
        ValueError: no such layer, a layer without weights, or weights that are not finite.
    """
    name, module = _final_layer(model, layer)
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor):
        raise ValueError(f"layer={name!r}: a layer with a tensor `weight` is needed")
    return weight_width_of(weight, layer=name, bins=bins)


def weight_width_of(weight: Tensor, *, layer: str = "weight", bins: int | Sequence[float] = 100) -> WeightWidth:
    """The same for a weight tensor in hand: an entry of a state dict."""
    values = weight.detach().to("cpu", torch.float64).numpy().ravel()
    if not np.isfinite(values).all():
        raise ValueError(f"layer={layer!r}: weights must be finite, {int((~np.isfinite(values)).sum())} are not")
    counts, edges = histogram(values, bins)
    return WeightWidth(float(values.std()), counts, edges, values.size, layer)


def histogram(values: NDArray[Any], bins: int | Sequence[float]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """(counts, bin edges) as `numpy.histogram`, of large values that are all the same, too."""
    values = values.astype(np.float64)  # in which the range of float32's largest numbers is finite
    spread = (float(values.min()), float(values.max())) if values.size else (0.0, 1.0)
    if spread[1] - spread[0] < 1e-9 * abs(spread[1]):
        spread = (spread[0] - 1e-6 * abs(spread[0]), spread[1] + 1e-6 * abs(spread[1]))
    edges = np.histogram_bin_edges(values, bins, spread)
    return np.histogram(values, edges)[0], edges


def _final_layer(model: nn.Module, layer: str | None) -> tuple[str, nn.Module]:
    modules = dict(model.named_modules())
    if layer is not None:
        if layer not in modules:
            raise ValueError(f"layer={layer!r}: no such module; known: {', '.join(n for n in modules if n)}")
        return layer, modules[layer]
    for name in ("classifier", "base_model.model.classifier"):  # the second: peft's wrapper of a network
        if isinstance(modules.get(name), nn.Linear):
            return name, modules[name]
        if hasattr(modules.get(name), "in_features"):
            kind = type(modules[name]).__name__
            raise ValueError(f"layer={name!r}: has become a {kind}; merge the adapter first, or name another layer")
    linear = [(name, module) for name, module in modules.items() if isinstance(module, nn.Linear)]
    if not linear:
        raise ValueError("layer=None: the model has no nn.Linear; name the layer whose weights are meant")
    return linear[-1]
