"""The networks and the data of a tuning's trials."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import fields
from itertools import islice, product
from typing import Any

import torch

from ..data import TaskData
from ..errors import InputError
from ..trainer.member import Member
from ..trainer.population import SelfModelingPopulation
from ..trainer.task_metrics import evaluated_names
from ..trainer.training_args import check_for_population
from .data_settings import DataSettings
from .network_settings import NetworkSettings, build_network
from .run_settings import RunSettings
from .setting import Values
from .trial_parameters import MEMBER_PARAMETERS, OVERRULED_BY, as_run_fields, only_value, some_values

KEPT = 4  # data sets in memory
MOST_SHAPES = 64  # that are built before the first training
_OF_A_BACKBONE = ("backbone_name", "backbone_config")  # they decide the preprocessing or the tokenizer
_DATA_FIELDS = [field.name for field in fields(DataSettings)]
_NETWORK_FIELDS = [field.name for field in fields(NetworkSettings)]
_OF_DATA = (*_DATA_FIELDS, *_OF_A_BACKBONE)
_OF_A_SHAPE = (*_OF_DATA, *_NETWORK_FIELDS)


class TrialNetworks:
    """Builds networks from parameters, and loads each distinct data set once.

    "Common" are the parameters that trials of one population share.

    Args:
        base: settings of all trials.
        space: from `parse_space`.
    """

    def __init__(self, base: RunSettings, space: Values) -> None:
        self.base = base
        self.space = space
        self._data: OrderedDict[str, TaskData[Any]] = OrderedDict()
        self._stackable: dict[str, bool] = {}

    def check(self) -> tuple[TaskData[Any], str]:
        """Reject a space before any training, and return the data of one shape, and the name of the metric.

        Each choice and each end of a range is tried. Shapes are built, at most `MOST_SHAPES`.

        Raises:
            ValueError: names a field with an unusable value, or one that is given twice. Or shapes are judged by
                different metrics, or without the one that a tuning needs.
        """
        given = self.base.given
        for name, distribution in self.space.items():
            if name in given:
                raise InputError(name, given[name], "is searched by `space`; give it in one place")
            for other in OVERRULED_BY.get(name, ()):
                if other in given or other in self.space:
                    raise InputError("space", name, f"counts for nothing with `{other}`; give one of them")
            for value in some_values(distribution):
                self._check_value(name, value)
        metrics: dict[str, None] = {}
        for shape in islice(self._shapes(), MOST_SHAPES):
            data = self.data(shape)
            settings = self.run(shape).network
            network = build_network(settings, data)  # raises an error for a shape that does not exist
            metrics.setdefault(evaluated_names(network)[0])
        if len(metrics) > 1:
            raise InputError("space", list(self.space), f"trials have different metrics: {', '.join(metrics)}")
        [metric] = metrics
        if metric not in given.get("metrics", [metric]):
            raise InputError("metrics", given["metrics"], f"a tuning measures the {metric}; allowed with it")
        return data, metric

    def _check_value(self, name: str, value: Any) -> None:
        try:
            changes = as_run_fields({name: value})
            self.base.replace(**changes)
        except ValueError as error:
            raise InputError("space", f"{name}={value}", str(error)) from error

    def _shapes(self) -> Iterator[dict[str, Any]]:
        """Yield the combinations of parameters that decide data or architecture."""
        choices = {}
        for name, distribution in self.space.items():
            if name in _OF_A_SHAPE and name not in MEMBER_PARAMETERS:
                choices[name] = some_values(distribution)
        for values in product(*choices.values()):
            yield dict(zip(choices, values, strict=True))

    def run(self, common: Values) -> RunSettings:
        """Return the settings of trials with these parameters. Their networks have a self-model."""
        changes: dict[str, Any] = {"aux_weight": 1.0}
        changes |= as_run_fields(common)
        return self.base.replace(**changes)

    def data(self, common: Values) -> TaskData[Any]:
        """Return the data of trials with these parameters. The last ones used stay in memory."""
        own = {name: common[name] for name in _OF_DATA if name in common}
        key = json.dumps(own)
        kept = self._data
        if key not in kept:
            run = self.run(own)
            kept[key] = run.load_data()
        kept.move_to_end(key)
        while len(kept) > KEPT:
            kept.popitem(last=False)
        return kept[key]

    def can_stack(self, common: Values) -> bool:
        """Return whether trials with these parameters can train as one population.

        A pretrained backbone cannot, because a population draws its initial weights. Neither can task models with their
        own heads, frozen parameters, or a network or an optimizer in which members influence each other.
        """
        key = json.dumps(common)
        if key not in self._stackable:
            self._stackable[key] = self._try_to_stack(common)
        return self._stackable[key]

    def _try_to_stack(self, common: Values) -> bool:
        run = self.run(common)
        run = run.replace(target_source=None)  # other targets come from the Trainer
        if run.network.backbone_name is not None or run.network.freeze or run.network.head == "own":
            return False
        parameters = {name: only_value(self.space[name]) for name in MEMBER_PARAMETERS if name in self.space}
        own: dict[str, Any] = {"aux_weight": 1.0}
        own |= as_run_fields(parameters)
        own.pop("target_source", None)
        members = [Member(seed, **own) for seed in (0, 1)]
        data = self.data(common)
        count = min(2, len(data.train))
        rows = torch.arange(count)
        batch = data.train.take(rows)
        config = build_network(run.network, data).config
        try:
            check_for_population(run.training, members)
            population = SelfModelingPopulation(config, members)
            population(**batch)
        except (ValueError, RuntimeError):  # of arguments, and of a module that torch cannot map
            return False
        return True

    def build(self, common: Values, members: Sequence[Member]) -> tuple[RunSettings, Any]:
        """Return the settings and the network of a group's trials: a population, or a single network.

        Args:
            common: parameters of all of them.
            members: seed and own parameters of each.
        """
        first = members[0]
        run = self.run(common)
        run = run.replace(seed=first.seed)
        data = self.data(common)
        if len(members) == 1:
            own = first.describe()
            # a network of weight 0 keeps its self-model, as in a population
            run = run.replace(**own, target_layers=run.network.target_layers)
            return run, run.build_network(data)
        rates = []
        for member in members:
            if member.learning_rate is not None:
                rates.append(member.learning_rate)
        if rates:
            run = run.replace(learning_rate=max(rates))  # shown in the log; each member has its own
        config = build_network(run.network, data).config
        return run, SelfModelingPopulation(config, members)
