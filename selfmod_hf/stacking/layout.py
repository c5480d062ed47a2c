"""One matrix (K, P) that holds some parameters of K copies, and views into it by name.

An update rule then works on one tensor, whatever the architecture. The forward pass reads the views without a copy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class ParameterLayout:
    """Describe the place of each parameter in a row of P numbers.

    Attributes:
        names: in the order of the row.
        shapes: one copy's shape of each.

    Example:
        >>> layout = ParameterLayout.of({"weight": torch.zeros(5, 2, 3), "bias": torch.zeros(5, 2)})
        >>> layout.size, layout.views(torch.zeros(5, 8))["weight"].shape
        (8, torch.Size([5, 2, 3]))
    """

    names: tuple[str, ...]
    shapes: tuple[torch.Size, ...]

    @classmethod
    def of(cls, parameters: Mapping[str, Tensor], names: Sequence[str] | None = None) -> ParameterLayout:
        """Return the layout of stacked parameters.

        Args:
            parameters: name -> (K, *shape).
            names: the parameters to lay out. None: all.
        """
        chosen = tuple(parameters)
        if names is not None:
            chosen = tuple(names)
        shapes = []
        for name in chosen:
            stacked = parameters[name]  # (K, *shape)
            shapes.append(stacked.shape[1:])
        return cls(chosen, tuple(shapes))

    @property
    def sizes(self) -> tuple[int, ...]:
        """Return the numbers of each parameter in a row."""
        return tuple(math.prod(shape) for shape in self.shapes)

    @property
    def size(self) -> int:
        """Return P, the numbers in a row."""
        return sum(self.sizes)

    def flatten(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """Return tensors by name, each (K, *shape), as one matrix (K, P)."""
        rows = []
        for name in self.names:
            values = parameters[name]
            # reshape, because flatten rejects the stacked values of a single number, (K,)
            rows.append(values.reshape(len(values), -1))
        return torch.cat(rows, dim=1)

    def views(self, flat: Tensor) -> dict[str, Tensor]:
        """Return views of a matrix (K, P), name -> (K, *shape)."""
        sizes = [math.prod(shape) for shape in self.shapes]
        parts = flat.split(sizes, dim=1)
        views = {}
        for name, part, shape in zip(self.names, parts, self.shapes, strict=True):
            if shape:
                views[name] = part.unflatten(1, shape)
            else:  # a single number
                views[name] = part.squeeze(1)
        return views
