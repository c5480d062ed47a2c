"""One published RLCT: repeated by its own settings on its own data, and compared with what comes out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..files import entries_of, read_json
from ..weights import KEY, UNCHECKED, belongs

if TYPE_CHECKING:
    from pathlib import Path

    from ..complexity import LLCResult

# what must be equal for two estimates to be of the same quantity; chains, draws and seeds only decide the error
SAME = ("sampler", "step_size", "localization", "batch_size", "num_samples", "options", "parameters", "data")
LEVEL = 2.0  # standard errors of the difference
COLUMNS = ("image_column", "text_column", "label_column")
SPLITS = ("train_split", "test_split", "test_fraction", "split_seed", "skip_missing")


# ---- what was published ----


def published_rlct(model: str, revision: str | None = None, subfolder: str = "") -> dict[str, Any] | None:
    """The `rlct.json` that lies beside a model on the Hub (its `to_dict`), or None.

    Raises:
        InputError: an entry is missing or of a wrong type.
    """
    path = _fetch_one(model, "rlct.json", revision, subfolder)
    if path is None:
        return None
    rlct = read_json(path)
    if wrong := _wrong_entries(rlct):
        raise InputError("file", f"{model}: {path.name}", f"{', '.join(wrong)}: missing or of a wrong type")
    return rlct


def _fetch_one(
    repo_id: str, name: str, revision: str | None, subfolder: str = "", repo_type: str = "model"
) -> Path | None:
    from .download import fetch

    name = f"{subfolder}/{name}" if subfolder else name
    path = fetch(repo_id, [name], revision=revision, repo_type=repo_type) / name
    return path if path.is_file() else None


def _wrong_entries(rlct: dict[str, Any]) -> list[str]:
    """Return the names of entries that are missing or of a wrong type."""
    from ..complexity.result import SamplerSettings

    settings = rlct.get("settings")
    if not isinstance(settings, dict):
        return ["settings"]
    wrong = [name for name in ("llc", "standard_error") if name not in rlct or not _is(rlct[name], float, type(None))]
    if not _is(rlct.get("nbeta"), float):
        wrong.append("nbeta")
    if not isinstance(rlct.get("status"), str):
        wrong.append("status")
    if not _is(rlct.get(KEY), str, type(None)):
        wrong.append(KEY)
    # those that older files lack may also be null
    given = {name: value for name, value in settings.items() if value is not None}
    return wrong + SamplerSettings.wrong_entries({"nbeta_rule": "not told"} | given)


def _is(value: Any, *kinds: type) -> bool:
    """As `isinstance`, with integers among the floats, and truth values among neither."""
    kinds = (*kinds, int) if float in kinds else kinds
    return isinstance(value, kinds) and not isinstance(value, bool)


def published_settings(published: Mapping[str, Any]) -> dict[str, Any]:
    """Return keyword arguments of `estimate_llc_many` that repeat a published estimate."""
    from ..complexity.result import SamplerSettings

    known = {field.name for field in fields(SamplerSettings)}  # a later version may have written others
    # not told: the type of the computation is the model's own
    settings: dict[str, Any] = {"nbeta_rule": "not told", "compute_dtype": ""}
    for name, value in published["settings"].items():
        if name in known and value is not None:
            settings[name] = value
    return SamplerSettings(**settings).keywords(published["nbeta"])


# ---- the data it is of ----


def published_data(
    model: str, revision: str | None = None, subfolder: str = "", dataset_name: str | None = None
) -> dict[str, Any]:
    """Return the flags of `selfmod` that name the data a published network was trained on.

    They come from its run.json, or that of its sweep (in the data set of the same name). There are none where that
    file is missing.

    Args:
        model: id of the repository.
        revision: branch, tag or commit.
        subfolder: of the network.
        dataset_name: the data set that the user names. Data that run.json does not name, because they lay in a folder
            or file of one machine, are taken to be these. No flag is returned for another data set.

    Raises:
        InputError: the file is broken, or the data were no data set of the Hub and `dataset_name` is None.
    """
    from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError

    path = _fetch_one(model, "run.json", revision, subfolder)
    if path is not None:
        return _data_of_run(path, dataset_name)
    if not subfolder:
        return {}
    try:
        path = _fetch_one(model, "run.json", revision, repo_type="dataset")
    except (RepositoryNotFoundError, RevisionNotFoundError, LocalEntryNotFoundError):
        return {}
    return {} if path is None else _data_of_sweep(path, dataset_name)


def data_of_folder(folder: Path, dataset_name: str | None = None) -> dict[str, Any]:
    """Return the same of a network in a folder of `selfmod train`, or in a cell of `selfmod sweep`."""
    if (folder / "run.json").is_file():
        return _data_of_run(folder / "run.json", dataset_name)
    sweep = folder.resolve().parent.parent / "run.json"
    if not (folder / "row.json").is_file() or not sweep.is_file():
        return {}
    return _data_of_sweep(sweep, dataset_name)


def _data_of_sweep(path: Path, dataset_name: str | None) -> dict[str, Any]:
    with entries_of(path):
        settings = read_json(path)["settings"]
        data = settings["data"]
        limits = {name: data.get(name) for name in ("max_train_samples", "max_test_samples")}
        if dataset_name is None:
            return _data_flags(settings["task"], data.get("dataset_name"), limits)
        same = data.get("dataset_name") == dataset_name
        return _checked(limits) | {"task": settings["task"]} if same else {}


def _data_of_run(path: Path, dataset_name: str | None) -> dict[str, Any]:
    with entries_of(path):
        run = read_json(path)
        task = run["task"]
        if task is None:  # trained by Python, on tensors that no task names
            return {}
        columns = [name for name in COLUMNS if name != "image_column" or task.get("text_column") is None]
        entries = {name: task.get(name) for name in ("dataset_config", *SPLITS, *columns)}
        entries |= {f"max_{split}_samples": run.get(f"{split}_samples") for split in ("train", "test")}
        if dataset_name is None:
            return _data_flags(task["name"], task["dataset_name"], entries)
        digits = task["dataset_name"] is None and task["name"] == "digits"
        if digits or task["dataset_name"] not in (None, dataset_name):
            return {}
        return _checked(entries) | _built_in(task["name"])


def _data_flags(task: str, dataset_name: str | None, entries: dict[str, Any]) -> dict[str, Any]:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    flags = _checked(entries)
    if dataset_name is None and task == "digits":  # built in: no columns, no splits
        return {"task": task} | {name: value for name, value in flags.items() if name.startswith("max_")}
    try:
        validate_repo_id(dataset_name or "")  # a stranger names no folder of this machine
    except HFValidationError as error:
        problem = f"the network's own data, {task}, are no data set of the Hub; name them here"
        raise InputError("task, dataset_name", dataset_name, problem) from error
    return flags | {"dataset_name": dataset_name} | _built_in(task)


def _checked(entries: dict[str, Any]) -> dict[str, Any]:
    """Return the entries that have a value.

    Raises:
        TypeError: one of a wrong type.
    """
    kinds = {"test_fraction": float, "split_seed": int, "max_train_samples": int, "max_test_samples": int}
    flags = {name: value for name, value in entries.items() if value is not None}
    for name, value in flags.items():
        right = isinstance(value, bool) if name == "skip_missing" else _is(value, kinds.get(name, str))
        if not right:
            raise TypeError(f"{name}={value!r}")
    return flags


def _built_in(task: str) -> dict[str, Any]:
    from ..data import TASKS

    return {"task": task} if task in TASKS else {}


# ---- the comparison ----


@dataclass(frozen=True)
class Agreement:
    """A new estimate beside a published one.

    Attributes:
        agrees: within `LEVEL` standard errors of the difference; None where that is no test: the two are not
            comparable, one of them has not converged, or both were made with the same random numbers.
        text: one line that says so.
    """

    agrees: bool | None
    text: str


def compare_with_published(ours: LLCResult, published: dict[str, Any]) -> Agreement:
    """Return whether a new estimate agrees with a published one.

    Equal sampler settings and equal seed give the same numbers; another `seed` makes it a test of the figure. A
    published figure of other weights than ours is not compared, and not shown.
    """
    mine = ours.to_dict()
    own_weights = belongs(published.get(KEY), mine[KEY])
    if own_weights is False:
        return Agreement(None, "not compared: the published rlct.json describes other weights than those published")
    found = _compare(mine, published)
    return found if own_weights else replace(found, text=f"{found.text} ({UNCHECKED})")


def _compare(mine: dict[str, Any], published: dict[str, Any]) -> Agreement:
    there = f"published {_value(published)}"
    if different := _differences(mine, published):
        return Agreement(None, f"not comparable with the {there}: {'; '.join(different)}")
    for where, status in (("here", mine["status"]), ("there", published["status"])):
        if status not in ("ok", "not_converged"):
            return Agreement(None, f"not comparable with the {there}: {status} {where}, which is no RLCT")
    errors = mine["standard_error"], published["standard_error"]
    if None in (*errors, mine["llc"], published["llc"]):
        return Agreement(None, f"not comparable with the {there}: no standard error")
    error = math.hypot(*errors)
    distance = abs(mine["llc"] - published["llc"])
    apart = distance / error if error > 0 else (0.0 if distance == 0 else math.inf)
    if apart <= LEVEL and _stream(mine) == _stream(published):
        return Agreement(None, f"same seed: repeats the figure, is no test of it ({there})")
    for where, status in (("here", mine["status"]), ("there", published["status"])):
        if status == "not_converged":  # its standard error does not know how far it still has to go
            return Agreement(None, f"neither agrees nor disagrees with the {there}: not_converged {where}")
    verdict = "agrees" if apart <= LEVEL else "DISAGREES"
    return Agreement(apart <= LEVEL, f"{verdict} with the {there}: {apart:.1f} standard errors of the difference")


def _stream(rlct: dict[str, Any]) -> tuple[int, int]:
    """What all random numbers of an estimate come from."""
    return rlct["settings"]["seed"], rlct["settings"].get("member", 0)


def _differences(mine: dict[str, Any], published: dict[str, Any]) -> list[str]:
    """The settings in which two estimates differ, so that they are of different quantities."""
    own, other = mine["settings"], published["settings"]
    pairs = [("nbeta", mine["nbeta"], published["nbeta"])]
    for name in SAME:
        # a file from before a setting was kept says nothing of it; nor does an estimate whose data were not told
        if name in other and not (name == "data" and None in (own[name], other[name])):
            pairs.append((name, own[name], other[name]))
    return [f"{name} {_shown(new)} here, {_shown(old)} there" for name, new, old in pairs if not _equal(new, old)]


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value[:3])) + (f" and {len(value) - 3} more" if len(value) > 3 else "")
    return "all" if value is None else str(value)


def _equal(new: Any, old: Any) -> bool:
    if isinstance(new, float) and isinstance(old, (int, float)):
        return math.isclose(new, old, rel_tol=1e-9)
    return _as_list(new) == _as_list(old)


def _as_list(value: Any) -> Any:
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value


def _value(rlct: dict[str, Any]) -> str:
    if rlct["llc"] is None:
        return f"estimate without a value ({rlct['status']})"
    error = rlct["standard_error"]
    return f"{rlct['llc']:.3f}" + ("" if error is None else f" ± {error:.3f}") + f" ({rlct['status']})"
