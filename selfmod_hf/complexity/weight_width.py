"""Measure how wide the weights of the final classification layer are spread: the paper's first measure."""

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
    """Describe the distribution of one layer's weights (biases left out).

    Attributes:
        sd: standard deviation (of the whole population of weights: divided by their number).
        counts: (bins,), weights per bin.
        bin_edges: (bins + 1,).
        num_weights: their number.
        layer: name of the layer.

    Example:
        >>> width = weight_width_of(torch.tensor([[1.0, -1.0], [1.0, -1.0]]))
        >>> width.num_weights, float(width)
        (4, 1.0)
    """

    sd: float
    counts: NDArray[np.int64] = field(repr=False)
    bin_edges: NDArray[np.float64] = field(repr=False)
    num_weights: int
    layer: str

    def __float__(self) -> float:
        return self.sd

    def to_dict(self) -> dict[str, Any]:
        """Return all fields, ready for JSON."""
        return {
            "sd": self.sd,
            "layer": self.layer,
            "num_weights": self.num_weights,
            "counts": self.counts.tolist(),
            "bin_edges": self.bin_edges.tolist(),
        }


def weight_width(
    model: nn.Module,
    *,
    layer: str | None = None,
    bins: int | Sequence[float] = 100,
) -> WeightWidth:
    """Return the standard deviation and histogram of the final classification layer's weights.

    Section 2 of the preprint arXiv 2407.10188 of doi 10.1098/rsta.2024.0531. Prune the self-model first.

    Args:
        model: any module.
        layer: name of the layer, as `named_modules()` spells it. None: `classifier` if it is an `nn.Linear`, else the
            last `nn.Linear` that is no self-model. A `classifier` with an adapter is rejected.
        bins: number of equal bins between the smallest and the largest weight, or their edges.

    Raises:
        ValueError: no such layer, a layer without weights, or NaN or infinite weights.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> weight_width(model).layer
        '2'
    """
    name, module = _final_layer(model, layer)
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor):
        raise ValueError(f"layer={name!r}: a layer with a tensor `weight` is needed")
    return weight_width_of(weight, layer=name, bins=bins)


def weight_width_of(
    weight: Tensor,
    *,
    layer: str = "weight",
    bins: int | Sequence[float] = 100,
) -> WeightWidth:
    """Return the same for a weight tensor, for example an entry of a state dict."""
    tensor = weight.detach().to("cpu", torch.float64)
    values = tensor.numpy().ravel()
    finite = np.isfinite(values)
    if not finite.all():
        count = int((~finite).sum())
        raise ValueError(f"layer={layer!r}: weights must be finite, {count} are not")
    counts, edges = histogram(values, bins)
    sd = float(values.std())
    return WeightWidth(sd, counts, edges, values.size, layer)


def histogram(values: NDArray[Any], bins: int | Sequence[float]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return (counts, bin edges) like `numpy.histogram`. Large values without any spread are allowed too."""
    values = values.astype(np.float64)  # the range of float32's largest numbers is finite in it
    low = 0.0
    high = 1.0
    if values.size:
        low = float(values.min())
        high = float(values.max())
    spread = high - low
    least = 1e-9 * abs(high)
    if spread < least:
        low -= 1e-6 * abs(low)
        high += 1e-6 * abs(high)
    edges = np.histogram_bin_edges(values, bins, (low, high))
    counts, _ = np.histogram(values, edges)
    return counts, edges


def _final_layer(model: nn.Module, layer: str | None) -> tuple[str, nn.Module]:
    """Return the name and the module of a layer, by default of the final classification layer."""
    modules = dict(model.named_modules())
    if layer is not None:
        if layer not in modules:
            known = ", ".join(filter(None, modules))
            raise ValueError(f"layer={layer!r}: no such module; known: {known}")
        return layer, modules[layer]
    for name in ("classifier", "base_model.model.classifier"):  # the second: peft's wrapper of a network
        module = modules.get(name)
        if isinstance(module, nn.Linear):
            return name, module
        if hasattr(module, "in_features"):
            kind = type(module).__name__
            raise ValueError(f"layer={name!r}: has become a {kind}; merge the adapter first, or name another layer")
    last = None
    for name, module in modules.items():
        is_self_model = name.rpartition(".")[2] == "self_model_head"
        if isinstance(module, nn.Linear) and not is_self_model:
            last = name, module
    if last is None:
        raise ValueError("layer=None: the model has no nn.Linear; name the layer whose weights are meant")
    return last
