"""The settings of a training run: its data, its network and its training arguments, in one object."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from types import SimpleNamespace
from typing import Any

from transformers import set_seed

from ..data import TaskData, TaskSpec, default_recipe
from ..errors import InputError
from ..models import SelfModelingPreTrainedModel
from ..tokens import without_tokens
from ..trainer import SelfModelingTrainer, SelfModelingTrainingArguments
from ..trainer.recipe_network import NETWORK_FIELDS
from ..trainer.task_metrics import NAMES as METRICS
from ..trainer.task_metrics import evaluated_names
from .data_settings import DataSettings
from .folder_names import NAMED_IF_CHANGED, default_folder
from .network_settings import JSON_FIELDS, NetworkSettings, build_network, load_network_data
from .setting import Values, as_flags, check_finite, did_you_mean, setting, typed_value

# defaults of training arguments that differ from transformers'
TRAINING_DEFAULTS: Values = {
    "eval_strategy": "epoch",
    "logging_strategy": "epoch",
    "save_strategy": "epoch",
    "save_total_limit": 1,
    "report_to": "none",
    "hub_strategy": "end",  # one push of the finished model
    "per_device_eval_batch_size": 1000,
}
ENCODER_EVAL_BATCH = 64  # an encoder keeps the activations of each layer's tokens
FIGURES = ("loss", "classification_loss", "self_modeling_loss")  # of an evaluation, beside its metrics
PRECISIONS = ("no", "bf16", "fp16")
NO_RESULT = ("disable_tqdm", "hub_token", "output_dir")  # settings that do not change what is computed


@dataclass
class StepSettings:
    """Settings of one optimizer step over all processes."""

    train_batch_size: int | None = setting("Batch of one step over all processes; sets `per_device_train_batch_size`.")
    mixed_precision: str | None = setting(
        "no, bf16 or fp16, as accelerate launch takes it; the losses stay in float32."
    )


GROUPS: tuple[Any, ...] = (DataSettings, NetworkSettings, StepSettings, SelfModelingTrainingArguments)


@dataclass(frozen=True)
class RunSettings:
    """The settings of one training run. Make them with `RunSettings.make`, and change them with `replace`.

    Attributes:
        given: the given fields, by name. All others follow from the task's recipe and the defaults.
        task: the data set and its recipe.
        data: settings of the data.
        network: settings of the network.
        training: arguments of the Trainer.

    Example:
        >>> settings = RunSettings.make(task="digits", num_train_epochs=2)
        >>> settings.replace(hidden_sizes=[16]).network.hidden_sizes
        [16]
    """

    given: Values
    task: TaskSpec
    data: DataSettings
    network: NetworkSettings
    training: SelfModelingTrainingArguments

    @classmethod
    def make(cls, **given: Any) -> RunSettings:
        """Return the settings of a run. Precedence: given fields, then the task's recipe, then the defaults.

        Args:
            given: fields of `DataSettings`, `NetworkSettings`, `StepSettings` and `SelfModelingTrainingArguments`.
                None means the default. Without an `output_dir` it is a folder of `runs`.

        Raises:
            ValueError: an unknown field, or an unusable value.
        """
        given = checked_fields(given)
        task = _pick(DataSettings, given).task_spec()
        values = {**TRAINING_DEFAULTS, **_recipe_fields(task, given), **given}
        step = _pick(StepSettings, values)
        values |= _step_fields(step, given)
        data = _pick(DataSettings, values)
        network = _pick(NetworkSettings, values)
        if "output_dir" not in values:
            seed = values.get("seed", default_of("seed"))
            named = SimpleNamespace(**vars(data), **vars(network), seed=seed)
            changed = {name: given[name] for name in NAMED_IF_CHANGED if _is_changed(name, task, given)}
            values["output_dir"] = default_folder(named, changed)
        # the labels decide which metrics a task model has, so `make_trainer` checks again
        usual = list(METRICS) if network.head == "own" else ["accuracy"]
        _check_best(values.get("metric_for_best_model"), values.get("metrics") or usual)
        return cls(given, task, data, network, _pick(SelfModelingTrainingArguments, values))

    def replace(self, **changes: Any) -> RunSettings:
        """Return settings with other values of these fields. None returns a field to its default.

        Raises:
            ValueError: as for `make`.
        """
        return type(self).make(**{**self.given, **changes})

    def recipe_fields(self) -> dict[str, Any]:
        """Return the fields of the task's recipe that hold for this network."""
        return _recipe_fields(self.task, self.given)

    @property
    def train_batch_size(self) -> int | None:
        """Return the batch of one step over all processes. None: the batch of each process is given."""
        if "per_device_train_batch_size" in self.given:
            return None
        values = {**self.recipe_fields(), **self.given}
        return values.get("train_batch_size")

    def result_fields(self) -> dict[str, Any]:
        """Return the given fields of the computation, without tokens and values that change nothing.

        A value of the recipe stays if it is not the default, as in folders of version 0.1.0.
        """
        found = {}
        for name, value in self.given.items():
            if name in NO_RESULT:
                continue
            if value != default_of(name) or _is_changed(name, self.task, self.given):
                found[name] = value
        return found

    def command(self) -> str:
        """Return the command for this run. Tokens are hidden, and the output folder is its default."""
        given = dict(self.given)
        given.pop("output_dir", None)
        flags = without_tokens(as_flags(given))
        return shlex.join(["selfmod", "train", *flags])

    def load_data(self) -> TaskData[Any]:
        """Load the data, with the preprocessing or the tokenizer of the network's backbone.

        Raises:
            ValueError: contradictory settings, or unreadable data.
        """
        return load_network_data(self.task, self.data, self.network)

    def build_network(self, data: TaskData[Any]) -> SelfModelingPreTrainedModel:
        """Build the network. Its new weights follow from the seed of the training arguments.

        Args:
            data: from `load_data`.

        Raises:
            ValueError: settings of no possible network, or a network of other inputs than the data.
        """
        set_seed(self.training.seed)
        return build_network(self.network, data)

    def make_trainer(self, data: TaskData[Any], model: Any) -> SelfModelingTrainer:
        """Return the Trainer of a network or a population.

        Args:
            data: from `load_data`.
            model: from `build_network`, or a `SelfModelingPopulation`.

        Raises:
            InputError: a missing tracker, or a `metric_for_best_model` of other labels.
        """
        _check_best(self.training.metric_for_best_model, self.training.metrics or evaluated_names(model))
        try:
            return SelfModelingTrainer(
                model=model,
                args=self.training,
                train_dataset=data.train,
                eval_dataset=data.test,
                processing_class=data.train.processor(),
                task=data.task or self.task,
            )
        except RuntimeError as error:  # of a tracker
            raise InputError("report_to", self.training.report_to, str(error)) from error


def _check_best(metric: str | None, metrics: Sequence[str]) -> None:
    """Raise an InputError if no evaluation has this figure.

    Args:
        metric: of the best model, by its name with or without `eval_`.
        metrics: names of the metrics of an evaluation.
    """
    figures = [*FIGURES, *metrics]
    if metric is not None and metric.removeprefix("eval_") not in figures:
        raise InputError("metric_for_best_model", metric, f"allowed are {', '.join(figures)}")


def default_of(name: str) -> Any:
    """Return the default of a run's field.

    Raises:
        KeyError: there is no such field.
    """
    if name in TRAINING_DEFAULTS:
        return TRAINING_DEFAULTS[name]
    for group in GROUPS:
        for field in fields(group):
            if field.name != name:
                continue
            if field.default_factory is not MISSING:
                return field.default_factory()
            return field.default
    raise KeyError(name)


def _is_changed(name: str, task: TaskSpec, given: Values) -> bool:
    """Return whether a field is given and differs from the value without it: the recipe's, or else the default."""
    if name not in given:
        return False
    others = {other: value for other, value in given.items() if other != name}
    recipe = _recipe_fields(task, others)
    if name in recipe:
        return given[name] != recipe[name]
    return given[name] != default_of(name)


def _names(group: Any) -> list[str]:
    return [field.name for field in fields(group) if field.init]


def _pick(group: Any, values: Values) -> Any:
    """Return an instance of a group of settings, with its part of the values."""
    own = {}
    for name in _names(group):
        if name in values:
            own[name] = values[name]
    return group(**own)


def checked_fields(given: Values) -> dict[str, Any]:
    """Return fields of a run in their types, without None. Integers become floats if the default is a float.

    Raises:
        InputError: an unknown field, a value of another type, NaN or infinity.
    """
    owners: dict[str, Any] = {}
    for group in GROUPS:
        owners.update(dict.fromkeys(_names(group), group))
    found = {}
    for name, value in given.items():
        if name not in owners:
            raise InputError(name, value, f"no setting of a run has this name{did_you_mean(name, owners)}")
        if value is None:
            continue
        if name in JSON_FIELDS and isinstance(value, Mapping):
            value = json.dumps(value)
        value = typed_value(owners[name], name, value)
        if type(value) is int and isinstance(default_of(name), float):
            value = float(value)
        found[name] = value
    check_finite(found)
    return found


def _recipe_fields(task: TaskSpec, given: Values) -> dict[str, Any]:
    """Return the fields of the recipe, except for those of a replaced network."""
    recipe = dict(_recipe(task, given))
    backbone = given.get("backbone")
    if given.get("backbone_name") or given.get("backbone_config"):
        recipe["per_device_eval_batch_size"] = ENCODER_EVAL_BATCH
        for name in NETWORK_FIELDS:
            recipe.pop(name, None)
    elif backbone is not None and backbone != recipe.get("backbone"):
        recipe.pop("backbone_kwargs", None)
        if not backbone.startswith("timm/resnet"):
            recipe.pop("small_image_stem", None)
    if given.get("aux_weight") == 0 and not given.get("activation_penalty"):
        recipe.pop("target_layers", None)  # the baseline of a task predicts nothing
    return checked_fields(recipe)


def _recipe(task: TaskSpec, given: Values) -> Values:
    """Return the task's recipe, or the one for a data set of the user's own.

    A backbone of the user's own has no default target layers. The user names them.
    """
    own_backbone = given.get("backbone") or given.get("backbone_name") or given.get("backbone_config")
    hidden_sizes = given.get("hidden_sizes")
    if "task" in given or "dataset_name" not in given or own_backbone or hidden_sizes == []:
        return task.recipe
    if hidden_sizes is None:
        return default_recipe()
    return default_recipe(hidden_sizes)


def share_of_batch(batch: int, processes: int) -> int:
    """Return the batch of each process.

    Args:
        batch: of one step over all processes.
        processes: their number.

    Raises:
        InputError: the batch cannot be split evenly.
    """
    if batch < 1 or batch % processes:
        raise InputError("train_batch_size", batch, f"allowed are multiples of {processes} processes")
    return batch // processes


def _step_fields(step: StepSettings, given: Values) -> dict[str, Any]:
    """Return the training arguments for the settings of a step and the launcher."""
    found: dict[str, Any] = {}
    batch = step.train_batch_size
    if batch is not None and "per_device_train_batch_size" not in given:
        processes = int(os.environ.get("WORLD_SIZE", 1))
        found["per_device_train_batch_size"] = share_of_batch(batch, processes)
    if step.mixed_precision is not None:
        if step.mixed_precision not in PRECISIONS:
            raise InputError("mixed_precision", step.mixed_precision, f"allowed are {', '.join(PRECISIONS)}")
        found["bf16"] = step.mixed_precision == "bf16"
        found["fp16"] = step.mixed_precision == "fp16"
    return found
