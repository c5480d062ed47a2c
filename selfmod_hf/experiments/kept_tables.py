"""Read a study of which only the tables were kept: results.parquet, curves.parquet and run.json, without networks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
from pandas.api.types import is_scalar

from ..errors import InputError
from ..json_records import CurvePoint, NetworkRow
from .folder import SweepFolder


def open_study(path: str | Path, keep_chance: bool = False) -> SweepFolder:
    """Return the results folder of a study, with its networks or with its tables alone.

    Args:
        path: the folder. If it has networks, they are read, not its tables.
        keep_chance: as in `SweepFolder`.
    """
    folder = SweepFolder(path, keep_chance)
    has_networks = any(folder.cells.glob("*/row.json"))
    if has_networks or not (folder.path / "results.parquet").is_file():
        return folder
    return KeptTables(path, keep_chance)


class KeptTables(SweepFolder):
    """Read the tables of a study whose networks are elsewhere.

    Tables of version 0.1.0 have no column `arm`, and their run.json has no arms. Both follow from width, weight and
    kind of targets.
    """

    has_networks = False

    def row_records(self) -> list[NetworkRow]:
        """Return the rows in results.parquet.

        Raises:
            InputError: the file cannot be read, or a column is missing or has a wrong type.
        """
        path = self.path / "results.parquet"
        return [NetworkRow.from_values(entry, path) for entry in _entries(path)]

    def curve_records(self) -> list[CurvePoint]:
        """Return the points in curves.parquet, with the errors of `row_records`."""
        path = self.path / "curves.parquet"
        return [CurvePoint.from_values(entry, path) for entry in _entries(path)]


def _entries(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines of a table as JSON values."""
    try:
        table = pd.read_parquet(path)
    except (ValueError, OSError) as error:  # pyarrow's errors are among them
        raise InputError("file", str(path), f"cannot be read as parquet ({error})") from error
    for line in table.to_dict("records"):
        yield {str(name): _json_value(value) for name, value in line.items()}


def _json_value(value: Any) -> Any:
    """Return a cell of a table, or None if it is empty."""
    if is_scalar(value) and pd.isna(value):
        return None
    return value
