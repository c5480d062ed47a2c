"""Write a sweep's figures over epochs as TensorBoard logs, one run per network.

Names and steps are those of `selfmod train --report_to tensorboard`, so that both can be shown in one chart.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
from torch.utils.tensorboard import SummaryWriter

from ..experiments.folder import KEYS, SweepFolder
from ..trainer.trackers import TensorBoard
from .sweep_results import read_results

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
    """Write `output/<network>` for each finished network without one.

    It holds losses, accuracy and weight width over epochs, the RLCT wherever it was estimated (at least at the end),
    the histogram of the last layer's weights at the end, and the hyperparameters. A network's folder appears complete
    or not at all.

    Raises:
        InputError: no network is finished.
    """
    results = read_results(folder)
    samples = None if results.run is None else results.run.train_samples
    for cell, (_, row) in zip(results.cells, results.rows.iterrows(), strict=True):
        target = output / cell.name
        if target.is_dir():
            continue
        unfinished = output / f".{cell.name}.part"
        shutil.rmtree(unfinished, ignore_errors=True)
        own = (results.curves[KEYS] == row[KEYS]).all(axis=1)
        # a folder without a number of samples counts epochs
        steps_per_epoch = 1 if samples is None else math.ceil(samples / row["batch_size"])
        with SummaryWriter(str(unfinished)) as writer:
            _write(
                writer,
                results.curves[own],
                row,
                folder.final_weights(row),
                steps_per_epoch,
            )
        unfinished.rename(target)


def _write(
    writer: SummaryWriter,
    curve: pd.DataFrame,
    row: pd.Series,
    weights: Any,
    steps_per_epoch: int,
) -> None:
    entries: list[dict[str, Any]] = curve.to_dict("records")
    for name in FINAL:
        entries[-1][name] = row[name]
    last = round(entries[-1]["epoch"] * steps_per_epoch)
    tracker = TensorBoard(writer)
    tracker.settings(_settings(row))
    writer.add_text("train/rlct_status", f"{row['rlct_status']}: {row['rlct_status_reason']}", last)
    if all(map(math.isfinite, weights)):
        tracker.histogram("classifier.weight", weights, last)
    for entry in entries:
        step = round(entry["epoch"] * steps_per_epoch)
        for tag, value in _scalars(entry):
            writer.add_scalar(tag, value, step)


def _scalars(entry: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """Yield tag and value of each finite number of an epoch."""
    for name, tag in TAGS.items():
        value = entry.get(name)
        if value is not None and math.isfinite(value):
            yield tag, value


def _settings(row: pd.Series) -> dict[str, Any]:
    """Return a network's hyperparameters, by the names that the Trainer gives them."""
    found = {"hidden_sizes": [int(row["hidden_size"])], "num_train_epochs": float(row["num_epochs"])}
    for name in SETTINGS:
        value = row[name]
        found[name] = value.item() if hasattr(value, "item") else value  # pandas' numbers are numpy's
    return found
