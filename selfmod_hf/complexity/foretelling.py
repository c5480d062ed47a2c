"""Foretell the biases of all estimates of a run, from its traces and a search for a lower loss near w*."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from .biases import Biases, Observed, foretell
from .curvature import EVALUATIONS, MOST_SAMPLES, largest_curvature
from .diagnostics import Draws
from .minimum import Descent, count_active
from .pieces import Group, Run
from .rounding import rounding_bias
from .samplers import SAMPLERS
from .spectrum import SHARE_OF_CHAINS, affordable_spectrum
from .status import BIAS_SHARE, FLOOR, LOWER_SHARE, MIN_DRAWS, diverged_chains
from .thermometer import ACTIVE, NOISE, PRODUCT, SQUARE, VIRIAL
from .traces import Traces

_SEARCH_SHARE = 0.06  # of the work of the chains, for the search of each network
_LEAST_EVALUATIONS, _MOST_EVALUATIONS = 6, 30
_AT_ALL = 60  # evaluations, while the search still pays
_CURVATURE_SHARE = 0.1  # of the work of the chains, for the largest curvature of each network
_FEWEST_SAMPLES = 256  # of a largest curvature
_WORTH = 0.01  # of the estimate: a search pays if 6 evaluations lower nβ L by more


@dataclass(frozen=True)
class _Near:
    """Hold what all data say about the loss near w* of one network.

    Attributes:
        lowered: nβ (L(w*) - L(w_low)), nats.
        active: parameters with a gradient.
    """

    lowered: float
    active: int


def biases_of_run(run: Run, traces: Traces) -> list[Biases | None]:
    """Return the foretold biases of each group.

    None for the paper's presets, for chains that are not finite, and for a run that is too short for any status but
    "not_converged", because the search for a lower loss would take longer than its chains.
    """
    found: list[Biases | None] = [None] * len(run.groups)
    kept = run.settings.num_draws - run.settings.burnin
    if run.settings.of_paper or kept < MIN_DRAWS:
        return found
    curvatures: dict[tuple[int, float, float], float] = {}  # by member, nβ and γ
    searched: dict[tuple[int, float], _Near] = {}  # by member and nβ
    of_groups = [llc_trace(run, traces, place) for place in range(len(run.groups))]
    estimates = [_possible_estimate(run, trace) for trace in of_groups]
    for place, group in enumerate(run.groups):
        trace = of_groups[place]
        if not np.isfinite(trace).all():
            continue
        network = (group.member, group.nbeta)
        if network not in searched:
            active = count_active(run.problem, group.member)
            searched[network] = _Near(_lowered(run, group, estimates), active)
        pulled = (*network, group.localization)
        if pulled not in curvatures:
            curvatures[pulled] = _curvature(run, group)
        observed = _observed(run, traces, place, trace, searched[network])
        if _pull_matters(run, observed):
            observed = replace(observed, curved_pull=_curved_pull(run, group))
        biases = foretell(observed, curvatures[pulled])
        rounding = rounding_bias(run.problem, *network, float(observed.llc.mean()))
        found[place] = replace(biases, rounding=rounding)
    return found


def _pull_matters(run: Run, observed: Observed) -> bool:
    """Return whether the directions that the pull alone holds could add a share of the estimate that counts."""
    if SAMPLERS[run.settings.sampler].needs_fisher:  # its pull is in other units
        return False
    llc = float(observed.llc.mean())
    return observed.held / 2 > max(BIAS_SHARE * llc, FLOOR)


def _curved_pull(run: Run, group: Group) -> float:
    """Return what the pull takes from the directions that are curved at w*, or NaN if the curvatures are not known.

    They are not where they would cost too much beside the chains. The problem keeps those that it has found.
    """
    affordable = SHARE_OF_CHAINS * _samples_of_chains(run, group)
    spectrum = affordable_spectrum(run.problem, group.nbeta, group.member, affordable, run.settings.seed)
    if spectrum is None:
        return math.nan
    return spectrum.pull(group.localization)


def _curvature(run: Run, group: Group) -> float:
    """Return the largest curvature of U in the coordinates of the noise, or NaN if it is not known or not needed."""
    sampler = SAMPLERS[run.settings.sampler]
    if run.batch_size == run.problem.num_samples:  # nothing heats
        return math.nan
    if sampler.needs_preconditioner:
        return 1.0  # by the choice of the preconditioner
    if sampler.scale is not None:
        return math.nan
    affordable = int(_CURVATURE_SHARE * _samples_of_chains(run, group) / EVALUATIONS)
    return largest_curvature(
        run.problem,
        nbeta=group.nbeta,
        localization=group.localization,
        member=group.member,
        samples=min(MOST_SAMPLES, max(_FEWEST_SAMPLES, affordable)),
    )


def _same_network(run: Run, group: Group) -> list[int]:
    """Return the places of the groups of the same network at the same nβ."""
    network = (group.member, group.nbeta)
    return [place for place, other in enumerate(run.groups) if (other.member, other.nbeta) == network]


def _samples_of_chains(run: Run, group: Group) -> int:
    """Return the number of samples whose gradients the chains of a group's network took, over all its groups."""
    same = _same_network(run, group)
    return len(same) * run.settings.num_chains * run.settings.num_draws * run.batch_size


def llc_trace(run: Run, traces: Traces, place: int) -> Draws:
    """Return the contribution of each draw to the estimate of the group at `place`, (C, T), burn-in included."""
    group = run.groups[place]
    compared = traces.baseline[place]
    if not run.settings.paired:
        compared = run.problem.anchor_means[group.member]
    with np.errstate(invalid="ignore", over="ignore"):
        return group.nbeta * (traces.losses[place] + traces.correction[place] - compared)


def _possible_estimate(run: Run, trace: Draws) -> float:
    """Return the estimate of draws (C, T), at most d/2, or 0 if a chain has diverged.

    The other cells of a calibration are searched by it, too.
    """
    size = run.problem.layout.size
    burnin = run.settings.burnin
    if diverged_chains(trace, size, burnin):
        return 0.0
    return min(float(trace[:, burnin:].mean()), size / 2)


def _lowered(run: Run, group: Group, estimates: Sequence[float]) -> float:
    """Return by how much an optimizer lowers nβ L near w*, with the weakest pull of this network's groups.

    The search takes a small part of the work of the chains at first. It goes on while it lowers nβ L by a part of the
    estimate, because it is slow if curvatures differ a lot. It ends when w* counts as no minimum.

    Args:
        run: the run.
        group: one of the network's.
        estimates: of all groups, those of `_possible_estimate`.
    """
    same = _same_network(run, group)
    affordable = _SEARCH_SHARE * _samples_of_chains(run, group) / run.problem.num_samples
    affordable = min(_MOST_EVALUATIONS, max(_LEAST_EVALUATIONS, affordable))
    largest = max(0.0, *[estimates[place] for place in same])
    decided = max(LOWER_SHARE * largest, FLOOR)
    weakest = min(run.groups[place].localization for place in same)
    problem = run.problem
    known = None
    if run.settings.corrects(problem.num_samples):  # the sums of the control variate
        known = (problem.anchor_means[group.member], problem.anchor_gradients[group.member].double())
    lowered = 0.0
    for beside in (False, True):  # at a saddle only the second search moves
        descent = Descent(problem, group.member, nbeta=group.nbeta, localization=weakest, known=known, beside=beside)
        lowered = max(lowered, _search(descent, affordable, decided, _WORTH * largest))
        if lowered > decided:
            break
    return lowered


def _search(descent: Descent, affordable: float, decided: float, worth: float) -> float:
    """Return by how much a search lowers nβ L.

    Args:
        descent: the search.
        affordable: number of evaluations that it may always take.
        decided: a larger result makes no difference.
        worth: it goes on while some evaluations lower nβ L by more.
    """
    lowered = 0.0
    evaluations = 0
    while True:
        found = descent.lower(_LEAST_EVALUATIONS)
        pays = found.lowered - lowered > worth or found.evaluations < affordable
        stuck = found.evaluations == evaluations
        if found.lowered > decided or stuck or not pays or found.evaluations >= _AT_ALL:
            return found.lowered
        lowered = found.lowered
        evaluations = found.evaluations


def _observed(run: Run, traces: Traces, place: int, trace: Draws, near: _Near) -> Observed:
    """Return the observations of the group at `place`, with its trace (C, T).

    A chain may reach parameters without a gradient near w*, so that its own count may exceed that of `near`.
    """
    settings = run.settings
    group = run.groups[place]
    sampler = SAMPLERS[settings.sampler]
    kept = slice(settings.burnin, None)
    heat = traces.heat[place][:, kept]  # (C, T, h)
    read = np.isfinite(heat[:, :, VIRIAL]).all(axis=0)  # (T,)
    readings = heat[:, read]  # (C, K, h)
    active = near.active
    if readings.size > 0:
        active = max(active, int(readings[:, :, ACTIVE].max()))
    return Observed(
        llc=trace[:, kept],
        squares=heat[:, :, SQUARE],
        virials=readings[:, :, VIRIAL],
        noises=readings[:, :, NOISE],
        products=readings[:, :, PRODUCT],
        active=active,
        isotropic=sampler.scale is None or sampler.needs_fisher,
        num_parameters=run.problem.layout.size,
        nbeta=group.nbeta,
        localization=group.localization,
        step_size=group.step_size,
        momentum=settings.options.get("momentum", 0.0),
        discretized="momentum" not in settings.options and not sampler.decides,
        batch_size=run.batch_size,
        num_samples=run.problem.num_samples,
        corrected=settings.corrects(run.problem.num_samples),
        lower=near.lowered,
    )
