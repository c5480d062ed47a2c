"""Write a sweep's figures over epochs as TensorBoard logs, one run per network.

Names and steps are those of `selfmod train --report_to tensorboard`, so that both can be shown in one chart.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from torch.utils.tensorboard import SummaryWriter

from ..experiments.folder import KEYS, SweepFolder
from ..json_records import METRICS
from ..trainer.trackers import TensorBoard
from .sweep_results import SweepResults, read_results

# a column of `curves` by the name under which the Trainer logs it
TAGS = {
    **{name: f"eval/{name}" for name in METRICS},
    "loss": "train/loss",
    "classification_loss": "train/classification_loss",
    "self_modeling_loss": "train/self_modeling_loss",
    "weight_width": "train/weight_width",
    "rlct": "train/rlct",
    "rlct_standard_error": "train/rlct_standard_error",
    "epoch": "train/epoch",
}
FINAL = ("rlct", "rlct_standard_error")
SETTINGS = ("task", "arm", "aux_weight", "detach_targets", "seed", "learning_rate", "batch_size")


def write_tensorboard(folder: SweepFolder, output: Path) -> None:
    """Write `output/<network>` for each finished network without one.

    It holds losses, metrics and weight width over epochs, the RLCT wherever it was estimated (at least at the end),
    further measures and the histogram of the last layer's weights at the end, the arm and the hyperparameters. A
    network's folder appears complete or not at all.

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
        is_equal = results.curves[KEYS] == row[KEYS]
        own = is_equal.all(axis=1)
        steps_per_epoch = 1  # a folder without a number of samples counts epochs
        if samples is not None:
            steps_per_epoch = math.ceil(samples / row["batch_size"])
        with SummaryWriter(str(unfinished)) as writer:
            _write(
                writer,
                results,
                results.curves[own],
                row,
                steps_per_epoch,
            )
        unfinished.rename(target)


def _write(
    writer: SummaryWriter,
    results: SweepResults,
    curve: pd.DataFrame,
    row: pd.Series,
    steps_per_epoch: int,
) -> None:
    entries: list[dict[str, Any]] = curve.to_dict("records")
    measures = [name for name in results.further_measures if name not in METRICS]
    for name in (*FINAL, *measures):
        entries[-1][name] = row[name]
    tags = dict(TAGS)
    for name in measures:
        tags[name] = f"measures/{name}"
    weights = results.folder.final_weights(row)
    last = round(entries[-1]["epoch"] * steps_per_epoch)
    tracker = TensorBoard(writer)
    tracker.settings(_settings(row, results.axes))
    status = row["rlct_status"]
    reason = row["rlct_status_reason"]
    writer.add_text("train/rlct_status", f"{status}: {reason}", last)
    if all(map(math.isfinite, weights)):
        tracker.histogram("classifier.weight", weights, last)
    for entry in entries:
        step = round(entry["epoch"] * steps_per_epoch)
        for tag, value in _scalars(entry, tags):
            writer.add_scalar(tag, value, step)


def _scalars(entry: dict[str, Any], tags: Mapping[str, str]) -> Iterator[tuple[str, float]]:
    """Yield tag and value of each finite number of an epoch."""
    for name, tag in tags.items():
        value = entry.get(name)
        if value is not None and math.isfinite(value):
            yield tag, value


def _settings(row: pd.Series, axes: Sequence[str]) -> dict[str, Any]:
    """Return a network's arm and hyperparameters, by the names that the Trainer gives them.

    Args:
        row: of the network.
        axes: columns in which arms differ.
    """
    found: dict[str, Any] = {"num_train_epochs": float(row["num_epochs"])}
    if not pd.isna(row["hidden_size"]):
        found["hidden_sizes"] = [int(row["hidden_size"])]
    for name in (*SETTINGS, *axes):
        value = row[name]
        if pd.isna(value):
            continue
        if name == "hidden_sizes":  # all layers, as in "64-32"
            value = [int(size) for size in value.split("-")]
        if hasattr(value, "item"):  # pandas' numbers are numpy's
            value = value.item()
        found[name] = value
    return found
