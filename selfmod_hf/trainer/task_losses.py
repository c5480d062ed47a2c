"""The losses of task models as an RLCT needs them: one negative log likelihood, in nats, for each sample.

transformers trains with the mean square error, and with the mean over labels. Here a score has half of its square
error, and several labels the sum of their losses. A sample of tokens has the sum over its counted tokens, divided by
the mean number of them, because the observation of a model of tokens is a token.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..complexity import LLCResult
from ..complexity.sample_losses import (
    IGNORED_LABEL,
    TokenCrossEntropy,
    binary_cross_entropy,
    cross_entropy,
    half_squared_error,
)
from ..complexity.settings import LLCSettings
from ..errors import InputError
from ..models.counted_self_modeling import counted_labels
from ..models.tasks_self_modeling import TaskKind
from ..stacking import LossFunction

OF_SETS, OF_SCORES = "binary cross-entropy", "half of the square error"


@dataclass(frozen=True)
class TaskLoss:
    """Describe the loss of a task model.

    Attributes:
        name: as in rlct.json.
        function: (outputs, targets) -> one loss per sample.
        trained_scale: factor from the mean of these losses to the loss of training.
        num_tokens: number of counted tokens of all samples. None: the samples are counted.
    """

    name: str
    function: LossFunction
    trained_scale: float = 1.0
    num_tokens: int | None = None

    def of_training(self, losses: Tensor, targets: Tensor) -> float:
        """Return the loss of training of these samples.

        Args:
            losses: of each sample, (B,).
            targets: (B, ...).
        """
        if not isinstance(self.function, TokenCrossEntropy):
            return float(losses.mean()) * self.trained_scale
        counted = self.function.predicted(targets) != IGNORED_LABEL
        return float(losses.sum()) * self.function.mean_count / int(counted.sum())


@dataclass(frozen=True)
class NetworksOnData:
    """Hold networks of an RLCT with their data.

    Attributes:
        modules: one for each network. They give logits.
        inputs: of the modules, (n, ...), or a dict of them.
        targets: (n, ...).
        loss: None: cross-entropy of classes.
    """

    modules: Sequence[nn.Module]
    inputs: Any
    targets: Tensor
    loss: TaskLoss | None = None

    def settings(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return the given settings of an estimate with the task's loss, and with nβ by the number of tokens."""
        settings = dict(given)
        if self.loss is None:
            return settings
        settings["loss_fn"] = self.loss.function
        chosen = LLCSettings(**settings)
        if self.loss.num_tokens is not None and isinstance(chosen.nbeta, str):
            settings["nbeta"] = self._nbeta_of_tokens(chosen)
        return settings

    def _nbeta_of_tokens(self, settings: LLCSettings) -> float:
        """Return nβ by its rule, with the number of counted tokens of the data or of a minibatch."""
        assert self.loss is not None
        assert self.loss.num_tokens is not None
        size: float = self.loss.num_tokens
        rows = len(self.targets)
        if str(settings.nbeta).startswith("batch") and settings.batch_size < rows:
            size *= settings.batch_size / rows
        if size <= 1:
            raise InputError("nbeta", settings.nbeta, f"allowed with several counted tokens; here are {size:g}")
        return size / math.log(size)

    def described(self, result: LLCResult, given: Mapping[str, Any]) -> LLCResult:
        """Return a result with the name of its loss, and with the rule of its nβ if tokens were counted.

        Args:
            result: of these networks.
            given: settings of the estimate, before `settings`.
        """
        if self.loss is None:
            return result
        rule = given.get("nbeta", LLCSettings.nbeta)
        if self.loss.num_tokens is not None and isinstance(rule, str):
            named = f"{rule}, {rule[: rule.index('/')]} = tokens"
            result = replace(result, settings=replace(result.settings, nbeta_rule=named))
        return replace(result, loss=self.loss.name)


def task_loss(kind: TaskKind, config: Any, labels: Tensor) -> tuple[TaskLoss, Tensor]:
    """Return the loss of a task model, and its targets.

    Args:
        kind: of the model.
        config: of the model.
        labels: (n, ...), without samples of no label.

    Raises:
        InputError: labels of another form than the task's.
    """
    if kind.labels_are != "samples":
        loss = TokenCrossEntropy(shift=kind.labels_are == "next tokens", mean_count=1.0)
        tokens = counted_tokens(kind, labels)
        loss = replace(loss, mean_count=tokens / len(labels))
        return TaskLoss("cross-entropy of a token", loss, num_tokens=tokens), labels
    problem = problem_type(config, labels)
    if problem == "single_label_classification":
        return TaskLoss("cross-entropy", cross_entropy), labels
    count = config.num_labels
    rows = labels.reshape(len(labels), -1).float()  # (n, L)
    if rows.shape[1] != count:
        raise InputError("train_data.labels", tuple(labels.shape), f"the model has {count} outputs for each sample")
    if not bool(counted_labels(kind, {"labels": rows}, 0, problem).all()):
        problem = "a sample lacks some of its labels; leave the sample out"
        raise InputError("train_data.labels", tuple(labels.shape), problem)
    if problem == "multi_label_classification":
        return TaskLoss(OF_SETS, binary_cross_entropy, _trained_scale(OF_SETS, count)), rows
    return TaskLoss(OF_SCORES, half_squared_error, _trained_scale(OF_SCORES, count)), rows.view(len(rows), count)


def _trained_scale(name: str | None, num_labels: int) -> float:
    """Return the factor from the mean of the samples' losses to the loss of training."""
    if name == OF_SETS:
        return 1 / num_labels
    if name == OF_SCORES:
        return 2 / num_labels
    return 1.0


def training_loss(result: LLCResult, num_labels: int) -> float:
    """Return the mean loss of the training set at the trained weights, in units of the loss of training.

    Args:
        result: an RLCT. Its `init_loss` is in units of the negative log likelihood of a sample.
        num_labels: of the network.
    """
    return result.init_loss * _trained_scale(result.loss, num_labels)


def counted_tokens(kind: TaskKind, labels: Tensor) -> int:
    """Return how many tokens of these labels (n, T) the loss counts."""
    loss = TokenCrossEntropy(shift=kind.labels_are == "next tokens", mean_count=1.0)
    counted = loss.predicted(labels) != IGNORED_LABEL
    return int(counted.sum())


def problem_type(config: Any, labels: Tensor) -> str:
    """Return the problem of a classification, as transformers finds it."""
    if config.problem_type is not None:
        return str(config.problem_type)
    if config.num_labels == 1:
        return "regression"
    if labels.dtype in (torch.int64, torch.int32):
        return "single_label_classification"
    return "multi_label_classification"
