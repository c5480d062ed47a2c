"""Curvature around w*: the largest, which bounds the step size, and the Fisher information of each parameter."""

from __future__ import annotations

import torch
from torch import Tensor

from ..stacking import chunk_ranges, copies_that_fit
from .chains import Problem, take

_SAMPLES, _ITERATIONS, _DISTANCE = 2048, 12, 1e-2
_DAMPING, _FLOOR = 0.1, 1e-6
_ROUNDING = 1e-12  # mean squared gradient, nats² per unit²: below it, nothing but rounding


def largest_curvature(problem: Problem, *, nbeta: float, localization: float, seed: int = 0) -> float:
    """a, the largest eigenvalue of the Hessian of U = nβ L + (γ/2) ||w - w*||², by power iteration.

    The larger of two values: at w* of the first network, and at w* + ξ/sqrt(a), a step as long as the posterior is wide
    (a singular point has no curvature of its own). Hessian products are differences of gradients, so that
    nothing needs a second derivative.
    """
    generator = torch.Generator().manual_seed(seed)
    anchor = problem.layout.flatten(problem.stack.parameters)[:1]  # (1, P)
    start = torch.randn(anchor.shape, generator=generator).to(anchor)
    at_anchor = nbeta * _power_iteration(problem, anchor, start) + localization
    nearby = nbeta * _power_iteration(problem, anchor + start / at_anchor**0.5, start) + localization
    return max(at_anchor, nearby)


def _power_iteration(problem: Problem, point: Tensor, start: Tensor) -> float:
    """|largest eigenvalue| of the mean loss's Hessian at `point` (1, P)."""
    direction, value = start / start.norm(), 0.0
    base = _gradient(problem, point)
    for _ in range(_ITERATIONS):
        product = (_gradient(problem, point + _DISTANCE * direction) - base) / _DISTANCE
        value = float(product.norm())
        if value == 0:
            break
        direction = product / value
    return value


def _gradient(problem: Problem, position: Tensor) -> Tensor:
    """(1, P): gradient of the mean loss over the first samples."""
    stack = problem.stack
    moving = problem.layout.views(position)
    fixed = {n: v[0] for n, v in (stack.parameters | stack.buffers).items() if n not in moving}
    inputs, targets = take(problem.inputs, slice(0, _SAMPLES)), problem.targets[:_SAMPLES]
    _, gradients = problem.losses_and_gradients(moving, fixed, inputs, targets, shared=True)
    return torch.cat([part.reshape(1, -1) for part in gradients], dim=1)


def fisher_diagonal(problem: Problem, memory_budget: int) -> Tensor:
    """(M, P): F, the diagonal of every network's empirical Fisher information at w*, damped.

    s, the mean over the first samples of the squared gradient of a sample's loss, plus 0.1 times the mean of s in the
    parameter's own tensor: a weight whose inputs are nearly always 0 is held like a tenth of its neighbours, and
    rescaling a layer rescales all of its F. A tensor without any gradient gets a millionth of the mean of all.

    Raises:
        ValueError: the loss of no sample has a gradient, as where the network fits its targets exactly.
    """
    count = min(_SAMPLES, problem.num_samples)
    anchors = problem.layout.flatten(problem.stack.parameters)  # (M, P)
    at_once = copies_that_fit(4 * anchors[0].nbytes, memory_budget)
    rows = []
    for member, anchor in enumerate(anchors):
        total = torch.zeros_like(anchor)
        fixed = {n: v[member] for n, v in (problem.stack.parameters | problem.stack.buffers).items()}
        for samples in chunk_ranges(count, at_once):
            # every sample as a copy of the network with a batch of its own
            moving = problem.layout.views(anchor.expand(len(samples), -1))
            index = torch.arange(samples.start, samples.stop, device=anchor.device)[:, None]
            _, gradients = problem.losses_and_gradients(
                moving, {n: v for n, v in fixed.items() if n not in moving}, take(problem.inputs, index),
                problem.targets[index], shared=False,
            )  # fmt: skip
            # reshape, because flatten rejects the gradient of a single number, (samples,)
            total += torch.cat([part.reshape(len(part), -1).float().square().sum(0) for part in gradients])
        rows.append(total / count)
    return torch.stack([_damped(problem, row, member) for member, row in enumerate(rows)])


def _damped(problem: Problem, squares: Tensor, member: int) -> Tensor:
    floor = _FLOOR * squares.mean()
    if not squares.mean() > _ROUNDING:
        raise ValueError(
            f"sampler='fisher_sgld': network {member} has no gradient on any sample, so no Fisher information; "
            "allowed are the other samplers"
        )
    parts = squares.split(problem.layout.sizes)
    return torch.cat([(part + _DAMPING * part.mean()).clamp(min=floor) for part in parts])
