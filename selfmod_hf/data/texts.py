"""Texts as one flat tensor of tokens: tokenized once, then gathered by the batch, on the device.

Two layouts of a batch. *Bags*: the tokens of all its texts one after another, with offsets, for an embedding bag; no
padding, and so no work on it. *Padded*: to the longest text of the batch, with an attention mask, for encoders.
Tokens are kept in the cache of `datasets`, so that only the first run on a data set tokenizes.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch

from ..errors import InputError
from .cache import cached_table, entry_path, is_sealed, seal, tokenizer_key
from .labels import check_several, is_text, label_numbers, read_classes
from .reading import first_line
from .rows import Rows
from .splits import read_splits
from .tasks import TaskSpec
from .tensors import Batch, TaskData, TensorData, checked_limits, moved
from .tokenizer import as_pretrained, basic_english_tokenizer

if TYPE_CHECKING:
    import datasets


@dataclass(frozen=True)
class TextTensors(TensorData):
    """Labelled texts.

    Attributes:
        tokens: (T,), int32, of all texts one after another.
        offsets: (N + 1,), int64: text i is `tokens[offsets[i]:offsets[i + 1]]`.
        labels: (N,), int64, each in [0, number of classes).
        tokenizer: what made the tokens.
        padded: the layout of batches: padded, or bags.
        device: where batches are made.
        task: the task these texts were read for; it is saved beside a model.
    """

    tokens: torch.Tensor
    offsets: torch.Tensor
    labels: torch.Tensor
    tokenizer: Any = field(repr=False, compare=False, default=None)
    padded: bool = False
    device: torch.device | str = "cpu"
    task: TaskSpec | None = field(repr=False, default=None)

    @property
    def longest(self) -> int:
        """Tokens of the longest text."""
        return int(self.offsets.diff().max())

    def take(self, rows: torch.Tensor) -> Batch:
        """Return a batch of texts, as bags or padded.

        Returns:
            `labels` (B,). Bags: `input_ids` (N,) int32 and `offsets` (B + 1,) int32, the last one N. Padded:
            `input_ids` (B, T) and `attention_mask` (B, T), both int64.
        """
        tokens, lengths = self._gather(rows)
        batch = {"labels": self.labels.index_select(0, rows)}
        if self.padded:
            batch |= _padded(tokens, lengths, self.tokenizer.pad_token_id)
        else:
            batch |= {"input_ids": tokens, "offsets": _offsets(lengths)}
        return {name: tensor.to(self.device) for name, tensor in batch.items()}

    def _single(self, batch: Batch) -> Batch:
        """Return the text of a batch of one. A bag has no offsets, because they only divide a batch into its texts."""
        batch = dict(batch)
        if not self.padded:
            del batch["offsets"]
            return batch | {"labels": batch["labels"][0]}
        return super()._single(batch)

    def take_members(self, rows: torch.Tensor) -> Batch:
        """As `take`, a leading dimension of K; bags: `input_ids` (K, N), of those shorter than N the end is filler."""
        if self.padded:
            return super().take_members(rows)
        tokens, lengths = self._gather(rows.flatten())
        lengths = lengths.view(rows.shape)  # (K, B)
        totals = lengths.sum(dim=1)  # (K,)
        filled = torch.arange(int(totals.max()), device=totals.device) < totals[:, None]  # (K, N)
        input_ids = tokens.new_zeros(filled.shape).masked_scatter_(filled, tokens)
        batch = {"labels": self.labels[rows], "input_ids": input_ids, "offsets": _offsets(lengths)}
        return {name: tensor.to(self.device) for name, tensor in batch.items()}

    def _gather(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The tokens of these texts one after another, and the length of each."""
        starts = self.offsets[rows]
        lengths = self.offsets[rows + 1] - starts
        before = lengths.cumsum(0) - lengths  # where each begins in the batch
        total = int(lengths.sum())
        shift = (starts - before).repeat_interleave(lengths, output_size=total)
        return self.tokens.index_select(0, torch.arange(total, device=rows.device) + shift), lengths

    def first(self, count: int) -> TextTensors:
        return replace(self, offsets=self.offsets[: count + 1], labels=self.labels[:count])

    def processor(self) -> Any:
        return self.tokenizer

    def to(self, device: torch.device | str) -> TextTensors:
        tokens, offsets, labels = moved(device, self.tokens, self.offsets, self.labels)
        return replace(self, tokens=tokens, offsets=offsets, labels=labels, device=device)


def _offsets(lengths: torch.Tensor) -> torch.Tensor:
    """(..., B) to (..., B + 1)."""
    return torch.nn.functional.pad(lengths.cumsum(-1), (1, 0)).int()


def _padded(tokens: torch.Tensor, lengths: torch.Tensor, pad: int) -> Batch:
    mask = torch.arange(max(1, int(lengths.max())), device=lengths.device) < lengths[:, None]  # (B, T)
    input_ids = torch.full(mask.shape, pad, device=tokens.device).masked_scatter_(mask, tokens.long())
    return {"input_ids": input_ids, "attention_mask": mask.long()}


def load_texts(
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
        tokenizer: a tokenizer, or the name of one on the Hub; default: basic English, with all words of the training
            texts that are used.
        padded: the layout of batches, for encoders; default: bags, for an embedding bag.
        max_length: longer texts are cut to so many tokens, special ones included; default: the tokenizer's own limit.
        max_train_samples: use so many of the training split, spread evenly over it.
        max_test_samples: likewise of the test split.

    Raises:
        InputError: a column or split that is not there, no sample, a text that is missing, a label out of range, one
            class only, a data set or tokenizer that cannot be reached.
    """
    checked_limits(max_train_samples=max_train_samples, max_test_samples=max_test_samples, max_length=max_length)
    if spec.dataset_name is None:
        raise InputError("dataset_name", None, "a data set of texts is needed")
    spec, train, test = read_splits(
        spec, texts=True, max_train_samples=max_train_samples, max_test_samples=max_test_samples
    )
    assert spec.label_column is not None
    for part in (train, test):
        _check_type(spec, part.data)
    classes = read_classes(spec.label_column, train)
    labels = [label_numbers(spec.label_column, part, classes) for part in (train, test)]
    check_several(spec.label_column, labels[0])
    if tokenizer is None:
        tokenizer = _words_of(spec, train.data)
    elif isinstance(tokenizer, str):
        tokenizer = load_tokenizer(tokenizer)
    tokenizer = _as_it_is_saved(tokenizer, max_length)
    if padded and tokenizer.pad_token_id is None:
        raise InputError("tokenizer_name", tokenizer.name_or_path, "has no padding token; an encoder's has one")
    key = tokenizer_key(tokenizer)  # before it is called, which changes it
    splits = [
        TextTensors(*_tokenize(spec, part, tokenizer, key), numbers, tokenizer, padded, task=spec)
        for part, numbers in zip((train, test), labels, strict=True)
    ]
    return TaskData(splits[0], splits[1], classes.names, spec)


def _as_it_is_saved(tokenizer: Any, max_length: int | None) -> Any:
    """Return the tokenizer with its settings where saving keeps them: an RLCT is of the texts that were trained on."""
    kept = tokenizer.init_kwargs.get("truncation_side", "right") == tokenizer.truncation_side
    if max_length is None and kept:
        return tokenizer
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.init_kwargs["truncation_side"] = tokenizer.truncation_side
    if max_length is not None:
        tokenizer.model_max_length = max_length
    return tokenizer


def load_tokenizer(name: str, revision: str = "main", subfolder: str = "") -> Any:
    """The tokenizer of that name, on the Hub or in a folder.

    Raises:
        InputError: there is none.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(name, revision=revision, subfolder=subfolder, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise InputError("tokenizer_name", name, f"no tokenizer could be read ({first_line(error)})") from error


def _check_type(spec: TaskSpec, data: datasets.Dataset) -> None:
    assert spec.text_column is not None
    feature = data.features[spec.text_column]
    if not is_text(feature):
        raise InputError("text_column", spec.text_column, f"has type {feature}; allowed are strings")


def _words_of(spec: TaskSpec, data: datasets.Dataset) -> Any:
    """Return the basic English tokenizer of these texts. Its vocabulary is counted once and kept in the cache."""
    from tokenizers import Tokenizer

    entry = entry_path(data, ("words", spec.text_column), ".json")
    if entry is not None and is_sealed(entry):
        return as_pretrained(Tokenizer.from_file(str(entry)))
    tokenizer = basic_english_tokenizer(_texts(data, spec.text_column))
    if entry is None:
        return tokenizer
    tokenizer.backend_tokenizer.save(str(entry), pretty=False)
    seal(entry)
    return as_pretrained(Tokenizer.from_file(str(entry)))  # as in later runs, which shall find this run's tokens


def _texts(data: datasets.Dataset, column: str | None) -> Iterator[Any]:
    """Yield the texts in lists, which the tokenizer's training takes as well as single ones."""
    for batch in data.select_columns([column]).iter(batch_size=1000):
        yield batch[column]


def _tokenize(spec: TaskSpec, part: Rows, tokenizer: Any, key: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return tokens (T,) and offsets (N + 1,), as `TextTensors` holds them.

    Args:
        spec: the task.
        part: the rows of a split.
        tokenizer: makes the tokens.
        key: its state.
    """
    import datasets

    column = spec.text_column
    assert column is not None
    # transformers' mark for "no limit" is larger
    max_length = tokenizer.model_max_length if tokenizer.model_max_length < 1_000_000 else None

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
    lengths = torch.from_numpy(tokens.value_lengths().to_numpy().copy()).long()  # (N,)
    # a copy: the arrow buffer is a read-only view of the cache file
    flat = torch.from_numpy(tokens.flatten().to_numpy().copy())
    return flat, torch.nn.functional.pad(lengths.cumsum(0), (1, 0))
