"""Small classifiers of which it is known how far their training went, for error rates of the status.

All networks of one shape see the same data: labels are drawn from a random teacher's probabilities, so that a trained
network has a minimum with a positive loss. They train as one stacked computation.

| kind | training | at a minimum of the loss |
|---|---|---|
| good | full batches, then L-BFGS in float64, with an L2 penalty so weak that it only keeps weights finite | nearly |
| one epoch | minibatches, one pass | no |
| weight decay | full batches with an L2 penalty of all weights, to its own minimum | no |
| collapsed | full batches with a penalty so strong that all weights vanish | no |
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

KINDS = ("good", "one epoch", "weight decay", "collapsed")
SHAPES = ("softmax", "mlp")

_INPUTS, _CLASSES, _HIDDEN = 8, 4, 8
# L2 penalties. Half of them times the squares is added to the mean loss. Those of a kind differ by factors of 1 to 3
PENALTIES = {"good": 1e-4, "weight decay": 0.02, "collapsed": 1.0}
_STEPS, _RATE = 400, 0.03
_EPOCH_BATCH = 64
_POLISH = 400  # iterations of L-BFGS


@dataclass(frozen=True)
class Trained:
    """Hold a network and what is known of it.

    Attributes:
        kind: of `KINDS`.
        shape: of `SHAPES`.
        model: at its weights w*.
        gradient: norm of the gradient of the mean loss at w*, on all data.
        loss: the mean loss at w*.
    """

    kind: str
    shape: str
    model: nn.Module
    gradient: float
    loss: float


def make_data(num_samples: int = 4000, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return inputs (n, 8) and labels (n,) drawn from the probabilities of a random network."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(num_samples, _INPUTS, generator=generator)
    first = torch.randn(_INPUTS, _HIDDEN, generator=generator) / _INPUTS**0.5
    second = 2 * torch.randn(_HIDDEN, _CLASSES, generator=generator) / _HIDDEN**0.5
    probabilities = (torch.tanh(inputs @ first) @ second).softmax(1)
    labels = torch.multinomial(probabilities, 1, generator=generator)
    return inputs, labels[:, 0]


def trained_classifiers(
    kind: str,
    shape: str,
    seeds: Sequence[int],
    inputs: Tensor,
    labels: Tensor,
) -> list[Trained]:
    """Return one network for each seed, of initial weights and minibatches.

    Args:
        kind: of `KINDS`.
        shape: of `SHAPES`.
        seeds: one for each network.
        inputs: (n, 8).
        labels: (n,), from 0 to 3.
    """
    models = [_network(shape, seed) for seed in seeds]
    if kind == "one epoch":
        _train_one_epoch(models, seeds, inputs, labels)
    else:
        penalties = [PENALTIES[kind] * (1 + seed % 3) for seed in seeds]
        _train_full(models, inputs, labels, torch.tensor(penalties))
        for model, penalty in zip(models, penalties, strict=True):
            _polish(model, inputs, labels, penalty)
    found = []
    for model in models:
        loss, gradient = loss_and_gradient(model, inputs, labels)
        found.append(Trained(kind, shape, model.eval(), gradient, loss))
    return found


def _network(shape: str, seed: int) -> nn.Module:
    """Return an untrained network."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if shape == "softmax":
            return nn.Linear(_INPUTS, _CLASSES)
        return nn.Sequential(nn.Linear(_INPUTS, _HIDDEN), nn.Tanh(), nn.Linear(_HIDDEN, _CLASSES))


class _Stack:
    """Train all networks at once by Adam. Each is the run alone, because its loss depends on its own weights only."""

    def __init__(self, models: Sequence[nn.Module], steps: int) -> None:
        self.models = models
        self.skeleton = models[0]
        stacked, _ = stack_module_state(list(models))
        self.parameters = {name: value.detach().requires_grad_() for name, value in stacked.items()}
        self.optimizer = torch.optim.Adam(self.parameters.values(), lr=_RATE)
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, steps)

    def step(self, inputs: Tensor, labels: Tensor, penalties: Tensor) -> None:
        """Take one step. Inputs, labels and penalties have a first dimension of networks."""

        def loss(parameters: dict[str, Tensor], x: Tensor, y: Tensor, penalty: Tensor) -> Tensor:
            logits = functional_call(self.skeleton, parameters, (x,))
            squares = sum(value.square().sum() for value in parameters.values())
            return F.cross_entropy(logits, y) + penalty / 2 * squares

        self.optimizer.zero_grad()
        vmap(loss)(self.parameters, inputs, labels, penalties).sum().backward()
        self.optimizer.step()
        self.schedule.step()

    def write_back(self) -> None:
        """Copy the weights into the networks."""
        with torch.no_grad():
            for place, model in enumerate(self.models):
                for name, parameter in model.named_parameters():
                    parameter.copy_(self.parameters[name][place])


def _train_full(models: Sequence[nn.Module], inputs: Tensor, labels: Tensor, penalties: Tensor) -> None:
    """Train on all data in each step."""
    stack = _Stack(models, _STEPS)
    all_inputs = inputs.expand(len(models), *inputs.shape)
    all_labels = labels.expand(len(models), *labels.shape)
    for _ in range(_STEPS):
        stack.step(all_inputs, all_labels, penalties)
    stack.write_back()


def _train_one_epoch(models: Sequence[nn.Module], seeds: Sequence[int], inputs: Tensor, labels: Tensor) -> None:
    """Train on each sample once, in an order that the seed decides."""
    orders = []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        orders.append(torch.randperm(len(labels), generator=generator))
    order = torch.stack(orders)  # (networks, n)
    steps = math.ceil(len(labels) / _EPOCH_BATCH)
    stack = _Stack(models, steps)
    no_penalties = torch.zeros(len(models))
    for rows in order.split(_EPOCH_BATCH, dim=1):
        stack.step(inputs[rows], labels[rows], no_penalties)
    stack.write_back()


def _polish(model: nn.Module, inputs: Tensor, labels: Tensor, penalty: float) -> None:
    """Bring the network to the minimum of the loss and the penalty by L-BFGS, in float64."""
    wide = inputs.double()

    def objective() -> Tensor:
        squares = sum(parameter.square().sum() for parameter in model.parameters())
        return F.cross_entropy(model(wide), labels) + penalty / 2 * squares

    to_minimum(model, objective, iterations=_POLISH, of_gradient=1e-8, of_change=1e-14)


def to_minimum(
    model: nn.Module,
    objective: Callable[[], Tensor],
    *,
    iterations: int,
    of_gradient: float,
    of_change: float,
) -> None:
    """Lower an objective by L-BFGS, in float64. The model is float32 afterwards.

    Args:
        model: whose parameters move.
        objective: of the model, on data in float64.
        iterations: at most.
        of_gradient: tolerance of the gradient's largest entry.
        of_change: tolerance of a step and of the objective's change.
    """
    model.double()
    optimizer = torch.optim.LBFGS(
        model.parameters(),
        max_iter=iterations,
        tolerance_grad=of_gradient,
        tolerance_change=of_change,
        history_size=50,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = objective()
        value.backward()
        return value

    optimizer.step(closure)
    model.float()


def loss_and_gradient(model: nn.Module, inputs: Tensor, labels: Tensor) -> tuple[float, float]:
    """Return the mean loss on all data and the norm of its gradient."""
    loss = F.cross_entropy(model(inputs), labels)
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    norms = torch.stack([gradient.norm() for gradient in gradients])
    return float(loss.detach()), float(norms.norm())
