"""Reading files that may come from a stranger, or from a run that was killed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import InputError


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
