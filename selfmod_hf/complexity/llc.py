"""The local learning coefficient by sampling around trained weights.

    llc = nβ ( E[ L(w) ] - L(w*) ),    w ~ exp( -nβ L(w) - (γ/2) ||w - w*||² )

Lau, Furman, Wang, Murfet, Wei, "The Local Learning Coefficient" (arXiv 2308.12108), definition 3.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fnmatch
import functools
import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..stacking import Batch, LossFunction, ModuleStack, ParameterLayout, stack_modules
from .chains import Group, Problem, Traces, losses_at_anchor, maps, run_chains
from .curvature import fisher_diagonal
from .distributed import gather_chains, my_chains
from .independence import check_first_draws, check_independent
from .losses import cross_entropy
from .result import LLCResult, summarize
from .samplers import SAMPLERS
from .settings import DEFAULT_MEMORY_BUDGET, LLCSettings, check, check_data, check_loss, check_parameters, is_integer
from .status import diverged_chains, judge


def estimate_llc(
    model: nn.Module,
    inputs: Batch,
    targets: Tensor,
    *,
    loss_fn: LossFunction = cross_entropy,
    sampler: str = "sgld",
    step_size: float = 1e-4,
    localization: float = 100.0,
    nbeta: float | str = "n/log n",
    num_chains: int = 4,
    num_draws: int = 1000,
    num_burnin_steps: int | None = None,
    batch_size: int = 512,
    seed: int = 0,
    parameters: Sequence[str] | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    memory_budget: int = DEFAULT_MEMORY_BUDGET,
    micro_batch_size: int | None = None,
    sampler_options: Mapping[str, float] | None = None,
    paired: bool = True,
    vectorize: bool = True,
    preset: str | None = None,
    data: str | None = None,
    member: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> LLCResult:
    """Estimate the local learning coefficient (RLCT) of a trained network.

    All chains run as one stacked computation, each with its own minibatches and noise. The same arguments give the
    same numbers; how many chains run at once, and in how many processes, changes them by rounding only.

    Args:
        model: any module at its trained weights w*. It is not changed. Runs in eval mode.
        inputs: the training set, (n, ...), or a dict of such tensors, passed on by keyword. They have the type that
            the network takes. Half precision is converted, as the network is.
        targets: (n, ...).
        loss_fn: `loss_fn(outputs, targets)` -> one loss per sample, (B,), in nats.
        sampler: "sgld", "fisher_sgld" (the one whose estimates do not change when layers are rescaled; its step size
            and localization are in units of the Fisher information), "rmsprop_sgld" or "sghmc".
        step_size: ε. Its default, and those of localization and nbeta, are a place to start from and fit no network:
            take them from `llc_preset`, or have them chosen by `calibrate_llc`.
        localization: γ, the strength of the pull to w*.
        nbeta: nβ, a number, or "n/log n" (theory), or "batch/log batch" (the published recipe); natural logarithm.
            The batch is the one that is drawn: n where batch_size is larger.
        num_chains: C.
        num_draws: T, draws per chain, one per step; draw 0 is w* itself.
        num_burnin_steps: draws of the T that are left out of the estimate; default: the first half.
        batch_size: B; n or more samples without minibatch noise.
        seed: of all random numbers. Chain c's depend on (seed, member, c) and nothing else.
        parameters: names of the parameters to sample, with wildcards (`"fc.*"`); default: all, frozen ones too. The
            others stay at w*: the LLC of a layer, with the rest of the network as it is.
        device: where to compute; default: where the model is.
        dtype: float32 and float64 set the type of everything. bfloat16 is for forward and backward alone: at every
            step inputs, weights and buffers are rounded to it, while the chains' own weights, updates and
            losses stay as they are. Default: the model's own, and float32 for weights in half precision, because the
            steps of a chain are smaller than their rounding.
        memory_budget: bytes for the chains' state and activations; more chains than fit run in turn. What the C library
            keeps of freed memory comes on top.
        micro_batch_size: accumulate gradients over pieces of this many samples; default: as the budget asks.
        sampler_options: the sampler's own settings, such as `{"momentum": 0.9}`.
        paired: compare every draw with w* on the same minibatch; else with the whole training set.
        vectorize: False runs chains in a loop, as do modules that `torch.vmap` cannot map, after a warning.
        preset: a name to be kept in the result's settings; see `llc_preset`.
        data: what the inputs are, for people: id, configuration, split ("ylecun/mnist, train"); kept likewise.
        member: number of this network's noise; `estimate_llc_many` gives its k-th network member k.
        progress: called with (chain steps done, chain steps in all) of this process.

    Raises:
        ValueError: an argument that cannot be used; the message names it, its value and what is allowed. A model whose
            loss of a sample depends on the other samples of its batch, or on random numbers, is one of them.
    """
    settings = LLCSettings(
        loss_fn=loss_fn, sampler=sampler, step_size=step_size, localization=localization, nbeta=nbeta,
        num_chains=num_chains, num_draws=num_draws, num_burnin_steps=num_burnin_steps, batch_size=batch_size,
        seed=seed, parameters=parameters, device=device, dtype=dtype, memory_budget=memory_budget,
        micro_batch_size=micro_batch_size, sampler_options=sampler_options, paired=paired, vectorize=vectorize,
        preset=preset, data=data, progress=progress,
    )  # fmt: skip
    check("member", member, is_integer(member) and member >= 0, "an integer of at least 0")
    return _estimate([model], inputs, targets, settings, [member])[0]


def estimate_llc_many(
    models: Sequence[nn.Module],
    inputs: Batch,
    targets: Tensor,
    *,
    members: Sequence[int] | None = None,
    **settings: Any,
) -> list[LLCResult]:
    """`estimate_llc` for M networks of one architecture on the same data, M x C chains stacked.

    Result k equals that of `estimate_llc(models[k], ..., member=k)` to rounding. A network whose own loss is not finite
    is "diverged", and leaves the others as they are.

    Args:
        models: M modules, equal in class and shapes.
        inputs, targets: the training set that they share.
        members: numbers of the networks' noise, default 0, 1, ...; equal numbers give equal noise.
        settings: as for `estimate_llc`.

    Raises:
        ValueError: an argument that cannot be used, or networks of different architectures.
    """
    several = isinstance(models, (Sequence, nn.ModuleList))
    check("models", type(models).__name__, several, "a list of modules, of one module too")
    check("models", models, len(models) > 0, "one module or more")
    ids = list(range(len(models))) if members is None else list(members)
    check("members", ids, len(ids) == len(models), f"one number per model, {len(models)}")
    for number in ids:
        check("members", number, is_integer(number) and number >= 0, "integers of at least 0")
    return _estimate(models, inputs, targets, LLCSettings(**settings), ids, refuse_diverged=False)


@contextlib.contextmanager
def ordinary_tensors() -> Iterator[None]:
    """Let a computation take gradients and keep its types, whatever mode it is called in.

    Threads of their own know nothing of the caller's inference mode or autocast, so neither may decide the numbers.
    """
    accelerator = torch.accelerator.current_accelerator()
    kinds = {"cpu"} if accelerator is None else {"cpu", accelerator.type}
    with contextlib.ExitStack() as modes:
        modes.enter_context(torch.inference_mode(False))
        for kind in kinds:
            modes.enter_context(torch.autocast(kind, enabled=False))
        yield


@ordinary_tensors()
def _estimate(
    models: Sequence[nn.Module], inputs: Batch, targets: Tensor, settings: LLCSettings, members: Sequence[int],
    refuse_diverged: bool = True,
) -> list[LLCResult]:  # fmt: skip
    problem = make_problem(models, inputs, targets, settings)
    nbeta = settings.inverse_temperature(problem.num_samples)
    groups = [Group(k, member, settings.step_size, settings.localization, nbeta) for k, member in enumerate(members)]
    return sample_groups(problem, groups, settings, refuse_diverged)


def make_problem(models: Sequence[nn.Module], inputs: Batch, targets: Tensor, settings: LLCSettings) -> Problem:
    """Stack the models and move the data beside them."""
    for model in models:
        check("model", type(model).__name__, isinstance(model, nn.Module), "a torch.nn.Module")
        check_parameters(model)
    check_data(inputs, targets)
    low = settings.dtype is torch.bfloat16
    stack = _in_one_type(stack_modules(models, settings.device), None if low else settings.dtype)
    movable = [name for name, value in stack.parameters.items() if value.is_floating_point()]
    names = match_parameters(movable, settings.parameters)
    device = next(iter(stack.parameters.values())).device
    full = next(value.dtype for value in stack.parameters.values() if value.is_floating_point())
    problem = Problem(
        stack, ParameterLayout.of(stack.parameters, names), _moved(inputs, device, settings.dtype, full),
        _moved(targets, device, None if low else settings.dtype, full), settings.loss_fn,
        torch.bfloat16 if low else None, settings.vectorize,
    )  # fmt: skip
    check_loss(problem)
    return problem if not settings.vectorize or maps(problem) else dataclasses.replace(problem, vectorize=False)


def _in_one_type(stack: ModuleStack, dtype: torch.dtype | None) -> ModuleStack:
    """Return the stack in `dtype`, by default its own widest type and at least float32.

    A chain's steps are far smaller than the rounding of half precision, so chains would not move in it as they should.
    """
    if dtype is not None:
        return stack.to(dtype)
    own = {value.dtype for value in stack.parameters.values() if value.is_floating_point()}
    widest = functools.reduce(torch.promote_types, own, torch.float32)
    return stack if own == {widest} else stack.to(widest)


def _moved(data: Any, device: torch.device, dtype: torch.dtype | None, full: torch.dtype) -> Any:
    """Return the data on the device, floating-point data in `dtype`; by default half precision becomes `full`."""
    if isinstance(data, dict):
        return {name: _moved(value, device, dtype, full) for name, value in data.items()}
    data = data.detach()
    data = data.clone() if data.is_inference() else data  # autograd may not keep a tensor of inference mode
    if not data.is_floating_point():
        return data.to(device=device)
    half = data.dtype in (torch.float16, torch.bfloat16)
    return data.to(device=device, dtype=dtype or (full if half else data.dtype))


def match_parameters(names: Sequence[str], patterns: Sequence[str] | None) -> list[str]:
    """The names that match one of the patterns (`fnmatch`), in their own order; all of them without patterns."""
    if patterns is None:
        return list(names)
    several = isinstance(patterns, (str, Sequence, Set))
    check("parameters", patterns, several, "None, or a list of names or patterns")
    patterns = [patterns] if isinstance(patterns, str) else list(patterns)
    check("parameters", patterns, bool(patterns), "None, or one name or pattern at least")
    for pattern in patterns:
        check("parameters", pattern, isinstance(pattern, str), "names or patterns, which are texts")
        known = any(fnmatch.fnmatchcase(name, pattern) for name in names)
        check("parameters", pattern, known, f"a name or pattern among {', '.join(names)}")
    return [name for name in names if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)]


def sample_groups(
    problem: Problem, groups: Sequence[Group], settings: LLCSettings, refuse_diverged: bool = True
) -> list[LLCResult]:
    """One result per group. Under torch.distributed every process runs its share of the chains.

    Raises:
        ValueError: with `refuse_diverged`, a network whose own loss is not finite; a network whose loss of a sample
            depends on the other samples of its batch, or on random numbers.
    """
    anchor_losses = losses_at_anchor(problem, settings.memory_budget)  # (n, M)
    anchor_means = anchor_losses.mean(0, dtype=torch.float64).tolist()
    if refuse_diverged:
        worst = next((loss for loss in anchor_means if not math.isfinite(loss)), 0.0)
        check("model", worst, math.isfinite(worst), "a finite mean loss over the data at its own weights")
    chains = my_chains(settings.num_chains)
    steps = len(groups) * len(chains) * settings.num_draws
    plan = settings.plan(_counter(settings.progress, steps))
    check_independent(problem, anchor_losses, plan)
    fisher = fisher_diagonal(problem, settings.memory_budget) if SAMPLERS[settings.sampler].needs_fisher else None
    traces = run_chains(problem, groups, chains, plan, anchor_losses, fisher)
    traces = gather_chains(traces, settings.num_chains)
    check_first_draws(problem, traces)
    return [_result(traces, g, group, settings, problem, anchor_means[group.member]) for g, group in enumerate(groups)]


def _counter(report: Callable[[int, int], None] | None, total: int) -> Callable[[int], None] | None:
    if report is None:
        return None
    done, lock = 0, threading.Lock()

    def count(steps: int) -> None:
        nonlocal done
        with lock:
            done += steps
            report(done, total)

    return count


def _result(
    traces: Traces, g: int, group: Group, settings: LLCSettings, problem: Problem, init_loss: float
) -> LLCResult:
    burnin = settings.burnin
    losses, baseline = traces.losses[g], traces.baseline[g]  # (C, T)
    with np.errstate(invalid="ignore", over="ignore"):
        llc_trace = group.nbeta * (losses - (baseline if settings.paired else init_loss))
        per_chain = llc_trace[:, burnin:].mean(axis=1)
        llc, error, rhat, ess = summarize(llc_trace[:, burnin:])
        acceptance = float(traces.acceptance[g].mean())
    diverged = diverged_chains(llc_trace, problem.layout.size, burnin)
    status, reason = judge(llc_trace, burnin, diverged)
    if not math.isfinite(init_loss):
        reason = "the loss at w* is not finite: the network itself has diverged"
    if diverged:
        llc = error = math.nan  # never averaged away
    return LLCResult(
        llc=llc, standard_error=error, llc_per_chain=per_chain, loss_trace=losses, baseline_trace=baseline,
        init_loss=init_loss, nbeta=group.nbeta, settings=settings.record(group, problem), rhat=rhat, ess=ess,
        acceptance_rate=None if math.isnan(acceptance) else acceptance, status=status, status_reason=reason,
        diverged_chains=diverged, distance_per_chain=traces.distances[g], recorded=traces.recorded,
    )  # fmt: skip
