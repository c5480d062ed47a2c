"""The arms of a study: their names, the settings in which each differs from the base, and what each is compared with.

A grid is a product of axes. An axis is a list of values of one setting, or a list of named arms. Arms are compared
along one axis: the named arms if there are any, else the self-model's weight, else the first axis. The other axes
divide the arms into panels. Each panel has one baseline.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from ..errors import InputError
from .folder_names import text_of_value
from .setting import Values, is_number

NAMED = "arms"  # the axis of named arms
STOP = "stop_at_train_loss"  # a number, or the name of another arm
LONGEST_NAME = 200  # bytes, because a network's folder has the name of its arm
USUAL_BASELINES: Values = {NAMED: "baseline", "aux_weight": 0.0}
USUAL_TARGETS: Values = {"detach_targets": True, "target_source": "own", "target_normalization": "none"}
FIRST = ("hidden_sizes", "aux_weight", "detach_targets")  # in names


@dataclass(frozen=True)
class Arm:
    """Describe one arm of a study: networks that differ by their seed only.

    Attributes:
        name: it begins the names of its networks.
        changes: the settings in which it differs from the base of the study, as fields of `RunSettings`.
        panel: it is compared with arms of the same panel. Empty: the study has one panel.
        baseline: name of the arm that it is compared with. A baseline names itself.
    """

    name: str
    changes: Values = field(default_factory=dict)
    panel: str = ""
    baseline: str = ""

    @property
    def is_baseline(self) -> bool:
        """Return whether the arm is the baseline of its panel."""
        return self.baseline == self.name


@dataclass(frozen=True)
class Cell:
    """Name one network of a sweep.

    Attributes:
        arm: name of its arm.
        seed: of its initial weights and of its order of samples.
    """

    arm: str
    seed: int

    @property
    def name(self) -> str:
        """Return the name of the network, and of its folder."""
        return network_name(self.arm, self.seed)


def make_arms(
    axes: Mapping[str, Sequence[Any]],
    named: Mapping[str, Values] | None = None,
    baseline: str | None = None,
) -> list[Arm]:
    """Return the product of all axes as arms.

    A baseline of weight 0 predicts nothing, so arms of weight 0 with different kinds of targets are one arm.

    Args:
        axes: values of each setting.
        named: changes of each named arm, a further axis.
        baseline: the baseline's value on the compared axis, for example a named arm. None: the named arm "baseline",
            the weight 0, or else the first value.

    Raises:
        InputError: an axis without a value or with equal values, an unusable name, or an unknown baseline.

    Example:
        >>> for arm in make_arms({"hidden_sizes": [[8], [16]], "aux_weight": [0.0, 1.0]}):
        ...     print(arm.name, arm.panel, arm.baseline)
        h8-aw0 h8 h8-aw0
        h8-aw1 h8 h8-aw0
        h16-aw0 h16 h16-aw0
        h16-aw1 h16 h16-aw0
    """
    grid = _Grid(axes, named or {}, baseline)
    arms: dict[str, Arm] = {}
    for point in product(*grid.axes.values()):
        chosen = dict(zip(grid.axes, point, strict=True))
        arm = grid.arm_at(chosen)
        name = arm.name
        same_name = arms.setdefault(name, arm)
        if same_name.changes != arm.changes:
            raise InputError("arms", name, f"is the name of {same_name.changes} and of {arm.changes}")
        size = len(name.encode())
        if size > LONGEST_NAME:
            raise InputError("arms", name, f"allowed are names of at most {LONGEST_NAME} bytes")
    for arm in arms.values():
        _check_stop(arm, arms)
    return list(arms.values())


class _Grid:
    """The axes of a study, and the axis along which arms are compared.

    Next to named arms, an axis of a single value is no part of a name.
    """

    def __init__(
        self,
        axes: Mapping[str, Sequence[Any]],
        named: Mapping[str, Values],
        baseline: str | None,
    ) -> None:
        self.named = named
        self.axes = {name: list(entries) for name, entries in axes.items()}
        for name, entries in self.axes.items():
            _check_axis(name, entries)
        for name, changes in named.items():
            _check_named(name, changes, self.axes)
        if named:
            self.axes[NAMED] = list(named)
        self.in_names = list(self.axes)
        if named:
            self.in_names = [axis for axis in self.axes if axis == NAMED or self._has_several(axis)]
        self.compared = _compared_axis(self.axes)
        self.baseline = _baseline_value(self.compared, self.axes, baseline)

    def _has_several(self, axis: str) -> bool:
        return len(self.axes[axis]) > 1

    def arm_at(self, chosen: Values) -> Arm:
        """Return the arm with these values on the axes."""
        changes = self._changes_at(chosen)
        stop = changes.get(STOP)
        if isinstance(stop, str) and stop in self.named:
            in_same_panel = {**chosen, NAMED: stop}
            changes[STOP] = self._name_at(in_same_panel)
        at_baseline = dict(chosen)
        if self.compared is not None:
            at_baseline[self.compared] = self.baseline
        others = {axis: chosen[axis] for axis in self.in_names if axis != self.compared}
        return Arm(
            name=self._name_at(chosen),
            changes=changes,
            panel=name_of_values(others),
            baseline=self._name_at(at_baseline),
        )

    def _name_at(self, chosen: Values) -> str:
        changes = self._changes_at(chosen)
        values = {}
        for axis in self.in_names:
            values[axis] = changes.get(axis, chosen[axis])
        return name_of_values(values) or "all"

    def _changes_at(self, chosen: Values) -> dict[str, Any]:
        changes: dict[str, Any] = {}
        for axis, value in chosen.items():
            if axis == NAMED:
                changes.update(self.named[value])
            else:
                changes.setdefault(axis, value)
        predicts_nothing = changes.get("aux_weight") == 0
        # an arm that stops at the loss of another one has that arm's kind of targets
        if predicts_nothing and STOP not in changes:
            for axis, value in USUAL_TARGETS.items():
                if axis in chosen:
                    changes[axis] = value
        return changes


def stop_arm(arm: Arm) -> str | None:
    """Return the name of the arm at whose training loss this one stops, or None."""
    value = arm.changes.get(STOP)
    return value if isinstance(value, str) else None


def _check_stop(arm: Arm, arms: Mapping[str, Arm]) -> None:
    """Raise an InputError if an arm stops at the training loss of no arm, of itself, or of one that stops likewise."""
    other = stop_arm(arm)
    if other is None:
        return
    if other not in arms:
        names = ", ".join(arms)
        raise InputError(STOP, other, f"allowed are numbers and other arms: {names}")
    if stop_arm(arms[other]) is not None:
        raise InputError(STOP, other, "this arm stops at the training loss of another one, or of itself")


def name_of_values(values: Values) -> str:
    """Return values on axes as a name.

    Example:
        >>> name_of_values({"aux_weight": 10.0, "hidden_sizes": [64, 32]}), name_of_values({"learning_rate": 0.1})
        ('h64x32-aw10', 'learning_rate_0.1')
    """
    first = [axis for axis in FIRST if axis in values]
    others = [axis for axis in values if axis not in FIRST]
    parts = []
    for axis in first + others:
        part = _part(axis, values[axis])
        if part:
            parts.append(part)
    return "-".join(parts)


def network_name(arm: str, seed: int) -> str:
    """Return the name of a network, and of its folder."""
    return f"{arm}-seed{seed}"


def arm_of_row(row: Values) -> Arm:
    """Return the arm of a row without the name of one, as in version 0.1.0.

    Args:
        row: with `hidden_size`, `aux_weight` and `detach_targets`.

    Example:
        >>> arm_of_row({"hidden_size": 64, "aux_weight": 10.0, "detach_targets": False}).name
        'h64-aw10-attached'
    """
    size = int(row["hidden_size"])
    weight = float(row["aux_weight"])
    detach = bool(row["detach_targets"])
    attached = "" if detach else "-attached"
    return Arm(
        name=f"h{size}-aw{weight:g}{attached}",
        changes={
            "hidden_sizes": [size],
            "aux_weight": weight,
            "detach_targets": detach,
        },
        panel=f"h{size}{attached}",
        baseline=f"h{size}-aw0",
    )


def _part(axis: str, value: Any) -> str:
    """Return an axis and its value as a part of a name."""
    if axis == NAMED:
        return str(value)
    if axis == "hidden_sizes":
        sizes = "x".join(map(str, value))
        return f"h{sizes}"
    if axis == "aux_weight":
        return f"aw{value:g}"
    if axis == "detach_targets":
        return "" if value else "attached"
    text = text_of_value(value)
    return f"{axis}_{text}"


def _check_axis(name: str, values: list[Any]) -> None:
    distinct = set(map(repr, values))
    if not values or len(distinct) < len(values):
        raise InputError(name, values, "allowed are one or more values, different from each other")


def _check_named(name: str, changes: Any, axes: Values) -> None:
    """Raise an InputError for a named arm whose name is no part of a folder's name, or whose changes are no mapping."""
    if not re.fullmatch(r"\w[\w.+-]*", str(name)):
        raise InputError(NAMED, name, "a name of an arm has letters, digits and . + - _ only")
    if not isinstance(changes, Mapping):
        raise InputError(NAMED, f"{name}: {changes!r}", "allowed are the settings in which an arm differs, by name")
    for field_name in changes:
        if field_name in axes and len(axes[field_name]) > 1:
            raise InputError(NAMED, f"{name}: {field_name}", "is an axis of the grid as well; give it in one place")


def _compared_axis(axes: Values) -> str | None:
    """Return the axis along which arms are compared. None: there is no axis."""
    several = [axis for axis, values in axes.items() if len(values) > 1]
    for axis in (NAMED, "aux_weight"):
        if axis in several:
            return axis
    if several:
        return several[0]
    if "aux_weight" in axes:
        return "aux_weight"
    return next(iter(axes), None)


def _baseline_value(compared: str | None, axes: Values, baseline: str | None) -> Any:
    """Return the baseline's value on the compared axis.

    Raises:
        InputError: the axis does not have the given value.
    """
    if compared is None:
        return None
    values = axes[compared]
    if baseline is None:
        usual = USUAL_BASELINES.get(compared)
        return usual if usual in values else values[0]
    for value in values:
        if is_number(baseline) and float(baseline) == value:
            return value
        if baseline in (str(value), _part(compared, value)):
            return value
    texts = ", ".join(map(str, values))
    raise InputError("baseline", baseline, f"allowed are the values of {compared}: {texts}")
