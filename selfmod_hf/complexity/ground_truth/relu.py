"""ReLU networks at a teacher's weights, with units that are dead, or idle, which means without effect."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap

from .known import GroundTruth

_DEAD_BIAS = -30.0  # far below every input's projection
_DRAWS = 200  # of a teacher
_RANK_SAMPLES = 2000
_LEAST_CURVATURE = 1e-3  # of the largest: below it a direction counts as flat, and a teacher is drawn anew
_FLAT = 1e-9  # of the largest: a curvature that is zero


def relu_teacher(
    widths: tuple[int, int, int],
    *,
    dead: int = 0,
    idle: int = 0,
    num_samples: int = 20_000,
    seed: int = 0,
) -> GroundTruth:
    """Return a network of one ReLU layer whose targets are its own outputs, with inputs in a ball of radius 2.

    Each live unit has p + 1 incoming and K outgoing weights, and a change of scale between them is flat. A dead unit
    gives 0 for all inputs near w*. So λ = (live (p + K) + K) / 2.

    An idle unit has outgoing weights of zero and adds K/2. With idle units the hidden layer has no biases, and a live
    unit has one weight less. With a bias an idle unit could die within a distance of 1, and at practical nβ nearly all
    of the posterior is where it is dead.

    The rank of the mean of J^T J at w*, with J the outputs' Jacobian, is 2 λ. Teachers are redrawn until it is, and
    until no curved direction is nearly flat.

    Args:
        widths: p inputs, live units, K outputs.
        dead: number of dead units.
        idle: number of units with outgoing weights of zero.
        num_samples: n.
        seed: of all random numbers.

    Raises:
        ValueError: dead and idle units together, idle units with p <= K + 1, or no teacher of such widths was found.

    Example:
        >>> relu_teacher((3, 2, 2), dead=1, num_samples=500).learning_coefficient
        6.0
    """
    num_inputs, live, num_outputs = widths
    if idle and (dead or num_inputs <= num_outputs + 1):
        raise ValueError(f"idle={idle}: needs dead=0 and more inputs than outputs + 1 (widths={widths})")
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(num_samples, num_inputs, generator=generator)
    radii = 2 * torch.rand(num_samples, 1, generator=generator) ** (1 / num_inputs)
    inputs = directions / directions.norm(dim=1, keepdim=True) * radii
    of_a_unit = num_inputs + num_outputs - bool(idle)
    rank = live * of_a_unit + (idle + 1) * num_outputs
    for _ in range(_DRAWS):
        model = _teacher(widths, dead, idle, generator)
        curvatures = fisher_curvatures(model, inputs[:_RANK_SAMPLES])
        largest = curvatures[0]
        last = curvatures[rank - 1]
        flat = curvatures[rank:]
        if last > _LEAST_CURVATURE * largest and (flat.abs() < _FLAT * largest).all():
            break
    else:
        raise ValueError(f"widths={widths}: no teacher without nearly flat directions was found in {_DRAWS} draws")
    with torch.no_grad():
        targets = model(inputs)
    hidden = f"{live} live, {dead} dead, {idle} idle units"
    kind = "relu, idle units" if idle else "relu, dead units"
    return GroundTruth(
        name=f"relu {num_inputs}-{live + dead + idle}-{num_outputs}, {hidden}",
        model=model,
        inputs=inputs,
        targets=targets,
        learning_coefficient=rank / 2,
        kind=kind,
    )


def _teacher(
    widths: tuple[int, int, int],
    dead: int,
    idle: int,
    generator: torch.Generator,
) -> nn.Sequential:
    """Return a random network. Live units come first, then idle ones, then dead ones."""
    num_inputs, live, num_outputs = widths
    hidden = live + idle + dead
    first = nn.Linear(num_inputs, hidden, bias=idle == 0)
    second = nn.Linear(hidden, num_outputs)
    active = live + idle
    with torch.no_grad():
        directions = torch.randn(hidden, num_inputs, generator=generator)
        directions = directions / directions.norm(dim=1, keepdim=True)
        thresholds = torch.rand(hidden, generator=generator) - 0.5
        outgoing = torch.randn(num_outputs, hidden, generator=generator)
        outgoing = outgoing / outgoing.norm(dim=0)
        directions[active:] *= 0.1
        thresholds[active:] = _DEAD_BIAS
        outgoing[:, live:active] = 0
        first.weight.copy_(directions)
        if first.bias is not None:
            first.bias.copy_(thresholds)
        second.weight.copy_(outgoing)
        second.bias.copy_(0.1 * torch.randn(num_outputs, generator=generator))
    return nn.Sequential(first, nn.ReLU(), second)


def fisher_curvatures(model: nn.Module, inputs: Tensor) -> Tensor:
    """Return the eigenvalues of the mean of J^T J, falling, (d,), in float64.

    J is the Jacobian of one sample's outputs by the parameters. With half the square error and targets that the model
    fits exactly, this mean is the Hessian.

    Args:
        model: at w*.
        inputs: (n, ...).
    """
    wide = copy.deepcopy(model).double()
    values = {name: value.detach() for name, value in wide.named_parameters()}

    def outputs(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        return functional_call(wide, parameters, (x[None],))[0]

    jacobians = vmap(jacrev(outputs), in_dims=(None, 0))(values, inputs.double())
    columns = [value.flatten(2) for value in jacobians.values()]  # (n, K, size) each
    joined = torch.cat(columns, dim=2).flatten(0, 1)  # (n K, d)
    moments = joined.T @ joined / len(inputs)
    return torch.linalg.eigvalsh(moments).flip(0)
