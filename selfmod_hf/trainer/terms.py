"""The terms of the loss: their sums while training, and the terms of each sample while evaluating."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from transformers import EvalPrediction, TrainerCallback

from ..models.losses_self_modeling import IGNORED_LABEL

if TYPE_CHECKING:
    from transformers import TrainerControl, TrainerState, TrainingArguments

# the model's, in the order of their weights `classification_weight`, `aux_weight`, `activation_penalty`
TERMS = ("classification_loss", "self_modeling_loss", "activation_loss")

Tensors = dict[str, Tensor]  # by the names of the terms
Preprocess = Callable[[Any, Any], Any]  # (logits, labels) -> predictions for the metrics
ByName = dict[str, Any]  # figures, such as the means of the terms: a number, or (K,) of a population


def accuracy(prediction: EvalPrediction) -> dict[str, float]:
    """Return the share of samples with their label as the largest logit. Samples without a label (-100) do not count.

    Args:
        prediction: with logits (N, num_labels) or classes (N,). In a tuple, only the first entry counts.

    Returns:
        `accuracy`, or nothing if no sample has a label.

    Example:
        >>> accuracy(EvalPrediction(predictions=np.array([[0.1, 0.9], [0.2, 0.8]]), label_ids=np.array([1, 0])))
        {'accuracy': 0.5}
    """
    classes = prediction.predictions
    if isinstance(classes, tuple):
        classes = classes[0]
    if classes.ndim > 1:
        classes = classes.argmax(axis=-1)
    labels = np.asarray(prediction.label_ids)
    counted = labels != IGNORED_LABEL
    if not counted.any():
        return {}
    correct = (classes == labels)[counted]
    return {"accuracy": float(correct.mean())}


class TermSums(TrainerCallback):
    """Sum the terms since the last log. The sums stay on the device until then.

    transformers keeps the sum of the loss in the same way. It starts at zero whenever training begins: in a second
    `train()`, in each trial of a search, and when `auto_find_batch_size` tries a smaller batch. These sums must start
    again too, or the logged terms do not add up to the logged loss. As a callback, this class knows when training
    begins.

    Attributes:
        sums: by the names of the terms.
        since: the optimizer step at which they started.

    Example:
        >>> sums = TermSums()
        >>> sums.add({"classification_loss": torch.tensor(2.0)})
        >>> sums.drain(step=1)
        ({'classification_loss': tensor(2.)}, 1)
    """

    def __init__(self) -> None:
        self.sums: Tensors = {}
        self.since = 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.restart(state.global_step)

    def restart(self, step: int, sums: Tensors | None = None) -> None:
        """Start again at a step, with sums of a checkpoint or with zero."""
        self.sums = dict(sums or {})
        self.since = step

    def add(self, terms: Tensors) -> None:
        """Add the terms of one micro-batch."""
        for name, term in terms.items():
            if name in self.sums:
                term = self.sums[name].to(term) + term  # the sum of a checkpoint has another type
            self.sums[name] = term

    def add_mean(self, step: int) -> None:
        """Add the mean of the previous terms, in place of an infinite or undefined loss.

        transformers does the same for the loss with `logging_nan_inf_filter`.
        """
        steps = 1 + step - self.since
        for name, total in self.sums.items():
            self.sums[name] = total + total / steps

    def drain(self, step: int) -> tuple[Tensors, int]:
        """Return the sums and their number of optimizer steps, and start again."""
        sums = self.sums
        steps = step - self.since
        self.restart(step)
        return sums, max(steps, 1)


class SampleTerms:
    """Collect the terms of each sample of a split while it is evaluated.

    transformers weighs the loss of each batch by the nominal batch size. The means here are means over the labels that
    count: over the samples with a label, or over the labelled tokens.
    """

    def __init__(self) -> None:
        self._terms: list[Tensor] = []  # (B, terms), or (B, terms, K) of a population
        self._added: list[Tensor] = []  # (B,)
        self._counts: list[Tensor] = []  # (B,)

    def __len__(self) -> int:
        """Return the number of batches."""
        return len(self._counts)

    def add(self, terms: Tensor, added: Tensor, counts: Tensor) -> None:
        """Add the samples of a batch, or a batch as one row.

        Args:
            terms: (B, terms) or (B, terms, K).
            added: (B,), the part of a subclass's `compute_loss` in the batch's loss.
            counts: (B,), the number of labels that count in each row.
        """
        self._terms.append(terms)
        self._added.append(added)
        self._counts.append(counts)

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the terms and counts of each batch."""
        return zip(self._terms, self._counts, strict=True)

    def means(self) -> ByName | None:
        """Return the mean of each term over the labels that count. None: no label counts."""
        terms = torch.cat(self._terms)
        counts = torch.cat(self._counts)
        return means_over_counts(terms, counts)

    def mean_added(self) -> float:
        """Return the mean of the added losses over the labels that count."""
        counts = torch.cat(self._counts)  # (N,)
        added = torch.cat(self._added).double()
        if counts.max() > 1:
            return ((added * counts).sum() / counts.sum()).item()
        return added[counts > 0].mean().item()


def sample_counts(labels: Tensor) -> Tensor:
    """Return 1 for each sample with a label, else 0, (B,)."""
    return (labels != IGNORED_LABEL).long()


def means_over_counts(terms: Tensor, counts: Tensor) -> ByName | None:
    """Return the mean of each term over the labels that count: a number, or (K,) of a population.

    Args:
        terms: (B, terms) or (B, terms, K).
        counts: (B,), the number of labels that count in each row.

    Returns:
        Means by the names of the terms. None: no label counts.

    Example:
        >>> terms = torch.tensor([[1.0, 4.0], [3.0, 6.0], [100.0, 100.0]])
        >>> means_over_counts(terms, torch.tensor([1, 1, 0]))
        {'classification_loss': 2.0, 'self_modeling_loss': 5.0}
        >>> means_over_counts(terms[:2], torch.tensor([3, 1]))
        {'classification_loss': 1.5, 'self_modeling_loss': 4.5}
    """
    if not counts.any():
        return None
    kept = counts > 0
    rows = terms[kept].cpu().numpy()
    if counts.max() > 1:
        means = np.average(rows, axis=0, weights=counts[kept].cpu().numpy()).tolist()
    elif rows.ndim > 2:
        means = rows.mean(axis=0, dtype=np.float64)
    else:
        # of one network: numbers, summed up in the terms' own precision
        means = rows.mean(axis=0).tolist()
    return dict(zip(TERMS, means, strict=False))  # a baseline has the first term alone


def each_member(preprocess: Preprocess) -> Preprocess:
    """Return a `preprocess_logits_for_metrics` that gives each member's logits (B, num_labels) to another one."""

    def preprocess_members(logits: torch.Tensor, labels: torch.Tensor) -> Any:
        results = []
        for own in logits.unbind(dim=1):  # (B, num_labels)
            results.append(preprocess(own, labels))
        if not isinstance(results[0], (tuple, list)):
            return torch.stack(results, dim=1)  # (B, K, ...)
        stacked = []
        for parts in zip(*results, strict=True):
            stacked.append(torch.stack(parts, dim=1))
        return tuple(stacked)

    return preprocess_members
