"""The settings of a sweep, and the plan that follows from them."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from ..complexity.settings import LLCSettings
from ..errors import InputError
from ..measures import FROM_OTHER, MEASURES, divide_measures
from .arms import Arm, make_arms
from .grid import as_entries, as_text, parse_arms, parse_grid, parse_rlct_settings
from .plan import Plan
from .recipes import GRIDS, recipe_sampling
from .run_settings import GROUPS, RunSettings, default_of
from .setting import Values, check_types, did_you_mean, setting

POSITIVE = ("members_per_population", "memory_gib")
DETACH = {"true": (True,), "false": (False,), "both": (True, False)}
OWN_AUX_WEIGHTS, OWN_SEEDS = (0.0, 1.0), (1, 2, 3)  # of a sweep without a recipe
# settings of a run that a sweep decides itself, and what to give in their place
DECIDED = {
    "seed": "a sweep has `seeds`",
    "output_dir": "a sweep has its own",
    "eval_strategy": "a sweep evaluates after each epoch",
    "save_strategy": "a sweep saves after each epoch",
    "logging_strategy": "a sweep logs after each epoch",
    "save_total_limit": "a sweep keeps what it needs to continue",
    "load_best_model_at_end": "a sweep measures the last weights",
    "metric_for_best_model": "a sweep measures the last weights",
    "resume_from_checkpoint": "a sweep continues by itself",
    "push_to_hub": "push a finished sweep with `selfmod push`",
    "hub_model_id": "push a finished sweep with `selfmod push`",
    "hub_token": "push a finished sweep with `selfmod push`",
    "license": "give it to `selfmod push`",
    "max_steps": "a sweep trains complete epochs: `num_train_epochs`",
    "log_weight_width": "a sweep follows the weight width",
    "eval_on_start": "a sweep evaluates after each epoch",
    "eval_delay": "a sweep evaluates after each epoch",
    "logging_first_step": "a sweep logs after each epoch",
    "prediction_loss_only": "a sweep measures the metrics of its task",
    "metrics": "a sweep measures the metrics of its task",
    "report_to": "`selfmod sweep --report_to tensorboard` writes logs of a finished sweep",
}
OF_ALL_ARMS = ("rlct_preset", "rlct_every_n_epochs", "task")  # settings of the study, never of one arm


@dataclass(frozen=True)
class StudySettings:
    """Settings of a study: its arms, its seeds, and how its networks are measured."""

    recipe: str | None = setting(
        "mnist, cifar10, imdb (the paper's grids: 240, 40, 30 networks), cifar10-paper-text (the same by the paper's "
        "text), or digits (small; needs no network); default: digits, or none with `task` or `dataset_name`."
    )
    hidden_sizes: list[str] | None = setting(
        "Widths of the hidden layer, each an arm; several layers are joined by -, as in 128-64; default: the recipe's, "
        "as for all that follows."
    )
    aux_weights: list[float] | None = setting(
        "Weights of the self-modeling loss, each an arm; 0 is the baseline; default without a recipe: 0 1."
    )
    seeds: list[int] | None = setting(
        "The seeds, one network of each arm for each; default without a recipe: 1 2 3. In a `config` file a single "
        "number counts them."
    )
    detach_targets: str | None = setting("true (published recipe), false (the paper's text), or both.")
    grid: list[str] | None = setting(
        "NAME=VALUE,VALUE ...: values of any flag of `selfmod train`, each an arm. Layers of hidden_sizes are joined "
        "by -, entries of other lists by +."
    )
    arms: str | None = setting(
        "Named arms: a JSON object, or in a `config` file a mapping, of names to the flags in which each arm differs."
    )
    baseline: str | None = setting(
        "The arm, or the value, that the others are compared with; default: the arm named baseline, else aux_weight 0, "
        "else the first."
    )
    rlct_preset: str = setting("Settings of the RLCT: paper, paper-text or theory.", "paper")
    num_chains: int | None = setting("Chains of each RLCT.")
    num_draws: int | None = setting("Draws of each chain; the first half is left out.")
    rlct_settings: str | None = setting(
        "Further settings of each RLCT in place of the preset's: a JSON object, or in a `config` file a mapping, such "
        "as {'batch_size': 32}. Names are flags of `selfmod rlct`."
    )
    rlct_every_n_epochs: int = setting(
        "Estimate RLCTs while networks train, too, after every n-th epoch; 0: never.", default=0
    )
    measures: list[str] | None = setting(
        "Further measures of each network (docs/measures.md), such as unit_free_width dead_units."
    )
    members_per_population: int | None = setting("Networks trained at once; default: what fits into `memory_gib`.")
    memory_gib: float | None = setting("Memory for training, of each process; default: half of what is free.")


@dataclass(frozen=True)
class SweepSettings(StudySettings):
    """Settings of a sweep. Make them with `SweepSettings.make`.

    Attributes:
        base: settings of all networks, fields of `RunSettings`.
        functions: measures of the user's own.

    Raises:
        InputError: a value of another type than its field.

    Example:
        >>> settings = SweepSettings.make("mnist", hidden_sizes=[64], seeds=[1, 2], num_train_epochs=5)
        >>> plan = settings.plan()
        >>> len(plan.cells), plan.cells[0].name
        (12, 'h64-aw0-seed1')
    """

    base: Mapping[str, Any] = field(default_factory=dict)
    functions: tuple[Callable[..., Any], ...] = ()

    @classmethod
    def make(cls, recipe: str | None = None, **given: Any) -> SweepSettings:
        """Return the settings of a sweep.

        Args:
            recipe: name of a recipe.
            given: other fields, and fields of `RunSettings` for all networks, such as `num_train_epochs`. Here `seeds`
                may be a number of seeds, `arms` and `grid` may be mappings, `measures` may hold functions, and an entry
                of `hidden_sizes` may be a list.

        Raises:
            InputError: an unknown field, or a value of another type.
        """
        return cls().replace(recipe=recipe, **given)

    def replace(self, **changes: Any) -> SweepSettings:
        """Return settings with other values of these fields, as for `make`."""
        own = dict(vars(self))
        base = dict(own.pop("base"))
        known = [one.name for one in fields(StudySettings)]
        of_runs = {one.name for group in GROUPS for one in fields(group) if one.init}
        for name, value in changes.items():
            if name in known:
                own[name] = value
            elif name in DECIDED:
                raise InputError(name, value, DECIDED[name])
            elif name in of_runs:
                base[name] = value
            else:
                raise InputError(name, value, f"no setting has this name{did_you_mean(name, [*known, *of_runs])}")
        measures = own.pop("measures") or []
        names = [measure for measure in measures if not callable(measure)]
        functions = tuple(measure for measure in measures if callable(measure)) or own["functions"]
        return type(self)(**{**own, "functions": functions}, measures=names or None, base=base)

    def __post_init__(self) -> None:
        as_texts = {"seeds": _seeds, "hidden_sizes": _joined, "detach_targets": _lower, "grid": _entries}
        as_texts |= {"arms": _text, "rlct_settings": _text}
        for name, convert in as_texts.items():
            object.__setattr__(self, name, convert(getattr(self, name)))
        check_types(self)

    # ---- the plan ----

    def plan(self) -> Plan:
        """Return the arms, seeds and settings of the sweep.

        Raises:
            InputError: an unusable setting.
        """
        self._check_numbers()
        recipe = self.chosen_recipe()
        base = self.base_run(recipe)
        axes = self._axes(recipe, base)
        usual = OWN_SEEDS if recipe is None else GRIDS[recipe].seeds
        seeds = usual if self.seeds is None else tuple(self.seeds)
        _check_values("seeds", seeds, 0, 2**32)
        named = parse_arms(self.arms)
        plan = Plan(
            base=base,
            arms=tuple(make_arms(axes, named, self.baseline)),
            seeds=seeds,
            sampling=self._sampling(base),
            rlct_every_n_epochs=self.rlct_every_n_epochs,
        )
        for arm in plan.arms:
            _check_changes(arm)
            _check_epochs(plan.run_of(arm))
        return plan

    def chosen_recipe(self) -> str | None:
        """Return the name of the recipe. None: the networks have a task, or data, of their own.

        Raises:
            InputError: an unknown recipe, or one beside a task.
        """
        if self.recipe is None:
            return None if {"task", "dataset_name"}.intersection(self.base) else "digits"
        if self.recipe not in GRIDS:
            raise InputError("recipe", self.recipe, f"allowed are {', '.join(GRIDS)}")
        if self.base.get("task") not in (None, self.recipe):
            raise InputError("recipe", self.recipe, "allowed without `task`")
        return self.recipe

    def base_run(self, recipe: str | None) -> RunSettings:
        """Return the settings of all networks. Their batch size is that of one network over all processes.

        Args:
            recipe: of `chosen_recipe`.

        Raises:
            InputError: an unusable setting.
        """
        given = dict(self.base)
        if recipe is not None:
            given["task"] = recipe
        if self.arms is not None and self.aux_weights is None:
            given.setdefault("aux_weight", 0.0)  # a named arm is a plain network unless it names a weight
        given["per_device_train_batch_size"] = self._batch_size(given)
        run = RunSettings.make(**given)
        _check_epochs(run)
        return run

    def _batch_size(self, given: dict[str, Any]) -> int:
        """Return the samples of a step of each network, over all processes. `train_batch_size` is taken out."""
        batch_size = given.pop("train_batch_size", None)
        of_process = given.pop("per_device_train_batch_size", None)
        if batch_size is not None and of_process is not None:
            raise InputError("train_batch_size", batch_size, "allowed without `per_device_train_batch_size`")
        if of_process is not None:
            batch_size = of_process * int(os.environ.get("WORLD_SIZE", 1))
        if batch_size is None:
            alone = RunSettings.make(**{**given, "per_device_train_batch_size": 1})
            usual = default_of("per_device_train_batch_size")
            batch_size = alone.recipe_fields().get("train_batch_size", usual)
        if not batch_size >= 1:
            raise InputError("train_batch_size", batch_size, "allowed are integers of at least 1")
        return batch_size

    def _axes(self, recipe: str | None, base: RunSettings) -> dict[str, list[Any]]:
        """Return the values of each axis, except for the named arms."""
        given = parse_grid(self.grid or [])
        axes: dict[str, list[Any]] = {}
        sizes = self.hidden_sizes
        if sizes is None and recipe is not None and "hidden_sizes" not in given:
            sizes = _joined(GRIDS[recipe].hidden_sizes)
        if sizes is not None:
            _check_values("hidden_sizes", sizes)
            axes["hidden_sizes"] = [_layers(entry) for entry in sizes]
        if recipe is not None or self.detach_targets is not None:
            axes["detach_targets"] = list(self._detach(base))
        weights = self._weights(recipe, given)
        if weights is not None:
            _check_values("aux_weights", weights, 0, math.inf)
            axes["aux_weight"] = [float(weight) for weight in weights]
        for name in given:
            if name in axes and name != "detach_targets":
                raise InputError("grid", name, "is given outside of the grid as well; give it in one place")
        axes |= given
        for name in axes:
            if name in self.base:
                raise InputError(name, self.base[name], "is an axis of the study as well; give it in one place")
        return axes

    def _weights(self, recipe: str | None, grid: Values) -> Sequence[float] | None:
        """Return the self-model's weights of the arms. None: they have the base's, or those of named arms."""
        if self.aux_weights is not None:
            return self.aux_weights
        if self.arms is not None or "aux_weight" in {**self.base, **grid}:
            return None
        if recipe is not None:
            return GRIDS[recipe].aux_weights
        return OWN_AUX_WEIGHTS

    def _detach(self, base: RunSettings) -> tuple[bool, ...]:
        given = self.detach_targets
        if given is None:
            return (base.network.detach_targets,)
        if given not in DETACH:
            raise InputError("detach_targets", given, f"allowed are {', '.join(DETACH)}")
        return DETACH[given]

    def _check_numbers(self) -> None:
        for name in POSITIVE:
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise InputError(name, value, "allowed are finite numbers above 0")
        if self.rlct_every_n_epochs < 0:
            raise InputError("rlct_every_n_epochs", self.rlct_every_n_epochs, "allowed are integers of at least 0")
        known = (*MEASURES, FROM_OTHER)
        for name in self.measures or []:
            if name not in known:
                raise InputError("measures", name, f"allowed are {', '.join(known)}{did_you_mean(name, known)}")
        divide_measures(self.measures or [])  # raises for a missing extra

    def _sampling(self, base: RunSettings) -> dict[str, Any]:
        """Return keywords of `estimate_llc`."""
        sampling = recipe_sampling(base.task.name, self.rlct_preset, parse_rlct_settings(self.rlct_settings))
        for name in ("num_chains", "num_draws"):
            if getattr(self, name) is not None:
                sampling[name] = getattr(self, name)
        LLCSettings(**sampling)  # raises now what sampling would raise after the training
        return sampling


def _check_changes(arm: Arm) -> None:
    """Raise an InputError for a change that belongs to the study, or that a sweep decides itself."""
    for name, value in arm.changes.items():
        if name in DECIDED:
            raise InputError(name, value, DECIDED[name])
        if name in OF_ALL_ARMS:
            raise InputError(name, value, "is the same for all arms of a study")


def _check_epochs(run: RunSettings) -> None:
    epochs = run.training.num_train_epochs
    if not epochs >= 1 or not float(epochs).is_integer():
        raise InputError("num_train_epochs", epochs, "allowed are integers of at least 1")


def _check_values(name: str, values: Sequence[Any], least: float = -math.inf, end: float = math.inf) -> None:
    in_range = all(isinstance(value, str) or least <= value < end for value in values)
    if not values or len(set(values)) < len(values) or not in_range:
        raise InputError(name, list(values), f"allowed are different numbers of at least {max(least, 1):g}")


def _layers(text: str) -> list[int]:
    """Return the widths of the layers in a text such as 128-64."""
    try:
        sizes = [int(size) for size in text.split("-")]
    except ValueError:
        sizes = []
    if not sizes or min(sizes) < 1:
        raise InputError("hidden_sizes", text, "allowed are integers of at least 1, joined by - for several layers")
    return sizes


# ---- fields in other forms ----


def _seeds(seeds: Any) -> Any:
    """Return a number of seeds as the seeds 1, 2, ..."""
    return list(range(1, seeds + 1)) if type(seeds) is int else seeds


def _joined(sizes: Any) -> Any:
    """Return hidden sizes as texts. An entry may be a number, or a list of several layers."""
    if not isinstance(sizes, (list, tuple, range)):
        return sizes
    texts = []
    for entry in sizes:
        layers = entry if isinstance(entry, (list, tuple)) else [entry]
        texts.append("-".join(map(str, layers)))
    return texts


def _lower(detach: Any) -> Any:
    return str(detach).lower() if isinstance(detach, (bool, str)) else detach


def _entries(grid: Any) -> Any:
    return as_entries(grid) if isinstance(grid, Mapping) else grid


def _text(arms: Any) -> Any:
    return as_text(arms) if isinstance(arms, Mapping) else arms
