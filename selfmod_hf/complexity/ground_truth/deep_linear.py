"""Deep linear networks, products of matrices, whose λ Aoyagi found."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .known import GroundTruth


def deep_linear_coefficient(widths: Sequence[int], rank: int) -> float:
    """λ of a deep linear network at a true product of rank r, with square loss.

    Aoyagi 2024 (arXiv 2303.15739), main theorem. With m_i = H_i - r, S the subset of layers described below,
    l = |S| - 1, M = ceil( sum m_S / l ), a = sum m_S - (M - 1) l:

        λ = ( r (H_0 + H_L) - r² )/2 + a (l - a)/(4 l) - (l (l - 1)/4) (sum m_S / l)² + (1/2) sum_{i<j in S} m_i m_j

    S is such that max m_S < min of the others, sum m_S >= l max m_S and sum m_S < l min of the others (the conditions
    on the others hold where there are none).

    Args:
        widths: H_0, ..., H_L, input to output; at least two.
        rank: r, at most the smallest width.

    Raises:
        ValueError: fewer than two widths, one that is not positive, or a rank over the smallest.
    """
    check_rank(widths, rank)
    excess = sorted(width - rank for width in widths)
    chosen = _chosen_layers(excess)
    count, total = len(chosen) - 1, sum(chosen)  # l, sum m_S
    a = total - (math.ceil(total / count) - 1) * count
    pairs = (total**2 - sum(m * m for m in chosen)) / 2
    regular = (rank * (widths[0] + widths[-1]) - rank**2) / 2
    return regular + a * (count - a) / (4 * count) - (count - 1) * total**2 / (4 * count) + pairs / 2


def _chosen_layers(excess: list[int]) -> list[int]:
    """S: layers below a threshold are in, so it is a beginning of the sorted list."""
    for size in range(2, len(excess) + 1):
        chosen, others = excess[:size], excess[size:]
        count, total = size - 1, sum(chosen)
        below = not others or (chosen[-1] < others[0] and total < count * others[0])
        if below and total >= count * chosen[-1]:
            return chosen
    raise AssertionError(f"no subset of {excess} satisfies the conditions")


def check_rank(widths: Sequence[int], rank: int) -> None:
    """Raise a ValueError unless a deep linear network of these widths can have this rank."""
    if len(widths) < 2 or min(widths) < 1:
        raise ValueError(f"widths={list(widths)}: at least two positive widths are needed")
    if not 0 <= rank <= min(widths):
        raise ValueError(f"rank={rank}: must be from 0 to the smallest width, {min(widths)}")


class DeepLinear(nn.Sequential):
    """Linear layers without biases."""

    @property
    def layers(self) -> list[nn.Linear]:
        return [layer for layer in self if isinstance(layer, nn.Linear)]

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__(*(nn.Linear(i, o, bias=False) for i, o in itertools.pairwise(widths)))


def deep_linear(
    widths: Sequence[int], rank: int, *, num_samples: int = 20_000, seed: int = 0, spread: float = 0.25
) -> GroundTruth:
    """A deep linear network whose layers have rank r each, with standard normal inputs.

    Layer k is U_k diag(s) U_{k-1}^T, with U_k the same random orthonormal frame (H_k, r) on both sides: the balanced
    form that training from small weights finds. The residual blocks then vanish in every layer, so w* is the
    most singular point over the true product, and λ at w* is Aoyagi's. s is uniform in 1 ± spread.

    Raises:
        ValueError: widths or a rank that cannot be, as of `deep_linear_coefficient`.
    """
    check_rank(widths, rank)
    generator = torch.Generator().manual_seed(seed)
    frames = [_frame(width, rank, generator) for width in widths]
    model = DeepLinear(widths)
    with torch.no_grad():
        for layer, (right, left) in zip(model.layers, itertools.pairwise(frames), strict=True):
            values = 1 + spread * (2 * torch.rand(rank, generator=generator) - 1)
            layer.weight.copy_(left * values @ right.T)
        inputs = torch.randn(num_samples, widths[0], generator=generator)
        targets = model(inputs)
    name = f"deep linear {'-'.join(map(str, widths))}, rank {rank}"
    return GroundTruth(name, model, inputs, targets, deep_linear_coefficient(widths, rank))


def _frame(width: int, rank: int, generator: torch.Generator) -> Tensor:
    """(width, rank), orthonormal columns."""
    return torch.linalg.qr(torch.randn(width, rank, generator=generator))[0]


def deep_linear_cases(count: int = 30, *, seed: int = 0, max_parameters: int = 5000) -> list[tuple[list[int], int]]:
    """(widths, rank) of `count` networks of 2, 3 and 4 layers in turn, sizes spread evenly on a log scale."""
    generator = torch.Generator().manual_seed(seed)
    cases: list[tuple[list[int], int]] = []
    while len(cases) < count:
        layers = 2 + len(cases) % 3
        largest = (max_parameters / layers) ** 0.5 * 1.2
        low, high = math.log(3), math.log(largest)
        centre = math.exp(low + (high - low) * float(torch.rand((), generator=generator)))
        factors = 0.7 + 0.6 * torch.rand(layers + 1, generator=generator)
        widths = [max(2, round(centre * float(factor))) for factor in factors]
        size = sum(i * o for i, o in itertools.pairwise(widths))
        rank = int(torch.randint(1, min(widths) + 1, (), generator=generator))
        if size <= max_parameters and (widths, rank) not in cases:
            cases.append((widths, rank))
    return cases
