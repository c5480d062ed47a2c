"""Modelability: how well an outside linear reader predicts a network's activations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..extras import need

ALPHAS = tuple(10.0**power for power in range(-4, 7))  # strengths of the ridge penalty that are tried

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class UnitScores:
    """Hold how well each hidden unit of one network is predicted.

    Attributes:
        r2: (F,), held-out R² of each unit, at most 1. NaN: the unit does not vary in the held-out samples.
        variance: (F,), of the unit's held-out activations.

    Example:
        >>> UnitScores(r2=np.array([1.0, 0.0, np.nan]), variance=np.array([3.0, 1.0, 0.0])).of_variance()
        0.75
    """

    r2: Floats
    variance: Floats

    def of_units(self) -> float:
        """Return the mean R² over the units that vary. NaN: none does."""
        counted = self.r2[~np.isnan(self.r2)]
        if len(counted) == 0:
            return float("nan")
        return float(counted.mean())

    def of_variance(self) -> float:
        """Return the predicted share of the variance of all units together. NaN: none varies."""
        varies = ~np.isnan(self.r2)
        if not varies.any():
            return float("nan")
        return float(np.average(self.r2[varies], weights=self.variance[varies]))


def modelability(inputs: Any, activations: Any, held_out_inputs: Any, held_out_activations: Any) -> float:
    """Return the held-out R² of a ridge regression from inputs to activations, averaged over the units.

    It depends neither on the scale of the activations nor on that of single units. 1 is a perfect prediction, 0 is as
    good as the mean. See `unit_scores`.

    Args:
        inputs: (N, D), an array or a sparse matrix, that is fitted.
        activations: (N, F), to be predicted.
        held_out_inputs: (M, D), not fitted.
        held_out_activations: (M, F).

    Returns:
        R², at most 1. NaN: no unit varies.

    Example:
        >>> x = np.linspace(-1, 1, 40)[:, None]
        >>> round(modelability(x, 3 * x + 1, x[:9] + 0.01, 3 * (x[:9] + 0.01) + 1), 4)
        1.0
    """
    (found,) = unit_scores(inputs, [activations], held_out_inputs, [held_out_activations])
    return found.of_units()


def unit_scores(
    inputs: Any, activations: Sequence[Any], held_out_inputs: Any, held_out_activations: Sequence[Any]
) -> list[UnitScores]:
    """Return the held-out R² of each unit, for several networks of the same inputs.

    The penalty is chosen for each unit on the fitted samples by efficient leave-one-out (scikit-learn's `RidgeCV`), so
    no network depends on the others. The inputs are decomposed once for all networks.

    Args:
        inputs: (N, D), an array or a sparse matrix, that is fitted.
        activations: (N, F) of each network.
        held_out_inputs: (M, D), not fitted.
        held_out_activations: (M, F) of each network.

    Example:
        >>> x = np.linspace(-1, 1, 40)[:, None]
        >>> found = unit_scores(x, [x, 2 * x], x[:9], [x[:9], 2 * x[:9]])
        >>> [round(scores.of_units(), 4) for scores in found]
        [1.0, 1.0]
    """
    need("modelability", "metrics", "sklearn")
    from sklearn.linear_model import RidgeCV
    from sklearn.metrics import r2_score

    fitted = np.concatenate(activations, axis=1, dtype=np.float64)
    wanted = np.concatenate(held_out_activations, axis=1, dtype=np.float64)
    varies: NDArray[np.bool_] = np.ptp(wanted, axis=0) > 0
    r2 = np.full(len(varies), np.nan)
    if varies.any():
        reader = RidgeCV(alphas=ALPHAS, alpha_per_target=True).fit(inputs, fitted[:, varies])
        predicted = reader.predict(held_out_inputs).reshape(len(wanted), -1)
        r2[varies] = r2_score(wanted[:, varies], predicted, multioutput="raw_values")
    variance = wanted.var(axis=0)
    found = []
    end = 0
    for own in activations:
        start, end = end, end + own.shape[1]
        found.append(UnitScores(r2[start:end], variance[start:end]))
    return found
