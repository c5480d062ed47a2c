"""The plan of a sweep: its arms and seeds, one network each, and the settings of each network."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

from ..errors import InputError
from ..trainer.member import MEMBER_FIELDS, Member
from .arms import STOP, Arm, Cell, stop_arm
from .data_settings import DataSettings
from .network_settings import NetworkSettings
from .run_settings import GROUPS, NO_RESULT, RunSettings, default_of
from .setting import Values
from .trial_parameters import OVERRULED_BY

# training settings in recipes, which a results folder records in any case
RECIPE_TRAINING = ("optim", "optim_args", "lr_scheduler_type", "max_grad_norm", "weight_decay", "learning_rate")
BATCH_SIZE = "per_device_train_batch_size"
# settings that are recorded for each sweep in a way of their own
RECORDED_APART = (
    "task",
    "max_train_samples",
    "max_test_samples",
    "augment",
    "dataset_name",
    BATCH_SIZE,
)
ALWAYS = ("aux_weight", "detach_targets")  # a member has these in any case
# fields of a member in which None is a value: no such rule, and transformers' choice of parameters
NONE_IS_A_VALUE = ("weight_decay_parameters", STOP, "early_stopping_patience")
# settings with a column of another name, or with a column in any case
COLUMN_OF = {"train_batch_size": "batch_size", "num_train_epochs": "num_epochs"}
KNOWN_COLUMNS = ("aux_weight", "detach_targets", "learning_rate", "batch_size", "num_epochs", "hidden_size")


@dataclass(frozen=True)
class Plan:
    """Hold the arms, the seeds and the settings of a sweep.

    Attributes:
        base: settings of all networks. Its batch size is that of one network over all processes.
        arms: each with its changes of the base.
        seeds: of each arm.
        sampling: arguments of `estimate_llc`.
        rlct_every_n_epochs: RLCTs are estimated after every n-th epoch of the training too. 0: only at the end.
    """

    base: RunSettings
    arms: tuple[Arm, ...]
    seeds: tuple[int, ...]
    sampling: Values
    rlct_every_n_epochs: int = 0

    @property
    def task(self) -> str:
        """Return the name of the task."""
        return self.base.task.name

    @cached_property
    def cells(self) -> tuple[Cell, ...]:
        """Return the networks."""
        found = []
        for arm in self.arms:
            for seed in self.seeds:
                found.append(Cell(arm.name, seed))
        return tuple(found)

    @cached_property
    def _runs(self) -> dict[str, RunSettings]:
        return {}

    def run_of(self, arm: Arm) -> RunSettings:
        """Return the settings of an arm's networks, without their seeds and without a stop by another arm.

        Raises:
            InputError: a change of no setting, or an unusable value.
        """
        for name, value in arm.changes.items():
            for other in OVERRULED_BY.get(name, ()):
                if other in self.base.given and other != BATCH_SIZE:
                    raise InputError(name, value, f"allowed in arms without `{other}`")
        if arm.name not in self._runs:
            changes = run_changes(arm)
            self._runs[arm.name] = self.base.replace(**changes)
        return self._runs[arm.name]

    def shape_of(self, arm: Arm) -> str:
        """Return the changes that a population of this arm shares. Arms of equal shape can train as one population."""
        changes = run_changes(arm)
        shared = {name: value for name, value in changes.items() if name not in MEMBER_FIELDS}
        return json.dumps(shared, sort_keys=True)

    def shape_run(self, arm: Arm, arms: Iterable[Arm]) -> RunSettings:
        """Return the common settings of a population of an arm's shape.

        Its weight is above 0, because the baseline of a recipe alone has no target layers. Networks without target
        layers have the weight 0, unless an arm predicts activations.

        Args:
            arm: of the shape.
            arms: all arms.
        """
        shared = json.loads(self.shape_of(arm))
        run = self.base.replace(**shared, aux_weight=1.0)
        if run.network.target_layers:
            return run
        for other in arms:
            network = self.run_of(other).network
            if network.aux_weight or network.activation_penalty:
                return run
        return run.replace(aux_weight=0.0)

    def members(
        self,
        cells: Sequence[Cell],
        arms: Mapping[str, Arm],
        stops: Mapping[Cell, float],
        *,
        every_field: bool = False,
    ) -> list[Member]:
        """Return the networks of a population as its members.

        Args:
            cells: the networks.
            arms: by name.
            stops: the training losses at which networks stop, if those are other networks' losses.
            every_field: give each member a value for each of its fields. False: only for those in which arms differ.
        """
        if every_field:
            varying = [name for name in MEMBER_FIELDS if name != "seed"]
        else:
            varying = self._varying_fields(cells, arms)
        found = []
        for cell in cells:
            run = self.run_of(arms[cell.arm])
            values = {name: value_of(run, name) for name in varying}
            if cell in stops:
                values[STOP] = stops[cell]
            found.append(Member(seed=cell.seed, **values))
        return found

    @staticmethod
    def _varying_fields(cells: Sequence[Cell], arms: Mapping[str, Arm]) -> list[str]:
        """Return the fields of a member that some networks' arms change, and those of ALWAYS."""
        varying = list(ALWAYS)
        for cell in cells:
            for name in run_changes(arms[cell.arm]):
                if name in MEMBER_FIELDS and name not in varying:
                    varying.append(name)
        return varying

    @property
    def settings(self) -> dict[str, Any]:
        """Return the common settings of two sweeps in one folder: everything except arms and seeds."""
        base = self.base
        data = {
            "dataset_name": base.task.dataset_name,
            "max_train_samples": base.data.max_train_samples,
            "max_test_samples": base.data.max_test_samples,
        }
        if base.data.augment:
            data["augment"] = True
        training = self._training()
        network: dict[str, Any] = {}
        for name, value in base.given.items():
            if name in NO_RESULT or name in RECORDED_APART:
                continue
            owner = _owner_of(name)
            if owner is DataSettings:
                data.setdefault(name, value)
            elif owner is NetworkSettings:
                network.setdefault(name, value)
            elif value != default_of(name):
                training.setdefault(name, value)
        sampling = dict(self.sampling)
        if self.rlct_every_n_epochs:  # missing otherwise, as in folders of versions without this setting
            sampling["rlct_every_n_epochs"] = self.rlct_every_n_epochs
        settings = {
            "task": self.task,
            "training": training,
            "sampling": sampling,
            "data": data,
        }
        if network:
            settings["network"] = network
        return settings

    def _training(self) -> dict[str, Any]:
        """Return the training settings of the recipe, the batch size and the number of epochs."""
        base = self.base
        recipe = base.recipe_fields()
        training = {name: recipe[name] for name in RECIPE_TRAINING if name in recipe}
        training.setdefault("learning_rate", base.training.learning_rate)
        training[BATCH_SIZE] = base.training.per_device_train_batch_size
        training["num_train_epochs"] = base.training.num_train_epochs
        for name in training:
            if name in base.given:
                training[name] = base.given[name]
        epochs = float(training["num_train_epochs"])
        if epochs.is_integer():
            training["num_train_epochs"] = int(epochs)
        return training


def _owner_of(name: str) -> type:
    """Return the group of a field."""
    for group in GROUPS:
        names = [one.name for one in fields(group)]
        if name in names:
            return group
    raise KeyError(name)


def run_changes(arm: Arm) -> dict[str, Any]:
    """Return the changes of an arm that are settings of a run as they stand.

    `stop_at_train_loss` may name another arm. It is a number when that arm has been trained.
    """
    changes = dict(arm.changes)
    if stop_arm(arm) is not None:
        del changes[STOP]
    if "train_batch_size" in changes:
        changes[BATCH_SIZE] = changes.pop("train_batch_size")
    return changes


def left_to_members(arms: Iterable[Arm]) -> dict[str, None]:
    """Return the settings of NONE_IS_A_VALUE that an arm changes, as None: each member has its own value.

    Args:
        arms: of the networks of a population.
    """
    changed: set[str] = set()
    for arm in arms:
        changed.update(run_changes(arm))
    return {name: None for name in NONE_IS_A_VALUE if name in changed}


def value_of(run: RunSettings, name: str) -> Any:
    """Return the value of a run's setting.

    Raises:
        InputError: there is no such setting.
    """
    for part in (run.network, run.training, run.data):
        if hasattr(part, name):
            return getattr(part, name)
    raise InputError(name, None, "no setting of a run has this name")


# ---- columns ----


def axis_columns(arms: Iterable[Arm]) -> dict[str, str]:
    """Return the settings in which arms differ, each with the name of its column, in their order."""
    all_changes = [arm.changes for arm in arms]
    found: dict[str, str] = {}
    for name in _distinct_names(all_changes):
        values = [changes.get(name) for changes in all_changes]
        texts = set(map(repr, values))
        if len(texts) < 2:
            continue
        found[name] = COLUMN_OF.get(name, name)
        if name == "hidden_sizes" and _are_single_layers(values):
            found[name] = "hidden_size"
    return found


def _distinct_names(all_changes: Iterable[Values]) -> list[str]:
    """Return the names of the settings in some changes, in their order."""
    names: dict[str, None] = {}
    for changes in all_changes:
        names |= dict.fromkeys(changes)
    return list(names)


def _are_single_layers(values: Iterable[Sequence[int] | None]) -> bool:
    """Return whether all values of `hidden_sizes` are one layer. A missing value is not."""
    return all(value is not None and len(value) == 1 for value in values)


def own_columns(run: RunSettings, arm: Arm, columns: Mapping[str, str]) -> dict[str, Any]:
    """Return the values of an arm in the columns that a row does not have in any case.

    Args:
        run: settings of the arm.
        arm: the arm.
        columns: from `axis_columns`.
    """
    found = {}
    for name, column in columns.items():
        if column in KNOWN_COLUMNS:
            continue
        value = value_of(run, name)
        if name == STOP:  # one type for the column: the name of an arm, or a number as a text
            if value is not None:
                value = str(value)
            value = stop_arm(arm) or value
        if isinstance(value, (list, tuple)):
            joint = "-" if name == "hidden_sizes" else "+"
            value = joint.join(map(str, value))
        found[column] = value
    return found
