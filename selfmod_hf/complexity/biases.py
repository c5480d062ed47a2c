"""Foretell the biases of an estimate: how far the sampling itself moves it from the learning coefficient.

Symbols: L the mean loss, h a curvature of it, U = nβ L + (γ/2) |δ|², a = nβ h + γ a curvature of U, δ = w - w*, ε the
step size, c the momentum (0 for SGLD), B the batch size, n the number of samples, V the covariance of one sample's
gradient at the draws, d the number of parameters.

* heating: ε nβ² tr V (1 - B/n) (1 + c) / (8 B (1 - c)), times `Shuffling.share`. Exact for directions that the pull
  does not hold. Minibatch noise of variance v in ∇U multiplies a direction's variance 1/a by
  1 + ε v (1 + c) / (4 (1 - c) (1 - ε a/4)).
* shuffling: (nβ/n) 2 llc tr V / tr H, times `Shuffling.lag`. The minibatches that pushed a draw are not those it is
  measured on until the epoch ends, so the noise of its own minibatch points the other way. With V proportional to the
  Hessian H, a direction adds (nβ²/n) v / a. None with a control variate.
* discretization: (ε/8) nβ tr H of SGLD. None of BAOAB, which is exact on quadratics, and of MALA.
* unspread: llc (1 - T) / T at a temperature T below 1. Chains start at w*, so slow directions add too little at first.
* localization: γ (nβ/2) Cov(L, |δ|²), the first-order change of the estimate from the pull, or a value that is
  less noisy (`_localization`, `_sensitivity`). None of them sees directions that the pull holds alone. So for small
  networks it is at least what the curvatures at w* foretell (`Spectrum.pull`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from .diagnostics import Draws, standard_error
from .json_numbers import MaybeNaN
from .shuffling import Shuffling

TEMPERATURE_ERRORS = 2.0  # a temperature within this many standard errors of 1 is one of equilibrium


@dataclass(frozen=True)
class Biases:
    """Hold the foretold biases of an estimate, in units of the estimate. A bias that was not measured is NaN.

    Attributes:
        heating: what the noise of minibatches adds.
        heating_error: how far `heating` may be off: its standard error, and the next order in the step size.
        shuffling: what is added because a draw is measured on a minibatch that did not push it in the same epoch.
        discretization: what a step size above zero adds.
        localization: how much the pull to w* takes away. The estimate is too low by this.
        localization_error: standard error of `localization`.
        not_at_minimum: nβ (L(w*) - L(w_low)), with w_low the lowest point that an optimizer finds near w*, pull
            included.
        temperature: mean of δ.∇U / d. It is 1 in equilibrium, below 1 while directions are not filled, and above 1 if
            the noise of minibatches heats.
        temperature_error: standard error of `temperature`.
        pull_share: γ E|δ|² / d, the share of the parameters held by the pull alone.
        noise_trace: tr V, nats² per unit², the variance of one sample's gradient at the draws.
        bound: d / 2 over the parameters with a gradient. No λ exceeds it.
        unspread: how much directions that have not spread yet take away, if `temperature` is below 1 by more than 2 of
            its errors. The estimate is too low by this.
        dispersion: covariance of nβ L at one draw and at the next, over its mean. About 1 if the pull is weak, and
            smaller if it is strong. A large one shows chains that are thrown far away from time to time.
        pull_at_most: what the pull takes away at most, by the variance of nβ L and 2 of its errors (`_sensitivity`).
        rounding: how far a lower precision may move the estimate, up or down (`rounding.py`).
    """

    heating: MaybeNaN
    heating_error: MaybeNaN
    shuffling: MaybeNaN
    discretization: MaybeNaN
    localization: MaybeNaN
    localization_error: MaybeNaN
    not_at_minimum: MaybeNaN
    temperature: MaybeNaN
    temperature_error: MaybeNaN
    pull_share: MaybeNaN
    noise_trace: MaybeNaN
    bound: MaybeNaN
    unspread: MaybeNaN = math.nan
    dispersion: MaybeNaN = math.nan
    pull_at_most: MaybeNaN = math.nan
    rounding: MaybeNaN = math.nan

    @property
    def of_the_step(self) -> float:
        """Return the sum of the known biases that fall with the step size: noise of minibatches and discretization.

        Example:
            >>> unknown = dict.fromkeys(Biases.__dataclass_fields__, math.nan)
            >>> Biases(**unknown | {"heating": 0.25, "discretization": 0.5}).of_the_step
            0.75
        """
        return _known_sum(self.heating, self.discretization, self.shuffling)

    @property
    def of_the_start(self) -> float:
        """Return the sum of the known biases that a start at w* leaves: it is no minimum, or chains are still near."""
        return _known_sum(self.unspread, self.not_at_minimum)

    @property
    def taken_away(self) -> float:
        """Return the sum of the known biases that make the estimate too low."""
        return _known_sum(self.localization, self.of_the_start)

    @property
    def systematic(self) -> float:
        """Return the sum of the absolute values of all known biases."""
        return self.of_the_step + self.taken_away + self.of_rounding

    @property
    def of_rounding(self) -> float:
        """Return `rounding`, or 0 if it is not known."""
        return _known_sum(self.rounding)

    def summary(self) -> str:
        """Return one line for people."""
        return (
            f"minibatches +{self.heating:.3g} and +{self.shuffling:.3g}, step +{self.discretization:.3g}, "
            f"localization -{self.localization:.3g}, not at the minimum -{self.not_at_minimum:.3g}, "
            f"temperature {self.temperature:.3f}"
        )


def _known_sum(*values: float) -> float:
    """Return the sum of the absolute values of the numbers that are not NaN."""
    total = 0.0
    for value in values:
        if not math.isnan(value):
            total += abs(value)
    return total


@dataclass(frozen=True)
class Observed:
    """Hold what `foretell` needs of one estimate. Traces are those of the kept draws.

    Attributes:
        llc: (C, T), the contribution of each draw.
        squares: (C, T), |δ|².
        virials: (C, K), δ.∇U', see `thermometer.py`.
        noises: (C, K), |∇L - ∇L'|².
        products: (C, K), nβ ∇L.∇U'.
        active: parameters with a gradient.
        isotropic: whether the pull is the same in all directions of the coordinates of `noises` and `products`.
        num_parameters: d.
        nbeta: nβ.
        localization: γ.
        step_size: ε.
        momentum: c. 0: the sampler has none.
        discretized: whether the step size changes the sampled distribution of a quadratic.
        batch_size: B.
        num_samples: n.
        corrected: whether a control variate was used.
        lower: nβ (L(w*) - L(w_low)).
        curved_pull: what the pull takes from the directions that are curved at w*, `Spectrum.pull`. NaN: not known.
    """

    llc: Draws
    squares: Draws
    virials: Draws
    noises: Draws
    products: Draws
    active: int
    isotropic: bool
    num_parameters: int
    nbeta: float
    localization: float
    step_size: float
    momentum: float
    discretized: bool
    batch_size: int
    num_samples: int
    corrected: bool
    lower: float
    curved_pull: float = math.nan

    @property
    def held(self) -> float:
        """Return γ E|δ|², the number of directions that the pull alone holds."""
        return self.localization * float(self.squares.mean())


def foretell(observed: Observed, curvature: float) -> Biases:
    """Return the biases of an estimate.

    Args:
        observed: of the estimate.
        curvature: a, the largest curvature of U. NaN: not known.
    """
    d = observed.num_parameters
    nbeta = observed.nbeta
    share = observed.batch_size / observed.num_samples
    shuffled = Shuffling.of(observed.batch_size, observed.num_samples, partitioned=observed.corrected)
    noise_trace = _mean(observed.noises) * observed.batch_size / _apart(observed, shuffled)
    hessian_trace = _mean(observed.products) / nbeta

    friction = (1 + observed.momentum) / (1 - observed.momentum)
    gradient_noise = nbeta**2 * noise_trace * (1 - share) / observed.batch_size  # trace of the noise of ∇U
    discretization = 0.0
    if observed.discretized:
        discretization = observed.step_size * nbeta * hessian_trace / 8
    in_steps = observed.step_size * friction / 2  # what a curvature forgets in a step
    sampled = float(observed.llc.mean()) - discretization
    slow = _mean_curvature(observed, hessian_trace, sampled)
    share_of_shuffled = shuffled.share(math.exp(-in_steps * curvature), math.exp(-in_steps * slow))
    heating = observed.step_size * gradient_noise * friction / 8 * share_of_shuffled
    next_order = 0.0
    if not math.isnan(curvature):
        next_order = observed.step_size * curvature  # the heating is the first order of a series in ε a
    heating_error = heating * math.hypot(_relative_error(observed.noises), next_order)
    shuffling = 0.0
    clean = sampled - heating
    mean_curvature = _mean_curvature(observed, hessian_trace, clean)
    if not observed.corrected and not math.isnan(mean_curvature):
        lag = shuffled.lag(observed.step_size * mean_curvature, observed.momentum)
        part = 2 * nbeta / observed.num_samples * noise_trace / hessian_trace * lag
        shuffling = clean * part / (1 + part)  # `clean` holds it already
    temperature = _mean(observed.virials) / d
    temperature_error = standard_error(observed.virials) / d
    bound = math.nan
    if observed.virials.size > 0:
        bound = observed.active / 2
    localization, localization_error = _localization(observed, hessian_trace, curvature)
    sensitivity, sensitivity_error = _sensitivity(observed.llc)
    surely = sensitivity - 2 * sensitivity_error
    if surely > localization - 2 * localization_error:
        localization = max(localization, sensitivity)  # the interval has room for the larger one
        localization_error = (localization - surely) / 2
    curved = min(observed.curved_pull, observed.held / 2)  # on a quadratic the pull takes γ E|δ|² / 2
    if curved > localization:
        localization, localization_error = curved, 0.0
    return Biases(
        heating=heating,
        heating_error=heating_error,
        shuffling=shuffling,
        discretization=discretization,
        localization=localization,
        localization_error=localization_error,
        not_at_minimum=observed.lower,
        temperature=temperature,
        temperature_error=temperature_error,
        pull_share=observed.held / d,
        noise_trace=noise_trace,
        bound=bound,
        unspread=_unspread(float(observed.llc.mean()), temperature, temperature_error),
        dispersion=_dispersion(observed.llc),
        pull_at_most=sensitivity + 2 * sensitivity_error,
    )


def _apart(observed: Observed, shuffled: Shuffling) -> float:
    """Return the mean square distance of the gradients of the two minibatches of a reading, over tr V / B.

    With a control variate they are two blocks of one partition, or two independent blocks if a partition has one alone.
    Without a control variate, the second is drawn from all samples with replacement.
    """
    share = observed.batch_size / observed.num_samples
    if not observed.corrected:
        return 2 - share
    if shuffled.steps == 1:
        return 2 * (1 - share)
    return 2.0


def _mean_curvature(observed: Observed, hessian_trace: float, llc: float) -> float:
    """Return the mean curvature of U over the directions that count, NaN if it is not known.

    Args:
        observed: of the estimate.
        hessian_trace: tr H.
        llc: the estimate without what the sampling adds. A direction that counts adds 1/2 to it.
    """
    if not (hessian_trace > 0 and llc > 0):
        return math.nan
    mean = observed.nbeta * hessian_trace / (2 * llc)
    if observed.isotropic:  # else γ is in other units
        mean += observed.localization
    return mean


def _unspread(llc: float, temperature: float, error: float) -> float:
    """Return how much is missing from an estimate because directions have not spread yet.

    A temperature T says that a share 1 - T is missing of what all directions add. It is at most the estimate itself.

    Args:
        llc: the estimate.
        temperature: T.
        error: its standard error.
    """
    if math.isnan(temperature):
        return math.nan
    missing = 1 - temperature
    if not missing > TEMPERATURE_ERRORS * error or llc <= 0:
        return 0.0
    return llc * min(1.0, missing / max(temperature, 0.5))


def _localization(observed: Observed, hessian_trace: float, curvature: float) -> tuple[float, float]:
    """Return the localization bias and its standard error.

    The covariance γ (nβ/2) Cov(L, |δ|²) counts if it exceeds two of its errors. It is noisy if many directions are
    flat, and a few chains know the error of their means badly, so the error is the larger of two. Two other values are
    less noisy. They are at most the bias on quadratics, because stiff directions count more in them:
    llc · 2 γ llc / (nβ tr H), and llc γ/a with the largest a.
    """
    scale = observed.localization / 2
    llc = float(observed.llc.mean())
    least = 0.0
    if observed.isotropic and hessian_trace > 0 and llc > 0:
        pulled = 2 * observed.localization * llc / (observed.nbeta * hessian_trace)
        least = min(1.0, pulled) * llc
    least_error = 2 * least * _relative(standard_error(observed.llc), llc)
    if observed.isotropic and observed.localization * llc > curvature * least:
        least = observed.localization / curvature * llc
        least_error = 0.0
    covariance = scale * _covariance(observed.llc, observed.squares)
    error = max(_jackknife_error(observed, scale), _products_error(observed, scale))
    if covariance > max(2 * error, least):
        return min(covariance, llc), error
    return least, least_error


def _jackknife_error(observed: Observed, scale: float) -> float:
    """Return the standard error of the covariance from leaving out each chain in turn, or infinity for one chain."""
    left_out = []
    for chain in range(len(observed.llc)):
        others = np.arange(len(observed.llc)) != chain
        if others.any():
            left_out.append(scale * _covariance(observed.llc[others], observed.squares[others]))
    if not left_out:
        return math.inf
    return math.sqrt((len(left_out) - 1) * np.var(left_out))


def _products_error(observed: Observed, scale: float) -> float:
    """Return the standard error of the covariance from its draws."""
    products = (observed.llc - observed.llc.mean()) * (observed.squares - observed.squares.mean())
    return scale * standard_error(products)


def _sensitivity(llc: Draws) -> tuple[float, float]:
    """Return how much the estimate would rise with log nβ, and its standard error.

    The derivative of E[nβ L] by log nβ is E[nβ L] - Var(nβ L). Without a pull, nβ L has a Gamma distribution whose mean
    and variance are both λ (Watanabe 2013), so the derivative is 0. With a pull it is positive. It is the bias itself
    on quadratics, and a part of it where L grows faster. Its error does not grow with the number of flat directions,
    as that of the covariance does. The noise of minibatches adds to the variance, so the value is rather too small.
    """
    squares = (llc - llc.mean()) ** 2
    return float(llc.mean() - squares.mean()), standard_error(squares)


def _dispersion(llc: Draws) -> float:
    """Return the covariance of nβ L at one draw and at the next, over its mean, or NaN if the mean is not positive.

    The noise of minibatches is nearly independent from one draw to the next, so it hardly counts.
    """
    mean = float(llc.mean())
    if not mean > 0:
        return math.nan
    moved = llc - mean
    return float(np.mean(moved[:, 1:] * moved[:, :-1])) / mean


def _relative(error: float, value: float) -> float:
    """Return an error as a share of a positive value, else 0."""
    if not value > 0:
        return 0.0
    return error / value


def _covariance(first: Draws, second: Draws) -> float:
    """Return the covariance of two traces."""
    return float(np.mean((first - first.mean()) * (second - second.mean())))


def _mean(readings: Draws) -> float:
    """Return the mean, NaN of no readings."""
    if readings.size == 0:
        return math.nan
    return float(readings.mean())


def _relative_error(readings: Draws) -> float:
    """Return the standard error of the mean of positive numbers as a share of it."""
    mean = _mean(readings)
    if not mean > 0:
        return 0.0
    return float(readings.std() / mean / math.sqrt(readings.size))
