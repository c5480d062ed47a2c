"""`Rows`: some rows of one split of a data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
import pyarrow as pa


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
        dictionary = self.column(name).combine_chunks().dictionary_encode()
        distinct = [*dictionary.dictionary.to_pylist(), None]
        places = dictionary.indices.fill_null(len(distinct) - 1)
        return places.to_numpy(), distinct
