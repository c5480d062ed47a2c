"""Stop each member of a population by its own rules, while the others train on."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import TrainerControl, TrainerState, TrainingArguments

from .population import SelfModelingPopulation
from .stopping import Stopping
from .stopping_rules import StoppingRules


class MembersStopping(Stopping):
    """Stop each member of a population by its rules. The training ends when all have stopped.

    Args:
        trainer: a `PopulationTrainer`.

    Attributes:
        networks: the progress of the members of all processes, in their order.
    """

    def __init__(self, trainer: Any) -> None:
        super().__init__(trainer)
        self._frozen: FrozenMembers | None = None

    def begin(self, checkpoint: str | None) -> None:
        self._frozen = None
        super().begin(checkpoint)

    def rules(self) -> list[StoppingRules]:
        return [StoppingRules.of(self.trainer.args, member) for member in self.trainer.population.members]

    def figure_name(self, figure: str, k: int) -> str:
        return f"{figure}/{self.trainer.population.members[k].name}"

    def values_of_all(self, values: Any) -> list[float]:
        parts = self.trainer.shares.gather(values)
        return np.concatenate(parts).tolist()

    def sums_of_all(self, total: Tensor) -> list[float]:
        return self.values_of_all(total.double().cpu().numpy())

    def own_sums(self, totals: list[float]) -> Tensor:
        own = self.trainer.shares.own
        return torch.tensor(totals[own.start : own.stop], dtype=torch.float64)

    def freeze(self, stopped: list[int]) -> None:
        own = self.trainer.shares.own
        rows = [k - own.start for k in stopped if k in own]
        if not rows:
            return
        if self._frozen is None:
            self._frozen = FrozenMembers(self.trainer.model)
        self._frozen.add(rows)

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self._frozen is not None:
            self._frozen.restore()


class FrozenMembers:
    """Keep weights and buffers of members that have stopped, while the others train.

    The members stay in the batched computation, and an optimizer moves them by momentum or decay even without a
    gradient. So their values are put back after each step. This serves every optimizer and schedule, and BatchNorm's
    statistics as well.

    Args:
        population: the members of this process.
    """

    def __init__(self, population: SelfModelingPopulation) -> None:
        self._population = population
        self._rows: list[int] = []
        self._kept: dict[str, Tensor] = {}

    def _tensors(self) -> dict[str, Tensor]:
        tensors = dict(self._population.stacked.named_parameters())
        tensors.update(self._population.stacked.named_buffers())
        return tensors

    @torch.no_grad()
    def add(self, rows: list[int]) -> None:
        """Keep the present values of more members.

        Args:
            rows: their numbers within this process.
        """
        self._rows += rows
        for name, tensor in self._tensors().items():
            own = tensor[rows]  # a copy, because rows are a list
            if name in self._kept:
                own = torch.cat([self._kept[name], own])
            self._kept[name] = own

    @torch.no_grad()
    def restore(self) -> None:
        """Give the members the kept values back."""
        for name, tensor in self._tensors().items():
            rows = torch.tensor(self._rows, device=tensor.device)
            tensor.index_copy_(0, rows, self._kept[name])
