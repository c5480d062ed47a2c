"""Reading published RLCTs back as a table, from the Hub or from a folder."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..files import read_json
from ..weights import KEY, belongs, weights_sha256

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)

SAMPLER = (
    "sampler", "step_size", "localization", "batch_size", "num_chains", "num_draws", "num_burnin_steps", "seed",
    "preset",
)  # fmt: skip
MORE = ("nbeta_rule", "num_samples", "data", "compute_dtype", "options", "parameters")  # older files lack some


def load_results(repo_id: str, *, revision: str | None = None, token: str | bool | None = None) -> pd.DataFrame:
    """Every RLCT that a repository publishes, one row each, with its settings.

    Args:
        repo_id: ``user/name`` of what `selfmod push` made of a model or a sweep; or a local folder of either.
        revision: branch, tag or commit.
        token: of the Hub, where it is private.

    Returns:
        Columns `rlct`, `rlct_standard_error`, `rlct_status`, `nbeta`, and the sampler's settings with the prefix
        `rlct_` (`rlct_sampler`, `rlct_step_size`, ...). For a sweep, besides, all columns of its results table, and
        `network`, the subfolder of the model; for a model `network` is empty. `weights_sha256` names the weights that
        the figures are of. `weights_checked` is True where these are the published weights, and False where that
        could not be checked: version 0.1.0 recorded no checksum, or the weights cannot be reached. A network of a
        sweep whose weights are others is left out, and one line says so.

    Raises:
        InputError: nothing is there, no RLCT, or an RLCT of other weights than those of the model.
        OSError: nothing of it is in the cache, and the Hub cannot be reached.
    """
    from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError

    from .download import fetch, published_weights

    if Path(repo_id).is_dir():
        return _of_folder(Path(repo_id))
    away = None
    for repo_type, files in (("dataset", ["results.parquet", "run.json"]), ("model", ["rlct.json"])):
        try:
            folder = fetch(repo_id, files, repo_type=repo_type, revision=revision, token=token)
        except RepositoryNotFoundError:
            continue
        except LocalEntryNotFoundError as error:  # off line, and not in the cache; the other kind may be there
            away = error
            continue
        if (folder / files[0]).is_file():
            # of a model the same commit, of a sweep the head: its tables and networks are two repositories
            commit = folder.name if repo_type == "model" else revision
            return _of_folder(folder, published_weights(repo_id, revision=commit, token=token))
    if away is not None:
        raise away
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
        own = _weights_of(folder, [""]) if weights is None else weights
        return _checked_model(folder, _of_model(read_json(folder / "rlct.json")), own.get(""))
    raise InputError("repo_id", str(folder), "holds neither results.parquet (of a sweep) nor rlct.json (of a model)")


def _weights_of(folder: Path, networks: Iterable[str]) -> dict[str, str]:
    found = {network: weights_sha256(folder / network) for network in networks}
    return {network: sha256 for network, sha256 in found.items() if sha256 is not None}


def _checked_model(folder: Path, table: pd.DataFrame, weights: str | None) -> pd.DataFrame:
    own = belongs(table.loc[0, KEY], weights)
    if own is False:
        problem = "describes other weights than those of the model; estimate it again (selfmod rlct)"
        raise InputError("file", str(folder / "rlct.json"), problem)
    return table.assign(weights_checked=own is True)


def _checked_sweep(folder: Path, table: pd.DataFrame, weights: Mapping[str, str]) -> pd.DataFrame:
    if KEY not in table:
        table[KEY] = None
    recorded = zip(table["network"], table[KEY], strict=True)
    own = [belongs(sha256, weights.get(network)) for network, sha256 in recorded]
    table["weights_checked"] = [answer is True for answer in own]
    others = [network for network, answer in zip(table["network"], own, strict=True) if answer is False]
    if others:
        names = ", ".join(others)
        logger.warning(f"{folder}: left out, because their figures are of other weights: {names}")
    return table[~table["network"].isin(others)].reset_index(drop=True)


def _of_sweep(results: Path, run: Path) -> pd.DataFrame:
    import pandas as pd

    try:
        table = pd.read_parquet(results)
        missing = [
            name for name in ("hidden_size", "aux_weight", "detach_targets", "seed", "rlct") if name not in table
        ]
    except (ValueError, OSError) as error:  # pyarrow's errors are among them
        raise InputError("file", str(results), f"cannot be read as parquet ({error})") from error
    if missing:
        raise InputError("file", str(results), f"lacks the column {missing[0]!r}")
    settings = read_json(run).get("settings")
    settings = settings.get("sampling") if isinstance(settings, dict) else None
    if not isinstance(settings, dict):
        raise InputError("file", str(run), "settings.sampling is missing or of a wrong type; allowed is dict")
    for name, value in _of_all(read_json(run), settings).items():
        if f"rlct_{name}" not in table:
            table[f"rlct_{name}"] = [value] * len(table)  # one by one: a value may be a dict
    weights = table["aux_weight"].map("{:g}".format)
    attached = table["detach_targets"].map({True: "", False: "-attached"})
    names = "h" + table["hidden_size"].astype(str) + "-aw" + weights + attached + "-seed" + table["seed"].astype(str)
    table.insert(0, "network", names)
    return table


def _of_all(run: dict[str, Any], sampling: dict[str, Any]) -> dict[str, Any]:
    """The settings that all RLCTs of a sweep share: those that its run.json has, and what follows from them."""
    rule, draws, data = sampling.get("nbeta"), sampling.get("num_draws"), run["settings"].get("data")
    return {
        **{name: sampling[name] for name in SAMPLER if name in sampling},
        "num_burnin_steps": sampling.get("num_burnin_steps", draws // 2 if isinstance(draws, int) else None),
        "seed": sampling.get("seed", 0),
        "nbeta_rule": rule if isinstance(rule, str) else "given",
        "num_samples": run.get("train_samples"),
        "data": _train_data(run["settings"].get("task"), data if isinstance(data, dict) else {}),
        "compute_dtype": "float32",  # in which a sweep's networks are sampled
        "options": {},
        "parameters": None,
    }


def _train_data(task: Any, data: dict[str, Any]) -> str | None:
    """A sweep's training data, as `TaskSpec.train_data` has them; None of a task that is not known here."""
    from ..data import TASKS

    name = data.get("dataset_name")
    if not isinstance(task, str) or task not in TASKS or not isinstance(name, (str, type(None))):
        return None
    return replace(TASKS[task], dataset_name=name).train_data


_OF_RLCT = ("llc", "standard_error", "status", "status_reason", "nbeta", "rhat", "ess", "init_loss", "settings")


def _of_model(rlct: dict[str, Any]) -> pd.DataFrame:
    import pandas as pd

    if missing := [name for name in _OF_RLCT if name not in rlct]:
        raise InputError("file", "rlct.json", f"lacks {missing[0]!r}")
    if not isinstance(rlct["settings"], dict) or (
        missing := [name for name in SAMPLER if name not in rlct["settings"]]
    ):
        raise InputError("file", "rlct.json", f"settings: lacks {', '.join(missing) or 'its entries'}")
    row = {
        "network": "",
        "rlct": rlct["llc"],
        "rlct_standard_error": rlct["standard_error"],
        "rlct_status": rlct["status"],
        "rlct_status_reason": rlct["status_reason"],
        "nbeta": rlct["nbeta"],
        "rlct_rhat": rlct["rhat"],
        "rlct_ess": rlct["ess"],
        "train_loss": rlct["init_loss"],
        **{f"rlct_{name}": rlct["settings"].get(name) for name in (*SAMPLER, *MORE)},
        KEY: rlct.get(KEY),
    }
    return pd.DataFrame([row])
