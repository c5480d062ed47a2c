"""The package itself as files to push, because it is on no index: its sources, a wheel and its requirements.

A Space builds its environment from requirements.txt alone, before it copies its other files. So the sources lie beside
the app, which imports them from there, and requirements.txt names what the package requires. The wheel is for whoever
installs the package elsewhere.
"""

from __future__ import annotations

import base64
import hashlib
import io
import re
import shutil
import zipfile
from collections.abc import Iterable, Iterator
from email import message_from_string
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement

from .. import __version__
from ..errors import InputError
from ..files import write_file

NAME = "selfmod_hf"
WHEEL = f"{NAME}-{__version__}-py3-none-any.whl"
ROOT = Path(__file__).parents[1]
NOT_SENT = ("*.pyc", "__pycache__", ".*")
EPOCH = (1980, 1, 1, 0, 0, 0)  # the same sources give the same wheel


def add_to_space(folder: Path) -> set[str] | None:
    """Add sources, wheel and requirements to a Space's folder. Return the extras that it requires of the package.

    Args:
        folder: changed in place.

    Returns:
        The extras, possibly none. None: the folder does not require the package.

    Raises:
        InputError: the package is not installed, so its requirements are not known.
    """
    file = folder / "requirements.txt"
    if not file.is_file():
        return None
    lines = file.read_text(encoding="utf-8").splitlines()
    extras = extras_of(lines)
    if extras is None:
        return None
    needed = requirements(extras)
    names = [Requirement(line).name for line in needed]
    others = [line for line in lines if not is_own(line) and line not in names]
    write_file(file, "\n".join([*needed, *others]) + "\n")
    shutil.copytree(ROOT, folder / NAME, ignore=shutil.ignore_patterns(*NOT_SENT), dirs_exist_ok=True)
    write_file(folder / WHEEL, wheel())
    return extras


def write_install(folder: Path, address: str, extras: Iterable[str]) -> None:
    """Write into the README.md of a Space's folder how to install the package.

    Args:
        folder: with the wheel.
        address: of the repository's files.
        extras: of the package, which the Space requires.
    """
    wanted = f"{address}/{WHEEL}"
    names = ",".join(sorted(extras))
    if names:
        wanted = f"'{NAME}[{names}] @ {wanted}'"
    card = folder / "README.md"
    if card.is_file():
        text = card.read_text(encoding="utf-8").rstrip()
        install = f"## How to install the package\n\n    pip install {wanted}"
        write_file(card, f"{text}\n\n{install}\n")


def is_own(line: str) -> bool:
    """Return whether a line of requirements.txt names this package.

    Example:
        >>> is_own("selfmod_hf[space]"), is_own("numpy")
        (True, False)
    """
    return re.match(r"selfmod[-_.]hf\b", line.strip(), flags=re.IGNORECASE) is not None


def extras_of(lines: Iterable[str]) -> set[str] | None:
    """Return the extras of this package in the lines of a requirements.txt. None: no line names the package.

    Example:
        >>> extras_of(["numpy", "selfmod_hf[space]"])
        {'space'}
    """
    for line in lines:
        if is_own(line):
            return Requirement(line).extras
    return None


def requirements(extras: Iterable[str] = ()) -> list[str]:
    """Return what the package requires, with extras, without itself.

    Args:
        extras: names of extras. Their own extras are included.

    Raises:
        InputError: the package is not installed.
    """
    found: dict[str, None] = {}
    todo = ["", *sorted(extras)]
    for extra in todo:  # it grows
        for text in _distribution().requires or []:
            requirement = Requirement(text)
            if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
                continue
            requirement.marker = None
            if is_own(requirement.name):
                todo += [name for name in sorted(requirement.extras) if name not in todo]
            else:
                found[str(requirement)] = None
    return list(found)


def wheel() -> bytes:
    """Return the wheel of the imported sources. Equal sources give equal bytes.

    Raises:
        InputError: the package is not installed.
    """
    info = f"{NAME}-{__version__}.dist-info"
    files = {path.relative_to(ROOT.parent).as_posix(): path.read_bytes() for path in _sources()}
    files[f"{info}/METADATA"] = _metadata(_distribution()).encode()
    files[f"{info}/WHEEL"] = b"Wheel-Version: 1.0\nGenerator: selfmod_hf\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    files[f"{info}/entry_points.txt"] = b"[console_scripts]\nselfmod = selfmod_hf.cli:entry\n"
    record = [f"{name},sha256={_digest(content)},{len(content)}" for name, content in files.items()]
    files[f"{info}/RECORD"] = "\n".join([*record, f"{info}/RECORD,,", ""]).encode()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name, EPOCH)
            entry.external_attr = 0o644 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, content)
    return buffer.getvalue()


def _sources() -> Iterator[Path]:
    """Yield the package's files."""
    for path in sorted(ROOT.rglob("*")):
        parts = path.relative_to(ROOT).parts
        hidden = any(part.startswith(".") or part == "__pycache__" for part in parts)
        if path.is_file() and not hidden and path.suffix != ".pyc":
            yield path


def _distribution() -> Distribution:
    try:
        return distribution(NAME)
    except PackageNotFoundError as error:
        problem = "is not installed, so its requirements are not known; pip install it from its sources"
        raise InputError("package", NAME, problem) from error


def _metadata(installed: Distribution) -> str:
    """Return the installed metadata with the version of the sources, which may be newer than an editable install."""
    message = message_from_string(installed.read_text("METADATA") or "")
    del message["License-File"]  # the file is not in the wheel
    message.replace_header("Version", __version__)
    return message.as_string()


def _digest(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
