"""Modelability: how well an outside linear reader predicts a network's activations."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import RidgeCV
from sklearn.metrics import r2_score

ALPHAS = tuple(10.0**power for power in range(-4, 7))  # strengths of the ridge penalty that are tried


def modelability(inputs: Any, activations: Any, held_out_inputs: Any, held_out_activations: Any) -> float:
    """Return the held-out R² of a ridge regression from inputs to activations.

    The penalty is chosen on the fitted samples by efficient leave-one-out (scikit-learn's `RidgeCV`). R² is computed
    for each unit and averaged over the units that vary in the held-out samples. So it depends neither on the scale of
    the activations nor on that of single units. 1 is a perfect prediction, 0 is as good as the mean.

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
    fitted = np.asarray(activations, dtype=np.float64)
    wanted = np.asarray(held_out_activations, dtype=np.float64)
    varies: NDArray[np.bool_] = np.ptp(wanted, axis=0) > 0
    if not varies.any():
        return float("nan")
    reader = RidgeCV(alphas=ALPHAS).fit(inputs, fitted[:, varies])
    predicted = reader.predict(held_out_inputs).reshape(len(wanted), -1)
    return float(r2_score(wanted[:, varies], predicted, multioutput="uniform_average"))
