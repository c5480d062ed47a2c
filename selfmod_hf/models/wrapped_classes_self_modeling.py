"""Self-modeling networks over the task models of transformers, a class for each kind.

A copy of this file travels with every pushed model (``trust_remote_code``), so it imports nothing of the package but
the files beside it, by flat relative imports.
"""

from typing import Any

from torch import Tensor

from .losses_self_modeling import SelfModelingOutput
from .modeling_self_modeling import SelfModelingForImageClassification, SelfModelingForSequenceClassification
from .task_outputs_self_modeling import Given
from .tasks_self_modeling import KINDS
from .wrapped_self_modeling import WrappedTask


class WrappedForSequenceClassification(WrappedTask, SelfModelingForSequenceClassification):  # type: ignore[misc]
    """Classify texts with a task model's own head. `SelfModelingForSequenceClassification` makes it."""

    kind = KINDS["text-classification"]


class WrappedForImageClassification(WrappedTask, SelfModelingForImageClassification):  # type: ignore[misc]
    """Classify images with a task model's own head. `SelfModelingForImageClassification` makes it."""

    kind = KINDS["image-classification"]


class SelfModelingForTokenClassification(WrappedTask):
    """Classify tokens, and predict activations of the network's own layers.

    Example:
        >>> import torch
        >>> from transformers import BertConfig
        >>> from selfmod_hf import SelfModelingConfig
        >>> bert = BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, vocab_size=9, num_labels=3)
        >>> config = SelfModelingConfig(wrapped_config=bert, target_layers=["encoder.layer.0"], aux_weight=1)
        >>> tokens = torch.tensor([[1, 2, 3]])
        >>> output = SelfModelingForTokenClassification(config)(input_ids=tokens, labels=torch.tensor([[-100, 2, 0]]))
        >>> output.logits.shape, output.self_model_predictions.shape
        (torch.Size([1, 3, 3]), torch.Size([1, 8]))
    """

    kind = KINDS["token-classification"]


class SelfModelingForQuestionAnswering(WrappedTask):
    """Find answers in texts, and predict activations of the network's own layers.

    Example:
        >>> SelfModelingForQuestionAnswering.kind.label_names
        ('start_positions', 'end_positions')
    """

    kind = KINDS["question-answering"]

    def forward(
        self,
        *,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        return_dict: bool | None = None,
        self_model_targets: Tensor | None = None,
        **inputs: Any,
    ) -> SelfModelingOutput | tuple[Any, ...]:
        """Run the task model and predict its activations.

        Args:
            start_positions: (B,), the first token of each answer. A position outside of the text does not count.
            end_positions: (B,), the last token.
            num_items_in_batch: divisor of the summed losses. Default: the number of counted answers.
            return_dict: False gives a plain tuple.
            self_model_targets: targets in place of the network's own activations, of their shape.
            inputs: inputs of the task model, by its names.
        """
        labels = None
        if start_positions is not None and end_positions is not None:
            labels = {"start_positions": start_positions, "end_positions": end_positions}
        output = self._run(inputs, Given(labels, num_items_in_batch, self_model_targets))
        return self._returned(output, return_dict)


class SelfModelingForMultipleChoice(WrappedTask):
    """Choose among texts, and predict activations of the network's own layers. Inputs are (B, choices, T).

    Example:
        >>> SelfModelingForMultipleChoice.kind.labels_are
        'choices'
    """

    kind = KINDS["multiple-choice"]


class SelfModelingForCausalLM(WrappedTask):
    """Predict the next token, and activations of the network's own layers.

    Example:
        >>> import torch
        >>> from transformers import GPT2Config
        >>> from selfmod_hf import SelfModelingConfig
        >>> gpt2 = GPT2Config(n_embd=8, n_layer=2, n_head=2, vocab_size=9)
        >>> config = SelfModelingConfig(
        ...     wrapped_config=gpt2, target_layers=["h.*"], aux_weight=0.1, target_pooling="tokens"
        ... )
        >>> tokens = torch.tensor([[1, 2, 3]])
        >>> output = SelfModelingForCausalLM(config)(input_ids=tokens, labels=tokens)
        >>> output.logits.shape, output.self_model_predictions.shape
        (torch.Size([1, 3, 9]), torch.Size([1, 3, 16]))
    """

    kind = KINDS["causal-lm"]


class SelfModelingForMaskedLM(WrappedTask):
    """Predict masked tokens, and activations of the network's own layers.

    Example:
        >>> SelfModelingForMaskedLM.kind.auto_class
        'AutoModelForMaskedLM'
    """

    kind = KINDS["masked-lm"]


_ALL: tuple[type[WrappedTask], ...] = (
    WrappedForSequenceClassification,
    WrappedForImageClassification,
    SelfModelingForTokenClassification,
    SelfModelingForQuestionAnswering,
    SelfModelingForMultipleChoice,
    SelfModelingForCausalLM,
    SelfModelingForMaskedLM,
)
WRAPPED_CLASSES = {wrapped.kind.name: wrapped for wrapped in _ALL}
# by an attribute, because a file of those classes that travels alone knows no file of these
SelfModelingForSequenceClassification.wrapped_class = WrappedForSequenceClassification
SelfModelingForImageClassification.wrapped_class = WrappedForImageClassification
