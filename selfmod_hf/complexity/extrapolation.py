"""Extrapolate estimates at several step sizes and localizations to none of either.

An estimate at step size ε and localization γ is too high by the heating of minibatch noise, in proportion to ε. It is
too low by the pull of γ. A *cell* holds the estimate at one pair (ε, γ). The rule has two parts.

**Step size.** See `cells.py`. It leaves one value f(γ) for each localization.

**Localization.** f0, f1, f2 are the values at the three weakest localizations γ0 < γ1 < γ2. Their differences
Δ1 = f0 - f1 and Δ2 = f1 - f2 have the ratio r = Δ1/Δ2. Two laws through the three points continue them:

* one scale, f = b + m κ/(κ + γ): a group of directions of curvature κ beside steep ones. It rises least.
* a power law, f = y - m γ^p: directions of all scales. It rises most.

The estimate is the mean of the two. Half of their distance is a systematic error. At r = (γ1 - γ0)/(γ2 - γ1) both are
the straight line.

A ratio near 1 means that each weaker γ adds as much again: a logarithm (multiplicity above 1), or directions flatter
than γ0. Then no law of three points knows the limit at γ = 0. There are two ways out. Where the pull on the curved
directions of w* is foretold, it is added, and the rest is taken at a *reference* of γ = 1, a prior of unit width. Its
limit at γ = 0 is within the interval. Without the foretold pull the verdict is "not_identified".

All of it is linear in the cells' estimates once the ratio and the weights are known. So the standard error is that of
the same combination of blocks of draws, and noise that the cells share cancels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .cells import FLOOR, LARGE_SHIFT, Cell, Numbers, Steps, without_step_sizes

CONFIDENCE = 1.96  # standard errors in half of a 95 % interval
REFERENCE = 1.0  # γ of a prior of unit width, where the estimate is shown if it has no limit at γ = 0

_USUAL_POWER = 0.75  # p without a third localization, or with increments that are noise
_POWERS = (0.5, 1.0)  # its range
_LOGARITHMIC = 0.26  # at most: each γ that is four times weaker adds at least .7 of the increment before
_LOGARITHMIC_STEPS = 10  # increments that a logarithm may still add: λ - (m - 1)/log(nβ) has not more
_GROWTH = 0.03  # of the estimate: a smaller increment is no evidence of a logarithm
_LARGE_SYSTEMATIC = 0.1  # of the estimate
_WIDE = 0.15  # of the estimate: half of the interval of an estimate that is known
_LEAST = 0.05  # nats: the least limit that is a share of the estimate
_LARGE_STEP_SHIFT = 0.2
_OF_STEP_SHIFT = 0.3  # of what the step sizes add: the line through two steps ends too low where heating saturates
_OF_CURVED_SHIFT = 1.0  # the same of a law in ε², which is an assumption


@dataclass(frozen=True)
class Fit:
    """Hold the estimate without step size and localization.

    Attributes:
        llc: the estimate.
        standard_error: Monte Carlo error of `llc`.
        systematic_error: how far the laws of extrapolation disagree, and three tenths of what the step adds.
        interval: 95 %, systematic error included. None of it is above d/2.
        step_shift: what the extrapolation in ε added, of the smallest step at the weakest γ.
        localization_shift: what the extrapolation in γ added.
        identified: whether the cells agree on one estimate.
        reason: one line.
    """

    llc: float
    standard_error: float
    systematic_error: float
    interval: tuple[float, float]
    step_shift: float
    localization_shift: float
    identified: bool
    reason: str


def extrapolate(
    cells: Sequence[Cell],
    *,
    bound: float = math.inf,
    slope: float = 0.0,
    reference: float = 0.0,
) -> Fit:
    """Return the estimate at ε = 0 and a reference γ of the cells that mix.

    Args:
        cells: in any order. At least one mixes.
        bound: d/2 of d parameters. No λ is above it.
        slope: foretold increase of an estimate over ε, in nats.
        reference: γ of the estimate, the foretold pull aside.

    Raises:
        ValueError: no cell mixes.

    Example:
        >>> spread = np.linspace(-0.1, 0.1, 16)
        >>> cells = []
        >>> for pull in (1.0, 4.0, 16.0):
        ...     cells.append(Cell(1e-4, pull, 5 * 100 / (100 + pull) + spread, 0.02))
        >>> round(extrapolate(cells).llc, 2)
        5.0
    """
    serving = [cell for cell in cells if cell.mixes]
    if not serving:
        raise ValueError("cells: at least one that mixes is needed")
    steps = without_step_sizes(serving, slope)
    if reference > 0 and len(steps.values) > 1:
        return _at_reference(steps, reference, bound)
    return _at_zero(steps, _laws(steps, 0.0), bound)


@dataclass(frozen=True)
class _Laws:
    """Hold how f continues to a weaker localization.

    Attributes:
        factor: the shift, as a multiple of Δ1.
        systematic: half of the range of the shift, nats.
        logarithmic: whether each weaker γ adds as much again.
    """

    factor: float
    systematic: float
    logarithmic: bool


def _laws(steps: Steps, end: float) -> _Laws:
    """Return how the values continue to γ = end, below the weakest localization."""
    values = steps.values
    pulls = steps.pulls
    if len(values) == 1:
        return _Laws(0.0, 0.0, False)
    increment = float(values[0] - values[1])
    if len(values) == 2:
        factors = [_power_factor(pulls, power, end) for power in _POWERS]
        middle = _power_factor(pulls, _USUAL_POWER, end)
        return _Laws(middle, abs(increment) * (max(factors) - min(factors)) / 2, False)
    ratio, ratio_error = _measured_ratio(steps)
    most = _ratio_of(pulls, _LOGARITHMIC)
    kept = _between(ratio, pulls)
    above = _between(ratio + ratio_error / 2, pulls)
    lower = _scale_factor(pulls, kept, end)
    upper = _power_factor(pulls, _power_of(pulls, kept), end)
    highest = _power_factor(pulls, _power_of(pulls, above), end)
    middle = (lower + upper) / 2
    systematic = abs(increment) * max((upper - lower) / 2, (highest - middle) / 2)
    size = abs(float(values[0]))
    grows = increment > max(_GROWTH * size, FLOOR / 25, 2 * steps.error([1, -1]))
    return _Laws(middle, systematic, ratio >= most and grows)


def _measured_ratio(steps: Steps) -> tuple[float, float]:
    """Return Δ1/Δ2 and its error. Increments that are noise count as those of a usual law."""
    values = steps.values
    increment = float(values[0] - values[1])
    before = float(values[1] - values[2])
    noise = steps.error([1, -1]) ** 2 + steps.error([0, 1, -1]) ** 2
    usual = _ratio_of(steps.pulls, _USUAL_POWER)
    size = before**2 + noise
    if size == 0:
        return usual, 0.0
    return (increment * before + usual * noise) / size, math.sqrt(noise / size)


def _between(ratio: float, pulls: Numbers) -> float:
    """Return the ratio, within those of a straight line and of a logarithm."""
    return min(max(ratio, _ratio_of(pulls, 1.0)), _ratio_of(pulls, _LOGARITHMIC))


def _ratio_of(pulls: Numbers, power: float) -> float:
    """Return Δ1/Δ2 of y - m γ^p."""
    first, second, third = pulls[:3] ** power
    return float((second - first) / (third - second))


def _power_of(pulls: Numbers, ratio: float) -> float:
    """Return p of a ratio Δ1/Δ2, by bisection: the ratio falls as p rises."""
    low, high = _LOGARITHMIC, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        if _ratio_of(pulls, middle) > ratio:
            low = middle
        else:
            high = middle
    return high


def _power_factor(pulls: Numbers, power: float, end: float) -> float:
    """Return the shift to γ = end over Δ1, by a power law."""
    first, second = pulls[:2] ** power
    return float((first - end**power) / (second - first))


def _scale_factor(pulls: Numbers, ratio: float, end: float) -> float:
    """Return the shift to γ = end over Δ1, by one scale κ of curvature.

    With q = (γ1 - γ0)/(γ2 - γ1), r = q (κ + γ2)/(κ + γ0), and the shift is
    Δ1 (γ0 - end)/(γ1 - γ0) (κ + γ1)/(κ + end).
    """
    first, second, third = pulls[:3]
    apart = second - first
    straight = apart / (third - second)  # q
    line = float((first - end) / apart)
    if ratio <= straight:
        return line
    curvature = (straight * third - ratio * first) / (ratio - straight)  # κ
    if curvature <= 0:
        return _power_factor(pulls, _LOGARITHMIC, end)
    return line * float((curvature + second) / (curvature + end))


def _at_reference(steps: Steps, reference: float, bound: float) -> Fit:
    """Return the fit at a reference γ, with the limit at γ = 0 within the interval."""
    values = steps.values
    limit = _laws(steps, 0.0)
    increment = float(values[0] - values[1])
    if reference < steps.pulls[0]:
        laws = _laws(steps, reference)
        weights = [1 + laws.factor, -laws.factor]
        systematic = laws.systematic
    else:
        weights = _interpolation(steps.pulls, reference)
        systematic = 0.0
    llc = float(np.dot(weights, values[: len(weights)]))
    end = float(values[0]) + limit.factor * increment + limit.systematic
    shift = llc - float(values[0])
    room = max(0.0, bound - llc)
    beyond = min(max(0.0, end - llc, steps.missing), room)
    return _judged(steps, _Estimate(llc, weights, systematic, beyond, shift), bound)


def _interpolation(pulls: Numbers, reference: float) -> list[float]:
    """Return the weights of the values at a γ between the weakest and the strongest, along log γ."""
    places = np.log(pulls)
    place = math.log(reference)
    weights = []
    for unit in np.eye(len(pulls)):
        weights.append(float(np.interp(place, places, unit)))
    return weights


def _at_zero(steps: Steps, laws: _Laws, bound: float) -> Fit:
    """Return the fit at γ = 0."""
    values = steps.values
    if laws.logarithmic:
        return _logarithmic(steps, bound)
    weakest = float(values[0])
    weights = [1.0]
    shift = 0.0
    if len(values) > 1:
        shift = laws.factor * float(values[0] - values[1])
        weights = [1 + laws.factor, -laws.factor]
    room = max(0.0, bound - weakest)
    if shift > room:  # no λ is above d/2
        weights = [1.0]
        shift = room
    return _judged(steps, _Estimate(weakest + shift, weights, laws.systematic, 0.0, shift), bound)


@dataclass(frozen=True)
class _Estimate:
    """Hold an estimate before it is judged.

    Attributes:
        llc: the estimate.
        weights: of the values at the first localizations, for its error.
        systematic: nats.
        beyond: nats above the estimate where λ may be too.
        shift: against the value at the weakest localization.
    """

    llc: float
    weights: list[float]
    systematic: float
    beyond: float
    shift: float


def _judged(steps: Steps, estimate: _Estimate, bound: float) -> Fit:
    """Return the fit with its interval and verdict."""
    llc = estimate.llc
    error = steps.error(estimate.weights)
    systematic = estimate.systematic + _doubt_of_steps(steps)
    half = CONFIDENCE * error + systematic
    high = llc + half + estimate.beyond
    if len(steps.values) == 1 and math.isfinite(bound):
        high = bound
    reasons = _doubts(steps, llc, systematic, estimate.shift)
    reasons += _too_wide(llc, llc - half, high)
    text = f"from localization {steps.pulls[0]:.3g}: {steps.values[0]:.4g} -> {llc:.4g}"
    return Fit(
        llc=llc,
        standard_error=error,
        systematic_error=systematic,
        interval=below(bound, llc, llc - half, high),
        step_shift=steps.shift,
        localization_shift=estimate.shift,
        identified=not reasons,
        reason=reasons[0] if reasons else text,
    )


def _doubt_of_steps(steps: Steps) -> float:
    """Return how far the extrapolation over step sizes may be off, nats."""
    if steps.power == 1:
        return _OF_STEP_SHIFT * max(abs(steps.shift), abs(steps.unforetold))
    return _OF_STEP_SHIFT * abs(steps.heating) + _OF_CURVED_SHIFT * abs(steps.unforetold)


def below(bound: float, llc: float, low: float, high: float) -> tuple[float, float]:
    """Return the interval of an estimate without what lies above the bound, where no λ is.

    An estimate above the bound is too high by what exceeds it. Its interval begins as much lower, because an interval
    without width would claim that λ is known exactly.
    """
    excess = max(0.0, llc - bound)
    return low - excess, min(high, bound)


def _too_wide(llc: float, low: float, high: float) -> list[str]:
    """Return a reason if an interval, before it is cut at d/2, is too wide for an estimate that is known."""
    half = (high - low) / 2
    if half <= max(_WIDE * abs(llc), _LEAST):
        return []
    return [f"the interval from {low:.3g} to {high:.3g} is wide: take more draws"]


def _doubts(steps: Steps, llc: float, systematic: float, shift: float) -> list[str]:
    """Return the reasons why the cells do not agree on one estimate."""
    size = abs(llc)
    reasons = []
    if steps.missing > 0:
        reasons.append(
            f"directions flatter than the localization may add {steps.missing:.3g}: "
            f"the value at a localization of {max(REFERENCE, steps.pulls[0]):.3g} is shown"
        )
    if len(steps.values) < 2:
        reasons.append(f"no second localization beside {steps.pulls[0]:.3g} serves")
    if abs(steps.shift) > max(_LARGE_STEP_SHIFT * size, _LEAST):
        reasons.append(f"the step size changes the estimate by {-steps.shift:.3g}: take more draws")
    if systematic > max(_LARGE_SYSTEMATIC * size, _LEAST):
        reasons.append(f"the extrapolation is known only to {systematic:.3g}")
    if abs(shift) > max(LARGE_SHIFT * size, _LEAST):
        reasons.append(f"the localization takes {shift:.3g} of the estimate: take more draws")
    return reasons


def _logarithmic(steps: Steps, bound: float) -> Fit:
    """Return the fit where each weaker γ adds as much again.

    The values alone do not know their end. They lie between the value at the weakest γ and d/2. Where these are near
    each other, the middle is the estimate. Else the value at γ = 1 is shown.
    """
    values = steps.values
    weakest = float(values[0])
    error = steps.error([1.0])
    highest = weakest + _LOGARITHMIC_STEPS * float(values[0] - values[1])
    highest = max(weakest, min(highest, bound))
    room = (highest - weakest) / 2
    identified = room <= max(_LARGE_SYSTEMATIC * weakest, _LEAST)
    if identified:
        llc = weakest + room
        reason = f"between {weakest:.4g} at localization {steps.pulls[0]:.3g} and {highest:.4g}"
    else:
        places = np.log(steps.pulls)
        reference = float(np.clip(math.log(REFERENCE), places[0], places[-1]))
        llc = float(np.interp(reference, places, values))
        shown = math.exp(reference)
        reason = f"each weaker localization adds as much again: the value at {shown:.3g} is shown"
    half = CONFIDENCE * error
    low, high = below(bound, llc, min(llc, weakest) - half, max(llc, highest + half))
    reasons = _too_wide(llc, low, high) if identified else [reason]
    return Fit(
        llc=llc,
        standard_error=error,
        systematic_error=(highest - min(llc, weakest)) / 2,
        interval=(low, high),
        step_shift=steps.shift,
        localization_shift=llc - weakest,
        identified=not reasons,
        reason=reasons[0] if reasons else reason,
    )
