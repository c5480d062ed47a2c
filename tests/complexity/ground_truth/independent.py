"""Checks of a model's λ that use none of the package's samplers."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import functional_call, hessian, vmap

from selfmod_hf.complexity.diagnostics import standard_error
from selfmod_hf.complexity.ground_truth import GroundTruth


def loss_of_vector(truth: GroundTruth) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """Return the mean loss on all data as a function of one vector, in float64, and w*."""
    model = copy.deepcopy(truth.model).double()
    inputs = truth.inputs.double()
    targets = truth.targets.double() if truth.targets.is_floating_point() else truth.targets
    names = [name for name, _ in model.named_parameters()]
    shapes = [value.shape for value in model.parameters()]
    sizes = [value.numel() for value in model.parameters()]
    start = torch.cat([value.detach().flatten() for value in model.parameters()])

    def loss(vector: Tensor) -> Tensor:
        pieces = vector.split(sizes)
        values = {name: piece.view(shape) for name, piece, shape in zip(names, pieces, shapes, strict=True)}
        return truth.loss_fn(functional_call(model, values, (inputs,)), targets).mean()

    return loss, start


def gradient_at_minimum(truth: GroundTruth) -> float:
    """Return the largest entry of the gradient at w*."""
    loss, start = loss_of_vector(truth)
    start.requires_grad_()
    (gradient,) = torch.autograd.grad(loss(start), start, allow_unused=True)
    return float(gradient.abs().max())


def curvatures(truth: GroundTruth) -> Tensor:
    """Return the eigenvalues of the Hessian of the mean loss at w*, falling."""
    loss, start = loss_of_vector(truth)
    return torch.linalg.eigvalsh(hessian(loss)(start)).flip(0)


def curvature_rank(truth: GroundTruth, relative: float = 1e-6) -> int:
    """Return the number of directions in which the loss is curved at w*."""
    values = curvatures(truth)
    assert values.min() >= -relative * values.max()
    return int((values > relative * values.max()).sum())


def exact_chain(truth: GroundTruth, nbeta: float, localization: float, steps: int = 4000) -> tuple[float, float]:
    """Return the posterior mean of nβ (L - L*) and its error, by a random walk of Metropolis on all data in float64.

    Proposals are normal with the covariance of the quadratic approximation at w*, so that only small models mix.
    """
    loss, start = loss_of_vector(truth)
    losses = vmap(loss)
    size = len(start)
    values, axes = torch.linalg.eigh(hessian(loss)(start))
    widths = (nbeta * values.clamp(min=0) + localization) ** -0.5
    generator = torch.Generator().manual_seed(0)
    chains = 64
    offsets = torch.zeros(chains, size, dtype=torch.float64)
    base = float(loss(start))
    energies = torch.zeros(chains, dtype=torch.float64)
    potentials = energies.clone()
    scales = 2.0 ** torch.linspace(-3, 1, chains, dtype=torch.float64)[:, None] / size**0.5  # long and short in turn
    kept = []
    for step in range(steps):
        drawn = torch.randn(chains, size, generator=generator, dtype=torch.float64)
        scale = scales.roll(step % chains, dims=0)
        proposals = offsets + scale * drawn * widths @ axes.T
        proposed = nbeta * (losses(start + proposals) - base)
        proposed_potentials = proposed + localization / 2 * proposals.square().sum(1)
        uniform = torch.rand(chains, generator=generator, dtype=torch.float64)
        accepted = uniform.log() < potentials - proposed_potentials
        offsets = torch.where(accepted[:, None], proposals, offsets)
        energies = torch.where(accepted, proposed, energies)
        potentials = torch.where(accepted, proposed_potentials, potentials)
        kept.append(energies)
    trace = torch.stack(kept[steps // 4 :], dim=1).numpy()
    return float(trace.mean()), standard_error(trace)
