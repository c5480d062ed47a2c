"""Deep linear networks, products of matrices. Their λ is from Aoyagi."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .exact_linear import DeepLinearMean
from .known import GroundTruth


def deep_linear_coefficient(widths: Sequence[int], rank: int) -> float:
    """Return λ of a deep linear network at a true product of rank r, with square loss.

    Aoyagi 2024 (arXiv 2303.15739), main theorem. With m_i = H_i - r, S the subset of layers described below,
    l = |S| - 1, M = ceil( sum m_S / l ), a = sum m_S - (M - 1) l:

        λ = ( r (H_0 + H_L) - r² )/2 + a (l - a)/(4 l) - (l (l - 1)/4) (sum m_S / l)² + (1/2) sum_{i<j in S} m_i m_j

    S is such that max m_S < min of the others, sum m_S >= l max m_S and sum m_S < l min of the others (the conditions
    on the others hold if there are none).

    Args:
        widths: H_0, ..., H_L, input to output, at least two.
        rank: r, at most the smallest width.

    Raises:
        ValueError: fewer than two widths, one below 1, or a rank over the smallest.

    Example:
        >>> deep_linear_coefficient([3, 2, 3], rank=1)
        3.5
    """
    check_rank(widths, rank)
    excess = [width - rank for width in widths]  # m
    chosen = _chosen_layers(sorted(excess))  # m_S
    count = len(chosen) - 1  # l
    total = sum(chosen)
    a = _remainder(chosen)
    squares = sum(m * m for m in chosen)
    pairs = (total**2 - squares) / 2  # sum of m_i m_j
    outer = widths[0] + widths[-1]
    regular = (rank * outer - rank**2) / 2
    four = 4 * count
    remainder = a * (count - a) / four
    mean_part = (count - 1) * total**2 / four
    return regular + remainder - mean_part + pairs / 2


def deep_linear_multiplicity(widths: Sequence[int], rank: int) -> int:
    """Return m = a (l - a) + 1, the order of the pole at λ, with a and l of `deep_linear_coefficient`.

    Raises:
        ValueError: as of `deep_linear_coefficient`.

    Example:
        >>> deep_linear_multiplicity([1, 1, 1], rank=0)
        2
    """
    check_rank(widths, rank)
    excess = [width - rank for width in widths]
    chosen = _chosen_layers(sorted(excess))
    count = len(chosen) - 1
    a = _remainder(chosen)
    return a * (count - a) + 1


def _remainder(chosen: Sequence[int]) -> int:
    """Return a, the sum of m_S minus (M - 1) l."""
    count = len(chosen) - 1
    total = sum(chosen)
    quotient = math.ceil(total / count)  # M
    return total - (quotient - 1) * count


def _chosen_layers(excess: list[int]) -> list[int]:
    """Return m_S. Layers below a threshold are in S, so it is a beginning of the sorted list."""
    for size in range(2, len(excess) + 1):
        chosen = excess[:size]
        others = excess[size:]
        count = size - 1
        total = sum(chosen)
        largest = chosen[-1]
        if total < count * largest:
            continue
        if not others:
            return chosen
        smallest = others[0]
        if largest < smallest and total < count * smallest:
            return chosen
    raise AssertionError(f"no subset of {excess} satisfies the conditions")


def check_rank(widths: Sequence[int], rank: int) -> None:
    """Raise a ValueError unless a deep linear network of these widths can have this rank."""
    if len(widths) < 2 or min(widths) < 1:
        raise ValueError(f"widths={list(widths)}: at least two positive widths are needed")
    smallest = min(widths)
    if not 0 <= rank <= smallest:
        raise ValueError(f"rank={rank}: must be from 0 to the smallest width, {smallest}")


class DeepLinear(nn.Sequential):
    """Apply linear layers without biases."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        for num_inputs, num_outputs in itertools.pairwise(widths):
            self.append(nn.Linear(num_inputs, num_outputs, bias=False))

    @property
    def layers(self) -> list[nn.Linear]:
        """Return the layers, input to output."""
        return [layer for layer in self if isinstance(layer, nn.Linear)]

    @property
    def weights(self) -> list[Tensor]:
        """Return the layers' weights, input to output."""
        return [layer.weight for layer in self.layers]


def deep_linear(
    widths: Sequence[int],
    rank: int,
    *,
    num_samples: int = 20_000,
    seed: int = 0,
    spread: float = 0.25,
) -> GroundTruth:
    """Return a deep linear network of layers with rank r each, with standard normal inputs.

    Layer k is U_k diag(s) U_{k-1}^T, with U_k the same random orthonormal frame (H_k, r) on both sides: the balanced
    form found by training from small weights. The residual blocks then vanish in every layer, so w* is the
    most singular point over the true product, and λ at w* is Aoyagi's. s is uniform in 1 ± spread.

    Raises:
        ValueError: invalid widths or rank, as of `deep_linear_coefficient`.

    Example:
        >>> deep_linear([3, 2, 3], rank=1, num_samples=10).num_parameters
        12
    """
    check_rank(widths, rank)
    generator = torch.Generator().manual_seed(seed)
    frames = [_frame(width, rank, generator) for width in widths]
    model = DeepLinear(widths)
    with torch.no_grad():
        for place, layer in enumerate(model.layers):
            right = frames[place]
            left = frames[place + 1]
            uniform = torch.rand(rank, generator=generator)
            values = 1 + spread * (2 * uniform - 1)  # s, (r,)
            weight = left * values @ right.T
            layer.weight.copy_(weight)
    shape = "-".join(map(str, widths))
    return truth_of_layers(
        model,
        rank,
        torch.randn(num_samples, widths[0], generator=generator),
        name=f"deep linear {shape}, rank {rank}",
        kind="deep linear, aligned",
        prior_matters=rank < min(widths),
    )


def truth_of_layers(model: DeepLinear, rank: int, inputs: Tensor, **known: Any) -> GroundTruth:
    """Return the ground truth of a deep linear network with Aoyagi's λ at its weights. Its targets are its outputs.

    Args:
        model: at w*.
        rank: r, of the product of its layers.
        inputs: (n, H_0).
        known: further fields of `GroundTruth`.
    """
    widths = [model.layers[0].in_features]
    for layer in model.layers:
        widths.append(layer.out_features)
    with torch.no_grad():
        targets = model(inputs)
    return GroundTruth(
        model=model,
        inputs=inputs,
        targets=targets,
        learning_coefficient=deep_linear_coefficient(widths, rank),
        multiplicity=deep_linear_multiplicity(widths, rank),
        posterior_mean=DeepLinearMean.of(model.weights, inputs),
        **known,
    )


def _frame(width: int, rank: int, generator: torch.Generator) -> Tensor:
    """Return orthonormal columns, (width, rank)."""
    columns = torch.randn(width, rank, generator=generator)
    orthonormal, _ = torch.linalg.qr(columns)
    return orthonormal


def deep_linear_cases(
    count: int = 30,
    *,
    seed: int = 0,
    max_parameters: int = 5000,
) -> list[tuple[list[int], int]]:
    """Return (widths, rank) of networks of 2, 3 and 4 layers in turn, sizes spread evenly on a log scale.

    Args:
        count: number of networks.
        seed: of the random sizes.
        max_parameters: largest size of a network.

    Example:
        >>> [len(widths) - 1 for widths, rank in deep_linear_cases(4)]  # layers
        [2, 3, 4, 2]
    """
    generator = torch.Generator().manual_seed(seed)
    cases: list[tuple[list[int], int]] = []
    while len(cases) < count:
        layers = 2 + len(cases) % 3
        largest = (max_parameters / layers) ** 0.5 * 1.2
        low = math.log(3)
        high = math.log(largest)
        uniform = torch.rand((), generator=generator)
        place = low + (high - low) * float(uniform)
        centre = math.exp(place)
        spread = torch.rand(layers + 1, generator=generator)
        factors = 0.7 + 0.6 * spread
        widths = []
        for factor in factors.tolist():
            width = round(centre * factor)
            widths.append(max(2, width))
        most = min(widths)
        rank = torch.randint(1, most + 1, (), generator=generator)
        case = (widths, int(rank))
        size = 0
        for num_inputs, num_outputs in itertools.pairwise(widths):
            size += num_inputs * num_outputs
        if size <= max_parameters and case not in cases:
            cases.append(case)
    return cases
