"""Read published RLCTs back as a table, from the Hub or from a folder."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pandas as pd
from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError

from ..complexity import LLCResult
from ..data import TASKS, TaskSpec
from ..data.tasks import BLOCKS
from ..errors import InputError
from ..files import read_json
from ..json_records import SweepRun
from ..weights import KEY, belongs, weights_sha256
from .download import fetch, published_weights

logger = logging.getLogger(__name__)

SAMPLER = (
    "sampler", "step_size", "localization", "batch_size", "num_chains", "num_draws", "num_burnin_steps", "seed",
    "preset",
)  # fmt: skip
MORE = ("nbeta_rule", "num_samples", "data", "compute_dtype", "options", "parameters")
SWEEP_COLUMNS = ("hidden_size", "aux_weight", "detach_targets", "seed", "rlct")  # required in a sweep's table
# settings of the data that `TaskSpec.train_data` tells
DESCRIBED = (
    "dataset_config", "train_split", "test_fraction", "split_seed", "skip_missing", "text_column", "task_type",
    "block_size",
)  # fmt: skip
# settings of an arm that change its data: `run.json` has the number and the name of the data of all others
OF_DATA = {"task", "max_train_samples", "max_test_samples", "augment", *(field.name for field in fields(TaskSpec))}
KINDS = {"dataset": ["results.parquet", "run.json"], "model": ["rlct.json"]}  # kind of repository -> files


def load_results(repo_id: str, *, revision: str | None = None, token: str | bool | None = None) -> pd.DataFrame:
    """Return a table of the RLCTs in a repository, one row each, with their settings.

    Args:
        repo_id: ``user/name`` of a model or a sweep, pushed by `selfmod push`. Or a local folder of either.
        revision: branch, tag or commit.
        token: of the Hub, if the repository is private.

    Returns:
        Columns `rlct`, `rlct_standard_error`, `rlct_status`, `nbeta`, and the sampler's settings with the prefix
        `rlct_` (`rlct_sampler`, `rlct_step_size`, ...). For a sweep also all columns of its results table, and
        `network`, the subfolder of the model. For a model `network` is empty. `weights_sha256` is the checksum of the
        measured weights. `weights_checked` is True if these are the published weights. It is False without a
        check: version 0.1.0 recorded no checksum, or the weights cannot be reached. A network of a sweep
        with other weights is left out, and one line of the log names it. `rlct_num_samples` and `rlct_data` are None
        for arms that change settings of the data, because `run.json` records those of the base alone.

    Raises:
        InputError: the repository is missing, has no RLCT, or has an RLCT of other weights than those of the model.
        OSError: nothing of it is in the cache, and the Hub cannot be reached.

    Example:
        >>> import tempfile, torch, selfmod_hf
        >>> data = torch.randn(99, 2), torch.arange(99) % 3
        >>> result = selfmod_hf.estimate_llc(torch.nn.Linear(2, 3), *data, num_draws=40, num_chains=2)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = result.save(f"{folder}/rlct.json")
        ...     table = load_results(folder)
        >>> table["rlct_num_draws"].tolist()
        [40]
    """
    if Path(repo_id).is_dir():
        return _of_folder(Path(repo_id))
    unreachable = None
    for kind, files in KINDS.items():
        try:
            folder = fetch(repo_id, files, repo_type=kind, revision=revision, token=token)
        except RepositoryNotFoundError:
            continue
        except LocalEntryNotFoundError as error:  # off line, and not in the cache. The other kind may be in it
            unreachable = error
            continue
        if (folder / files[0]).is_file():
            # a model's weights have the same commit. A sweep's tables and networks are two repositories
            commit = folder.name if kind == "model" else revision
            return _of_folder(folder, published_weights(repo_id, revision=commit, token=token))
    if unreachable is not None:
        raise unreachable
    problem = "has neither a data set with results.parquet nor a model with rlct.json (selfmod push writes them)"
    raise InputError("repo_id", repo_id, problem)


def _of_folder(folder: Path, weights: Mapping[str, str] | None = None) -> pd.DataFrame:
    """Return the table of a model's or a sweep's folder.

    Args:
        folder: the files.
        weights: folder of each network to the SHA-256 of its weights. Default: of the weights in this folder.
    """
    if (folder / "results.parquet").is_file():
        table = _of_sweep(folder / "results.parquet", folder / "run.json")
        if weights is None:
            weights = _weights_of(folder / "cells", table["network"])
        return _checked_sweep(folder, table, weights)
    if (folder / "rlct.json").is_file():
        if weights is None:
            weights = _weights_of(folder, [""])
        return _checked_model(folder / "rlct.json", weights.get(""))
    raise InputError("repo_id", str(folder), "holds neither results.parquet (of a sweep) nor rlct.json (of a model)")


def _weights_of(folder: Path, networks: Iterable[str]) -> dict[str, str]:
    digests = {}
    for network in networks:
        digest = weights_sha256(folder / network)
        if digest is not None:
            digests[network] = digest
    return digests


# ---- a model ----


# entries of rlct.json that the table does not show, and settings that it shows as missing if they are not recorded
_NOT_SHOWN: dict[str, Any] = {"llc_per_chain": [], "distance_per_chain": [], "acceptance_rate": None}
_OPTIONAL_SETTINGS: dict[str, Any] = {"nbeta_rule": "", "num_samples": 0, "options": {}}


def _checked_model(path: Path, weights: str | None) -> pd.DataFrame:
    content = {**_NOT_SHOWN, **read_json(path)}
    settings = content.get("settings")
    missing = []
    if isinstance(settings, dict):
        missing = [name for name in _OPTIONAL_SETTINGS if name not in settings]
        content["settings"] = {**_OPTIONAL_SETTINGS, **settings}
    rlct = LLCResult.from_dict(content, path)
    own = belongs(rlct.weights_sha256, weights)
    if own is False:
        problem = "describes other weights than those of the model; estimate it again (selfmod rlct)"
        raise InputError("file", str(path), problem)
    row = _row_of(rlct) | {"weights_checked": own is True}
    for name in missing:
        row[f"rlct_{name}"] = None
    return pd.DataFrame([row])


def _row_of(rlct: LLCResult) -> dict[str, Any]:
    values = rlct.to_dict()
    row = {
        "network": "",
        "rlct": values["llc"],
        "rlct_standard_error": values["standard_error"],
        "rlct_status": rlct.status,
        "rlct_status_reason": rlct.status_reason,
        "nbeta": rlct.nbeta,
        "rlct_rhat": values["rhat"],
        "rlct_ess": values["ess"],
        "train_loss": values["init_loss"],
    }
    for name in (*SAMPLER, *MORE):
        row[f"rlct_{name}"] = values["settings"][name]
    row[KEY] = rlct.weights_sha256
    return row


# ---- a sweep ----


def _checked_sweep(folder: Path, table: pd.DataFrame, weights: Mapping[str, str]) -> pd.DataFrame:
    if KEY not in table:
        table[KEY] = None
    checked, others = [], []
    for network, recorded in zip(table["network"], table[KEY], strict=True):
        own = belongs(recorded, weights.get(network))
        checked.append(own is True)
        if own is False:
            others.append(network)
    table["weights_checked"] = checked
    if others:
        names = ", ".join(others)
        logger.warning(f"{folder}: left out, because their figures are of other weights: {names}")
    return table[~table["network"].isin(others)].reset_index(drop=True)


def _of_sweep(results: Path, run: Path) -> pd.DataFrame:
    try:
        table = pd.read_parquet(results)
    except (ValueError, OSError) as error:  # pyarrow's errors are among them
        raise InputError("file", str(results), f"cannot be read as parquet ({error})") from error
    for name in SWEEP_COLUMNS:
        if name not in table:
            raise InputError("file", str(results), f"lacks the column {name!r}")
    record = SweepRun.read(run)
    arms = _arms_of(table)
    own_data = arms.isin([arm.name for arm in record.arms if OF_DATA & arm.changes.keys()])
    for name, value in _shared_settings(record).items():
        column = f"rlct_{name}"
        if column in table:
            continue
        table[column] = [value] * len(table)  # one by one, because a value may be a dict
        if name in ("num_samples", "data") and own_data.any():
            table[column] = table[column].astype(object).mask(own_data, None)
    table.insert(0, "network", arms + "-seed" + table["seed"].astype(str))
    return table


def _arms_of(table: pd.DataFrame) -> pd.Series:
    """Return the name of each network's arm. Version 0.1.0 had no column of them."""
    if "arm" in table:
        return table["arm"]
    sizes = table["hidden_size"].astype(str)
    weights = table["aux_weight"].map("{:g}".format)
    attached = table["detach_targets"].map({True: "", False: "-attached"})
    return "h" + sizes + "-aw" + weights + attached


def _shared_settings(run: SweepRun) -> dict[str, Any]:
    """Return the common settings of all RLCTs of a sweep: those in its run.json, and defaults of the others."""
    sampling = run.settings.sampling
    settings = {name: sampling[name] for name in SAMPLER if name in sampling}
    draws = sampling.get("num_draws")
    half = draws // 2 if isinstance(draws, int) else None
    settings.setdefault("num_burnin_steps", half)
    settings.setdefault("seed", 0)
    rule = sampling.get("nbeta")
    settings["nbeta_rule"] = rule if isinstance(rule, str) else "given"
    settings["num_samples"] = run.train_samples
    settings["data"] = _train_data(run)
    settings["compute_dtype"] = "float32"  # a sweep's networks are sampled in it
    settings["options"] = {}
    settings["parameters"] = None
    return settings


def _train_data(run: SweepRun) -> str:
    """Return a sweep's training data like `TaskSpec.train_data`."""
    data = run.settings.data
    task = TASKS.get(run.settings.task)
    if task is None:
        task = TaskSpec(name=run.settings.task, dataset_name=None)
    given = {name: value for name, value in data.to_dict().items() if name in DESCRIBED and value is not None}
    if "test_fraction" in given:
        given["test_split"] = None
    if given.get("task_type") == BLOCKS:
        given["label_column"] = None
    name = data.dataset_name
    if name is not None and run.local_data and not Path(name).exists():  # a published study has the name alone
        kind = "file" if Path(name).suffix else "folder"
        name = f"{kind} {Path(name).name}"
    return replace(task, dataset_name=name, **given).train_data
