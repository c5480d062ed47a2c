"""Compute the Metropolis acceptance probability of a Langevin step."""

from __future__ import annotations

import torch
from torch import Tensor

from .samplers import Dynamics


def acceptance_probability(  # noqa: PLR0913 - both ends of a step
    dynamics: Dynamics,
    old: Tensor,
    new: Tensor,
    old_gradient: Tensor,
    new_gradient: Tensor,
    loss_change: Tensor,
) -> Tensor:
    """Return the probability to accept each row's step, (R,). `old` is overwritten.

    It is min(1, p(w') q(w|w') / (p(w) q(w'|w))). With s = w' - w and U' the gradient of U, the proposals' part is
    |s + ε/2 U'(w)|² - |-s + ε/2 U'(w')|² over 2 ε. This difference of squares is computed as a product, because
    nothing large cancels there:

        (|f|² - |b|²) / (2 ε) = (f + b).(f - b) / (2 ε)
        f + b = ε/2 (U'(w) + U'(w'))        f - b = 2 s - ε/2 (U'(w') - U'(w))

    With a preconditioner all of this holds in u, where s.U' is the same number.

    Args:
        dynamics: of the step.
        old: w, (R, P).
        new: w', (R, P).
        old_gradient: of the mean loss at w, (R, P).
        new_gradient: of the mean loss at w', (R, P).
        loss_change: L(w') - L(w), (R, 1).
    """
    with torch.no_grad():
        moved = new - old  # s
        total = dynamics.potential_gradient(old, old_gradient)  # U'(w)
        change = dynamics.potential_gradient(new, new_gradient)
        change.sub_(total)  # U'(w') - U'(w)
        total.mul_(2).add_(change)  # U'(w) + U'(w')
        along = _dot(moved, total)  # (R, 1)
        if dynamics.preconditioner is not None:
            change = dynamics.preconditioner.of_gradient(change)
            total = dynamics.preconditioner.of_gradient(total)
        quarter = dynamics.step_size / 4
        difference = along - quarter * _dot(change, total)
        proposals = difference / 2
        middle = old.add_(new).sub_(dynamics.anchor, alpha=2)  # w + w' - 2 w*
        half_pull = dynamics.localization / 2
        rise = dynamics.nbeta * loss_change + half_pull * _dot(moved, middle)  # U(w') - U(w)
        log_ratio = proposals - rise
    probability = log_ratio.clamp(max=0).exp()  # (R, 1)
    return probability[:, 0]


def _dot(first: Tensor, second: Tensor) -> Tensor:
    """Return the products of the rows, (R, 1)."""
    products = torch.bmm(first[:, None], second[:, :, None])  # (R, 1, 1)
    return products[:, 0]
