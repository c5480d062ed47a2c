"""Place the arms of a study in its figures: panels, the axis along which arms are compared, and their order on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from pandas import DataFrame

from ..experiments.arms import NAMED, USUAL_TARGETS, Arm, name_of_values
from ..experiments.folder_names import text_of_value
from ..experiments.setting import is_number

TITLES_OF_AXES = {"aux_weight": "AW", NAMED: "", "hidden_sizes": "hidden units"}


@dataclass(frozen=True)
class StudyLayout:
    """Say where each arm stands.

    Attributes:
        axis: the setting along which arms are compared, or "arms" if they differ in several settings.
        labels: texts of the positions 0, 1, 2, ... on the axis.
        baseline: position of the baselines. None: the study has no finished network of theirs.
        places: one row per arm of each panel, in this order: panel, arm, position, label, is_baseline. The baseline of
            another panel that a panel is compared with is in both.
    """

    axis: str
    labels: list[str]
    baseline: int | None
    places: DataFrame

    @property
    def panels(self) -> list[str]:
        """Return the names of the panels."""
        return list(dict.fromkeys(self.places["panel"]))

    @property
    def title(self) -> str:
        """Return the label of the axis."""
        words = self.axis.replace("_", " ")
        return TITLES_OF_AXES.get(self.axis, words)

    @property
    def is_ordered(self) -> bool:
        """Return whether the positions are in the order of numbers, so that a line may join them."""
        return all(map(is_number, self.labels))

    def on(self, table: DataFrame, panel: str) -> DataFrame:
        """Return the rows of a panel's arms with their places, in the order of the axis."""
        is_in_panel = self.places["panel"] == panel
        places = self.places[is_in_panel]
        own = places.merge(table, on="arm")
        return own.sort_values("position", kind="stable", ignore_index=True)


def lay_out(study: Sequence[Arm]) -> StudyLayout:
    """Return the layout of a study.

    Args:
        study: its arms, in their order.

    Example:
        >>> from selfmod_hf.experiments.arms import make_arms
        >>> layout = lay_out(make_arms({"hidden_sizes": [[8], [16]], "aux_weight": [10.0, 0.0]}))
        >>> layout.axis, layout.labels, layout.panels
        ('aux_weight', ['0', '10'], ['h8', 'h16'])
    """
    panels = _panels(study)
    axis = _axis(panels)
    values = {arm.name: _value(arm, axis) for arm in study}
    order = _in_order(list(values.values()), axis)
    baselines = {arm.baseline for arm in study}
    if axis == NAMED:  # baselines first, because no value says where they belong
        values_of_baselines = [values.get(name) for name in baselines]
        order.sort(key=lambda value: value not in values_of_baselines)
    entries = []
    for panel, arms in panels.items():
        for arm in arms:
            value = values[arm.name]
            entry = {
                "panel": panel,
                "arm": arm.name,
                "position": order.index(value),
                "label": _text(axis, value),
                "is_baseline": arm.name in baselines,
            }
            entries.append(entry)
    places = DataFrame(entries)
    labels = [_text(axis, value) for value in order]
    is_baseline = places["is_baseline"]
    positions = places[is_baseline]["position"]
    baseline = None if positions.empty else int(positions.min())
    return StudyLayout(axis, labels, baseline, places)


def _value(arm: Arm, axis: str) -> Any:
    """Return the value of an arm on the axis. Of named arms it is the name, without the panel's."""
    if axis == NAMED:
        return arm.name.removeprefix(f"{arm.panel}-")
    return arm.changes[axis]


def _panels(study: Sequence[Arm]) -> dict[str, list[Arm]]:
    """Return the arms of each panel, with the baseline of another panel that they are compared with."""
    by_name = {arm.name: arm for arm in study}
    panels: dict[str, list[Arm]] = {}
    for arm in study:
        own = panels.setdefault(arm.panel, [])
        baseline = by_name.get(arm.baseline)
        if baseline is not None and baseline not in own:
            own.append(baseline)
        if arm not in own:
            own.append(arm)
    return panels


def _axis(panels: dict[str, list[Arm]]) -> str:
    """Return the one setting in which arms of a panel differ and that names them, or "arms"."""
    differing: set[str] = set()
    for arms in panels.values():
        for first, second in pairwise(arms):
            differing |= _differences(first, second)
    if not differing:
        differing = {"aux_weight"}  # a single arm in each panel
    if len(differing) > 1:
        return NAMED
    (axis,) = differing
    for arms in panels.values():
        for arm in arms:
            if not _is_named_by(arm, axis):
                return NAMED
    return axis


def _differences(first: Arm, second: Arm) -> set[str]:
    """Return the settings in which two arms differ. A baseline that predicts nothing has no kind of targets."""
    one = first.changes
    other = second.changes
    names = set(one) | set(other)
    weights = (one.get("aux_weight"), other.get("aux_weight"))
    if 0 in weights:
        names -= USUAL_TARGETS.keys()
    return {name for name in names if one.get(name) != other.get(name)}


def _is_named_by(arm: Arm, axis: str) -> bool:
    """Return whether the name of an arm is that of a grid with this axis."""
    if axis not in arm.changes:
        return False
    part = name_of_values({axis: arm.changes[axis]})
    return part in arm.name


def _in_order(values: Sequence[Any], axis: str) -> list[Any]:
    """Return the distinct values, numbers sorted and others as given."""
    distinct = []
    for value in values:
        if value not in distinct:
            distinct.append(value)
    if axis == NAMED:
        return distinct
    texts = [_text(axis, value) for value in distinct]
    if all(map(is_number, texts)):
        distinct.sort(key=lambda value: float(_text(axis, value)))
    return distinct


def _text(axis: str, value: Any) -> str:
    """Return the text of a value."""
    if axis == "hidden_sizes":
        return "-".join(map(str, value))
    if isinstance(value, float):
        return f"{value:g}"
    if axis == NAMED:
        return str(value)
    return text_of_value(value)
