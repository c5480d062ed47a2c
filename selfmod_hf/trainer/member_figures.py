"""Figures of a population in its log: those of each member, and their means."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from .terms import ByName

Figures = dict[int, ByName]  # logged values by epoch


def join_figures(figures: Mapping[str, np.ndarray], names: Sequence[str], reported: Sequence[bool]) -> dict[str, float]:
    """Return figures of members as means and values, by their names in the log.

    Args:
        figures: name -> (K,).
        names: of the members.
        reported: whether a member's figures are logged. The others enter no mean.

    Example:
        >>> join_figures({"loss": np.array([1.0, 2.0, 4.0])}, ["a", "b", "c"], [True, False, True])
        {'loss': 2.5, 'loss/a': 1.0, 'loss/c': 4.0}
    """
    means: dict[str, float] = {}
    single: dict[str, float] = {}
    for name, values in figures.items():
        means[name] = float(values[np.array(reported)].mean())
        for member, is_reported, value in zip(names, reported, values, strict=True):
            if is_reported:
                single[f"{name}/{member}"] = float(value)
    return means | single


def divide_figures(history: Iterable[Mapping[str, Any]], last_steps: Mapping[str, float]) -> dict[str, Figures]:
    """Return the logged figures of each member: its name -> epoch -> name -> value.

    Args:
        history: entries of a log, with `epoch` and `step`.
        last_steps: the step of each member's last figures, by its name.

    Example:
        >>> history = [{"epoch": 1.0, "step": 5, "loss/a": 0.5}, {"epoch": 2.0, "step": 10, "loss/a": 0.4}]
        >>> divide_figures(history, {"a": 5})
        {'a': {1: {'loss': 0.5}}}
    """
    found: dict[str, Figures] = {name: {} for name in last_steps}
    for entry in history:
        for name, last in last_steps.items():
            if entry["step"] <= last:
                found[name].setdefault(round(entry["epoch"]), {})
        for name, value in entry.items():
            figure, _, owner = name.rpartition("/")
            if owner in found and entry["step"] <= last_steps[owner]:
                found[owner][round(entry["epoch"])][figure] = value
    return found
