"""What autograd keeps, counted."""

from __future__ import annotations

import torch

from selfmod_hf.stacking import saved_bytes_per_copy


def test_each_storage_that_is_kept_counts_once_and_inputs_do_not():
    """The exponential is kept for its own derivative and, by two views, for that of the product."""
    weight = torch.ones(5, 3, requires_grad=True)

    def compute() -> torch.Tensor:
        found = weight.exp()
        return found.view(15) * found.view(3, 5).flatten() + weight.sin().sum()

    assert saved_bytes_per_copy(compute) == 5 * 3 * 4
