"""The files beside a network that say what was measured of it, and whether they describe the weights beside them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..files import read_json
from ..weights import INDEX, KEY, WEIGHTS, belongs, is_shard, weights_sha256

RUN_FILE = "run.json"  # task, samples, batch size, versions, and what evaluation found
STATE_FILE = "trainer_state.json"
RESULT_FILES = ("all_results.json", "eval_results.json", "train_results.json")
# a file that records figures -> what is made from it
RECORDS = {
    "rlct.json": ("rlct.safetensors", "rlct.png"),
    "rlct_calibration.json": ("rlct_calibration.png",),
    STATE_FILE: ("training.png",),
    RUN_FILE: (),
    **dict.fromkeys(RESULT_FILES, ()),
}
PREVIOUS = "previous-"  # a folder of files that described former weights


def recorded_weights(path: Path) -> str | None:
    """Return the SHA-256 of the weights that a file of RECORDS describes. None: it records none, as in 0.1.0.

    Raises:
        InputError: the file cannot be read as JSON.
    """
    content = read_json(path)
    if path.name == STATE_FILE:
        content = _last_entry(content.get("log_history"))
    elif path.name == "rlct_calibration.json":
        content = content.get("result")
    found = content.get(KEY) if isinstance(content, dict) else None
    return found if isinstance(found, str) else None


def _last_entry(history: Any) -> Any:
    """Return the log entry that names the weights. It is the last one of a run that was saved."""
    entries = history if isinstance(history, list) else []
    named = [entry for entry in entries if isinstance(entry, dict) and KEY in entry]
    return named[-1] if named else None


def records_of(folder: Path) -> list[Path]:
    """Return the files of RECORDS that a folder holds."""
    return [folder / name for name in RECORDS if (folder / name).is_file()]


def stale_files(folder: Path, weights: str | None = None) -> list[str]:
    """Return the names of the files in a folder that describe other weights than these.

    Args:
        folder: of one network.
        weights: their SHA-256. Default: of the weights in the folder.
    """
    weights = weights_sha256(folder) if weights is None else weights
    names = []
    for path in records_of(folder):
        if belongs(_recorded_or_none(path), weights) is False:
            names += _with_companions(path)
    return names


def _recorded_or_none(path: Path) -> str | None:
    try:
        return recorded_weights(path)
    except InputError:  # whoever uses the file reports that it is broken
        return None


def _with_companions(path: Path) -> list[str]:
    companions = [name for name in RECORDS[path.name] if (path.parent / name).is_file()]
    return [path.name, *companions]


def former_files(folder: Path, new: str) -> list[str]:
    """Return the names of the files in a folder that do not describe its next weights.

    A file without a checksum describes the weights that are in the folder now.

    Args:
        folder: of one network.
        new: SHA-256 of the weights that the folder is about to hold.
    """
    present = weights_sha256(folder)
    names = []
    for path in records_of(folder):
        described = _recorded_or_none(path) or present
        if belongs(described, new) is False:
            names += _with_companions(path)
    return names


def move_aside(folder: Path, names: Iterable[str], target: Path | None = None) -> Path:
    """Move files or folders into a `previous-N` of a folder, and return it.

    Args:
        target: the one to use, if it holds none of these names. Default: the next free one.
    """
    names = list(names)
    if target is None or not target.is_dir() or any((target / name).exists() for name in names):
        target = _next_previous(folder)
    for name in names:
        os.replace(folder / name, target / name)
    return target


def _next_previous(folder: Path) -> Path:
    number = 1
    while (folder / f"{PREVIOUS}{number}").exists():
        number += 1
    target = folder / f"{PREVIOUS}{number}"
    target.mkdir()
    return target


def weight_files(folder: Path) -> list[str]:
    """Return the names of all files in a folder that hold weights or list them, the outdated ones too."""
    named = [name for name in (WEIGHTS, INDEX) if (folder / name).is_file()]
    return named + sorted(path.name for path in folder.glob("model-*.safetensors") if is_shard(path.name))


def is_of_weights(name: str) -> bool:
    """Return whether a file of this name holds a network's weights or describes them."""
    made = [name for companions in RECORDS.values() for name in companions]
    return name in (WEIGHTS, INDEX, *RECORDS, *made) or is_shard(name)
