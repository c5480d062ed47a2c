"""The largest curvature around w*: what bounds the step size."""

from __future__ import annotations

import torch
from torch import Tensor

from .chains import Problem, take

_SAMPLES, _ITERATIONS, _DISTANCE = 2048, 12, 1e-2


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
