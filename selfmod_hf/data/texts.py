"""Texts as one flat tensor of tokens, tokenized once, then gathered by the batch on the device.

A batch has one of two layouts. *Bags* are the tokens of all its texts one after another, with offsets, for an
embedding bag. This layout has no padding. *Padded* texts have the length of the batch's longest one, and an attention
mask, for encoders. Tokens are kept in the cache of `datasets`, so that only the first run on a data set tokenizes.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from .cache import tokenizer_key
from .label_kinds import LabelKind, entry_type, label_kind, word_classes
from .labels import is_text
from .lazy_datasets import datasets
from .rows import Rows
from .splits import read_splits
from .tasks import TEXTS, WORDS, TaskSpec
from .tensors import IGNORED_LABEL, Batch, Device, TaskData, TensorData, checked_limits, moved
from .tokenizing import (
    as_it_is_saved,
    for_words,
    limit_of,
    load_tokenizer,
    token_labels,
    tokenize,
    with_padding,
    words_tokenizer,
)


@dataclass(frozen=True)
class TextTensors(TensorData):
    """Hold labelled texts.

    Attributes:
        tokens: (T,), int32, tokens of all texts one after another.
        offsets: (N + 1,), int64. Text i is `tokens[offsets[i]:offsets[i + 1]]`.
        labels: (N,), int64, each in [0, number of classes), or as for `TensorData`.
        tokenizer: maker of the tokens.
        padded: whether the layout of batches is padded. False: bags.
        device: device of the batches.
        task: the task these texts were read for. It is saved beside a model.
        token_types: (T,), uint8, the number of each token's text within its pair. None: the tokenizer gives none.
        token_labels: (T,), int64, of each token, -100 for tokens without one. None: each text has its label.

    Example:
        >>> texts = TextTensors(tokens=torch.arange(5), offsets=torch.tensor([0, 2, 5]), labels=torch.tensor([0, 1]))
        >>> texts.batch([1])["input_ids"], texts.longest
        (tensor([2, 3, 4]), 3)
    """

    tokens: Tensor
    offsets: Tensor
    labels: Tensor
    tokenizer: Any = field(repr=False, compare=False, default=None)
    padded: bool = False
    device: Device = "cpu"
    task: TaskSpec | None = field(repr=False, default=None)
    token_types: Tensor | None = None
    token_labels: Tensor | None = None

    @property
    def kind(self) -> str:
        return TEXTS if self.token_labels is None else WORDS

    def class_counts(self, classes: int) -> Tensor | None:
        """Count the samples of each class, or the tokens of each class if each token has a label."""
        if self.token_labels is None:
            return super().class_counts(classes)
        labels = self.token_labels[: int(self.offsets[-1])]
        return torch.bincount(labels[labels != IGNORED_LABEL], minlength=classes)

    @property
    def longest(self) -> int:
        """Count the tokens of the longest text."""
        return int(self.offsets.diff().max())

    def take(self, rows: Tensor) -> Batch:
        """Return a batch of texts, as bags or padded.

        Returns:
            `labels` (B,). For bags also `input_ids` (N,) int32 and `offsets` (B + 1,) int32, with N as the last one.
            For padded texts also `input_ids` (B, T) and `attention_mask` (B, T), both int64. If the tokenizer
            distinguishes the texts of a pair, also `token_type_ids` (B, T). If each token has a label, `labels` are
            (B, T), with -100 for padding.
        """
        places, lengths = self._places(rows)
        tokens = self.tokens.index_select(0, places)
        if not self.padded:
            batch = {"input_ids": tokens, "offsets": _offsets(lengths), "labels": self.labels.index_select(0, rows)}
            return self._on_device(batch)
        mask = _mask(lengths)
        batch = {
            "input_ids": _padded(tokens, mask, self.tokenizer.pad_token_id),
            "attention_mask": mask.long(),
        }
        if self.token_types is not None:
            types = self.token_types.index_select(0, places)
            batch["token_type_ids"] = _padded(types, mask, self.tokenizer.pad_token_type_id)
        if self.token_labels is None:
            batch["labels"] = self.labels.index_select(0, rows)
        else:
            labels = self.token_labels.index_select(0, places)
            batch["labels"] = _padded(labels, mask, IGNORED_LABEL)
        return self._on_device(batch)

    def _single(self, batch: Batch) -> Batch:
        """Return the text of a batch of one. A bag has no offsets, because they only divide a batch into its texts."""
        if self.padded:
            return super()._single(batch)
        return {"input_ids": batch["input_ids"], "labels": batch["labels"][0]}

    def take_members(self, rows: Tensor) -> Batch:
        """Return a batch for each of K networks, for rows (K, B). Each tensor has a leading dimension of K.

        For bags, `input_ids` are (K, N). The end of a shorter member's row is filler.
        """
        if self.padded:
            return super().take_members(rows)
        places, lengths = self._places(rows.flatten())
        tokens = self.tokens.index_select(0, places)
        lengths = lengths.view(rows.shape)  # (K, B)
        totals = lengths.sum(dim=1)  # (K,)
        longest = int(totals.max())
        positions = torch.arange(longest, device=totals.device)
        filled = positions < totals.unsqueeze(1)  # (K, N)
        filler = tokens.new_zeros(filled.shape)
        input_ids = filler.masked_scatter_(filled, tokens)
        return self._on_device(
            {
                "input_ids": input_ids,
                "offsets": _offsets(lengths),
                "labels": self.labels[rows],
            }
        )

    def _on_device(self, batch: Batch) -> Batch:
        return {name: values.to(self.device) for name, values in batch.items()}

    def _places(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return the places of the tokens of these texts one after another, and the length of each text."""
        starts = self.offsets[rows]
        lengths = self.offsets[rows + 1] - starts
        starts_in_batch = lengths.cumsum(0) - lengths
        total = int(lengths.sum())
        shift = (starts - starts_in_batch).repeat_interleave(lengths, output_size=total)
        places = torch.arange(total, device=rows.device) + shift
        return places, lengths

    def first(self, count: int) -> TextTensors:
        offsets = self.offsets[: count + 1]
        return replace(self, offsets=offsets, labels=self.labels[:count])

    def processor(self) -> Any:
        return self.tokenizer

    def to(self, device: Device) -> TextTensors:
        tensors = {"tokens": self.tokens, "offsets": self.offsets, "labels": self.labels}
        if self.token_types is not None:
            tensors["token_types"] = self.token_types
        if self.token_labels is not None:
            tensors["token_labels"] = self.token_labels
        found: dict[str, Any] = dict(zip(tensors, moved(device, *tensors.values()), strict=True))
        return replace(self, **found, device=device)


def _offsets(lengths: Tensor) -> Tensor:
    """Return the offsets, (..., B + 1), of texts of these lengths, (..., B)."""
    ends = lengths.cumsum(-1)
    return torch.nn.functional.pad(ends, (1, 0)).int()


def _mask(lengths: Tensor) -> Tensor:
    """Return whether each place of B padded texts holds a token, (B, T)."""
    longest = max(1, int(lengths.max()))
    positions = torch.arange(longest, device=lengths.device)
    return positions < lengths.unsqueeze(1)


def _padded(values: Tensor, mask: Tensor, filler: int) -> Tensor:
    """Return the values of B texts one after another in the places of a mask, (B, T), int64."""
    padding = torch.full(mask.shape, filler, device=values.device)
    return padding.masked_scatter_(mask, values.long())


def load_texts(  # noqa: PLR0913 - public
    spec: TaskSpec,
    *,
    tokenizer: Any = None,
    padded: bool = False,
    max_length: int | None = None,
    max_train_samples: int | None = None,
    max_test_samples: int | None = None,
) -> TaskData[TextTensors]:
    """Read and tokenize a task's texts, from the Hub or from a local folder in Hub layout.

    A task with two text columns gives sentence pairs. "token-classification" gives a label to the first token of each
    word, and its batches are always padded.

    Args:
        spec: the task.
        tokenizer: a tokenizer, or its name on the Hub. Default: basic English, with all words of the training texts
            in use.
        padded: make padded batches, for encoders. Default: bags, for an embedding bag.
        max_length: cut longer texts to this number of tokens, special ones included. Default: the tokenizer's limit.
        max_train_samples: number of training samples, spread evenly over the split. None: all.
        max_test_samples: number of test samples, spread evenly over the split. None: all.

    Raises:
        InputError: a missing column or split, no sample, a missing text, a label out of range, one class only, or an
            unreachable data set or tokenizer.
    """
    limits = {"max_train_samples": max_train_samples, "max_test_samples": max_test_samples}
    checked_limits(**limits, max_length=max_length)
    if spec.task_type not in (None, TEXTS, WORDS):
        raise InputError("task_type", spec.task_type, f"allowed are {TEXTS}, {WORDS}, or `load_blocks`, `load_images`")
    if spec.dataset_name is None:
        raise InputError("dataset_name", None, "a data set of texts is needed")
    spec, *parts = read_splits(spec, texts=True, **limits)
    for part in parts:
        _check_types(spec, part.data)
    names, labels = _read_labels(spec, parts)
    tokenizer = _tokenizer_of(spec, tokenizer, parts[0].data)
    tokenizer = as_it_is_saved(tokenizer, max_length)
    if spec.kind == WORDS:
        tokenizer = for_words(tokenizer)
    padded = padded or spec.kind == WORDS
    if padded:
        tokenizer = with_padding(tokenizer)
    _check_tokenizer(spec, tokenizer)
    key = tokenizer_key(tokenizer)  # before the first call, because a call changes the tokenizer
    samples = []
    for part, own_labels in zip(parts, labels, strict=True):
        tokens = tokenize(part, spec.text_columns, tokenizer, key, are_words=spec.kind == WORDS)
        found = TextTensors(
            tokens.flat, tokens.offsets, own_labels, tokenizer, padded, task=spec, token_types=tokens.types
        )
        if spec.kind == WORDS:
            [column] = spec.text_columns
            own = token_labels(tokens, own_labels, part.lists(column).lengths, IGNORED_LABEL)
            found = _with_token_labels(found, own)
        samples.append(found)
    train, test = samples
    return TaskData(train, test, names, spec)


def _read_labels(spec: TaskSpec, parts: list[Rows]) -> tuple[list[str], list[Tensor]]:
    """Return the names of the classes, and the labels of the training and the test rows."""
    train = parts[0]
    labels: LabelKind = word_classes(spec, train) if spec.kind == WORDS else label_kind(spec, train)
    found = [labels.read(part) for part in parts]
    labels.check_training(found[0])
    return labels.names, found


def _with_token_labels(texts: TextTensors, labels: Tensor) -> TextTensors:
    """Return texts with these labels of their tokens, (T,). The label of a text becomes the number of them."""
    counted = (labels != IGNORED_LABEL).long()
    before = torch.nn.functional.pad(counted.cumsum(0), (1, 0))  # (T + 1,)
    counts = before[texts.offsets].diff()  # (N,)
    return replace(texts, labels=counts, token_labels=labels)


def _check_types(spec: TaskSpec, data: datasets.Dataset) -> None:
    """Reject columns of another type than texts, or than lists of words."""
    for column in spec.text_columns:
        feature = data.features[column]
        entry = entry_type(feature)
        if spec.kind == WORDS and not is_text(entry):
            raise InputError("text_column", column, f"has type {feature}; allowed are lists of strings, one a word")
        if spec.kind != WORDS and not is_text(feature):
            problem = f"has type {feature}; allowed are strings"
            if is_text(entry):
                problem += f" (lists of words with `task_type` {WORDS})"
            raise InputError("text_column", column, problem)


def _tokenizer_of(spec: TaskSpec, tokenizer: Any, train: datasets.Dataset) -> Any:
    """Return the tokenizer itself, the one of this name, or else that of the words of the training texts."""
    if tokenizer is None:
        return words_tokenizer(spec.text_columns, train)
    if isinstance(tokenizer, str):
        return load_tokenizer(tokenizer)
    return tokenizer


def _check_tokenizer(spec: TaskSpec, tokenizer: Any) -> None:
    """Reject a tokenizer that cannot make these samples."""
    limit = limit_of(tokenizer)
    is_pair = len(spec.text_columns) == 2
    if limit is None or not (is_pair or spec.kind == WORDS):
        return
    special = tokenizer.num_special_tokens_to_add(pair=is_pair)
    if limit <= special:
        problem = f"leaves no place for a text beside {special} special tokens; allowed are more"
        raise InputError("max_length", limit, problem)
