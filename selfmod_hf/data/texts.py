"""Texts as one flat tensor of tokens: tokenized once, then gathered by the batch, on the device.

Two layouts of a batch. *Bags*: the tokens of all its texts one after another, with offsets, for an embedding bag; no
padding, and so no work on it. *Padded*: to the longest text of the batch, with an attention mask, for encoders.
Tokens are kept in the cache of `datasets`, so that only the first run on a data set tokenizes.
"""

from __future__ import annotations

import copy
import hashlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch

from ..errors import InputError
from .reading import as_numbers, check_column, check_labels, first_line, label_numbers, load_split, read_label_names
from .tasks import TaskSpec
from .tensors import Batch, TaskData, TensorData, checked_limits, moved
from .tokenizer import basic_english_tokenizer

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
    """

    tokens: torch.Tensor
    offsets: torch.Tensor
    labels: torch.Tensor
    tokenizer: Any = field(repr=False, compare=False, default=None)
    padded: bool = False
    device: torch.device | str = "cpu"

    @property
    def longest(self) -> int:
        """Tokens of the longest text."""
        return int(self.offsets.diff().max())

    def take(self, rows: torch.Tensor) -> Batch:
        """`labels` (B,), and bags: `input_ids` (N,) int32 and `offsets` (B + 1,) int32, the last one N; or padded:
        `input_ids` (B, T) and `attention_mask` (B, T), both int64."""
        tokens, lengths = self._gather(rows)
        batch = {"labels": self.labels.index_select(0, rows)}
        if self.padded:
            batch |= _padded(tokens, lengths, self.tokenizer.pad_token_id)
        else:
            batch |= {"input_ids": tokens, "offsets": _offsets(lengths)}
        return {name: tensor.to(self.device) for name, tensor in batch.items()}

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
    if spec.text_column is None:
        raise InputError("text_column", None, f"task {spec.name!r} is one of images; name a column of texts")
    train = load_split(spec, "train_split", spec.train_split, max_train_samples)
    test = load_split(spec, "test_split", spec.test_split, max_test_samples)
    for data in (train, test):
        _check_texts(spec, data)
        check_column(data, "label_column", spec.label_column)
    names = read_label_names(spec, train)
    if tokenizer is None:
        tokenizer = basic_english_tokenizer(_batches(train, spec.text_column))
    elif isinstance(tokenizer, str):
        tokenizer = load_tokenizer(tokenizer)
    if max_length is not None:  # kept where the tokenizer is saved: an RLCT is of the texts that were trained on
        tokenizer = copy.deepcopy(tokenizer)
        tokenizer.model_max_length = max_length
    if padded and tokenizer.pad_token_id is None:
        raise InputError("tokenizer_name", tokenizer.name_or_path, "has no padding token; an encoder's has one")
    splits = [_tokenize(spec, data, tokenizer, names, padded) for data in (train, test)]
    check_labels(spec, splits[0].labels, splits[1].labels, len(names))
    return TaskData(splits[0], splits[1], names)


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


def _check_texts(spec: TaskSpec, data: datasets.Dataset) -> None:
    import datasets

    column = spec.text_column
    assert column is not None
    check_column(data, "text_column", column)
    feature = data.features[column]
    if not (isinstance(feature, datasets.Value) and "string" in feature.dtype):
        raise InputError("text_column", column, f"has type {feature}; allowed are strings")
    missing = data.with_format("arrow")[:][column].is_null().to_numpy()
    if missing.any():
        raise InputError("text_column", column, f"row {int(missing.argmax())} holds no text")


def _batches(data: datasets.Dataset, column: str | None) -> Any:
    for batch in data.select_columns([column]).iter(batch_size=1000):
        yield batch[column]


def _tokenize(spec: TaskSpec, data: datasets.Dataset, tokenizer: Any, names: list[str], padded: bool) -> TextTensors:
    import datasets

    assert spec.text_column is not None
    column, numbers = spec.text_column, label_numbers(spec, data, names)
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
        return {"tokens": encoded["input_ids"], "label": as_numbers(batch[spec.label_column], numbers)}

    # named by hand, since a tokenizer object does not always hash alike
    parts = (data._fingerprint, _identity(tokenizer), max_length, spec.text_column, spec.label_column, names)
    tokenized = data.map(
        tokenize,
        batched=True,
        remove_columns=data.column_names,
        new_fingerprint=hashlib.sha256(repr(parts).encode()).hexdigest()[:32],
        features=datasets.Features(
            {"tokens": datasets.Sequence(datasets.Value("int32")), "label": datasets.Value("int64")}
        ),
        desc="Tokenizing",
    )
    table = tokenized.with_format("arrow")[:]
    tokens = table["tokens"].combine_chunks()
    lengths = torch.from_numpy(tokens.value_lengths().to_numpy().copy()).long()  # (N,)
    return TextTensors(
        tokens=torch.from_numpy(tokens.flatten().to_numpy().copy()),
        offsets=torch.nn.functional.pad(lengths.cumsum(0), (1, 0)),
        labels=torch.from_numpy(table["label"].to_numpy().copy()),
        tokenizer=tokenizer,
        padded=padded,
    )


def _identity(tokenizer: Any) -> str:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return backend.to_str() if backend is not None else repr((type(tokenizer), sorted(tokenizer.get_vocab().items())))
