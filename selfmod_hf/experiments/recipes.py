"""The recipes of sweeps: the paper's grids, and how a sweep differs from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from ..complexity import llc_preset
from ..data import get_task
from ..errors import InputError
from .arms import Arm
from .plan import RECIPE_TRAINING
from .setting import Values


@dataclass(frozen=True)
class Grid:
    """Hold a recipe's default grid.

    Attributes:
        hidden_sizes, aux_weights, seeds: the networks are the product of these.
        source: where it comes from.
        num_draws: of each chain, in place of the preset's.
    """

    hidden_sizes: tuple[int, ...]
    aux_weights: tuple[float, ...]
    seeds: tuple[int, ...]
    source: str
    num_draws: int | None = None


# Training settings are those of the task of the same name, sampling settings those of the preset "paper".
GRIDS: Mapping[str, Grid] = {
    "mnist": Grid(
        (64, 128, 256, 512), (0, 1, 5, 10, 20, 50), tuple(range(1, 11)), "arXiv 2407.10188, Figure 2: 240 networks"
    ),
    "cifar10": Grid((2000,), (0, 0.5, 1, 2), tuple(range(1, 11)), "arXiv 2407.10188, Figure 3: 40 networks"),
    "cifar10-paper-text": Grid((2000,), (0, 0.5, 1, 2), tuple(range(1, 11)), "the same, by the paper's table and text"),
    "imdb": Grid((128,), (0, 100, 500), tuple(range(1, 11)), "arXiv 2407.10188, Figure 4: 30 networks"),
    # LOG.md, "2026-11-26: the recipe of digits", has the search for it
    "digits": Grid(
        (128,),
        (0, 5, 20, 50),
        (1, 2, 3, 4, 5),
        "ours: small enough for a first look; no experiment of the paper",
        num_draws=6000,
    ),
}


def departures(settings: Values, arms: Sequence[Arm], seeds: Sequence[int]) -> list[str]:
    """Return the differences between a sweep and its task's recipe, such as `seeds 1, 2 instead of 1, 2, 3`.

    Args:
        settings: `Plan.settings`, or those in `run.json`.
        arms: its arms.
        seeds: of its networks.

    Raises:
        InputError: a task without a grid.
    """
    task = settings["task"]
    if task not in GRIDS:
        raise InputError("task", task, f"allowed are {', '.join(GRIDS)}")
    found = {**settings["training"], **settings["sampling"], **settings["data"], **settings.get("network", {})}
    found.pop("rlct_every_n_epochs", None)  # it changes no other number
    if found.get("dataset_name") and not can_be_hub_id(found["dataset_name"]):
        found["dataset_name"] = "of a local folder"  # because its name means nothing elsewhere
    wanted = _recipe_settings(task)
    if wanted["augment"]:
        found.setdefault("augment", False)
    found |= _grid_settings(arms, seeds, wanted)
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
        **_recipe_training(spec.recipe),
        **recipe_sampling(task, "paper"),
        "dataset_name": spec.dataset_name,
        "augment": spec.recipe.get("augment"),
        "hidden sizes": grid.hidden_sizes,
        "aux weights": grid.aux_weights,
        "seeds": grid.seeds,
        "detach targets": spec.recipe.get("detach_targets", True),
    }


def recipe_sampling(task: str, preset: str, changes: Values | None = None) -> dict[str, Any]:
    """Return the arguments of `estimate_llc` for a task: those of a preset, and the number of draws of its grid.

    Args:
        task: its name.
        preset: its name.
        changes: settings in place of the preset's.
    """
    sampling = llc_preset(preset, task, **changes or {})
    grid = GRIDS.get(task)
    if grid is not None and grid.num_draws is not None and preset != "theory":
        sampling["num_draws"] = grid.num_draws
    return sampling


def _recipe_training(recipe: Values) -> dict[str, Any]:
    """Return the training settings of a recipe, by the names of `Plan.settings`."""
    training = {name: recipe[name] for name in RECIPE_TRAINING if name in recipe}
    training["per_device_train_batch_size"] = recipe["train_batch_size"]
    training["num_train_epochs"] = recipe["num_train_epochs"]
    return training


def _grid_settings(arms: Sequence[Arm], seeds: Sequence[int], wanted: Values) -> dict[str, Any]:
    """Return the grid of a sweep: widths, weights and seeds, kinds of targets, and arms of other settings.

    Args:
        arms: of the sweep.
        seeds: of its networks.
        wanted: settings of the recipe, for arms with both kinds of targets or without targets.
    """
    hidden_sizes: set[tuple[int, ...]] = set()
    aux_weights: set[float] = set()
    detached: set[bool] = set()
    others = []
    for arm in arms:
        changes = dict(arm.changes)
        if "hidden_sizes" in changes:
            hidden_sizes.add(tuple(changes.pop("hidden_sizes")))
        detach = changes.pop("detach_targets", None)
        weight = changes.pop("aux_weight", None)
        if weight is not None:
            aux_weights.add(weight)
        if weight and detach is not None:
            detached.add(detach)
        if changes:
            others.append(arm.name)
    found: dict[str, Any] = {}
    if hidden_sizes:
        found["hidden sizes"] = ["-".join(map(str, sizes)) for sizes in sorted(hidden_sizes)]
    if aux_weights:
        found["aux weights"] = sorted(aux_weights)
    found["seeds"] = sorted(seeds)
    found["detach targets"] = wanted["detach targets"]
    if len(detached) == 1:
        found["detach targets"] = detached.pop()
    if others:
        found["arms"] = others
    return found


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


def describe_setting(settings: Values | None, arms: Sequence[Arm], seeds: Sequence[int]) -> str:
    """Return a sentence: a sweep is the experiment of its task's recipe, or its differences.

    Args:
        settings: as for `departures`. None: unknown.
        arms: its arms.
        seeds: of its networks.
    """
    task = "" if settings is None else settings["task"]
    if settings is None or task not in GRIDS:
        return "A setting of its own: no recipe of this package."
    source = GRIDS[task].source
    differences = departures(settings, arms, seeds)
    if not differences:
        return f"Setting: {source}."
    return f"Not the settings of the recipe ({source}). Differences: {'; '.join(differences)}."
