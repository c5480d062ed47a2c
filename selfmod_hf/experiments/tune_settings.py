"""The settings of a search with Optuna."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ..errors import InputError
from .setting import Values, check_types, setting

STORAGE = (
    "Database of the trials, for workers without a common folder: postgresql://user@host/name or mysql://... The "
    "folder's name is the study's. Default: a journal in the folder."
)
DEFAULT_SPACE = {"aux_weight": "0:20"}


@dataclass(frozen=True)
class TuneSettings:
    """How a tuning searches.

    Attributes:
        space: range of each searched parameter, or texts such as `aux_weight=0:20`. See `parse_space`.
        trials: number of trials, over all workers.
        stack: trials of equal shape and data in one population. 1: one at a time.
        give_up_below: a trial is pruned if its accuracy, half-way or at the end, is below this share of the way from
            chance to the best. 0: no trial is.
        keep_accuracy: the best trial has the lowest RLCT within this of the best accuracy. With `head` own it is that
            of the first metric of the labels, for perplexity as a share of the best one.
        num_chains: chains of each RLCT. None: the preset's.
        num_draws: draws of each chain. None: the preset's.
        storage: URL of a PostgreSQL or MySQL database with the trials of all workers. None: a journal in the folder.

    Raises:
        InputError: a value of another type than its field, or a number outside its range.
    """

    space: Values = field(default_factory=lambda: dict(DEFAULT_SPACE))
    trials: int = setting("Trials of the tuning, over all workers.", 40)
    stack: int = setting("Trials of equal shape and data that train as one population; 1: one at a time.", 8)
    give_up_below: float = setting(
        "Prune a trial whose accuracy, half-way or at the end, is below this share of the way from chance to the best.",
        0.5,
    )
    keep_accuracy: float = setting("The best trial has the lowest RLCT within this of the best accuracy.", 0.01)
    num_chains: int | None = setting("Chains of each RLCT; default: the preset's.")
    num_draws: int | None = setting("Draws of each chain; default: the preset's.")
    storage: str | None = field(default=None, repr=False, metadata={"help": STORAGE})  # it may hold a password

    def __post_init__(self) -> None:
        if isinstance(self.space, (list, tuple)):
            object.__setattr__(self, "space", _by_name(self.space))
        check_types(self)
        for name in ("trials", "stack"):
            if getattr(self, name) < 1:
                raise InputError(name, getattr(self, name), "allowed are integers of at least 1")
        for name in ("give_up_below", "keep_accuracy"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(name, getattr(self, name), "allowed are numbers from 0 to 1")


def _by_name(entries: Sequence[str]) -> dict[str, str]:
    """Return the ranges in texts `NAME=RANGE`, by name."""
    found = {}
    for entry in entries:
        name, equals, text = str(entry).partition("=")
        if not equals:
            raise InputError("space", entry, "allowed is NAME=RANGE")
        found[name] = text
    return found
