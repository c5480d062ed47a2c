"""What a sweep consists of: its cells (one network each) and the settings that all of them share."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import InputError


@dataclass(frozen=True)
class Cell:
    """One network of a sweep."""

    hidden_size: int
    aux_weight: float
    seed: int
    detach_targets: bool = True

    @property
    def name(self) -> str:
        attached = "" if self.detach_targets else "-attached"
        return f"h{self.hidden_size}-aw{self.aux_weight:g}{attached}-seed{self.seed}"


@dataclass(frozen=True)
class Grid:
    """A recipe's default grid: the networks are hidden_sizes x aux_weights x seeds."""

    hidden_sizes: tuple[int, ...]
    aux_weights: tuple[float, ...]
    seeds: tuple[int, ...]
    source: str


# Training settings are those of the task of the same name, sampling settings those of the preset "paper".
GRIDS: Mapping[str, Grid] = {
    "mnist": Grid(
        (64, 128, 256, 512), (0, 1, 5, 10, 20, 50), tuple(range(1, 11)), "arXiv 2407.10188, Figure 2: 240 networks"
    ),
    "cifar10": Grid((2000,), (0, 0.5, 1, 2), tuple(range(1, 11)), "arXiv 2407.10188, Figure 3: 40 networks"),
    "cifar10-paper-text": Grid((2000,), (0, 0.5, 1, 2), tuple(range(1, 11)), "the same, by the paper's table and text"),
    "imdb": Grid((128,), (0, 100, 500), tuple(range(1, 11)), "arXiv 2407.10188, Figure 4: 30 networks"),
    "digits": Grid((16, 32), (0, 1, 10), (1, 2, 3), "ours: small enough for a first look; no experiment of the paper"),
}


@dataclass(frozen=True)
class Plan:
    """All that decides a sweep's numbers.

    Attributes:
        task: name of the task.
        cells: the networks.
        training: fields of `SelfModelingTrainingArguments`, the number of epochs and the batch size among them.
        sampling: arguments of `estimate_llc`.
        data: what else decides the data (data set, limits on the number of samples, augmentation).
        rlct_every_n_epochs: networks' RLCTs are estimated while they train, too, after every n-th epoch; 0: not.
    """

    task: str
    cells: tuple[Cell, ...]
    training: Mapping[str, Any]
    sampling: Mapping[str, Any]
    data: Mapping[str, Any]
    rlct_every_n_epochs: int = 0

    @property
    def settings(self) -> dict[str, Any]:
        """What must be equal for two sweeps to share a folder: everything but the cells."""
        sampling = {**self.sampling}
        if self.rlct_every_n_epochs:  # absent: as in folders begun before this was there
            sampling["rlct_every_n_epochs"] = self.rlct_every_n_epochs
        return {"task": self.task, "training": {**self.training}, "sampling": sampling, "data": {**self.data}}


def make_cells(
    hidden_sizes: Sequence[int], aux_weights: Sequence[float], seeds: Sequence[int], detach_targets: Sequence[bool]
) -> tuple[Cell, ...]:
    """The grid's cells. A baseline (weight 0) detaches: for it there is no difference, and it is trained once.

    Raises:
        InputError: an empty list, a value given twice or outside its range.
    """
    for name, values, allowed in (
        ("--hidden_sizes", hidden_sizes, lambda v: v >= 1),
        ("--aux_weights", aux_weights, lambda v: v >= 0 and math.isfinite(v)),
        ("--seeds", seeds, lambda v: 0 <= v < 2**32),
    ):
        if not values or len(set(values)) < len(values) or not all(allowed(value) for value in values):
            least = 1 if name == "--hidden_sizes" else 0
            raise InputError(name, list(values), f"allowed are different numbers of at least {least}")
    cells = (
        Cell(hidden_size, float(aux_weight), seed, detach or aux_weight == 0)
        for hidden_size in hidden_sizes
        for detach in detach_targets
        for aux_weight in aux_weights
        for seed in seeds
    )
    return tuple(dict.fromkeys(cells))
