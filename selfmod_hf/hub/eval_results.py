"""The benchmark: tasks that fix data, parameters and sampler of an RLCT, and results as the Hub's tables take them.

The Hub makes a table of a data set with an `eval.yaml`, which names tasks. A model takes part with a file in
`.eval_results`. The settings of a task are in `tasks.jsonl` beside it, one line for each task.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cache
from importlib import import_module
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import torch
import yaml
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    EvalResultEntry,
    HfApi,
    eval_result_entries_to_yaml,
)
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from ..complexity import LLCResult
from ..complexity.result import OK
from ..errors import InputError
from .upload import Target, address_of, open_repository, send

if TYPE_CHECKING:
    from ..data import TensorData

BENCHMARK = "selfmod/rlct"  # default id of the data set on the Hub
FOLDER = "benchmark"
FILES = ("eval.yaml", "tasks.jsonl", "README.md")


@dataclass(frozen=True)
class EvalTask:
    """Describe a task of the benchmark.

    A published task is not changed. A change is a task of another id.

    Attributes:
        id: its name, with a version.
        data: settings of the data, such as `task`, `dataset_name` and the split.
        data_name: the data as `SamplerSettings.data` names them.
        class_counts: number of training samples of each class.
        settings: all settings of the estimate. They have the names of the command's flags, and those of `LLCSettings`
            where there is no flag.
    """

    id: str
    data: Mapping[str, Any]
    data_name: str
    class_counts: Sequence[int]
    settings: Mapping[str, Any]

    @property
    def rows(self) -> int:
        """Return the number of training samples."""
        return sum(self.class_counts)

    def check_data(self, data: TensorData) -> None:
        """Raise an InputError unless a training set has the task's number of samples of each class.

        Args:
            data: with the labels of the data set, in its own order of classes.
        """
        labels = data.labels[data.labels >= 0]
        found = torch.bincount(labels, minlength=len(self.class_counts)).tolist()
        if found != list(self.class_counts):
            problem = f"the data set has changed: {self.id} has {list(self.class_counts)} samples of its classes"
            raise InputError("task", self.id, f"{problem}, here are {found}")

    def check_result(self, result: LLCResult) -> None:
        """Raise an InputError unless a result may be an entry of the table.

        Raises:
            InputError: another status than "ok", or another setting than the task's.
        """
        if result.status != OK:
            problem = f"only results of status ok are entries; this one is {result.status}: {result.status_reason}"
            raise InputError("push_eval_result", True, problem)
        found = _settings_of(result)
        for name, value in {**self.settings, "num_samples": self.rows, "data": self.data_name}.items():
            if found[name] != value:
                raise InputError("push_eval_result", True, f"{self.id} has {name} {value}; here it was {found[name]}")

    @property
    def path(self) -> str:
        """Return the name of the file of its result in a model's repository."""
        return f".eval_results/selfmod-{self.id}.yaml"


def _settings_of(result: LLCResult) -> dict[str, Any]:
    """Return the settings of a result by the names of a task's."""
    record = result.settings
    found = dataclasses.asdict(record)
    found["rlct_preset"] = str(record.preset).partition(" ")[0]
    found["nbeta"] = record.nbeta_rule
    found["dtype"] = record.compute_dtype
    found["sampler_options"] = dict(record.options)
    found["loss"] = result.loss or "cross-entropy"
    return found


@cache
def eval_tasks() -> Mapping[str, EvalTask]:
    """Return the tasks of the benchmark by their ids.

    Example:
        >>> eval_tasks()["digits-theory-all-v1"].rows
        1437
    """
    tasks = {}
    for line in benchmark_file("tasks.jsonl").splitlines():
        task = EvalTask(**json.loads(line))
        tasks[task.id] = task
    return tasks


def benchmark_file(name: str) -> str:
    """Return the text of a file of the benchmark's data set."""
    return files(__package__).joinpath(FOLDER, name).read_text(encoding="utf-8")


def eval_result_file(
    task: EvalTask,
    result: LLCResult,
    repo_id: str,
    *,
    benchmark: str = BENCHMARK,
    api: HfApi | None = None,
) -> str:
    """Return the content of a model's file in `.eval_results`.

    Args:
        task: of the benchmark.
        result: of the model.
        repo_id: ``user/name`` of the model.
        benchmark: id of the benchmark's data set.
        api: of the Hub.

    Raises:
        InputError: the result may not be an entry of the table, or the data set is missing.
    """
    task.check_result(result)
    api = api or HfApi()
    revision = check_benchmark(benchmark, api=api)
    version = import_module("selfmod_hf").__version__
    notes = f"± {result.standard_error:.3g} (standard error), {result.status}, {result.sampler}, selfmod_hf {version}"
    entry = EvalResultEntry(
        dataset_id=benchmark,
        task_id=task.id,
        value=result.llc,
        dataset_revision=revision,
        date=datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        source_url=f"{api.endpoint}/{repo_id}/blob/main/rlct.json",
        source_name="rlct.json",
        notes=notes,
    )
    return yaml.safe_dump(eval_result_entries_to_yaml([entry]), sort_keys=False, allow_unicode=True)


def check_benchmark(benchmark: str = BENCHMARK, *, api: HfApi | None = None) -> str | None:
    """Return the newest commit of the benchmark's data set.

    Args:
        benchmark: id of the data set.
        api: of the Hub.

    Raises:
        InputError: the data set is missing.
    """
    try:
        return (api or HfApi()).dataset_info(benchmark).sha
    except (HfHubHTTPError, HFValidationError) as error:
        raise InputError("benchmark", benchmark, f"no such data set on the Hub ({type(error).__name__})") from error


def push_benchmark(repo_id: str = BENCHMARK, *, api: HfApi | None = None) -> str:
    """Push the benchmark's data set, and return the address of the commit.

    Args:
        repo_id: ``user/name`` of the data set.
        api: of the Hub.
    """
    repository = open_repository(api or HfApi(), Target(repo_id), "dataset")
    operations: list[CommitOperationAdd | CommitOperationDelete] = []
    for name in FILES:
        operations.append(CommitOperationAdd(name, benchmark_file(name).encode()))
    return address_of(send(repository, operations, "Upload the tasks of the benchmark"))
