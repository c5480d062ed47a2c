"""Foretell the biases of all estimates of a run, from its traces and a search for a lower loss near w*."""

from __future__ import annotations

import math

import numpy as np

from .biases import Biases, Observed, foretell
from .curvature import largest_curvature
from .diagnostics import Draws
from .minimum import lower_locally
from .pieces import Group, Run
from .samplers import SAMPLERS
from .thermometer import ACTIVE, NOISE, PRODUCT, SQUARE, VIRIAL
from .traces import Traces

_SEARCH_SHARE = 0.06  # of the work of the chains, for the search of each network
_LEAST_EVALUATIONS, _MOST_EVALUATIONS = 6, 30


def biases_of_run(run: Run, traces: Traces) -> list[Biases | None]:
    """Return the foretold biases of each group. None for the paper's presets, and for chains that are not finite."""
    found: list[Biases | None] = [None] * len(run.groups)
    if run.settings.of_paper:
        return found
    first = run.groups[0]
    curvature = _curvature(run, first)
    lowered: dict[tuple[int, float], float] = {}  # by member and nβ
    for place, group in enumerate(run.groups):
        trace = llc_trace(run, traces, place)
        if not np.isfinite(trace).all():
            continue
        network = (group.member, group.nbeta)
        if network not in lowered:
            lowered[network] = _lowered(run, group)
        observed = _observed(run, traces, place, trace, lowered[network])
        found[place] = foretell(observed, curvature)
    return found


def _curvature(run: Run, group: Group) -> float:
    """Return the largest curvature of U in the coordinates of the noise, or NaN if it is not known or not needed."""
    sampler = SAMPLERS[run.settings.sampler]
    if run.batch_size == run.problem.num_samples:  # nothing heats
        return math.nan
    if sampler.needs_metric:
        return 1.0  # by the choice of the metric
    if sampler.scale is not None:
        return math.nan
    return largest_curvature(run.problem, nbeta=group.nbeta, localization=group.localization)


def llc_trace(run: Run, traces: Traces, place: int) -> Draws:
    """Return the contribution of each draw to the estimate of the group at `place`, (C, T), burn-in included."""
    group = run.groups[place]
    compared = traces.baseline[place]
    if not run.settings.paired:
        compared = run.problem.anchor_means[group.member]
    with np.errstate(invalid="ignore", over="ignore"):
        return group.nbeta * (traces.losses[place] + traces.correction[place] - compared)


def _lowered(run: Run, group: Group) -> float:
    """Return by how much an optimizer lowers nβ L near w*, with the weakest pull of this network's groups.

    The search takes a small part of the work of the chains.
    """
    settings = run.settings
    same = [other for other in run.groups if other.member == group.member and other.nbeta == group.nbeta]
    steps = len(same) * settings.num_chains * settings.num_draws
    affordable = _SEARCH_SHARE * steps * run.batch_size / run.problem.num_samples
    evaluations = min(_MOST_EVALUATIONS, max(_LEAST_EVALUATIONS, int(affordable)))
    found = lower_locally(
        run.problem,
        group.member,
        nbeta=group.nbeta,
        localization=min(other.localization for other in same),
        evaluations=evaluations,
    )
    return found.lowered


def _observed(run: Run, traces: Traces, place: int, trace: Draws, lowered: float) -> Observed:
    """Return the observations of the group at `place`, with its trace (C, T)."""
    settings = run.settings
    group = run.groups[place]
    sampler = SAMPLERS[settings.sampler]
    kept = slice(settings.burnin, None)
    heat = traces.heat[place][:, kept]  # (C, T, h)
    read = np.isfinite(heat[:, :, VIRIAL]).all(axis=0)  # (T,)
    readings = heat[:, read]  # (C, K, h)
    active = 0
    if readings.size > 0:
        active = int(readings[:, :, ACTIVE].max())
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
        lower=lowered,
    )
