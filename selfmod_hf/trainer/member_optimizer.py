"""One optimizer for members with a learning rate, momentum or weight decay of their own.

torch keeps these numbers in parameter groups, and a population keeps all members in one parameter of shape (K, ...).
Neighbouring members with equal numbers form a run. Each run has parameter groups of its own, whose parameters are
views w[a:b] of the population's. So any element-wise optimizer of torch does exactly what it does for a network alone.

The state of such an optimizer is saved as that of the complete parameters. So a checkpoint does not depend on the
number of processes, each of which has its own members.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any

import torch
from torch import Tensor
from transformers import TrainingArguments

from ..errors import InputError
from .member import Member, runs_of
from .population import SelfModelingPopulation
from .shares import has_members

State = dict[str, Any]


@dataclass(frozen=True)
class OptimizerNumbers:
    """Hold the numbers of one member's optimizer.

    Attributes:
        learning_rate: > 0.
        momentum: of SGD. None: the optimizer's own.
        weight_decay: of the parameters that decay.
        decayed: names of the parameters that decay.
    """

    learning_rate: float
    momentum: float | None
    weight_decay: float
    decayed: frozenset[str]

    @classmethod
    def of(
        cls, member: Member, args: TrainingArguments, model: torch.nn.Module, decayed: Sequence[str]
    ) -> OptimizerNumbers:
        """Return a member's own numbers, or those of the training arguments.

        Args:
            member: of the population.
            args: of the training.
            model: has the parameters.
            decayed: names of the parameters that decay in members without a choice of their own.
        """
        rate, decay = member.learning_rate, member.weight_decay
        if rate is None:
            rate = args.learning_rate
        if decay is None:
            decay = args.weight_decay
        if member.weight_decay_parameters is not None:
            decayed = decayed_names(model, member.weight_decay_parameters)
        return cls(rate, member.momentum, decay, frozenset(decayed))


@dataclass(frozen=True)
class _View:
    """Describe a view `parameter[members]`: of which parameter, by its number, and of which members."""

    index: int
    members: slice


class MemberOptimizer:
    """Make an optimizer for members with numbers of their own.

    Args:
        optimizer_class: an element-wise optimizer of torch.
        settings: its arguments.
        population: of K members.
        args: of the training.
        decayed: names of the parameters that decay in members without a choice of their own.

    Attributes:
        optimizer: of views of the parameters.
        clock: an optimizer of nothing, with a learning rate of 1. A schedule changes its rate, and each member's rate
            is its own times that. So the saved schedule is the same for all members and processes.
        scheduler: of `clock`.
    """

    def __init__(
        self,
        optimizer_class: type[torch.optim.Optimizer],
        settings: Mapping[str, Any],
        population: SelfModelingPopulation,
        args: TrainingArguments,
        decayed: Sequence[str],
    ) -> None:
        parameters = dict(population.named_parameters())
        numbers = []
        for member in population.members:
            numbers.append(OptimizerNumbers.of(member, args, population, decayed))
        self.parameters = list(parameters.values())
        self._views: dict[Tensor, _View] = {}
        groups = []
        for members, own in runs_of(numbers):
            group: State = {"lr": own.learning_rate}
            if own.momentum is not None:
                group["momentum"] = own.momentum
            for decays in (True, False):
                chosen = [index for index, name in enumerate(parameters) if (name in own.decayed) is decays]
                if chosen:
                    views = self._views_of(chosen, slice(members.start, members.stop))
                    decay = own.weight_decay if decays else 0.0
                    groups.append({**group, "params": views, "weight_decay": decay})
        self.optimizer = optimizer_class(groups, **settings)
        self.clock = torch.optim.SGD([torch.nn.Parameter(torch.zeros(()))], lr=1.0)
        self.scheduler: Any = None
        self._rates = [group["lr"] for group in self.optimizer.param_groups]
        self._has_momentum = isinstance(self.optimizer, torch.optim.SGD)
        self._stepped = False
        self.optimizer.register_step_pre_hook(self._bind)
        self.optimizer.register_step_post_hook(self._release)
        self.optimizer.register_state_dict_post_hook(self._complete)

    def _views_of(self, indices: Sequence[int], members: slice) -> list[torch.nn.Parameter]:
        views = []
        for index in indices:
            view = torch.nn.Parameter(self.parameters[index].data[members])
            self._views[view] = _View(index, members)
            views.append(view)
        return views

    def _bind(self, *_: Any) -> None:
        """Give each view the present numbers and gradient of its parameter, and each group its learning rate."""
        factor = self.scheduler.get_last_lr()[0]
        for group, rate in zip(self.optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * factor
        for view, place in self._views.items():
            parameter = self.parameters[place.index]
            view.data = parameter.data[place.members]
            view.grad = None if parameter.grad is None else parameter.grad[place.members]

    def _release(self, *_: Any) -> None:
        """Let go of the gradients, so that they do not outlive those of the parameters."""
        self._stepped = True
        self.clock.step()  # the schedule warns if it goes on before a step
        for view in self._views:
            view.grad = None

    # ---- files ----

    def _places(self) -> list[_View]:
        """Return the place of each view, in the order of a `state_dict`."""
        places = []
        for group in self.optimizer.param_groups:
            for view in group["params"]:
                places.append(self._views[view])
        return places

    @torch.no_grad()
    def _complete(self, _: Any, state_dict: State) -> State:
        """Return the state of the complete parameters."""
        state: dict[int, State] = {}
        for number, place in enumerate(self._places()):
            parameter = self.parameters[place.index]
            values = dict(state_dict["state"].get(number, {}))
            if self._has_momentum and self._stepped and values.get("momentum_buffer") is None:
                # a momentum of 0 has no buffer, and the file has one for all members
                values["momentum_buffer"] = torch.zeros_like(parameter[place.members])
            complete = state.setdefault(place.index, {})
            for name, value in values.items():
                if not has_members(value):
                    complete[name] = value
                    continue
                if name not in complete:
                    complete[name] = torch.zeros_like(parameter, dtype=value.dtype)
                complete[name][place.members] = value
        group = dict(state_dict["param_groups"][0], params=list(range(len(self.parameters))))
        return {"state": state, "param_groups": [group]}

    def learning_rates(self) -> list[float]:
        """Return the present learning rate of each member."""
        factor = self.scheduler.get_last_lr()[0]
        rates: dict[int, float] = {}
        for group, rate in zip(self.optimizer.param_groups, self._rates, strict=True):
            members = self._views[group["params"][0]].members
            for member in range(members.start, members.stop):
                rates[member] = rate * factor
        return [rates[member] for member in sorted(rates)]

    @torch.no_grad()
    def divide(self, _: Any, state_dict: State) -> State:
        """Return the state of the views, from that of the complete parameters of these members."""
        self._stepped = self._stepped or any(state_dict["state"].values())
        state = {}
        places = self._places()
        for number, place in enumerate(places):
            if place.index in state_dict["state"]:
                values = dict(state_dict["state"][place.index])
                for name, value in values.items():
                    values[name] = value[place.members] if has_members(value) else value
                state[number] = values
        groups = []
        first = 0
        for group in self.optimizer.param_groups:
            numbers = list(range(first, first + len(group["params"])))
            groups.append({**group, "params": numbers})
            first += len(numbers)
        return {"state": state, "param_groups": groups}


@torch.no_grad()
def clip_grad_norms(parameters: Iterable[torch.nn.Parameter], max_norm: float) -> Tensor:
    """Scale each member's gradient to a norm of at most `max_norm`, and return the norms before, (K,).

    Args:
        parameters: each (K, ...).
        max_norm: infinity scales nothing.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norms_by_parameter = []
    for gradient in gradients:
        flat = gradient.reshape(len(gradient), -1)
        norms_by_parameter.append(flat.norm(dim=1))
    norms = torch.stack(norms_by_parameter).norm(dim=0)  # (K,)
    if math.isfinite(max_norm):
        scale = (max_norm / (norms + 1e-6)).clamp(max=1.0)  # torch.nn.utils.clip_grad_norm_
        for gradient in gradients:
            ones = [1] * (gradient.dim() - 1)
            gradient.mul_(scale.view(-1, *ones))
    return norms


def decayed_names(model: torch.nn.Module, patterns: Sequence[str]) -> list[str]:
    """Return the names of the parameters that patterns such as `classifier.*` match.

    A pattern matches the end of a name too, from a dot on, because wrappers put names in front.

    Raises:
        InputError: a pattern without any parameter.
    """
    names = [name for name, _ in model.named_parameters()]
    found = []
    for pattern in patterns:
        own = [name for name in names if fnmatch(name, pattern) or fnmatch(name, f"*.{pattern}")]
        if not own:
            problem = f"matches no parameter; allowed are names with wildcards, such as {names[-1]}"
            raise InputError("weight_decay_parameters", pattern, problem)
        found += own
    return sorted(set(found))
