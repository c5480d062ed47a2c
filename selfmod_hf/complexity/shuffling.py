"""How minibatches of shuffled passes act on a chain, beside independent ones.

A pass has m minibatches of B of the n samples. Two of them have no sample in common, so that their noises have the
correlation r = -B / (n - B). If the passes take all samples, the noises of a pass add up to zero. Else some are left
over, and a part of the noise stays. It is the same in all passes that have the same blocks (`PartitionedMinibatches`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from .random_streams import PASSES_PER_PARTITION

_LONGEST = 2.0  # ε a


@dataclass(frozen=True)
class Shuffling:
    """Hold how minibatches are drawn.

    Attributes:
        steps: m, of a pass.
        correlation: r, of the noises of two minibatches of one pass.
        passes: with the same blocks, one after another.
    """

    steps: int
    correlation: float
    passes: int = 1

    @classmethod
    def of(cls, batch_size: int, num_samples: int, *, partitioned: bool) -> Shuffling:
        """Return how an estimate's minibatches are drawn.

        Args:
            batch_size: B, at most n.
            num_samples: n.
            partitioned: whether several passes have the same blocks, as with a control variate.
        """
        steps = max(1, num_samples // batch_size)
        if steps == 1:  # each step draws a block of its own
            return cls(1, 0.0)
        correlation = -batch_size / (num_samples - batch_size)
        return cls(steps, correlation, PASSES_PER_PARTITION if partitioned else 1)

    def share(self, fast: float, slow: float) -> float:
        """Return the heating as a share of that by independent minibatches.

        The deviations of the blocks from their mean add up to zero in each pass. A chain that is slower than a pass
        does not see them. It does see the mean of the blocks, the longer the same blocks are taken.

        Args:
            fast: ρ of the fastest direction, the correlation from one step to the next. NaN: not known.
            slow: ρ of a mean direction. NaN: not known.

        Example:
            >>> whole = Shuffling.of(50, 500, partitioned=False)
            >>> round(whole.share(0.01, 0.01), 2), round(whole.share(0.9999, 0.9999), 2)
            (1.0, 0.0)
        """
        of_mean = max(0.0, 1 + (self.steps - 1) * self.correlation) / self.steps  # variance of the mean of the blocks
        if math.isnan(fast):
            return max(1.0, of_mean * self.steps * self.passes)
        if math.isnan(slow):
            slow = fast
        of_deviations = (1 - self.correlation) * (1 - _growth(fast, self.steps) / self.steps)
        return max(0.0, of_deviations + of_mean * _growth(slow, self.steps * self.passes))

    def lag(self, step: float, momentum: float) -> float:
        """Return how far a draw has followed the other minibatches of its pass: 0 not at all, 1 completely.

        It is the mean over the places of a pass of y, the answer of a direction to a force that began with the pass,
        over its answer in the long run. By the steps of `samplers/sghmc.py`, which are those of SGLD at c = 0,
        y' = y + c (y - y before) + (ε a/2) (1 + c) (1 - y).

        Args:
            step: ε a of the direction. From 2 on a direction is said to follow as one of 2 does, because the answer
                grows without end from 4 on.
            momentum: c.
        """
        from scipy.signal import lfilter  # slow to import

        push = min(step, _LONGEST) / 2 * (1 + momentum)
        answers = lfilter([0, push], [1, push - 1 - momentum, momentum], np.ones(self.steps))
        return float(answers.mean())


def _growth(decay: float, steps: int) -> float:
    """Return the variance by a noise that stays the same for some steps, over that by a new one at each step.

    Args:
        decay: ρ. From 1 on, the chain keeps all of the noise.
        steps: with the same noise.
    """
    if decay >= 1:
        return float(steps)
    place = np.arange(steps)  # of the draw among those steps
    partial = (1 - decay**place) / (1 - decay)
    complete = (1 - decay**steps) / (1 - decay)
    before = decay ** (2 * place) * complete**2 / (1 - decay ** (2 * steps))
    return (1 - decay**2) * float(np.mean(partial**2 + before))
