"""Which products are rewritten."""

from __future__ import annotations

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from selfmod_hf.stacking.shorten import shorten

A, B = torch.randn(3, 4, 5), torch.randn(3, 5, 2)


def both(a, b):
    product = torch.bmm(a, b)
    return product, product.transpose(1, 2)


FUNCTIONS = {
    "both layouts": both,
    "the transposed one": lambda a, b: torch.bmm(a, b).transpose(-1, -2),
    "of a transposed factor": lambda a, b: torch.bmm(a.transpose(1, 2).contiguous().transpose(2, 1), b).transpose(1, 2),
    "of a factor with copies last": lambda a, b: torch.bmm(a.transpose(0, 1).contiguous().transpose(0, 1), b).mT,
    "copies last": lambda a, b: torch.bmm(a, b).transpose(0, 1),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_product_is_computed_once_and_is_the_same(name):
    recorded = make_fx(FUNCTIONS[name], tracing_mode="fake")(A, B)
    shorten(recorded.graph)
    recorded.recompile()
    assert len(recorded.graph.find_nodes(op="call_function", target=torch.bmm)) == 1
    torch.testing.assert_close(recorded(A, B), FUNCTIONS[name](A, B))
