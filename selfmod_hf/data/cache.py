"""Work done once per data set: decoded images, tokens and vocabularies in the cache of `datasets`.

An entry's name is a digest of everything that decides its content: the rows, the settings, the package's source for
reading data, and the versions of the libraries for decoding and tokenizing. An entry counts once its seal exists. The
seal is a second file with the entry's size and checksum, written last. So an incomplete entry of a killed run, a full
disk or another program is made again.
"""

from __future__ import annotations

import copy
import hashlib
import inspect
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import PIL
import pyarrow as pa
from PIL import features as pillow_features

from .lazy_datasets import datasets

CHUNK = 1 << 20


def cached_table(
    data: datasets.Dataset,
    function: Callable[..., dict[str, Any]],
    *,
    key: Any,
    features: datasets.Features,
    **settings: Any,
) -> pa.Table:
    """Return the result of `function` for the rows, from the cache if it has the result.

    Args:
        data: the rows.
        function: maps a batch of rows to the new columns.
        key: everything that decides the result in addition to the rows, as a value with a stable `repr`.
        features: types of the new columns.
        settings: further arguments of `Dataset.map`.
    """
    digest = content_digest(data, key)
    entry = entry_path(data, digest, ".arrow")
    if entry is not None and not is_sealed(entry):
        entry.unlink(missing_ok=True)
    made = data.map(
        function,
        batched=True,
        remove_columns=data.column_names,
        features=features,
        cache_file_name=None if entry is None else str(entry),
        new_fingerprint=digest,
        **settings,
    )
    table = made.with_format("arrow")[:]
    if entry is not None and not is_sealed(entry):
        seal(entry)
    return table


def entry_path(data: datasets.Dataset, digest: str, suffix: str) -> Path | None:
    """Return the path of the cache's entry for these rows, or None for rows without a cache.

    Args:
        data: the rows.
        digest: of `content_digest`.
        suffix: ending of the file.
    """
    if not data.cache_files or not datasets.is_caching_enabled():
        return None
    folder = Path(data.cache_files[0]["filename"]).parent
    return folder / f"selfmod-{digest}{suffix}"


def is_sealed(entry: Path) -> bool:
    """Return whether an entry has the size and the checksum of its seal."""
    try:
        return _seal_of(entry).read_text() == _checksum(entry)
    except (OSError, ValueError):
        return False


def seal(entry: Path) -> None:
    """Write an entry's seal."""
    with suppress(FileNotFoundError):  # another process may have removed the entry to make it again
        _seal_of(entry).write_text(_checksum(entry))


def _seal_of(entry: Path) -> Path:
    return entry.with_name(f"{entry.name}.seal")


def _checksum(entry: Path) -> str:
    size, checksum = 0, 0
    with entry.open("rb") as file:
        while part := file.read(CHUNK):
            size += len(part)
            checksum = zlib.crc32(part, checksum)
    return f"{size} {checksum:08x}"


# ---- keys ----


def content_digest(data: datasets.Dataset, key: Any) -> str:
    """Return a digest of the rows, a key as for `cached_table`, and the code and libraries for reading them."""
    parts = (data._fingerprint, code_version(), key)
    digest = hashlib.sha256(repr(parts).encode())
    return digest.hexdigest()[:32]


@cache
def code_version() -> str:
    """Return a digest of the source for reading data and of the versions of the decoding and tokenizing libraries."""
    digest = hashlib.sha256()
    package = Path(__file__).parent.parent
    for pattern in ("data/*.py", "models/image_processing*.py"):
        for source in sorted(package.glob(pattern)):
            digest.update(source.name.encode() + source.read_bytes())
    # Pillow decodes with libraries of their own versions
    codecs = [pillow_features.version(name) for name in ("jpg", "zlib", "libtiff", "webp")]
    packages = [version(name) for name in ("selfmod_hf", "datasets", "transformers", "tokenizers")]
    versions = (PIL.__version__, codecs, packages)
    digest.update(repr(versions).encode())
    return digest.hexdigest()


def tokenizer_key(tokenizer: Any) -> str:
    """Return a digest of a tokenizer's complete state: equal for two tokenizers of equal tokens, in any process.

    The hash of `datasets` reads every attribute except the truncation of the latest call. The folder or repository of
    the tokenizer does not count. If hashing fails, the key is random.
    """
    state = copy.copy(tokenizer)
    _forget_history(state)
    sources = _own_sources(type(tokenizer))
    try:
        return datasets.fingerprint.Hasher.hash([state, tokenizer.get_vocab(), *sources])
    except Exception:  # of any kind, from an attribute that cannot be pickled
        return datasets.fingerprint.generate_random_fingerprint()


def _forget_history(tokenizer: Any) -> None:
    """Remove a tokenizer's knowledge of its own making, because saving and loading change it."""
    tokenizer.name_or_path = ""
    if hasattr(tokenizer, "backend_tokenizer"):  # in Rust: its own JSON has the arguments and the special tokens' kinds
        tokenizer.init_kwargs = {}
        special_tokens = {}
        for name, token in tokenizer._special_tokens_map.items():
            special_tokens[name] = str(token)
        tokenizer._special_tokens_map = special_tokens
        tokenizer._should_update_post_processor = False
    else:
        tokenizer.init_kwargs = dict(tokenizer.init_kwargs)
        for name in ("name_or_path", "is_local", "local_files_only", "tokenizer_file", "cache_dir", "token"):
            tokenizer.init_kwargs.pop(name, None)
    for name in list(vars(tokenizer)):
        if inspect.isroutine(getattr(type(tokenizer), name, None)):
            delattr(tokenizer, name)  # a method under somebody's own wrapper


def _own_sources(kind: type) -> Iterator[str]:
    """Yield the source of each class of a tokenizer, except transformers' own classes."""
    for part in kind.__mro__:
        if part.__module__.partition(".")[0] in ("transformers", "builtins", "typing", "collections", "abc"):
            continue
        try:
            yield inspect.getsource(part)
        except (OSError, TypeError):  # typed at a prompt. The hash reads the bytecode of such a class itself
            continue
