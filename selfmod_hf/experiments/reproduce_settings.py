"""The settings of a reproduction: tasks, scale, and what it does with each task."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from ..errors import InputError
from .run_settings import RunSettings
from .setting import Values, check_types, setting
from .sweep_settings import SweepSettings
from .tune_settings import TuneSettings

SCALES = ("quick", "full")


@dataclass(frozen=True)
class TaskParts:
    """The parts of a reproduction for one task.

    Attributes:
        quick: fields of `SweepSettings` in place of the recipe's, for a first look: fewer seeds, epochs or samples.
        tune: the search: fields of `TuneSettings` (its space as NAME=RANGE texts) and of `RunSettings`.
        full: fields of `SweepSettings` for the paper's grid. They change no number.
    """

    quick: Values
    tune: Values
    full: Values


# The search: learning rates around the recipe's, weights of the self-modeling loss over the grid's range.
REPRODUCTIONS: Mapping[str, TaskParts] = {
    "digits": TaskParts(
        quick={},  # the complete grid takes a minute
        tune={
            "trials": 8, "stack": 4, "space": ["learning_rate=0.01:0.1:log", "aux_weight=0:50"],
            "num_train_epochs": 20, "hidden_sizes": [32], "num_draws": 300,
        },
        full={},
    ),
    "mnist": TaskParts(
        quick={"hidden_sizes": [64], "seeds": [1, 2], "num_train_epochs": 10, "num_draws": 300},
        tune={
            "trials": 8, "stack": 4, "space": ["learning_rate=0.002:0.02:log", "aux_weight=0:50"],
            "num_train_epochs": 5, "num_draws": 200,
        },
        full={},
    ),
    "cifar10": TaskParts(
        quick={
            "aux_weights": [0, 1], "seeds": [1], "num_train_epochs": 2, "max_train_samples": 1280,
            "max_test_samples": 500, "num_chains": 2, "num_draws": 20,
        },
        tune={
            "trials": 2, "stack": 1, "space": ["learning_rate=0.00003:0.0003:log", "aux_weight=0:2"],
            "num_train_epochs": 1, "max_train_samples": 640, "max_test_samples": 200, "num_draws": 4,
            "give_up_below": 0,
        },
        full={},
    ),
    "imdb": TaskParts(
        quick={
            "seeds": [1, 2], "num_train_epochs": 20, "max_train_samples": 5000, "max_test_samples": 5000,
            "num_chains": 2, "num_draws": 100, "rlct_every_n_epochs": 10,
        },
        tune={
            "trials": 4, "stack": 2, "space": ["learning_rate=0.03:0.3:log", "aux_weight=0:500"],
            "num_train_epochs": 5, "max_train_samples": 2000, "max_test_samples": 2000, "num_draws": 50,
            "give_up_below": 0,
        },
        full={"rlct_every_n_epochs": 100},
    ),
}  # fmt: skip


@dataclass
class ReproduceSettings:
    """Settings of a reproduction.

    Raises:
        InputError: a value of another type than its field.
    """

    tasks: list[str] | None = setting("digits (default; needs no network), mnist, cifar10, imdb; one or more.")
    scale: str = setting("quick: a first look, fewer seeds, epochs or samples; full: the paper's grids.", "quick")
    tune: bool = setting("Search learning rate and self-modeling weight first, by a short tuning.", default=True)
    use_tuned: bool = setting(
        "Run the sweep with the best learning rate of the search; default: the recipe's, the paper's.",
        default=False,
    )

    def __post_init__(self) -> None:
        check_types(self)
        if self.tasks is None:
            self.tasks = ["digits"]

    @property
    def names(self) -> list[str]:
        """Return the names of the tasks."""
        return self.tasks or []

    def check(self) -> None:
        """Check the settings.

        Raises:
            InputError: an unknown task or scale, contradictory settings, or a launcher of several processes.
        """
        are_different = len(set(self.names)) == len(self.names) > 0
        if not are_different or not REPRODUCTIONS.keys() >= set(self.names):
            raise InputError("tasks", self.names, f"allowed are different ones of {', '.join(REPRODUCTIONS)}")
        if self.scale not in SCALES:
            raise InputError("scale", self.scale, f"allowed are {', '.join(SCALES)}")
        if self.use_tuned and not self.tune:
            raise InputError("use_tuned", True, "allowed if `tune` is True")
        processes = os.environ.get("WORLD_SIZE", "1")
        if int(processes) > 1:
            problem = "reproduce runs in one process; run the sweep into its folder TASK/sweep by the launcher before"
            raise InputError("WORLD_SIZE", processes, problem)

    def fields_of(self, task: str) -> dict[str, Any]:
        """Return all settings of a task's numbers, as the index records them.

        Args:
            task: its name.
        """
        parts = REPRODUCTIONS[task]
        sweep = parts.quick if self.scale == "quick" else parts.full
        tune = dict(parts.tune) if self.tune else None
        return {"sweep": dict(sweep), "tune": tune, "use_tuned": self.use_tuned}

    def sweep_settings(self, task: str, **found: Any) -> SweepSettings:
        """Return the settings of a task's sweep.

        Args:
            task: its name.
            found: fields from the search.
        """
        given = {**self.fields_of(task)["sweep"], **found}
        return SweepSettings.make(task, **given)

    def tune_settings(self, task: str) -> tuple[RunSettings, TuneSettings]:
        """Return the common settings of a task's trials, and those of its search.

        Args:
            task: its name.
        """
        given = dict(REPRODUCTIONS[task].tune)
        own = {}
        for field in fields(TuneSettings):
            if field.name in given:
                own[field.name] = given.pop(field.name)
        return RunSettings.make(task=task, **given), TuneSettings(**own)
