"""The paper's tokenizer: "basic English" words, with every word of the training texts in the vocabulary."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

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
