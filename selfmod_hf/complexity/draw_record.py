"""Record the draws of a piece while it runs: losses, baselines, corrections, acceptance and the losses of probes."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..stacking import Values
from .pieces import Piece, Run
from .thermometer import num_columns
from .traces import Array, Traces

_SHOWN_ESTIMATES = 40  # per run, for people who watch

ProbeStep = Callable[..., Tensor]  # the replay of `losses_of_probes`


class DrawRecord:
    """Hold what T draws of R = G x C chains give.

    Args:
        run: the run.
        piece: the groups and chains.
        probe_step: losses of the probes at positions.
        num_draws: T.

    Attributes:
        losses: (T, R).
        baseline: (T, G, C).
        correction: (T, R).
        heat: (T, R, h), see `thermometer.py`.
        accepted: acceptance probabilities, (R,) each.
    """

    def __init__(self, run: Run, piece: Piece, probe_step: ProbeStep, num_draws: int) -> None:
        problem = run.problem
        self._run = run
        self._piece = piece
        self._probe_step = probe_step
        self._shape = (len(piece.groups), len(piece.chains))
        rows = math.prod(self._shape)
        in_double = torch.empty(0, device=problem.device, dtype=torch.float64)
        self.losses = in_double.new_empty(num_draws, rows)
        self.baseline = in_double.new_empty(num_draws, *self._shape)
        self.correction = in_double.new_zeros(num_draws, rows)
        self.heat = in_double.new_full((num_draws, rows, num_columns(run.settings)), math.nan)
        self.accepted: list[Tensor] = []
        self._probe_losses = torch.empty(num_draws, rows, problem.num_probes, dtype=torch.float32)
        self._show_every = max(1, run.settings.num_draws // _SHOWN_ESTIMATES)

    def keep_probes(self, draw: int, position: Tensor, own: Values, common: Values) -> None:
        """Compute the losses of the probes at the positions (R, P), and keep them as those of a draw."""
        probes = self._run.problem.probes
        if probes is None:
            return
        inputs, targets = probes
        losses = self._probe_step(position, inputs, targets, own, common)
        self._probe_losses[draw].copy_(losses)

    def report(self, draw: int) -> None:
        """Report a draw as done, and now and then the mean RLCT of the second half of the draws so far."""
        run = self._run
        run.count(math.prod(self._shape))
        if not run.count.wants_estimate or draw % self._show_every != self._show_every - 1:
            return
        half = slice(draw // 2, draw + 1)
        above = self.losses[half] + self.correction[half]
        means = above.mean(0).view(self._shape) - self.baseline[half].mean(0)  # (G, C)
        estimates = []
        for place, group_means in zip(self._piece.groups, means, strict=True):
            nbeta = run.groups[place].nbeta
            estimates.append(nbeta * float(group_means.mean()))
        run.count.show_estimate(id(self._piece), sum(estimates) / len(estimates))

    def traces(self, moved: Tensor) -> Traces:
        """Return the traces.

        Args:
            moved: w - w* after the last draw, (G, C, P).
        """
        groups, chains = self._shape
        rows = groups * chains
        acceptance = torch.full((rows,), math.nan)
        if self.accepted:
            acceptance = torch.stack(self.accepted).mean(0)
        by_row = self._probe_losses.transpose(0, 1)  # (R, T, q)
        return Traces(
            losses=_array(self.losses.T.reshape(groups, chains, -1)),
            baseline=_array(self.baseline.permute(1, 2, 0)),
            distances=_array(moved.norm(dim=2)),
            acceptance=_array(acceptance.view(groups, chains)),
            probe_losses=by_row.unflatten(0, self._shape).numpy(),
            correction=_array(self.correction.T.reshape(groups, chains, -1)),
            heat=_array(self.heat.transpose(0, 1).unflatten(0, self._shape)),
        )


def _array(tensor: Tensor) -> Array:
    """Return a tensor as an array of float64."""
    return tensor.double().cpu().numpy()
