"""What a sweep consists of: its cells (one network each) and the settings that all of them share."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..complexity import llc_preset
from ..data import get_task
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
    def hidden_sizes(self) -> list[int]:
        """Return the widths of the cells, in their order."""
        return list(dict.fromkeys(cell.hidden_size for cell in self.cells))

    @property
    def settings(self) -> dict[str, Any]:
        """Return the settings that two sweeps in one folder must share: everything except the cells."""
        sampling = {**self.sampling}
        if self.rlct_every_n_epochs:  # missing otherwise, as in folders of versions without this setting
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
        ("hidden_sizes", hidden_sizes, lambda v: v >= 1),
        ("aux_weights", aux_weights, lambda v: v >= 0 and math.isfinite(v)),
        ("seeds", seeds, lambda v: 0 <= v < 2**32),
    ):
        if not values or len(set(values)) < len(values) or not all(allowed(value) for value in values):
            least = 1 if name == "hidden_sizes" else 0
            raise InputError(name, list(values), f"allowed are different numbers of at least {least}")
    cells = (
        Cell(hidden_size, float(aux_weight), seed, detach or aux_weight == 0)
        for hidden_size in hidden_sizes
        for detach in detach_targets
        for aux_weight in aux_weights
        for seed in seeds
    )
    return tuple(dict.fromkeys(cells))


def recipe_training(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The training arguments in a task's recipe."""
    optimizer = ("optim", "optim_args", "lr_scheduler_type", "max_grad_norm", "weight_decay", "learning_rate")
    return {name: recipe[name] for name in optimizer if name in recipe} | {
        "per_device_train_batch_size": recipe["train_batch_size"],
        "num_train_epochs": recipe["num_train_epochs"],
    }


def departures(settings: Mapping[str, Any], cells: Sequence[Cell]) -> list[str]:
    """In what a sweep differs from the recipe and the grid of its task, for example `seeds 1, 2 instead of 1, 2, 3`.

    Args:
        settings: as `Plan.settings` has them, or `run.json`.
        cells: its networks.

    Raises:
        InputError: a task that has no grid here.
    """
    task = settings["task"]
    if task not in GRIDS:
        raise InputError("task", task, f"allowed are {', '.join(GRIDS)}")
    grid, spec = GRIDS[task], get_task(task)
    data = {"dataset_name": spec.dataset_name, "augment": spec.recipe.get("augment")}
    wanted = recipe_training(spec.recipe) | llc_preset("paper", task) | data
    found = {**settings["training"], **settings["sampling"], **settings["data"]}
    found.pop("rlct_every_n_epochs", None)  # it changes nothing else
    if found.get("dataset_name") and not can_be_hub_id(found["dataset_name"]):
        found["dataset_name"] = "of a local folder"  # whose name means nothing elsewhere
    wanted |= {"hidden sizes": grid.hidden_sizes, "aux weights": grid.aux_weights, "seeds": grid.seeds}
    found |= {
        "hidden sizes": sorted({cell.hidden_size for cell in cells}),
        "aux weights": sorted({cell.aux_weight for cell in cells}),
        "seeds": sorted({cell.seed for cell in cells}),
    }
    detached = {cell.detach_targets for cell in cells if cell.aux_weight > 0}
    wanted["detach targets"] = spec.recipe.get("detach_targets", True)
    found["detach targets"] = wanted["detach targets"] if len(detached) != 1 else detached.pop()
    return [
        f"{name.replace('_', ' ')} {_text(value)}" + (f" instead of {_text(wanted[name])}" if name in wanted else "")
        for name, value in found.items()
        if _text(value) != _text(wanted.get(name))
    ]


def can_be_hub_id(name: str) -> bool:
    """Whether a data set's name is one of the Hub: no path (be the folder there or not), and no folder that is here."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return not Path(name).is_dir()


def _text(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(_text(entry) for entry in value)
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return f"{value:g}" if is_number and abs(value) < 1e300 else str(value)  # a larger integer is no float


def describe_setting(settings: Mapping[str, Any] | None, cells: Sequence[Cell]) -> str:
    """One sentence: whether a sweep is the experiment of its task's recipe, or in what it departs from it."""
    try:
        differences = departures(settings or {"task": None}, cells)
    except InputError:
        return "A setting of its own: no recipe of this package."
    assert settings is not None
    source = GRIDS[settings["task"]].source
    if not differences:
        return f"Setting: {source}."
    return f"NOT the setting of the recipe ({source}), but: {'; '.join(differences)}."
