"""The folder of a reproduction, and its index.

    study.json              the index: scale, versions, machine, sessions; for each task the settings of its parts, the
                            setting of the sweep, the result of the search, seconds and files of each finished part
    TASK/tune/              the search (`tuning.py`)
    TASK/sweep/             the sweep (`folder.py`): results.json, curves.parquet, the networks
    TASK/tensorboard/       losses, accuracy, weight width, RLCT over epochs, one run for each network
    TASK/report/            report.html, report.txt, figures

An interrupted part continues where it stopped. A part is finished if the index names it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..files import read_json, to_json, write_file
from .setting import Values

RENAMED = {"rlct_draws": "num_draws"}  # settings of a search in the index of version 0.1.0


class ReproductionFolder:
    """The folder of a reproduction and its index.

    Args:
        path: the folder. It is made when the index is written.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.index = self.path / "study.json"
        self.content: dict[str, Any] = {"sessions": [], "tasks": {}}
        if self.index.is_file():
            self.content |= read_json(self.index)

    def check(self, scale: str, tasks: Mapping[str, Values]) -> None:
        """Check whether the folder was begun with these settings.

        Args:
            scale: of all tasks.
            tasks: all settings of each task.

        Raises:
            InputError: it was begun with another scale, or one of its tasks with other settings.
        """
        self._compare("scale", self.content.get("scale", scale), scale)
        recorded = self.content["tasks"]
        for task, fields in tasks.items():
            if task in recorded:
                before = _with_new_names(recorded[task]["flags"])
                self._compare(task, before, json.loads(json.dumps(fields)))

    def _compare(self, name: str, before: Any, value: Any) -> None:
        if before != value:
            problem = f"was begun with {name}={before!r}, not {value!r}; take another folder"
            raise InputError("output_dir", str(self.path), problem)

    def task(self, name: str) -> dict[str, Any]:
        """Return a task's entry. `write` keeps changes of it.

        Args:
            name: of the task.
        """
        return self.content["tasks"].setdefault(name, {"parts": {}})

    def is_finished(self, task: str, part: str) -> bool:
        """Return whether the index names a part of a task.

        Args:
            task: its name.
            part: "tune", "sweep", "tensorboard" or "report".
        """
        return part in self.task(task)["parts"]

    def finish(self, task: str, part: str, seconds: float, **facts: Any) -> None:
        """Write a part into the index as finished.

        Args:
            task: its name.
            part: as for `is_finished`.
            seconds: of its last session.
            facts: other entries of the part.
        """
        parts = self.task(task)["parts"]
        parts[part] = {"seconds": round(seconds, 3), **facts}
        self.write()

    def write(self) -> None:
        """Write the index."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_file(self.index, to_json(self.content))


def _with_new_names(fields: Values) -> dict[str, Any]:
    """Return the recorded settings of a task with today's names."""
    search = fields.get("tune")
    if search is None:
        return dict(fields)
    renamed = {}
    for name, value in search.items():
        renamed[RENAMED.get(name, name)] = value
    return {**fields, "tune": renamed}
