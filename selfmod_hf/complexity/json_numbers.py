"""Define how rlct.json is read: its null is NaN, and its lists of numbers are arrays."""

from __future__ import annotations

import math
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, BeforeValidator, GetPydanticSchema


def _nan_of_null(value: Any) -> Any:
    """Return NaN in place of JSON's null."""
    return math.nan if value is None else value


def _array(values: list[float]) -> NDArray[np.float64]:
    """Return a list of numbers as an array."""
    return np.array(values, dtype=np.float64)


MaybeNaN = Annotated[float, BeforeValidator(_nan_of_null)]
_Numbers = Annotated[list[MaybeNaN], AfterValidator(_array)]
Numbers = Annotated[NDArray[np.float64], GetPydanticSchema(lambda _, schema_of: schema_of(_Numbers))]
