"""Find how curved the mean loss is at w* in every direction, and what a localization takes from each of them.

A direction of curvature h counts as nβ h / (2 (nβ h + γ)) under the localized posterior, so γ takes γ / (2 (nβ h + γ))
from it. The sum over all curved directions is foretold for networks of few parameters. What the other directions
add and lose is left to the sampling.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._pytree import tree_map

from ..stacking import chunk_ranges, copies_that_fit, losses_and_gradients, part_of
from .modes import ordinary_tensors
from .problem import Problem
from .random_streams import some_samples

MOST_PARAMETERS = 2000  # above it the Hessian costs more than the sampling
LEAST_SAMPLES = 4096  # of a calibration
# Some of the samples are not at their minimum, and their curvatures hide flat directions. So all are taken, if all
# curvatures of a network cost at most this share of the chains' work.
SHARE_OF_CHAINS = 0.1
_DISTANCE = 1e-6  # of the differences, in the weights' own units and float64
_LEAST = 0.02  # of nβ h: a direction with less is as flat as none at w*


@dataclass(frozen=True)
class Spectrum:
    """Hold the curvatures of U's curved directions at w*, localization left out.

    Attributes:
        values: nβ h, those of at least 0.02.
        least: the smallest of all. It is negative where w* is no minimum of the samples.
    """

    values: NDArray[np.float64]
    least: float = 0.0

    def pull(self, localization: float) -> float:
        """Return the nats that a localization takes from the estimate.

        Example:
            >>> Spectrum(np.array([30.0, 10.0])).pull(10.0)
            0.375
        """
        shares = localization / (self.values + localization)
        return float(shares.sum()) / 2


def affordable_spectrum(problem: Problem, nbeta: float, member: int, gradients: float, seed: int) -> Spectrum | None:
    """Return the spectrum of a network on as many samples as some gradients allow.

    None: they allow fewer than twice as many samples as parameters, so that curvatures would be those of chance. Or the
    network does not compute in float64.

    Args:
        problem: networks, data and loss, at any precision.
        nbeta: nβ.
        member: place of the network in the stack.
        gradients: of single samples, to take at most.
        seed: of the choice of samples.
    """
    size = problem.layout.size
    if size > MOST_PARAMETERS or problem.device.type == "mps":  # which has no float64
        return None
    known = problem.spectra.get((member, nbeta))
    if known is not None:
        return known
    samples = min(problem.num_samples, int(gradients / (size + 1)))
    if samples < min(problem.num_samples, 2 * size):
        return None
    try:
        found = find_spectrum(in_double(problem, member, some_samples(problem.num_samples, samples, seed)), nbeta)
    except Exception:  # a module of a user may do anything in float64, and the estimate does not depend on it
        return None
    # where a few samples are not at a minimum, flat directions have curvatures of both signs
    known = Spectrum(found.values[found.values >= -found.least], found.least)
    problem.spectra[member, nbeta] = known
    return known


def in_double(problem: Problem, member: int, samples: Tensor | slice) -> Problem:
    """Return the problem of one network and some samples in float64."""

    def cast(values: Tensor) -> Tensor:
        return values.double() if values.is_floating_point() else values

    def cast_all(state: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: cast(values[member : member + 1]) for name, values in state.items()}

    problem = problem.exact
    stack = problem.stack
    stack = replace(stack, parameters=cast_all(stack.parameters), buffers=cast_all(stack.buffers))
    return replace(
        problem,
        stack=stack,
        inputs=tree_map(cast, part_of(problem.inputs, samples)),
        targets=cast(problem.targets[samples]),
        probes=None,
    )


@ordinary_tensors()
def find_spectrum(problem: Problem, nbeta: float) -> Spectrum:
    """Return the spectrum of the first network on all samples.

    Args:
        problem: of some samples, in float64, because small curvatures beside large ones are differences of gradients.
        nbeta: nβ.
    """
    anchor = problem.anchors[0]  # (P,)
    fixed = problem.fixed_of(0)
    fit = copies_that_fit(int(problem.bytes_per_sample), problem.memory_budget)

    def gradients(positions: Tensor) -> Tensor:
        losses, found = losses_and_gradients(
            problem.losses_of_one_batch,
            problem.layout,
            positions,
            samples=[],
            inputs=problem.inputs,
            targets=problem.targets,
            own={},
            common=fixed,
            shared_batch=True,
            micro_batch_size=min(fit, problem.num_samples),
        )
        if losses.dtype != torch.float64:  # their rounding would be taken for curvatures
            raise RuntimeError(f"the losses are {losses.dtype}")
        return found  # (K, P)

    size = problem.layout.size
    base = gradients(anchor[None])  # (1, P)
    bytes_per_copy = 6 * base.nbytes + int(problem.num_samples * problem.bytes_per_sample)
    at_once = copies_that_fit(bytes_per_copy, problem.memory_budget)
    hessian = torch.empty(size, size, dtype=base.dtype, device=base.device)
    for rows in chunk_ranges(size, at_once):
        positions = anchor.repeat(len(rows), 1)
        places = torch.arange(rows.start, rows.stop)
        positions[torch.arange(len(rows)), places] += _DISTANCE
        hessian[rows.start : rows.stop] = (gradients(positions) - base) / _DISTANCE
    symmetric = (hessian + hessian.T) / 2
    curvatures = nbeta * torch.linalg.eigvalsh(symmetric).cpu().double().numpy()
    return Spectrum(curvatures[curvatures >= _LEAST], float(curvatures.min()))
