"""The whole study: for each task a search, the experiment, its logs, its report; in one folder with an index.

    study.json              the index: scale, versions, machine, sessions; for each task the flags of its parts, the
                            experiment's setting, what the search found, seconds and files of each finished part
    TASK/tune/              the search (`tuning.py`)
    TASK/sweep/             the experiment (`folder.py`): results.json, curves.parquet, the networks
    TASK/tensorboard/       losses, accuracy, weight width, RLCT over epochs, one run a network
    TASK/report/            report.html, report.txt, figures

Each part goes on where it was interrupted; a part that the index names is finished.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..files import read_json, to_json, write_file

SCALES = ("quick", "full")


@dataclass(frozen=True)
class TaskFlags:
    """Describe what a study does with a task.

    At each scale it holds flags of `selfmod sweep` besides the recipe's. The search of `selfmod tune` is short at both.

    Attributes:
        quick: a first look, reduced in seeds, epochs or samples: not the paper's setting.
        full: the paper's grid; nothing here changes what is trained.
        tune: the search.
    """

    quick: Mapping[str, Any]
    tune: Mapping[str, Any]
    full: Mapping[str, Any]

    def of(self, scale: str) -> dict[str, Any]:
        return dict(getattr(self, scale))


# The search: learning rates around the recipe's, weights of the self-modeling loss over the grid's range.
STUDY: Mapping[str, TaskFlags] = {
    "digits": TaskFlags(
        quick={},  # the whole grid takes half a minute
        tune={
            "trials": 8, "stack": 4, "space": ["learning_rate=0.02:0.1:log", "aux_weight=0:10"],
            "num_train_epochs": 20, "hidden_sizes": [32], "rlct_draws": 300,
        },
        full={},
    ),
    "mnist": TaskFlags(
        quick={"hidden_sizes": [64], "seeds": [1, 2], "num_train_epochs": 10, "num_draws": 300},
        tune={
            "trials": 8, "stack": 4, "space": ["learning_rate=0.002:0.02:log", "aux_weight=0:50"],
            "num_train_epochs": 5, "rlct_draws": 200,
        },
        full={},
    ),
    "cifar10": TaskFlags(
        quick={
            "aux_weights": [0, 1], "seeds": [1], "num_train_epochs": 2, "max_train_samples": 1280,
            "max_test_samples": 500, "num_chains": 2, "num_draws": 20,
        },
        tune={
            "trials": 2, "stack": 1, "space": ["learning_rate=0.00003:0.0003:log", "aux_weight=0:2"],
            "num_train_epochs": 1, "max_train_samples": 640, "max_test_samples": 200, "rlct_draws": 4,
            "give_up_below": 0,
        },
        full={},
    ),
    "imdb": TaskFlags(
        quick={
            "seeds": [1, 2], "num_train_epochs": 20, "max_train_samples": 5000, "max_test_samples": 5000,
            "num_chains": 2, "num_draws": 100, "rlct_every_n_epochs": 10,
        },
        tune={
            "trials": 4, "stack": 2, "space": ["learning_rate=0.03:0.3:log", "aux_weight=0:500"],
            "num_train_epochs": 5, "max_train_samples": 2000, "max_test_samples": 2000, "rlct_draws": 50,
            "give_up_below": 0,
        },
        full={"rlct_every_n_epochs": 100},
    ),
}  # fmt: skip


class StudyFolder:
    """The folder and its index.

    Args:
        path: made when something is written.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.index = self.path / "study.json"
        content = read_json(self.index) if self.index.is_file() else {}
        self.content: dict[str, Any] = {"sessions": [], "tasks": {}} | content

    def check(self, scale: str, tasks: Mapping[str, Mapping[str, Any]]) -> None:
        """Refuse to go on with another scale, or a task with other flags.

        Raises:
            InputError: the folder was begun so.
        """
        before = {"scale": self.content.get("scale", scale)}
        wanted: dict[str, Any] = {"scale": scale}
        for task, flags in json.loads(json.dumps(tasks)).items():
            if task in self.content["tasks"]:
                before[task], wanted[task] = self.content["tasks"][task]["flags"], flags
        for name, value in wanted.items():
            if before[name] != value:
                problem = f"was begun with {name}={before[name]!r}, not {value!r}; take another folder"
                raise InputError("output_dir", str(self.path), problem)

    def task(self, name: str) -> dict[str, Any]:
        """A task's entry; what is changed in it is kept by `write`."""
        return self.content["tasks"].setdefault(name, {"parts": {}})

    def is_finished(self, task: str, part: str) -> bool:
        return part in self.task(task)["parts"]

    def finish(self, task: str, part: str, seconds: float, **facts: Any) -> None:
        """Note a part as finished; `seconds` are those of the session that finished it."""
        self.task(task)["parts"][part] = {"seconds": round(seconds, 3), **facts}
        self.write()

    def write(self) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        write_file(self.index, to_json(self.content))
