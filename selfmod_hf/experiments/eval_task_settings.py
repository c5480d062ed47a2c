"""The settings of a task of the benchmark, in place of the flags of `selfmod rlct`."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from ..errors import InputError
from ..hub.eval_results import EvalTask, eval_tasks
from .data_settings import DataSettings
from .rlct_settings import RLCTSettings

# settings without an effect on the estimate
_FREE = ("device", "memory_gib", "resume_from")


def with_eval_task(
    data: DataSettings, settings: RLCTSettings, *, calibrates: bool = False
) -> tuple[EvalTask | None, DataSettings, RLCTSettings]:
    """Return the task of the benchmark that the data name, and the settings that it fixes.

    The task is None if they name none. The user's settings of device, memory and resuming are kept.

    Args:
        data: settings of the data.
        settings: of the estimate.
        calibrates: whether step size and localization are chosen by a calibration.

    Raises:
        InputError: a given setting that the task fixes at another value, or a calibration.
    """
    task = eval_tasks().get(data.task or "")
    if task is None:
        return None, data, settings
    if calibrates:
        raise InputError("calibrate", True, f"`task` {task.id} fixes step size and localization; leave it out")
    for name, value in data.given().items():
        if name != "task":
            raise InputError(name, value, f"`task` {task.id} fixes the data; leave it out")
    for field in fields(settings):
        value = getattr(settings, field.name)
        if field.name in _FREE or value == field.default:
            continue
        fixed = task.settings.get(field.name)
        if str(value) != str(fixed):
            raise InputError(field.name, value, f"`task` {task.id} fixes it at {_shown(fixed)}")
    values = {}
    for field in fields(settings):  # all others are the package's defaults, which `check_result` compares
        if field.name in task.settings:
            values[field.name] = task.settings[field.name]
    return task, replace(data, **task.data), replace(settings, **values)


def _shown(value: Any) -> str:
    return "its default" if value is None else str(value)
