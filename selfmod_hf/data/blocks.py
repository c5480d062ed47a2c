"""Texts for a causal language model: joined, and cut into blocks of equal length, without padding."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from .cache import tokenizer_key
from .labels import is_text
from .rows import Rows
from .splits import read_splits
from .tasks import BLOCKS, TaskSpec
from .tensors import Batch, Device, TaskData, TensorData, checked_limits, moved, spread
from .tokenizer import as_pretrained_bytes, byte_pair_tokenizer
from .tokenizing import cached_tokenizer, flattened, limit_of, load_tokenizer, texts_of, token_table

BLOCK_SIZE = 128
VOCAB_SIZE = 8192


@dataclass(frozen=True)
class BlockTensors(TensorData):
    """Hold blocks of text. Each token of a block is predicted from those before it.

    Attributes:
        tokens: (N, T), int32.
        tokenizer: maker of the tokens.
        device: device of the batches.
        task: the task these texts were read for. It is saved beside a model.
        labels: (N,), int64, number of predicted tokens of each block, T - 1.

    Example:
        >>> blocks = BlockTensors(torch.arange(6).view(2, 3))
        >>> blocks.batch([1])["labels"], blocks.labels
        (tensor([[3, 4, 5]]), tensor([2, 2]))
    """

    tokens: Tensor
    tokenizer: Any = field(repr=False, compare=False, default=None)
    device: Device = "cpu"
    task: TaskSpec | None = field(repr=False, default=None)
    labels: Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        count, size = self.tokens.shape
        labels = torch.full((count,), size - 1, device=self.tokens.device)
        object.__setattr__(self, "labels", labels)

    @property
    def kind(self) -> str:
        return BLOCKS

    @property
    def longest(self) -> int:
        """Count the tokens of a block."""
        return self.tokens.shape[1]

    def take(self, rows: Tensor) -> Batch:
        """Return a batch of blocks.

        Returns:
            `input_ids` (B, T) and equal `labels` (B, T), int64. The loss of the model compares each prediction with
            the next label.
        """
        tokens = self.tokens.index_select(0, rows).to(self.device).long()
        return {"input_ids": tokens, "labels": tokens.clone()}

    def first(self, count: int) -> BlockTensors:
        return replace(self, tokens=self.tokens[:count])

    def processor(self) -> Any:
        return self.tokenizer

    def to(self, device: Device) -> BlockTensors:
        [tokens] = moved(device, self.tokens)
        return replace(self, tokens=tokens, device=device)


def load_blocks(
    spec: TaskSpec,
    *,
    tokenizer: Any = None,
    vocab_size: int | None = None,
    max_train_samples: int | None = None,
    max_test_samples: int | None = None,
) -> TaskData[BlockTensors]:
    """Read the texts of a "causal-lm" task as blocks, from the Hub or from a local folder in Hub layout.

    The texts of a split are joined, with the tokenizer's end of text after each of them, and cut into blocks. The
    tokens after the last full block are left out.

    Args:
        spec: the task.
        tokenizer: a tokenizer, or its name on the Hub. Default: byte pairs, trained on the training texts.
        vocab_size: number of tokens of the default tokenizer. None: 8,192.
        max_train_samples: number of training blocks, spread evenly over the split. None: all.
        max_test_samples: number of test blocks, spread evenly over the split. None: all.

    Raises:
        InputError: a missing column or split, a missing text, less text than one block, a tokenizer without an end of
            text, or an unreachable data set or tokenizer.
    """
    checked_limits(max_train_samples=max_train_samples, max_test_samples=max_test_samples)
    if spec.kind != BLOCKS:
        raise InputError(
            "task_type", spec.task_type, f"allowed is {BLOCKS}; `load_texts` and `load_images` read others"
        )
    if spec.dataset_name is None:
        raise InputError("dataset_name", None, "a data set of texts is needed")
    spec, *parts = read_splits(spec, texts=True, max_train_samples=None, max_test_samples=None)
    [column] = spec.text_columns
    for part in parts:
        feature = part.data.features[column]
        if not is_text(feature):
            raise InputError("text_column", column, f"has type {feature}; allowed are strings")
    tokenizer = _tokenizer_of(column, tokenizer, vocab_size, parts[0])
    spec = replace(spec, block_size=_block_size(spec, tokenizer))
    key = tokenizer_key(tokenizer)  # before the first call, because a call changes the tokenizer
    samples = []
    for part, most in zip(parts, (max_train_samples, max_test_samples), strict=True):
        blocks = _blocks(spec, part, tokenizer, key)
        chosen = spread(len(blocks), most)
        samples.append(BlockTensors(blocks[chosen], tokenizer, task=spec))
    train, test = samples
    return TaskData(train, test, [], spec)


def _blocks(spec: TaskSpec, part: Rows, tokenizer: Any, key: str) -> Tensor:
    """Return the blocks of a split, (N, T), int32.

    Args:
        spec: the task, with a block size.
        part: the rows of the split.
        tokenizer: maker of the tokens.
        key: digest of its state.
    """
    [column] = spec.text_columns
    size = spec.block_size
    assert size is not None
    end = tokenizer.eos_token_id

    def encode(batch: dict[str, list[Any]]) -> dict[str, Any]:
        encoded = tokenizer(
            batch[column],
            add_special_tokens=False,
            truncation=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )
        return {"tokens": [[*tokens, end] for tokens in encoded["input_ids"]]}

    table = token_table(part, encode, key=("joined", column, end, key), names=["tokens"])
    tokens, _ = flattened(table["tokens"])
    count = len(tokens) // size
    if count == 0:
        problem = f"split {part.split!r} has {len(tokens)} tokens; allowed are at most so many"
        raise InputError("block_size", size, problem)
    return tokens[: count * size].view(count, size)


def _tokenizer_of(column: str, tokenizer: Any, vocab_size: int | None, train: Rows) -> Any:
    """Return the tokenizer itself, the one of this name, or else that of byte pairs of the training texts."""
    if tokenizer is None:
        size = VOCAB_SIZE if vocab_size is None else vocab_size

        def make() -> Any:
            return byte_pair_tokenizer(texts_of(train.data, (column,)), size)

        return cached_tokenizer(train.data, ("byte pairs", column, size), make, as_pretrained_bytes)
    if vocab_size is not None:
        problem = "is that of a tokenizer trained on these texts; allowed without another one (`tokenizer_name`)"
        raise InputError("vocab_size", vocab_size, problem)
    if isinstance(tokenizer, str):
        tokenizer = load_tokenizer(tokenizer)
    if tokenizer.eos_token_id is None:
        problem = "has no end-of-text token; that of a causal language model has one"
        raise InputError("tokenizer_name", tokenizer.name_or_path, problem)
    return tokenizer


def _block_size(spec: TaskSpec, tokenizer: Any) -> int:
    """Return the task's block size, or the default."""
    limit = limit_of(tokenizer)
    size = spec.block_size
    if size is None:
        return BLOCK_SIZE if limit is None else min(BLOCK_SIZE, limit)
    if limit is not None and size > limit:
        raise InputError("block_size", size, f"the tokenizer's network reads at most {limit} tokens")
    return size
