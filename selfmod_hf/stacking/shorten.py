"""Shorten a recorded computation: the same numbers, to rounding, by fewer and larger operations.

The recording of a `vmap` has three faults. It is full of views that change nothing, it computes some products
transposed, and it multiplies an input that all copies share once per copy. These rules repair that:

* An operation is removed if its result is its argument (a view to the same shape, a copy in the same layout, a product
  with 1).
* `(A B)^T` becomes `B^T A^T`. A gradient is then computed in the layout of its parameter.
* `A B_k` for all copies k, with one A, becomes one product `A [B_1 ... B_K]`. `A_k B` is treated alike.
* An operation is called by its function in `torch`, if one exists.

A rule that rewrites an operation is a function (node, emit) -> new node. `emit` adds an operation to the graph. The
result None means that the rule does not apply.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from types import BuiltinFunctionType
from typing import Any

import torch
from torch._ops import OpOverload
from torch.fx import Graph, Node
from torch.fx.node import map_arg

_ATEN = torch.ops.aten
_BMM, _MM = _ATEN.bmm.default, _ATEN.mm.default
_CLONE = _ATEN.clone.default
_PERMUTE = _ATEN.permute.default
_RESHAPE = _ATEN.reshape.default
_SELECT = _ATEN.select.int
_TRANSPOSE = _ATEN.transpose.int
_VIEW, _UNSAFE_VIEW = _ATEN.view.default, _ATEN._unsafe_view.default
_SAME_NUMBERS = {_ATEN.alias.default, _ATEN.expand.default, _CLONE, _VIEW, _UNSAFE_VIEW}
_PRODUCTS = {_ATEN.mul.Scalar, _ATEN.mul.Tensor}
_MATRIX = {1, 2}  # dimensions of the matrices in a batch (K, m, n)

Emit = Callable[..., Node]  # (operation, *arguments) -> node
Rule = Callable[[Node, Emit], Node | None]


def shorten(graph: Graph) -> None:
    """Apply the rules to a graph of make_fx, in place. Its nodes have a tensor in `meta["val"]`.

    A graph that writes into its tensors does not change, because it may read a tensor by another name.
    """
    calls = [node for node in graph.nodes if node.op == "call_function"]
    for node in calls:
        if node.target is not operator.getitem and node.target._schema.is_mutable:
            return
    for node in graph.nodes:
        _keep_the_layout(node)
    for node in calls:
        _drop_if_idle(node)

    emit = functools.partial(_emit, graph)
    _rewrite(graph, _TRANSPOSE, _transpose_the_factors, emit)
    _rewrite(graph, _BMM, _share_a_factor, emit)
    for node in graph.find_nodes(op="call_function", target=_CLONE):
        _drop_if_idle(node)  # a copy into a layout that the rules have already produced
    for target in (_VIEW, _UNSAFE_VIEW):
        for node in graph.find_nodes(op="call_function", target=target):
            node.target = _RESHAPE  # the result of a rule may lie in memory in another order
    graph.eliminate_dead_code()
    for node in graph.nodes:
        _call_torch(node)


def _rewrite(graph: Graph, target: Any, rule: Rule, emit: Emit) -> None:
    """Replace each operation of one kind by the result of a rule."""
    for node in graph.find_nodes(op="call_function", target=target):
        with graph.inserting_before(node):
            replacement = rule(node, emit)
        if replacement is not None:
            node.replace_all_uses_with(replacement)
            graph.erase_node(node)


def _keep_the_layout(node: Node) -> None:
    """Replace the node's tensor by one without memory, of equal shape, strides and type. Operations accept it."""
    value = node.meta.get("val")
    if isinstance(value, torch.Tensor):
        strides = value.stride()
        layout = torch.empty_strided(value.shape, strides, dtype=value.dtype, device="meta")
        node.meta["val"] = layout


def _drop_if_idle(node: Node) -> None:
    """Remove an operation if its result is its first argument."""
    if node.target not in _SAME_NUMBERS and node.target not in _PRODUCTS:
        return
    source: Any = node.args[0]
    before = source.meta.get("val")
    if not isinstance(before, torch.Tensor):
        return
    after = node.meta["val"]
    if before.shape != after.shape:
        return
    if before.dtype != after.dtype:
        return
    idle = before.stride() == after.stride()
    if node.target in _PRODUCTS:
        idle = node.args[1] == 1
    if idle:
        node.replace_all_uses_with(source)
        node.graph.erase_node(node)


def _transpose_the_factors(node: Node, emit: Emit) -> Node | None:
    """Return B^T A^T for (A B)^T. A and B are batches of matrices."""
    product: Any
    product, first_dim, second_dim = node.args
    dims = {first_dim % 3, second_dim % 3}  # type: ignore[operator]
    if product.target is not _BMM or dims != _MATRIX:
        return None
    if len(product.users) > 1:
        return None
    transposed = []
    for factor in product.args:
        if factor.target is _TRANSPOSE and {dim % 3 for dim in factor.args[1:]} == _MATRIX:
            transposed.append(factor.args[0])
        else:
            transposed.append(emit(_TRANSPOSE, factor, 1, 2))
    left, right = transposed
    return emit(_BMM, right, left)


def _share_a_factor(node: Node, emit: Emit) -> Node | None:
    """Return one product in place of K products, if a factor is the same matrix for all copies."""
    left: Any
    right: Any
    left, right = node.args
    left_value = left.meta["val"]  # (K, m, k)
    right_value = right.meta["val"]  # (K, k, n)
    K, m, k = left_value.shape
    n = right_value.shape[2]
    left_stride = left_value.stride()[0]  # between copies
    right_stride = right_value.stride()[0]
    if K == 1:
        return None
    if left_stride == 0:
        shared = emit(_SELECT, left, 0, 0)  # (m, k)
        rows_first = emit(_PERMUTE, right, [1, 0, 2])  # (k, K, n)
        wide = emit(_RESHAPE, rows_first, [k, K * n])
        product = emit(_MM, shared, wide)  # (m, K n)
        parts = emit(_RESHAPE, product, [m, K, n])
        return emit(_PERMUTE, parts, [1, 0, 2])  # (K, m, n)
    if right_stride == 0:
        shared = emit(_SELECT, right, 0, 0)  # (k, n)
        tall = emit(_RESHAPE, left, [K * m, k])
        product = emit(_MM, tall, shared)  # (K m, n)
        return emit(_RESHAPE, product, [K, m, n])
    return None


def _emit(graph: Graph, target: Any, *arguments: Any) -> Node:
    """Add an operation to a graph, with its result's shape and strides."""
    values = []
    for argument in arguments:
        value = argument
        if isinstance(argument, Node):
            value = argument.meta["val"]
        values.append(value)
    node = graph.call_function(target, arguments)
    node.meta["val"] = target(*values)
    return node


def _call_torch(node: Node) -> None:
    """Call an operation by its function in `torch`, because `torch.ops` takes about twice as long to start."""
    if not isinstance(node.target, OpOverload) or node.target.namespace != "aten":
        return
    name = node.target._schema.name.removeprefix("aten::")
    function = getattr(torch, name, None)
    if not isinstance(function, BuiltinFunctionType):
        return  # a method, an operation of autograd alone, or a Python function with another meaning

    def value_of(argument: Node) -> Any:
        return argument.meta["val"]

    arguments: Any = map_arg(node.args, value_of)
    keywords: Any = map_arg(node.kwargs, value_of)
    try:
        found = function(*arguments, **keywords)
    except (TypeError, RuntimeError, NotImplementedError):  # it takes other arguments
        return
    expected: Any = node.meta.get("val")
    is_tensor = isinstance(expected, torch.Tensor)
    if is_tensor and found.shape != expected.shape:
        return
    if is_tensor and found.dtype != expected.dtype:
        return
    node.target = function
