"""The tokens of a column of texts, of sentence pairs or of lists of words, made once and kept in the cache."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from tokenizers import Tokenizer, pre_tokenizers
from torch import Tensor
from transformers import AutoTokenizer

from ..errors import InputError
from .cache import cached_table, content_digest, entry_path, is_sealed, seal
from .lazy_datasets import datasets
from .reading import first_line
from .rows import Rows
from .tokenizer import as_pretrained, basic_english_tokenizer

NO_LIMIT = 1_000_000  # transformers' mark for a tokenizer without a limit is larger


@dataclass(frozen=True)
class Tokens:
    """Hold the tokens of N rows.

    Attributes:
        flat: (T,), int32, tokens of all rows one after another.
        offsets: (N + 1,), int64. Row i has `flat[offsets[i]:offsets[i + 1]]`.
        types: (T,), uint8, the number of each token's text within its pair. None: the tokenizer gives none.
        words: (T,), int32, the number of each token's word within its row, and -1 for special tokens. None: of texts.
    """

    flat: Tensor
    offsets: Tensor
    types: Tensor | None = None
    words: Tensor | None = None


def tokenize(part: Rows, columns: tuple[str, ...], tokenizer: Any, key: str, *, are_words: bool = False) -> Tokens:
    """Return the tokens of the rows.

    Args:
        part: the rows of a split.
        columns: the column of texts or of lists of words, or the two columns of sentence pairs.
        tokenizer: maker of the tokens. Texts are cut to its `model_max_length`, pairs at the longer text first.
        key: digest of its state.
        are_words: whether the column holds lists of words.
    """
    max_length = limit_of(tokenizer)
    has_types = len(columns) == 2 and "token_type_ids" in tokenizer.model_input_names
    settings: dict[str, Any] = {
        "truncation": max_length is not None,
        "max_length": max_length,
        "return_attention_mask": False,
        "return_token_type_ids": has_types,
        "verbose": False,
    }
    if are_words:
        settings["is_split_into_words"] = True

    def encode(batch: dict[str, list[Any]]) -> dict[str, Any]:
        texts = [batch[column] for column in columns]
        encoded = tokenizer(*texts, **settings)
        found = {"tokens": encoded["input_ids"]}
        if has_types:
            found["types"] = encoded["token_type_ids"]
        if are_words:
            found["words"] = _word_numbers(encoded)
        return found

    names = ["tokens"]
    if has_types:
        names.append("types")
    if are_words:
        names.append("words")
    table = token_table(part, encode, key=(columns, key), names=names)
    flat, offsets = flattened(table["tokens"])
    types, words = None, None
    if has_types:
        types = flattened(table["types"])[0].to(torch.uint8)
    if are_words:
        words = flattened(table["words"])[0]
    return Tokens(flat, offsets, types, words)


def token_table(part: Rows, encode: Callable[..., dict[str, Any]], *, key: Any, names: list[str]) -> pa.Table:
    """Return columns of lists of integers for the rows, from the cache if it has them.

    Args:
        part: the rows of a split.
        encode: maps a batch of rows to the columns.
        key: everything that decides the result in addition to the rows and the names of the columns.
        names: of the columns.
    """
    numbers = datasets.List(datasets.Value("int32"))
    return cached_table(
        part.data,
        encode,
        key=("tokens", tuple(names), key),
        features=datasets.Features(dict.fromkeys(names, numbers)),
        desc="Tokenizing",
    )


def flattened(column: pa.ChunkedArray) -> tuple[Tensor, Tensor]:
    """Return the entries of all lists (T,), and the offsets (N + 1,) of the lists."""
    lists = column.combine_chunks()
    # copies, because the arrow buffer is a read-only view of the cache file
    flat = lists.flatten().to_numpy().copy()
    lengths = lists.value_lengths().to_numpy().copy()
    ends = torch.from_numpy(lengths).long().cumsum(0)
    offsets = torch.nn.functional.pad(ends, (1, 0))  # (N + 1,)
    return torch.from_numpy(flat), offsets


def _word_numbers(encoded: Any) -> list[list[int]]:
    """Return the number of each token's word, and -1 for special tokens."""
    rows = []
    for row in range(len(encoded["input_ids"])):
        numbers = encoded.word_ids(row)
        rows.append([-1 if number is None else number for number in numbers])
    return rows


def token_labels(tokens: Tokens, labels: Tensor, lengths: np.ndarray, ignored: int) -> Tensor:
    """Return the label of each token, (T,), int64. Each word's label is at its first token.

    Args:
        tokens: of lists of words.
        labels: (W,), of the words of all rows one after another.
        lengths: (N,), number of words of each row.
        ignored: label of all other tokens.
    """
    assert tokens.words is not None
    words = tokens.words.numpy()
    starts = tokens.offsets.numpy()
    rows = np.repeat(np.arange(len(lengths)), np.diff(starts))  # (T,)
    is_first = np.ones(len(words), dtype=bool)
    is_first[1:] = (words[1:] != words[:-1]) | (rows[1:] != rows[:-1])
    is_first &= words >= 0
    words_before = np.cumsum(lengths) - lengths  # (N,)
    places = words_before[rows] + words  # (T,)
    found = np.full(len(words), ignored, dtype=np.int64)
    found[is_first] = labels.numpy()[places[is_first]]
    return torch.from_numpy(found)


# ---- tokenizers ----


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


def limit_of(tokenizer: Any) -> int | None:
    """Return the largest number of tokens of a text, or None for no limit."""
    if tokenizer.model_max_length >= NO_LIMIT:
        return None
    return int(tokenizer.model_max_length)


def as_it_is_saved(tokenizer: Any, max_length: int | None) -> Any:
    """Return the tokenizer with its settings in the saved attributes, because an RLCT needs the training texts."""
    saved_side = tokenizer.init_kwargs.get("truncation_side", "right")
    if max_length is None and saved_side == tokenizer.truncation_side:
        return tokenizer
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.init_kwargs["truncation_side"] = tokenizer.truncation_side
    if max_length is not None:
        tokenizer.model_max_length = max_length
    return tokenizer


def with_padding(tokenizer: Any) -> Any:
    """Return a tokenizer that pads. One without a padding token, such as GPT-2's, takes its end of text.

    The attention mask distinguishes the two. A decoder that classifies texts reads the last other token.

    Raises:
        InputError: neither a padding token nor an end of text.
    """
    if tokenizer.pad_token_id is not None:
        return tokenizer
    if tokenizer.eos_token_id is None:
        problem = "has no padding token and no end of text; an encoder's has a padding token"
        raise InputError("tokenizer_name", tokenizer.name_or_path, problem)
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def for_words(tokenizer: Any) -> Any:
    """Return a tokenizer for lists of words. One of byte pairs sees a space before each word, as within a text.

    Raises:
        InputError: a tokenizer in Python, because it does not say which word a token belongs to.
    """
    if not tokenizer.is_fast:
        problem = "is a tokenizer in Python; allowed with lists of words are fast ones"
        raise InputError("tokenizer_name", tokenizer.name_or_path, problem)
    splitter = tokenizer.backend_tokenizer.pre_tokenizer
    if not isinstance(splitter, pre_tokenizers.ByteLevel) or splitter.add_prefix_space:
        return tokenizer
    tokenizer = copy.deepcopy(tokenizer)
    with_space = pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=splitter.use_regex)
    tokenizer.backend_tokenizer.pre_tokenizer = with_space
    tokenizer.add_prefix_space = True
    tokenizer.init_kwargs["add_prefix_space"] = True
    return tokenizer


def words_tokenizer(columns: tuple[str, ...], data: datasets.Dataset) -> Any:
    """Return the basic English tokenizer of these columns. Its vocabulary is counted once and kept in the cache."""

    def make() -> Any:
        return basic_english_tokenizer(texts_of(data, columns))

    return cached_tokenizer(data, ("words", columns), make, as_pretrained)


def cached_tokenizer(
    data: datasets.Dataset, key: Any, make: Callable[[], Any], wrap: Callable[[Tokenizer], Any]
) -> Any:
    """Return a tokenizer trained on these rows, from the cache if it has it.

    Args:
        data: the rows.
        key: everything that decides the tokenizer in addition to the rows.
        make: trains the tokenizer.
        wrap: makes the same of its `tokenizers.Tokenizer`.
    """
    digest = content_digest(data, key)
    entry = entry_path(data, digest, ".json")
    if entry is not None and is_sealed(entry):
        return wrap(Tokenizer.from_file(str(entry)))
    tokenizer = make()
    if entry is None:
        return tokenizer
    tokenizer.backend_tokenizer.save(str(entry), pretty=False)
    seal(entry)
    return wrap(Tokenizer.from_file(str(entry)))  # as in later runs, so that they find this run's tokens


def texts_of(data: datasets.Dataset, columns: tuple[str, ...]) -> Iterator[Any]:
    """Yield the texts in lists, or the words of each row. The training of a tokenizer takes lists."""
    for batch in data.select_columns(list(columns)).iter(batch_size=1000):
        for column in columns:
            if isinstance(batch[column][0], list):
                yield from batch[column]
            else:
                yield batch[column]
