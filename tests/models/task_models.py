"""Tiny random task models of transformers, and batches for them."""

import pytest
import torch
import transformers
from torch import nn
from transformers import AutoConfig

from selfmod_hf import SelfModelingConfig
from selfmod_hf.models import KINDS
from selfmod_hf.models.wrapped_classes_self_modeling import WRAPPED_CLASSES

SIZES = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 20}
TEXT = {**SIZES, "vocab_size": 30, "max_position_embeddings": 40, "pad_token_id": 0, "bos_token_id": 1,
        "eos_token_id": 2}  # fmt: skip
IMAGE = {**SIZES, "image_size": 8, "patch_size": 4}
STAGES = {"depths": [1, 1], "hidden_sizes": [8, 12]}
SWIN = {"image_size": 8, "patch_size": 2, "embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2], "window_size": 2}
DISTIL = {"dim": 12, "n_layers": 2, "n_heads": 2, "hidden_dim": 20, "vocab_size": 30, "max_position_embeddings": 40,
          "pad_token_id": 0}  # fmt: skip
GPT2 = {"n_embd": 12, "n_layer": 2, "n_head": 2, "vocab_size": 30, "n_positions": 40, "pad_token_id": 0,
        "bos_token_id": 1, "eos_token_id": 2}  # fmt: skip
DEBERTA = {**TEXT, "relative_attention": True, "pos_att_type": ["c2p"]}
MODERN = {**TEXT, "cls_token_id": 1, "sep_token_id": 2, "local_attention": 4}

# model type -> settings, target layers
ARCHITECTURES = {
    "bert": (TEXT, "encoder.layer.*"),
    "roberta": (TEXT, "encoder.layer.*.output"),
    "distilbert": (DISTIL, "transformer.layer.*"),
    "modernbert": (MODERN, "layers.*.mlp"),
    "deberta-v2": (DEBERTA, "encoder.layer.*.intermediate"),
    "albert": ({**TEXT, "embedding_size": 6}, "encoder.albert_layer_groups.0.albert_layers.0"),
    "electra": ({**TEXT, "embedding_size": 6}, "encoder.layer.*"),
    "mpnet": (TEXT, "encoder.layer.*.output"),
    "gpt2": (GPT2, "h.*"),
    "llama": ({**TEXT, "num_key_value_heads": 1}, "layers.*"),
    "qwen2": ({**TEXT, "num_key_value_heads": 1}, "layers.*.mlp"),
    "gpt_neox": (TEXT, "layers.*"),
    "vit": (IMAGE, "layers.*"),
    "dinov2": (IMAGE, "encoder.layer.*"),
    "swin": (SWIN, "encoder.layers.*"),
    "convnext": ({**STAGES, "image_size": 8, "patch_size": 2, "num_stages": 2}, "encoder.stages.*"),
    "resnet": ({**STAGES, "embedding_size": 8, "layer_type": "basic"}, "encoder.stages.*"),
}
PAIRS = [
    *(("text-classification", name) for name in ("bert", "distilbert", "deberta-v2", "mpnet", "gpt2", "llama")),
    *(("image-classification", name) for name in ("vit", "dinov2", "swin", "convnext", "resnet")),
    *(("token-classification", name) for name in ("roberta", "modernbert", "gpt2")),
    *(("question-answering", name) for name in ("electra", "llama")),
    *(("multiple-choice", name) for name in ("bert", "modernbert")),
    *(("causal-lm", name) for name in ("gpt2", "llama", "qwen2", "gpt_neox")),
    *(("masked-lm", name) for name in ("bert", "albert", "modernbert")),
]
# one pair of each architecture, each kind among them: for what takes longer
EACH = [
    *(("text-classification", name) for name in ("distilbert", "deberta-v2", "mpnet")),
    *(("image-classification", name) for name in ("vit", "dinov2", "swin", "convnext", "resnet")),
    ("token-classification", "roberta"),
    *(("question-answering", name) for name in ("electra", "llama")),
    ("multiple-choice", "bert"),
    *(("causal-lm", name) for name in ("gpt2", "qwen2", "gpt_neox")),
    *(("masked-lm", name) for name in ("albert", "modernbert")),
]
# layers of these cannot be recomputed in the backward pass, by transformers' own code
NEVER_RECOMPUTED = {"mpnet", "albert", "convnext", "resnet"}


def inner_config(kind: str, name: str, **fields):
    settings, _ = ARCHITECTURES[name]
    labels = {"num_labels": 3} if KINDS[kind].classes else {}
    return AutoConfig.for_model(name, **{**settings, **labels, **fields})


def plain(kind: str, name: str, **fields):
    """A plain task model of transformers with the weights of seed 0."""
    torch.manual_seed(0)
    return getattr(transformers, KINDS[kind].auto_class).from_config(inner_config(kind, name, **fields))


def network(kind: str, name: str, **fields):
    """A self-modeling network over the task model of seed 0."""
    inner = fields.pop("inner", {})
    given = {"target_layers": [ARCHITECTURES[name][1]], "aux_weight": 2.0, **fields}
    if name == "resnet":
        given["image_size"] = 8
    config = SelfModelingConfig(wrapped_config=inner_config(kind, name, **inner), **given)
    torch.manual_seed(0)
    return WRAPPED_CLASSES[kind](config).eval()


def batch(kind: str, rows: int = 3, tokens: int = 7) -> dict[str, torch.Tensor]:
    """Rows with labels. The second text has two tokens of padding."""
    generator = torch.Generator().manual_seed(1)
    if kind == "image-classification":
        images = torch.randn(rows, 3, 8, 8, generator=generator)
        return {"pixel_values": images, "labels": torch.arange(rows) % 3}
    ids = torch.randint(3, 30, (rows, tokens), generator=generator)
    mask = torch.ones_like(ids)
    mask[1, -2:] = 0
    ids[1, -2:] = 0
    inputs = {"input_ids": ids, "attention_mask": mask}
    if kind == "multiple-choice":
        other = ids.flip(0).masked_fill(mask == 0, 0)
        inputs = {"input_ids": torch.stack([ids, other], dim=1), "attention_mask": torch.stack([mask, mask], dim=1)}
        return {**inputs, "labels": torch.arange(rows) % 2}
    if kind == "question-answering":
        return {**inputs, "start_positions": torch.arange(rows), "end_positions": torch.arange(rows) + 1}
    if kind == "text-classification":
        return {**inputs, "labels": torch.arange(rows) % 3}
    labels = ids.clone()
    if kind == "token-classification":
        labels = torch.randint(0, 3, ids.shape, generator=generator)
        labels[:, 0] = -100
    if kind == "masked-lm":
        labels[:, :2] = -100
    return {**inputs, "labels": labels.masked_fill(mask == 0, -100)}


def part(given: dict[str, torch.Tensor], rows: slice) -> dict[str, torch.Tensor]:
    return {name: values[rows] for name, values in given.items()}


def padded(given: dict[str, torch.Tensor], count: int) -> dict[str, torch.Tensor]:
    """The same texts with further tokens of padding."""
    found = {}
    for name, values in given.items():
        is_tokens = values.dim() > 1
        fill = -100 if name == "labels" else 0
        found[name] = nn.functional.pad(values, (0, count), value=fill) if is_tokens else values
    return found


def enable_recomputing(model, **arguments) -> bool:
    """Turn gradient checkpointing on. Return False where the architecture has none, which must be an error."""
    if model.task_model.config.model_type in NEVER_RECOMPUTED:
        with pytest.raises(ValueError, match="is not compatible with gradient checkpointing"):
            model.gradient_checkpointing_enable(arguments)
        return False
    model.gradient_checkpointing_enable(arguments)
    return True


def gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
