"""`Rows`: some rows of one split of a data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .lazy_datasets import datasets


@dataclass(frozen=True)
class Rows:
    """Hold rows of one split.

    Attributes:
        data: the rows.
        split: the data set's name of the split.
        numbers: (N,), number of each row within the split, for errors.
    """

    data: datasets.Dataset
    split: str
    numbers: np.ndarray

    def __len__(self) -> int:
        return len(self.numbers)

    def take(self, places: Sequence[int] | np.ndarray) -> Rows:
        """Return the rows at these places. All places in their order give the object itself."""
        places = np.asarray(places, dtype=np.int64)
        everything = np.arange(len(self))
        if np.array_equal(places, everything):
            return self
        data = self.data.select(places)
        return Rows(data, self.split, self.numbers[places])

    def column(self, name: str) -> pa.ChunkedArray:
        """Return a column as it is stored, with images undecoded and labels of a ClassLabel as integers."""
        data = self.data.select_columns([name])
        table = data.with_format("arrow")[:]
        return table[name]

    def encoded(self, name: str) -> tuple[np.ndarray, list[Any]]:
        """Return each row's place, (N,), among the distinct values of a column, and these. The last value is None."""
        return _encoded(self.column(name).combine_chunks())

    def lists(self, name: str) -> Lists:
        """Return a column of lists."""
        column = self.column(name).combine_chunks()
        lengths = pc.list_value_length(column).fill_null(0)
        missing = column.is_null()
        return Lists(
            lengths=lengths.to_numpy(zero_copy_only=False).astype(np.int64),
            missing=missing.to_numpy(zero_copy_only=False),
            values=column.flatten(),
        )


@dataclass(frozen=True)
class Lists:
    """Hold the lists of N rows.

    Attributes:
        lengths: (N,), number of entries of each list. A missing list has none.
        missing: (N,), whether the list is missing.
        values: the entries of all lists one after another.
    """

    lengths: np.ndarray
    missing: np.ndarray
    values: pa.Array

    @property
    def rows(self) -> np.ndarray:
        """Return the place of each entry's row, (entries,)."""
        places = np.arange(len(self.lengths))
        return np.repeat(places, self.lengths)

    def encoded(self) -> tuple[np.ndarray, list[Any]]:
        """Return each entry's place, (entries,), among the distinct values, and these. The last value is None."""
        return _encoded(self.values)


def _encoded(values: pa.Array) -> tuple[np.ndarray, list[Any]]:
    """Return each value's place, (N,), among the distinct values, and these. The last value is None."""
    if pa.types.is_float16(values.type):  # older pyarrow does not compare these
        values = values.cast(pa.float32())
    dictionary = values.dictionary_encode()
    distinct = [*dictionary.dictionary.to_pylist(), None]
    places = dictionary.indices.fill_null(len(distinct) - 1)
    return places.to_numpy(), distinct
