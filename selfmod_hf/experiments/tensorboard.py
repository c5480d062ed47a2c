"""A sweep's figures over epochs as TensorBoard logs, one run a network.

Names and steps are those that `selfmod train --report_to tensorboard` writes, so that both lie over each other.
"""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..trainer.trackers import TensorBoard
from .folder import KEYS, SweepFolder

if TYPE_CHECKING:
    import pandas as pd

# a column of `curves` by the name under which the Trainer logs it
TAGS = {
    "accuracy": "eval/accuracy",
    "loss": "train/loss",
    "classification_loss": "train/classification_loss",
    "self_modeling_loss": "train/self_modeling_loss",
    "weight_width": "train/weight_width",
    "rlct": "train/rlct",
    "rlct_standard_error": "train/rlct_standard_error",
    "epoch": "train/epoch",
}
FINAL = ("rlct", "rlct_standard_error")
SETTINGS = ("task", "aux_weight", "detach_targets", "seed", "learning_rate", "batch_size")


def write_tensorboard(folder: SweepFolder, output: Path) -> None:
    """Write `output/<network>` for each finished network that has none.

    It holds losses, accuracy, weight width over epochs, the RLCT where it was estimated (at the end, at least), the
    histogram of the last layer's weights at the end, and the hyperparameters. A network's folder appears whole or not
    at all.
    """
    rows, curves = folder.rows(), folder.curves()
    samples = folder.read_run().get("train_samples")
    for cell, (_, row) in zip(folder.finished_cells(), rows.iterrows(), strict=True):
        target = output / cell.name
        if target.is_dir():
            continue
        unfinished = output / f".{cell.name}.part"
        shutil.rmtree(unfinished, ignore_errors=True)
        own = curves[(curves[KEYS] == row[KEYS]).all(axis=1)]
        _write(unfinished, folder, own, row, samples)
        unfinished.rename(target)


def _write(path: Path, folder: SweepFolder, curve: pd.DataFrame, row: pd.Series, samples: int | None) -> None:
    from torch.utils.tensorboard import SummaryWriter

    # a folder that does not know its number of samples counts epochs
    steps_per_epoch = 1 if samples is None else math.ceil(samples / row["batch_size"])
    entries: list[dict[str, Any]] = curve.to_dict("records")
    entries[-1] |= {name: row[name] for name in FINAL}
    last = round(entries[-1]["epoch"] * steps_per_epoch)
    with SummaryWriter(str(path)) as writer:
        tracker = TensorBoard(writer)
        tracker.settings(_settings(row))
        writer.add_text("train/rlct_status", f"{row['rlct_status']}: {row['rlct_status_reason']}", last)
        weights = folder.final_weights(row)
        if all(map(math.isfinite, weights)):
            tracker.histogram("classifier.weight", weights, last)
        for entry in entries:
            for name, tag in TAGS.items():
                value = entry.get(name)
                if value is not None and math.isfinite(value):
                    writer.add_scalar(tag, value, round(entry["epoch"] * steps_per_epoch))


def _settings(row: pd.Series) -> dict[str, Any]:
    """Return a network's hyperparameters, by the names that the Trainer gives them."""
    found = {"hidden_sizes": [int(row["hidden_size"])], "num_train_epochs": float(row["num_epochs"])}
    found |= {name: row[name] for name in SETTINGS}
    # pandas' numbers are numpy's
    return {name: value.item() if hasattr(value, "item") else value for name, value in found.items()}
