"""Files of the Hub, each compared with its checksum: huggingface_hub compares sizes alone."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
from huggingface_hub.utils import filter_repo_objects, httpx

from ..weights import INDEX, WEIGHTS, combined_sha256, is_shard, weights_sha256

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


def published_weights(repo_id: str, *, revision: str | None = None, token: str | bool | None = None) -> dict[str, str]:
    """Return folder -> SHA-256 of the weights in it, for each network of a repository.

    The Hub tells them without a download. Off line those of the cache are taken. Empty: neither is there.

    Args:
        repo_id: ``user/name`` of a model repository.
        revision: branch, tag or commit.
        token: of the Hub, where it is private.
    """
    from huggingface_hub import HfApi

    try:
        files = HfApi(token=token).list_repo_tree(repo_id, recursive=True, revision=revision)
        digests = {file.path: file.lfs.sha256 for file in files if getattr(file, "lfs", None) is not None}
    except (HfHubHTTPError, OfflineModeIsEnabled, OSError, httpx.TransportError):
        return _weights_in_cache(repo_id, revision)
    return _by_folder(digests)


def _by_folder(digests: Mapping[str, str]) -> dict[str, str]:
    """Return the SHA-256 of each folder's weights from those of the files, by their names in the repository."""
    folders: dict[str, dict[str, str]] = {}
    for path, digest in digests.items():
        folder, _, name = path.rpartition("/")
        folders.setdefault(folder, {})[name] = digest
    found = {}
    for folder, files in folders.items():
        shards = {name: digest for name, digest in files.items() if is_shard(name)}
        if WEIGHTS in files:
            found[folder] = files[WEIGHTS]
        elif shards:
            found[folder] = combined_sha256(shards)
    return found


def _weights_in_cache(repo_id: str, revision: str | None) -> dict[str, str]:
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(repo_id, revision=revision, local_files_only=True))
    except (OSError, ValueError):
        return {}
    named = {path.parent for name in (WEIGHTS, INDEX) for path in folder.rglob(name)}
    digests = {path: weights_sha256(path) for path in named}
    return {
        "" if path == folder else path.relative_to(folder).as_posix(): digest
        for path, digest in digests.items()
        if digest is not None
    }


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
