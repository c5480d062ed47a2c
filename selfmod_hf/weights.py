"""Checksums of weights, so that each figure names the weights it was measured on.

Every figure of a network is recorded with `weights_sha256`, the SHA-256 of the safetensors files. A figure belongs to
a folder's weights if the two agree. Files of version 0.1.0 record nothing, so their figures cannot be checked.
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
# of a network whose task model has an adapter
ADAPTER, ADAPTER_SETTINGS = "adapter/adapter_model.safetensors", "adapter/adapter_config.json"
KEY = "weights_sha256"  # in every file with a figure
UNCHECKED = "not checked against the weights"
CHUNK = 1 << 20
_SHARD = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")
LARGE = 16 << 20  # bytes


def weights_sha256(folder: str | Path) -> str | None:
    """Return the SHA-256 of the weights in a folder, as hexadecimal digits. None: it holds no complete weights.

    For one `model.safetensors` it is the file's own SHA-256, as shown on the Hub. For several files it is their
    `combined_sha256`.
    """
    folder = Path(folder)
    digests = {}
    for name in files_with_weights(folder):
        file = folder / name
        if not file.is_file():
            return None
        digests[name] = file_sha256(file)
    return joint_sha256(digests)


def joint_sha256(digests: Mapping[str, str]) -> str | None:
    """Return the SHA-256 of a network's weights, from the names and the SHA-256 of their files. None: no files.

    Example:
        >>> joint_sha256({WEIGHTS: "ab12"})
        'ab12'
    """
    if not digests:
        return None
    if list(digests) == [WEIGHTS]:
        return digests[WEIGHTS]
    return combined_sha256(digests)


def files_with_weights(folder: str | Path) -> list[str]:
    """Return the names of the files with a folder's weights: one file, or the shards of an index, and an adapter.

    Raises:
        InputError: the index cannot be read.
    """
    present = [name for name in (ADAPTER, WEIGHTS) if Path(folder, name).is_file()]
    if present:
        return present
    index = Path(folder, INDEX)
    if not index.is_file():
        return []
    shards = read_json(index).get("weight_map")
    if not isinstance(shards, dict):
        return []
    names = set()
    for shard in shards.values():
        if isinstance(shard, str):
            names.add(Path(shard).name)
    return sorted(names)


def within_network(name: str) -> tuple[str, str]:
    """Return the folder of the network that a file belongs to, and the name of the file within it.

    Args:
        name: of a file in a repository.

    Example:
        >>> within_network("cells/a/model.safetensors"), within_network("adapter/adapter_config.json")
        (('cells/a', 'model.safetensors'), ('', 'adapter/adapter_config.json'))
    """
    for file in (ADAPTER, ADAPTER_SETTINGS):
        if f"/{name}".endswith(f"/{file}"):
            return name.removesuffix(file).rstrip("/"), file
    folder, _, file = name.rpartition("/")
    return folder, file


def is_shard(name: str) -> bool:
    """Return whether a file name belongs to a part of sharded weights.

    Example:
        >>> is_shard("model-00001-of-00002.safetensors"), is_shard("model.safetensors")
        (True, False)
    """
    return _SHARD.fullmatch(name) is not None


def combined_sha256(shards: Mapping[str, str]) -> str:
    """Return one SHA-256 for weights in several files, from the name and the SHA-256 of each."""
    combined = hashlib.sha256()
    for name, digest in sorted(shards.items()):
        line = f"{digest}  {name}\n"
        combined.update(line.encode())
    return combined.hexdigest()


def file_sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file's content. A large unchanged file is read once."""
    path = Path(path).resolve()
    about = path.stat()
    if about.st_size < LARGE:  # read each time, because a second write may fall within the resolution of the clock
        return _digest_of(path)
    return _remembered_digest(path, about.st_size, about.st_mtime_ns, about.st_ino)


def _digest_of(path: Path, *state: int) -> str:
    """Return the SHA-256 of a file. `state` is its size, time and number, for the cache."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(CHUNK):
            digest.update(part)
    return digest.hexdigest()


_remembered_digest = lru_cache(maxsize=1024)(_digest_of)


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
    """Return whether a figure belongs to these weights. None: the figure or the weights have no checksum.

    Args:
        recorded: checksum recorded with the figure.
        weights: checksum of the weights.
    """
    if recorded is None or weights is None:
        return None
    return bool(recorded == weights)
