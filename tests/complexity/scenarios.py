"""Targets of known answer, and small trained networks."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Quadratic(nn.Module):
    """L(w) = (1/2) sum_i h_i w_i², whatever the input; the minimum is where it starts, at 0."""

    def __init__(self, curvatures: Sequence[float]) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(len(curvatures)))
        self.register_buffer("h", torch.tensor(curvatures))

    def forward(self, x: Tensor) -> Tensor:
        return (self.h * self.w.square()).sum() / 2 + 0 * x


def given_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return outputs


DUMMY = torch.zeros(4), torch.zeros(4)  # inputs, targets


def sgld_llc(curvatures: Sequence[float], nbeta: float, gamma: float, step: float) -> float:
    """Stationary value of full-batch SGLD: each direction adds nβ h / (2 a (1 - ε a/4)), a = nβ h + γ."""
    pairs = [(nbeta * h, nbeta * h + gamma) for h in curvatures]
    return sum(nh / (2 * a * (1 - step * a / 4)) for nh, a in pairs)


def digits() -> tuple[Tensor, Tensor]:
    """scikit-learn's 1,797 images of 8x8: (1797, 64) in [0, 1], labels."""
    from sklearn.datasets import load_digits

    data = load_digits()
    return torch.tensor(data.data / 16, dtype=torch.float32), torch.tensor(data.target)


@functools.cache
def trained_digits_net(steps: int = 400, hidden: int = 16) -> nn.Sequential:
    """An MLP trained on the whole of digits; callers do not change it."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, 10))
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    inputs, targets = digits()
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(net(inputs), targets).backward()
        optimizer.step()
    return net
