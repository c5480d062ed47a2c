"""Reading of files from strangers or killed runs, and writing of files completely or not at all."""

from __future__ import annotations

import io
import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from yaml import AliasEvent, CollectionEndEvent, CollectionStartEvent

from .errors import InputError

MOST_YAML_BYTES = 1_000_000
# metadata of figures without a date or version, by format
_UNDATED: dict[str, dict[str, None]] = {
    "pdf": {"CreationDate": None},
    "png": {"Software": None},
    "svg": {"Date": None},
}


def read_json(path: str | Path, kind: type = dict) -> Any:
    """Read a JSON file.

    Args:
        path: the file.
        kind: required type of its value: `dict` or `list`.

    Raises:
        InputError: an unreadable file, no JSON, or a value of another type.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
        value = json.loads(text)
    except (OSError, ValueError, RecursionError) as error:  # RecursionError: brackets are nested too deep
        reason = str(error) or type(error).__name__
        raise InputError("file", str(path), f"cannot be read as JSON ({reason})") from error
    if not isinstance(value, kind):
        problem = f"holds JSON of type {type(value).__name__}; allowed is {kind.__name__}"
        raise InputError("file", str(path), problem)
    return value


def read_yaml(name: str, path: str | Path, *, as_text: bool = False) -> dict[str, Any]:
    """Read the mapping in a YAML or JSON file.

    Args:
        name: name of the file's argument, for errors.
        path: the file.
        as_text: leave all scalars as text.

    Raises:
        InputError: an unreadable file, a file larger than 1 MB, neither YAML nor JSON, no mapping, nesting too deep, or
            aliases. With aliases a few lines can describe more than a machine's memory.
    """
    file = Path(path)
    try:
        if not file.is_file():
            raise InputError(name, str(path), "no such file")
        if file.stat().st_size > MOST_YAML_BYTES:
            raise InputError(name, str(path), f"allowed are files of at most {MOST_YAML_BYTES} bytes")
        text = file.read_text(encoding="utf-8")
        events = yaml.parse(text, Loader=yaml.SafeLoader)
        _check_size(name, path, events)
        loader = yaml.BaseLoader if as_text else yaml.SafeLoader
        values = yaml.load(text, Loader=loader)
    except InputError:
        raise
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(name, str(path), f"cannot be read ({error})") from error
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise InputError(name, str(path), f"is neither YAML nor JSON ({error})") from error
    if not isinstance(values, dict):
        raise InputError(name, str(path), "allowed is a mapping of names to values")
    return values


def _check_size(name: str, path: str | Path, events: Iterator[Any]) -> None:
    """Reject YAML with aliases or deep nesting, before any value is made."""
    depth = 0
    for event in events:
        if isinstance(event, AliasEvent):
            raise InputError(name, str(path), "aliases (*name) are not allowed")
        if isinstance(event, CollectionStartEvent):
            depth += 1
        if isinstance(event, CollectionEndEvent):
            depth -= 1
        if depth > 20:
            raise InputError(name, str(path), "is nested more than 20 levels deep")


@contextmanager
def entries_of(path: str | Path) -> Iterator[None]:
    """Report missing entries of a file, or entries of a wrong type, with the file's name.

    Raises:
        InputError: instead of a KeyError, TypeError, AttributeError or IndexError.
    """
    try:
        yield
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        problem = f"an entry is missing or of a wrong type ({type(error).__name__}: {error})"
        raise InputError("file", str(path), problem) from error


@contextmanager
def files_of_user(name: str, folder: str | Path) -> Iterator[None]:
    """Turn the errors of reading a user's folder into an InputError.

    Args:
        name: name of the folder's argument.
        folder: value of the argument.

    Raises:
        InputError: in place of a ValueError or OSError.
    """
    try:
        yield
    except InputError:
        raise
    except (ValueError, OSError) as error:
        raise InputError(name, str(folder), str(error)) from error


# ---- writing ----


def plain(value: Any) -> Any:
    """Return a value in the types of JSON, with None for NaN and infinity.

    Example:
        >>> plain({"losses": np.array([0.5, np.nan])})
        {'losses': [0.5, None]}
    """
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def write_file(path: Path, content: bytes | str) -> Path:
    """Write a file under a temporary name of this process, then rename it.

    The file appears complete or not at all. Text is written as UTF-8.
    """
    if isinstance(content, str):
        content = content.encode()
    write_files({path: content})
    return path


def write_figure(figure: Any, path: Path, dpi: int = 150) -> Path:
    """Write a matplotlib figure without a date, as `write_file` does.

    The name's ending is the format. The default is PNG. The figure is drawn in memory first, because matplotlib's
    writer of PDF reports a full disk with an error of its own.
    """
    kind = path.suffix.removeprefix(".") or "png"
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, dpi=dpi, metadata=_UNDATED.get(kind))
    return write_file(path, buffer.getvalue())


def write_files(contents: Mapping[Path, bytes]) -> None:
    """Write a group of files, each as `write_file` does.

    Readers find the others by the last one. It is removed before any of them is replaced, and written after all others.
    """
    temporary = {}
    for path in contents:
        temporary[path] = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        for path, content in contents.items():
            temporary[path].write_bytes(content)
        if len(contents) > 1:
            path.unlink(missing_ok=True)
        for path in contents:
            os.replace(temporary[path], path)
    finally:
        for left_over in temporary.values():
            left_over.unlink(missing_ok=True)


def to_json(value: Any) -> str:
    """Return a value as JSON text, with null for NaN and infinity."""
    return json.dumps(plain(value), indent=2) + "\n"
