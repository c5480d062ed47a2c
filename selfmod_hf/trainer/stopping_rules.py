"""Rules that end the training of one network before its last epoch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from .member import Member
from .training_args import SelfModelingTrainingArguments


@dataclass(frozen=True)
class StoppingRules:
    """Hold the stopping rules of one network. None: no such rule.

    Attributes:
        stop_at_train_loss: end after the first epoch with at most this mean training classification loss.
        early_stopping_patience: end after so many evaluations in a row without an improvement.
    """

    stop_at_train_loss: float | None = None
    early_stopping_patience: int | None = None

    @classmethod
    def of(cls, args: SelfModelingTrainingArguments, member: Member | None = None) -> StoppingRules:
        """Return a member's own rules, or those of the training arguments."""
        loss = getattr(member, "stop_at_train_loss", None)
        patience = getattr(member, "early_stopping_patience", None)
        if loss is None:
            loss = args.stop_at_train_loss
        if patience is None:
            patience = args.early_stopping_patience
        return cls(loss, patience)

    def __bool__(self) -> bool:
        """Return whether there is a rule."""
        return self != StoppingRules()

    def __str__(self) -> str:
        rules = [f"{name}={value}" for name, value in vars(self).items() if value is not None]
        return " and ".join(rules)


@dataclass(frozen=True)
class Stop:
    """Hold where a rule ended the training of a network.

    Attributes:
        step: optimizer steps until then.
        epoch: epochs until then.
        rule: the name of the rule's field.
    """

    step: int
    epoch: float
    rule: str


@dataclass
class Progress:
    """Follow the training of one network by its rules.

    Attributes:
        rules: its stopping rules.
        lowest_loss: the lowest mean training classification loss of an epoch.
        best: the best evaluated figure.
        waited: evaluations since the best one.
        stop: the end by a rule.

    Example:
        >>> progress = Progress(StoppingRules(early_stopping_patience=2))
        >>> [progress.after_evaluation(loss, greater_is_better=False) for loss in (0.5, 0.6, 0.5)]
        [None, None, 'early_stopping_patience']
    """

    rules: StoppingRules
    lowest_loss: float | None = None
    best: float | None = None
    waited: int = 0
    stop: Stop | None = None

    def after_epoch(self, loss: float) -> str | None:
        """Return the name of the rule that ends the training after an epoch, if there is one.

        Args:
            loss: the epoch's mean training classification loss. NaN is never low enough.
        """
        if not math.isnan(loss):
            before = math.inf if self.lowest_loss is None else self.lowest_loss
            self.lowest_loss = min(loss, before)
        limit = self.rules.stop_at_train_loss
        if limit is not None and loss <= limit:
            return "stop_at_train_loss"
        return None

    def after_evaluation(self, figure: float, greater_is_better: bool) -> str | None:
        """Return the name of the rule that ends the training after an evaluation, if there is one.

        Args:
            figure: the evaluated figure. An equal one is no improvement, and NaN never is.
            greater_is_better: whether it is better if it is greater.
        """
        gain = figure if greater_is_better else -figure
        before = float("-inf")
        if self.best is not None:
            before = self.best if greater_is_better else -self.best
        if gain > before:
            self.best = figure
            self.waited = 0
            return None
        self.waited += 1
        patience = self.rules.early_stopping_patience
        if patience is not None and self.waited >= patience:
            return "early_stopping_patience"
        return None

    def describe(self) -> dict[str, Any]:
        """Return its entry in `stopping.json`."""
        entry: dict[str, Any] = {**vars(self), "rules": vars(self.rules)}
        if self.stop is not None:
            entry["stop"] = vars(self.stop)
        return entry

    @classmethod
    def from_description(cls, entry: dict[str, Any]) -> Progress:
        """Return the progress of an entry in `stopping.json`."""
        stop = entry["stop"]
        if stop is not None:
            stop = Stop(**stop)
        return cls(StoppingRules(**entry["rules"]), entry["lowest_loss"], entry["best"], entry["waited"], stop)
