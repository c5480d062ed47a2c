"""Replace paths of this machine by names before a study is published.

Settings of a study may name local folders: the data set, a tokenizer, a backbone, another network. These paths are in
run.json, in the columns of arms, and in the commands of sessions. They mean nothing elsewhere, and may tell more about
a person than a publication should.
"""

from __future__ import annotations

import html
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import pandas as pd

from ..experiments.arms import Arm
from ..experiments.recipes import can_be_hub_id
from ..files import to_json, write_file
from ..json_records import SweepRun
from .sweep_results import SweepResults

_SEPARATORS = re.compile(r"""network:|[=,;:"'\s\[\]{}]+""")  # between a path and the text around it


def local_paths(run: SweepRun | None) -> dict[str, str]:
    """Return the paths in a study's settings and commands, each with the name that replaces it, longer ones first.

    Of commands these are absolute paths, and those that begin with ``~``, ``./`` or ``../``. Other relative ones stay.

    Example:
        >>> settings = {"task": "x", "training": {}, "sampling": {}, "data": {"dataset_name": "/home/ann/pictures"}}
        >>> local_paths(SweepRun.model_validate({"settings": settings, "sessions": []}))
        {'/home/ann/pictures': 'pictures'}
    """
    if run is None:
        return {}
    found = set()
    data = run.settings.data.dataset_name
    if data and (run.local_data or not can_be_hub_id(data)):
        found.add(data)
    settings = [run.settings.to_dict(), *(arm.changes for arm in run.arms)]
    for text in _texts(settings):
        found.update(filter(_is_local, _SEPARATORS.split(text)))
    for session in run.sessions:
        for word in session.command:
            parts = [*_SEPARATORS.split(word), _value_of(word)]
            # "/out" tells no more than its name, and "/p" is in every page
            found.update(part for part in parts if _begins_as_local(part) and Path(part).parent != Path(os.sep))
    longest_first = sorted(found, key=len, reverse=True)
    names = {path: Path(path).name for path in longest_first if os.sep in path}
    return {path: name for path, name in names.items() if name}


def _texts(value: Any) -> Iterator[str]:
    """Yield the texts in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for entry in value.values():
            yield from _texts(entry)
    elif isinstance(value, (list, tuple)):
        for entry in value:
            yield from _texts(entry)


def _value_of(word: str) -> str:
    """Return the value in a word of a command: a path with spaces is one value."""
    return re.sub(r"^--\w+=", "", word)


def _begins_as_local(text: str) -> bool:
    if text.startswith("//") and not text.startswith("///"):  # of a URL, without its scheme
        return False
    return os.sep in text and text.startswith((os.sep, "~", f".{os.sep}", f"..{os.sep}"))


def _is_local(text: str) -> bool:
    if os.sep not in text:
        return False
    if _begins_as_local(text):
        return True
    with suppress(OSError, ValueError):  # a text that is no path
        return Path(text).exists()
    return False


def without(value: Any, paths: Mapping[str, str]) -> Any:
    """Return a JSON value with names in place of paths.

    Args:
        value: the value.
        paths: from `local_paths`.
    """
    if isinstance(value, str):
        for path, name in paths.items():
            value = value.replace(path, name)
        return value
    if isinstance(value, Mapping):
        return {key: without(entry, paths) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [without(entry, paths) for entry in value]
    return value


def without_local_paths(results: SweepResults) -> SweepResults:
    """Return results with names in place of the paths of this machine."""
    paths = local_paths(results.run)
    if results.run is None or not paths:
        return results
    study = []
    for arm in results.study:
        study.append(Arm(arm.name, without(arm.changes, paths), arm.panel, arm.baseline))
    run = SweepRun.model_validate(_run_without(results.run.to_dict(), paths))
    rows = _table_without(results.rows, paths)
    return replace(results, run=run, rows=rows, curves=_table_without(results.curves, paths), study=study)


def _run_without(run: Any, paths: Mapping[str, str]) -> Any:
    """Return the content of a run.json with names in place of paths. A data set without its path stays a local one."""
    shown = without(run, paths)
    if run["settings"]["data"].get("dataset_name") in paths:
        shown["local_data"] = True
    return shown


def _table_without(table: pd.DataFrame, paths: Mapping[str, str]) -> pd.DataFrame:
    texts = {}
    for name in table.columns:
        if not pd.api.types.is_numeric_dtype(table[name]):
            texts[name] = table[name].map(lambda value: without(value, paths))
    return table.assign(**texts)


def hide_local_paths(folder: Path, paths: Mapping[str, str]) -> None:
    """Replace the files of a folder that hold paths by files with names. Other files, and targets of links, stay.

    Args:
        folder: of files, or of links to them.
        paths: from `local_paths`.
    """
    if not paths:
        return
    for file in sorted(folder.rglob("*")):
        if file.suffix == ".parquet":
            table = pd.read_parquet(file)
            changed = _table_without(table, paths)
            if not changed.equals(table):
                _replace(file, _as_parquet(changed))
        elif file.suffix in (".json", ".html"):
            _hide_in_text(file, paths)


def _hide_in_text(file: Path, paths: Mapping[str, str]) -> None:
    """Replace a file of JSON or HTML that holds paths."""
    text = file.read_text(encoding="utf-8")
    if not any(name in text for name in paths.values()):
        return  # a path ends with its name
    if file.suffix == ".json":
        content = json.loads(text)  # because JSON may write a path with escapes
        is_run = file.name == "run.json" and "settings" in content
        shown = _run_without(content, paths) if is_run else without(content, paths)
        if shown != content:
            _replace(file, to_json(shown))
        return
    escaped = {html.escape(path): html.escape(name) for path, name in paths.items()}
    shown = without(text, {**paths, **escaped})
    if shown != text:
        _replace(file, shown)


def _replace(file: Path, content: str | bytes) -> None:
    file.unlink()  # a link: its target stays
    write_file(file, content)


def _as_parquet(table: pd.DataFrame) -> bytes:
    buffer = BytesIO()
    table.to_parquet(buffer, index=False)
    return buffer.getvalue()
