"""A small Hugging Face Hub on loopback, for tests that talk to it with the real clients.

What. An HTTP server that answers `huggingface_hub`, `datasets` and `transformers` as the Hub does:
repositories, revisions, regular and LFS uploads, downloads with ETag and commit hash, private repositories,
tags and branches. It is strict: what the Hub refuses (unknown token, unknown revision, an upload with another
SHA-256, a commit that names an object never uploaded, invalid card metadata, ...) is refused here, with the
Hub's status and error header.

Why our own. Looked at first: `hf-local-hub` (launches a Go binary that its wheel does not hold), KohakuHub
(needs LakeFS, an object store and a database), `cheesecave` (a reserved name), mirrors (download only). None
accepts commits in one process without services, so this file does, with the standard library and PyYAML
(`huggingface_hub` requires it anyway).

How it stores. `root` holds plain files, `models/<org>/<name>/...`, `datasets/<org>/<name>/...`, `spaces/...`:
the head of `main`, for people to look at. `root/.loopback` holds the truth: blobs by SHA-256, a manifest per
commit, a `repo.json` with the refs per repository; each is written under a temporary name, then renamed. A
plain folder without history, in `root` or in a read-only `seed`, is served as a repository of one commit.
Seeds are never written to: what is pushed on top of one lies in `root`. One server per root.

By hand (HF_HUB_DISABLE_XET=1, since Xet's own protocol is not spoken here):

    python -m tests.loopback_hub --root DIR --port 8000
    HF_ENDPOINT=http://127.0.0.1:8000 HF_TOKEN=hf_loopback HF_HUB_DISABLE_XET=1 selfmod train --task mnist

Tokens: `hf_loopback` is the user `me`, `hf_colleague` the user `colleague`; each writes to its own namespace.
Not here: Xet, multipart LFS, discussions, collections, search, `.gitignore` rules, gated repositories, git.
"""

from __future__ import annotations

import argparse
import base64
import binascii
import contextlib
import fnmatch
import hashlib
import hmac
import json
import os
import re
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
import traceback
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from email.message import Message
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BufferedIOBase
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

TOKEN = "hf_loopback"
COLLEAGUE_TOKEN = "hf_colleague"
USERS = {TOKEN: "me", COLLEAGUE_TOKEN: "colleague"}

LFS_THRESHOLD = 10_000_000  # bytes; larger files go by LFS whatever their name
MAX_REGULAR_SIZE = 10 * 1024 * 1024
CHUNK = 1 << 20
SEED_DATE = "2024-01-01T00:00:00.000Z"  # seeds get the same commit on every machine, so the same date too
MAIN = "refs/heads/main"

# What the Hub puts into a new repository; it also decides which files go by LFS.
LFS_PATTERNS = """
*.7z *.arrow *.avro *.bin *.bz2 *.ckpt *.ftz *.gguf *.gz *.h5 *.joblib *.lz4 *.mlmodel *.model *.msgpack *.npy
*.npz *.onnx *.ot *.parquet *.pb *.pickle *.pkl *.pt *.pth *.rar *.safetensors saved_model/**/* *.tar.* *.tar
*.tflite *.tgz *.wasm *.xz *.zip *.zst *tfevents*
"""
GIT_ATTRIBUTES = "".join(f"{pattern} filter=lfs diff=lfs merge=lfs -text\n" for pattern in LFS_PATTERNS.split())

_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?")
_OID = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_REF_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._/-]*[A-Za-z0-9_])?")
_CARD = re.compile(r"^\s*---[\r\n]+([\S\s]*?)[\r\n]+---(?:\r?\n|$)")


class HubError(Exception):
    """A refusal: an HTTP status, the Hub's error header, and a line that says why."""

    def __init__(self, status: int, message: str, code: str | None = None, **extra: Any) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.extra = status, message, code, extra

    def response(self, headers: dict[str, str] | None = None) -> Response:
        headers = {**(headers or {}), "X-Error-Message": self.message.encode("ascii", "replace").decode()}
        if self.code:
            headers["X-Error-Code"] = self.code
        return Response.of_json({"error": self.message, **self.extra}, self.status, headers)


# ---------------------------------------------------------------------------------------------- content


@dataclass(frozen=True)
class File:
    """One file of a commit. `oid` is git's blob id (of the pointer, for LFS)."""

    sha256: str
    size: int
    oid: str
    lfs: bool

    @property
    def etag(self) -> str:
        return self.sha256 if self.lfs else self.oid


Tree = dict[str, File]
Json = dict[str, Any]


@dataclass(frozen=True)
class Commit:
    """A snapshot of the whole repository; its id depends on content, parent, message and author, not time."""

    tree: Tree
    parent: str | None
    title: str
    message: str
    author: str
    date: str

    @cached_property
    def oid(self) -> str:
        files = {path: asdict(file) for path, file in sorted(self.tree.items())}
        return sha1(dump([files, self.parent, self.title, self.message, self.author]))

    @classmethod
    def from_json(cls, data: bytes) -> Commit:
        fields = json.loads(data)
        fields["tree"] = {path: File(**file) for path, file in fields["tree"].items()}
        return cls(**fields)


@dataclass
class Repo:
    """A repository: refs point to commits, commits name blobs."""

    kind: str  # "models", "datasets", "spaces"
    id: str  # "org/name"
    private: bool = False
    created_at: str = SEED_DATE
    refs: dict[str, str] = field(default_factory=dict)
    commits: dict[str, Commit] = field(default_factory=dict)

    @property
    def namespace(self) -> str:
        return self.id.split("/")[0]

    @property
    def url_path(self) -> str:
        return self.id if self.kind == "models" else f"{self.kind}/{self.id}"

    def resolve(self, revision: str) -> Commit:
        """The commit of a branch, a tag, a full ref, or a full commit id."""
        for ref in (f"refs/heads/{revision}", f"refs/tags/{revision}", revision):
            if ref in self.refs:
                return self.commits[self.refs[ref]]
        if revision in self.commits:
            return self.commits[revision]
        raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")

    def history(self, commit: Commit) -> Iterator[Commit]:
        """The commit, then its ancestors."""
        while True:
            yield commit
            if commit.parent is None:
                return
            commit = self.commits[commit.parent]


def dump(value: Any) -> bytes:
    """Canonical JSON (card metadata may hold dates, hence `default`)."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=str).encode()


def sha1(data: bytes) -> str:
    return hashlib.sha1(data, usedforsecurity=False).hexdigest()


def blob_oid(data: bytes) -> str:
    """Git's id of a blob."""
    return sha1(b"blob %d\0" % len(data) + data)


def lfs_pointer(sha256: str, size: int) -> bytes:
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()


def lfs_file(sha256: str, size: int) -> File:
    return File(sha256, size, blob_oid(lfs_pointer(sha256, size)), lfs=True)


def regular_file(data: bytes) -> File:
    return File(hashlib.sha256(data).hexdigest(), len(data), blob_oid(data), lfs=False)


def now() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def goes_by_lfs(path: str, size: int, attributes: str) -> bool:
    """The preupload rule: large files, and those that .gitattributes names."""
    if size >= LFS_THRESHOLD:
        return True
    patterns = [line.split()[0] for line in attributes.splitlines() if "filter=lfs" in line.split()[1:]]
    name = path.rsplit("/", 1)[-1]
    return any(fnmatch.fnmatchcase(path if "/" in pattern else name, pattern) for pattern in patterns)


def checked_path(path: str) -> str:
    """A path inside a repository, or a refusal: no way out of it, nothing git keeps for itself."""
    parts = path.split("/")
    bad = any(part.lower() in ("", ".", "..", ".git") or len(part) > 255 for part in parts)
    if bad or "\\" in path or any(ord(character) < 32 for character in path):
        raise HubError(400, f"Invalid path in repository: {path!r}")
    return path


def checked_repo_id(namespace: str, name: str) -> str:
    for part in (namespace, name):
        if not _NAME.fullmatch(part) or "--" in part or ".." in part or part.endswith((".git", ".ipynb")):
            raise HubError(400, f"Invalid repo name: {namespace}/{name}")
    return f"{namespace}/{name}"


def checked_ref_name(name: Any) -> str:
    taken = isinstance(name, str) and (name.startswith("refs/") or _OID.fullmatch(name))
    if not isinstance(name, str) or taken or not _REF_NAME.fullmatch(name) or ".." in name or "//" in name:
        raise HubError(400, f"Invalid reference name: {name!r}")
    return name


def folder_oid(tree: Tree, folder: str) -> str | None:
    """An id that changes when anything below the folder does; None where there is no such folder."""
    below = {path: file.oid for path, file in sorted(tree.items()) if path.startswith(f"{folder}/")}
    return sha1(dump(below)) if below else None


def listing(tree: Tree, folder: str, recursive: bool) -> list[str]:
    """Paths of files and folders below `folder` ("" is the root), as the tree endpoint lists them."""
    start = f"{folder}/" if folder else ""
    found: set[str] = set()
    for path in tree:
        if path.startswith(start):
            parts = path[len(start) :].split("/")
            depth = len(parts) if recursive else 1
            found.update(start + "/".join(parts[: level + 1]) for level in range(depth))
    return sorted(found)


# ---------------------------------------------------------------------------------------------- cards


def card_metadata(content: str) -> Any:
    """What stands between the two `---` lines of a card; None where there are none. Raises yaml.YAMLError."""
    block = _CARD.match(content)
    return yaml.safe_load(block.group(1)) if block else None


def card_errors(content: str) -> list[str]:
    """Why the Hub would refuse this card's metadata; an empty list where it would not."""
    try:
        card = card_metadata(content)
    except yaml.YAMLError as error:
        return [f"YAML is not valid: {' '.join(str(error).split())}"]
    if card is None:
        return []
    if not isinstance(card, dict):
        return ["YAML metadata must be a mapping"]
    wrong = [key for key in _TEXTS if not _strings(card.get(key))]
    errors = [f'"{key}" must be a string or a list of strings' for key in wrong]
    licenses = card.get("license") or []
    for name in [licenses] if isinstance(licenses, str) else licenses:
        if not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", str(name)):
            errors.append(f'"license" must be one of the known identifiers, not {name!r}')
    return errors + _model_index_errors(card.get("model-index", []))


def eval_yaml_errors(content: str) -> list[str]:
    """Why the Hub would refuse a benchmark's eval.yaml. What it checks beyond these keys is not documented."""
    try:
        values = yaml.safe_load(content)
    except yaml.YAMLError as error:
        return [f"YAML is not valid: {' '.join(str(error).split())}"]
    if not isinstance(values, dict):
        return ["eval.yaml must be a mapping"]
    errors = [f'"{key}" must be a string' for key in _EVAL_KEYS if not isinstance(values.get(key), str)]
    tasks = values.get("tasks")
    if not isinstance(tasks, list) or not tasks:
        return [*errors, '"tasks" must be a list of tasks']
    for place, task in enumerate(tasks):
        if not isinstance(task, dict) or not isinstance(task.get("id"), str):
            errors.append(f'"tasks[{place}].id" must be a string')
    return errors


def eval_result_items(filename: str, content: str) -> list[Json]:
    """A model's file in `.eval_results` as the API gives it: its entries, or one item that says what is wrong."""
    try:
        entries = yaml.safe_load(content)
    except yaml.YAMLError as error:
        return [{"filename": filename, "error": " ".join(str(error).split())}]
    if not isinstance(entries, list):
        return [{"filename": filename, "error": "must be a list of entries"}]
    items: list[Json] = []
    for entry in entries:
        dataset = entry.get("dataset") if isinstance(entry, dict) else None
        named = isinstance(dataset, dict) and isinstance(dataset.get("id"), str) and dataset.get("task_id")
        if not named or not isinstance(entry.get("value"), (int, float)):
            return [{"filename": filename, "error": "an entry needs dataset.id, dataset.task_id and value"}]
        items.append({"filename": filename, "verified": False, "data": entry})
    return items


_EVAL_KEYS = ("name", "description", "evaluation_framework")
_TEXTS = ("license", "language", "tags", "datasets", "base_model", "metrics", "pipeline_tag", "library_name")


def _strings(value: Any) -> bool:
    """Whether this is nothing, a string, or a list of strings."""
    values = value if isinstance(value, list) else [value]
    return value is None or all(isinstance(item, str) for item in values)


def _model_index_errors(index: Any) -> list[str]:
    """What `model-index` must have: names, and for each result task, data set and metrics."""
    errors: list[str] = []

    def part(parent: Any, where: str, key: str) -> Any:
        value = parent.get(key) if isinstance(parent, dict) else None
        if value is None:
            errors.append(f'"{where}.{key}" is required')
        return value

    def items(value: Any, where: str) -> list[tuple[str, Any]]:
        if value is not None and not isinstance(value, list):
            errors.append(f'"{where}" must be an array')
        return [(f"{where}[{i}]", item) for i, item in enumerate(value)] if isinstance(value, list) else []

    for model_at, model in items(index, "model-index"):
        part(model, model_at, "name")
        for result_at, result in items(part(model, model_at, "results"), f"{model_at}.results"):
            part(part(result, result_at, "task"), f"{result_at}.task", "type")
            for key in ("type", "name"):
                part(part(result, result_at, "dataset"), f"{result_at}.dataset", key)
            for metric_at, metric in items(part(result, result_at, "metrics"), f"{result_at}.metrics"):
                part(metric, metric_at, "type")
                part(metric, metric_at, "value")
    return list(dict.fromkeys(errors))


# ---------------------------------------------------------------------------------------------- store


class Store:
    """Repositories on disk. Every change happens under one lock; what a commit names never changes."""

    def __init__(self, root: Path, seeds: Sequence[Path] = ()) -> None:
        self.root = root
        self.seeds = tuple(seeds)
        self.lock = threading.RLock()
        self._home = root / ".loopback"
        self._repos: dict[tuple[str, str], Repo] = {}
        self._sources: dict[str, Path] = {}  # SHA-256 -> a seed's own file

    # blobs

    def blob(self, sha256: str) -> Path | None:
        """Where the content lies, or None where it was never uploaded."""
        path = self._blob_path(sha256)
        return path if path.exists() else self._sources.get(sha256)

    def read(self, file: File) -> bytes:
        path = self.blob(file.sha256)
        assert path is not None, f"blob {file.sha256} is gone"
        return path.read_bytes()

    def add_blob(self, chunks: Iterator[bytes], sha256: str, size: int) -> None:
        """Store an upload, or refuse it: its digest and size are what was announced, or it does not exist."""
        temporary, digest, received = self._temporary(), hashlib.sha256(), 0
        try:
            with temporary.open("wb") as file:
                for chunk in chunks:
                    digest.update(chunk)
                    received += len(chunk)
                    file.write(chunk)
            if received != size:
                raise HubError(400, f"EntityTooSmall: announced {size} bytes, received {received}")
            if digest.hexdigest() != sha256:
                raise HubError(400, f"BadDigest: announced SHA-256 {sha256}, received {digest.hexdigest()}")
            self._rename(temporary, self._blob_path(sha256))
        finally:
            temporary.unlink(missing_ok=True)

    def _blob_path(self, sha256: str) -> Path:
        return self._home / "blobs" / sha256[:2] / sha256

    # repositories

    def find(self, kind: str, repo_id: str) -> Repo | None:
        """The repository: from its manifest, else from a plain folder in the root or in a seed."""
        with self.lock:
            if (kind, repo_id) not in self._repos:
                repo = self._load(kind, repo_id) or self._from_folder(kind, repo_id)
                if repo is None:
                    return None
                self._repos[kind, repo_id] = repo
            return self._repos[kind, repo_id]

    def all(self, kind: str) -> list[Repo]:
        """All public repositories of a kind."""
        folders: set[str] = set()
        for root in (self._home / "repos", self.root, *self.seeds):
            for folder in (root / kind).glob("*/*"):
                folders.add(f"{folder.parent.name}/{folder.name}")
        found = [self.find(kind, repo_id) for repo_id in sorted(folders)]
        return [repo for repo in found if repo is not None and not repo.private]

    def create(self, kind: str, repo_id: str, private: bool, author: str) -> Repo:
        """A new repository with the Hub's first commit, `.gitattributes`."""
        with self.lock:
            repo = Repo(kind, repo_id, private, now())
            self._repos[kind, repo_id] = repo
            attributes = GIT_ATTRIBUTES.encode()
            file = regular_file(attributes)
            self.add_blob(iter([attributes]), file.sha256, file.size)
            first = Commit({".gitattributes": file}, None, "initial commit", "", author, repo.created_at)
            self.commit(repo, MAIN, first)
            return repo

    def delete(self, repo: Repo) -> None:
        if any((seed / repo.kind / repo.id).is_dir() for seed in self.seeds):
            raise HubError(403, f"{repo.id} is a read-only seed of this Hub")
        with self.lock:
            del self._repos[repo.kind, repo.id]
            for folder in (self._repo_path(repo), self.root / repo.kind / repo.id):
                shutil.rmtree(folder, ignore_errors=True)

    def commit(self, repo: Repo, ref: str, commit: Commit) -> None:
        """Write the manifest, then move the ref; for `main`, the plain files as well."""
        with self.lock:
            before = repo.resolve(ref).tree if ref in repo.refs else {}
            repo.commits[commit.oid] = commit
            self.set_ref(repo, ref, commit.oid)
            if ref == MAIN:
                self._check_out(self.root / repo.kind / repo.id, before, commit.tree)

    def set_ref(self, repo: Repo, ref: str, oid: str | None) -> None:
        """Point a ref at a commit; None removes it."""
        with self.lock:
            for commit in repo.commits.values():
                self._keep(commit, self._repo_path(repo) / "commits" / f"{commit.oid}.json")
            refs = {**repo.refs, ref: oid or ""}
            if oid is None:
                del refs[ref]
            meta = {"private": repo.private, "created_at": repo.created_at, "refs": refs}
            self._write(self._repo_path(repo) / "repo.json", dump(meta))
            repo.refs = refs

    def _keep(self, commit: Commit, manifest: Path) -> None:
        """Write a commit, unless it is; with it, what so far lies only in a seed's folder."""
        if manifest.exists():
            return
        for file in commit.tree.values():
            if not self._blob_path(file.sha256).exists():
                self._copy(self._sources[file.sha256], self._blob_path(file.sha256))
        self._write(manifest, dump(asdict(commit)))

    def _repo_path(self, repo: Repo) -> Path:
        return self._home / "repos" / repo.kind / repo.id

    def _load(self, kind: str, repo_id: str) -> Repo | None:
        folder = self._repo_path(Repo(kind, repo_id))
        if not (folder / "repo.json").exists():
            return None
        manifests = folder.glob("commits/*.json")
        commits = {path.stem: Commit.from_json(path.read_bytes()) for path in manifests}
        return Repo(kind, repo_id, commits=commits, **json.loads((folder / "repo.json").read_bytes()))

    def _from_folder(self, kind: str, repo_id: str) -> Repo | None:
        for root in (self.root, *self.seeds):
            folder = root / kind / repo_id
            if folder.is_dir():
                tree = dict(self._scan(folder))
                commit = Commit(tree, None, "initial commit", "", repo_id.split("/")[0], SEED_DATE)
                return Repo(kind, repo_id, refs={MAIN: commit.oid}, commits={commit.oid: commit})
        return None

    def _scan(self, folder: Path) -> Iterator[tuple[str, File]]:
        """The files of a plain folder, served from where they lie."""
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(folder).as_posix()
            if not path.is_file() or {".git", ".cache"} & set(name.split("/")):
                continue
            size = path.stat().st_size
            if goes_by_lfs(name, size, GIT_ATTRIBUTES):
                file = lfs_file(file_sha256(path), size)
            else:
                file = regular_file(path.read_bytes())
            self._sources[file.sha256] = path
            yield name, file

    def _check_out(self, folder: Path, before: Tree, after: Tree) -> None:
        for name in before.keys() - after.keys():
            path = folder / name
            path.unlink(missing_ok=True)
            for parent in path.relative_to(folder).parents:
                if parent.parts and (folder / parent).is_dir() and not any((folder / parent).iterdir()):
                    (folder / parent).rmdir()
        for name, file in after.items():
            if before.get(name) != file:
                self._copy(self._blob_path(file.sha256), folder / name)

    # atomic writes

    def _temporary(self) -> Path:
        folder = self._home / "tmp"
        folder.mkdir(parents=True, exist_ok=True)
        return folder / uuid.uuid4().hex

    def _copy(self, source: Path, target: Path) -> None:
        temporary = self._temporary()
        shutil.copyfile(source, temporary)
        self._rename(temporary, target)

    def _write(self, path: Path, data: bytes) -> None:
        temporary = self._temporary()
        temporary.write_bytes(data)
        self._rename(temporary, path)

    @staticmethod
    def _rename(temporary: Path, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.replace(temporary, path)


def file_sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def apply_operations(tree: Tree, operations: list[tuple[str, Json]], store: Store) -> Tree:
    """The tree after the lines of a commit, or a refusal of the whole commit."""
    tree = dict(tree)
    for key, value in operations:
        path = checked_path(str(value.get("path")).rstrip("/" if key == "deletedFolder" else ""))
        if key == "file":
            tree[path] = _add_regular(path, value, store)
        elif key == "lfsFile":
            tree[path] = _add_lfs(path, value, store)
        elif key in ("deletedFile", "deletedFolder"):
            below = {name for name in tree if name.startswith(f"{path}/")}
            gone = below if key == "deletedFolder" else {path} & tree.keys()
            if not gone:
                raise HubError(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
            for name in gone:
                del tree[name]
        else:
            raise HubError(400, f"Unknown operation in commit: {key!r}")
    folders = {parent.as_posix() for path in tree for parent in PurePosixPath(path).parents}
    if clash := folders & tree.keys():
        raise HubError(400, f"Both a file and a folder: {min(clash)}")
    return tree


def _add_regular(path: str, value: Json, store: Store) -> File:
    try:
        data = base64.b64decode(value["content"], validate=True)
    except (KeyError, TypeError, ValueError, binascii.Error) as error:
        raise HubError(400, f"Content of {path} is not valid base64") from error
    if len(data) > MAX_REGULAR_SIZE:
        raise HubError(400, f"Your push was rejected because it contains files larger than 10 MiB: {path}")
    if path == "README.md" and (errors := card_errors(data.decode("utf-8", "replace"))):
        raise HubError(400, f"Invalid metadata in README.md: {'; '.join(errors)}")
    if path == "eval.yaml" and (errors := eval_yaml_errors(data.decode("utf-8", "replace"))):
        raise HubError(400, f"Invalid eval.yaml: {'; '.join(errors)}")
    file = regular_file(data)
    store.add_blob(iter([data]), file.sha256, file.size)
    return file


def _add_lfs(path: str, value: Json, store: Store) -> File:
    sha256 = str(value.get("oid"))
    blob = store.blob(sha256) if _SHA256.fullmatch(sha256) else None
    if blob is None:
        raise HubError(400, f"LFS pointer pointed to a file that does not exist: {path} ({sha256})")
    size = blob.stat().st_size
    if value.get("size", size) != size:
        raise HubError(400, f"LFS file {path} has {size} bytes, the commit says {value['size']}")
    return lfs_file(sha256, size)


# ---------------------------------------------------------------------------------------------- HTTP


@dataclass
class Request:
    """What the client asks. `path` is as sent: still percent-encoded, without the query."""

    method: str
    path: str
    query: dict[str, list[str]]
    headers: Message
    stream: BufferedIOBase

    def __post_init__(self) -> None:
        self._unread = int(self.headers.get("Content-Length") or 0)

    @property
    def user(self) -> str | None:
        """Who the token says it is, None without one. An unknown token is refused even to read."""
        authorization = self.headers.get("Authorization")
        if authorization is None:
            return None
        user = USERS.get(authorization.removeprefix("Bearer ").strip())
        if user is None:
            raise HubError(401, "Invalid credentials in Authorization header")
        return user

    def flag(self, name: str) -> bool:
        return self.query.get(name, [""])[-1].lower() in ("1", "true")

    def body(self) -> Iterator[bytes]:
        """The body, once, in parts."""
        if self.headers.get("Transfer-Encoding"):
            raise HubError(411, "Length Required")
        while self._unread > 0:
            part = self.stream.read(min(self._unread, CHUNK))
            if not part:
                raise ConnectionError("the client left in the middle of its body")
            self._unread -= len(part)
            yield part

    def json(self) -> Json:
        try:
            value = json.loads(b"".join(self.body()))
        except ValueError as error:
            raise HubError(400, "Body is not valid JSON") from error
        if not isinstance(value, dict):
            raise HubError(400, "Body must be a JSON object")
        return value

    def form(self) -> dict[str, list[str]]:
        return parse_qs(b"".join(self.body()).decode(), keep_blank_values=True)


@dataclass
class Response:
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    @classmethod
    def of_json(cls, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
        return cls(status, {"Content-Type": "application/json; charset=utf-8", **(headers or {})}, dump(value))


Respond = Callable[[Request], Response]
Faults = Callable[[Request, Respond], Response]

_ROUTES: list[tuple[str, re.Pattern[str], Callable[..., Response]]] = []
_API = "/api/(?P<kind>models|datasets|spaces)/(?P<repo>[^/]+/[^/]+)"
_PAGE = "(?:/(?P<kind>datasets|spaces))?/(?P<repo>[^/]+/[^/]+)"
_REVISION = "(?P<revision>[^/]+)"


def route(method: str, pattern: str) -> Callable[[Callable[..., Response]], Callable[..., Response]]:
    """Serve `method` on paths that match `pattern`; its groups become arguments, percent-decoded."""

    def register(handler: Callable[..., Response]) -> Callable[..., Response]:
        _ROUTES.append((method, re.compile(pattern), handler))
        return handler

    return register


def no_faults(request: Request, respond: Respond) -> Response:
    return respond(request)


@dataclass
class Trouble:
    """A fault to switch on: `hub.faults = Trouble("busy")`.

    Attributes:
        kind: "busy" (429 with Retry-After, or what `asks` says), "failing" (500), "overloaded" (503), "slow" (an answer
            a second late), "cut" (a body that breaks off), "corrupt" (a body of the right length and another content),
            "expired" (401), "moved" (307 to where `moved` says).
        only: what path to hit, a regular expression; default: all.
        times: how often each path and method is hit; None: always.
        retry_after: seconds that "busy" asks for.
        asks: the header by which it asks, for example `("RateLimit", '"api";r=0;t=55')`; default: Retry-After.
        moved: old and new name of a repository.
    """

    kind: str
    only: str = ""
    times: int | None = 1
    retry_after: int = 0
    asks: tuple[str, str] | None = None
    moved: tuple[str, str] = ("", "")
    hit: list[str] = field(default_factory=list)  # method and path of each

    def __call__(self, request: Request, respond: Respond) -> Response:
        at = f"{request.method} {request.path}"
        if not re.search(self.only, request.path) or (self.times is not None and self.hit.count(at) >= self.times):
            return respond(request)
        if self.kind in ("cut", "corrupt") and request.method != "GET":
            return respond(request)
        if self.kind == "moved" and f"/{self.moved[0]}" not in request.path:
            return respond(request)
        self.hit.append(at)
        return self._answer(request, respond)

    def _answer(self, request: Request, respond: Respond) -> Response:
        match self.kind:
            case "busy":
                name, value = self.asks or ("Retry-After", str(self.retry_after))
                return HubError(429, "Too Many Requests").response({name: value})
            case "failing":
                return HubError(500, "Internal Error - We're working hard to fix this as soon as possible!").response()
            case "overloaded":
                return HubError(503, "Service Unavailable").response()
            case "expired":
                return HubError(401, "User Access Token is expired").response()
            case "moved":
                return Response(307, {"Location": request.path.replace(*self.moved)})
            case "slow":
                time.sleep(1)
                return respond(request)
        response = respond(request)
        if self.kind == "cut":
            response.headers["Content-Length"] = str(len(response.body))
            response.body = response.body[: len(response.body) // 2]
        elif self.kind == "corrupt":
            response.body = bytes(byte ^ 1 for byte in response.body)
        else:
            raise ValueError(f"kind={self.kind!r}")
        return response


class Hub:
    """The Hub's answers. One method per endpoint."""

    def __init__(self, store: Store, url: str) -> None:
        self.store, self.url = store, url
        self._secret = secrets.token_bytes(32)  # signs upload addresses, as object storage does

    def respond(self, request: Request) -> Response:
        """The answer to a request; refusals are answers too."""
        method = "GET" if request.method == "HEAD" else request.method
        try:
            _ = request.user  # a wrong token is refused everywhere
            for verb, pattern, handler in _ROUTES:
                if verb == method and (match := pattern.fullmatch(request.path)):
                    groups = {name: value and unquote(value) for name, value in match.groupdict().items()}
                    return handler(self, request, **groups)
            raise HubError(404, f"No such endpoint: {request.method} {request.path}")
        except HubError as error:
            return error.response()
        except (ValueError, TypeError, KeyError, AttributeError) as error:  # a body of another shape
            traceback.print_exc()
            return HubError(400, f"Cannot handle this request: {error!r}").response()

    # who may do what

    def _read(self, request: Request, kind: str | None, repo: str) -> Repo:
        found = self.store.find(kind or "models", repo) if _is_repo_id(repo) else None
        if found is not None and found.private and request.user is None:
            raise HubError(401, "Invalid username or password.", "RepoNotFound")
        if found is None or (found.private and request.user != found.namespace):
            raise HubError(404, "Repository not found", "RepoNotFound")
        return found

    def _write(self, request: Request, kind: str | None, repo: str, create_pr: bool = False) -> Repo:
        if request.user is None:
            raise HubError(401, "Invalid username or password.")
        found = self._read(request, kind, repo)
        if request.user != found.namespace and not create_pr:
            raise HubError(403, f"{request.user} has no write access to {repo}; pass `create_pr=1`")
        return found

    # account and repositories

    @route("GET", "/api/whoami-v2")
    def whoami(self, request: Request) -> Response:
        if request.user is None:
            raise HubError(401, "Invalid username or password.")
        token = {"type": "access_token", "accessToken": {"displayName": "loopback", "role": "write"}}
        user = {"type": "user", "id": sha1(request.user.encode())[:24], "name": request.user}
        return Response.of_json({**user, "fullname": request.user, "isPro": False, "orgs": [], "auth": token})

    @route("POST", "/api/repos/create")
    def create(self, request: Request) -> Response:
        kind, repo_id, payload = self._named(request)
        with self.store.lock:
            url = f"{self.url}/{Repo(kind, repo_id).url_path}"
            if self.store.find(kind, repo_id) is not None:
                raise HubError(409, f"You already created this {kind[:-1]} repo: {repo_id}", url=url)
            private = payload.get("visibility") == "private" or bool(payload.get("private"))
            self.store.create(kind, repo_id, private, str(request.user))
        return Response.of_json({"url": url, "name": repo_id, "id": _short_id(kind, repo_id)})

    @route("DELETE", "/api/repos/delete")
    def delete(self, request: Request) -> Response:
        kind, repo_id, _ = self._named(request)
        self.store.delete(self._write(request, kind, repo_id))
        return Response(200)

    def _named(self, request: Request) -> tuple[str, str, Json]:
        """Kind and id in the body of create and delete; only one's own namespace will do."""
        user, payload = request.user, request.json()
        if user is None:
            raise HubError(401, "Invalid username or password.")
        kind = f"{payload.get('type') or 'model'}s"
        if kind not in ("models", "datasets", "spaces"):
            raise HubError(400, f"Invalid repo type: {payload.get('type')!r}")
        repo_id = checked_repo_id(str(payload.get("organization") or user), str(payload.get("name")))
        if repo_id.split("/")[0] != user:
            raise HubError(403, f"You don't have the rights to create or delete {kind[:-1]} {repo_id}")
        return kind, repo_id, payload

    @route("GET", f"{_API}/xet-(?P<what>read|write)-token/.+")
    def xet_token(self, request: Request, kind: str, repo: str, what: str) -> Response:
        raise HubError(400, "Xet is not spoken here: set HF_HUB_DISABLE_XET=1")

    @route("GET", f"{_API}/auth-check(?P<write>/write)?")
    def auth_check(self, request: Request, kind: str, repo: str, write: str | None) -> Response:
        (self._write if write else self._read)(request, kind, repo)
        return Response(200)

    @route("POST", "/api/validate-yaml")
    def validate_yaml(self, request: Request) -> Response:
        content = str(request.json().get("content", ""))
        errors = [{"message": message} for message in card_errors(content)]
        warnings = [] if errors or card_metadata(content) else ["empty or missing yaml metadata in repo card"]
        report = {"errors": errors, "warnings": [{"message": message} for message in warnings]}
        return Response.of_json(report, 400 if errors else 200)

    # reading

    @route("GET", f"{_API}(?:/revision/{_REVISION})?")
    def info(self, request: Request, kind: str, repo: str, revision: str | None) -> Response:
        found = self._read(request, kind, repo)
        commit = found.resolve(revision or "main")
        card = self._card(commit)
        siblings = [_sibling(path, file, request.flag("blobs")) for path, file in sorted(commit.tree.items())]
        info: Json = {"_id": _short_id(kind, repo), "id": repo, "author": found.namespace, "sha": commit.oid}
        info |= {"private": found.private, "gated": False, "disabled": False, "downloads": 0, "likes": 0}
        info |= {"createdAt": found.created_at, "lastModified": commit.date, "siblings": siblings}
        info |= {"cardData": card, "tags": card.get("tags") or []}
        if kind == "models":
            info["modelId"] = repo
            info |= {key: card[key] for key in ("pipeline_tag", "library_name", "model-index") if key in card}
        if wanted := request.query.get("expand") or request.query.get("expand[]"):
            if kind == "models":
                info["evalResults"] = self._eval_results(commit)
            info = {key: value for key, value in info.items() if key in ("_id", "id", *wanted)}
        return Response.of_json(info)

    def _card(self, commit: Commit) -> Json:
        if "README.md" not in commit.tree:
            return {}
        try:
            card = card_metadata(self.store.read(commit.tree["README.md"]).decode("utf-8", "replace"))
        except yaml.YAMLError:
            return {}
        return card if isinstance(card, dict) else {}

    def _eval_results(self, commit: Commit) -> list[Json]:
        """The entries in a model's `.eval_results`."""
        items: list[Json] = []
        for path, file in sorted(commit.tree.items()):
            folder, _, name = path.rpartition("/")
            if folder == ".eval_results" and name.endswith(".yaml"):
                items += eval_result_items(path, self.store.read(file).decode("utf-8", "replace"))
        return items

    @route("GET", "/api/datasets/(?P<repo>[^/]+/[^/]+)/leaderboard")
    def leaderboard(self, request: Request, repo: str) -> Response:
        """The models' entries for a benchmark, of main and of open pull requests, the largest value first."""
        if "eval.yaml" not in self._read(request, "datasets", repo).resolve("main").tree:
            raise HubError(404, f"{repo} does not have a leaderboard")
        rows: list[Json] = []
        for model in self.store.all("models"):
            for ref in [MAIN, *(name for name in model.refs if name.startswith("refs/pr/"))]:
                number = {} if ref == MAIN else {"pullRequest": int(ref.rpartition("/")[2])}
                author = {"type": "user", "name": model.namespace, "fullname": model.namespace, "avatarUrl": ""}
                for item in self._eval_results(model.resolve(ref)):
                    entry = item.get("data", {})
                    if entry.get("dataset", {}).get("id") == repo:
                        row = {"modelId": model.id, "filename": item["filename"], "verified": False, "author": author}
                        rows.append({**row, "value": entry["value"], "notes": entry.get("notes"), **number})
        rows.sort(key=lambda row: -row["value"])
        return Response.of_json([{"rank": place, **row} for place, row in enumerate(rows, 1)])

    @route("GET", f"{_API}/tree/{_REVISION}(?:/(?P<path>.+))?")
    def tree(self, request: Request, kind: str, repo: str, revision: str, path: str | None) -> Response:
        tree = self._read(request, kind, repo).resolve(revision).tree
        folder = (path or "").strip("/")
        if folder and folder_oid(tree, folder) is None:
            raise HubError(404, f"{folder} does not exist on {revision}", "EntryNotFound")
        paths = listing(tree, folder, request.flag("recursive"))
        return Response.of_json([_entry(tree, path) for path in paths])

    @route("POST", f"{_API}/paths-info/{_REVISION}")
    def paths_info(self, request: Request, kind: str, repo: str, revision: str) -> Response:
        tree = self._read(request, kind, repo).resolve(revision).tree
        wanted = [path.strip("/") for path in request.form().get("paths", [])]
        known = [path for path in wanted if path in tree or folder_oid(tree, path)]
        return Response.of_json([_entry(tree, path) for path in known])

    @route("GET", f"{_API}/commits/{_REVISION}")
    def commits(self, request: Request, kind: str, repo: str, revision: str) -> Response:
        found = self._read(request, kind, repo)
        commits = []
        for at in found.history(found.resolve(revision)):
            text = {"id": at.oid, "title": at.title, "message": at.message, "date": at.date}
            commits.append({**text, "authors": [{"user": at.author}]})
        return Response.of_json(commits)

    @route("GET", f"{_PAGE}/resolve/{_REVISION}/(?P<path>.+)")
    def resolve(self, request: Request, kind: str | None, repo: str, revision: str, path: str) -> Response:
        commit = self._read(request, kind, repo).resolve(revision)
        headers = {"X-Repo-Commit": commit.oid, "Accept-Ranges": "bytes"}
        file = commit.tree.get(path)
        if file is None:
            return HubError(404, "Entry not found", "EntryNotFound").response(headers)
        headers["ETag"] = f'"{file.etag}"'
        headers["Content-Type"] = "application/octet-stream" if file.lfs else "text/plain; charset=utf-8"
        if file.lfs:
            headers |= {"X-Linked-ETag": f'"{file.sha256}"', "X-Linked-Size": str(file.size)}
        if headers["ETag"] in request.headers.get("If-None-Match", ""):
            return Response(304, headers)
        if request.method == "HEAD":
            return Response(200, {**headers, "Content-Length": str(file.size)})
        source = self.store.blob(file.sha256)
        assert source is not None, f"blob {file.sha256} is gone"
        return _content(source, file.size, request.headers.get("Range"), headers)

    # writing

    @route("POST", f"{_API}/preupload/{_REVISION}")
    def preupload(self, request: Request, kind: str, repo: str, revision: str) -> Response:
        found = self._write(request, kind, repo, request.flag("create_pr"))
        tree = found.resolve(revision).tree
        attributes = self._attributes(tree)
        answers = []
        for file in request.json().get("files", []):
            path = checked_path(str(file.get("path")))
            lfs = goes_by_lfs(path, int(file.get("size", 0)), attributes)
            known = {"oid": tree[path].etag} if path in tree else {}
            mode = {"uploadMode": "lfs" if lfs else "regular", "shouldIgnore": False}
            answers.append({"path": path, **mode, **known})
        return Response.of_json({"files": answers})

    def _attributes(self, tree: Tree) -> str:
        file = tree.get(".gitattributes")
        return self.store.read(file).decode("utf-8", "replace") if file else GIT_ATTRIBUTES

    @route("POST", f"{_PAGE}\\.git/info/lfs/objects/batch")
    def lfs_batch(self, request: Request, kind: str | None, repo: str) -> Response:
        found = self._write(request, kind, repo, create_pr=True)  # the commit decides; here a token is enough
        payload = request.json()
        if payload.get("operation") != "upload" or "basic" not in payload.get("transfers", ["basic"]):
            raise HubError(422, "Only the basic upload transfer is offered")
        objects = [self._lfs_object(found, wanted) for wanted in payload.get("objects", [])]
        return Response.of_json({"transfer": "basic", "objects": objects})

    def _lfs_object(self, repo: Repo, wanted: Json) -> Json:
        oid, size = str(wanted.get("oid")), wanted.get("size")
        answer = {"oid": oid, "size": size}
        if not _SHA256.fullmatch(oid) or not isinstance(size, int) or size < 0:
            return {"oid": oid, "size": 0, "error": {"code": 422, "message": "Invalid object id or size"}}
        if self.store.blob(oid) is not None:
            return answer
        upload = f"{self.url}/lfs/{oid}?size={size}&signature={self._signature(oid, size)}"
        verify = f"{self.url}/{repo.url_path}.git/info/lfs/objects/verify"
        return {**answer, "actions": {"upload": {"href": upload}, "verify": {"href": verify}}}

    def _signature(self, oid: str, size: int) -> str:
        return hmac.new(self._secret, f"{oid} {size}".encode(), "sha256").hexdigest()

    @route("PUT", "/lfs/(?P<oid>[0-9a-f]{64})")
    def lfs_upload(self, request: Request, oid: str) -> Response:
        """The client sends no token here: the signed address is the permission."""
        size = int(request.query.get("size", ["-1"])[0])
        if not hmac.compare_digest(request.query.get("signature", [""])[0], self._signature(oid, size)):
            raise HubError(403, "SignatureDoesNotMatch")
        self.store.add_blob(request.body(), oid, size)
        return Response(200, {"ETag": f'"{oid}"'})

    @route("POST", f"{_PAGE}\\.git/info/lfs/objects/verify")
    def lfs_verify(self, request: Request, kind: str | None, repo: str) -> Response:
        self._write(request, kind, repo, create_pr=True)
        payload = request.json()
        blob = self.store.blob(str(payload.get("oid")))
        if blob is None or blob.stat().st_size != payload.get("size"):
            raise HubError(404, f"LFS object {payload.get('oid')} was not uploaded in full")
        return Response(200)

    @route("POST", f"{_API}/commit/{_REVISION}")
    def commit(self, request: Request, kind: str, repo: str, revision: str) -> Response:
        create_pr = request.flag("create_pr")
        found = self._write(request, kind, repo, create_pr)
        header, operations = _commit_lines(b"".join(request.body()))
        with self.store.lock:
            ref = _writable_ref(found, revision)
            head = found.resolve(ref)
            wanted = header.get("parentCommit")
            if wanted and not (len(wanted) >= 7 and head.oid.startswith(wanted)):
                raise HubError(412, "A commit has happened since. Please refresh and try again.")
            tree = apply_operations(head.tree, operations, self.store)
            text = str(header["summary"]), str(header.get("description") or "")
            commit = Commit(tree, head.oid, *text, author=str(request.user), date=now())
            number = 1 + sum(name.startswith("refs/pr/") for name in found.refs)
            self.store.commit(found, f"refs/pr/{number}" if create_pr else ref, commit)
        page = f"{self.url}/{found.url_path}"
        answer = {"success": True, "commitOid": commit.oid, "commitUrl": f"{page}/commit/{commit.oid}"}
        if create_pr:
            answer["pullRequestUrl"] = f"{page}/discussions/{number}"
        return Response.of_json(answer)

    # refs

    @route("GET", f"{_API}/refs")
    def refs(self, request: Request, kind: str, repo: str) -> Response:
        refs = self._read(request, kind, repo).refs

        def named(prefix: str) -> list[Json]:
            found = {ref: oid for ref, oid in refs.items() if ref.startswith(prefix)}
            return [{"name": ref[len(prefix) :], "ref": ref, "targetCommit": found[ref]} for ref in found]

        answer = {"branches": named("refs/heads/"), "tags": named("refs/tags/"), "converts": []}
        if request.flag("include_prs"):
            answer["pullRequests"] = named("refs/pr/")
        return Response.of_json(answer)

    @route("POST", f"{_API}/branch/(?P<name>[^/]+)")
    def create_branch(self, request: Request, kind: str, repo: str, name: str) -> Response:
        start = request.json().get("startingPoint") or "main"
        ref = f"refs/heads/{checked_ref_name(name)}"
        return self._create_ref(self._write(request, kind, repo), ref, start)

    @route("POST", f"{_API}/tag/{_REVISION}")
    def create_tag(self, request: Request, kind: str, repo: str, revision: str) -> Response:
        name = checked_ref_name(request.json().get("tag"))
        return self._create_ref(self._write(request, kind, repo), f"refs/tags/{name}", revision)

    def _create_ref(self, repo: Repo, ref: str, revision: str) -> Response:
        with self.store.lock:
            commit = repo.resolve(revision)
            if ref in repo.refs:
                raise HubError(409, f"Reference already exists: {ref}")
            self.store.set_ref(repo, ref, commit.oid)
        return Response(201)

    @route("DELETE", f"{_API}/(?P<what>branch|tag)/(?P<name>[^/]+)")
    def delete_ref(self, request: Request, kind: str, repo: str, what: str, name: str) -> Response:
        found = self._write(request, kind, repo)
        ref = f"refs/{'heads' if what == 'branch' else 'tags'}/{name}"
        if ref == MAIN:
            raise HubError(403, "The main branch cannot be deleted")
        with self.store.lock:
            if ref not in found.refs:
                raise HubError(404, f"Invalid rev id: {name}", "RevisionNotFound")
            self.store.set_ref(found, ref, None)
        return Response(200)


def _is_repo_id(repo: str) -> bool:
    try:
        return bool(checked_repo_id(*repo.split("/")))
    except (HubError, TypeError):
        return False


def _short_id(kind: str, repo_id: str) -> str:
    return sha1(f"{kind}/{repo_id}".encode())[:24]


def _lfs_fields(file: File) -> Json:
    return {"oid": file.sha256, "size": file.size, "pointerSize": len(lfs_pointer(file.sha256, file.size))}


def _sibling(path: str, file: File, blobs: bool) -> Json:
    if not blobs:
        return {"rfilename": path}
    lfs = {"lfs": {**_lfs_fields(file), "sha256": file.sha256}} if file.lfs else {}
    return {"rfilename": path, "size": file.size, "blobId": file.oid, **lfs}


def _entry(tree: Tree, path: str) -> Json:
    """One line of tree and paths-info."""
    file = tree.get(path)
    if file is None:
        return {"type": "directory", "oid": folder_oid(tree, path), "size": 0, "path": path}
    lfs = {"lfs": _lfs_fields(file)} if file.lfs else {}
    return {"type": "file", "oid": file.oid, "size": file.size, "path": path, **lfs}


def _content(source: Path, size: int, wanted: str | None, headers: dict[str, str]) -> Response:
    """The whole file, or the one range asked for."""
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", (wanted or "").strip())
    if match is None or match.groups() == ("", ""):
        return Response(200, headers, source.read_bytes())
    first, last = match.groups()
    start = int(first) if first else max(size - int(last), 0)
    stop = min(int(last) + 1, size) if first and last else size
    if start >= stop:
        refusal = HubError(416, f"Range not satisfiable: {wanted} of {size} bytes")
        return refusal.response({**headers, "Content-Range": f"bytes */{size}"})
    with source.open("rb") as file:
        file.seek(start)
        part = file.read(stop - start)
    return Response(206, {**headers, "Content-Range": f"bytes {start}-{stop - 1}/{size}"}, part)


def _commit_lines(data: bytes) -> tuple[Json, list[tuple[str, Json]]]:
    """Header and operations of a commit's ndjson."""
    try:
        lines = [json.loads(line) for line in data.splitlines() if line.strip()]
        pairs = [(str(line["key"]), dict(line["value"])) for line in lines]
    except (ValueError, KeyError, TypeError) as error:
        raise HubError(400, "Commit is not valid ndjson of key and value") from error
    if not pairs or pairs[0][0] != "header" or not pairs[0][1].get("summary"):
        raise HubError(400, "Commit must begin with a header that has a summary")
    return pairs[0][1], pairs[1:]


def _writable_ref(repo: Repo, revision: str) -> str:
    """The branch or pull request that a commit moves; tags and commit ids are no branches."""
    for ref in (f"refs/heads/{revision}", revision):
        if ref in repo.refs and not ref.startswith("refs/tags/"):
            return ref
    raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")


class _Handler(BaseHTTPRequestHandler):
    """Bytes to Request, Response to bytes."""

    protocol_version = "HTTP/1.1"
    server_version = "loopback-hub"
    disable_nagle_algorithm = True  # headers and body go out in two writes
    server: _Server

    def _serve(self) -> None:
        url = urlsplit(self.path)
        query = parse_qs(url.query, keep_blank_values=True)
        request = Request(self.command, url.path, query, self.headers, self.rfile)
        try:
            self._send(self.server.answer(request))
            for _ in request.body():  # unread, it would be taken for the next request
                pass
        except (ConnectionError, HubError):
            self.close_connection = True

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _serve

    def _send(self, response: Response) -> None:
        headers = {"Content-Length": str(len(response.body)), **response.headers}
        headers["X-Request-Id"] = uuid.uuid4().hex
        self.send_response(response.status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD" and response.status != 304:
            self.wfile.write(response.body)
            if headers["Content-Length"] != str(len(response.body)):
                self.close_connection = True  # a fault: the body breaks off

    def log_message(self, format: str, *args: Any) -> None:
        if self.server.verbose:
            super().log_message(format, *args)


class _Server(ThreadingHTTPServer):
    """Threads and sockets; remembers what was asked."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, port: int, store: Store, faults: Faults, verbose: bool) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.hub, self.faults, self.verbose = Hub(store, self.url), faults, verbose
        self.log: deque[tuple[str, str, int]] = deque(maxlen=10_000)
        self._open: set[socket.socket] = set()

    def answer(self, request: Request) -> Response:
        """The one place where faults come in: they may answer instead of the Hub, or spoil its answer."""
        response = self.faults(request, self.hub.respond)
        self.log.append((request.method, request.path, response.status))
        return response

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def close_connections(self) -> None:
        """Clients keep connections open; a server that is gone must not answer on them."""
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


# ---------------------------------------------------------------------------------------------- use


class LoopbackHub:
    """A Hub in this process, on a free port of 127.0.0.1: `with LoopbackHub(tmp_path) as hub: hub.url`.

    Args:
        root: where pushes go (created). A temporary folder if None.
        seeds: read-only folders in Hub layout, served underneath; never written to.
        port: 0 picks a free one.
        faults: `faults(request, respond) -> Response`, called for every request in its own thread. It may
            sleep, return a `Response` of its own (429, 500), or spoil that of `respond(request)`: a body that
            is shorter than its `Content-Length` header breaks off and closes the connection.
        verbose: log requests to stderr.
    """

    token = TOKEN
    colleague_token = COLLEAGUE_TOKEN

    def __init__(
        self,
        root: str | Path | None = None,
        *,
        seeds: Sequence[str | Path] = (),
        port: int = 0,
        faults: Faults = no_faults,
        verbose: bool = False,
    ) -> None:
        self._scratch = Path(tempfile.mkdtemp(prefix="loopback-hub-"))
        self.root = Path(root) if root is not None else self._scratch / "root"
        self.store = Store(self.root, [Path(seed) for seed in seeds])
        self._server = _Server(port, self.store, faults, verbose)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def url(self) -> str:
        return self._server.url

    @property
    def requests(self) -> list[tuple[str, str, int]]:
        """What was asked so far: method, path (percent-encoded, without query), status."""
        return list(self._server.log)

    @property
    def faults(self) -> Faults:
        return self._server.faults

    @faults.setter
    def faults(self, faults: Faults) -> None:
        self._server.faults = faults

    def env(self, token: str | None = TOKEN) -> dict[str, str]:
        """A whole environment for a subprocess: this Hub, an empty cache, and the token unless None."""
        home = tempfile.mkdtemp(prefix="home-", dir=self._scratch)
        return client_environment(home) | {"HF_ENDPOINT": self.url} | ({"HF_TOKEN": token} if token else {})

    def api(self, token: str | bool = TOKEN) -> Any:
        """An `HfApi` of this process that talks to this Hub; `token=False` for none."""
        from huggingface_hub import HfApi

        return HfApi(endpoint=self.url, token=token)

    def start(self) -> LoopbackHub:
        self._thread.start()
        return self

    def stop(self) -> None:
        if self._thread.is_alive():
            self._server.shutdown()
        self._server.server_close()
        self._server.close_connections()
        shutil.rmtree(self._scratch, ignore_errors=True)

    __enter__ = start

    def __exit__(self, *error: object) -> None:
        self.stop()


def client_environment(home: str) -> dict[str, str]:
    """This process's environment without the user's Hugging Face settings: no token, `home` for all caches."""
    own = ("HF_", "HUGGING_FACE_", "HUGGINGFACE_", "TRANSFORMERS_")
    env = {name: value for name, value in os.environ.items() if not name.startswith(own)}
    env |= {"HF_HOME": home, "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    env |= {"HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1,localhost", "no_proxy": "127.0.0.1,localhost"}
    return env


def is_read_only(folder: Path) -> bool:
    """Whether a folder is meant not to be written to; its mode counts for the superuser too."""
    return folder.is_dir() and (not os.access(folder, os.W_OK) or not folder.stat().st_mode & 0o222)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m tests.loopback_hub", description="A small Hub on 127.0.0.1.")
    add = parser.add_argument
    add("--root", type=Path, required=True, help="folder to serve; pushes go there unless it is read-only")
    add("--port", type=int, default=0, help="0 (default) picks a free one")
    add("--seed", type=Path, action="append", default=[], help="read-only folder served underneath")
    add("--state", type=Path, help="where pushes go, if not to --root (which is then only read)")
    add("--verbose", action="store_true", help="log every request")
    args = parser.parse_args(arguments)
    for seed in args.seed:
        if not seed.is_dir():
            parser.error(f"--seed {seed}: no such folder")
    overlay = args.state is not None or is_read_only(args.root)
    root, seeds = (args.state, [args.root, *args.seed]) if overlay else (args.root, args.seed)
    try:
        hub = LoopbackHub(root, seeds=seeds, port=args.port, verbose=args.verbose)
    except OSError as error:
        parser.error(f"cannot serve {args.root} on port {args.port}: {error}")
    with hub:
        print(f"HF_ENDPOINT={hub.url} HF_TOKEN={TOKEN} HF_HUB_DISABLE_XET=1", flush=True)
        print(f"pushes go to {hub.root}", flush=True)
        stopped = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stopped.set())
        stopped.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
