"""Which weights a figure was measured on: the SHA-256 of the safetensors files that hold them.

Whatever is measured of a network records it as `weights_sha256`. A figure belongs to a folder's weights where the two
agree. Files of version 0.1.0 record nothing, so their figures cannot be checked.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .files import read_json

if TYPE_CHECKING:
    import torch

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
KEY = "weights_sha256"  # in every file that records a figure
UNCHECKED = "not checked against the weights"
CHUNK = 1 << 20
_SHARD = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")
LARGE = 16 << 20  # bytes


def weights_sha256(folder: str | Path) -> str | None:
    """Return the SHA-256 of the weights in a folder, as hexadecimal digits. None: it holds no complete weights.

    Of one `model.safetensors` it is that file's own SHA-256, which the Hub shows beside the file. Of several files it
    is `combined_sha256` of theirs.
    """
    folder = Path(folder)
    names = files_with_weights(folder)
    if not names or not all((folder / name).is_file() for name in names):
        return None
    if names == [WEIGHTS]:
        return file_sha256(folder / WEIGHTS)
    return combined_sha256({name: file_sha256(folder / name) for name in names})


def files_with_weights(folder: str | Path) -> list[str]:
    """Return the names of the files from which a folder's weights are loaded: one, or the shards of an index.

    Raises:
        InputError: the index cannot be read.
    """
    if Path(folder, WEIGHTS).is_file():
        return [WEIGHTS]
    index = Path(folder, INDEX)
    return shard_names(index) if index.is_file() else []


def shard_names(index: Path) -> list[str]:
    """Return the names of the files that an index of sharded weights lists.

    Raises:
        InputError: the index cannot be read.
    """
    shards = read_json(index).get("weight_map")
    names = shards.values() if isinstance(shards, dict) else []
    return sorted({Path(name).name for name in names if isinstance(name, str)})


def is_shard(name: str) -> bool:
    """Return whether a file name is that of a part of sharded weights."""
    return _SHARD.fullmatch(name) is not None


def combined_sha256(shards: Mapping[str, str]) -> str:
    """Return one SHA-256 for weights in several files, from the name and the SHA-256 of each."""
    lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(shards.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def file_sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file's content. A large file that has not changed is read once."""
    path = Path(path).resolve()
    about = path.stat()
    if about.st_size < LARGE:  # read each time: a second write may fall within the resolution of the clock
        return _digest_of(path)
    return _remembered_digest(path, about.st_size, about.st_mtime_ns, about.st_ino)


@lru_cache(maxsize=1024)
def _remembered_digest(path: Path, size: int, changed: int, number: int) -> str:
    return _digest_of(path)


def _digest_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(CHUNK):
            digest.update(part)
    return digest.hexdigest()


def state_digest(state: Mapping[str, torch.Tensor]) -> str:
    """Return a digest of weights in memory: names, types, shapes and bytes. It is not the digest of a file."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        values = tensor.detach().cpu().contiguous().flatten()
        digest.update(values.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def belongs(recorded: Any, weights: str | None) -> bool | None:
    """Return whether a figure belongs to these weights. None: the figure or the weights have no checksum to compare."""
    if recorded is None or weights is None:
        return None
    return bool(recorded == weights)
