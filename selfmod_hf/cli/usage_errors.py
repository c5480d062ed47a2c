"""Errors as one line, with flags in place of the names of fields.

While a command prepares, `one_line` turns every error about its input into a `UsageError`. While it works, an error is
a bug and keeps its traceback. Exceptions: a late `InputError`, a full disk, and a Hub without an answer.
"""

from __future__ import annotations

import os
import re
import sys
import traceback
from collections.abc import Collection, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..errors import InputError
from ..extras import MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Iterator

# in errors of the system, of safetensors and of torch
DISK_FULL = (
    "No space left on device", "Disk quota exceeded", "iostream error", "PytorchStreamWriter failed",
    "inline_container.cc",
)  # fmt: skip

# flags of other names than their fields, unless a command has a flag of the field's name
_FLAG_OF = {
    "folder": "output_dir",
    "path": "output_dir",
    "per_device_train_batch_size": "train_batch_size",
    "preset": "rlct_preset",
}
# arguments of the library that commands load by flags -> the flag, and what is wrong in the data that it names
_DATA_OF = {
    "train_data.labels": ("label_column", "labels"),
    "train_data.padded": ("dataset_name", "padded"),
    "train_data": ("dataset_name", "samples"),
}


class UsageError(Exception):
    """Raised for unusable input. The message is one line."""


@contextmanager
def one_line(hub: str = "") -> Iterator[None]:
    """Turn the errors of preparing (wrong values, files, a rejection by the Hub) into a `UsageError`.

    Args:
        hub: a flag and its value. They begin the lines about the Hub.
    """
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.utils import httpx
    from safetensors import SafetensorError

    try:
        yield
    except (ValueError, OSError, ImportError, HfHubHTTPError, SafetensorError, httpx.TransportError) as error:
        raise UsageError(_hub_line(error, hub) or str(error) or type(error).__name__) from error


@contextmanager
def hub_in_one_line(hub: str) -> Iterator[None]:
    """Turn errors of the Hub's clients during the work into a `UsageError`. Other errors pass.

    Args:
        hub: as for `one_line`.
    """
    try:
        yield
    except Exception as error:
        line = _hub_line(error, hub)
        if type(error) is ConnectionError:  # of the package's uploads
            line = line or str(error)
        if not line:
            raise
        raise UsageError(line) from error


def expected_line(error: Exception) -> str | None:
    """Return the line of an error about input, a disk or the Hub. Return None for a bug.

    Args:
        error: from a command.
    """
    message = " ".join(str(error).split())
    if any(words in message for words in DISK_FULL):
        return f"the disk seems to be full ({message}): free some space, then give the same command again"
    if isinstance(error, (UsageError, InputError, MissingExtraError)):
        return message
    return " ".join(_hub_line(error, "").split()) or None


def print_rejection(error: Exception, line: str, argv: Sequence[str]) -> None:
    """Print the line of an error without the tokens in `argv`. `SELFMOD_TRACEBACK=1` puts the traceback before it."""
    from ..tokens import hide_tokens

    text = f"selfmod: error: {line}"
    if os.environ.get("SELFMOD_TRACEBACK", "0") not in ("", "0"):
        text = "".join(traceback.format_exception(error)) + text
    text = hide_tokens(text, argv)
    encoding = sys.stderr.encoding or "utf-8"  # a value may hold what the terminal, or UTF-8 itself, cannot show
    print(text.encode(encoding, "backslashreplace").decode(encoding), file=sys.stderr)


def with_flags(line: str, flags: Collection[str]) -> str:
    """Return a line with the command's flags in place of fields.

    A field's name stands at the beginning, before its value (`label_column='y': ...`), or in backquotes. Data that a
    command loads have the flag that names them.

    Args:
        line: of the library.
        flags: the command's, without dashes.

    >>> with_flags("image_size=3: allowed without `task`", {"image_size", "task"})
    '--image_size=3: allowed without --task'
    """

    def as_flag(name: str, otherwise: str) -> str:
        found = name if name in flags else _FLAG_OF.get(name)
        return f"--{found}" if found in flags else otherwise

    line = re.sub(r"`(\w+)`", lambda match: as_flag(match[1], match[0]), line)
    for name, (flag, part) in _DATA_OF.items():
        if line.startswith(f"{name}=") and flag in flags:
            return f"--{flag}: {part}{line.removeprefix(name)}"
    begin = re.match(r"(\w+(?:, \w+)*)(?==|: )", line)
    if begin is None or line.startswith("config: "):  # a network's configuration, not the file of flags
        return line
    names = [as_flag(name, name) for name in begin[1].split(", ")]
    return ", ".join(names) + line[begin.end() :]


def _hub_line(error: BaseException, hub: str) -> str:
    of_hub = _of_hub(error)
    if hub and of_hub:
        return f"{hub}: {of_hub}"
    return of_hub


def _of_hub(error: BaseException | None) -> str:
    """Return a short text for an error of the Hub's clients. It is empty for other errors and for the package's own."""
    from huggingface_hub import errors
    from huggingface_hub.utils import httpx

    from ..hub.connection import BusyHubError

    short = {
        BusyHubError: "{}",
        errors.HFValidationError: "no name of a repository (user/name), and no folder here",
        errors.GatedRepoError: "the repository's owner must grant access first (then log in: hf auth login)",
        errors.RepositoryNotFoundError: "no such folder here, nor repository on the Hub (private ones: hf auth login)",
        errors.RevisionNotFoundError: "the repository has no such branch, tag or commit",
        errors.LocalTokenNotFoundError: "{}",
        httpx.TransportError: "the connection to the Hub failed ({}); try again",
        errors.HfHubHTTPError: "{}",
    }
    while error is not None and not isinstance(error, (InputError, ConnectionError)):
        for kind, text in short.items():
            if isinstance(error, kind):
                return text.format(str(error) or type(error).__name__)
        error = error.__cause__
    return ""
