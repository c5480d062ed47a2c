"""One matrix (K, P) that holds some parameters of K copies, and views into it by name.

An update rule then works on one tensor, whatever the architecture; the views feed the forward pass without a copy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class ParameterLayout:
    """Where each parameter lies in a row of P numbers.

    Attributes:
        names: in the order of the row.
        shapes: one copy's shape of each.
    """

    names: tuple[str, ...]
    shapes: tuple[torch.Size, ...]

    @classmethod
    def of(cls, parameters: Mapping[str, Tensor], names: Sequence[str] | None = None) -> ParameterLayout:
        """The layout of stacked parameters, name -> (K, *shape); `names` picks some of them."""
        chosen = tuple(parameters if names is None else names)
        return cls(chosen, tuple(parameters[name].shape[1:] for name in chosen))

    @property
    def sizes(self) -> tuple[int, ...]:
        return tuple(math.prod(shape) for shape in self.shapes)

    @property
    def size(self) -> int:
        """P, the numbers in a row."""
        return sum(self.sizes)

    def flatten(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """Return tensors by name, each (K, *shape), as one matrix (K, P)."""
        chosen = [parameters[name] for name in self.names]
        # reshape, because flatten rejects the stacked values of a single number, (K,)
        return torch.cat([values.reshape(len(values), -1) for values in chosen], dim=1)

    def views(self, flat: Tensor) -> dict[str, Tensor]:
        """(K, P) to name -> (K, *shape): views, nothing is copied."""
        parts = flat.split(self.sizes, dim=1)
        return {
            name: part.unflatten(1, shape) if shape else part.squeeze(1)
            for name, part, shape in zip(self.names, parts, self.shapes, strict=True)
        }
