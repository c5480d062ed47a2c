"""Find the records of measurements beside a network, and check whether they describe its weights."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..files import read_json
from ..weights import ADAPTER, ADAPTER_SETTINGS, INDEX, KEY, WEIGHTS, belongs, is_shard, weights_sha256

RUN_FILE = "run.json"  # `NetworkRun`: task, samples, batch size, versions, results of an evaluation
STATE_FILE = "trainer_state.json"
RESULT_FILES = ("all_results.json", "eval_results.json", "train_results.json")
# a file that records measurements -> the files made from it
RECORDS: dict[str, tuple[str, ...]] = {
    "rlct.json": ("rlct.safetensors", "rlct.png"),
    "rlct_calibration.json": ("rlct_calibration.png",),
    STATE_FILE: ("training.png",),
    RUN_FILE: (),
    **dict.fromkeys(RESULT_FILES, ()),
}
DERIVED_FILES = tuple(chain.from_iterable(RECORDS.values()))
PREVIOUS = "previous-"  # a folder of files that described former weights


def recorded_weights(path: Path) -> str | None:
    """Return the SHA-256 of the weights in a file of RECORDS. None: it has none, like the files of version 0.1.0.

    Raises:
        InputError: the file cannot be read as JSON, or its checksum has a wrong type.
    """
    content = read_json(path)
    if path.name == STATE_FILE:
        content = _last_entry(content.get("log_history"))
    elif path.name == "rlct_calibration.json":
        content = content.get("result")
    if not isinstance(content, dict):
        return None
    found = content.get(KEY)
    if found is not None and not isinstance(found, str):
        raise InputError("file", str(path), f"{KEY}={found!r}: allowed is text")
    return found


def _last_entry(history: Any) -> Any:
    """Return the last log entry with a checksum. It is the last of all after a saved run."""
    if not isinstance(history, list):
        return None
    for entry in reversed(history):
        if isinstance(entry, dict) and KEY in entry:
            return entry
    return None


def stale_files(folder: Path, weights: str | None = None) -> list[str]:
    """Return the names of the files in a folder with records of other weights than these.

    Args:
        folder: of one network.
        weights: their SHA-256. Default: of the weights in the folder.
    """
    if weights is None:
        weights = weights_sha256(folder)
    return _of_other_weights(folder, weights, if_unrecorded=None)


def former_files(folder: Path, new: str) -> list[str]:
    """Return the names of the files in a folder without records of its next weights.

    A file without a checksum describes the present weights of the folder.

    Args:
        folder: of one network.
        new: SHA-256 of the next weights.
    """
    return _of_other_weights(folder, new, if_unrecorded=weights_sha256(folder))


def _of_other_weights(folder: Path, weights: str | None, if_unrecorded: str | None) -> list[str]:
    """Return the files of RECORDS about other weights, each with the files made from it."""
    names = []
    for name, derived in RECORDS.items():
        path = folder / name
        if not path.is_file():
            continue
        recorded = if_unrecorded
        with suppress(InputError):  # the code that uses the file reports that it is broken
            recorded = recorded_weights(path) or if_unrecorded
        if belongs(recorded, weights) is False:
            names.append(name)
            names += [made for made in derived if (folder / made).is_file()]
    return names


def move_aside(folder: Path, names: Iterable[str], target: Path | None = None) -> Path:
    """Move files or folders into a `previous-N` of a folder, and return it.

    Args:
        folder: the folder.
        names: of the files or folders in it.
        target: the one to use, if it holds none of these names. Default: the next free one.
    """
    names = list(names)
    if target is None or not target.is_dir():
        target = _next_previous(folder)
    if any((target / name).exists() for name in names):
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
    """Return the names of all files of weights in a folder, of their index and adapter, the outdated ones too."""
    named = [name for name in (WEIGHTS, INDEX, ADAPTER, ADAPTER_SETTINGS) if (folder / name).is_file()]
    shards = [path.name for path in folder.glob("model-*.safetensors") if is_shard(path.name)]
    return named + sorted(shards)


def is_of_weights(name: str) -> bool:
    """Return whether a file of this name holds a network's weights or describes them."""
    return name in (WEIGHTS, INDEX, ADAPTER, ADAPTER_SETTINGS, *RECORDS, *DERIVED_FILES) or is_shard(name)
