"""Look for the local minimum near w*, by L-BFGS on all data.

The objective is that of the sampling, U(w) = nβ L(w) + (γ/2) |w - w*|². The pull keeps the search local.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..stacking import chunk_ranges, copies_that_fit, losses_and_gradients, part_of
from .modes import ordinary_tensors
from .pieces import Group
from .problem import MOST_AT_ANCHOR, Problem

TO_THE_MINIMUM = 500  # gradients on all data, at most, if w* itself is moved
_GAIN = 0.05  # nats: a search that lowers nβ L by less is the last
_HISTORY = 10
_BESIDE = 1e-2  # distance of each parameter from w*, where those with a gradient are counted
_NEAR = 1e-3  # distance of a second gradient, for the curvature
_RISE = 0.1  # nats by which U rises, at most about, where a search begins beside w*


@dataclass(frozen=True)
class Minimum:
    """Hold the lowest point found near w* of one network.

    Attributes:
        position: (P,).
        lowered: nβ (L(w*) - L(position)), nats. At least 0.
        distance: |position - w*|.
        evaluations: gradients on all data.
    """

    position: Tensor
    lowered: float
    distance: float
    evaluations: int


class Descent:
    """Lower U = nβ L + (γ/2) |w - w_0|² of one network, as long as the caller wants.

    A search that begins at w_0 itself never leaves a saddle. One that begins beside it does.

    Args:
        problem: networks, data and loss.
        member: place of the network in the stack.
        nbeta: nβ.
        localization: γ.
        start: w_0, (P,), float64. None: w*.
        known: the mean loss at w_0 and its gradient (P,), float64. None: they are computed.
        beside: begin at a random place near w_0, where U is little higher.

    Example:
        >>> from selfmod_hf.complexity import half_squared_error
        >>> from selfmod_hf.complexity.prepare import make_problem
        >>> from selfmod_hf.complexity.settings import LLCSettings
        >>> model, x = torch.nn.Linear(1, 1, bias=False), torch.ones(10, 1)
        >>> problem = make_problem([model], x, x, LLCSettings(loss_fn=half_squared_error))
        >>> minimum = Descent(problem, 0, nbeta=100.0, localization=0.0).lower(30)
        >>> round(float(minimum.position), 3)
        1.0
    """

    def __init__(  # noqa: PLR0913 - the potential, and where it is known
        self,
        problem: Problem,
        member: int,
        *,
        nbeta: float,
        localization: float,
        start: Tensor | None = None,
        known: tuple[float, Tensor] | None = None,
        beside: bool = False,
    ) -> None:
        if start is None:
            start = problem.anchors[member].double()
        self._loss_and_gradient = functools.partial(loss_and_gradient, problem, member)
        self._start = start
        self._nbeta = nbeta
        self._localization = localization
        self._found = _Lowest()
        if known is not None:
            self._note(start, *known)
        first = torch.zeros_like(start)  # w - w_0
        if beside:
            first = self._little_higher()
        self._unit = _unit(start + first, self._energy_and_force)
        self._steps, self._optimizer = self._from(first)
        self._gained = False

    @ordinary_tensors()
    def lower(self, evaluations: int) -> Minimum:
        """Return the lowest point so far, after at most about so many more gradients on all data."""
        before = self._found.energy
        if self._unit > 0:
            self._optimizer.param_groups[0].update(max_iter=evaluations, max_eval=evaluations)
            self._optimizer.step(self._objective)
        if self._found.energy < before:
            self._gained = True
        elif self._gained:  # its memory of curvatures misleads it, as near a saddle
            self._steps, self._optimizer = self._from(self._found.position - self._start)
            self._gained = False
        return self._found.minimum(self._nbeta)

    def _from(self, moved: Tensor) -> tuple[torch.nn.Parameter, torch.optim.LBFGS]:
        """Return (w - w_0) / unit at w_0 + `moved` (P,), and an optimizer of it without a memory of earlier points."""
        steps = torch.nn.Parameter(moved / (self._unit or 1.0))
        return steps, torch.optim.LBFGS([steps], history_size=_HISTORY, line_search_fn="strong_wolfe")

    def _little_higher(self) -> Tensor:
        """Return a random step (P,) from w_0, as long as in `count_active` or shorter, by which U rises little."""
        step = _random_step(self._start)
        before, _ = self._energy_and_force(self._start)
        after, _ = self._energy_and_force(self._start + step)
        rise = abs(after - before)
        if not rise > _RISE:
            return step
        return step * (_RISE / rise) ** 0.5

    def _objective(self) -> float:
        """Return U at the current steps and set their gradient."""
        energy, force = self._energy_and_force(self._start + self._unit * self._steps.detach())
        self._steps.grad = self._unit * force
        return energy

    def _energy_and_force(self, position: Tensor) -> tuple[float, Tensor]:
        """Return U and its gradient (P,). A point that is known is not computed again."""
        point = self._found.at(position)
        if point is None:
            self._found.evaluations += 1
            point = self._note(position, *self._loss_and_gradient(position))
        return point.energy, point.force

    def _note(self, position: Tensor, loss: float, gradient: Tensor) -> _Point:
        """Return a point with U and its gradient, and compare it with the lowest."""
        moved = position - self._start
        energy = self._nbeta * loss + self._localization / 2 * float(moved @ moved)
        force = self._nbeta * gradient + self._localization * moved
        point = _Point(position.clone(), loss, energy, force)
        self._found.compare(point)
        return point


@ordinary_tensors()
def count_active(problem: Problem, member: int) -> int:
    """Return the number of parameters of one network that have a gradient on all data.

    It is taken at two opposite points beside w*, because at w* itself a gradient may be 0, and a unit that is off at
    one of them may be on at the other.

    Args:
        problem: networks, data and loss.
        member: place of the network in the stack.
    """
    anchor = problem.anchors[member].double()
    moved = _random_step(anchor)
    active = torch.zeros_like(anchor, dtype=torch.bool)
    for position in (anchor + moved, anchor - moved):
        _, gradient = loss_and_gradient(problem, member, position)
        active |= gradient != 0
    return int(active.sum())


def _random_step(anchor: Tensor) -> Tensor:
    """Return a step (P,) from w*, the same for each call."""
    generator = torch.Generator().manual_seed(0)
    return _BESIDE * torch.randn(anchor.shape, generator=generator).to(anchor)


def _unit(anchor: Tensor, energy_and_force: Callable[[Tensor], tuple[float, Tensor]]) -> float:
    """Return 1/sqrt(a), with a the curvature of U along its gradient at w*, or 0 at a stationary point.

    In this unit a curvature is about 1, so that the first step of L-BFGS has a useful length.
    """
    _, force = energy_and_force(anchor)
    norm = float(force.norm())
    if norm == 0 or not math.isfinite(norm):
        return 0.0
    direction = force / norm
    _, there = energy_and_force(anchor - _NEAR * direction)
    curvature = float((force - there).norm()) / _NEAR
    if curvature == 0 or not math.isfinite(curvature):
        return 1.0
    return curvature**-0.5


def loss_and_gradient(problem: Problem, member: int, position: Tensor) -> tuple[float, Tensor]:
    """Return the mean loss over all data and its gradient (P,), in float64, at a position (P,) of one network."""
    fit = copies_that_fit(int(problem.bytes_per_sample), problem.memory_budget)
    chunk = min(fit, MOST_AT_ANCHOR)
    point = position.to(problem.stack_dtype)[None]  # (1, P)
    fixed = problem.fixed_of(member)
    total = 0.0
    gradient = torch.zeros_like(position)
    for samples in chunk_ranges(problem.num_samples, chunk):
        part = slice(samples.start, samples.stop)
        loss, of_part = losses_and_gradients(
            problem.losses_of_one_batch,
            problem.layout,
            point,
            samples=[],
            inputs=part_of(problem.inputs, part),
            targets=problem.targets[part],
            own={},
            common=fixed,
            shared_batch=True,
        )
        total += float(loss) * len(samples)
        gradient.add_(of_part[0], alpha=len(samples))
    return total / problem.num_samples, gradient / problem.num_samples


def at_minima(problem: Problem, groups: Sequence[Group]) -> tuple[Problem, list[Minimum]]:
    """Return the problem with each network at its local minimum, and the minima.

    Args:
        problem: networks, data and loss.
        groups: settings of the sampling. The weakest localization of a network's groups counts.
    """
    minima = []
    for member in range(len(problem.stack)):
        own = [group for group in groups if group.member == member]
        weakest = min(group.localization for group in own)
        minima.append(_without_pull(problem, member, own[0].nbeta, weakest))
    return _moved_to(problem, minima), minima


def _moved_to(problem: Problem, minima: Sequence[Minimum]) -> Problem:
    """Return the problem with each network at its minimum, one for each."""
    positions = torch.stack([found.position for found in minima])  # (M, P)
    moved = problem.layout.views(positions.to(problem.stack_dtype))
    stack = replace(problem.stack, parameters=problem.stack.parameters | moved)
    return replace(problem, stack=stack)


def _without_pull(problem: Problem, member: int, nbeta: float, localization: float) -> Minimum:
    """Return the local minimum of nβ L of one network, by searches with the pull to where the last one ended.

    It is found at the precision of the weights. The pull keeps each search local. The chains are pulled to the last of
    these points, so it must be a minimum itself.
    A search that finds nothing is followed by one that begins beside its point, because that may be a saddle.
    """
    problem = problem.exact
    first = problem.anchors[member].double()
    position, lowered, evaluations = first, 0.0, 0
    beside = False
    while evaluations < TO_THE_MINIMUM:
        descent = Descent(problem, member, nbeta=nbeta, localization=localization, start=position, beside=beside)
        found = descent.lower(TO_THE_MINIMUM - evaluations)
        position = found.position
        lowered += found.lowered
        evaluations += found.evaluations
        finds_nothing = found.lowered < _GAIN
        if finds_nothing and beside:
            break
        beside = finds_nothing
    return Minimum(position, lowered, float((position - first).norm()), evaluations)


@dataclass(frozen=True)
class _Point:
    """Hold a point of a search, (P,), with the mean loss, U, and the gradient of U, (P,)."""

    position: Tensor
    loss: float
    energy: float
    force: Tensor


class _Lowest:
    """Keep the first point of a search and the one of the lowest energy."""

    def __init__(self) -> None:
        self._first: _Point | None = None
        self._lowest: _Point | None = None
        self.evaluations = 0

    @property
    def energy(self) -> float:
        """Return the lowest U."""
        assert self._lowest is not None
        return self._lowest.energy

    @property
    def position(self) -> Tensor:
        """Return the lowest point, (P,)."""
        assert self._lowest is not None
        return self._lowest.position

    def at(self, position: Tensor) -> _Point | None:
        """Return the kept point at a position. None: none is there."""
        for point in (self._first, self._lowest):
            if point is not None and torch.equal(point.position, position):
                return point
        return None

    def compare(self, point: _Point) -> None:
        """Compare a point with the lowest."""
        if self._first is None:
            self._first = point
            self._lowest = point
        elif self._lowest is None or point.energy < self._lowest.energy:
            self._lowest = point

    def minimum(self, nbeta: float) -> Minimum:
        """Return the lowest point."""
        assert self._first is not None
        assert self._lowest is not None
        moved = self._lowest.position - self._first.position
        lowered = max(0.0, nbeta * (self._first.loss - self._lowest.loss))
        return Minimum(self._lowest.position, lowered, float(moved.norm()), self.evaluations)
