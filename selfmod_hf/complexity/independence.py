"""Check that the loss of a sample depends on that sample alone.

A mean over minibatches estimates the loss over all data only then. Draw 0 is w* itself, so its loss on a minibatch must
be that of w* on the same samples. It is not where a layer uses the statistics of its batch, or draws random numbers.
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

from .problem import Problem, capacity
from .random_streams import MinibatchStream
from .samplers import SAMPLERS
from .settings import LLCSettings
from .traces import Traces

_TOLERANCE, _ON_ACCELERATORS, _IN_LOW_PRECISION = 1e-3, 1e-2, 1e-1  # of the losses; rounding is far below
_ROUNDING = 1e-6  # nats
_TRIES = 100  # for a module that draws random numbers, which may leave it as it is most of the time


def check_independent(problem: Problem, settings: LLCSettings) -> None:
    """Compare the losses at w* on the first minibatch of chain 0 with those on all data.

    The networks share one architecture, so the first whose losses are finite stands for all of them.

    Raises:
        ValueError: a sample's loss depends on the other samples of its batch, or on random numbers.
    """
    anchor_losses = problem.anchor_losses
    finite = anchor_losses.isfinite().all(dim=0).nonzero()
    if len(finite) == 0:
        return
    expected = anchor_losses[:, int(finite[0])]
    found = functools.partial(_losses, problem, int(finite[0]))
    tries = _TRIES
    for index in _first_batches(problem, settings):
        before = _random_states(problem.device)
        losses = found(index)
        _compare(problem, losses, expected[index])
        if problem.compute_dtype is not None:
            _compare_in_company(problem, found, index)
        if _random_states(problem.device) == before:
            continue
        for _ in range(tries):
            _compare(problem, found(index), losses, _ON_ACCELERATORS)
        tries = 0


def _compare_in_company(problem: Problem, found: Callable[[Tensor], Tensor], index: Tensor) -> None:
    """Compare the losses of half of a batch in two batches of one size, so that even low precision rounds alike."""
    half = len(index) // 2
    others = index[:1].expand(len(index) - half)
    company = torch.cat([index[:half], others])
    _compare(problem, found(index)[:half], found(company)[:half], _ON_ACCELERATORS)


def _first_batches(problem: Problem, settings: LLCSettings) -> list[Tensor]:
    """Return the indices of the first minibatch of chain 0, in the pieces in which it is computed."""
    count = min(settings.batch_size, problem.num_samples)
    if count == problem.num_samples:
        order = torch.arange(count)  # chains take all of the data as they are
    else:
        order = MinibatchStream(settings.seed, 0, problem.num_samples, count).epoch()[0]
    _, micro = capacity(problem, settings)
    pieces = list(order.split(micro or count))
    if SAMPLERS[settings.sampler].needs_fisher:
        pieces.append(order[:1])  # the Fisher information is a mean over single samples
    return [piece.to(problem.device) for piece in pieces]


def check_first_draws(problem: Problem, traces: Traces) -> None:
    """Raise a ValueError where the loss of draw 0, which is w*, differs from the loss of w* on the same minibatch."""
    found, expected = (torch.as_tensor(trace[..., 0]) for trace in (traces.losses, traces.baseline))
    _compare(problem, found.flatten(), expected.flatten())


def _losses(problem: Problem, member: int, index: Tensor) -> Tensor:
    """Return the losses of one network on these samples, taken as one batch, (B,)."""
    try:
        return problem.losses_of_member(member, index)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        # all data at once gave losses, so it is the size of the batch that the module does not take
        raise ValueError(f"{_name(problem)}, of a batch of {len(index)}: {error}; {_allowed(problem)}") from error


def _compare(problem: Problem, found: Tensor, expected: Tensor, relative: float | None = None) -> None:
    """Raise a ValueError at the first loss that differs by more than rounding. NaN differs from nothing.

    `relative` is the tolerance, by default that of the precision in which the losses are computed.
    """
    if relative is None and problem.compute_dtype is not None:
        relative = _IN_LOW_PRECISION
    elif relative is None:
        relative = _TOLERANCE if problem.device.type == "cpu" else _ON_ACCELERATORS  # where convolutions take TF32
    found, expected = found.double(), expected.double()
    sizes = found.abs() + expected.abs()
    different = (found - expected).abs() > relative * (sizes + sizes.nanmean()) + _ROUNDING
    if not bool(different.any()):
        return
    place = int(different.nonzero()[0])
    name = f"{_name(problem)}, whose loss at the trained weights is {expected[place]:.6g} in one batch and"
    raise ValueError(f"{name} {found[place]:.6g} in another: {_allowed(problem)}")


def _name(problem: Problem) -> str:
    """Return the beginning of a message about the networks."""
    return f"model={problem.name!r}"


def _allowed(problem: Problem) -> str:
    """Return the end of a message about a loss that depends on more than its sample."""
    text = "must be one whose loss of a sample depends on that sample alone (and so must the loss function)"
    parts = problem.stack.skeleton.named_modules()
    layers = [name for name, part in parts if isinstance(part, _BatchNorm) and part.running_mean is None]
    return f"{text}; without running statistics: {', '.join(layers)}" if layers else text


def _random_states(device: torch.device) -> tuple[Any, ...]:
    """Return the state of each generator that a module may draw from by itself."""
    of_numpy: Any = np.random.get_state(legacy=False)  # noqa: NPY002
    of_torch = [torch.get_rng_state()]
    if device.type != "cpu":
        of_torch.append(torch.get_device_module(device).get_rng_state(device))
    return random.getstate(), repr(of_numpy["state"]), *(bytes(state.numpy()) for state in of_torch)
