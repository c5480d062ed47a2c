"""Tiny task models of transformers with random weights, and rows of data for them."""

from __future__ import annotations

from typing import Any

import torch
import transformers as tf

SIZES = {
    "hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 20, "vocab_size": 30,
    "max_position_embeddings": 40, "pad_token_id": 0,
}  # fmt: skip
MARKS = {"bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
PICTURE = {
    "hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 20, "image_size": 8,
    "patch_size": 4,
}  # fmt: skip
GPT2 = {"n_embd": 12, "n_layer": 2, "n_head": 2, "vocab_size": 30, "n_positions": 40, "pad_token_id": 0}
DISTILBERT = {
    "dim": 12, "n_layers": 2, "n_heads": 2, "hidden_dim": 20, "vocab_size": 30, "max_position_embeddings": 40,
}  # fmt: skip
SWIN = {
    "image_size": 8, "patch_size": 2, "embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2], "window_size": 2,
}  # fmt: skip
CONVNEXT = {"image_size": 8, "patch_size": 2, "hidden_sizes": [8, 12], "depths": [1, 1], "num_stages": 2}
LLAMA = SIZES | {"hidden_size": 16, "num_attention_heads": 4, "num_key_value_heads": 2}
LLAMA |= {"bos_token_id": 1, "eos_token_id": 2}

# name -> class and configuration
MODELS: dict[str, tuple[type, Any]] = {
    "bert": (tf.BertForSequenceClassification, tf.BertConfig(**SIZES, num_labels=3)),
    "roberta": (tf.RobertaForSequenceClassification, tf.RobertaConfig(**SIZES, num_labels=3)),
    "distilbert": (tf.DistilBertForSequenceClassification, tf.DistilBertConfig(**DISTILBERT, num_labels=3)),
    "modernbert": (
        tf.ModernBertForSequenceClassification,
        tf.ModernBertConfig(**SIZES, **MARKS, local_attention=4, num_labels=3),
    ),
    "gpt2-classes": (tf.GPT2ForSequenceClassification, tf.GPT2Config(**GPT2, num_labels=3)),
    "bert-tokens": (tf.BertForTokenClassification, tf.BertConfig(**SIZES, num_labels=3)),
    "bert-masked": (tf.BertForMaskedLM, tf.BertConfig(**SIZES)),
    "gpt2": (tf.GPT2LMHeadModel, tf.GPT2Config(**GPT2)),
    "llama": (tf.LlamaForCausalLM, tf.LlamaConfig(**LLAMA)),
    "vit": (tf.ViTForImageClassification, tf.ViTConfig(**PICTURE, num_labels=3)),
    "swin": (tf.SwinForImageClassification, tf.SwinConfig(**SWIN, num_labels=3)),
    "convnext": (tf.ConvNextForImageClassification, tf.ConvNextConfig(**CONVNEXT, num_labels=3)),
}
COUNT = 12  # rows


def tiny_model(name: str, **changes: Any) -> Any:
    """Return the model of this name, in eval mode."""
    model_class, config = MODELS[name]
    config = type(config).from_dict(config.to_dict() | changes)
    torch.manual_seed(0)
    return model_class(config).eval()


def tiny_rows(name: str) -> list[dict[str, Any]]:
    """Return rows for it: pictures, or texts of 9 tokens. Some have padding at the end, for Llama at the beginning."""
    generator = torch.Generator().manual_seed(1)
    rows = []
    for number in range(COUNT):
        if name in ("vit", "swin", "convnext"):
            rows.append({"pixel_values": torch.randn(3, 8, 8, generator=generator), "labels": number % 3})
            continue
        tokens = torch.randint(3, 30, (9,), generator=generator)
        mask = torch.ones(9, dtype=torch.int64)
        if number % 3 == 0:
            padding = slice(0, 4) if name == "llama" else slice(5, 9)
            tokens[padding], mask[padding] = 0, 0
        labels: Any = number % 3
        if name in ("gpt2", "llama"):
            labels = tokens.masked_fill(mask == 0, -100)
            labels[:5] = labels[:5].masked_fill(mask[0] == 0, -100)  # padding predicts no token
        elif name in ("bert-tokens", "bert-masked"):
            labels = torch.randint(0, 3, (9,), generator=generator).masked_fill(mask == 0, -100)
            labels[0] = -100
        rows.append({"input_ids": tokens, "attention_mask": mask, "labels": labels})
    return rows
