"""How many copies fit into a memory budget, and the ranges that a larger number of copies is cut into."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor


def copies_that_fit(bytes_per_copy: int, budget: int) -> int:
    """Return the largest number of copies within `budget` bytes, at least one.

    A single copy over the budget runs all the same, because it cannot be cut into anything smaller.
    """
    return max(1, budget // max(1, bytes_per_copy))


def chunk_ranges(total: int, size: int) -> Iterator[range]:
    """`range(total)` in consecutive pieces of at most `size`, as even as possible."""
    pieces = -(-total // max(1, size))
    for piece in range(pieces):
        yield range(total * piece // pieces, total * (piece + 1) // pieces)


def even_size(total: int, most: int) -> int:
    """A size of at most `most` whose pieces of `total` are all of one shape, where that costs no more than half of it.

    A computation that is recorded for its shapes is then recorded once.
    """
    most = max(1, min(most, total))
    divisor = next(size for size in range(most, 0, -1) if total % size == 0)
    return divisor if 2 * divisor >= most else most


def saved_bytes_per_copy(compute: Callable[[], Tensor]) -> int:
    """Bytes that autograd keeps for the backward pass of `compute`, run once for one copy.

    Each storage counts once, however often views of it are saved.
    """
    seen: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if not tensor.is_leaf:
            storage = tensor.untyped_storage()
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = compute()
    del result
    return sum(seen.values())
