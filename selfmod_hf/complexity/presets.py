"""Named settings of `estimate_llc`: the paper's, as published and as written, and the theory's."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from .input_checks import check

# Premakumar et al. 2024 (arXiv 2407.10188). The figures come from the published recipe ("paper"); the supplement's
# text ("paper-text") differs in the localization. Both take nβ = B / log B, with B the sampling batch size.
_RECIPE: dict[str, dict[str, Any]] = {
    "mnist": {"step_size": 1e-4, "localization": 100.0, "batch_size": 512},
    "cifar10": {"step_size": 1e-4, "localization": 100.0, "batch_size": 64},
    "imdb": {"step_size": 1e-3, "localization": 10.0, "batch_size": 64},
}
_TEXT: dict[str, dict[str, Any]] = {
    "mnist": {"step_size": 1e-4, "localization": 1000.0, "batch_size": 64},
    "cifar10": {"step_size": 1e-4, "localization": 1000.0, "batch_size": 64},
    "imdb": {"step_size": 1e-3, "localization": 10.0, "batch_size": 64},
}
_SAMPLING = {"sampler": "sgld", "num_chains": 4, "num_draws": 1000}

# name -> task -> settings; "theory" is the same for every task: nβ = n / log n (Watanabe 2013), the rest to be
# calibrated, starting from a step small enough for nβ of some thousands.
PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "paper": {task: _SAMPLING | values | {"nbeta": "batch/log batch"} for task, values in _RECIPE.items()},
    "paper-text": {task: _SAMPLING | values | {"nbeta": "batch/log batch"} for task, values in _TEXT.items()},
    "theory": {
        "any": _SAMPLING
        | {"nbeta": "n/log n", "step_size": 1e-5, "localization": 10.0, "batch_size": 512, "num_draws": 4000}
    },
}


def llc_preset(name: str, task: str = "mnist", **changes: Any) -> dict[str, Any]:
    """Return keyword arguments for `estimate_llc`, with `preset` naming their origin.

    Args:
        name: "paper", "paper-text" or "theory".
        task: "mnist", "cifar10" or "imdb". A task that the paper does not have ("digits", for example) takes MNIST's
            values, and the name says so: "paper (mnist)". "theory" is the same for all.
        changes: settings in place of the preset's. The name says which.

    Raises:
        ValueError: an unknown name, or a task with the letters of one of the paper's in another order.

    >>> llc_preset("paper", "digits", num_draws=50)["preset"]
    'paper (mnist) with num_draws'
    """
    check("preset", name, name in PRESETS, f"one of {', '.join(PRESETS)}")
    tasks, known, origin = PRESETS[name], "any", name
    if known not in tasks:
        known = _known_task(tasks, task)
        origin = f"{name} ({known})"
    if changes:
        origin += " with " + ", ".join(sorted(changes))
    return tasks[known] | changes | {"preset": origin}


def _known_task(tasks: Collection[str], task: str) -> str:
    """Return the task of the paper whose settings a task takes."""
    check("task", task, isinstance(task, str), "a name")
    # a task's other recipe has its own training, not its own sampling
    task = task.lower().removesuffix("-paper-text").replace("-", "")
    for known in tasks:
        other = known != task and sorted(known) == sorted(task)  # "imbd"
        check("task", task, not other, f"a task of the paper or another; did you mean {known!r}?")
    return task if task in tasks else "mnist"
