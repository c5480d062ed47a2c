"""The posterior of a deep linear network, sampled one layer at a time from its exact normal distribution."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..diagnostics import standard_error

Array = NDArray[np.float64]


class DeepLinearMean:
    """Compute the posterior mean of a deep linear network with square loss by Gibbs sampling.

    Given all other layers, layer k has a normal posterior. Its precision is nβ (B C B^T) ⊗ (A^T A) + γ, with A the
    product of the layers behind it, B that of the layers before it, and C the inputs' second moments. So each layer is
    drawn exactly, there is no step size, and the only error is that of the mean over the draws. Numbers are float64.
    Noise that is orthogonal to the inputs changes nothing. One that is not moves the minimum away from w*.

    Args:
        layers: weights of the layers at w*, (H_k, H_{k-1}).
        moments: C, (H_0, H_0).
        num_chains: number of independent chains.
        num_sweeps: updates of all layers. The first fifth is left out.
        seed: of the draws.
    """

    def __init__(
        self,
        layers: Sequence[Array],
        moments: Array,
        *,
        num_chains: int = 32,
        num_sweeps: int = 1500,
        seed: int = 0,
    ) -> None:
        self.layers = list(layers)
        self.moments = moments
        self.num_chains = num_chains
        self.num_sweeps = num_sweeps
        self.seed = seed
        product = np.eye(len(moments))
        for layer in self.layers:
            product = layer @ product
        self.product = product

    @classmethod
    def of(cls, weights: Sequence[Tensor], inputs: Tensor) -> DeepLinearMean:
        """Return the mean of a network with these weights, input to output, on these inputs, (n, H_0)."""
        layers = [weight.detach().double().numpy() for weight in weights]
        wide = inputs.double().numpy()
        return cls(layers, wide.T @ wide / len(wide))

    def __call__(self, nbeta: float, localization: float) -> float:
        return self.with_error(nbeta, localization)[0]

    def with_error(self, nbeta: float, localization: float) -> tuple[float, float]:
        """Return the mean and its standard error.

        Args:
            nbeta: nβ.
            localization: γ, positive.
        """
        energies = self.energies(nbeta, localization)
        kept = energies[:, self.num_sweeps // 5 :]
        return float(kept.mean()), standard_error(kept)

    def energies(self, nbeta: float, localization: float) -> Array:
        """Return nβ (L - L*) after each sweep, (chains, sweeps)."""
        if localization <= 0:
            raise ValueError(f"localization={localization}: must be positive")
        generator = np.random.default_rng(self.seed)
        chains = [np.repeat(layer[None], self.num_chains, axis=0) for layer in self.layers]
        energies = np.empty((self.num_chains, self.num_sweeps))
        for sweep in range(self.num_sweeps):
            for place in range(len(chains)):
                chains[place] = self._draw(chains, place, nbeta, localization, generator)
            difference = _product(chains, len(self.moments)) - self.product
            weighted = difference @ self.moments
            energies[:, sweep] = nbeta / 2 * (weighted * difference).sum((1, 2))
        return energies

    def _draw(
        self,
        chains: list[Array],
        place: int,
        nbeta: float,
        localization: float,
        generator: np.random.Generator,
    ) -> Array:
        """Return new weights of the layer at `place`, (chains, H_k, H_{k-1}), given the others."""
        before = _product(chains[:place], len(self.moments))  # B
        behind = _product(chains[place + 1 :], len(self.layers[place]))  # A
        seen = before @ self.moments
        behind_turned = behind.transpose(0, 2, 1)
        outer_values, outer = np.linalg.eigh(behind_turned @ behind)
        inner_values, inner = np.linalg.eigh(seen @ before.transpose(0, 2, 1))
        curvatures = outer_values[:, :, None] * inner_values[:, None]
        precision = nbeta * curvatures + localization  # (chains, H_k, H_{k-1}), in the axes of both
        of_data = nbeta * behind_turned @ self.product @ seen.transpose(0, 2, 1)
        pull = of_data + localization * self.layers[place]
        centre = outer.transpose(0, 2, 1) @ pull @ inner / precision
        noise = generator.standard_normal((self.num_chains, *self.layers[place].shape))
        drawn = centre + noise / np.sqrt(precision)
        return outer @ drawn @ inner.transpose(0, 2, 1)


def _product(layers: Sequence[Array], size: int) -> Array:
    """Return the product of layers, the last one leftmost, (chains, outputs, inputs). `size` is for no layers."""
    product = np.eye(size)[None]
    for layer in layers:
        product = layer @ product
    return product
