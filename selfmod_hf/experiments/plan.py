"""The plan of a sweep: its cells (one network each) and their common settings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from ..complexity import llc_preset
from ..data import get_task
from ..errors import InputError
from .setting import Values


@dataclass(frozen=True)
class Cell:
    """Name one network of a sweep."""

    hidden_size: int
    aux_weight: float
    seed: int
    detach_targets: bool = True

    @property
    def name(self) -> str:
        """Return the name of the cell's folder."""
        attached = "" if self.detach_targets else "-attached"
        return f"h{self.hidden_size}-aw{self.aux_weight:g}{attached}-seed{self.seed}"


@dataclass(frozen=True)
class Grid:
    """Hold a recipe's default grid: the networks are hidden_sizes x aux_weights x seeds."""

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
    """Hold the settings of a sweep.

    Attributes:
        task: name of the task.
        cells: the networks.
        training: fields of `SelfModelingTrainingArguments`, with the number of epochs and the batch size.
        sampling: arguments of `estimate_llc`.
        data: all other settings of the data (data set, limits on the number of samples, augmentation).
        rlct_every_n_epochs: RLCTs are estimated after every n-th epoch of the training too. 0: only at the end.
    """

    task: str
    cells: tuple[Cell, ...]
    training: Values
    sampling: Values
    data: Values
    rlct_every_n_epochs: int = 0

    @property
    def hidden_sizes(self) -> list[int]:
        """Return the widths of the cells, in their order."""
        return list(dict.fromkeys(cell.hidden_size for cell in self.cells))

    @property
    def settings(self) -> dict[str, Any]:
        """Return the common settings of two sweeps in one folder: everything except the cells."""
        sampling = {**self.sampling}
        if self.rlct_every_n_epochs:  # missing otherwise, as in folders of versions without this setting
            sampling["rlct_every_n_epochs"] = self.rlct_every_n_epochs
        return {"task": self.task, "training": {**self.training}, "sampling": sampling, "data": {**self.data}}


def make_cells(
    hidden_sizes: Sequence[int],
    aux_weights: Sequence[float],
    seeds: Sequence[int],
    detach_targets: Sequence[bool],
) -> tuple[Cell, ...]:
    """Return the grid's cells.

    A baseline (weight 0) detaches and is trained once, because detaching makes no difference for it.

    Raises:
        InputError: an empty list, a repeated value, or one outside its range.

    >>> [cell.name for cell in make_cells([8], [0, 1], [1], [True, False])]
    ['h8-aw0-seed1', 'h8-aw1-seed1', 'h8-aw1-attached-seed1']
    """
    _check_values("hidden_sizes", hidden_sizes, 1, math.inf)
    _check_values("aux_weights", aux_weights, 0, math.inf)
    _check_values("seeds", seeds, 0, 2**32)
    cells = []
    for hidden_size, detach, aux_weight, seed in product(hidden_sizes, detach_targets, aux_weights, seeds):
        is_baseline = aux_weight == 0
        cells.append(Cell(hidden_size, float(aux_weight), seed, detach or is_baseline))
    return tuple(dict.fromkeys(cells))


def _check_values(name: str, values: Sequence[float], least: int, end: float) -> None:
    in_range = all(least <= value < end for value in values)
    if not values or len(set(values)) < len(values) or not in_range:
        raise InputError(name, list(values), f"allowed are different numbers of at least {least}")


def recipe_training(recipe: Values) -> dict[str, Any]:
    """Return the training arguments in a task's recipe."""
    training = {}
    for name in ("optim", "optim_args", "lr_scheduler_type", "max_grad_norm", "weight_decay", "learning_rate"):
        if name in recipe:
            training[name] = recipe[name]
    training["per_device_train_batch_size"] = recipe["train_batch_size"]
    training["num_train_epochs"] = recipe["num_train_epochs"]
    return training


def departures(settings: Values, cells: Sequence[Cell]) -> list[str]:
    """Return the differences between a sweep and its task's recipe, such as `seeds 1, 2 instead of 1, 2, 3`.

    Args:
        settings: `Plan.settings`, or those in `run.json`.
        cells: its networks.

    Raises:
        InputError: a task without a grid.
    """
    task = settings["task"]
    if task not in GRIDS:
        raise InputError("task", task, f"allowed are {', '.join(GRIDS)}")
    found = {**settings["training"], **settings["sampling"], **settings["data"]}
    found.pop("rlct_every_n_epochs", None)  # it changes no other number
    if found.get("dataset_name") and not can_be_hub_id(found["dataset_name"]):
        found["dataset_name"] = "of a local folder"  # because its name means nothing elsewhere
    wanted = _recipe_settings(task)
    found |= _grid_settings(cells, wanted["detach targets"])
    differences = []
    for name, value in found.items():
        text = _text(value)
        expected = _text(wanted.get(name))
        if text == expected:
            continue
        difference = f"{name.replace('_', ' ')} {text}"
        if name in wanted:
            difference += f" instead of {expected}"
        differences.append(difference)
    return differences


def _recipe_settings(task: str) -> dict[str, Any]:
    """Return the settings and the grid of a task's recipe."""
    grid = GRIDS[task]
    spec = get_task(task)
    return {
        **recipe_training(spec.recipe),
        **llc_preset("paper", task),
        "dataset_name": spec.dataset_name,
        "augment": spec.recipe.get("augment"),
        "hidden sizes": grid.hidden_sizes,
        "aux weights": grid.aux_weights,
        "seeds": grid.seeds,
        "detach targets": spec.recipe.get("detach_targets", True),
    }


def _grid_settings(cells: Sequence[Cell], detach_targets: bool) -> dict[str, Any]:
    """Return the grid of some cells. `detach_targets` is the recipe's, for cells with both or without any."""
    detached = {cell.detach_targets for cell in cells if cell.aux_weight > 0}
    if len(detached) == 1:
        detach_targets = detached.pop()
    hidden_sizes, aux_weights, seeds = set(), set(), set()
    for cell in cells:
        hidden_sizes.add(cell.hidden_size)
        aux_weights.add(cell.aux_weight)
        seeds.add(cell.seed)
    return {
        "hidden sizes": sorted(hidden_sizes),
        "aux weights": sorted(aux_weights),
        "seeds": sorted(seeds),
        "detach targets": detach_targets,
    }


def can_be_hub_id(name: str) -> bool:
    """Return whether a data set's name can be one of the Hub: it is no path, and no folder of this machine."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return not Path(name).is_dir()


def _text(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(_text(entry) for entry in value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    return f"{value:g}" if abs(value) < 1e300 else str(value)  # because a larger integer is no float


def describe_setting(settings: Values | None, cells: Sequence[Cell]) -> str:
    """Return a sentence: a sweep is the experiment of its task's recipe, or its differences.

    Args:
        settings: as for `departures`. None: unknown.
        cells: its networks.
    """
    task = "" if settings is None else settings["task"]
    if settings is None or task not in GRIDS:
        return "A setting of its own: no recipe of this package."
    source = GRIDS[task].source
    differences = departures(settings, cells)
    if not differences:
        return f"Setting: {source}."
    return f"NOT the setting of the recipe ({source}), but: {'; '.join(differences)}."
