"""Read and write the records of networks: row.json, curve.json and run.json.

Each of them has one frozen class here. `LLCResult` is the class of rlct.json.

pydantic checks the types, because transformers installs it anyway. The alternative was `strict` of huggingface_hub. It
checks assignments, and the `__init__` of a frozen dataclass makes none. It also skips annotations that are text, and
complexity/ must not import Hugging Face libraries.

The classes are pydantic's models, because a model remembers which fields its file had. A field that is missing in the
file of version 0.1.0 stays missing when the file is written again. Unknown fields are kept, because a later version of
the package may have written them.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import pydantic
from pydantic import BaseModel, ConfigDict, FiniteFloat, ValidationError, ValidatorFunctionWrapHandler, WrapValidator

from .errors import InputError
from .files import read_json

if TYPE_CHECKING:
    from typing_extensions import Self


def _keep_type(value: Any, check: ValidatorFunctionWrapHandler) -> Any:
    """Check a number, but keep an integer. The same file is written again."""
    check(value)
    return value


Number = Annotated[FiniteFloat, WrapValidator(_keep_type)]


class Record(BaseModel):
    """Reads and writes the JSON of all records, with strict types."""

    model_config = ConfigDict(strict=True, frozen=True, extra="allow")

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a file of one record.

        Raises:
            InputError: the file cannot be read, or a field is missing or has a wrong type.
        """
        return cls.from_values(read_json(path), path)

    @classmethod
    def read_list(cls, path: Path) -> list[Self]:
        """Read a file of a list of records, with the errors of `read`."""
        return [cls.from_values(values, path) for values in read_json(path, list)]

    @classmethod
    def from_values(cls, values: Any, path: Path) -> Self:
        """Return the record of JSON values.

        Args:
            values: the JSON values.
            path: the file of the values, for errors.

        Raises:
            InputError: a field is missing or has a wrong type.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise InputError("file", str(path), problem_of(error)) from error

    def to_dict(self) -> dict[str, Any]:
        """Return the fields of the file as JSON values, without the missing ones."""
        return self.model_dump(exclude_unset=True)

    def with_fields(self, **fields: Any) -> Self:
        """Return a copy with other values of some fields.

        Raises:
            ValidationError: a value of a wrong type.
        """
        given = {name: value for name, value in self if name in self.model_fields_set}
        return type(self).model_validate({**given, **fields})


def problem_of(error: ValidationError) -> str:
    """Return the first problem with its field, value and allowed type, for an InputError."""
    first = error.errors(include_url=False)[0]
    field = ".".join(map(str, first["loc"]))
    if first["type"] == "missing":
        return f"the field {field} is missing"
    value = repr(first["input"])
    if len(value) > 80:
        value = f"{value[:77]}..."
    message = first["msg"].replace("Input should be", "allowed is").replace("Value error, ", "")
    return f"{field}={value}: {message}" if field else f"{value}: {message}"


# ---- one network of a sweep ----


class NetworkKeys(Record):
    """Distinguishes the networks of a sweep.

    A table has further columns: one for each setting in which arms differ (`SweepRun.axes`).

    Attributes:
        task: name of the task.
        hidden_size: width of the last hidden layer. None: the network has none before its heads.
        aux_weight: self-model weight.
        seed: decides the initial weights and the order of samples.
        detach_targets: whether the predicted activations are constants for the gradient.
        arm: name of the network's arm. Files of version 0.1.0 have none.
    """

    task: str
    hidden_size: int | None
    aux_weight: Number
    seed: int
    detach_targets: bool
    arm: str | None = None


METRICS = ("accuracy", "exact_match", "f1", "matthews_correlation", "pearson", "spearmanr", "mse", "perplexity")


class EvaluatedNetwork(NetworkKeys):
    """Adds the metrics on the test split. A record has those of its task, by their names in `evaluate`.

    Attributes:
        metric: name of the metric that the study compares. Missing: the accuracy.
        exact_match: of answers to questions, the share that is right to the token.
        perplexity: of a language model, exp of the mean loss of a token.
    """

    metric: str | None = None
    exact_match: Number | None = None
    f1: Number | None = None
    matthews_correlation: Number | None = None
    pearson: Number | None = None
    spearmanr: Number | None = None
    mse: Number | None = None
    perplexity: Number | None = None

    def metrics(self) -> dict[str, float | None]:
        """Return the metrics of the record by their names."""
        values = self.to_dict()
        return {name: values[name] for name in METRICS if name in values}


class NetworkRow(EvaluatedNetwork):
    """Holds row.json: one network of a sweep and its results after training.

    A row has further fields: one for each measure of `SweepRun.measures`, a number or None.

    Attributes:
        accuracy: share of the test split, 0..1. Missing: another metric is compared.
        weight_width: standard deviation of the last layer's weights.
        rlct: of the pruned network. None: a chain diverged.
        rlct_standard_error: Monte Carlo standard error of `rlct`.
        rlct_status: one of `complexity.result.STATUSES`.
        rlct_status_reason: one line.
        nbeta: inverse temperature times number of samples.
        rlct_preset: name of the sampling settings.
        rlct_rhat: split R-hat of the kept draws.
        rlct_ess: effective sample size of the kept draws.
        train_loss: mean loss over the training set at the trained weights, in units of the training's task loss.
        num_epochs: epochs of training, fewer than planned if a stopping rule ended it.
        batch_size: samples of a training step.
        learning_rate: of the optimizer.
        weights_sha256: of the network's model.safetensors. Files of version 0.1.0 have none.
        stopped_epoch: the epoch at which a stopping rule ended the training. None: the rule did not. Networks without a
            rule do not have this field.
    """

    accuracy: Number | None = None
    weight_width: Number | None
    rlct: Number | None
    rlct_standard_error: Number | None
    rlct_status: str
    rlct_status_reason: str
    nbeta: Number | None
    rlct_preset: str
    rlct_rhat: Number | None
    rlct_ess: Number | None
    train_loss: Number | None
    num_epochs: int
    batch_size: int
    learning_rate: Number | None
    weights_sha256: str | None = None
    stopped_epoch: Number | None = None


class CurvePoint(EvaluatedNetwork):
    """Holds an entry of curve.json: one network after one epoch.

    The RLCT is set only if RLCTs were estimated while training, and is None for epochs between estimates. The checksum
    is set only in the last entry, because only the last weights are kept.

    Attributes:
        epoch: epochs trained so far.
        weight_width: standard deviation of the last layer's weights.
        accuracy: as in `NetworkRow`.
        classification_loss: mean over the epoch's training steps, nats.
        self_modeling_loss: mean over the epoch's training steps, squared activations.
        loss: weighted sum of both losses.
        rlct: as in `NetworkRow`.
        rlct_standard_error: as in `NetworkRow`.
        rlct_status: as in `NetworkRow`.
        weights_sha256: as in `NetworkRow`.
    """

    epoch: int
    weight_width: Number | None
    accuracy: Number | None = None
    classification_loss: Number | None
    self_modeling_loss: Number | None
    loss: Number | None
    rlct: Number | None = None
    rlct_standard_error: Number | None = None
    rlct_status: str | None = None
    weights_sha256: str | None = None


# ---- run.json of a network ----


OF_KIND = ("task_type", "problem_type", "block_size")  # fields of a task that are written only if they are set


class TaskFields(Record):
    """Names the data of a network: fields of `TaskSpec`.

    `dataset_name` is None for digits, and for data in a folder of one machine. `text_column` is a list of both columns
    for sentence pairs. The fields `OF_KIND` are written only if they are set.
    """

    name: str
    dataset_name: str | None
    dataset_config: str | None = None
    image_column: str | None = None
    text_column: str | list[str] | None = None
    label_column: str | None = None
    train_split: str | None = None
    test_split: str | None = None
    test_fraction: Number | None = None
    split_seed: int | None = None
    skip_missing: bool | None = None
    source: str | None = None
    task_type: str | None = None
    problem_type: str | None = None
    block_size: int | None = None


class PreprocessingFields(Record):
    """Says how images became inputs: fields of `ImagePreprocessing`."""

    image_size: list[int] | None
    image_mean: Number | list[Number]
    image_std: Number | list[Number]
    interpolation: str
    num_channels: int | None = None
    source: str
    shortest_edge: int | None = None


class NetworkRun(Record):
    """Holds run.json of a network.

    Attributes:
        task: the data. None: tensors without a task.
        train_samples: size of the training set. None: unknown.
        test_samples: size of the test set. None: unknown.
        batch_size: samples of a training step.
        preprocessing: how images became inputs. None: of texts, and in version 0.1.0.
        versions: package -> version.
        license: identifier of the Hub, as the user gave it.
        base_license: fields of the license of a backbone from a folder.
        weights_sha256: of the weights beside the file. None: an adapter alone, or version 0.1.0.
        epoch: epochs trained.
        results: metrics of an evaluation of these weights.
    """

    task: TaskFields | None
    train_samples: int | None = None
    test_samples: int | None = None
    batch_size: int | None = None
    preprocessing: PreprocessingFields | None = None
    versions: dict[str, str] = {}
    license: str | None = None
    base_license: dict[str, Any] | None = None
    weights_sha256: str | None = None
    epoch: Number | None = None
    results: dict[str, Any] | None = None


# ---- run.json of a sweep ----


class SweepData(Record):
    """Names the data of a sweep, in addition to its task."""

    dataset_name: str | None = None
    max_train_samples: int | None = None
    max_test_samples: int | None = None


class ArmRecord(Record):
    """Describes an arm of a study: fields of `Arm`.

    Attributes:
        name: it begins the names of its networks.
        changes: the settings in which it differs from the base, by name.
        panel: it is compared with arms of the same panel.
        baseline: name of the arm that it is compared with.
    """

    name: str
    changes: dict[str, Any]
    panel: str = ""
    baseline: str


class RecordedSettings(Record):
    """Holds the common settings of a sweep's networks: `Plan.settings`.

    Attributes:
        task: name of the task.
        training: fields of `SelfModelingTrainingArguments`.
        sampling: arguments of `estimate_llc`.
        data: the data set, and limits on its size.
        network: settings of the network in place of the recipe's. Missing if there are none.
    """

    task: str
    training: dict[str, Any]
    sampling: dict[str, Any]
    data: SweepData
    network: dict[str, Any] = {}


class PopulationSeconds(Record):
    """Counts the networks of a population, and the seconds of each part."""

    networks: int = 0
    training: Number = 0.0
    rlct: Number = 0.0


class Session(Record):
    """Describes one call of `selfmod sweep`.

    Attributes:
        started: date and time, ISO 8601.
        command: the arguments.
        seconds: population -> the seconds of its parts.
    """

    started: str = ""
    command: list[str] = []
    seconds: dict[str, PopulationSeconds] = {}


class SweepRun(Record):
    """Holds run.json of a sweep.

    Attributes:
        settings: common to all networks.
        local_data: whether the data set was a local folder.
        train_samples: size of the training set.
        test_samples: size of the test set.
        test_labels: number of the test split's labels, if each token has one.
        metrics: names of the metrics on the test split. The first one is compared.
        chance: the compared metric of a network with the same answer for each test sample (`experiments/chance.py`).
        largest_class_share: share of the test split's most frequent class, as early versions recorded the chance.
        versions: package -> version.
        machine: system, device and number of cores.
        git_commit: of the package's checkout.
        arms: of the study, in their order. Version 0.1.0 did not record them.
        axes: the settings in which arms differ. Each is a column of the tables.
        measures: names of the further measures. Each is a column of the results.
        sessions: the calls of `selfmod sweep` on the folder. Tables that were kept alone have none.
    """

    settings: RecordedSettings
    local_data: bool | None = None
    train_samples: int | None = None
    test_samples: int | None = None
    test_labels: int | None = None
    metrics: Annotated[list[str], pydantic.Field(min_length=1)] = ["accuracy"]
    chance: Number | None = None
    largest_class_share: Number | None = None
    versions: dict[str, str] = {}
    machine: dict[str, Any] = {}
    git_commit: str | None = None
    arms: list[ArmRecord] = []
    axes: list[str] = []
    measures: list[str] = []
    sessions: list[Session] = []
