"""Fine-tune a small pretrained BERT encoder on IMDB at several self-model weights, and estimate its last block's RLCT.

`python scripts/pretrained_encoder.py FOLDER --imdb DATASET` trains the encoder whole and with LoRA. Each finished
network is a line of a JSON Lines file. A run that was stopped goes on behind the last line.

The RLCT is that of the last block at the theory preset. All blocks below stay at w*, so their outputs are computed once
and sampled as data. Training and sampling compute in bfloat16, weights are float32.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from ground_truth_table import read_rows
from torch import Tensor, nn

Row = dict[str, Any]

MEASURES = ("accuracy", "task_loss", "width", "rlct")


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("encoder", help="folder or Hub id of a BERT encoder, such as all-MiniLM-L6-v2")
    parser.add_argument("--imdb", default=None, help="IMDB in Hub layout; default: from the Hub")
    parser.add_argument("--aux_weights", nargs="*", type=float, default=[0.0, 1.0, 10.0])
    parser.add_argument("--seeds", nargs="*", type=int, default=[1, 2, 3])
    parser.add_argument("--samples", type=int, default=2000, help="reviews to train and as many to test")
    parser.add_argument("--max_length", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--step_size", type=float, default=1e-4)
    parser.add_argument("--localization", type=float, default=1000.0)
    parser.add_argument("--num_draws", type=int, default=300)
    parser.add_argument("--file", type=Path, default=Path("runs/encoder/networks.jsonl"))
    parser.add_argument("--only_print", action="store_true", help="the table of what the file holds")
    return parser.parse_args()


def main() -> None:
    """Train and measure what the file lacks, and print the table."""
    args = parse()
    args.file.parent.mkdir(parents=True, exist_ok=True)
    rows = read_rows(args.file)
    if not args.only_print:
        data = load(args)
        done = {(row["way"], row["aux_weight"], row["seed"]) for row in rows}
        for seed in args.seeds:
            for way in ("full", "lora"):
                for aux_weight in args.aux_weights:
                    if (way, aux_weight, seed) in done:
                        continue
                    row = measure(args, data, way, aux_weight, seed)
                    rows.append(row)
                    with args.file.open("a", encoding="utf-8") as out:
                        out.write(json.dumps(row) + "\n")
                    print(row, flush=True)
    print_table(rows)


def load(args: argparse.Namespace) -> Any:
    """Return the reviews."""
    from selfmod_hf import TaskSpec, get_task, load_texts

    task = get_task("imdb")
    if args.imdb is not None:
        task = TaskSpec(name="imdb", dataset_name=args.imdb)
    sizes = {"max_train_samples": args.samples, "max_test_samples": args.samples}
    return load_texts(task, tokenizer=args.encoder, padded=True, max_length=args.max_length, **sizes)


def measure(args: argparse.Namespace, data: Any, way: str, aux_weight: float, seed: int) -> Row:
    """Train one network and return its row."""
    from selfmod_hf import weight_width

    started = time.time()
    trainer = train(args, data, way, aux_weight, seed)
    trained = time.time()
    metrics = trainer.evaluate()
    plain = trainer.model.eval().prune()
    result = rlct_of_last_block(args, plain, data.train)
    return {
        "way": way,
        "aux_weight": aux_weight,
        "seed": seed,
        "accuracy": metrics["eval_accuracy"],
        "task_loss": metrics["eval_classification_loss"],
        "self_modeling_loss": metrics.get("eval_self_modeling_loss"),
        "width": weight_width(plain).sd,
        "rlct": result.llc,
        "standard_error": result.standard_error,
        "status": result.status,
        "reason": result.status_reason,
        "summary": result.summary(),
        "training_seconds": trained - started,
        "rlct_seconds": time.time() - trained,
    }


def train(args: argparse.Namespace, data: Any, way: str, aux_weight: float, seed: int) -> Any:
    """Return the trainer of one trained network."""
    from peft import LoraConfig
    from transformers import set_seed

    from selfmod_hf import SelfModelingForSequenceClassification, SelfModelingTrainer, SelfModelingTrainingArguments

    set_seed(seed)
    fields: dict[str, Any] = {
        "target_layers": ["encoder.layer.3.output", "encoder.layer.5.output"],
        "aux_weight": aux_weight,
    }
    learning_rate = 5e-5
    if way == "lora":
        fields["adapter"] = LoraConfig(r=8, lora_alpha=16, target_modules=["query", "value"])
        learning_rate = 5e-4
    model = SelfModelingForSequenceClassification.from_backbone_pretrained(args.encoder, head="own", **fields)
    arguments = SelfModelingTrainingArguments(
        str(args.file.parent / "trainer"),
        num_train_epochs=args.epochs,
        per_device_train_batch_size=16,
        per_device_eval_batch_size=64,
        learning_rate=learning_rate,
        bf16=True,
        seed=seed,
        save_strategy="no",
        report_to=[],
    )
    trainer = SelfModelingTrainer(model, arguments, train_dataset=data.train, eval_dataset=data.test)
    trainer.train()
    return trainer


class LastBlock(nn.Module):
    """Compute the logits of a BERT classifier from the input of its last block.

    The classifier reads the first token alone. So queries, and all that follows the attention, are computed for that
    token, which is a sixth of the block's work.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.block = model.bert.encoder.layer[-1]
        self.pooler = model.bert.pooler
        self.classifier = model.classifier
        self.heads = model.config.num_attention_heads

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Return the logits (B, K) of hidden (B, T, F) and mask (B, T), 1 for a token and 0 for padding."""
        attention = self.block.attention
        first = hidden[:, :1]  # (B, 1, F)
        query = self.by_head(attention.self.query(first))  # (B, H, 1, F/H)
        key = self.by_head(attention.self.key(hidden))  # (B, H, T, F/H)
        value = self.by_head(attention.self.value(hidden))
        scores = query @ key.transpose(-1, -2) / key.shape[-1] ** 0.5  # (B, H, 1, T)
        scores = scores + (1 - mask[:, None, None, :].to(hidden.dtype)) * torch.finfo(hidden.dtype).min
        read = scores.softmax(-1) @ value  # (B, H, 1, F/H)
        attended = attention.output(read.transpose(1, 2).flatten(2), first)
        found = self.block.output(self.block.intermediate(attended), attended)  # (B, 1, F)
        return self.classifier(self.pooler(found))

    def by_head(self, features: Tensor) -> Tensor:
        """Return (B, H, T, F/H) of features (B, T, F)."""
        return features.unflatten(-1, (self.heads, -1)).transpose(1, 2)


@torch.no_grad()
def below_last_block(model: Any, data: Any) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Return the inputs of the last block, the labels (n,), and the first logits (64, K) to compare with."""
    kept = []
    model.bert.encoder.layer[-1].register_forward_pre_hook(lambda module, given: kept.append(given[0]))
    masks, labels, logits = [], [], []
    for first in range(0, len(data), 64):
        batch = data.batch(range(first, min(first + 64, len(data))))
        labels.append(batch.pop("labels"))
        masks.append(batch["attention_mask"])
        logits.append(model(**batch).logits)
    longest = max(part.shape[1] for part in kept)
    hidden = torch.cat([nn.functional.pad(part, (0, 0, 0, longest - part.shape[1])) for part in kept])
    mask = torch.cat([nn.functional.pad(part, (0, longest - part.shape[1])) for part in masks])
    return {"hidden": hidden, "mask": mask}, torch.cat(labels), torch.cat(logits)


def rlct_of_last_block(args: argparse.Namespace, plain: Any, data: Any) -> Any:
    """Return the estimate of the last block's RLCT of a plain classifier."""
    from selfmod_hf.complexity import cross_entropy, estimate_llc, llc_preset

    plain.eval()
    plain.set_attn_implementation("eager")
    inputs, labels, logits = below_last_block(plain, data)
    module = LastBlock(plain).eval()
    first = {name: value[:64] for name, value in inputs.items()}
    with torch.no_grad():
        torch.testing.assert_close(module(**first), logits[:64], rtol=1e-4, atol=1e-4)
    settings = llc_preset(
        "theory",
        "imdb",
        sampler="sgld",
        step_size=args.step_size,
        localization=args.localization,
        num_draws=args.num_draws,
        batch_size=32,
        num_chains=4,
        dtype=torch.bfloat16,
    )
    return estimate_llc(module, inputs, labels, loss_fn=cross_entropy, parameters="block.*", **settings)


def print_table(rows: list[Row]) -> None:
    """Print the mean and the standard deviation over seeds of each arm."""
    print(f"| way | AW | networks | {' | '.join(MEASURES)} | statuses |\n|{'---|' * (len(MEASURES) + 4)}")
    for way, aux_weight in dict.fromkeys((row["way"], row["aux_weight"]) for row in rows):
        own = [row for row in rows if (row["way"], row["aux_weight"]) == (way, aux_weight)]
        parts = [spread_of([row[name] for row in own]) for name in MEASURES]
        statuses = ", ".join(sorted({row["status"] for row in own}))
        print(f"| {way} | {aux_weight:g} | {len(own)} | {' | '.join(parts)} | {statuses} |")


def spread_of(values: list[float]) -> str:
    """Return mean and standard deviation as text."""
    if len(values) < 2:
        return f"{values[0]:.4f}"
    return f"{statistics.fmean(values):.4f} ± {statistics.stdev(values):.4f}"


if __name__ == "__main__":
    main()
