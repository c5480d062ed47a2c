"""Repeat a published RLCT with its own settings on its own data, and compare the two estimates."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from huggingface_hub.errors import (
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import validate_repo_id

from ..complexity import LLCResult
from ..complexity.result import BIASED, DIVERGED, NOT_AT_MINIMUM, NOT_CONVERGED, NOT_IDENTIFIED
from ..data import TASKS
from ..errors import InputError
from ..files import read_json
from ..json_records import OF_KIND, NetworkRun, SweepRun, TaskFields
from ..weights import UNCHECKED, belongs
from .download import fetch

# settings that must be equal, because they decide the quantity. Chains, draws and seeds only decide its error.
SAME = (
    "sampler",
    "step_size",
    "localization",
    "batch_size",
    "num_samples",
    "options",
    "control_variate",
    "minimize",
    "parameters",
    "data",
    "start",
)
_MAY_LACK = ("data", "loss")
LEVEL = 2.0  # standard errors of the difference
DOUBTFUL = (NOT_CONVERGED, BIASED, NOT_IDENTIFIED)  # statuses of numbers that no comparison can confirm
COLUMNS = ("image_column", "text_column", "label_column")
SPLITS = ("train_split", "test_split", "test_fraction", "split_seed", "skip_missing")


# ---- the published estimate ----


def published_rlct(model: str, revision: str | None = None, subfolder: str = "") -> LLCResult | None:
    """Return the estimate in the `rlct.json` of a model on the Hub, without traces. None: the file is missing.

    Raises:
        InputError: a field is missing or has a wrong type.
    """
    path = _fetch_one(model, "rlct.json", revision, subfolder)
    if path is None:
        return None
    return LLCResult.from_dict(read_json(path), f"{model}: {path.name}")


def _fetch_one(
    repo_id: str, name: str, revision: str | None, subfolder: str = "", repo_type: str = "model"
) -> Path | None:
    if subfolder:
        name = f"{subfolder}/{name}"
    folder = fetch(repo_id, [name], revision=revision, repo_type=repo_type)
    path = folder / name
    if not path.is_file():
        return None
    return path


# ---- the data of the published estimate ----


def published_data(
    model: str, revision: str | None = None, subfolder: str = "", dataset_name: str | None = None
) -> dict[str, Any]:
    """Return the data settings of a published network's training, by name.

    They come from run.json: the network's own, or its sweep's in the data set of the same name. The result is empty if
    the file is missing.

    Args:
        model: id of the repository.
        revision: branch, tag or commit.
        subfolder: of the network.
        dataset_name: the user's data set. It stands for data without a name in run.json, because they were in a folder
            or file of one machine. The result is empty if run.json names another data set.

    Raises:
        InputError: the file is broken, or the data were no data set of the Hub and `dataset_name` is None.
    """
    path = _fetch_one(model, "run.json", revision, subfolder)
    if path is not None:
        return _data_of_run(path, dataset_name)
    if not subfolder:
        return {}
    try:
        path = _fetch_one(model, "run.json", revision, repo_type="dataset")
    except (RepositoryNotFoundError, RevisionNotFoundError, LocalEntryNotFoundError):
        return {}
    if path is None:
        return {}
    return _data_of_sweep(path, dataset_name)


def data_of_folder(folder: Path, dataset_name: str | None = None) -> dict[str, Any]:
    """Return the same settings for a network in a folder of `selfmod train`, or in a cell of `selfmod sweep`."""
    own = folder / "run.json"
    if own.is_file():
        return _data_of_run(own, dataset_name)
    of_sweep = folder.resolve().parent.parent / "run.json"
    if (folder / "row.json").is_file() and of_sweep.is_file():
        return _data_of_sweep(of_sweep, dataset_name)
    return {}


def _data_of_sweep(path: Path, dataset_name: str | None) -> dict[str, Any]:
    settings = SweepRun.read(path).settings
    data = settings.data
    limits = {
        "max_train_samples": data.max_train_samples,
        "max_test_samples": data.max_test_samples,
    }
    if dataset_name is None:
        return _data_settings(settings.task, data.dataset_name, limits)
    if data.dataset_name != dataset_name:
        return {}
    found = _given(limits)
    found["task"] = settings.task
    return found


def _data_of_run(path: Path, dataset_name: str | None) -> dict[str, Any]:
    run = NetworkRun.read(path)
    task = run.task
    if task is None:  # trained with tensors that no task names
        return {}
    entries = _columns_and_splits(task)
    entries["max_train_samples"] = run.train_samples
    entries["max_test_samples"] = run.test_samples
    recorded = task.dataset_name
    if dataset_name is None:
        return _data_settings(task.name, recorded, entries)
    is_other = recorded is not None and recorded != dataset_name
    is_digits = recorded is None and task.name == "digits"
    if is_other or is_digits:
        return {}
    found = _given(entries)
    if task.name in TASKS:
        found["task"] = task.name
    return found


def _columns_and_splits(task: TaskFields) -> dict[str, Any]:
    entries: dict[str, Any] = {"dataset_config": task.dataset_config}
    for name in SPLITS:
        entries[name] = getattr(task, name)
    entries["text_column"] = task.text_column
    entries["label_column"] = task.label_column
    for name in OF_KIND:
        entries[name] = getattr(task, name)
    if task.text_column is None:
        entries["image_column"] = task.image_column
    return entries


def _data_settings(task: str, dataset_name: str | None, entries: dict[str, Any]) -> dict[str, Any]:
    found = _given(entries)
    if task in TASKS:
        found["task"] = task
    if dataset_name is None and task == "digits":  # built in, without columns and splits
        for name in (*SPLITS, *COLUMNS, "dataset_config"):
            found.pop(name, None)
        return found
    try:
        validate_repo_id(dataset_name or "")  # a stranger's file cannot name a folder of this machine
    except HFValidationError as error:
        problem = f"the network's own data, {task}, are no data set of the Hub; name them here"
        raise InputError("task, dataset_name", dataset_name, problem) from error
    found["dataset_name"] = dataset_name
    return found


def _given(entries: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries without those of None."""
    return {name: value for name, value in entries.items() if value is not None}


# ---- the comparison ----


@dataclass(frozen=True)
class Agreement:
    """Compares a new estimate with a published one.

    Attributes:
        agrees: whether they differ by at most `LEVEL` standard errors of the difference. None if this is no test: the
            estimates are not comparable, one has not converged, or both have the same random numbers.
        text: the verdict in one line.
    """

    agrees: bool | None
    text: str


def compare_with_published(ours: LLCResult, published: LLCResult) -> Agreement:
    """Return whether a new estimate agrees with a published one.

    Equal sampler settings and equal seeds give the same numbers. Only another `seed` tests the published figure. A
    published figure of other weights than ours is neither compared nor shown.
    """
    own_weights = belongs(published.weights_sha256, ours.weights_sha256)
    if own_weights is False:
        return Agreement(None, "not compared: the published rlct.json describes other weights than those published")
    found = _compare(ours, published)
    if own_weights:
        return found
    return replace(found, text=f"{found.text} ({UNCHECKED})")


def _compare(ours: LLCResult, published: LLCResult) -> Agreement:
    there = f"published {_value(published)}"
    obstacle = _obstacle(ours, published)
    if obstacle is not None:
        return Agreement(None, f"not comparable with the {there}: {obstacle}")
    apart = _standard_errors_apart(ours, published)
    agrees = apart <= LEVEL
    same_numbers = _random_numbers(ours) == _random_numbers(published)
    if agrees and same_numbers:
        return Agreement(None, f"same seed: repeats the figure, is no test of it ({there})")
    # the standard error of such an estimate does not cover the rest of its way, or its bias
    for where, estimate in (("here", ours), ("there", published)):
        if estimate.status in DOUBTFUL:
            return Agreement(None, f"neither agrees nor disagrees with the {there}: {estimate.status} {where}")
    distance = f"{apart:.1f} standard errors of the difference"
    if agrees:
        return Agreement(True, f"agrees with the {there}: {distance}")
    return Agreement(False, f"DISAGREES with the {there}: {distance}")


def _obstacle(ours: LLCResult, published: LLCResult) -> str | None:
    """Return why two estimates cannot be compared, or None if they can."""
    different = _differences(ours, published)
    if different:
        return "; ".join(different)
    for where, estimate in (("here", ours), ("there", published)):
        if estimate.status in (NOT_AT_MINIMUM, DIVERGED):
            return f"{estimate.status} {where}, which is no RLCT"
    numbers = [ours.llc, published.llc, ours.standard_error, published.standard_error]
    if not all(map(math.isfinite, numbers)):
        return "no standard error"
    return None


def _standard_errors_apart(ours: LLCResult, published: LLCResult) -> float:
    """Return the difference in units of its standard error."""
    error = math.hypot(ours.standard_error, published.standard_error)
    distance = abs(ours.llc - published.llc)
    if distance == 0:
        return 0.0
    if error == 0:
        return math.inf
    return distance / error


def _random_numbers(estimate: LLCResult) -> tuple[int, int]:
    """Return the two seeds of all random numbers of an estimate."""
    return estimate.settings.seed, estimate.settings.member


def _differences(ours: LLCResult, published: LLCResult) -> list[str]:
    """Return a text for each different setting, because it makes the two different quantities."""
    different = []
    for name in ("nbeta", "loss", *SAME):
        here, there = _field(ours, name), _field(published, name)
        if name in _MAY_LACK and None in (here, there):  # an estimate on tensors, or an old file
            continue
        if not _equal(here, there):
            different.append(f"{name} {_shown(here)} here, {_shown(there)} there")
    return different


def _field(estimate: LLCResult, name: str) -> Any:
    """Return a field of an estimate or of its settings."""
    owner = estimate if hasattr(estimate, name) else estimate.settings
    return getattr(owner, name)


def _shown(value: Any) -> str:
    if value is None:
        return "all"
    if not isinstance(value, tuple):
        return str(value)
    text = ", ".join(map(str, value[:3]))
    if len(value) > 3:
        text += f" and {len(value) - 3} more"
    return text


def _equal(here: Any, there: Any) -> bool:
    if isinstance(here, float) and isinstance(there, float):
        return math.isclose(here, there, rel_tol=1e-9)
    return bool(here == there)


def _value(estimate: LLCResult) -> str:
    if math.isnan(estimate.llc):
        return f"estimate without a value ({estimate.status})"
    value = f"{estimate.llc:.3f}"
    if not math.isnan(estimate.standard_error):
        value += f" ± {estimate.standard_error:.3f}"
    return f"{value} ({estimate.status})"
