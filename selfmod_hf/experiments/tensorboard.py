"""A sweep's figures over epochs as TensorBoard logs, one run a network."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .folder import CURVE_COLUMNS, KEYS, SweepFolder

if TYPE_CHECKING:
    import pandas as pd

SCALARS = [name for name in CURVE_COLUMNS if name not in (*KEYS, "epoch")]
FINAL = ("rlct", "rlct_standard_error")


def write_tensorboard(folder: SweepFolder, output: Path) -> None:
    """Write `output/<network>` for each finished network that has none: losses, accuracy, weight width over epochs,
    and the RLCT, where it was estimated (at the end, at least). A network's folder appears whole or not at all."""
    rows, curves = folder.rows(), folder.curves()
    for cell, (_, row) in zip(folder.finished_cells(), rows.iterrows(), strict=True):
        target = output / cell.name
        if target.is_dir():
            continue
        unfinished = output / f".{cell.name}.part"
        shutil.rmtree(unfinished, ignore_errors=True)
        own = curves[(curves[KEYS] == row[KEYS]).all(axis=1)]
        _write(unfinished, own, row)
        unfinished.rename(target)


def _write(path: Path, curve: pd.DataFrame, row: pd.Series) -> None:
    from torch.utils.tensorboard import SummaryWriter

    entries: list[dict[str, Any]] = curve.to_dict("records")
    entries[-1] |= {name: row[name] for name in FINAL}
    with SummaryWriter(str(path)) as writer:
        writer.add_text("rlct_status", f"{row['rlct_status']}: {row['rlct_status_reason']}", entries[-1]["epoch"])
        for entry in entries:
            for name in (*SCALARS, *FINAL):
                value = entry.get(name)
                if value is not None and math.isfinite(value):
                    writer.add_scalar(name, value, entry["epoch"])
