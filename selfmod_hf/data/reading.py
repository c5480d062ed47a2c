"""Reading a split from the Hub, a local folder or a single file."""

from __future__ import annotations

import glob
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from ..errors import InputError
from .lazy_datasets import datasets
from .tasks import TaskSpec

EMPTY = "the split is empty; at least one sample is needed"
UNREACHABLE = (
    "the Hub cannot be reached and no cached copy was found ({}); use `task` digits, "
    "a local folder in Hub layout as `dataset_name`, or set HF_ENDPOINT"
)
# ending of a single file -> builder of `datasets` for it, and the builder's settings
FILES: dict[str, tuple[str, dict[str, Any]]] = {
    ".csv": ("csv", {}),
    ".tsv": ("csv", {"sep": "\t"}),
    ".json": ("json", {}),
    ".jsonl": ("json", {}),
    ".parquet": ("parquet", {}),
}
COMPRESSED = (".gz", ".bz2", ".xz", ".zst")


def load_split(spec: TaskSpec, field: str, split: str) -> datasets.Dataset:
    """Return one split of the task's data set, through the real `datasets` client and its cache.

    Args:
        spec: the task.
        field: the task's field for this split, for errors.
        split: name of the split.

    Raises:
        InputError: a missing or unreadable data set, configuration or split, or a split without rows.
    """
    source = _source(spec)
    try:
        data = _load(source, split)
    except InputError:
        raise
    except Exception as error:
        if isinstance(error, ValueError) and not isinstance(error, HFValidationError):
            raise _explained_value(error, spec, field, split) from error
        raise _explained(error, spec) from error
    if len(data) == 0:
        raise InputError(field, split, EMPTY)
    return data


def check_column(data: datasets.Dataset, field: str, column: str) -> None:
    """Reject a column missing in the data set."""
    if column not in data.column_names:
        raise InputError(field, column, f"no such column; the data set has {', '.join(data.column_names)}")


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _source(spec: TaskSpec) -> dict[str, Any]:
    """Return the arguments of `load_dataset` for the task's data set."""
    name = spec.dataset_name
    assert name is not None
    if not name.strip():
        raise InputError("dataset_name", name, "allowed are a Hub id, a local folder and a local file")
    path = Path(name)
    if not path.is_file():
        return {"path": name, "name": spec.dataset_config}
    suffix = path.suffix.lower()
    if suffix in COMPRESSED:
        suffix = path.with_suffix("").suffix.lower()
    if suffix not in FILES:
        problem = f"allowed are files that end with {', '.join(FILES)}, compressed ones ({', '.join(COMPRESSED)}) too"
        raise InputError("dataset_name", name, problem)
    if spec.dataset_config is not None:
        raise InputError("dataset_config", spec.dataset_config, "a single file has no configurations")
    builder, settings = FILES[suffix]
    return {"path": builder, "data_files": {"train": glob.escape(name)}, **settings}


def _load(source: dict[str, Any], split: str) -> datasets.Dataset:
    """Return the split. If the cache has a damaged copy, prepare the split again."""
    try:
        data = datasets.load_dataset(**source, split=split)
        if _is_complete(data, split):
            return data
    except ConnectionError:
        raise
    except json.JSONDecodeError:
        _remove_damaged_infos()
    except (OSError, pa.ArrowException):  # perhaps a damaged file. Any other error is raised again below
        pass
    return datasets.load_dataset(**source, split=split, download_mode="reuse_cache_if_exists")


def _remove_damaged_infos() -> None:
    """Remove broken descriptions of prepared data sets, because `datasets` reads them before anything else."""
    for path in Path(datasets.config.HF_DATASETS_CACHE).rglob("dataset_info.json"):
        try:
            json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            path.unlink(missing_ok=True)


def _is_complete(data: datasets.Dataset, split: str) -> bool:
    """Return whether a split has as many rows as were prepared. A part of a split, such as train[:100], is complete."""
    known = data.info.splits
    if known is None or split not in known:
        return True
    return known[split].num_examples == len(data)


def _explained(error: Exception, spec: TaskSpec) -> InputError:
    """Return the error of one line for a data set that cannot be read."""
    name = spec.dataset_name
    if isinstance(error, datasets.exceptions.DatasetNotFoundError):
        return InputError("dataset_name", name, f"no such data set ({first_line(error)})")
    if isinstance(error, (ConnectionError, HfHubHTTPError)):
        return InputError("dataset_name", name, UNREACHABLE.format(first_line(error)))
    if isinstance(error, HFValidationError):
        problem = "neither a folder or file that is there nor the name of a data set on the Hub (user/name)"
        return InputError("dataset_name", name, problem)
    # readers of broken files raise errors of any kind
    words = str(error.__cause__ or error).split()
    reason = " ".join(words)[:300]
    return InputError("dataset_name", name, f"cannot be read as a data set ({reason})")


def _explained_value(error: ValueError, spec: TaskSpec, field: str, split: str) -> InputError:
    """Return the error of one line for an unknown split or configuration, or for an impossible name."""
    message = str(error)
    if "corresponds to no data" in message:
        return InputError(field, split, EMPTY)
    if message.startswith("Config name is missing"):
        _, _, configs = message.partition("available configs: ")
        allowed = first_line(ValueError(configs)).strip("[]")
        return InputError("dataset_config", None, f"the data set has several configurations; allowed are {allowed}")
    problem = first_line(error)
    if "BuilderConfig" in message:
        return InputError("dataset_config", spec.dataset_config, problem)
    if "split" in message:
        return InputError(field, split, problem)
    return InputError("dataset_name", spec.dataset_name, problem)
