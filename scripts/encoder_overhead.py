"""Seconds of a training step of a BERT-base-shaped classifier on a CPU, with a self-model and in a plain Trainer.

`python scripts/benchmark.py encoder`. Tokens are random, since the time does not depend on them. All ways take turns.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

LAYERS = {"2 layers": ["encoder.layer.5.output", "encoder.layer.11.output"], "12 layers": ["encoder.layer.*.output"]}
POOLINGS = ("mean", "tokens")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--hidden_size", type=int, default=768)


def run(args: argparse.Namespace, print_table: Callable[..., None]) -> None:
    """Print the seconds a step of each way, and what is left of the overhead without the heads' arithmetic."""
    rows = random_rows(args)
    ways: dict[str, Callable[[], float]] = {"transformers' Trainer, the plain model": partial(plain_step, args, rows)}
    for pooling in POOLINGS:
        for layers in LAYERS:
            ways[f"with a self-model, {layers}, {pooling}"] = partial(own_step, args, rows, layers, pooling)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(args.repeats):
        for name, measure in ways.items():
            seconds[name].append(measure())
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    title = f"BERT-base shape, {args.batch_size} x {args.length} tokens, median of {args.repeats} x {args.steps} steps"
    print_table(title, list(medians.items()), "seconds a step")
    plain, *own = medians.values()
    for name, value in zip(list(medians)[1:], own, strict=True):
        *_, layers, pooling = name.split(", ")
        head = head_step(args, layers, pooling)
        rest = (value - head) / plain - 1
        print(f"{name}: the head alone {head:.4f} s, the overhead without it {100 * rest:+.1f} %")


def random_rows(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the samples of all steps and of one step before them."""
    rows = []
    for index in range((args.steps + 1) * args.batch_size):
        tokens = torch.randint(5, 30000, (args.length,))
        rows.append({"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "labels": index % 2})
    return rows


def task_model(args: argparse.Namespace) -> Any:
    """Return a new classifier of the shape of BERT-base, with its dropout."""
    from transformers import BertConfig, BertForSequenceClassification, set_seed

    set_seed(0)
    config = BertConfig(
        hidden_size=args.hidden_size,
        num_attention_heads=args.hidden_size // 64,
        intermediate_size=4 * args.hidden_size,
        num_labels=2,
    )
    return BertForSequenceClassification(config)


def plain_step(args: argparse.Namespace, rows: list[dict[str, Any]]) -> float:
    """Return the seconds a step of transformers' own Trainer."""
    from transformers import Trainer, TrainingArguments

    return step_of(args, rows, task_model(args), Trainer, TrainingArguments)


def own_step(args: argparse.Namespace, rows: list[dict[str, Any]], layers: str, pooling: str) -> float:
    """Return the seconds a step with a self-model of weight 1."""
    from selfmod_hf import SelfModelingTrainer, SelfModelingTrainingArguments

    model = wrapped(args, layers, pooling)
    return step_of(args, rows, model, SelfModelingTrainer, SelfModelingTrainingArguments)


def wrapped(args: argparse.Namespace, layers: str, pooling: str) -> Any:
    """Return the classifier with a self-model."""
    from selfmod_hf import SelfModelingForSequenceClassification

    fields = {"target_layers": LAYERS[layers], "target_pooling": pooling, "aux_weight": 1.0}
    return SelfModelingForSequenceClassification.wrap(task_model(args), **fields)


def step_of(args: argparse.Namespace, rows: Any, model: Any, trainer_class: Any, arguments_class: Any) -> float:
    """Return the seconds a step of a Trainer, without its first step."""
    from transformers import TrainerCallback

    class Stopwatch(TrainerCallback):
        """Take the time at the end of each step."""

        def __init__(self) -> None:
            self.ends: list[float] = []

        def on_step_end(self, *given: Any, **named: Any) -> None:
            self.ends.append(time.perf_counter())

    watch = Stopwatch()
    arguments = arguments_class(
        tempfile.mkdtemp(),
        max_steps=args.steps + 1,
        per_device_train_batch_size=args.batch_size,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,  # the head alone is measured there too
    )
    trainer_class(model=model, args=arguments, train_dataset=rows, callbacks=[watch]).train()
    return (watch.ends[-1] - watch.ends[0]) / args.steps


def head_step(args: argparse.Namespace, layers: str, pooling: str) -> float:
    """Return the seconds of forward, backward and Adam's step of the self-model alone, the median of 5."""
    head = wrapped(args, layers, pooling).self_model_head
    optimizer = torch.optim.AdamW(head.parameters(), fused=True)
    places = args.batch_size
    if pooling == "tokens":
        places *= args.length
    features = torch.randn(places, head.in_features, requires_grad=True)
    targets = torch.randn(places, head.out_features)
    seconds = []
    for _ in range(6):
        start = time.perf_counter()
        optimizer.zero_grad()
        (head(features) - targets).square().mean().backward()
        optimizer.step()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])
