"""Seconds of a draw of four chains by the form of a transformer's attention: folded, eager, and mapped `sdpa`.

`python scripts/benchmark.py attention`. Weights and tokens are random, because the time does not depend on them. All
forms take turns.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

SHAPES = {"BERT's": "bert", "GPT-2's": "gpt2"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--hidden_size", type=int, default=256)


def run(args: argparse.Namespace, print_table: Callable[..., None]) -> None:
    """Print a table for each shape."""
    from selfmod_hf.trainer.attention import folded_attention, masked_attention

    torch.set_num_threads(1)
    forms = {"folded": folded_attention(), "eager": "eager", "sdpa, mapped": masked_attention()}
    for shape, kind in SHAPES.items():
        seconds: dict[str, list[float]] = {form: [] for form in forms}
        for _ in range(args.repeats):
            for form, name in forms.items():
                seconds[form].append(seconds_of_draw(args, kind, name))
        rows = [(form, statistics.median(values)) for form, values in seconds.items()]
        tokens = f"{args.batch_size} x {args.length} tokens"
        print_table(f"{shape} shape, 4 layers, width {args.hidden_size}, 4 chains, {tokens}", rows, "seconds a draw")


def seconds_of_draw(args: argparse.Namespace, kind: str, attention: str) -> float:
    """Return the seconds of one draw: those of many draws without those of few, over the difference."""
    estimate = partial(estimate_of, args, Classifier(args, kind, attention))
    few, many = 2, 2 + args.draws
    estimate(few)  # fills caches
    start = time.perf_counter()
    estimate(few)
    middle = time.perf_counter()
    estimate(many)
    return (time.perf_counter() - middle - (middle - start)) / args.draws


def estimate_of(args: argparse.Namespace, module: nn.Module, draws: int) -> Any:
    """Estimate the LLC of a module with this number of draws."""
    from selfmod_hf.complexity import estimate_llc, llc_preset

    generator = torch.Generator().manual_seed(0)
    count = 4 * args.batch_size
    inputs = {"input_ids": torch.randint(5, 900, (count, args.length), generator=generator)}
    labels = torch.randint(0, 2, (count,), generator=generator)
    settings = llc_preset("paper", "imdb", num_draws=draws, batch_size=args.batch_size)
    return estimate_llc(module, inputs, labels, **settings)


class Classifier(nn.Module):
    """Compute logits by the mean of a transformer's last hidden states."""

    def __init__(self, args: argparse.Namespace, kind: str, attention: str) -> None:
        super().__init__()
        from transformers import AutoConfig, AutoModel

        sizes = {"hidden_size": args.hidden_size, "num_hidden_layers": 4, "num_attention_heads": 4}
        config = AutoConfig.for_model(kind, **sizes, vocab_size=1000, bos_token_id=0, eos_token_id=0)
        if kind == "bert":
            config.intermediate_size = 4 * args.hidden_size
        torch.manual_seed(0)
        self.network = AutoModel.from_config(config).eval()
        self.network.set_attn_implementation(attention)
        self.head = nn.Linear(args.hidden_size, 2)

    def forward(self, input_ids: Tensor) -> Tensor:
        """Return the logits (B, 2) of tokens (B, T)."""
        hidden = self.network(input_ids=input_ids, use_cache=False).last_hidden_state
        return self.head(hidden.mean(1))
