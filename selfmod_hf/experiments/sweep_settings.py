"""The settings of a sweep, and the plan that follows from them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from ..complexity import llc_preset
from ..complexity.settings import LLCSettings
from ..data import TaskSpec, get_task
from ..errors import InputError
from .plan import GRIDS, Plan, make_cells, recipe_training
from .setting import check_types, setting

POSITIVE = ("num_train_epochs", "train_batch_size", "members_per_population", "learning_rate", "memory_gib")
DETACH = {"true": (True,), "false": (False,), "both": (True, False)}


@dataclass
class SweepSettings:
    """Settings of a sweep. Each field without a value is the recipe's.

    Raises:
        InputError: a value of another type than its field.
    """

    recipe: str = setting(
        "mnist, cifar10, imdb (the paper's grids: 240, 40, 30 networks), cifar10-paper-text (the same by the paper's "
        "text), or digits (small; needs no network).",
        "digits",
    )
    hidden_sizes: list[int] | None = setting(
        "Widths of the hidden layer; default: the recipe's, as for all that follows."
    )
    aux_weights: list[float] | None = setting("Weights of the self-modeling loss; 0 is the baseline.")
    seeds: list[int] | None = setting("One network of each width and weight per seed.")
    detach_targets: str | None = setting("true (published recipe), false (the paper's text), or both.")
    num_train_epochs: int | None = setting("Epochs of training.")
    train_batch_size: int | None = setting("Samples a step, of each network.")
    learning_rate: float | None = setting("Learning rate of the recipe's optimizer.")
    bf16: bool = setting(
        "Train in bfloat16 (autocast); faster, the figures hold within the seeds' spread.", default=False
    )
    dataset_name: str | None = setting("In place of the recipe's data: Hub id, or local folder in Hub layout.")
    max_train_samples: int | None = setting("Use so many training samples, spread evenly over the split.")
    max_test_samples: int | None = setting("Use so many test samples, spread evenly over the split.")
    rlct_preset: str = setting("Settings of the RLCT: paper, paper-text or theory.", "paper")
    num_chains: int | None = setting("Chains of each RLCT.")
    num_draws: int | None = setting("Draws of each chain; the first half is left out.")
    rlct_every_n_epochs: int = setting(
        "Estimate RLCTs while networks train, too, after every n-th epoch; 0: never.", default=0
    )
    members_per_population: int | None = setting("Networks trained at once; default: what fits into `memory_gib`.")
    memory_gib: float | None = setting("Memory for training, of each process; default: half of what is free.")

    def __post_init__(self) -> None:
        if isinstance(self.detach_targets, bool):
            self.detach_targets = str(self.detach_targets).lower()
        check_types(self)

    def task_spec(self) -> TaskSpec:
        """Return the recipe's task.

        Raises:
            InputError: there is no such recipe.
        """
        if self.recipe not in GRIDS:
            raise InputError("recipe", self.recipe, f"allowed are {', '.join(GRIDS)}")
        spec = get_task(self.recipe)
        if self.dataset_name is None:
            return spec
        return replace(spec, dataset_name=self.dataset_name)

    def plan(self) -> Plan:
        """Return the recipe's grid and settings, with these settings in their place.

        Raises:
            InputError: an unusable setting.

        >>> plan = SweepSettings("mnist", hidden_sizes=[64], seeds=[1, 2]).plan()
        >>> len(plan.cells)
        12
        """
        self._check_numbers()
        spec = self.task_spec()
        grid = GRIDS[self.recipe]
        cells = make_cells(
            grid.hidden_sizes if self.hidden_sizes is None else self.hidden_sizes,
            grid.aux_weights if self.aux_weights is None else self.aux_weights,
            grid.seeds if self.seeds is None else self.seeds,
            self._detach(spec),
        )
        data: dict[str, Any] = {"dataset_name": spec.dataset_name}
        data["max_train_samples"] = self.max_train_samples
        data["max_test_samples"] = self.max_test_samples
        if spec.recipe.get("augment"):
            data["augment"] = True
        return Plan(
            task=spec.name,
            cells=cells,
            training=self._training(spec),
            sampling=self._sampling(spec),
            data=data,
            rlct_every_n_epochs=self.rlct_every_n_epochs,
        )

    def _check_numbers(self) -> None:
        for name in POSITIVE:
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise InputError(name, value, "allowed are finite numbers above 0")
        if self.rlct_every_n_epochs < 0:
            raise InputError("rlct_every_n_epochs", self.rlct_every_n_epochs, "allowed are integers of at least 0")

    def _detach(self, spec: TaskSpec) -> tuple[bool, ...]:
        given = self.detach_targets
        if given is None:
            return (spec.recipe.get("detach_targets", True),)
        if str(given).lower() not in DETACH:
            raise InputError("detach_targets", given, f"allowed are {', '.join(DETACH)}")
        return DETACH[str(given).lower()]

    def _training(self, spec: TaskSpec) -> dict[str, Any]:
        """Return fields of `SelfModelingTrainingArguments`."""
        training = recipe_training(spec.recipe)
        given = {
            "learning_rate": self.learning_rate,
            "per_device_train_batch_size": self.train_batch_size,
            "num_train_epochs": self.num_train_epochs,
        }
        for name, value in given.items():
            if value is not None:
                training[name] = value
        if self.bf16:  # missing otherwise, as in folders of versions without this setting
            training["bf16"] = True
        return training

    def _sampling(self, spec: TaskSpec) -> dict[str, Any]:
        """Return keywords of `estimate_llc`."""
        sampling = llc_preset(self.rlct_preset, spec.name)
        for name in ("num_chains", "num_draws"):
            if getattr(self, name) is not None:
                sampling[name] = getattr(self, name)
        LLCSettings(**sampling)  # raises now what sampling would raise after the training
        return sampling
