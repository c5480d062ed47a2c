"""Measure the directions and the widths of a network's posterior around w*, for samplers with `needs_preconditioner`.

    G = (nβ F + γ)^(-1),    F = E[ ∇²L(w) ],    w ~ N(w*, G)

G is the covariance of the normal distribution nearest to the posterior: its precision is the mean curvature within
itself (Opper, Archambeau 2009, "The Variational Gaussian Approximation Revisited", eq. 13). A direction without
curvature at w*, where the curvature grows with the distance, has the posterior's own width and not that of γ.

A round draws points of N(w*, G). The curvature of each direction is the difference of two gradients at a distance of
one width, so nothing needs a second derivative. Negative curvatures count by their size. The new precision is the
geometric mean of the old one and of what the round found, which is exact after one round for L = w⁴.

Up to `MOST_DENSE` parameters F is a matrix. Above it F has the directions of largest curvature and one number for all
others, the smallest of these curvatures. There are at most `DIRECTIONS`, as many as the memory budget allows.

In a curved valley no constant preconditioner is right everywhere. So the step of a sampler counts in units of the
largest curvature κ that the preconditioner leaves at points of N(w*, G), of 4 κ - 3. κ is 1 for a quadratic loss, and
tens or hundreds in a valley.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor

from ..stacking import chunk_ranges, copies_that_fit, losses_and_gradients, part_of
from .problem import Problem
from .samplers import Preconditioner

MOST_DENSE = 2000  # parameters: above it a matrix (P, P) costs more than it saves
DIRECTIONS = 32  # above it
_SAMPLES = 2048  # in a round, and at least twice the number of parameters of a matrix
_POINTS = 8  # in a round, with a part of its samples each
_ROUNDS = 4
_STIFF_POINTS = 32
_ITERATIONS = 12  # of a largest curvature
_DISTANCE = 1e-2  # of the first differences, in the weights' own units
_REFERENCE = 1e-4  # of nβ: the localization of the normal distribution
_FLOOR = 1e-7  # of the largest curvature: smaller ones are rounding

Key = tuple[int, float, float]  # (place of a network in the stack, nβ, γ)


@dataclass(frozen=True)
class Curvatures:
    """Hold F of one network by its eigenvectors, k of them.

    Attributes:
        directions: (P, k), a direction in each column.
        values: (k,), the curvature of L in each direction, at least 0.
        others: the curvature in all directions but these. None: k = P.
    """

    directions: Tensor
    values: Tensor
    others: float | None = None

    def to(self, like: Tensor) -> Curvatures:
        """Return them in the type and on the device of a tensor."""
        return Curvatures(self.directions.to(like), self.values.to(like), self.others)

    def preconditioner(self, nbeta: float, localization: float) -> Preconditioner:
        """Return the root of G = (nβ F + γ)^(-1), for one row."""
        precisions = nbeta * self.values + localization
        least = float(_FLOOR * precisions.max())
        widths = precisions.clamp(min=least).rsqrt()
        others = None
        if self.others is not None:
            precision = max(nbeta * self.others + localization, least)
            others = widths.new_full((1, 1), precision**-0.5)
        return Preconditioner(self._one_run, widths[None], others)

    @functools.cached_property
    def _one_run(self) -> Tensor:
        """Return the directions as a preconditioner has them, (1, P, k). Those of equal curvatures share them."""
        return self.directions[None]


def bytes_of_preconditioner(num_parameters: int, directions: int = DIRECTIONS) -> int:
    """Return the bytes of the search for some directions, most of them for Lanczos vectors.

    A preconditioner that is a matrix is left out. It takes 0.3 GB at most.

    Example:
        >>> bytes_of_preconditioner(22_000_000) / 1e9
        33.968
    """
    if num_parameters <= MOST_DENSE:
        return 0
    lanczos = max(2 * directions + 1, 20)  # vectors of scipy's
    doubles = lanczos + 2 * directions + _STIFF_POINTS + 2 * _POINTS
    return num_parameters * (8 * doubles + 4 * directions)


def _directions_that_fit(problem: Problem) -> int:
    """Return how many directions fit into the memory budget, at least one."""
    fitting = DIRECTIONS
    while fitting > 1 and bytes_of_preconditioner(problem.layout.size, fitting) > problem.memory_budget:
        fitting -= 1
    return fitting


def fewer_directions(preconditioner: Preconditioner) -> int | None:
    """Return the number of directions of a preconditioner, if the memory budget allowed fewer than usual."""
    found = preconditioner.directions.shape[2]
    if preconditioner.others is None or found >= DIRECTIONS:
        return None
    return found


class Preconditioners:
    """Measure the preconditioners of a problem's networks, each of them once.

    Args:
        problem: the problem.
        seed: of samples and points.
    """

    def __init__(self, problem: Problem, seed: int) -> None:
        self._problem = problem
        self._seed = seed
        # by place in the stack and nβ, in double precision and in the chains'
        self._curvatures: dict[tuple[int, float], tuple[Curvatures, Curvatures]] = {}
        self._preconditioners: dict[Key, Preconditioner] = {}

    def of(self, keys: Iterable[Key]) -> dict[Key, Preconditioner]:
        """Return the preconditioner of each network at each nβ and γ, for one row.

        It is scaled such that curvatures are at most 1. It depends on the network, the data, nβ, γ and the seed alone.
        """
        found = {}
        for key in sorted(set(keys)):
            if key not in self._preconditioners:
                self._preconditioners[key] = self._measured(*key)
            found[key] = self._preconditioners[key]
        return found

    def _measured(self, member: int, nbeta: float, localization: float) -> Preconditioner:
        """Return a preconditioner that was not measured before."""
        problem = self._problem
        network = (member, nbeta)
        if network not in self._curvatures:
            curvatures = measure_curvatures(problem, member, nbeta, self._seed)
            self._curvatures[network] = (curvatures, curvatures.to(problem.anchors))
        exact, rounded = self._curvatures[network]
        preconditioner = exact.preconditioner(nbeta, localization)
        cloud = _Clouds(problem, member, self._seed).cloud(preconditioner, _STIFF_POINTS)
        stiffest = max(1.0, cloud.largest_curvature(preconditioner, nbeta, localization))
        unit = 4 * stiffest - 3  # chains find stiffer points than these, except in a quadratic loss
        return rounded.preconditioner(nbeta, localization).times(unit**-0.5)


def measure_curvatures(problem: Problem, member: int, nbeta: float, seed: int) -> Curvatures:
    """Return F of one network in double precision. It is NaN if a gradient is not finite, so that chains diverge."""
    clouds = _Clouds(problem, member, seed)
    dense = problem.layout.size <= MOST_DENSE
    try:
        return _matrix(clouds, nbeta) if dense else _largest(clouds, nbeta, seed)
    except _NotFiniteError:  # chains of other networks run beside it
        size = clouds.size
        count = size if dense else _directions_that_fit(problem)
        unknown = torch.full((count,), math.nan, dtype=torch.float64)
        return Curvatures(torch.eye(size, count, dtype=torch.float64), unknown, None if dense else math.nan)


class _NotFiniteError(Exception):
    """Say that a network has a gradient near w* that is not finite."""


def _matrix(clouds: _Clouds, nbeta: float) -> Curvatures:
    """Return F as a matrix, after all rounds."""
    localization = _REFERENCE * nbeta
    cloud = clouds.cloud(None, _POINTS)
    steps = _DISTANCE * torch.eye(clouds.size, dtype=torch.float64)
    values, directions = torch.linalg.eigh(_symmetric(_finite(cloud.differences(steps)) / _DISTANCE))
    precisions = nbeta * values.abs() + localization
    for _ in range(_ROUNDS):
        root = directions * precisions.rsqrt()  # A, (P, P)
        curvatures = Curvatures(directions, (precisions - localization) / nbeta)
        cloud = clouds.cloud(curvatures.preconditioner(nbeta, localization), _POINTS)
        found = nbeta * _symmetric(cloud.differences(root.T) @ root)  # Aᵀ ∇²(nβ L) A
        if not found.isfinite().all():
            break
        found = _function(found, torch.abs)
        found.diagonal().add_(localization / precisions)
        middle = _function(found, torch.sqrt)  # the geometric mean of it and 1, the old precision in u
        back = directions * precisions.sqrt()  # A^(-T)
        values, directions = torch.linalg.eigh(back @ middle @ back.T)
        precisions = values.clamp(min=localization)
    return Curvatures(directions, (precisions - localization) / nbeta)


def _largest(clouds: _Clouds, nbeta: float, seed: int) -> Curvatures:
    """Return the largest curvatures, first at w*, then at points as far away as these allow."""
    size = clouds.size
    directions = _directions_that_fit(clouds.problem)
    generator = np.random.default_rng(seed)
    start = generator.standard_normal(size)
    cloud = clouds.cloud(None, _POINTS)
    distance = _DISTANCE
    for last in (False, True):

        def product(direction: np.ndarray, cloud: _Cloud = cloud, distance: float = distance) -> np.ndarray:
            step = distance * torch.from_numpy(direction).reshape(1, size)
            return _finite(cloud.differences(step))[0].numpy() / distance

        hessian = LinearOperator((size, size), matvec=product, dtype=np.float64)
        values, vectors = eigsh(hessian, directions, which="LM", v0=start, tol=0.01)
        found = np.abs(values)
        smallest = float(found.min())
        curvatures = Curvatures(torch.from_numpy(vectors), torch.from_numpy(found), smallest)
        if not last:
            localization = _REFERENCE * nbeta
            preconditioner = curvatures.preconditioner(nbeta, localization)
            cloud = clouds.cloud(preconditioner, _POINTS)
            distance = (nbeta * smallest + localization) ** -0.5
    return curvatures


def _finite(differences: Tensor) -> Tensor:
    """Return differences of gradients. Raise a `_NotFiniteError` if one is not finite."""
    if not differences.isfinite().all():
        raise _NotFiniteError
    return differences


def _symmetric(matrix: Tensor) -> Tensor:
    """Return the symmetric part of a matrix."""
    return (matrix + matrix.T) / 2


def _function(matrix: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """Return a function of a symmetric matrix, by its eigenvalues."""
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * function(values)) @ vectors.T


class _Clouds:
    """Draw clouds of points around w* of one network, with the samples that are seen there.

    Args:
        problem: the problem.
        member: place of the network in the stack.
        seed: of samples and points.
    """

    def __init__(self, problem: Problem, member: int, seed: int) -> None:
        self.problem = problem
        self.size = problem.layout.size
        self.fixed = problem.fixed_of(member)
        self._anchor = problem.anchors[member].double().cpu()  # (P,)
        self._generator = torch.Generator().manual_seed(seed)
        self._order = torch.randperm(problem.num_samples, generator=self._generator)
        self._first = 0  # place in the order of the next sample
        count = _SAMPLES
        if self.size <= MOST_DENSE:
            count = max(count, 2 * self.size)
        self._count = min(problem.num_samples, count)

    def cloud(self, preconditioner: Preconditioner | None, points: int) -> _Cloud:
        """Return points of N(w*, G), or w* so many times, each with its part of the next samples."""
        placed = []
        indices = []
        samples = -(-self._count // points)  # of a point, rounded up
        for _ in range(points):
            point = self._anchor
            if preconditioner is not None:
                noise = torch.randn(1, self.size, generator=self._generator, dtype=torch.float64)
                point = self._anchor + preconditioner.to_weights(noise)[0]
            places = torch.arange(self._first, self._first + samples)
            self._first += samples
            placed.append(point)
            indices.append(self._order[places % len(self._order)])
        return _Cloud(self, placed, indices)


class _Cloud:
    """Hold points, (P,) each, and the indices of the samples seen at each."""

    def __init__(self, clouds: _Clouds, points: list[Tensor], indices: list[Tensor]) -> None:
        self._clouds = clouds
        self._points = points
        self._indices = indices

    @functools.cached_property
    def _bases(self) -> list[Tensor]:
        """Return g(w) at each point, (1, P)."""
        pairs = zip(self._points, self._indices, strict=True)
        return [self._gradients(point[None], index) for point, index in pairs]

    def differences(self, steps: Tensor) -> Tensor:
        """Return g(w + step) - g(w) for each step, (K, P), as a mean over the points."""
        total = torch.zeros_like(steps)
        for point, index, base in zip(self._points, self._indices, self._bases, strict=True):
            total += self._from(base, point, steps, index)
        return total / len(self._points)

    def largest_curvature(self, preconditioner: Preconditioner, nbeta: float, localization: float) -> float:
        """Return the largest curvature of U in u, w = w* + A u, at any of the points, by power iteration.

        All samples are seen at each point.
        """
        index = torch.cat(self._indices)
        largest = 0.0
        generator = torch.Generator().manual_seed(0)
        for point in self._points:
            base = self._gradients(point[None], index)
            direction = torch.randn(1, self._clouds.size, generator=generator, dtype=torch.float64)
            size = float(direction.norm())
            for _ in range(_ITERATIONS):
                direction = direction / size
                step = preconditioner.to_weights(direction)  # one width
                force = nbeta * self._from(base, point, step, index) + localization * step
                direction = preconditioner.of_gradient(force)
                size = float(direction.norm())
                if not 0 < size < math.inf:
                    break
            if math.isfinite(size):
                largest = max(largest, size)
        return largest

    def _from(self, base: Tensor, point: Tensor, steps: Tensor, index: Tensor) -> Tensor:
        """Return g(point + step) - base for each step, (K, P), over these samples, in double precision."""
        problem = self._clouds.problem
        bytes_of_samples = len(index) * problem.bytes_per_sample
        bytes_per_copy = 6 * base.nbytes + int(bytes_of_samples)
        at_once = copies_that_fit(bytes_per_copy, problem.memory_budget)
        differences = []
        for rows in chunk_ranges(len(steps), at_once):
            found = self._gradients(point + steps[rows.start : rows.stop], index) - base
            differences.append(found.double().cpu())
        return torch.cat(differences)

    def _gradients(self, positions: Tensor, index: Tensor) -> Tensor:
        """Return the gradients of the mean loss over these samples, (K, P), in the chains' precision."""
        problem = self._clouds.problem
        like = problem.anchors
        index = index.to(like.device)
        fit = copies_that_fit(int(problem.bytes_per_sample), problem.memory_budget)
        _, gradients = losses_and_gradients(
            problem.losses_of_one_batch,
            problem.layout,
            positions.to(like),
            samples=[],
            inputs=part_of(problem.inputs, index),
            targets=problem.targets[index],
            own={},
            common=self._clouds.fixed,
            shared_batch=True,
            micro_batch_size=min(fit, len(index)),
        )
        return gradients
