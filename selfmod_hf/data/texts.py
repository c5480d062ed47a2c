"""Texts as one flat tensor of tokens, tokenized once, then gathered by the batch on the device.

A batch has one of two layouts. *Bags* are the tokens of all its texts one after another, with offsets, for an
embedding bag. This layout has no padding. *Padded* texts have the length of the batch's longest one, and an attention
mask, for encoders. Tokens are kept in the cache of `datasets`, so that only the first run on a data set tokenizes.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import datasets
import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import AutoTokenizer

from ..errors import InputError
from .cache import cached_table, content_digest, entry_path, is_sealed, seal, tokenizer_key
from .labels import check_several, is_text, label_numbers, read_classes
from .reading import first_line
from .rows import Rows
from .splits import read_splits
from .tasks import TaskSpec
from .tensors import Batch, Device, TaskData, TensorData, checked_limits, moved
from .tokenizer import as_pretrained, basic_english_tokenizer


@dataclass(frozen=True)
class TextTensors(TensorData):
    """Hold labelled texts.

    Attributes:
        tokens: (T,), int32, tokens of all texts one after another.
        offsets: (N + 1,), int64. Text i is `tokens[offsets[i]:offsets[i + 1]]`.
        labels: (N,), int64, each in [0, number of classes).
        tokenizer: maker of the tokens.
        padded: whether the layout of batches is padded. False: bags.
        device: device of the batches.
        task: the task these texts were read for. It is saved beside a model.

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

    @property
    def longest(self) -> int:
        """Count the tokens of the longest text."""
        return int(self.offsets.diff().max())

    def take(self, rows: Tensor) -> Batch:
        """Return a batch of texts, as bags or padded.

        Returns:
            `labels` (B,). For bags also `input_ids` (N,) int32 and `offsets` (B + 1,) int32, with N as the last one.
            For padded texts also `input_ids` (B, T) and `attention_mask` (B, T), both int64.
        """
        tokens, lengths = self._gather(rows)
        if self.padded:
            batch = _padded(tokens, lengths, self.tokenizer.pad_token_id)
        else:
            batch = {"input_ids": tokens, "offsets": _offsets(lengths)}
        batch["labels"] = self.labels.index_select(0, rows)
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
        tokens, lengths = self._gather(rows.flatten())
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

    def _gather(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return the tokens of these texts one after another, and the length of each text."""
        starts = self.offsets[rows]
        lengths = self.offsets[rows + 1] - starts
        starts_in_batch = lengths.cumsum(0) - lengths
        total = int(lengths.sum())
        shift = (starts - starts_in_batch).repeat_interleave(lengths, output_size=total)
        places = torch.arange(total, device=rows.device) + shift
        return self.tokens.index_select(0, places), lengths

    def first(self, count: int) -> TextTensors:
        offsets = self.offsets[: count + 1]
        return replace(self, offsets=offsets, labels=self.labels[:count])

    def processor(self) -> Any:
        return self.tokenizer

    def to(self, device: Device) -> TextTensors:
        tokens, offsets, labels = moved(device, self.tokens, self.offsets, self.labels)
        return replace(self, tokens=tokens, offsets=offsets, labels=labels, device=device)


def _offsets(lengths: Tensor) -> Tensor:
    """Return the offsets, (..., B + 1), of texts of these lengths, (..., B)."""
    ends = lengths.cumsum(-1)
    return torch.nn.functional.pad(ends, (1, 0)).int()


def _padded(tokens: Tensor, lengths: Tensor, pad: int) -> Batch:
    """Return `input_ids` and `attention_mask`, (B, T), for the tokens of B texts one after another."""
    longest = max(1, int(lengths.max()))
    positions = torch.arange(longest, device=lengths.device)
    mask = positions < lengths.unsqueeze(1)  # (B, T)
    padding = torch.full(mask.shape, pad, device=tokens.device)
    input_ids = padding.masked_scatter_(mask, tokens.long())
    return {"input_ids": input_ids, "attention_mask": mask.long()}


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
    if spec.dataset_name is None:
        raise InputError("dataset_name", None, "a data set of texts is needed")
    spec, train, test = read_splits(spec, texts=True, **limits)
    assert spec.label_column is not None
    for part in (train, test):
        _check_type(spec, part.data)
    classes = read_classes(spec.label_column, train)
    train_labels = label_numbers(spec.label_column, train, classes)
    test_labels = label_numbers(spec.label_column, test, classes)
    check_several(spec.label_column, train_labels)
    if tokenizer is None:
        tokenizer = _words_of(spec, train.data)
    elif isinstance(tokenizer, str):
        tokenizer = load_tokenizer(tokenizer)
    tokenizer = _as_it_is_saved(tokenizer, max_length)
    if padded and tokenizer.pad_token_id is None:
        raise InputError("tokenizer_name", tokenizer.name_or_path, "has no padding token; an encoder's has one")
    key = tokenizer_key(tokenizer)  # before the first call, because a call changes the tokenizer
    train_tokens, train_offsets = _tokenize(spec, train, tokenizer, key)
    test_tokens, test_offsets = _tokenize(spec, test, tokenizer, key)
    return TaskData(
        TextTensors(train_tokens, train_offsets, train_labels, tokenizer, padded, task=spec),
        TextTensors(test_tokens, test_offsets, test_labels, tokenizer, padded, task=spec),
        classes.names,
        spec,
    )


def _as_it_is_saved(tokenizer: Any, max_length: int | None) -> Any:
    """Return the tokenizer with its settings in the saved attributes, because an RLCT needs the training texts."""
    saved_side = tokenizer.init_kwargs.get("truncation_side", "right")
    if max_length is None and saved_side == tokenizer.truncation_side:
        return tokenizer
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.init_kwargs["truncation_side"] = tokenizer.truncation_side
    if max_length is not None:
        tokenizer.model_max_length = max_length
    return tokenizer


def load_tokenizer(name: str, revision: str = "main", subfolder: str = "") -> Any:
    """Load the tokenizer of this name, from the Hub or from a folder.

    Raises:
        InputError: no tokenizer could be read.
    """
    try:
        return AutoTokenizer.from_pretrained(name, revision=revision, subfolder=subfolder, trust_remote_code=False)
    except (OSError, ValueError) as error:
        problem = f"no tokenizer could be read ({first_line(error)})"
        raise InputError("tokenizer_name", name, problem) from error


def _check_type(spec: TaskSpec, data: datasets.Dataset) -> None:
    assert spec.text_column is not None
    feature = data.features[spec.text_column]
    if not is_text(feature):
        raise InputError("text_column", spec.text_column, f"has type {feature}; allowed are strings")


def _words_of(spec: TaskSpec, data: datasets.Dataset) -> Any:
    """Return the basic English tokenizer of these texts. Its vocabulary is counted once and kept in the cache."""
    digest = content_digest(data, ("words", spec.text_column))
    entry = entry_path(data, digest, ".json")
    if entry is not None and is_sealed(entry):
        return as_pretrained(Tokenizer.from_file(str(entry)))
    tokenizer = basic_english_tokenizer(_texts(data, spec.text_column))
    if entry is None:
        return tokenizer
    tokenizer.backend_tokenizer.save(str(entry), pretty=False)
    seal(entry)
    return as_pretrained(Tokenizer.from_file(str(entry)))  # as in later runs, so that they find this run's tokens


def _texts(data: datasets.Dataset, column: str | None) -> Iterator[Any]:
    """Yield the texts in lists. The tokenizer's training takes lists as well as single texts."""
    for batch in data.select_columns([column]).iter(batch_size=1000):
        yield batch[column]


def _tokenize(spec: TaskSpec, part: Rows, tokenizer: Any, key: str) -> tuple[Tensor, Tensor]:
    """Return tokens (T,) and offsets (N + 1,) for `TextTensors`.

    Args:
        spec: the task.
        part: the rows of a split.
        tokenizer: maker of the tokens.
        key: digest of its state.
    """
    column = spec.text_column
    assert column is not None
    max_length = tokenizer.model_max_length
    if max_length >= 1_000_000:  # transformers' mark for "no limit" is larger
        max_length = None

    def tokenize(batch: dict[str, list[Any]]) -> dict[str, Any]:
        encoded = tokenizer(
            batch[column],
            truncation=max_length is not None,
            max_length=max_length,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )
        return {"tokens": encoded["input_ids"]}

    table = cached_table(
        part.data,
        tokenize,
        key=("tokens", column, key),
        features=datasets.Features({"tokens": datasets.Sequence(datasets.Value("int32"))}),
        desc="Tokenizing",
    )
    tokens = table["tokens"].combine_chunks()
    # copies, because the arrow buffer is a read-only view of the cache file
    flat = tokens.flatten().to_numpy().copy()
    lengths = tokens.value_lengths().to_numpy().copy()
    ends = torch.from_numpy(lengths).long().cumsum(0)
    offsets = torch.nn.functional.pad(ends, (1, 0))  # (N + 1,)
    return torch.from_numpy(flat), offsets
