"""Regular models: λ = d/2."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .known import GroundTruth
from .noisy_data import correlated_inputs


def regular(
    num_inputs: int,
    num_outputs: int = 1,
    *,
    num_samples: int = 20_000,
    seed: int = 0,
) -> GroundTruth:
    """Return a linear regression with standard normal inputs and a bias, λ = d/2.

    It has d = outputs * (inputs + 1) parameters. The targets are the model's own outputs.

    Example:
        >>> regular(3, 2).learning_coefficient
        4.0
    """
    generator = torch.Generator().manual_seed(seed)
    model = nn.Linear(num_inputs, num_outputs)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(generator=generator)
        inputs = torch.randn(num_samples, num_inputs, generator=generator)
        targets = model(inputs)
    size = num_outputs * (num_inputs + 1)
    return GroundTruth(
        name=f"regular, {size} parameters",
        model=model,
        inputs=inputs,
        targets=targets,
        learning_coefficient=size / 2,
        kind="linear regression",
    )


def linear_regression(
    num_inputs: int,
    *,
    noise: float = 1.0,
    condition: float = 1.0,
    num_samples: int = 20_000,
    seed: int = 0,
) -> GroundTruth:
    """Return a linear regression with noisy targets, λ = d/2. w* is the least squares solution.

    Its posterior is normal: with the eigenvalues h of the inputs' second moments, the mean of nβ (L - L*) is the sum of
    nβ h / (2 (nβ h + γ)).

    Args:
        num_inputs: d.
        noise: standard deviation of the targets' noise.
        condition: largest over smallest eigenvalue of the inputs' covariance.
        num_samples: n.
        seed: of all random numbers.

    Example:
        >>> truth = linear_regression(20, num_samples=2000)
        >>> truth.learning_coefficient, round(truth.posterior_mean(2000.0, 20.0), 1)
        (10.0, 9.9)
    """
    generator = torch.Generator().manual_seed(seed)
    inputs = correlated_inputs(num_samples, num_inputs, condition, generator)
    slopes = torch.randn(num_inputs, 1, generator=generator)
    targets = inputs @ slopes + noise * torch.randn(num_samples, 1, generator=generator)
    wide = inputs.double()
    # by a decomposition of the inputs themselves, so that their condition is not squared
    solution = torch.linalg.lstsq(wide, targets.double()).solution  # (d, 1)
    model = nn.Linear(num_inputs, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(solution.T)
    moments = wide.T @ wide / num_samples
    curvatures = torch.linalg.eigvalsh(moments)  # h, (d,)
    return GroundTruth(
        name=f"linear regression, {num_inputs} parameters, noise {noise:g}, condition {condition:g}",
        model=model,
        inputs=inputs,
        targets=targets,
        learning_coefficient=num_inputs / 2,
        kind="linear regression, noise",
        posterior_mean=GaussianMean(curvatures),
    )


class GaussianMean:
    """Compute the exact posterior mean of a quadratic loss.

    Args:
        curvatures: h, (d,), eigenvalues of the Hessian.
    """

    def __init__(self, curvatures: Tensor) -> None:
        self.curvatures = curvatures

    def __call__(self, nbeta: float, localization: float) -> float:
        scaled = nbeta * self.curvatures
        shares = scaled / (scaled + localization)
        return float(shares.sum() / 2)
