"""Estimate the local learning coefficient by sampling around trained weights.

    llc = nβ ( E[ L(w) ] - L(w*) ),    w ~ exp( -nβ L(w) - (γ/2) ||w - w*||² )

Lau, Furman, Wang, Murfet, Wei, "The Local Learning Coefficient" (arXiv 2308.12108), definition 3.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor, nn

from ..stacking import Batch, readable_names
from .biases import Biases
from .curvature import fisher_diagonal
from .distributed import my_chains
from .foretelling import biases_of_run, llc_trace
from .independence import check_first_draws, check_independent
from .input_checks import check, is_integer
from .minimum import Minimum, at_minima
from .modes import ordinary_tensors
from .pieces import Counter, Group, Run
from .preconditioner import Preconditioners, fewer_directions
from .prepare import check_finite, make_problem
from .problem import Problem, capacity
from .result import NOT_CONVERGED, OK, LLCResult, summarize
from .sampler_settings import AT_ANCHOR, EARLIER, SamplerSettings
from .samplers import SAMPLERS
from .session import Session
from .settings import LLCOptions, LLCSettings, shows_settings
from .status import Facts, diverged_chains, judge
from .traces import Traces

if TYPE_CHECKING:
    from typing_extensions import Unpack

MOST_ROUNDS = 8  # times `num_draws`, for a target of the standard error


@shows_settings(LLCOptions)
def estimate_llc(
    model: nn.Module,
    inputs: Batch,
    targets: Tensor,
    *,
    member: int = 0,
    **settings: Unpack[LLCOptions],
) -> LLCResult:
    """Estimate the local learning coefficient (RLCT) of a trained network.

    All chains run as one stacked computation, each with its own minibatches and noise. The same arguments give the
    same numbers. The number of chains that run at once, and of processes, changes them by rounding only.

    Args:
        model: any module at its trained weights w*. It is not changed. Runs in eval mode.
        inputs: the training set, (n, ...), or a dict of such tensors, passed on by keyword. They have the type of the
            network's arguments. Half precision is converted, like the network.
        targets: (n, ...).
        member: number of this network's noise. `estimate_llc_many` gives its k-th network member k.
        settings: sampler, step size, localization, number of chains and draws, and all others. See `LLCSettings`.

    Raises:
        ValueError: an invalid argument. The message names it, its value and the allowed values. One such
            argument is a model with losses that depend on the other samples of a batch, or on random numbers.

    Example:
        >>> import torch
        >>> from selfmod_hf.complexity import half_squared_error
        >>> x = torch.randn(200, 2)
        >>> result = estimate_llc(torch.nn.Linear(2, 1), x, x[:, :1], loss_fn=half_squared_error, num_draws=40)
        >>> result.loss_trace.shape
        (4, 40)
    """
    chosen = LLCSettings(**settings)
    check("member", member, is_integer(member), "an integer of at least 0")
    problem = make_problem([model], inputs, targets, chosen)
    groups = one_group_each(problem, chosen, [member])
    check_finite(problem)
    with open_session(problem, groups, chosen) as session:
        return sample(session)[0]


@shows_settings(LLCOptions)
def estimate_llc_many(
    models: Sequence[nn.Module],
    inputs: Batch,
    targets: Tensor,
    *,
    members: Sequence[int] | None = None,
    **settings: Unpack[LLCOptions],
) -> list[LLCResult]:
    """Estimate the LLC of M networks of one architecture on the same data, M x C chains stacked.

    Result k equals that of `estimate_llc(models[k], ..., member=k)` to rounding. If the loss of a network is not
    finite, its result is "diverged". The other results do not change.

    Args:
        models: M modules, equal in class and shapes.
        inputs: the training set, shared by all.
        targets: (n, ...).
        members: numbers of the networks' noise, default 0, 1, ... Equal numbers give equal noise.
        settings: as for `estimate_llc`.

    Raises:
        ValueError: an invalid argument, or networks of different architectures.

    Example:
        >>> import torch
        >>> networks, x = [torch.nn.Linear(2, 3), torch.nn.Linear(2, 3)], torch.randn(200, 2)
        >>> results = estimate_llc_many(networks, x, torch.arange(200) % 3, num_draws=40)
        >>> [result.settings.member for result in results]
        [0, 1]
    """
    several = isinstance(models, (Sequence, nn.ModuleList))
    kind = type(models).__name__
    check("models", kind, several, "a list of modules, of one module too")
    check("models", models, len(models) > 0, "one module or more")
    chosen = LLCSettings(**settings)
    check_members(members, len(models))
    problem = make_problem(models, inputs, targets, chosen)
    with open_session(problem, one_group_each(problem, chosen, members), chosen) as session:
        return sample(session)


def check_members(members: Sequence[int] | None, count: int) -> None:
    """Raise a ValueError unless these are numbers of the noise of `count` networks."""
    if members is None:
        return
    ids = list(members)
    check("members", ids, len(ids) == count, f"one number per model, {count}")
    for number in ids:
        check("members", number, is_integer(number), "integers of at least 0")


@dataclass(frozen=True)
class Known:
    """Hold what is known about a problem before chains run.

    Attributes:
        preconditioners: those measured so far. More are added.
        minima: of the networks, if the problem is at them.
        starts: (G, C, P), C the chains of this process. None: all begin at w*.
    """

    preconditioners: Preconditioners
    minima: Sequence[Minimum] = ()
    starts: Tensor | None = None


def one_group_each(
    problem: Problem,
    settings: LLCSettings,
    members: Sequence[int] | None,
) -> list[Group]:
    """Return a group for each network. `members` are the numbers of their noise, by default 0, 1, ..."""
    nbeta = settings.inverse_temperature(problem.num_samples)
    if members is None:
        members = range(len(problem.stack))
    groups = []
    for place, member in enumerate(members):
        group = Group(place, member, settings.step_size, settings.localization, nbeta)
        groups.append(group)
    return groups


@ordinary_tensors()
def open_session(
    problem: Problem, groups: Sequence[Group], settings: LLCSettings, known: Known | None = None
) -> Session:
    """Return a session of the chains of all groups, before their first draw. `with` closes it.

    Args:
        problem: networks, data and loss.
        groups: networks and dynamics.
        settings: of the estimates.
        known: what earlier rounds have found. None: nothing, and `settings.minimize` moves w* first.

    Raises:
        ValueError: a sample's loss depends on the other samples of its batch, or on random numbers.
    """
    if known is None:
        minima: Sequence[Minimum] = ()
        if settings.minimize:
            problem, minima = at_minima(problem, groups)
        known = Known(Preconditioners(problem, settings.seed), minima)
    fits = capacity(problem, settings)
    _check_batch_size(problem, settings)
    check_independent(problem, settings, fits.micro_batch_size)
    run = _run(problem, groups, settings, known.preconditioners)
    run = replace(run, keeps_block_gradients=fits.keeps_block_gradients, starts=known.starts)
    return Session.of(run, fits, known.minima)


@ordinary_tensors()
def sample(session: Session) -> list[LLCResult]:
    """Run the chains of all groups, and return a result for each.

    Under torch.distributed each process runs its share of the chains, and all get all results.

    Raises:
        ValueError: a sample's loss depends on the other samples of its batch, or on random numbers.
    """
    run = session.run
    settings = run.settings
    results = _results(run, session.draw(settings.num_draws))
    while True:
        num_draws = draws_for_target(results, settings)
        if num_draws is None:
            break
        run.count.total = len(run.groups) * len(run.chains) * num_draws
        longer = replace(run, settings=replace(settings, num_draws=num_draws))
        results = _results(longer, session.draw(num_draws))
    for place, result in enumerate(results):
        results[place] = result = _by_target(result, settings.target_standard_error)
        if session.minima:
            own = session.minima[run.groups[place].member]
            results[place] = replace(result, lowered_by=own.lowered, moved_by=own.distance)
    return results


def _run(problem: Problem, groups: Sequence[Group], settings: LLCSettings, measured: Preconditioners) -> Run:
    """Return a run of all groups from w*, with what its sampler needs to know about the networks."""
    chains = my_chains(settings.num_chains)
    fisher = None
    if SAMPLERS[settings.sampler].needs_fisher:
        fisher = fisher_diagonal(problem)
    preconditioners = None
    if SAMPLERS[settings.sampler].needs_preconditioner:
        keys = [(group.member, group.nbeta, group.localization) for group in groups]
        preconditioners = measured.of(keys)
    if settings.corrects(problem.num_samples):
        problem.anchor_gradients  # noqa: B018 - computed once, before the threads need it
    count = Counter(settings.progress, len(groups) * len(chains) * settings.num_draws)
    return Run(problem, settings, groups, chains, count, fisher=fisher, preconditioners=preconditioners)


def _check_batch_size(problem: Problem, settings: LLCSettings) -> None:
    """Raise a ValueError for minibatches with a sampler that needs all data."""
    if not SAMPLERS[settings.sampler].decides:
        return
    least = problem.num_samples
    allowed = f"at least {least}, all samples, with sampler={settings.sampler!r}"
    check("batch_size", settings.batch_size, settings.batch_size >= least, allowed)


def draws_for_target(results: Sequence[LLCResult], settings: LLCSettings) -> int | None:
    """Return how many draws bring all standard errors to their target, or None if no more are to be drawn.

    The error falls with the root of the draws. At least `num_draws` more are taken, and at most `MOST_ROUNDS` times
    `num_draws` in all. An error that is not a number asks for no more.

    Args:
        results: of the draws so far.
        settings: of the estimate.
    """
    target = settings.target_standard_error
    if target is None:
        return None
    drawn = results[0].settings.num_draws
    most = MOST_ROUNDS * settings.num_draws
    finite = [result.standard_error for result in results if math.isfinite(result.standard_error)]
    worst = max(finite, default=0.0)
    if worst <= target or drawn >= most:
        return None
    ratio = worst / target
    needed = math.ceil(drawn * ratio**2)
    return min(most, max(needed, drawn + settings.num_draws))


def _by_target(result: LLCResult, target: float | None) -> LLCResult:
    """Return the result, "not_converged" if it is "ok" and its standard error is above the target."""
    if target is None or result.status != OK or result.standard_error <= target:
        return result
    reason = f"standard error {result.standard_error:.3g} above its target {target:g}: take more draws"
    return replace(result, status=NOT_CONVERGED, status_reason=reason)


def _results(run: Run, traces: Traces) -> list[LLCResult]:
    """Return the result of each group.

    Raises:
        ValueError: a sample's loss depends on the other samples of its batch, or on random numbers.
    """
    if run.starts is None:
        check_first_draws(run.problem, traces)
    biases = biases_of_run(run, traces)
    return [_result(run, traces, place, biases[place]) for place in range(len(run.groups))]


def _result(run: Run, traces: Traces, place: int, biases: Biases | None) -> LLCResult:
    """Return the result of the group at `place`."""
    problem = run.problem
    settings = run.settings
    group = run.groups[place]
    burnin = settings.burnin
    init_loss = problem.anchor_means[group.member]
    trace = llc_trace(run, traces, place)  # (C, T)
    with np.errstate(invalid="ignore", over="ignore"):
        kept = trace[:, burnin:]
        per_chain = kept.mean(axis=1)  # (C,)
        llc, error, rhat, ess = summarize(kept, dependent=settings.shared_minibatches)
        mean_acceptance = float(traces.acceptance[place].mean())
    diverged = diverged_chains(trace, problem.layout.size, burnin)
    acceptance = None if math.isnan(mean_acceptance) else mean_acceptance
    facts = Facts(
        trace,
        burnin,
        diverged,
        num_parameters=problem.layout.size,
        estimates_lambda=not settings.of_paper,
        acceptance=acceptance,
        biases=biases,
        minimized=settings.minimize,
        uncorrected=settings.paired and not settings.corrects(problem.num_samples),
        rounded=problem.full is not None,
        dependent=settings.shared_minibatches,
    )
    status, reason = judge(facts)
    if not math.isfinite(init_loss):
        reason = "the loss at w* is not finite: the network itself has diverged"
    if diverged:
        llc = error = math.nan  # never averaged away
    correction = None
    if settings.corrects(problem.num_samples):
        correction = traces.correction[place]
    return LLCResult(
        llc=llc,
        standard_error=error,
        llc_per_chain=per_chain,
        loss_trace=traces.losses[place],
        baseline_trace=traces.baseline[place],
        init_loss=init_loss,
        nbeta=group.nbeta,
        settings=_settings_of(run, group),
        rhat=rhat,
        ess=ess,
        acceptance_rate=acceptance,
        status=status,
        status_reason=reason,
        diverged_chains=diverged,
        distance_per_chain=traces.distances[place],
        recorded=traces.recorded,
        biases=biases,
        systematic_error=biases.systematic if biases is not None else None,
        probe_losses=traces.probe_losses[place] if problem.num_probes else None,
        correction_trace=correction,
    )


def _settings_of(run: Run, group: Group) -> SamplerSettings:
    """Return the record of the settings behind the estimate of a group."""
    problem = run.problem
    directions = None
    if run.preconditioners is not None:
        directions = fewer_directions(run.preconditioners[group.member, group.nbeta, group.localization])
    return SamplerSettings.of(
        run.settings,
        step_size=group.step_size,
        localization=group.localization,
        member=group.stream,
        num_samples=problem.num_samples,
        num_parameters=problem.layout.size,
        names=readable_names(problem.stack, problem.layout.names),
        dtype=problem.compute_dtype or problem.stack_dtype,
        start=AT_ANCHOR if run.starts is None else EARLIER,
        directions=directions,
    )
