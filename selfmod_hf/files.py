"""Read files that may come from a stranger or from a run that was killed, and write files whole or not at all."""

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

from .errors import InputError

MOST_YAML_BYTES = 1_000_000


def read_json(path: str | Path, kind: type = dict) -> Any:
    """The JSON in a file.

    Args:
        path: the file.
        kind: what it must hold: `dict` or `list`.

    Raises:
        InputError: it cannot be read, is no JSON, or holds something else.
    """
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:  # the last: brackets within brackets without end
        raise InputError("file", str(path), f"cannot be read as JSON ({str(error) or type(error).__name__})") from error
    if not isinstance(value, kind):
        raise InputError("file", str(path), f"holds JSON of type {type(value).__name__}; allowed is {kind.__name__}")
    return value


def read_yaml(name: str, path: str | Path, *, as_text: bool = False) -> dict[str, Any]:
    """The mapping in a YAML or JSON file.

    Args:
        name: of the argument that names the file, for errors.
        path: the file.
        as_text: leave all scalars as text.

    Raises:
        InputError: it cannot be read, is larger than 1 MB, is neither YAML nor JSON, holds no mapping, is nested too
            deep, or has aliases, by which a few lines can stand for more than a machine holds.
    """
    import yaml

    try:
        if not Path(path).is_file():
            raise InputError(name, str(path), "no such file")
        if Path(path).stat().st_size > MOST_YAML_BYTES:
            raise InputError(name, str(path), f"allowed are files of at most {MOST_YAML_BYTES} bytes")
        text = Path(path).read_text(encoding="utf-8")
        _check_size(name, path, yaml.parse(text, Loader=yaml.SafeLoader))
        values = yaml.load(text, Loader=yaml.BaseLoader if as_text else yaml.SafeLoader)
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
    """Refuse YAML whose values would be larger, or deeper, than its text, before any is made."""
    from yaml import AliasEvent, CollectionEndEvent, CollectionStartEvent

    depth = 0
    for event in events:
        if isinstance(event, AliasEvent):
            raise InputError(name, str(path), "aliases (*name) are not allowed")
        depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
        if depth > 20:
            raise InputError(name, str(path), "is nested more than 20 levels deep")


@contextmanager
def entries_of(path: str | Path) -> Iterator[None]:
    """Where entries of a file are used: one that is missing or of another type is a refusal that names the file.

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
    """Turn the errors of reading a folder that the user named into an InputError.

    Args:
        name: of the argument that names the folder.
        folder: its value.

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
    """Only what JSON knows: of numbers those that are finite, else None."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [plain(item) for item in value]
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_file(path: Path, content: bytes | str) -> Path:
    """Write a file under a temporary name of this process, then rename it.

    The file appears complete or not at all. Text is written as UTF-8.
    """
    write_files({path: content.encode() if isinstance(content, str) else content})
    return path


def write_figure(figure: Any, path: Path, dpi: int = 150) -> Path:
    """A matplotlib figure, in the format that the name ends in (PNG where in none), undated, as `write_file` does.

    It is drawn in memory first: of a full disk, matplotlib's writer of PDF tells by an error of its own.
    """
    kind = path.suffix.removeprefix(".") or "png"
    undated = {"pdf": {"CreationDate": None}, "png": {"Software": None}, "svg": {"Date": None}}.get(kind)
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, dpi=dpi, metadata=undated)
    return write_file(path, buffer.getvalue())


def write_files(contents: Mapping[Path, bytes]) -> None:
    """Write files that belong together, each as `write_file` does.

    The others are found by the last one. It is removed before any of them is replaced, and written after all of them.
    """
    temporary = {path: path.with_name(f".{path.name}.{os.getpid()}.part") for path in contents}
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
    """JSON, numbers that are not finite as null."""
    return json.dumps(plain(value), indent=2) + "\n"
