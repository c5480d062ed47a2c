"""Named settings of `estimate_llc`: the paper's, as published and as written, and the theory's."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from .input_checks import check
from .samplers import SAMPLERS

# Premakumar et al. 2026 (doi 10.1098/rsta.2024.0531, preprint arXiv 2407.10188). The figures come from the published
# recipe ("paper"). The preprint's text ("paper-text") has other localizations. Both take nβ = B / log B, with B the
# sampling batch size.
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
_NBETA = {"nbeta": "batch/log batch"}  # the last key, because run.json of a sweep keeps the order

# The same for every task: nβ = n / log n (Watanabe 2013). The other settings are to be calibrated. The step is small
# enough for nβ of some thousands.
_THEORY = {
    "sampler": "sgld",
    "num_chains": 4,
    "num_draws": 4000,
    "nbeta": "n/log n",
    "step_size": 1e-5,
    "localization": 10.0,
    "batch_size": 512,
}

# name -> task -> settings
PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "paper": {task: _SAMPLING | values | _NBETA for task, values in _RECIPE.items()},
    "paper-text": {task: _SAMPLING | values | _NBETA for task, values in _TEXT.items()},
    "theory": {"any": _THEORY},
}

# settings that decide what is sampled. An estimate with another one of them is no longer that of the paper
DECIDING = ("sampler", "step_size", "localization", "nbeta", "batch_size")
_PUBLISHED = "as published ("
# such as "paper (mnist) with num_draws", and "as published (...)" around it once for each time it was published
_PAPER_NAME = re.compile(
    rf"({re.escape(_PUBLISHED)})*(?P<preset>paper|paper-text)( \((?P<task>{'|'.join(_RECIPE)})\))?"
    r"( with (?P<changed>[a-z_, ]+))?\)*"
)


def llc_preset(name: str, task: str = "mnist", **changes: Any) -> dict[str, Any]:
    """Return keyword arguments for `estimate_llc`. Their `preset` names their origin.

    Args:
        name: "paper", "paper-text" or "theory".
        task: "mnist", "cifar10" or "imdb". Another task ("digits", for example) takes MNIST's
            values, and the name says so: "paper (mnist)". "theory" is the same for all.
        changes: settings in place of the preset's. A sampler brings its own defaults, such as a step size in its own
            unit. The name lists those with another value.

    Raises:
        ValueError: an unknown name, or a task with the letters of one of the paper's in another order.

    Example:
        >>> llc_preset("paper", "digits", num_draws=50)["preset"]
        'paper (mnist) with num_draws'
    """
    check("preset", name, name in PRESETS, f"one of {', '.join(PRESETS)}")
    tasks = PRESETS[name]
    known = "any"
    origin = name
    if known not in tasks:
        known = _known_task(tasks, task)
        origin = f"{name} ({known})"
    sampler = SAMPLERS.get(changes.get("sampler", ""))
    if sampler is not None:
        changes = sampler.defaults | changes
    settings = tasks[known] | changes
    changed = [setting for setting in sorted(settings) if settings[setting] != tasks[known].get(setting)]
    if changed:
        origin += f" with {', '.join(changed)}"
    settings["preset"] = origin
    return settings


def is_named_after_paper(preset: str | None) -> bool:
    """Return whether a preset has a name of the paper's as `llc_preset` gives them. Settings may differ from it."""
    return preset is not None and _PAPER_NAME.fullmatch(preset) is not None


def of_paper(preset: str | None, sampling: Mapping[str, Any], num_samples: int | None = None) -> bool:
    """Return whether an estimate is one of the paper's. These compare networks, and are no estimates of λ.

    It still is with more or fewer chains or draws. It is not with another sampler, step size, localization, nβ or batch
    size, or with a name that `llc_preset` does not give.

    Args:
        preset: its name.
        sampling: sampler, step_size, localization, nbeta and batch_size. A published estimate is repeated with a
            number as nβ, which is not looked at.
        num_samples: n, if the batch size is the one that was used. A smaller data set is one batch.

    Example:
        >>> mnist = llc_preset("paper", "mnist", num_draws=50)
        >>> of_paper(mnist["preset"], mnist), of_paper(mnist["preset"], mnist | {"nbeta": "n/log n"})
        (True, False)
    """
    name = _PAPER_NAME.fullmatch(preset or "")
    if preset is None or name is None:
        return False
    changed = (name["changed"] or "").split(", ")
    if "nbeta" in changed:
        return False
    expected = dict(PRESETS[name["preset"]][name["task"] or "mnist"])
    compared = set(DECIDING)
    if preset.startswith(_PUBLISHED):
        compared.remove("nbeta")
        num_samples = sampling["batch_size"]  # the one that was used
    if num_samples is not None:
        expected["batch_size"] = min(expected["batch_size"], num_samples)
    return all(expected[setting] == sampling[setting] for setting in compared)


def _known_task(tasks: Collection[str], task: str) -> str:
    """Return the task of the paper with the settings for this task."""
    check("task", task, isinstance(task, str), "a name")
    # a task's other recipe has its own training, not its own sampling
    task = task.lower().removesuffix("-paper-text").replace("-", "")
    for known in tasks:
        same_letters = sorted(known) == sorted(task)
        misspelled = same_letters and known != task  # "imbd"
        check("task", task, not misspelled, f"a task of the paper or another; did you mean {known!r}?")
    if task in tasks:
        return task
    return "mnist"
