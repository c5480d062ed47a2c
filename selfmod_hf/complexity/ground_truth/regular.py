"""Regular models: λ = d/2."""

from __future__ import annotations

import torch
from torch import nn

from .known import GroundTruth


def regular(
    num_inputs: int,
    num_outputs: int = 1,
    *,
    num_samples: int = 20_000,
    seed: int = 0,
) -> GroundTruth:
    """Return a linear regression with standard normal inputs and a bias, λ = d/2.

    It has d = outputs * (inputs + 1) parameters.

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
    )
