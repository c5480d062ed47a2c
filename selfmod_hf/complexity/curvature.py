"""Curvature around w*: the largest, a bound of the step size, and the Fisher information of each parameter."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..stacking import chunk_ranges, copies_that_fit, losses_and_gradients, part_of
from .modes import ordinary_tensors
from .problem import Problem
from .random_streams import some_samples

MOST_SAMPLES = 2048  # of a largest curvature, or of a Fisher information
_ITERATIONS, _DISTANCE = 12, 1e-2
EVALUATIONS = 2 * (1 + _ITERATIONS)  # gradients that `largest_curvature` takes at most
_DAMPING, _FLOOR = 0.1, 1e-6
_ROUNDING = 1e-12  # mean squared gradient, nats² per unit²: below it, nothing but rounding


@ordinary_tensors()
def largest_curvature(  # noqa: PLR0913 - a choice of potential, network and samples
    problem: Problem,
    *,
    nbeta: float,
    localization: float,
    member: int = 0,
    seed: int = 0,
    samples: int = MOST_SAMPLES,
) -> float:
    """Return a, the largest eigenvalue of the Hessian of U = nβ L + (γ/2) ||w - w*||², by power iteration.

    It is the larger of two values: at w* of a network, and at w* + ξ/sqrt(a), a step as long as the posterior
    is wide (a singular point has no curvature of its own). Hessian products are differences of gradients, so that
    nothing needs a second derivative. They are taken at the precision of the weights, not at that of the chains.

    Args:
        problem: networks, data and loss.
        nbeta: nβ.
        localization: γ.
        member: place of the network in the stack.
        seed: of the start, and of the choice of samples.
        samples: to take at most. Fewer are faster and noisier.
    """
    problem = problem.exact
    generator = torch.Generator().manual_seed(seed)
    anchor = problem.anchors[member : member + 1]  # (1, P)
    start = torch.randn(anchor.shape, generator=generator).to(anchor)
    few = some_samples(problem.num_samples, samples, seed)
    inputs = part_of(problem.inputs, few)
    targets = problem.targets[few]
    fixed = problem.fixed_of(member)
    fit = copies_that_fit(int(problem.bytes_per_sample), problem.memory_budget)

    def gradient(position: Tensor) -> Tensor:
        _, gradients = losses_and_gradients(
            problem.losses_of_one_batch,
            problem.layout,
            position,
            samples=[],
            inputs=inputs,
            targets=targets,
            own={},
            common=fixed,
            shared_batch=True,
            micro_batch_size=min(fit, samples),
        )
        return gradients  # (1, P)

    curvature = _power_iteration(gradient, anchor, start)  # of L
    at_anchor = nbeta * curvature + localization
    near = anchor + start / at_anchor**0.5
    nearby = nbeta * _power_iteration(gradient, near, start) + localization
    return max(at_anchor, nearby)


def _power_iteration(gradient: Callable[[Tensor], Tensor], point: Tensor, start: Tensor) -> float:
    """Return the absolute value of the largest eigenvalue of the derivative of a gradient at `point` (1, P)."""
    base = gradient(point)
    direction = start / start.norm()
    value = 0.0
    for _ in range(_ITERATIONS):
        moved = point + _DISTANCE * direction
        product = (gradient(moved) - base) / _DISTANCE  # Hessian times direction, (1, P)
        value = float(product.norm())
        if value == 0:
            break
        direction = product / value
    return value


def fisher_diagonal(problem: Problem) -> Tensor:
    """Return F, the diagonal of each network's empirical Fisher information at w*, damped, (M, P).

    s is the mean over the first samples of the squared gradient of a sample's loss. F is s plus 0.1 times the mean of s
    in the parameter's own tensor. A weight of an input that is nearly always 0 is held like a tenth of its neighbours,
    and rescaling a layer rescales all of its F. A tensor without any gradient gets a millionth of the mean of all.
    F of a network is NaN if a gradient is not finite, so that its chains diverge.

    Raises:
        ValueError: the loss of no sample has a gradient, for example because the network fits its targets exactly.
    """
    count = min(MOST_SAMPLES, problem.num_samples)
    anchors = problem.anchors  # (M, P)
    bytes_per_copy = 4 * anchors[0].nbytes
    at_once = copies_that_fit(bytes_per_copy, problem.memory_budget)
    rows = []
    for member, anchor in enumerate(anchors):
        total = torch.zeros_like(anchor)  # (P,)
        fixed = problem.fixed_of(member)
        for samples in chunk_ranges(count, at_once):
            # each sample as a copy of the network with a batch of its own
            copies = anchor.expand(len(samples), -1)  # (S, P)
            index = torch.arange(samples.start, samples.stop, device=anchor.device)
            _, gradients = losses_and_gradients(
                problem.losses_of_own_batches,
                problem.layout,
                copies,
                samples=[index[:, None]],  # (S, 1)
                inputs=problem.inputs,
                targets=problem.targets,
                own={},
                common=fixed,
                shared_batch=False,
            )
            squares = gradients.float().square()  # (S, P)
            total += squares.sum(0)
        mean = total / count
        rows.append(_damped(problem, mean, member))
    return torch.stack(rows)


def _damped(problem: Problem, squares: Tensor, member: int) -> Tensor:
    """Return one network's mean squared gradients (P,), none of them near zero."""
    mean = squares.mean()
    if not mean.isfinite():
        return torch.full_like(squares, math.nan)
    if mean <= _ROUNDING:
        raise ValueError(
            f"sampler='fisher_sgld': network {member} has no gradient on any sample, so no Fisher information; "
            "allowed are the other samplers"
        )
    floor = _FLOOR * mean
    damped = []
    for part in squares.split(problem.layout.sizes):
        raised = part + _DAMPING * part.mean()
        damped.append(raised.clamp(min=floor))
    return torch.cat(damped)
