"""Reading published RLCTs back as a table, from the Hub or from a folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..files import read_json

if TYPE_CHECKING:
    import pandas as pd

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
        `network`, the subfolder of the model; for a model `network` is empty.

    Raises:
        InputError: nothing is there, or no RLCT.
    """
    from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError

    from .download import fetch

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
            return _of_folder(folder)
    if away is not None:
        raise away
    problem = "has neither a data set with results.parquet nor a model with rlct.json (selfmod push writes them)"
    raise InputError("repo_id", repo_id, problem)


def _of_folder(folder: Path) -> pd.DataFrame:
    if (folder / "results.parquet").is_file():
        return _of_sweep(folder / "results.parquet", folder / "run.json")
    if (folder / "rlct.json").is_file():
        return _of_model(read_json(folder / "rlct.json"))
    raise InputError("repo_id", str(folder), "holds neither results.parquet (of a sweep) nor rlct.json (of a model)")


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
    }
    return pd.DataFrame([row])
