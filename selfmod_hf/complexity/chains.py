"""Run chains around trained networks: the groups x chains of a piece as one stacked computation."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..stacking import part_of
from .acceptance import acceptance_probability
from .chain_state import State, put_back, take, take_tuple, tuple_of
from .control_variate import ControlVariate
from .draw_record import DrawRecord, ProbeStep
from .pieces import Group, Piece, Run
from .random_streams import DECISIONS, Minibatches, Noise, PartitionedMinibatches
from .samplers import SAMPLERS, Dynamics, Preconditioner, join_preconditioners, mala
from .thermometer import Thermometer, num_columns
from .traces import Traces

_LANGEVIN_CHECKS = 25  # steps per chain with a Metropolis acceptance
_ADAPTATIONS = 25  # steps per chain with a second minibatch, for the control variate. Those of the burn-in are taken
_LEAST_BETWEEN_ADAPTATIONS = 10  # steps

Step = Callable[..., tuple[Tensor, Tensor]]  # `losses_and_gradients` or its replay


def run_piece(  # noqa: PLR0913 - the piece, its callers, and where it is
    run: Run,
    piece: Piece,
    step: Step,
    probe_step: ProbeStep,
    draws: range,
    state: State | None,
) -> tuple[Traces, State]:
    """Run the chains of a piece for some draws. Return their traces, and the state of the chains after them.

    Args:
        run: the run.
        piece: the groups and chains.
        step: the piece's own caller of its replay.
        probe_step: its own caller of the replay of the probes.
        draws: numbers of the draws.
        state: of the chains before them. None: at w*.
    """
    settings = run.settings
    block = _Block(run, piece, step)
    record = DrawRecord(run, piece, probe_step, len(draws))
    block.begin(state, run.batch_size, record)
    every = max(1, settings.num_draws // _LANGEVIN_CHECKS)
    adapt_every = max(_LEAST_BETWEEN_ADAPTATIONS, settings.num_draws // _ADAPTATIONS)
    for t, draw in enumerate(draws):
        batch = block.minibatches.next()
        position = block.state.position
        if block.known_losses is None:
            block.evaluate(batch, position, record.losses[t], block.gradient)
        else:  # of the decision before
            record.losses[t] = block.known_losses
        record.baseline[t] = block.baseline(batch)
        record.keep_probes(t, position, block.own, block.common)
        if block.variate is not None:
            if draw < settings.burnin and draw % adapt_every == adapt_every // 2:
                block.adapt_variate()
            record.correction[t] = block.correct()
        if block.thermometer is not None:
            record.heat[t] = block.thermometer.measure(draw, block)
        if block.sampler.langevin and draw % every == every // 2:
            acceptance = block.advance_with_acceptance(batch, record.losses[t])
            record.accepted.append(acceptance)
        elif block.sampler.decides:
            acceptance = block.advance_or_stay(record.losses[t], adapts=draw < settings.burnin)
            if draw >= settings.burnin:
                record.accepted.append(acceptance)
        else:
            block.advance()
        record.report(t)

    position = block.state.position.view(len(piece.groups), len(piece.chains), -1)  # (G, C, P)
    moved = position - block.anchor[:, None]
    return record.traces(moved), block.take()


class _Block:
    """Hold the state of one piece's chains, R = G x C rows, and run one step of them."""

    def __init__(self, run: Run, piece: Piece, step: Step) -> None:
        problem = run.problem
        settings = run.settings
        groups = [run.groups[place] for place in piece.groups]
        self.chains = [run.chains[place] for place in piece.chains]
        self.problem = problem
        self.step = step
        self.num_groups = len(groups)
        self.num_chains = len(self.chains)
        members = [group.member for group in groups]
        every_member = list(range(len(problem.stack)))
        self.one_group_each = members == every_member
        self.member_ids = torch.tensor(members, device=problem.device)  # (G,)
        self.anchor = problem.anchors[self.member_ids]  # (G, P)

        anchor = self._of_rows(self.anchor)  # (R, P)
        fisher = None
        if run.fisher is not None:
            fisher = self._of_rows(run.fisher[self.member_ids])  # (R, P)
        preconditioner = None
        if run.preconditioners is not None:
            of_groups = [run.preconditioners[group.member, group.nbeta, group.localization] for group in groups]
            preconditioner = join_preconditioners(of_groups, self.num_chains)
        self.dynamics = _dynamics(groups, self.num_chains, anchor, fisher, preconditioner)
        self.sampler = SAMPLERS[settings.sampler]
        self.options = settings.options
        start = self._of_rows(self.anchor)
        if run.starts is not None:
            starts = run.starts[list(piece.groups)]  # (G, C, P)
            start = starts[:, list(piece.chains)].flatten(0, 1).to(anchor)
        self.state = self.sampler.init(start, **self.options)
        self.gradient = torch.empty_like(anchor)  # (R, P)

        streams = [group.stream for group in groups]
        rows = list(itertools.product(streams, self.chains))
        self.noise = Noise(settings.seed, rows, anchor)
        self.decisions = Noise(settings.seed, rows, anchor.new_empty(len(anchor), 2), DECISIONS)
        self.known_losses: Tensor | None = None  # (R,), at the chains' positions, with `gradient`

        self._set_minibatches(run, members)
        self.thermometer: Thermometer | None = None
        if num_columns(settings) > 0:
            self.thermometer = Thermometer(settings, anchor)

        # values that do not move: of each group, (G, *shape), or common to all if there is one network
        self.own: dict[str, Tensor] = {}
        self.common: dict[str, Tensor] = {}
        if len(problem.stack) == 1:
            self.common = problem.fixed_of(0)
            return
        for name, values in problem.fixed.items():
            self.own[name] = values[self.member_ids]

    def begin(self, state: State | None, batch_size: int, record: DrawRecord) -> None:
        """Give the chains a state, or leave them at w* if there is none.

        A replay leaves its first two calls to the function itself, whose sums are in another order. Chains that go on
        make these calls beforehand, and so have the bits of chains that were never stopped.
        """
        if state is not None:
            self.put_back(state)
        elif self.variate is None:
            return
        batch = None
        if batch_size < self.problem.num_samples:
            batch = torch.zeros(self.num_chains, batch_size, dtype=torch.int64, device=self.problem.device)
        losses = self.gradient.new_empty(len(self.gradient))
        for _ in range(2):
            self.evaluate(batch, self.state.position, losses, self.gradient)
            record.keep_probes(0, self.state.position, self.own, self.common)

    def take(self) -> State:
        """Return the state of the chains."""
        state = take_tuple(self.state, "sampler") | take(self.noise, "noise") | take(self.minibatches, "minibatches")
        if self.variate is not None:
            state |= take(self.variate, "variate")
        if self.thermometer is not None:
            state |= take(self.thermometer, "thermometer")
        if self.sampler.decides:
            state |= take(self.decisions, "decisions")
        return state

    def put_back(self, state: State) -> None:
        """Give the chains the state that `take` returned."""
        self.state = tuple_of(self.state, "sampler", state)
        put_back(self.noise, "noise", state)
        put_back(self.minibatches, "minibatches", state)
        if self.variate is not None:
            put_back(self.variate, "variate", state)
        if self.thermometer is not None:
            put_back(self.thermometer, "thermometer", state)
        if self.sampler.decides:
            put_back(self.decisions, "decisions", state)

    def _set_minibatches(self, run: Run, members: Sequence[int]) -> None:
        """Set the source of minibatches and, if one is used, the control variate."""
        problem = self.problem
        data = (problem.num_samples, run.batch_size, problem.device)
        self.takes_all_data = run.batch_size == problem.num_samples
        chains = self.chains
        self.shares_minibatches = run.settings.shared_minibatches
        if self.shares_minibatches:
            chains = [0]  # its stream is that of all
        self.minibatches: Minibatches | PartitionedMinibatches
        self.variate: ControlVariate | None = None
        self.noise_at_anchor = torch.empty(0)  # e of this step, (G, C, P) or (1, C, P)
        self.raw: Tensor | None = None  # gradient of this step without the control variate
        if not run.settings.corrects(problem.num_samples):
            self.minibatches = Minibatches(run.settings.seed, chains, *data)
            return
        minibatches = PartitionedMinibatches(run.settings.seed, chains, *data)
        self.minibatches = minibatches
        networks = sorted(set(members))
        self._first_groups = [members.index(network) for network in networks]
        self.variate = ControlVariate(
            minibatches,
            self.num_chains,
            problem.anchor_gradients[networks],
            network_of_group=[networks.index(member) for member in members],
            keeps_block_gradients=run.keeps_block_gradients,
        )

    def _gradients_at_anchor(self, batch: Tensor) -> Tensor:
        """Return the gradients at w* of each network on minibatches (C, B), as (D, C, P). Shared ones have C = 1."""
        anchor = self.dynamics.anchor
        losses = anchor.new_empty(len(anchor))
        gradients = torch.empty_like(anchor)
        self.evaluate(batch, anchor, losses, gradients)
        by_group = gradients.view(self.num_groups, self.num_chains, -1)
        return by_group[self._first_groups, : len(batch)]

    def adapt_variate(self) -> None:
        """Adapt the control variate with a second minibatch at the chains' positions."""
        variate = self.variate
        minibatches = self.minibatches
        assert variate is not None
        assert isinstance(minibatches, PartitionedMinibatches)
        places = minibatches.other_places()
        losses = self.gradient.new_empty(len(self.gradient))
        gradients = torch.empty_like(self.gradient)
        self.evaluate(minibatches.blocks[places], self.state.position, losses, gradients)
        difference = torch.sub(self.gradient, gradients)
        noise = variate.noise(minibatches.places, self._gradients_at_anchor)
        other_noise = variate.noise(places, self._gradients_at_anchor)
        of_rows = variate.of_rows(noise - other_noise)
        variate.adapt(self.in_own_units(difference), self.in_own_units(of_rows))

    def in_own_units(self, gradients: Tensor) -> Tensor:
        """Return gradients (R, P) by the coordinates in which the sampler moves."""
        if self.sampler.scale is None:
            return gradients
        return self.sampler.scale(gradients, self.state, self.dynamics, **self.options)

    def second_gradient(self) -> Tensor:
        """Return the gradient (R, P) on minibatches that do not move the chains. Of all data there is only one."""
        if self.takes_all_data:
            return self.gradient
        losses = self.gradient.new_empty(len(self.gradient))
        gradients = torch.empty_like(self.gradient)
        minibatches = self.minibatches
        if isinstance(minibatches, Minibatches):
            self.evaluate(minibatches.others(), self.state.position, losses, gradients)
            return gradients
        places = minibatches.other_places()
        self.evaluate(minibatches.blocks[places], self.state.position, losses, gradients)
        assert self.variate is not None
        return self.variate.correct_(gradients, self.variate.noise(places, self._gradients_at_anchor))

    def correct(self) -> Tensor:
        """Correct the gradient of this step, and return the correction of its loss, (R,)."""
        variate = self.variate
        minibatches = self.minibatches
        assert variate is not None
        assert isinstance(minibatches, PartitionedMinibatches)
        noise = variate.noise(minibatches.places, self._gradients_at_anchor)
        self.noise_at_anchor = noise
        if self.sampler.needs_raw_gradient:
            self.raw = self.gradient.clone()
        variate.correct_(self.gradient, noise)
        moved = self.state.position - self.dynamics.anchor
        return variate.along(noise, moved)[:, 0].neg_()

    def _of_rows(self, values: Tensor) -> Tensor:
        """Return values of groups, (G, P), for all rows, (R, P)."""
        return values.repeat_interleave(self.num_chains, dim=0)

    def baseline(self, batch: Tensor | None) -> Tensor:
        """Return the mean loss of w* on the minibatches, (G, C), or (G, 1) if the chains share them."""
        losses = self.problem.anchor_losses  # (n, M)
        if batch is None:
            means = losses.mean(0, dtype=torch.float64)  # (M,)
            means = means.expand(self.num_chains, -1)  # (C, M)
        else:
            chosen = part_of(losses, batch)  # (C, B, M)
            means = chosen.mean(1, dtype=torch.float64)  # (C, M)
        by_network = means.T  # (M, C)
        if self.one_group_each:
            return by_network
        return by_network[self.member_ids]

    def evaluate(self, batch: Tensor | None, position: Tensor, losses: Tensor, gradient: Tensor) -> None:
        """Write the losses (R,) and gradients (R, P) at the positions (R, P). See `pieces._shape_of_a_step`."""
        parts: list[tuple[slice, list[Tensor]]] = []  # (rows, samples)
        if batch is None:
            parts.append((slice(None), []))
        elif self.shares_minibatches:
            parts.append((slice(None), [batch[0]]))
        elif self.num_groups == 1:
            parts.append((slice(None), [batch]))
        else:
            for c in range(self.num_chains):
                rows_of_chain = slice(c, None, self.num_chains)
                parts.append((rows_of_chain, [batch[c]]))
        inputs, targets = self.problem.inputs, self.problem.targets
        for rows, samples in parts:
            losses[rows], gradient[rows] = self.step(
                position[rows],
                samples,
                inputs,
                targets,
                self.own,
                self.common,
            )

    def advance(self) -> None:
        """Move all rows by a step with new noise."""
        noise = self.noise.draw()
        raw = {}
        if self.raw is not None:
            raw["raw"] = self.raw
        with torch.no_grad():
            self.state = self.sampler.update(
                self.state,
                self.gradient,
                noise,
                self.dynamics,
                **raw,
                **self.options,
            )

    def advance_with_acceptance(self, batch: Tensor | None, old_loss: Tensor) -> Tensor:
        """Advance, and return the step's Metropolis acceptance probability on the same minibatch, (R,).

        With a control variate, it is that of the corrected loss, whose gradient drives the chain.
        """
        dynamics = self.dynamics
        old = self.state.position.clone()  # w, (R, P)
        old_gradient = self.gradient.clone()
        self.advance()
        new = self.state.position  # w', (R, P)
        new_gradient = torch.empty_like(self.gradient)
        new_loss = torch.empty_like(old_loss)
        self.evaluate(batch, new, new_loss, new_gradient)
        loss_change = (new_loss - old_loss)[:, None]  # (R, 1)
        if self.variate is not None:
            self.variate.correct_(new_gradient, self.noise_at_anchor)
            along = self.variate.along(self.noise_at_anchor, new - old)
            loss_change -= self.variate.coefficient * along
        return acceptance_probability(dynamics, old, new, old_gradient, new_gradient, loss_change)

    def advance_or_stay(self, old_loss: Tensor, adapts: bool) -> Tensor:
        """Take or reject a step with all data, and return the probability to take it, (R,).

        Args:
            old_loss: at the chains' positions, (R,).
            adapts: whether the chains adapt their step sizes.
        """
        state = self.state
        uniform = torch.special.ndtr(self.decisions.draw())  # (R, 2)
        dynamics = mala.with_step(state, self.dynamics, uniform[:, :1])
        noise = self.noise.draw()
        with torch.no_grad():
            proposal = self.sampler.update(state, self.gradient, noise, dynamics, **self.options)
        new_gradient = torch.empty_like(self.gradient)
        new_loss = torch.empty_like(old_loss)
        self.evaluate(None, proposal.position, new_loss, new_gradient)
        loss_change = (new_loss - old_loss)[:, None].to(new_gradient)  # (R, 1)
        old = state.position.clone()
        probability = acceptance_probability(dynamics, old, proposal.position, self.gradient, new_gradient, loss_change)
        probability = probability.nan_to_num(0.0)  # a proposal without a finite loss is rejected
        chosen = uniform[:, 1:] < probability[:, None]
        adapted_by = probability[:, None] if adapts else None
        self.state = mala.decide(state, proposal, chosen, adapted_by, **self.options)
        self.gradient = torch.where(chosen, new_gradient, self.gradient)
        self.known_losses = torch.where(chosen[:, 0], new_loss, old_loss)
        return probability


def _dynamics(
    groups: Sequence[Group],
    chains: int,
    anchor: Tensor,
    fisher: Tensor | None,
    preconditioner: Preconditioner | None,
) -> Dynamics:
    """Return the constants of all rows. A constant is a number if all groups share it, because that is faster."""
    constants: dict[str, float | Tensor] = {}
    for name in ("step_size", "localization", "nbeta"):
        values = [getattr(group, name) for group in groups]
        first = values[0]
        if values.count(first) == len(values):
            constants[name] = first
            continue
        of_groups = torch.tensor(values, dtype=torch.float64)  # (G,)
        of_rows = of_groups.repeat_interleave(chains)
        column = of_rows[:, None]  # (R, 1)
        constants[name] = column.to(anchor)
    return Dynamics(anchor, fisher=fisher, preconditioner=preconditioner, **constants)
