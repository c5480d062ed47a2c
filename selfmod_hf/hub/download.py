"""Download files of the Hub, and compare each with its checksum. huggingface_hub itself only compares sizes."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
from huggingface_hub.utils import filter_repo_objects, httpx

from ..weights import ADAPTER, INDEX, WEIGHTS, combined_sha256, is_shard, joint_sha256, weights_sha256, within_network

CHUNK = 1 << 20
SHA1_LENGTH, SHA256_LENGTH = 40, 64  # hexadecimal digits


def fetch(
    repo_id: str,
    files: Sequence[str],
    *,
    repo_type: str = "model",
    revision: str | None = None,
    token: str | bool | None = None,
) -> Path:
    """Download files of a repository into huggingface_hub's cache, and return their folder.

    Args:
        repo_id: ``user/name``.
        files: names or patterns.
        repo_type: "model", "dataset" or "space".
        revision: branch, tag or commit.
        token: of the Hub, if the repository is private.

    Raises:
        ConnectionError: the content of a file is not the announced one (the file is removed from the cache), or the
            connection broke off.
        HfHubHTTPError, OSError: the Hub rejects the request, or cannot be reached.
    """
    try:
        with _missing_files_are_usual():
            folder = snapshot_download(
                repo_id, repo_type=repo_type, revision=revision, allow_patterns=list(files), token=token
            )
    except httpx.TransportError as error:
        raise ConnectionError(f"{repo_id}: the connection broke off ({error}); try again") from error
    root = Path(folder)
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        is_wanted = bool(list(filter_repo_objects([name], allow_patterns=list(files))))
        if is_wanted and path.is_file():  # the cache may hold other files too
            check(path, repo_id)
    return root


@contextmanager
def _missing_files_are_usual() -> Iterator[None]:
    """Keep huggingface_hub from warning that a repository has none of the files. The callers look for them."""

    def is_other(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith("No files matched")

    logger = logging.getLogger("huggingface_hub._snapshot_download")
    logger.addFilter(is_other)
    try:
        yield
    finally:
        logger.removeFilter(is_other)


def published_weights(
    repo_id: str,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    api: HfApi | None = None,
) -> dict[str, str]:
    """Return folder -> SHA-256 of its weights, for each network of a repository.

    The Hub reports them without a download. Without a connection, the weights in the cache are read. The result is
    empty if there are none.

    Args:
        repo_id: ``user/name`` of a model repository.
        revision: branch, tag or commit.
        token: of the Hub, if the repository is private.
        api: of the Hub, in place of the token.
    """
    digests = {}
    api = api or HfApi(token=token)
    try:
        for file in api.list_repo_tree(repo_id, recursive=True, revision=revision):
            lfs = getattr(file, "lfs", None)
            if lfs is not None:
                digests[file.path] = lfs.sha256
    except (HfHubHTTPError, OfflineModeIsEnabled, OSError, httpx.TransportError):
        return _weights_in_cache(repo_id, revision)
    return _by_folder(digests)


def _by_folder(digests: Mapping[str, str]) -> dict[str, str]:
    """Return the SHA-256 of each folder's weights.

    Args:
        digests: name of a file in the repository -> its SHA-256.
    """
    folders: dict[str, dict[str, str]] = {}
    for path, digest in digests.items():
        folder, name = within_network(path)
        folders.setdefault(folder, {})[name] = digest
    found = {}
    for folder, files in folders.items():
        shards = {name: digest for name, digest in files.items() if is_shard(name)}
        complete = joint_sha256({name: files[name] for name in (ADAPTER, WEIGHTS) if name in files})
        if complete is not None:
            found[folder] = complete
        elif shards:
            found[folder] = combined_sha256(shards)
    return found


def _weights_in_cache(repo_id: str, revision: str | None) -> dict[str, str]:
    try:
        root = Path(snapshot_download(repo_id, revision=revision, local_files_only=True))
    except (OSError, ValueError):
        return {}
    found = {}
    for name in (WEIGHTS, INDEX, ADAPTER):
        for path in root.rglob(name):
            folder, _ = within_network(path.relative_to(root).as_posix())
            digest = weights_sha256(root / folder)
            if digest is not None:
                found[folder] = digest
    return found


def check(path: Path, repo_id: str) -> None:
    """Compare a file of the cache with its checksum.

    Raises:
        ConnectionError: they differ. The file is removed.
    """
    blob = path.resolve()
    # the name is the SHA-256, or git's SHA-1 of a file outside of LFS
    named_by_checksum = path.is_symlink() and len(blob.name) in (SHA1_LENGTH, SHA256_LENGTH)
    if not named_by_checksum or _digest(blob) == blob.name:
        return
    path.unlink()
    blob.unlink()
    raise ConnectionError(f"{repo_id}: {path.name} arrived with another content than announced; removed, try again")


def _digest(blob: Path) -> str:
    if len(blob.name) == SHA256_LENGTH:
        digest = hashlib.sha256()
    else:
        digest = hashlib.sha1(b"blob %d\0" % blob.stat().st_size, usedforsecurity=False)
    with blob.open("rb") as file:
        while part := file.read(CHUNK):
            digest.update(part)
    return digest.hexdigest()
