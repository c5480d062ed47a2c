"""Shorten a recorded computation: the same numbers, to rounding, by fewer and larger operations.

What `vmap` records is full of views that change nothing, computes some products transposed, and multiplies an input
that all copies share once per copy. These rules put that right:

* an operation whose result is its argument (a view to the same shape, a copy in the same layout, a product with 1)
  goes;
* `(A B)^T` becomes `B^T A^T`, so that a gradient comes out in its parameter's own layout;
* `A B_k` for all copies k, with one A, becomes one product `A [B_1 ... B_K]`; likewise `A_k B`;
* an operation is called by its function in `torch` where there is one.
"""

from __future__ import annotations

import operator
from types import BuiltinFunctionType
from typing import Any

import torch
from torch._ops import OpOverload
from torch.fx import Graph, Node
from torch.fx.node import map_arg

_ATEN = torch.ops.aten
_VIEWS = {_ATEN.alias.default, _ATEN.view.default, _ATEN._unsafe_view.default, _ATEN.expand.default}
_SAME_NUMBERS = {*_VIEWS, _ATEN.clone.default}
_MUL = {_ATEN.mul.Scalar, _ATEN.mul.Tensor}


def shorten(graph: Graph) -> None:
    """Apply the rules to a graph of make_fx, in place; its nodes carry `meta["val"]`.

    A graph that writes into its tensors is left as it is: there two names for one tensor are no matter of taste.
    """
    calls = [node for node in graph.nodes if node.op == "call_function"]
    if any(_writes(node) for node in calls):
        return
    for node in graph.nodes:
        _keep_the_layout(node)
    for node in calls:
        _drop_if_idle(node)
    for node in graph.find_nodes(op="call_function", target=_ATEN.transpose.int):
        _transpose_the_factors(graph, node)
    for node in graph.find_nodes(op="call_function", target=_ATEN.bmm.default):
        _share_a_factor(graph, node)
    for node in graph.find_nodes(op="call_function", target=_ATEN.clone.default):
        _drop_if_idle(node)  # a copy into a layout that the rules have produced already
    for target in (_ATEN.view.default, _ATEN._unsafe_view.default):
        for node in graph.find_nodes(op="call_function", target=target):
            node.target = _ATEN.reshape.default  # what a rule produced may lie in memory in another order
    graph.eliminate_dead_code()
    for node in graph.nodes:
        _call_torch(node)


def _writes(node: Node) -> bool:
    return node.target is not operator.getitem and node.target._schema.is_mutable  # type: ignore[union-attr]


def _keep_the_layout(node: Node) -> None:
    """Of each value keep shape, strides and type: a tensor without memory, which operations accept."""
    value = node.meta.get("val")
    if isinstance(value, torch.Tensor):
        node.meta["val"] = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")


def _drop_if_idle(node: Node) -> None:
    source, after = node.args[0] if node.args else None, node.meta.get("val")
    before = source.meta.get("val") if isinstance(source, Node) else None
    if not isinstance(source, Node) or not isinstance(before, torch.Tensor) or not isinstance(after, torch.Tensor):
        return
    same = (before.shape, before.dtype) == (after.shape, after.dtype)
    times_one = node.target in _MUL and node.args[1] == 1
    if same and (times_one or (node.target in _SAME_NUMBERS and before.stride() == after.stride())):
        node.replace_all_uses_with(source)
        node.graph.erase_node(node)


def _transpose_the_factors(graph: Graph, node: Node) -> None:
    product, *dims = node.args
    assert isinstance(product, Node)
    if product.target is not _ATEN.bmm.default or len(product.users) > 1 or {d % 3 for d in dims} != {1, 2}:  # type: ignore[operator]
        return
    with graph.inserting_before(product):
        left, right = (_transposed(graph, factor) for factor in product.args)
        _replace(node, _call(graph, _ATEN.bmm.default, right, left))


def _transposed(graph: Graph, factor: Any) -> Node:
    if factor.target is _ATEN.transpose.int and {d % 3 for d in factor.args[1:]} == {1, 2}:
        return factor.args[0]
    return _call(graph, _ATEN.transpose.int, factor, 1, 2)


def _share_a_factor(graph: Graph, node: Node) -> None:
    left: Any
    right: Any
    left, right = node.args
    (K, m, k), n = left.meta["val"].shape, right.meta["val"].shape[2]
    with graph.inserting_before(node):
        if _is_shared(left):
            wide = _call(
                graph, _ATEN.reshape.default, _call(graph, _ATEN.permute.default, right, [1, 0, 2]), [k, K * n]
            )
            product = _call(graph, _ATEN.mm.default, _call(graph, _ATEN.select.int, left, 0, 0), wide)  # (m, K n)
            parts = _call(graph, _ATEN.reshape.default, product, [m, K, n])
            _replace(node, _call(graph, _ATEN.permute.default, parts, [1, 0, 2]))
        elif _is_shared(right):
            tall = _call(graph, _ATEN.reshape.default, left, [K * m, k])
            product = _call(graph, _ATEN.mm.default, tall, _call(graph, _ATEN.select.int, right, 0, 0))  # (K m, n)
            _replace(node, _call(graph, _ATEN.reshape.default, product, [K, m, n]))


def _is_shared(factor: Node) -> bool:
    value = factor.meta["val"]
    return value.shape[0] > 1 and value.stride()[0] == 0


def _call(graph: Graph, target: Any, *args: Any) -> Node:
    """A new node, and its value's shape and strides."""
    node = graph.call_function(target, args)
    node.meta["val"] = target(*(arg.meta["val"] if isinstance(arg, Node) else arg for arg in args))
    return node


def _replace(old: Node, new: Node) -> None:
    old.replace_all_uses_with(new)
    old.graph.erase_node(old)


def _call_torch(node: Node) -> None:
    """Call an operation by its function in `torch`, which takes about half as long to begin as `torch.ops`."""
    if not isinstance(node.target, OpOverload) or node.target.namespace != "aten":
        return
    name = node.target._schema.name.removeprefix("aten::")
    function = getattr(torch, name, None)
    if not isinstance(function, BuiltinFunctionType):
        return  # a method, an operation that autograd alone uses, or a Python function that means something else
    given = node.meta.get("val")
    try:
        found = function(*_values(node.args), **_values(node.kwargs))
    except (TypeError, RuntimeError, NotImplementedError):  # it takes other arguments
        return
    if isinstance(given, torch.Tensor) and (found.shape, found.dtype) != (given.shape, given.dtype):
        return
    node.target = function


def _values(arguments: Any) -> Any:
    """Return arguments of a node, each other node replaced by its value's layout."""
    return map_arg(arguments, lambda node: node.meta["val"])
