"""The parameters of a trial: fields of a run, as Optuna keeps them and as `RunSettings` has them."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from transformers import TrainingArguments

from ..errors import InputError
from ..trainer import SelfModelingTrainingArguments
from ..trainer.member import MEMBER_FIELDS
from .data_settings import DataSettings
from .kind import Kind, kind_of
from .network_settings import NetworkSettings
from .run_settings import StepSettings
from .setting import Values, did_you_mean

# These fields choose the test samples or their labels. Accuracies on different ones cannot be compared.
_OF_THE_TEST = (
    "task", "dataset_name", "dataset_config", "label_column", "train_split", "test_split", "test_fraction",
    "split_seed", "skip_missing", "max_test_samples", "task_type", "problem_type", "block_size", "vocab_size",
)  # fmt: skip
# Arguments of transformers' Trainer that decide the weights.
_OF_TRAINING = (
    "per_device_train_batch_size", "num_train_epochs", "max_steps", "learning_rate", "lr_scheduler_type",
    "lr_scheduler_kwargs", "warmup_steps", "warmup_ratio", "optim", "optim_args", "weight_decay", "adam_beta1",
    "adam_beta2", "adam_epsilon", "gradient_accumulation_steps", "max_grad_norm", "bf16", "fp16", "tf32",
    "dataloader_drop_last",
)  # fmt: skip
# Arguments of this package's Trainer that do not decide them.
_NOT_OF_TRAINING = (
    "log_weight_width", "tensorboard_figures_every_n_epochs", "ddp_find_unused_parameters", "rlct_every_n_epochs",
    "rlct_preset", "license", "logging_nan_inf_filter",
)  # fmt: skip
WHOLE = ("num_train_epochs",)  # numbers whose ranges hold integers only
# a field -> fields that would make it count for nothing
OVERRULED_BY: Values = {
    "train_batch_size": ("per_device_train_batch_size",),
    "num_train_epochs": ("max_steps",),
    "bf16": ("mixed_precision",),
    "fp16": ("mixed_precision",),
}


def _kinds() -> dict[str, Kind]:
    """Return the kind of each field that a tuning can search."""
    of_transformers = {field.name for field in fields(TrainingArguments)}
    found = {}
    for owner in (NetworkSettings, DataSettings, StepSettings, SelfModelingTrainingArguments):
        for field in fields(owner):
            name = field.name
            searched = name not in _OF_THE_TEST and name not in _NOT_OF_TRAINING
            if name in of_transformers:
                searched = name in _OF_TRAINING
            if searched:
                found[name] = kind_of(owner, name)
    return found


KINDS = _kinds()
# Trials of one population may differ in these.
MEMBER_PARAMETERS = tuple(name for name in MEMBER_FIELDS if name in KINDS)


def check_parameter(name: str) -> None:
    """Raise an InputError for a field that trials cannot have for themselves."""
    if name in KINDS:
        return
    problem = f"allowed are {', '.join(KINDS)}{did_you_mean(name, KINDS)}"
    if name in _OF_THE_TEST:
        problem = f"chooses the test samples, and accuracies on different samples cannot be compared; {problem}"
    raise InputError("space", name, problem)


def as_run_fields(parameters: Values) -> dict[str, Any]:
    """Return a trial's parameters as fields of `RunSettings`.

    >>> as_run_fields({"aux_weight": 2.0, "hidden_sizes": "32-16"})
    {'aux_weight': 2.0, 'hidden_sizes': [32, 16]}
    """
    found = {}
    for name, value in sorted(parameters.items()):  # a database returns them in any order
        kind = KINDS[name]
        found[name] = kind.read_list(value) if kind.is_list else value
    return found


def some_values(distribution: Any) -> list[Any]:
    """Return the choices of one of Optuna's distributions, or the ends of its range."""
    if hasattr(distribution, "choices"):
        return list(distribution.choices)
    return list(dict.fromkeys([distribution.low, distribution.high]))


def only_value(distribution: Any) -> Any:
    """Return the value of a range of equal ends, or of a list of one choice."""
    return some_values(distribution)[0]
