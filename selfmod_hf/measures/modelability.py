"""Modelability: how well an outside linear reader predicts a network's activations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import RidgeCV
from sklearn.metrics import r2_score

ALPHAS = tuple(10.0**power for power in range(-4, 7))  # strengths of the ridge penalty that are tried

Floats = NDArray[np.float64]


def modelability(inputs: Any, activations: Any, held_out_inputs: Any, held_out_activations: Any) -> float:
    """Return the held-out R² of a ridge regression from inputs to activations.

    The penalty is chosen for each unit on the fitted samples by efficient leave-one-out (scikit-learn's `RidgeCV`). R²
    is computed for each unit and averaged over the units that vary in the held-out samples. So it depends neither on
    the scale of the activations nor on that of single units. 1 is a perfect prediction, 0 is as good as the mean.

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
    (found,) = modelabilities(inputs, [activations], held_out_inputs, [held_out_activations])
    return found


def modelabilities(
    inputs: Any, activations: Sequence[Any], held_out_inputs: Any, held_out_activations: Sequence[Any]
) -> list[float]:
    """Return the `modelability` of several networks of the same inputs.

    The inputs are decomposed once for all networks. Each unit has a penalty of its own, so no network depends on the
    others.

    Args:
        inputs: (N, D), an array or a sparse matrix, that is fitted.
        activations: (N, F) of each network.
        held_out_inputs: (M, D), not fitted.
        held_out_activations: (M, F) of each network.

    Example:
        >>> x = np.linspace(-1, 1, 40)[:, None]
        >>> [round(found, 4) for found in modelabilities(x, [x, 2 * x], x[:9], [x[:9], 2 * x[:9]])]
        [1.0, 1.0]
    """
    fitted = np.concatenate(activations, axis=1, dtype=np.float64)
    wanted = np.concatenate(held_out_activations, axis=1, dtype=np.float64)
    varies: NDArray[np.bool_] = np.ptp(wanted, axis=0) > 0
    scores = np.full(len(varies), np.nan)
    if varies.any():
        reader = RidgeCV(alphas=ALPHAS, alpha_per_target=True).fit(inputs, fitted[:, varies])
        predicted = reader.predict(held_out_inputs).reshape(len(wanted), -1)
        scores[varies] = r2_score(wanted[:, varies], predicted, multioutput="raw_values")
    found = []
    end = 0
    for own in activations:
        start, end = end, end + own.shape[1]
        found.append(_mean(scores[start:end]))
    return found


def _mean(scores: Floats) -> float:
    """Return the mean over the units that vary. NaN: none does."""
    counted = scores[~np.isnan(scores)]
    if len(counted) == 0:
        return float("nan")
    return float(counted.mean())
