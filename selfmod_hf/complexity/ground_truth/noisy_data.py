"""Inputs and targets with noise. Minibatch gradients at w* are then not zero."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def correlated_inputs(
    num_samples: int,
    num_inputs: int,
    condition: float,
    generator: torch.Generator,
) -> Tensor:
    """Return normal inputs (n, p) whose covariance has eigenvalues from 1 down to 1 / condition, in random directions.

    Example:
        >>> inputs = correlated_inputs(5000, 3, 100.0, torch.Generator().manual_seed(0))
        >>> round(float(torch.linalg.cond(inputs.T @ inputs)), -2)
        100.0
    """
    last = -math.log10(condition)
    eigenvalues = torch.logspace(0, last, num_inputs)
    inputs = torch.randn(num_samples, num_inputs, generator=generator)
    if condition == 1:
        return inputs
    rotation, _ = torch.linalg.qr(torch.randn(num_inputs, num_inputs, generator=generator))
    return inputs * eigenvalues.sqrt() @ rotation.T


def orthogonal_noise(
    inputs: Tensor,
    num_outputs: int,
    noise: float,
    generator: torch.Generator,
) -> Tensor:
    """Return normal noise (n, outputs) of this standard deviation, made orthogonal to every column of the inputs.

    Let targets be a linear function of the inputs plus this noise. Then the square loss of any model that is linear in
    the inputs exceeds its minimum by exactly the loss without noise. λ is the same, but a sample's gradient at w* is
    not zero.
    """
    raw = noise * torch.randn(len(inputs), num_outputs, generator=generator, dtype=torch.float64)
    wide = inputs.double()
    explained = torch.linalg.lstsq(wide, raw).solution  # (p, outputs)
    return (raw - wide @ explained).float()
