"""Networks that keep their task model's own head: their labels, batches and last layer, for the Trainer.

A label is of a sample or of a token, so a batch counts as many items as it has labels that enter the loss. The model
counts them itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from ..data.tensors import unlabelled
from ..models.counted_self_modeling import labels_in


def is_wrapped(model: Any) -> bool:
    """Return whether a network keeps its task model's own head.

    Example:
        >>> is_wrapped(torch.nn.Linear(2, 1))
        False
    """
    return getattr(model, "kind", None) is not None


def labels_of(inputs: Mapping[str, Any], names: list[str]) -> Any:
    """Return the labels of a batch: a tensor, a tuple of several, or None if one of them is missing.

    Example:
        >>> labels_of({"input_ids": torch.zeros(1, 2)}, ["labels"]) is None
        True
    """
    found = labels_in(inputs, names)
    if not found:
        return None
    labels = tuple(found.values())
    return labels[0] if len(labels) == 1 else labels


def distinct_rows(accelerator: Accelerator, rows: int) -> int:
    """Return the number of this process's evaluated samples that no other sample of the last batch repeats.

    Accelerate repeats samples so that each process gets equally many. They are the last ones of all processes together.

    Args:
        accelerator: of the evaluation.
        rows: samples in this process's batch, B.
    """
    state = accelerator.gradient_state
    if accelerator.num_processes == 1 or not state.end_of_dataloader or state.remainder <= 0:
        return rows
    left = state.remainder - rows * accelerator.process_index
    return max(0, min(rows, left))


def first_rows(inputs: dict[str, Any], rows: int, names: list[str], empty_label: int) -> dict[str, Any]:
    """Return the first samples of a batch. The first one without its label stands in for none.

    Args:
        inputs: tensors (B, ...), by name.
        rows: number of samples.
        names: of the labels.
        empty_label: of a sample without a label.
    """
    kept = {}
    for name, values in inputs.items():
        part = values[: max(rows, 1)]
        if rows == 0 and name in names:
            part = unlabelled(part, empty_label)
        kept[name] = part
    return kept


def with_rows(predictions: Any, rows: int) -> Any:
    """Return predictions with so many rows. The last one is repeated, because processes gather equally many.

    Args:
        predictions: a tensor (B, ...), or a tuple of such.
        rows: their number.
    """
    if isinstance(predictions, tuple):
        return tuple(with_rows(part, rows) for part in predictions)
    last = predictions.shape[0] - 1
    places = torch.arange(rows, device=predictions.device).clamp(max=last)
    return predictions[places]


def largest_logits(logits: Any, labels: Any) -> Tensor:
    """Return the class of each token, (B, T), because logits of a complete split may need too much memory.

    Args:
        logits: (B, T, C), or a tuple that begins with them.
        labels: not used.
    """
    if isinstance(logits, tuple):
        logits = logits[0]
    return logits.argmax(dim=-1)
