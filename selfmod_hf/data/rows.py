"""`Rows`: some rows of one split of a data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa


@dataclass(frozen=True)
class Rows:
    """Rows of one split.

    Attributes:
        data: the rows.
        split: what the data set calls the split.
        numbers: (N,), of each row within the split, for errors.
    """

    data: datasets.Dataset
    split: str
    numbers: np.ndarray

    def __len__(self) -> int:
        return len(self.numbers)

    def take(self, places: Sequence[int] | np.ndarray) -> Rows:
        """Return the rows at these places; all in their order are the rows themselves."""
        places = np.asarray(places, dtype=np.int64)
        if np.array_equal(places, np.arange(len(self))):
            return self
        return Rows(self.data.select(places), self.split, self.numbers[places])

    def column(self, name: str) -> pa.ChunkedArray:
        """Return a column as it is stored: images undecoded, labels of a ClassLabel as integers."""
        return self.data.select_columns([name]).with_format("arrow")[:][name]

    def encoded(self, name: str) -> tuple[np.ndarray, list[Any]]:
        """Return each row's place, (N,), among the distinct values of a column, and these. The last one is None."""
        encoded = self.column(name).combine_chunks().dictionary_encode()
        distinct = [*encoded.dictionary.to_pylist(), None]
        return encoded.indices.fill_null(len(distinct) - 1).to_numpy(), distinct
