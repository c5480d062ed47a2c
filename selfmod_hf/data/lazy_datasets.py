"""The package `datasets`, imported when it is first used.

Digits, files of tensors and data in memory need no `datasets`. A machine without it trains with these.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import datasets as datasets
else:

    class _Lazy:
        """Stand for a module until one of its names is read."""

        def __getattr__(self, name: str) -> Any:
            return getattr(import_module("datasets"), name)

    datasets = _Lazy()


def is_dataset(data: Any) -> bool:
    """Return whether data are a `datasets.Dataset`. Without the package there are none."""
    return "datasets" in sys.modules and isinstance(data, datasets.Dataset)
