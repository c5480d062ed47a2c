"""The kinds of task models: transformers' Auto class, and the labels of each.

A copy of this file travels with every pushed model (``trust_remote_code``), so it imports nothing of the package.
"""

from dataclasses import dataclass
from typing import Any, Literal

import transformers

IGNORED_LABEL = -100  # transformers' convention: such a label enters no loss
# transformers cuts positions to 0 ... T. This is beyond any T, and -100 would count as the first token
NO_POSITION = 1_000_000
# model types whose causal language models compare the output at a place with the label there, not with the next one
_UNSHIFTED = (
    "bart", "bigbird_pegasus", "blenderbot", "blenderbot-small", "cpmant", "marian", "mbart", "musicgen",
    "musicgen_melody", "mvp", "pegasus", "plbart", "trocr", "whisper", "xlm", "xlnet",
)  # fmt: skip


@dataclass(frozen=True)
class TaskKind:
    """Describe one kind of task models.

    Attributes:
        name: the value of `task_type`, for example "token-classification".
        auto_class: transformers' Auto class, for example "AutoModelForTokenClassification".
        pipeline_tag: the Hub's name of the task.
        label_names: arguments of a forward for its loss.
        labels_are: one label for each of the "samples" or "tokens", the "next tokens", the right one of the "choices",
            or the positions of "spans".
        empty_label: the label that leaves a sample out.

    Example:
        >>> KINDS["causal-lm"].auto_class
        'AutoModelForCausalLM'
    """

    name: str
    auto_class: str
    pipeline_tag: str
    label_names: tuple[str, ...] = ("labels",)
    labels_are: Literal["samples", "tokens", "next tokens", "choices", "spans"] = "samples"
    empty_label: int = IGNORED_LABEL

    @property
    def head(self) -> str:
        """Return the end of class names, for example "TokenClassification"."""
        return self.auto_class.removeprefix("AutoModelFor")

    @property
    def classes(self) -> bool:
        """Return whether the number of labels belongs to the task, not to the vocabulary or the length."""
        return self.labels_are == "samples" or self.name == "token-classification"

    def model_class(self, config: Any) -> Any:
        """Return the class of task models for a configuration of transformers, or None."""
        found = getattr(transformers, self.auto_class)._model_mapping.get(type(config), None)
        if isinstance(found, (tuple, list)):
            return found[0]
        return found

    def check_loss(self, config: Any) -> None:
        """Raise a ValueError for a configuration of transformers whose task models have a loss of their own."""
        if self.labels_are == "next tokens" and config.model_type in _UNSHIFTED:
            raise ValueError(
                f"wrapped_config: model_type={config.model_type!r} compares its outputs with the labels of the same "
                f"places; allowed for {self.name} are models whose loss is that of the next token"
            )


_ALL = (
    TaskKind("text-classification", "AutoModelForSequenceClassification", "text-classification"),
    TaskKind("image-classification", "AutoModelForImageClassification", "image-classification"),
    TaskKind(
        "token-classification",
        "AutoModelForTokenClassification",
        "token-classification",
        labels_are="tokens",
    ),
    TaskKind(
        "question-answering",
        "AutoModelForQuestionAnswering",
        "question-answering",
        label_names=("start_positions", "end_positions"),
        labels_are="spans",
        empty_label=NO_POSITION,
    ),
    TaskKind("multiple-choice", "AutoModelForMultipleChoice", "multiple-choice", labels_are="choices"),
    TaskKind(
        "causal-lm",
        "AutoModelForCausalLM",
        "text-generation",
        labels_are="next tokens",
    ),
    TaskKind("masked-lm", "AutoModelForMaskedLM", "fill-mask", labels_are="tokens"),
)
KINDS = {kind.name: kind for kind in _ALL}


def label_form(config: Any) -> str:
    """Return the form of the labels of networks with a configuration: what their metrics are means of.

    Args:
        config: of a self-modeling network.

    Example:
        >>> from selfmod_hf import SelfModelingConfig
        >>> label_form(SelfModelingConfig(num_labels=10))
        'classes'
    """
    kind = KINDS.get(config.task_type)
    if kind is not None and kind.name == "masked-lm":
        return "masked tokens"
    if kind is not None and kind.labels_are != "samples":
        return kind.labels_are
    if config.problem_type == "multi_label_classification":
        return "labels"
    if config.problem_type == "regression":
        return "scores"
    if config.num_labels == 2:
        return "two classes"
    return "classes"
