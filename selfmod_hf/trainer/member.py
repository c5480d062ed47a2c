"""`Member`: the numbers in which one network of a population differs from the others."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from ..errors import InputError


@dataclass(frozen=True)
class Member:
    """What tells one network of a population from the others.

    Attributes:
        seed: of its initial weights and of its order of samples.
        aux_weight: its weight of the self-modeling loss, >= 0.
        detach_targets: whether the predicted activations are constants for its gradient.
        learning_rate: its own, > 0; None: that of the training arguments.

    Raises:
        InputError: a learning rate that is not a finite number above 0.
    """

    seed: int
    aux_weight: float
    detach_targets: bool = True
    learning_rate: float | None = None

    def __post_init__(self) -> None:
        rate = self.learning_rate
        if rate is not None and not 0 < rate < math.inf:
            raise InputError("learning_rate", rate, "allowed are None and finite numbers above 0")

    @property
    def name(self) -> str:
        """Return its name in logs and files, for example `aw10-seed1`, `aw10-attached-seed1`, `aw10-lr0.05-seed1`."""
        attached = "" if self.detach_targets else "-attached"
        rate = "" if self.learning_rate is None else f"-lr{self.learning_rate:g}"
        return f"aw{self.aux_weight:g}{attached}{rate}-seed{self.seed}"

    def describe(self) -> dict[str, Any]:
        """Return its entry in `population.json`, which leaves out a learning rate that is not its own."""
        entry = asdict(self)
        if self.learning_rate is None:
            del entry["learning_rate"]
        return entry
