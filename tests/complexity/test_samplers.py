"""Three steps of each sampler against its equation, written out number by number in plain Python."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from selfmod_hf.complexity.samplers import SAMPLERS, Dynamics, Preconditioner

STEP, PULL, NBETA = 0.03, 7.0, 20.0
ANCHOR = [0.5, -1.0, 2.0]
START = [0.7, -1.1, 1.6]
FISHER = [0.3, 2.0, 5.0]
GRADIENTS = [[0.4, -0.2, 0.0], [-0.5, 0.3, 0.9], [0.05, 1.5, -0.7]]  # of steps 1, 2, 3
NOISE = [[0.3, -1.2, 0.8], [-0.6, 0.1, 1.7], [2.0, -0.4, 0.5]]

# a root of a preconditioner: the directions are a rotation by 0.3 in the plane of weights 0 and 1, then one of 1 and 2
WIDTHS = [0.5, 2.0, 1.3]
ANGLE = 0.3

Path = list[float]  # the position of one weight after each step


def force(w: float, anchor: float, g: float) -> float:
    """nβ g + γ (w - w*)"""
    return NBETA * g + PULL * (w - anchor)


def sgld(i: int) -> Path:
    """w <- w - (ε/2) ( nβ g + γ (w - w*) ) + N(0, ε)"""
    w, path = START[i], []
    for g, xi in zip(GRADIENTS, NOISE, strict=True):
        w = w - STEP / 2 * force(w, ANCHOR[i], g[i]) + math.sqrt(STEP) * xi[i]
        path.append(w)
    return path


def fisher_sgld(i: int) -> Path:
    """SGLD of u = sqrt(F) w: its gradient is g / sqrt(F), and its anchor sqrt(F) w*."""
    scale = math.sqrt(FISHER[i])
    u, path = scale * START[i], []
    for g, xi in zip(GRADIENTS, NOISE, strict=True):
        u = u - STEP / 2 * force(u, scale * ANCHOR[i], g[i] / scale) + math.sqrt(STEP) * xi[i]
        path.append(u / scale)
    return path


def rmsprop_sgld(i: int, decay: float, damping: float) -> Path:
    """w <- w - (ε/2) G ( nβ g + γ (w - w*) ) + N(0, ε G), G = 1 / (δ + sqrt(v̂)), v̂ without the bias of its start."""
    w, path = START[i], []
    for t in range(len(GRADIENTS)):
        seen = [GRADIENTS[s][i] ** 2 for s in range(t + 1)]
        weights = [decay ** (t - s) for s in range(t + 1)]
        mean_square = sum(a * b for a, b in zip(weights, seen, strict=True)) / sum(weights)
        preconditioner = 1 / (damping + math.sqrt(mean_square))
        w = (
            w
            - STEP / 2 * preconditioner * force(w, ANCHOR[i], GRADIENTS[t][i])
            + math.sqrt(STEP * preconditioner) * NOISE[t][i]
        )
        path.append(w)
    return path


def sghmc(i: int, momentum: float) -> Path:
    """Kick, half a drift, friction with noise, half a drift."""
    w, v, h, path = START[i], 0.0, math.sqrt(STEP), []
    for g, xi in zip(GRADIENTS, NOISE, strict=True):
        v = v - h * force(w, ANCHOR[i], g[i])
        w = w + h / 2 * v
        v = momentum * v + math.sqrt(1 - momentum**2) * xi[i]
        w = w + h / 2 * v
        path.append(w)
    return path


def directions() -> list[list[float]]:
    """Two rotations, one after the other: orthonormal columns, and no matrix that equals its transpose."""
    c, s = math.cos(ANGLE), math.sin(ANGLE)
    return [[c, -s * c, s * s], [s, c * c, -c * s], [0.0, s, c]]


def preconditioner(rows: int) -> Preconditioner:
    """V diag(s) for each row."""
    matrix = torch.tensor([directions()], dtype=torch.float64)
    return Preconditioner(matrix, torch.tensor([WIDTHS] * rows, dtype=torch.float64))


def preconditioned(i: int, momentum: float) -> Path:
    """SGHMC of u, w = w* + A u: its gradient is Aᵀ ∇U(w)."""
    h, path = math.sqrt(STEP), []
    root = [[row[k] * WIDTHS[k] for k in range(3)] for row in directions()]  # A
    w, v = list(START), [0.0] * 3
    for g, xi in zip(GRADIENTS, NOISE, strict=True):
        pulls = [force(w[j], ANCHOR[j], g[j]) for j in range(3)]
        for k in range(3):
            kicked = v[k] - h * sum(root[j][k] * pulls[j] for j in range(3))
            v[k] = momentum * kicked + math.sqrt(1 - momentum**2) * xi[k]
            for j in range(3):
                w[j] += root[j][k] * h / 2 * (kicked + v[k])
        path.append(w[i])
    return path


def mala(i: int, accepted: float) -> Path:
    """A Langevin step in u, w = w* + A u: no step is rejected here."""
    path, w = [], list(START)
    root = [[row[k] * WIDTHS[k] for k in range(3)] for row in directions()]  # A
    for g, xi in zip(GRADIENTS, NOISE, strict=True):
        pulls = [force(w[j], ANCHOR[j], g[j]) for j in range(3)]
        for k in range(3):
            moved = -STEP / 2 * sum(root[j][k] * pulls[j] for j in range(3)) + math.sqrt(STEP) * xi[k]
            for j in range(3):
                w[j] += root[j][k] * moved
        path.append(w[i])
    return path


CASES: list[tuple[str, Callable[..., Path], dict[str, float]]] = [
    ("sgld", sgld, {}),
    ("fisher_sgld", fisher_sgld, {}),
    ("rmsprop_sgld", rmsprop_sgld, {"decay": 0.99, "damping": 0.1}),
    ("rmsprop_sgld", rmsprop_sgld, {"decay": 0.6, "damping": 0.02}),
    ("sghmc", sghmc, {"momentum": 0.9}),
    ("sghmc", sghmc, {"momentum": 0.0}),
    ("preconditioned", preconditioned, {"momentum": 0.9}),
    ("preconditioned", preconditioned, {"momentum": 0.3}),
    ("mala", mala, {"accepted": 0.57}),
]


@pytest.mark.parametrize("one_constant_per_chain", [False, True])
@pytest.mark.parametrize(("name", "reference", "options"), CASES)
def test_three_steps(name, reference, options, one_constant_per_chain):
    def row(values: list[float]) -> torch.Tensor:
        return torch.tensor([values, values], dtype=torch.float64)  # two chains

    def constant(value: float) -> float | torch.Tensor:
        return torch.full((2, 1), value, dtype=torch.float64) if one_constant_per_chain else value

    constants = [constant(value) for value in (STEP, PULL, NBETA)]
    dynamics = Dynamics(row(ANCHOR), *constants, row(FISHER), preconditioner(2))
    sampler = SAMPLERS[name]
    state = sampler.init(row(START), **options)
    expected = [reference(i, **options) for i in range(3)]
    for t in range(3):
        state = sampler.update(state, row(GRADIENTS[t]), row(NOISE[t]), dynamics, **options)
        for chain in state.position.tolist():
            assert chain == pytest.approx([path[t] for path in expected], rel=1e-12)


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_defaults_are_those_of_the_table(name):
    def row(values: list[float]) -> torch.Tensor:
        return torch.tensor([values], dtype=torch.float64)

    sampler, dynamics = SAMPLERS[name], Dynamics(row(ANCHOR), STEP, PULL, NBETA, row(FISHER), preconditioner(1))
    plain, given = sampler.init(row(START)), sampler.init(row(START), **sampler.options)
    for g, xi in zip(GRADIENTS, NOISE, strict=True):
        plain = sampler.update(plain, row(g), row(xi), dynamics)
        given = sampler.update(given, row(g), row(xi), dynamics, **sampler.options)
    assert torch.equal(plain.position, given.position)


def test_an_update_leaves_its_arguments_as_they_were():
    for name, sampler in SAMPLERS.items():
        tensors = [
            torch.tensor([values], dtype=torch.float64) for values in (START, GRADIENTS[0], NOISE[0], ANCHOR, FISHER)
        ]
        start, gradient, noise, anchor, fisher = (tensor.clone() for tensor in tensors)
        sampler.update(
            sampler.init(start), gradient, noise, Dynamics(anchor, STEP, PULL, NBETA, fisher, preconditioner(1))
        )
        for found, before in zip((start, gradient, noise, anchor, fisher), tensors, strict=True):
            assert torch.equal(found, before), name
