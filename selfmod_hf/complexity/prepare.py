"""Make a `Problem` of modules and tensors, and check that they fit each other."""

from __future__ import annotations

import dataclasses
import fnmatch
import functools
import math
import warnings
from collections.abc import Callable, Sequence, Set
from typing import Any

import torch
from torch import Tensor, nn

from ..stacking import Batch, ModuleStack, ParameterLayout, part_of, stack_modules
from .input_checks import check, check_data, check_labels, check_model, named_inputs
from .modes import ordinary_tensors
from .problem import Problem
from .sample_losses import cross_entropy
from .settings import LLCSettings


@ordinary_tensors()
def make_problem(models: Sequence[nn.Module], inputs: Batch, targets: Tensor, settings: LLCSettings) -> Problem:
    """Stack the models and move the data beside them.

    Raises:
        ValueError: a model, data or a loss that cannot be used, or that do not fit each other.
    """
    for model in models:
        check_model(model)
    check_data(inputs, targets)
    low = settings.dtype is torch.bfloat16
    own_dtype = None if low else settings.dtype
    stack = _in_one_type(stack_modules(models, settings.device), own_dtype)
    movable = [name for name, value in stack.parameters.items() if value.is_floating_point()]
    names = match_parameters(movable, settings.parameters)
    device = next(iter(stack.parameters.values())).device
    full = stack.parameters[movable[0]].dtype
    problem = Problem(
        stack=stack,
        layout=ParameterLayout.of(stack.parameters, names),
        inputs=_moved(inputs, device, settings.dtype, full),
        targets=_moved(targets, device, own_dtype, full),
        loss_fn=settings.loss_fn,
        memory_budget=settings.memory_budget,
        compute_dtype=torch.bfloat16 if low else None,
        vectorize=settings.vectorize,
    )
    check_loss(problem)
    if problem.vectorize and not maps(problem):
        return dataclasses.replace(problem, vectorize=False)
    return problem


@ordinary_tensors()
def check_finite(problem: Problem) -> None:
    """Raise a ValueError where the loss of a network at w* is not finite."""
    for loss in problem.anchor_means:
        check("model", loss, math.isfinite(loss), "a finite mean loss over the data at its own weights")


def _in_one_type(stack: ModuleStack, dtype: torch.dtype | None) -> ModuleStack:
    """Return the stack in `dtype`, by default its own widest type and at least float32.

    A chain's steps are far smaller than the rounding of half precision, so chains would not move in it as they should.
    """
    if dtype is not None:
        return stack.to(dtype)
    own = {value.dtype for value in stack.parameters.values() if value.is_floating_point()}
    widest = functools.reduce(torch.promote_types, own, torch.float32)
    return stack if own == {widest} else stack.to(widest)


def _moved(data: Any, device: torch.device, dtype: torch.dtype | None, full: torch.dtype) -> Any:
    """Return the data on the device, floating-point data in `dtype`. By default half precision becomes `full`."""
    if isinstance(data, dict):
        return {name: _moved(value, device, dtype, full) for name, value in data.items()}
    data = data.detach()
    if data.is_inference():  # autograd may not keep a tensor of inference mode
        data = data.clone()
    if not data.is_floating_point():
        return data.to(device=device)
    half = data.dtype in (torch.float16, torch.bfloat16)
    own = full if half else data.dtype
    return data.to(device=device, dtype=dtype or own)


def match_parameters(names: Sequence[str], patterns: Sequence[str] | None) -> list[str]:
    """Return the names that match one of the patterns (`fnmatch`), in their own order, all of them without patterns."""
    if patterns is None:
        return list(names)
    several = isinstance(patterns, (str, Sequence, Set))
    check("parameters", patterns, several, "None, or a list of names or patterns")
    patterns = [patterns] if isinstance(patterns, str) else list(patterns)
    check("parameters", patterns, bool(patterns), "None, or one name or pattern at least")
    matched: set[str] = set()
    for pattern in patterns:
        check("parameters", pattern, isinstance(pattern, str), "names or patterns, which are texts")
        found = [name for name in names if fnmatch.fnmatchcase(name, pattern)]
        check("parameters", pattern, bool(found), f"a name or pattern among {', '.join(names)}")
        matched.update(found)
    return [name for name in names if name in matched]


# ---- whether networks, data and loss fit each other ----


def check_loss(problem: Problem) -> None:
    """Raise a ValueError where inputs, targets and loss do not fit what the first network gives for a few samples."""
    few = slice(0, min(problem.num_samples, 2))
    inputs, targets = part_of(problem.inputs, few), problem.targets[few]
    shape = (len(targets),)
    name = getattr(problem.loss_fn, "__name__", type(problem.loss_fn).__name__)

    def checked(outputs: Any, targets: Tensor) -> Tensor:
        if problem.loss_fn is cross_entropy:
            check_labels(outputs, problem.targets)
        losses = problem.loss_fn(outputs, targets)
        found = tuple(losses.shape) if isinstance(losses, Tensor) else type(losses).__name__
        allowed = f"one loss per sample, {shape} for {len(targets)} samples, and no mean over them"
        check("loss_fn", f"{name}, giving {found}", found == shape, allowed)
        return losses

    few_losses = functools.partial(_losses_of_first, dataclasses.replace(problem, loss_fn=checked, vectorize=False))
    try:
        losses = few_losses(problem.compute_dtype, inputs, targets)
    except Exception:
        _check_types(problem, few_losses, inputs, targets)
        raise
    first = ", ".join(problem.layout.names[:3])
    check("parameters", first, losses.requires_grad, f"such that {name} has a gradient by one of them")


def _losses_of_first(problem: Problem, compute_dtype: torch.dtype | None, inputs: Batch, targets: Tensor) -> Tensor:
    """Return the losses of the first network, computed in a type."""
    chosen = dataclasses.replace(problem, compute_dtype=compute_dtype)
    with torch.enable_grad():
        return chosen.losses_of(shared=True)(problem.first_with_gradients(), {}, inputs, targets)


def _check_types(problem: Problem, few_losses: Callable[..., Tensor], inputs: Batch, targets: Tensor) -> None:
    """Raise a ValueError that names what has the wrong type, where the losses exist once that has another."""
    named, own = named_inputs(inputs), problem.compute_dtype
    wanted = own or problem.stack_dtype
    floats = [name for name, value in named.items() if value.is_floating_point()]
    for names in [*([name] for name in named), floats]:
        for kind in (wanted, torch.int64):
            changed: Any = named | {name: named[name].to(kind) for name in names}
            if not isinstance(inputs, dict):
                changed = changed["inputs"]
            if _succeeds(few_losses, own, changed, targets):
                check(names[0], str(named[names[0]].dtype), False, f"{kind} for this network")
    if _succeeds(few_losses, own, inputs, targets.to(wanted)):
        check("targets", str(targets.dtype), False, f"{wanted} for this network and loss_fn")
    if _succeeds(few_losses, torch.bfloat16, inputs, targets):
        check("dtype", None, False, "torch.bfloat16 for this network, which converts to it by itself")


def _succeeds(function: Callable[..., Tensor], *arguments: Any) -> bool:
    """Return whether a function returns."""
    try:
        function(*arguments)
    except Exception:  # whatever a module raises; the first error is the one that is shown
        return False
    return True


def maps(problem: Problem) -> bool:
    """Return whether `vmap` can map the networks over copies with a batch each, and warn where it cannot."""
    size = min(2, problem.num_samples)  # BatchNorm without running statistics takes no batch of one
    index = torch.zeros(2, size, dtype=torch.int64, device=problem.device)
    copies = {name: value[:1].expand(2, *value.shape[1:]) for name, value in problem.stack.state.items()}
    try:
        with torch.no_grad():
            problem.losses_of(shared=False)(copies, {}, part_of(problem.inputs, index), problem.targets[index])
    except Exception as error:  # vmap's own are RuntimeErrors and ValueErrors, and a module may catch and wrap them
        text = f"torch.vmap cannot map {problem.name}, so chains run in a loop: {error}"
        warnings.warn(text, stacklevel=5)
        return False
    return True
