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
from pandas.api.types import is_numeric_dtype

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
    found = _paths_in_settings(run) | _paths_in_commands(run)
    data = run.settings.data.dataset_name
    if data and (run.local_data or not can_be_hub_id(data)):
        found.add(data)
    names = {}
    for path in sorted(found, key=len, reverse=True):
        name = Path(path).name
        if name and os.sep in path:
            names[path] = name
    return names


def _paths_in_settings(run: SweepRun) -> set[str]:
    """Return the local paths in the settings and the arms of a study."""
    values: list[Any] = [run.settings.to_dict()]
    for arm in run.arms:
        values.append(arm.changes)
    found: set[str] = set()
    for text in _texts(values):
        parts = _SEPARATORS.split(text)
        found.update(filter(_is_local, parts))
    return found


def _paths_in_commands(run: SweepRun) -> set[str]:
    """Return the parts of commands that begin as a local path does."""
    found: set[str] = set()
    root = Path(os.sep)
    for session in run.sessions:
        for word in session.command:
            parts = _SEPARATORS.split(word)
            parts.append(_value_of(word))
            for part in parts:
                # "/out" tells no more than its name, and "/p" is in every page
                if _begins_as_local(part) and Path(part).parent != root:
                    found.add(part)
    return found


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
    if os.sep not in text:
        return False
    return text.startswith((os.sep, "~", f".{os.sep}", f"..{os.sep}"))


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
        changes = without(arm.changes, paths)
        study.append(replace(arm, changes=changes))
    run = results.run.to_dict()
    run = _run_without(run, paths)
    return replace(
        results,
        run=SweepRun.model_validate(run),
        rows=_table_without(results.rows, paths),
        curves=_table_without(results.curves, paths),
        study=study,
    )


def _run_without(run: Any, paths: Mapping[str, str]) -> Any:
    """Return the content of a run.json with names in place of paths. A data set without its path stays a local one."""
    shown = without(run, paths)
    data = run["settings"]["data"]
    if data.get("dataset_name") in paths:
        shown["local_data"] = True
    return shown


def _table_without(table: pd.DataFrame, paths: Mapping[str, str]) -> pd.DataFrame:
    texts = {}
    for name in table.columns:
        column = table[name]
        if not is_numeric_dtype(column):
            texts[name] = column.map(lambda value: without(value, paths))
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
            _hide_in_table(file, paths)
        elif file.suffix in (".json", ".html"):
            text = file.read_text(encoding="utf-8")
            if not any(name in text for name in paths.values()):
                continue  # a path ends with its name
            if file.suffix == ".json":
                _hide_in_json(file, text, paths)
            else:
                _hide_in_html(file, text, paths)


def _hide_in_table(file: Path, paths: Mapping[str, str]) -> None:
    """Replace a table that holds paths."""
    table = pd.read_parquet(file)
    shown = _table_without(table, paths)
    if shown.equals(table):
        return
    buffer = BytesIO()
    shown.to_parquet(buffer, index=False)
    _replace(file, buffer.getvalue())


def _hide_in_json(file: Path, text: str, paths: Mapping[str, str]) -> None:
    """Replace a JSON file that holds paths. It is parsed, because JSON may write a path with escapes."""
    content = json.loads(text)
    if file.name == "run.json" and "settings" in content:
        shown = _run_without(content, paths)
    else:
        shown = without(content, paths)
    if shown != content:
        _replace(file, to_json(shown))


def _hide_in_html(file: Path, text: str, paths: Mapping[str, str]) -> None:
    """Replace a page that holds paths, as they are or escaped."""
    names = dict(paths)
    for path, name in paths.items():
        escaped = html.escape(path)
        names[escaped] = html.escape(name)
    shown = without(text, names)
    if shown != text:
        _replace(file, shown)


def _replace(file: Path, content: str | bytes) -> None:
    file.unlink()  # a link: its target stays
    write_file(file, content)
