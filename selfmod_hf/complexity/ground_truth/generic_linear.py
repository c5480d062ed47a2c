"""Deep linear networks whose layers are not aligned, and two-layer networks with one layer of full rank."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .deep_linear import DeepLinear, check_rank, truth_of_layers
from .exact_linear import DeepLinearMean
from .known import GroundTruth
from .noisy_data import orthogonal_noise

_LEAST_SHARE = 0.1  # of the smallest to the largest singular value of the product, before the condition is applied
_DRAWS = 1000  # of layers, until the product has such singular values


def generic_deep_linear(
    widths: Sequence[int],
    rank: int,
    *,
    condition: float = 1.0,
    num_samples: int = 20_000,
    seed: int = 0,
) -> GroundTruth:
    """Return a deep linear network of layers A_k B_k^T of rank r, with random A_k and B_k. λ is Aoyagi's.

    Where the product has rank r too, the kernel of each layer and the image of the one before span the space between
    them. A change of basis of each hidden space then turns every layer into diag(1, ..., 1, 0, ..., 0). So all such w*
    have the λ of the aligned network. With r = 0 all weights are zero.

    The truth is the exact posterior mean. Ill-conditioned products have weak directions, in which the loss is not
    quadratic over the width of the posterior. At n = 20,000 the mean is then up to a third below λ.

    Args:
        widths: H_0, ..., H_L, input to output.
        rank: r.
        condition: largest over smallest singular value of each A_k.
        num_samples: n.
        seed: of all random numbers.

    Raises:
        ValueError: invalid widths or rank.

    Example:
        >>> generic_deep_linear([6, 5, 6], 2, num_samples=100).learning_coefficient
        15.0
    """
    check_rank(widths, rank)
    generator = torch.Generator().manual_seed(seed)
    model = DeepLinear(widths)
    layers = _layers_of_rank(widths, rank, generator)
    values = torch.logspace(0, -math.log10(condition), rank)
    with torch.no_grad():
        for layer, (left, right) in zip(model.layers, layers, strict=True):
            weight = left * values @ right.T
            layer.weight.copy_(weight)
    shape = "-".join(map(str, widths))
    return truth_of_layers(
        model,
        rank,
        torch.randn(num_samples, widths[0], generator=generator),
        name=f"generic deep linear {shape}, rank {rank}, condition {condition:g}",
        kind="deep linear, generic",
        prior_matters=True,
    )


def _layers_of_rank(
    widths: Sequence[int],
    rank: int,
    generator: torch.Generator,
) -> list[tuple[Tensor, Tensor]]:
    """Return orthonormal A_k and B_k, (H_k, r) and (H_{k-1}, r), whose product is as well conditioned as possible."""
    best = _random_layers(widths, rank, generator)
    for _ in range(_DRAWS):
        if _conditioning(best) >= _LEAST_SHARE:
            break
        layers = _random_layers(widths, rank, generator)
        if _conditioning(layers) > _conditioning(best):
            best = layers
    return best


def _random_layers(
    widths: Sequence[int],
    rank: int,
    generator: torch.Generator,
) -> list[tuple[Tensor, Tensor]]:
    """Return random orthonormal A_k and B_k."""
    layers = []
    for num_inputs, num_outputs in itertools.pairwise(widths):
        left, _ = torch.linalg.qr(torch.randn(num_outputs, rank, generator=generator))
        right, _ = torch.linalg.qr(torch.randn(num_inputs, rank, generator=generator))
        layers.append((left, right))
    return layers


def _conditioning(layers: Sequence[tuple[Tensor, Tensor]]) -> float:
    """Return the smallest over the largest singular value of the product of the layers."""
    image, _ = layers[0]
    rank = image.shape[1]
    product = torch.eye(rank)
    for left, right in layers[1:]:
        product = right.T @ image @ product
        image = left
    if rank == 0:
        return 1.0
    singular = torch.linalg.svdvals(product)
    return float(singular[-1] / singular[0])


def reduced_rank(
    widths: Sequence[int],
    rank: int,
    *,
    full: str = "first",
    num_samples: int = 20_000,
    seed: int = 0,
) -> GroundTruth:
    """Return two linear layers, one of full rank H and the other of rank r, a point where λ is larger than Aoyagi's.

    Let the first layer have rank H <= H_0, and write it as (I + A, D) in a suitable basis. In the coordinates
    C = W_2 (I + A) and (I + A)^-1 D the loss is equivalent to |C - C*|² + |C* D|². So
    λ = (H H_2 + r (H_0 - H)) / 2. A full last layer is the transpose: λ = (H H_0 + r (H_2 - H)) / 2.

    The truth is the exact posterior mean at γ = 1, as of all deep linear networks of less than full rank: a prior of
    unit width reaches points where the full layer is not full any more.

    Args:
        widths: H_0, H, H_2.
        rank: r, of the product.
        full: "first" or "last".
        num_samples: n.
        seed: of all random numbers.

    Raises:
        ValueError: invalid widths, rank or layer, or fewer units outside than H on the side of the full layer.

    Example:
        >>> reduced_rank([6, 3, 4], 1, num_samples=100).learning_coefficient
        7.5
    """
    check_rank(widths, rank)
    if len(widths) != 3:
        raise ValueError(f"widths={list(widths)}: must be three")
    if full not in ("first", "last"):
        raise ValueError(f"full={full!r}: must be 'first' or 'last'")
    num_inputs, hidden, num_outputs = widths
    outside = num_inputs if full == "first" else num_outputs
    other_side = num_outputs if full == "first" else num_inputs
    if hidden > outside:
        raise ValueError(f"widths={list(widths)}: a {full} layer of full rank needs at least {hidden} units outside")
    generator = torch.Generator().manual_seed(seed)
    complete, _ = torch.linalg.qr(torch.randn(outside, hidden, generator=generator))
    left, _ = torch.linalg.qr(torch.randn(other_side, rank, generator=generator))
    right, _ = torch.linalg.qr(torch.randn(hidden, rank, generator=generator))
    partial = left @ right.T  # (other side, H)
    model = DeepLinear(widths)
    first, second = model.layers
    with torch.no_grad():
        if full == "first":
            first.weight.copy_(complete.T)
            second.weight.copy_(partial)
        else:
            first.weight.copy_(partial.T)
            second.weight.copy_(complete)
        inputs = torch.randn(num_samples, num_inputs, generator=generator)
        targets = model(inputs)
    shape = "-".join(map(str, widths))
    return GroundTruth(
        name=f"reduced rank {shape}, rank {rank}, {full} layer full",
        model=model,
        inputs=inputs,
        targets=targets,
        learning_coefficient=(hidden * other_side + rank * (outside - hidden)) / 2,
        kind=f"reduced rank, full {full} layer",
        posterior_mean=DeepLinearMean.of(model.weights, inputs),
        prior_matters=rank < hidden,
    )


def with_noise(truth: GroundTruth, noise: float, *, seed: int = 0) -> GroundTruth:
    """Return the model with noise in its targets that is orthogonal to its inputs, so that λ stays.

    Args:
        truth: a model whose outputs are a linear function of its inputs.
        noise: standard deviation.
        seed: of the noise.

    Example:
        >>> quiet = reduced_rank([6, 3, 4], 1, num_samples=100)
        >>> noisy = with_noise(quiet, 0.5)
        >>> residuals = noisy.targets - quiet.targets
        >>> bool((residuals.T @ noisy.inputs).abs().max() < 1e-3)
        True
    """
    generator = torch.Generator().manual_seed(seed)
    num_outputs = truth.targets.shape[1]
    residuals = orthogonal_noise(truth.inputs, num_outputs, noise, generator)
    return dataclasses.replace(
        truth,
        name=f"{truth.name}, noise {noise:g}",
        targets=truth.targets + residuals,
        kind=f"{truth.kind}, noise",
    )
