"""Measure the directions and the widths of a network's posterior around w*, for samplers with `needs_metric`.

    G = (nβ F + γ)^(-1),    F = E[ ∇²L(w) ],    w ~ N(w*, G)

G is the covariance of the normal distribution nearest to the posterior: its precision is the mean curvature within
itself (Opper, Archambeau 2009, "The Variational Gaussian Approximation Revisited", eq. 13). A direction without
curvature at w*, where the curvature grows with the distance, has the posterior's own width and not that of γ.

A round draws points of N(w*, G). The curvature of each direction is the difference of two gradients at a distance of
one width, so nothing needs a second derivative. Negative curvatures count by their size. The new precision is the
geometric mean of the old one and of what the round found, which is exact after one round for L = w⁴.

In a curved valley no constant metric is right everywhere. So the step of a sampler counts in units of the largest
curvature that the metric leaves at points of N(w*, G). It is 1 for a quadratic loss, and tens or hundreds in a valley.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..stacking import chunk_ranges, copies_that_fit, losses_and_gradients, part_of
from .input_checks import check
from .problem import Problem

MOST_DENSE = 2000  # parameters: above it a matrix (P, P) costs more than it saves
_SAMPLES = 2048  # in a round, and at least twice the number of parameters
_POINTS = 8  # in a round, with a part of its samples each
_ROUNDS = 4
_ITERATIONS = 12  # of a largest curvature
_DISTANCE = 1e-2  # of the first differences, in the weights' own units
_REFERENCE = 1e-4  # of nβ: the localization of the normal distribution
_FLOOR = 1e-7  # of the largest curvature: smaller ones are rounding

Key = tuple[int, float]  # (place of a network in the stack, nβ)


@dataclass(frozen=True)
class Curvatures:
    """Hold F of one network by its eigenvectors.

    Attributes:
        directions: (P, P), a direction in each column.
        values: (P,), the curvature of L in each direction, at least 0.
        stiffest: the largest curvature of U in the metric's coordinates, at points of N(w*, G). At least 1.
    """

    directions: Tensor
    values: Tensor
    stiffest: float

    def widths(self, nbeta: float, localization: float) -> Tensor:
        """Return the scale of each direction, (P,). No curvature of U is above 1 then, as far as it is known."""
        precisions = nbeta * self.values + localization
        least = _FLOOR * precisions.max()
        scaled = self.stiffest * precisions.clamp(min=least)
        return scaled.rsqrt()


def measure_curvatures(problem: Problem, keys: Iterable[Key], seed: int) -> dict[Key, Curvatures]:
    """Return F of each network at each nβ. It depends on the network, the data, nβ and the seed alone.

    Raises:
        ValueError: the networks have more than `MOST_DENSE` sampled parameters.
    """
    P = problem.layout.size
    check("parameters", f"{P} numbers", P <= MOST_DENSE, f"at most {MOST_DENSE} for a sampler with a metric")
    found = {}
    for member, nbeta in sorted(set(keys)):
        found[member, nbeta] = _curvatures(problem, member, nbeta, seed)
    return found


def _curvatures(problem: Problem, member: int, nbeta: float, seed: int) -> Curvatures:
    """Return F of one network."""
    P = problem.layout.size
    localization = _REFERENCE * nbeta
    rounds = _Rounds(problem, member, seed)
    steps = _DISTANCE * torch.eye(P, dtype=torch.float64)
    products = rounds.products(torch.zeros(P, P, dtype=torch.float64), steps) / _DISTANCE
    values, directions = torch.linalg.eigh(_symmetric(products))
    precisions = nbeta * values.abs() + localization
    for _ in range(_ROUNDS):
        root = directions * precisions.rsqrt()  # A, (P, P)
        products = rounds.products(root, root.T)
        found = nbeta * _symmetric(products @ root)  # Aᵀ ∇²U A, but for γ
        if not found.isfinite().all():
            break
        found = _function(found, torch.abs)
        found.diagonal().add_(localization / precisions)
        middle = _function(found, torch.sqrt)  # the geometric mean of it and 1, the old precision in u
        back = directions * precisions.sqrt()  # A^(-T)
        values, directions = torch.linalg.eigh(back @ middle @ back.T)
        precisions = values.clamp(min=localization)
    root = directions * precisions.rsqrt()
    stiffest = rounds.largest(root, nbeta, localization)
    curvatures = (precisions - localization) / nbeta
    like = problem.anchors
    return Curvatures(directions.to(like), curvatures.to(like), max(1.0, stiffest))


def _symmetric(matrix: Tensor) -> Tensor:
    """Return the symmetric part of a matrix."""
    return (matrix + matrix.T) / 2


def _function(matrix: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """Return a function of a symmetric matrix, by its eigenvalues."""
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * function(values)) @ vectors.T


class _Rounds:
    """Find products with the Hessian of the mean loss around w* of one network, round by round.

    Args:
        problem: the problem.
        member: place of the network in the stack.
        seed: of samples and points.
    """

    def __init__(self, problem: Problem, member: int, seed: int) -> None:
        self._problem = problem
        self._fixed = problem.fixed_of(member)
        self._anchor = problem.anchors[member].double().cpu()  # (P,)
        self._generator = torch.Generator().manual_seed(seed)
        self._order = torch.randperm(problem.num_samples, generator=self._generator)
        self._count = min(problem.num_samples, max(_SAMPLES, 2 * problem.layout.size))
        self._first = 0  # place in the order of the next sample

    def products(self, root: Tensor, steps: Tensor) -> Tensor:
        """Return g(w + step) - g(w) for each step, (K, P), a mean over points w = w* + root ξ.

        Args:
            root: (P, P).
            steps: (K, P).
        """
        P = len(self._anchor)
        count = self._count
        per_point = -(-count // _POINTS)  # rounded up
        total = torch.zeros_like(steps)
        for part in chunk_ranges(count, per_point):
            noise = torch.randn(P, generator=self._generator, dtype=torch.float64)
            point = self._anchor + root @ noise
            share = len(part) / count
            total += share * self._differences(point, steps, self._samples(len(part)))
        return total

    def largest(self, root: Tensor, nbeta: float, localization: float) -> float:
        """Return the largest curvature of U in u, w = w* + root u, at points of u ~ N(0, 1), by power iteration."""
        P = len(self._anchor)
        index = self._samples(self._count)
        pull = localization * root.T @ root  # its Hessian in u
        largest = 0.0
        for _ in range(_POINTS):
            noise = torch.randn(2, P, generator=self._generator, dtype=torch.float64)
            point = self._anchor + root @ noise[0]
            direction = noise[1] / noise[1].norm()
            for _ in range(_ITERATIONS):
                step = root @ direction  # one width
                difference = self._differences(point, step[None], index)[0]  # (P,)
                product = nbeta * (root.T @ difference) + pull @ direction
                size = float(product.norm())
                if not 0 < size < math.inf:
                    break
                direction = product / size
            largest = max(largest, size)
        return largest

    def _samples(self, count: int) -> Tensor:
        """Return the indices of the next samples of the order, which begins again at its end."""
        places = torch.arange(self._first, self._first + count)
        self._first += count
        return self._order[places % len(self._order)]

    def _differences(self, point: Tensor, steps: Tensor, index: Tensor) -> Tensor:
        """Return g(point + step) - g(point) for each step, (K, P), in double precision."""
        like = self._problem.anchors
        index = index.to(like.device)
        inputs = part_of(self._problem.inputs, index)
        targets = self._problem.targets[index]
        base = self._gradients(point[None].to(like), inputs, targets)  # (1, P)
        bytes_of_samples = len(index) * self._problem.bytes_per_sample
        bytes_per_copy = 6 * base.nbytes + int(bytes_of_samples)
        at_once = copies_that_fit(bytes_per_copy, self._problem.memory_budget)
        differences = []
        for rows in chunk_ranges(len(steps), at_once):
            positions = point + steps[rows.start : rows.stop]
            found = self._gradients(positions.to(like), inputs, targets) - base
            differences.append(found.double().cpu())
        return torch.cat(differences)

    def _gradients(self, positions: Tensor, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return the gradients of the mean loss over all of these samples, (K, P)."""
        _, gradients = losses_and_gradients(
            self._problem.losses_of_one_batch,
            self._problem.layout,
            positions,
            samples=[],
            inputs=inputs,
            targets=targets,
            own={},
            common=self._fixed,
            shared_batch=True,
        )
        return gradients
