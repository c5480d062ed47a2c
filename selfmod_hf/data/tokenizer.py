"""The paper's tokenizer: "basic English" words, every word of the training texts in the vocabulary."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

# What torchtext's "basic_english" replaces, in this order, after lower-casing; then it splits at white space.
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
    """A `PreTrainedTokenizerFast` of words, its vocabulary all words of `texts` and `<unk>`, the most frequent first.

    It is saved and pushed with the model, and `AutoTokenizer.from_pretrained` reads it. There is no padding token of
    its own: `<unk>` pads, and the attention mask tells them apart.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    words = Tokenizer(models.WordLevel(unk_token=UNKNOWN))
    replacements = [normalizers.Replace(old, new) for old, new in BASIC_ENGLISH]
    words.normalizer = normalizers.Sequence([normalizers.Lowercase(), *replacements])
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    every_word = trainers.WordLevelTrainer(
        vocab_size=2**31, min_frequency=0, special_tokens=[UNKNOWN], show_progress=False
    )
    words.train_from_iterator(texts, every_word)
    return as_pretrained(words)


def as_pretrained(words: Any) -> Any:
    """Return the `PreTrainedTokenizerFast` around a `tokenizers.Tokenizer` of words."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        unk_token=UNKNOWN,
        pad_token=UNKNOWN,
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
    )
