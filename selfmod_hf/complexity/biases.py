"""Foretell the biases of an estimate: how far the sampling itself moves it from the learning coefficient.

Symbols: h a curvature of the mean loss L, a = nβ h + γ one of U, ε the step size, c the momentum, B the batch size, n
the number of samples, V the covariance of one sample's gradient at the draws, δ = w - w*, d the number of parameters.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from .json_numbers import MaybeNaN


@dataclass(frozen=True)
class Biases:
    """Hold the foretold biases of an estimate, in units of the estimate. A bias that was not measured is NaN.

    Attributes:
        heating: what the noise of minibatches adds.
        heating_error: standard error of `heating`.
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
    def systematic(self) -> float:
        """Return the sum of the absolute values of all known biases of the sampling."""
        return _known_sum(self.heating, self.discretization, self.shuffling, self.localization)


def _known_sum(*values: float) -> float:
    """Return the sum of the absolute values of the numbers that are not NaN."""
    total = 0.0
    for value in values:
        if not math.isnan(value):
            total += abs(value)
    return total
