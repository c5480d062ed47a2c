"""Check the input of an estimate before any work starts. Errors name the argument, its value and the allowed values."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..stacking import Batch


def check(name: str, value: object, condition: bool, allowed: str) -> None:
    """Raise an InputError of one line that names the argument, its value and the allowed values.

    Example:
        >>> check("num_chains", 0, condition=False, allowed="at least 1")
        Traceback (most recent call last):
        selfmod_hf.errors.InputError: num_chains=0: must be at least 1
    """
    if not condition:
        raise InputError(name, value, f"must be {allowed}")


def positive(value: Any, zero: bool = False) -> bool:
    """Return whether this is a finite number above 0, or with `zero` of at least 0."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return False
    if zero and value == 0:
        return True
    return math.isfinite(value) and value > 0


def is_integer(value: Any, least: int = 0) -> bool:
    """Return whether this is an integer of at least `least`, and no truth value."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def check_model(model: nn.Module) -> None:
    """Raise a ValueError unless this is a module with real parameters that can be sampled."""
    name = type(model).__name__
    check("model", name, isinstance(model, nn.Module), "a torch.nn.Module")
    parameters = dict(model.named_parameters())
    check("model", name, bool(parameters), "a module with parameters")
    movable = 0
    for key, value in parameters.items():
        place = value.device.type
        kind = f"{name}, whose {key} is {value.dtype} on {place}"
        check("model", kind, not value.is_complex(), "a module of real parameters")
        check("model", kind, place != "meta", "a module whose weights are loaded")
        if value.is_floating_point():
            movable += value.numel()
    numbers = f"{name}, of {movable} floating-point numbers"
    check("model", numbers, movable > 0, "a module of one number or more")


def check_data(inputs: Batch, targets: Tensor, kind: str = "") -> None:
    """Raise a ValueError unless inputs and targets are tensors of one length, of one finite sample or more.

    Args:
        inputs: a tensor, or a dict of them.
        targets: a tensor.
        kind: words before their names in the message.
    """
    of_targets = f"{kind}targets"
    check(of_targets, type(targets).__name__, isinstance(targets, Tensor), "a tensor")
    shape = tuple(targets.shape)
    count = shape[0] if shape else 0
    check(of_targets, shape, count > 0, "of at least one sample")
    named = named_inputs(inputs)
    check(f"{kind}inputs", inputs, bool(named), "a tensor or a dict of at least one tensor")
    for key, value in [*named.items(), ("targets", targets)]:
        name = f"{kind}{key}"
        check(name, type(value).__name__, isinstance(value, Tensor), "a tensor")
        dense = value.layout is torch.strided and not value.is_nested
        check(name, str(value.layout), dense, "dense")
        on_meta = value.device.type == "meta"
        check(name, "without numbers, on device meta", not on_meta, "a tensor that holds numbers")
        shape = tuple(value.shape)
        same_length = shape[:1] == (count,)
        check(name, shape, same_length, f"of as many samples as targets, {count}")
        if value.is_floating_point():
            finite = bool(value.sum().isfinite())
            if not finite:  # the sum is fast, but may overflow
                finite = bool(value.isfinite().all())
            check(name, "NaN or infinity", finite, "finite")


def named_inputs(inputs: Batch) -> dict[str, Tensor]:
    """Return the inputs by name. A tensor has the name of the argument."""
    if isinstance(inputs, dict):
        return dict(inputs)
    return {"inputs": inputs}


def check_labels(outputs: Any, targets: Tensor) -> None:
    """Raise a ValueError unless cross-entropy can be taken of these outputs and of all targets."""
    logits = getattr(outputs, "logits", outputs)
    found: object = type(logits).__name__
    scores = False
    if isinstance(logits, Tensor):
        found = tuple(logits.shape)
        scores = logits.dim() == 2
    allowed = "a classifier, with logits (samples, classes), or take another loss_fn"
    check("model", f"outputs {found}", scores, allowed)
    shape = tuple(targets.shape)
    labels = len(shape) == 1 and targets.dtype in (torch.int64, torch.int32)
    allowed = "class labels (n,) of type int64 for cross_entropy, or take another loss_fn"
    check("targets", f"{shape}, {targets.dtype}", labels, allowed)
    low = int(targets.min())
    high = int(targets.max())
    most = logits.shape[1] - 1
    known = low >= 0 and high <= most
    check("targets", f"labels from {low} to {high}", known, f"from 0 to {most}, the model's classes")
