"""Measures of a hidden layer's activations."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def mean_square(activations: Tensor) -> float:
    """Return the mean of the squared activations.

    A raw square error of a self-model falls when the activations shrink. This measure shows by how much they did.

    Args:
        activations: (N, F), of N samples and F units.

    Example:
        >>> mean_square(torch.tensor([[1.0, -1.0], [3.0, 1.0]]))
        3.0
    """
    return float(activations.double().square().mean())


def dead_units(activations: Tensor) -> float:
    """Return the share of the units that give the same value for each sample. A dead ReLU unit gives 0.

    Args:
        activations: (N, F), of N samples and F units.

    Example:
        >>> dead_units(torch.tensor([[1.0, 0.0], [3.0, 0.0]]))
        0.5
    """
    constant = (activations == activations[:1]).all(dim=0)  # (F,)
    return float(constant.double().mean())


def effective_rank(activations: Tensor) -> float:
    """Return the effective rank of the centered activations: exp of the entropy of their singular values' shares.

    It is Roy and Vetterli's (2007, "The effective rank: a measure of effective dimensionality"), with
    p_i = s_i / sum(s): `exp(-sum(p_i * log(p_i)))`. It lies between 1 and min(N, F), and does not depend on the scale.
    Activations that are all the same have rank 0.

    Args:
        activations: (N, F), of N samples and F units.

    Example:
        >>> round(effective_rank(torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])), 6)
        2.0
    """
    centered = activations.double() - activations.double().mean(dim=0)  # (N, F)
    covariance = centered.T @ centered  # (F, F), whose eigenvalues are the squared singular values
    eigenvalues = torch.linalg.eigvalsh(covariance)  # (F,)
    values = eigenvalues.clamp(min=0).sqrt()
    # rounding leaves a singular value of zero at about sqrt(eps) of the largest one
    values = values[values > 1e-7 * values.max()]
    if values.numel() == 0:
        return 0.0
    shares = values / values.sum()
    entropy = -(shares * shares.log()).sum()
    return math.exp(float(entropy))
