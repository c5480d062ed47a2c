"""Make a `Problem` of modules and tensors, and check that they fit each other."""

from __future__ import annotations

import dataclasses
import functools
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..stacking import (
    ONE_BATCH,
    OWN_BATCHES,
    Batch,
    LossFunction,
    Mapped,
    ModuleStack,
    ParameterLayout,
    map_copies,
    part_of,
    stack_modules,
)
from .input_checks import check, check_data, check_labels, check_model, named_inputs
from .modes import ordinary_tensors
from .parameter_choice import choose_parameters
from .problem import FullPrecision, Problem
from .sample_losses import cross_entropy
from .settings import LLCSettings


@ordinary_tensors()
def make_problem(
    models: Sequence[nn.Module],
    inputs: Batch,
    targets: Tensor,
    settings: LLCSettings,
) -> Problem:
    """Stack the models and move the data to their device.

    Raises:
        ValueError: an invalid model, invalid data or an invalid loss, or a mismatch between them.
    """
    for model in models:
        check_model(model)
    check_data(inputs, targets)
    own_dtype = settings.dtype
    compute_dtype = None
    if settings.dtype is torch.bfloat16:
        own_dtype = None
        compute_dtype = torch.bfloat16

    stack = _in_one_type(stack_modules(models, settings.device), own_dtype)
    movable = [name for name, value in stack.parameters.items() if value.is_floating_point()]
    stack, names = choose_parameters(stack, movable, settings.parameters)
    first = stack.parameters[names[0]]
    device = next(iter(stack.parameters.values())).device
    mapped = functools.partial(
        map_copies,
        stack.skeleton,
        settings.loss_fn,
        compute_dtype=compute_dtype,
    )
    problem = Problem(
        stack=stack,
        layout=ParameterLayout.of(stack.parameters, names),
        inputs=_moved(inputs, device, settings.dtype, first.dtype),
        targets=_moved(targets, device, own_dtype, first.dtype),
        losses_of_one_batch=mapped(dims=ONE_BATCH, vectorize=settings.vectorize),
        losses_of_own_batches=mapped(dims=OWN_BATCHES, vectorize=settings.vectorize),
        memory_budget=settings.memory_budget,
        compute_dtype=compute_dtype,
        vectorize=settings.vectorize,
        probes=_moved_probes(settings, device, own_dtype, first.dtype),
    )
    check_loss(problem, settings.loss_fn)
    check_probes(problem)
    if settings.vectorize and not maps(problem):
        problem = dataclasses.replace(
            problem,
            losses_of_one_batch=mapped(dims=ONE_BATCH, vectorize=False),
            losses_of_own_batches=mapped(dims=OWN_BATCHES, vectorize=False),
            vectorize=False,
        )
    if compute_dtype is None:
        return problem
    mapped = functools.partial(map_copies, stack.skeleton, settings.loss_fn, vectorize=problem.vectorize)
    full = FullPrecision(
        inputs=_moved(inputs, device, None, first.dtype),
        losses_of_one_batch=mapped(dims=ONE_BATCH),
        losses_of_own_batches=mapped(dims=OWN_BATCHES),
    )
    problem = dataclasses.replace(problem, full=full)
    exact = problem.exact
    if _succeeds(exact.losses_of_member, 0, slice(0, 2)):
        return problem
    return dataclasses.replace(problem, full=None)  # it converts to the lower precision by itself


@ordinary_tensors()
def check_finite(problem: Problem) -> None:
    """Raise a ValueError if the loss of a network at w* is not finite."""
    for loss in problem.anchor_means:
        check("model", loss, math.isfinite(loss), "a finite mean loss over the data at its own weights")


def _in_one_type(stack: ModuleStack, dtype: torch.dtype | None) -> ModuleStack:
    """Return the stack in `dtype`, by default its own widest type and at least float32.

    Chains in half precision would not move as they should, because their steps are far smaller than its rounding.
    """
    if dtype is not None:
        return stack.to(dtype)
    own = set()
    widest = torch.float32
    for value in stack.parameters.values():
        if value.is_floating_point():
            own.add(value.dtype)
            widest = torch.promote_types(widest, value.dtype)
    if own == {widest}:
        return stack
    return stack.to(widest)


def _moved(
    data: Any,
    device: torch.device,
    dtype: torch.dtype | None,
    full: torch.dtype,
) -> Any:
    """Return the data on the device, floating-point data in `dtype`. By default half precision becomes `full`."""
    if isinstance(data, dict):
        return {name: _moved(value, device, dtype, full) for name, value in data.items()}
    data = data.detach()
    if data.is_inference():  # autograd may not keep a tensor of inference mode
        data = data.clone()
    if not data.is_floating_point():
        return data.to(device=device)
    wanted = dtype or data.dtype
    if dtype is None and data.dtype in (torch.float16, torch.bfloat16):
        wanted = full
    return data.to(device=device, dtype=wanted)


def _moved_probes(
    settings: LLCSettings,
    device: torch.device,
    own_dtype: torch.dtype | None,
    full: torch.dtype,
) -> tuple[Batch, Tensor] | None:
    """Return the probes on the device, in the types of the data."""
    if settings.probes is None:
        return None
    inputs, targets = settings.probes
    return _moved(inputs, device, settings.dtype, full), _moved(targets, device, own_dtype, full)


# ---- whether networks, data and loss fit each other ----


def check_loss(problem: Problem, loss_fn: LossFunction) -> None:
    """Raise a ValueError if inputs, targets and loss do not fit the first network, tried on a few samples."""
    few = slice(0, min(problem.num_samples, 2))
    inputs = part_of(problem.inputs, few)
    targets = problem.targets[few]
    name = getattr(loss_fn, "__name__", type(loss_fn).__name__)
    shape = (len(targets),)

    def checked(outputs: Any, targets: Tensor) -> Tensor:
        if loss_fn is cross_entropy:
            check_labels(outputs, problem.targets)
        losses = loss_fn(outputs, targets)
        found: object = type(losses).__name__
        if isinstance(losses, Tensor):
            found = tuple(losses.shape)
        allowed = f"one loss per sample, {shape} for {len(targets)} samples, and no mean over them"
        check("loss_fn", f"{name}, giving {found}", found == shape, allowed)
        check("loss_fn", f"{name}, giving {losses.dtype}", not losses.is_complex(), "real losses")
        return losses

    def few_losses(
        compute_dtype: torch.dtype | None,
        inputs: Batch,
        targets: Tensor,
    ) -> Tensor:
        losses_of: Mapped = map_copies(
            problem.stack.skeleton,
            checked,
            dims=ONE_BATCH,
            vectorize=False,
            compute_dtype=compute_dtype,
        )
        with torch.enable_grad():
            return losses_of(problem.first_with_gradients(), {}, inputs, targets)

    try:
        losses = few_losses(problem.compute_dtype, inputs, targets)
    except Exception:
        _check_types(problem, few_losses, inputs, targets)
        raise
    first = ", ".join(problem.layout.names[:3])
    check("parameters", first, losses.requires_grad, f"such that {name} has a gradient by one of them")


def check_probes(problem: Problem) -> None:
    """Raise a ValueError unless the probes are of the form of the data."""
    if problem.probes is None:
        return
    inputs, targets = problem.probes
    expected = {**named_inputs(problem.inputs), "targets": problem.targets}
    found = {**named_inputs(inputs), "targets": targets}
    names = ", ".join(found)
    check("probes", names, found.keys() == expected.keys(), f"inputs like those of the data, {', '.join(expected)}")
    for name, value in found.items():
        wanted = expected[name]
        shape = f"{tuple(value.shape[1:])}, {value.dtype}"
        same = value.shape[1:] == wanted.shape[1:] and value.dtype == wanted.dtype
        check(f"probes {name}", shape, same, f"like that of the data, {tuple(wanted.shape[1:])}, {wanted.dtype}")


def _check_types(
    problem: Problem,
    few_losses: Callable[..., Tensor],
    inputs: Batch,
    targets: Tensor,
) -> None:
    """Raise a ValueError that names a tensor of a wrong type, if the losses exist with another type."""
    own = problem.compute_dtype
    wanted = own or problem.stack_dtype
    named = named_inputs(inputs)
    groups = []
    floating = []
    for name, value in named.items():
        groups.append([name])
        if value.is_floating_point():
            floating.append(name)
    for names in [*groups, floating]:
        for kind in (wanted, torch.int64):
            changed: Any = dict(named)
            for name in names:
                changed[name] = named[name].to(kind)
            if not isinstance(inputs, dict):
                changed = changed["inputs"]
            if _succeeds(few_losses, own, changed, targets):
                first = names[0]
                check(first, str(named[first].dtype), False, f"{kind} for this network")
    if _succeeds(few_losses, own, inputs, targets.real.to(wanted)):
        check("targets", str(targets.dtype), False, f"{wanted} for this network and loss_fn")
    if _succeeds(few_losses, torch.bfloat16, inputs, targets):
        check("dtype", None, False, "torch.bfloat16 for this network, which converts to it by itself")


def _succeeds(function: Callable[..., Tensor], *arguments: Any) -> bool:
    """Return whether a function returns."""
    try:
        function(*arguments)
    except Exception:  # a module may raise anything, and the first error is the one that is shown
        return False
    return True


def maps(problem: Problem) -> bool:
    """Return whether `vmap` can map the networks over copies with a batch each. Warn if it cannot."""
    size = min(2, problem.num_samples)  # BatchNorm without running statistics takes no batch of one
    index = torch.zeros(2, size, dtype=torch.int64, device=problem.device)
    inputs = part_of(problem.inputs, index)
    targets = problem.targets[index]
    copies = {}
    for name, values in problem.stack.state.items():
        shape = values.shape[1:]
        copies[name] = values[:1].expand(2, *shape)
    try:
        with torch.no_grad():
            problem.losses_of_own_batches(copies, {}, inputs, targets)
    except Exception as error:  # vmap's own are RuntimeErrors and ValueErrors, and a module may catch and wrap them
        text = f"torch.vmap cannot map {problem.name}, so chains run in a loop: {error}"
        warnings.warn(text, stacklevel=5)
        return False
    return True
