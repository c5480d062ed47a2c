"""Sums of powers and of products of powers: singular models with independent blocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .known import GroundTruth
from .normal_crossing import CrossingMean, crossing_loss
from .quadrature import half_line, mean_energy

_LARGEST_COEFFICIENT = 2.0  # coefficients are from its inverse to it, evenly on a log scale


class Powers(nn.Module):
    """Compute output j as c_j x_j times the product of the powers of block j's weights, all weights 0.

    Args:
        powers: for each block the power of each of its weights. All blocks have as many weights.
        coefficients: c_j, (J,).
    """

    exponents: Tensor
    coefficients: Tensor

    def __init__(self, powers: Sequence[Sequence[int]], coefficients: Tensor) -> None:
        super().__init__()
        exponents = torch.tensor(powers, dtype=torch.float32)
        self.w = nn.Parameter(torch.zeros_like(exponents))
        self.register_buffer("exponents", exponents)
        self.register_buffer("coefficients", coefficients)

    def forward(self, x: Tensor) -> Tensor:
        factors = torch.pow(self.w, self.exponents)
        products = factors.prod(1)  # (J,)
        return self.coefficients * products * x


def sum_of_powers(
    powers: Sequence[int],
    *,
    num_samples: int = 5000,
    seed: int = 0,
) -> GroundTruth:
    """Return the loss of the sum of c_j² w_j^(2 k_j), λ = the sum of 1/(2 k_j).

    Watanabe 2009, chapter 3. The integral factorizes. Without localization its posterior mean is λ at every nβ. Inputs
    are random, with a mean square of 1, so that minibatches differ.

    Args:
        powers: k_j.
        num_samples: n.
        seed: of inputs and coefficients.

    Raises:
        ValueError: a power below 1, or none.

    Example:
        >>> sum_of_powers([1, 2, 4]).learning_coefficient
        0.875
    """
    blocks = [[power] for power in powers]
    model, inputs = _make(blocks, num_samples, seed)
    coefficient = sum(1 / (2 * power) for power in powers)
    return _truth(
        model, inputs, f"sum of powers {_listed(blocks)}", kind="sum of powers", learning_coefficient=coefficient
    )


def products_of_powers(
    powers: Sequence[tuple[int, int]],
    *,
    num_samples: int = 5000,
    seed: int = 0,
) -> GroundTruth:
    """Return the loss of the sum of c_j² (u_j^a_j v_j^b_j)².

    λ is the sum of min(1/(2a), 1/(2b)), and m is 1 plus the number of blocks with a = b. The zeta functions of the
    blocks multiply, so that their poles add. Without a prior the posterior mean does not exist. Its exact value is by
    quadrature.

    Args:
        powers: (a_j, b_j).
        num_samples: n.
        seed: of inputs and coefficients.

    Raises:
        ValueError: a power below 1, or none.

    Example:
        >>> truth = products_of_powers([(1, 1), (1, 2)])
        >>> truth.learning_coefficient, truth.multiplicity
        (0.75, 2)
    """
    blocks = [list(pair) for pair in powers]
    model, inputs = _make(blocks, num_samples, seed)
    coefficient = 0.0
    multiplicity = 1
    for a, b in powers:
        coefficient += 1 / (2 * max(a, b))
        multiplicity += a == b
    return _truth(
        model,
        inputs,
        f"products of powers {_listed(blocks)}",
        kind="products of powers",
        learning_coefficient=coefficient,
        multiplicity=multiplicity,
        prior_matters=True,
    )


def _truth(model: Powers, inputs: Tensor, name: str, **known: Any) -> GroundTruth:
    """Return the ground truth of a model whose outputs are zero at w*, with further fields of it."""
    return GroundTruth(
        name=name,
        model=model,
        inputs=inputs,
        targets=torch.zeros_like(inputs),
        loss_fn=crossing_loss,
        posterior_mean=PowersMean(model),
        **known,
    )


def _make(blocks: Sequence[Sequence[int]], num_samples: int, seed: int) -> tuple[Powers, Tensor]:
    """Return the model and its inputs, (n, J), of mean square 1."""
    for block in blocks:
        if min(block) < 1:
            raise ValueError(f"powers={_listed(blocks)}: must be positive integers")
    if not blocks:
        raise ValueError("powers=[]: must be one power or more")
    generator = torch.Generator().manual_seed(seed)
    uniform = torch.rand(len(blocks), generator=generator)
    coefficients = _LARGEST_COEFFICIENT ** (2 * uniform - 1)
    inputs = torch.randn(num_samples, len(blocks), generator=generator)
    inputs = inputs / inputs.square().mean(0).sqrt()
    return Powers(blocks, coefficients), inputs


def _listed(blocks: Sequence[Sequence[int]]) -> str:
    """Return the powers as text."""
    parts = []
    for block in blocks:
        parts.append("x".join(map(str, block)))
    return " + ".join(parts)


class PowersMean:
    """Compute the exact posterior mean of `Powers`, the sum of those of its blocks."""

    def __init__(self, model: Powers) -> None:
        self.blocks = model.exponents.long().tolist()
        self.coefficients = model.coefficients.tolist()

    def __call__(self, nbeta: float, localization: float) -> float:
        total = 0.0
        for powers, coefficient in zip(self.blocks, self.coefficients, strict=True):
            total += _block_mean(powers, nbeta * coefficient**2, localization)
        return total


def _block_mean(powers: Sequence[int], scale: float, localization: float) -> float:
    """Return the mean of scale * (w_1^k_1 ...)², for one weight or two."""
    if len(powers) == 1:
        grid, log_mass = half_line(localization)
        energy = scale * grid ** (2 * powers[0])
        return mean_energy(energy, log_mass)
    mean = CrossingMean(powers[0], powers[1])
    return mean(scale, localization)
