"""A model of known learning coefficient."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from ...stacking import LossFunction
from ..sample_losses import half_squared_error

REFERENCE_LOCALIZATION = 1.0  # γ of the exact value that stands in for λ: a prior of unit width around w*


@dataclass(frozen=True)
class GroundTruth:
    """Hold a model at w*, its data and its λ.

    Attributes:
        name: one line.
        model: at w*, a minimum of the loss on these data.
        inputs: (n, ...).
        targets: (n, ...).
        learning_coefficient: λ.
        loss_fn: a negative log likelihood per sample.
        kind: the kind of model, a row of the tables.
        half: 0 for development, 1 for the final test.
        multiplicity: m, the order of the pole at λ.
        posterior_mean: (nβ, γ) -> the exact mean of nβ (L(w) - L(w*)) under exp(-nβ L(w) - (γ/2) |w - w*|²). None: it
            is not known.
        prior_matters: whether `truth` is that mean at γ = 1, in place of λ. It is for the kinds with models whose mean
            without a prior is far from λ at any practical nβ, or does not exist: m > 1, and deep linear networks of
            less than full rank. Directions that are curved at w* count without the pull, so it is not set for
            regression, however ill conditioned.
    """

    name: str
    model: nn.Module
    inputs: Tensor
    targets: Tensor
    learning_coefficient: float
    loss_fn: LossFunction = half_squared_error
    kind: str = ""
    half: int = 0
    multiplicity: int = 1
    posterior_mean: Callable[[float, float], float] | None = None
    prior_matters: bool = False

    @property
    def num_parameters(self) -> int:
        """Return d."""
        count = 0
        for parameter in self.model.parameters():
            count += parameter.numel()
        return count

    def truth(self, nbeta: float) -> float:
        """Return the value that an estimate without localization should have.

        It is λ. If the prior matters it is the exact posterior mean at this nβ and a localization of 1.

        Args:
            nbeta: nβ of the estimate.
        """
        if self.prior_matters and self.posterior_mean is not None:
            return self.posterior_mean(nbeta, REFERENCE_LOCALIZATION)
        return self.learning_coefficient
