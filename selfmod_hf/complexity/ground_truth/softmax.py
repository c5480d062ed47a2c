"""Softmax regressions with labels drawn from their own probabilities. w* is the maximum of the likelihood."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..sample_losses import cross_entropy
from .known import GroundTruth
from .noisy_data import correlated_inputs

KIND = "softmax"
_NEWTON_STEPS = 50
_LAST_STEP = 1e-8  # separable classes have no maximum: gradient and Hessian vanish together, and steps do not


class FixedLastLogit(nn.Module):
    """Append a logit of zero to the outputs of a module, so that no two parameters give the same probabilities."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        logits = self.body(x)  # (B, K - 1)
        return nn.functional.pad(logits, (0, 1))


def softmax_regression(
    num_inputs: int,
    num_classes: int,
    *,
    redundant: bool = False,
    num_samples: int = 20_000,
    seed: int = 0,
) -> GroundTruth:
    """Return a softmax regression with a bias and sampled labels, λ = (K - 1)(p + 1)/2.

    Without redundancy the last logit is zero and the model is regular. With it, all K logits have weights, and a
    common shift of all logits changes nothing: p + 1 further directions are exactly flat.

    Args:
        num_inputs: p.
        num_classes: K.
        redundant: whether the last class has weights too.
        num_samples: n.
        seed: of all random numbers.

    Raises:
        ValueError: fewer than two classes, or the likelihood has no maximum because there are too few samples.

    Example:
        >>> softmax_regression(4, 3, num_samples=500).learning_coefficient
        5.0
        >>> softmax_regression(4, 3, num_samples=500, redundant=True).num_parameters
        15
    """
    generator = torch.Generator().manual_seed(seed)
    inputs, labels = _labelled(num_inputs, num_classes, num_samples, generator)
    ones = torch.ones(num_samples, 1)
    fitted = fit_softmax(torch.cat([inputs, ones], dim=1), labels, num_classes)  # (K - 1, p + 1)
    linear = nn.Linear(num_inputs, num_classes - 1)
    model: nn.Module = FixedLastLogit(linear)
    if redundant:
        linear = nn.Linear(num_inputs, num_classes)
        model = linear
        fitted = torch.cat([fitted, torch.zeros(1, num_inputs + 1)])
        fitted = fitted - fitted.mean(0)  # the shortest of all equal ones
    with torch.no_grad():
        linear.weight.copy_(fitted[:, :-1])
        linear.bias.copy_(fitted[:, -1])
    form = "redundant" if redundant else "identifiable"
    return GroundTruth(
        name=f"softmax, {num_inputs} inputs, {num_classes} classes, {form}",
        model=model,
        inputs=inputs,
        targets=labels,
        learning_coefficient=(num_classes - 1) * (num_inputs + 1) / 2,
        loss_fn=cross_entropy,
        kind=f"{KIND}, {form}",
    )


def factored_softmax(
    num_inputs: int,
    num_hidden: int,
    num_classes: int,
    *,
    num_samples: int = 20_000,
    seed: int = 0,
) -> GroundTruth:
    """Return a softmax regression of a product of two matrices W2 W1, without biases, λ = (K - 1) p / 2.

    The last logit is zero. W2, (K - 1, H), has orthonormal rows, so every matrix close to the product is a product too,
    and the other directions are flat.

    Args:
        num_inputs: p.
        num_hidden: H, at least K - 1.
        num_classes: K.
        num_samples: n.
        seed: of all random numbers.

    Raises:
        ValueError: fewer hidden units than K - 1, or as of `softmax_regression`.

    Example:
        >>> factored_softmax(5, 4, 3, num_samples=500).learning_coefficient
        5.0
    """
    rows = num_classes - 1
    if num_hidden < rows:
        raise ValueError(f"num_hidden={num_hidden}: must be at least num_classes - 1 = {rows}")
    generator = torch.Generator().manual_seed(seed)
    inputs, labels = _labelled(num_inputs, num_classes, num_samples, generator)
    product = fit_softmax(inputs, labels, num_classes)  # (K - 1, p)
    random = torch.randn(num_hidden, rows, generator=generator, dtype=torch.float64)
    columns, _ = torch.linalg.qr(random)
    second = columns.T  # orthonormal rows, (K - 1, H)
    other = torch.randn(num_hidden, num_inputs, generator=generator, dtype=torch.float64)
    unseen = other - columns @ (second @ other)  # second @ unseen = 0
    first_layer = nn.Linear(num_inputs, num_hidden, bias=False)
    second_layer = nn.Linear(num_hidden, rows, bias=False)
    body = nn.Sequential(first_layer, second_layer)
    with torch.no_grad():
        first_layer.weight.copy_(columns @ product + unseen / num_inputs**0.5)
        second_layer.weight.copy_(second)
    return GroundTruth(
        name=f"softmax, {num_inputs} inputs, {num_hidden} hidden, {num_classes} classes, factored",
        model=FixedLastLogit(body),
        inputs=inputs,
        targets=labels,
        learning_coefficient=rows * num_inputs / 2,
        loss_fn=cross_entropy,
        kind=f"{KIND}, factored",
    )


def _labelled(
    num_inputs: int,
    num_classes: int,
    num_samples: int,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Return standard normal inputs (n, p) and labels (n,) drawn from a random softmax regression."""
    if num_classes < 2:
        raise ValueError(f"num_classes={num_classes}: must be at least 2")
    inputs = correlated_inputs(num_samples, num_inputs, 1.0, generator)
    slopes = torch.randn(num_inputs, num_classes, generator=generator) / num_inputs**0.5
    probabilities = (inputs @ slopes).softmax(1)
    labels = torch.multinomial(probabilities, 1, generator=generator)
    return inputs, labels[:, 0]


def fit_softmax(
    inputs: Tensor,
    labels: Tensor,
    num_classes: int,
) -> Tensor:
    """Return the weights (K - 1, p) of greatest likelihood in float64, with a last logit of zero, by Newton's method.

    Raises:
        ValueError: there is no maximum to be found.
    """
    rows = num_classes - 1
    wide = inputs.double()
    wanted = nn.functional.one_hot(labels, num_classes)[:, :rows].double()
    weights = torch.zeros(rows, wide.shape[1], dtype=torch.float64)
    for _ in range(_NEWTON_STEPS):
        logits = nn.functional.pad(wide @ weights.T, (0, 1))
        probabilities = logits.softmax(1)[:, :rows]  # (n, K - 1)
        gradient = (probabilities - wanted).T @ wide / len(wide)  # (K - 1, p)
        hessian = _softmax_hessian(wide, probabilities)
        step = torch.linalg.lstsq(hessian, gradient.reshape(-1, 1)).solution
        weights = weights - step.view_as(weights)
        if step.abs().max() < _LAST_STEP:
            return weights
    raise ValueError(f"num_samples={len(inputs)}: the likelihood has no maximum; take more samples or another seed")


def _softmax_hessian(inputs: Tensor, probabilities: Tensor) -> Tensor:
    """Return the Hessian of the mean cross-entropy by the weights, ((K - 1) p, (K - 1) p)."""
    num_samples, rows = probabilities.shape
    blocks = []
    for row in range(rows):
        of_row = []
        for column in range(rows):
            same = float(row == column)
            weight = probabilities[:, row] * (same - probabilities[:, column])  # (n,)
            of_row.append((inputs * weight[:, None]).T @ inputs / num_samples)
        blocks.append(torch.cat(of_row, dim=1))
    return torch.cat(blocks)
