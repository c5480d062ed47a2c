"""Files of the Hub, each compared with its checksum: huggingface_hub compares sizes alone."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub.utils import filter_repo_objects, httpx

CHUNK = 1 << 20


def fetch(
    repo_id: str,
    files: Sequence[str],
    *,
    repo_type: str = "model",
    revision: str | None = None,
    token: str | bool | None = None,
) -> Path:
    """A repository's files of these names or patterns, in huggingface_hub's cache; returns their folder.

    Raises:
        ConnectionError: a file arrived with another content than the Hub announced (it is removed from the cache), or
            the connection broke off.
        HfHubHTTPError, OSError: the Hub refuses, or cannot be reached.
    """
    from huggingface_hub import snapshot_download

    try:
        folder = snapshot_download(
            repo_id, repo_type=repo_type, revision=revision, allow_patterns=list(files), token=token
        )
    except httpx.TransportError as error:
        raise ConnectionError(f"{repo_id}: the connection broke off ({error}); try again") from error
    there = sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file())
    for name in filter_repo_objects(there, allow_patterns=list(files)):  # the folder may hold others, from before
        check(Path(folder, name), repo_id)
    return Path(folder)


def check(path: Path, repo_id: str) -> None:
    """Compare a file of the cache with its checksum.

    Raises:
        ConnectionError: they differ; the file is removed.
    """
    blob = path.resolve()  # named by its checksum: SHA-256, or git's SHA-1 where a file is no LFS file
    if not path.is_symlink() or len(blob.name) not in (40, 64) or _digest(blob) == blob.name:
        return
    path.unlink()
    blob.unlink()
    raise ConnectionError(f"{repo_id}: {path.name} arrived with another content than announced; removed, try again")


def _digest(blob: Path) -> str:
    if len(blob.name) == 64:
        digest = hashlib.sha256()
    else:
        digest = hashlib.sha1(b"blob %d\0" % blob.stat().st_size, usedforsecurity=False)
    with blob.open("rb") as file:
        while part := file.read(CHUNK):
            digest.update(part)
    return digest.hexdigest()
