"""Remove the noise of minibatches near w* from gradients and losses.

The gradient of a minibatch B is that of all data plus noise. At w* the noise is known, e = g_B(w*) - g(w*). Near w* it
is nearly the same, so that a control variate removes most of it:

    g_B(w) - k e                                           drives the chain
    L_B(w) - L_B(w*) - e.(w - w*)                          is what the draw adds to the estimate, over nβ

(Johnson, Zhang 2013, "Accelerating Stochastic Gradient Descent using Predictive Variance Reduction"; Baker, Fearnhead,
Fox, Nemeth 2019, "Control Variates for Stochastic Gradient MCMC", with k = 1.) Neither changes a mean, because e has
none. The correction of the loss also removes a bias: a draw was pushed by the other minibatches of its pass, so the
noise of its own is not independent of it.

The coefficient k, from 0 to 1, is that of least noise. It is 1 near w* and falls where the noise at w has little to do
with that at w*. Each row measures its own in its burn-in: the gradients of two minibatches at one w differ by Δg, those
at w* by Δe, and k is the sum of Δg.Δe over the sum of |Δe|².
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .chain_state import Stateful
from .random_streams import PartitionedMinibatches

GradientsAtAnchor = Callable[[Tensor], Tensor]

_MEMORY = 0.8  # of earlier minibatches in the coefficient, at every new pair


class ControlVariate(Stateful):
    """Hold the noise at w* of the minibatches of one piece, G groups x C chains of D different networks.

    Args:
        minibatches: of the chains, or of one if they share them. The noise then has C = 1 below.
        num_chains: C.
        anchor_gradients: g(w*), (D, P).
        network_of_group: place of each group's network among the D.
        keeps_block_gradients: whether to keep the noise of every block.
    """

    STATE = ("coefficient", "_products", "_squares")

    def __init__(
        self,
        minibatches: PartitionedMinibatches,
        num_chains: int,
        anchor_gradients: Tensor,
        network_of_group: Sequence[int],
        keeps_block_gradients: bool,
    ) -> None:
        self._minibatches = minibatches
        self._anchor_gradients = anchor_gradients[:, None]  # (D, 1, P)
        self._num_chains = num_chains
        self._keeps = keeps_block_gradients
        self._kept_for: Tensor | None = None  # the partition of the noise that is kept
        self._kept = anchor_gradients.new_empty(0)  # (D, S, P)
        groups = len(network_of_group)
        networks = len(anchor_gradients)
        self._repeat: Tensor | None = None
        if networks not in (1, groups):
            self._repeat = torch.tensor(network_of_group, device=anchor_gradients.device)
        rows = groups * self._num_chains
        self.coefficient = anchor_gradients.new_ones(rows, 1)  # k
        self._products = anchor_gradients.new_zeros(rows, 1)  # sum of Δg.Δe
        self._squares = anchor_gradients.new_zeros(rows, 1)  # sum of |Δe|²

    def noise(self, places: Tensor, gradients_at_anchor: GradientsAtAnchor) -> Tensor:
        """Return e of a block for each chain, (G, C, P), or (1, C, P) if all groups have one network.

        Args:
            places: of the blocks, (C,).
            gradients_at_anchor: minibatches (C, B) -> gradients at w*, (D, C, P). It is no attribute, because a circle
                of references would keep the memory of chains that have ended.
        """
        if self._keeps:
            if self._kept_for is not self._minibatches.blocks:
                self._keep(gradients_at_anchor)
            noise = self._kept.index_select(1, places)
        else:
            batch = self._minibatches.blocks[places]
            noise = gradients_at_anchor(batch).sub_(self._anchor_gradients)
        if self._repeat is None:
            return noise
        return noise[self._repeat]

    def _keep(self, gradients_at_anchor: GradientsAtAnchor) -> None:
        """Compute the noise of every block of the partition, as many blocks at once as a step has."""
        blocks = self._minibatches.blocks
        at_once = self._minibatches.num_chains
        count = len(blocks)
        networks, _, size = self._anchor_gradients.shape
        if self._kept_for is None:
            self._kept = self._anchor_gradients.new_empty(networks, count, size)
        for start in range(0, count, at_once):
            places = torch.arange(start, start + at_once, device=blocks.device)
            gradients = gradients_at_anchor(blocks[places % count])
            used = min(at_once, count - start)
            self._kept[:, start : start + used] = gradients[:, :used]
        self._kept.sub_(self._anchor_gradients)
        self._kept_for = blocks

    def correct_(self, gradient: Tensor, noise: Tensor) -> Tensor:
        """Subtract k e from gradients (R, P), in place."""
        factors = self.coefficient.view(-1, self._num_chains, 1)
        by_group = gradient.view(len(factors), self._num_chains, -1)  # (G, C, P)
        by_group.addcmul_(noise, factors, value=-1)
        return gradient

    def along(self, noise: Tensor, moved: Tensor) -> Tensor:
        """Return e.m of each row, (R, 1), for m of shape (R, P)."""
        by_group = moved.view(-1, self._num_chains, moved.shape[1])  # (G, C, P)
        products = (by_group * noise).sum(2)  # (G, C)
        return products.view(-1, 1)

    def of_rows(self, noise: Tensor) -> Tensor:
        """Return noise (G, C, P) or (1, C, P) for each row, (R, P)."""
        groups = len(self.coefficient) // self._num_chains
        return noise.expand(groups, self._num_chains, -1).reshape(-1, noise.shape[2])

    def adapt(self, gradients: Tensor, noise: Tensor) -> None:
        """Take a pair of minibatches into the coefficient.

        Args:
            gradients: Δg, (R, P), in the coordinates in which the noise counts.
            noise: Δe, (R, P), in the same.
        """
        product = (gradients * noise).sum(1, keepdim=True)
        square = noise.square().sum(1, keepdim=True)
        self._products = self._products * _MEMORY + product
        self._squares = self._squares * _MEMORY + square
        ratio = self._products / self._squares
        self.coefficient = ratio.nan_to_num(1.0).clamp(0, 1)
