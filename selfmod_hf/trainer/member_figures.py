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
    counted = np.array(reported)
    means = {}
    single = {}
    for figure, values in figures.items():
        means[figure] = float(values[counted].mean())
        for name, is_reported, value in zip(names, reported, values, strict=True):
            if is_reported:
                single[f"{figure}/{name}"] = float(value)
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
    found: dict[str, Figures] = {}
    for owner in last_steps:
        found[owner] = {}
    for entry in history:
        epoch = round(entry["epoch"])
        step = entry["step"]
        running = [owner for owner, last in last_steps.items() if step <= last]
        for owner in running:
            found[owner].setdefault(epoch, {})
        for name, value in entry.items():
            figure, _, owner = name.rpartition("/")
            if owner in running:
                found[owner][epoch][figure] = value
    return found
