"""Check that the loss of a sample depends on that sample alone.

A mean over minibatches is an estimate of the loss over all data only under this condition. Draw 0 is w* itself, so its
loss on a minibatch must be that of w* on the same samples. It is not if a layer uses the statistics of its batch, or
draws random numbers.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from .problem import Problem
from .random_streams import MinibatchStream
from .samplers import SAMPLERS
from .settings import LLCSettings
from .traces import Traces

_TOLERANCE, _ON_ACCELERATORS, _IN_LOW_PRECISION = 1e-3, 1e-2, 1e-1  # of the losses: rounding is far below
_ROUNDING = 1e-6  # nats
_TRIES = 100  # for a module with random numbers, because most of them may have no effect


def check_independent(
    problem: Problem,
    settings: LLCSettings,
    micro_batch_size: int | None,
) -> None:
    """Compare the losses at w* on a minibatch with those on all data.

    The networks share one architecture, so the first with finite losses stands for all of them.

    Args:
        problem: networks, data and loss.
        settings: of the estimate.
        micro_batch_size: samples of a batch in one computation. None: the complete batch.

    Raises:
        ValueError: a sample's loss depends on the other samples of its batch, or on random numbers.
    """
    anchor_losses = problem.anchor_losses  # (n, M)
    all_finite = anchor_losses.isfinite().all(dim=0)  # (M,)
    finite = all_finite.nonzero()  # (members, 1)
    if len(finite) == 0:
        return
    member = int(finite[0])
    expected = anchor_losses[:, member]  # (n,)
    losses_of = functools.partial(_losses, problem, member)
    tries = _TRIES
    for index in _first_batches(problem, settings, micro_batch_size):
        states = _random_states(problem.device)
        losses = losses_of(index)
        _compare(problem, losses, expected[index])
        if problem.compute_dtype is not None:
            _compare_in_company(problem, losses_of, index)
        if _random_states(problem.device) == states:
            continue
        for _ in range(tries):
            _compare(problem, losses_of(index), losses, _ON_ACCELERATORS)
        tries = 0


def _compare_in_company(
    problem: Problem,
    losses_of: Callable[[Tensor], Tensor],
    index: Tensor,
) -> None:
    """Compare the losses of half of a batch in two batches of one size, so that even low precision rounds alike."""
    size = len(index)
    half = size // 2
    first_half = index[:half]
    repeated = index[:1].expand(size - half)
    other_batch = torch.cat([first_half, repeated])
    found = losses_of(index)
    expected = losses_of(other_batch)
    _compare(problem, found[:half], expected[:half], _ON_ACCELERATORS)


def _first_batches(
    problem: Problem,
    settings: LLCSettings,
    micro_batch_size: int | None,
) -> list[Tensor]:
    """Return the indices of the first shuffled minibatch of chain 0, in the pieces of its computation.

    Of all data, the first half is another batch than the one that the losses at w* come from.
    """
    num_samples = problem.num_samples
    count = min(settings.batch_size, num_samples)
    if count == num_samples:
        order = torch.arange(count)  # chains take all of the data as they are
    else:
        stream = MinibatchStream(settings.seed, 0, num_samples, count)
        batches = stream.epoch()
        order = batches[0]
    pieces = list(order.split(micro_batch_size or count))
    if count == num_samples and count > 1:
        pieces.append(order[: count // 2])
    if SAMPLERS[settings.sampler].needs_fisher:
        pieces.append(order[:1])  # the Fisher information is a mean over single samples
    return [piece.to(problem.device) for piece in pieces]


def check_first_draws(problem: Problem, traces: Traces) -> None:
    """Raise a ValueError if the loss of draw 0 differs from the loss of w* on the same minibatch."""
    found = torch.as_tensor(traces.losses[..., 0])  # (G, C)
    expected = torch.as_tensor(traces.baseline[..., 0])  # (G, C)
    _compare(problem, found.flatten(), expected.flatten())


def _losses(problem: Problem, member: int, index: Tensor) -> Tensor:
    """Return the losses of one network on these samples, taken as one batch, (B,)."""
    try:
        return problem.losses_of_member(member, index)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        # all data at once gave losses, so the module rejects the size of this batch
        name = f"model={problem.name!r}"
        raise ValueError(f"{name}, of a batch of {len(index)}: {error}; {_allowed(problem)}") from error


def _compare(
    problem: Problem,
    found: Tensor,
    expected: Tensor,
    relative: float | None = None,
) -> None:
    """Raise a ValueError at the first difference beyond rounding. NaN differs from nothing.

    Args:
        problem: networks, data and loss.
        found: (B,).
        expected: (B,).
        relative: the tolerance. None: that of the losses' precision.
    """
    if relative is None:
        relative = _TOLERANCE
        if problem.compute_dtype is not None:
            relative = _IN_LOW_PRECISION
        elif problem.device.type != "cpu":
            relative = _ON_ACCELERATORS  # convolutions take TF32 there
    found = found.double()
    expected = expected.double()
    sizes = found.abs() + expected.abs()
    allowed = relative * (sizes + sizes.nanmean()) + _ROUNDING
    difference = (found - expected).abs()
    different = (difference > allowed).nonzero()
    if len(different) == 0:
        return
    place = int(different[0])
    losses = f"{expected[place]:.6g} in one batch and {found[place]:.6g} in another"
    name = f"model={problem.name!r}, whose loss at the trained weights is {losses}"
    raise ValueError(f"{name}: {_allowed(problem)}")


def _allowed(problem: Problem) -> str:
    """Return the end of a message about a loss that depends on more than its sample."""
    text = "must be one whose loss of a sample depends on that sample alone (and so must the loss function)"
    layers = []
    for name, part in problem.stack.skeleton.named_modules():
        if isinstance(part, _BatchNorm) and part.running_mean is None:
            layers.append(name)
    if layers:
        named = ", ".join(layers)
        text += f"; without running statistics: {named}"
    return text


def _random_states(device: torch.device) -> tuple[Any, ...]:
    """Return the state of each generator within reach of a module."""
    of_python = random.getstate()
    of_numpy: Any = np.random.get_state(legacy=False)  # noqa: NPY002
    of_torch = bytes(torch.get_rng_state().numpy())
    states = (of_python, repr(of_numpy["state"]), of_torch)
    if device.type == "cpu":
        return states
    accelerator = torch.get_device_module(device)
    of_accelerator = accelerator.get_rng_state(device)
    return *states, bytes(of_accelerator.numpy())
