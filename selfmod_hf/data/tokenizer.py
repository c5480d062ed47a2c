"""Tokenizers made from the training texts: the paper's "basic English" words, and byte pairs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from ..errors import InputError

# The replacements of torchtext's "basic_english", in its order. It lower-cases first, and splits at white space last.
BASIC_ENGLISH = (
    ("'", " '  "),
    ('"', ""),
    (".", " . "),
    ("<br />", " "),
    (",", " , "),
    ("(", " ( "),
    (")", " ) "),
    ("!", " ! "),
    ("?", " ? "),
    (";", " "),
    (":", " "),
)
UNKNOWN = "<unk>"
END = "<|endoftext|>"
BYTES = 256


def basic_english_tokenizer(texts: Iterable[str]) -> Any:
    """Return a `PreTrainedTokenizerFast` of words. Its vocabulary is `<unk>` and all words, the most frequent first.

    It is saved and pushed with the model, and `AutoTokenizer.from_pretrained` reads it. It has no padding token of
    its own: `<unk>` pads, and the attention mask distinguishes the two.

    Args:
        texts: the training texts.

    Example:
        >>> basic_english_tokenizer(["Good film.", "A film!"]).tokenize("A GOOD, bad film")
        ['a', 'good', '<unk>', '<unk>', 'film']
    """
    words = Tokenizer(models.WordLevel(unk_token=UNKNOWN))
    steps: list[Any] = [normalizers.Lowercase()]
    for old, new in BASIC_ENGLISH:
        steps.append(normalizers.Replace(old, new))
    words.normalizer = normalizers.Sequence(steps)
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    every_word = trainers.WordLevelTrainer(
        vocab_size=2**31, min_frequency=0, special_tokens=[UNKNOWN], show_progress=False
    )
    words.train_from_iterator(texts, every_word)
    return as_pretrained(words)


def as_pretrained(words: Tokenizer) -> PreTrainedTokenizerFast:
    """Wrap a `tokenizers.Tokenizer` of words in a `PreTrainedTokenizerFast`."""
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        unk_token=UNKNOWN,
        pad_token=UNKNOWN,
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
    )


def byte_pair_tokenizer(texts: Iterable[Any], vocab_size: int) -> Any:
    """Return a `PreTrainedTokenizerFast` of byte pairs, like that of GPT-2. Equal texts give an equal tokenizer.

    Every text can be encoded, because all 256 bytes are in the vocabulary. `<|endoftext|>` is its token 0.

    Args:
        texts: the training texts, single ones or lists.
        vocab_size: largest number of tokens. Few texts give fewer.

    Raises:
        InputError: fewer tokens than the bytes and the end of a text.

    Example:
        >>> tokenizer = byte_pair_tokenizer(["a film, a film"], vocab_size=260)
        >>> tokenizer.decode(tokenizer("a film")["input_ids"])
        'a film'
    """
    if vocab_size <= BYTES:
        raise InputError("vocab_size", vocab_size, f"allowed are integers of at least {BYTES + 1}: bytes, end of text")
    pairs = Tokenizer(models.BPE())
    pairs.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    pairs.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    pairs.train_from_iterator(texts, trainer)
    return as_pretrained_bytes(pairs)


def as_pretrained_bytes(pairs: Tokenizer) -> PreTrainedTokenizerFast:
    """Wrap a `tokenizers.Tokenizer` of byte pairs in a `PreTrainedTokenizerFast`."""
    return PreTrainedTokenizerFast(
        tokenizer_object=pairs,
        bos_token=END,
        eos_token=END,
        pad_token=END,
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
    )
