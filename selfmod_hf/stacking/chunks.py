"""Compute how many copies fit into a memory budget, and cut a larger number of copies into ranges."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor


def copies_that_fit(bytes_per_copy: int, budget: int) -> int:
    """Return the largest number of copies within `budget` bytes, at least one.

    A single copy over the budget still runs, because nothing smaller exists.

    Example:
        >>> copies_that_fit(bytes_per_copy=300, budget=1000)
        3
    """
    return max(1, budget // max(1, bytes_per_copy))


def chunk_ranges(total: int, size: int) -> Iterator[range]:
    """Yield consecutive pieces of `range(total)`, each of at most `size`, as even as possible.

    Example:
        >>> list(chunk_ranges(total=5, size=3))
        [range(0, 2), range(2, 5)]
    """
    pieces = -(-total // max(1, size))  # rounded up
    for piece in range(pieces):
        start = total * piece // pieces
        stop = total * (piece + 1) // pieces
        yield range(start, stop)


def even_size(total: int, most: int) -> int:
    """Return a size of at most `most`, if possible one that divides `total`.

    Pieces of `total` then have one shape, so a computation is recorded once. A divisor below half of `most` is not
    taken.

    Example:
        >>> even_size(total=12, most=5), even_size(total=13, most=5)
        (4, 5)
    """
    most = max(1, min(most, total))
    divisor = most
    while total % divisor != 0:
        divisor -= 1
    if 2 * divisor >= most:
        return divisor
    return most


def saved_bytes_per_copy(compute: Callable[[], Tensor]) -> int:
    """Return the bytes kept by autograd for the backward pass of `compute`, run once for one copy.

    Each storage counts once, even if several views of it are saved.

    Example:
        >>> weight = torch.ones(3, requires_grad=True)
        >>> saved_bytes_per_copy(lambda: weight.exp().sum())
        12
    """
    seen: dict[int, int] = {}  # address of a storage -> its bytes

    def pack(tensor: Tensor) -> Tensor:
        if not tensor.is_leaf:
            storage = tensor.untyped_storage()
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    def unpack(tensor: Tensor) -> Tensor:
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        result = compute()
    del result
    return sum(seen.values())
