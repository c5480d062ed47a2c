"""The settings of an estimate, checked before any work starts."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..stacking import Batch, LossFunction
from .chains import Group, Plan, Problem, take
from .losses import cross_entropy
from .result import SamplerSettings
from .samplers import SAMPLERS

DEFAULT_MEMORY_BUDGET = 2 << 30  # bytes
NBETA_RULES = ("n/log n", "batch/log batch")
_DTYPES = (None, torch.float32, torch.float64, torch.bfloat16)


def check(name: str, value: object, condition: bool, allowed: str) -> None:
    """Raise an InputError of one line, naming the argument, its value and what is allowed."""
    if not condition:
        raise InputError(name, value, f"must be {allowed}")


@dataclass(frozen=True)
class LLCSettings:
    """Arguments of `estimate_llc` other than model and data; their meaning is told there.

    Raises:
        ValueError: an argument that cannot be used.
    """

    loss_fn: LossFunction = cross_entropy
    sampler: str = "sgld"
    step_size: float = 1e-4
    localization: float = 100.0
    nbeta: float | str = "n/log n"
    num_chains: int = 4
    num_draws: int = 1000
    num_burnin_steps: int | None = None
    batch_size: int = 512
    seed: int = 0
    parameters: Sequence[str] | None = None
    device: torch.device | str | None = None
    dtype: torch.dtype | None = None
    memory_budget: int = DEFAULT_MEMORY_BUDGET
    micro_batch_size: int | None = None
    sampler_options: Mapping[str, float] | None = None
    paired: bool = True
    vectorize: bool = True
    preset: str | None = None
    data: str | None = None
    progress: Callable[[int, int], None] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        check("loss_fn", self.loss_fn, callable(self.loss_fn), "a function (outputs, targets) -> one loss per sample")
        check("sampler", self.sampler, self.sampler in SAMPLERS, f"one of {', '.join(SAMPLERS)}")
        check("step_size", self.step_size, positive(self.step_size), "a positive number")
        check("localization", self.localization, positive(self.localization, zero=True), "zero or positive")
        for name, least in (("num_chains", 1), ("num_draws", 2), ("batch_size", 1), ("memory_budget", 1)):
            value = getattr(self, name)
            check(name, value, is_integer(value) and value >= least, f"an integer of at least {least}")
        traces = 2 * 8 * self.num_chains * self.num_draws  # bytes; what is sampled is kept whole
        fits = traces <= machine_memory()
        check("num_chains x num_draws", self.num_chains * self.num_draws, fits, f"at most {machine_memory() // 16}")
        check("seed", self.seed, is_integer(self.seed) and self.seed >= 0, "an integer of at least 0")
        burnin = self.num_burnin_steps
        usable = burnin is None or (is_integer(burnin) and 0 <= burnin < self.num_draws)
        check("num_burnin_steps", burnin, usable, f"None, or from 0 to num_draws - 1 = {self.num_draws - 1}")
        micro = self.micro_batch_size
        check("micro_batch_size", micro, micro is None or (is_integer(micro) and micro > 0), "None or at least 1")
        check("dtype", self.dtype, self.dtype in _DTYPES, "None, float32, float64 or bfloat16")
        for name in ("paired", "vectorize"):
            value = getattr(self, name)
            check(name, value, isinstance(value, bool), "True or False")
        for name in ("preset", "data"):
            value = getattr(self, name)
            check(name, value, value is None or isinstance(value, str), "None or a text")
        progress = self.progress
        check("progress", progress, progress is None or callable(progress), "None or a function (done, total)")
        check("device", self.device, _is_device(self.device), "None or a device of torch that is there")
        self._check_sampler_options()
        self._check_nbeta()

    def _check_sampler_options(self) -> None:
        options = self.sampler_options
        check("sampler_options", options, isinstance(options, (Mapping, type(None))), "None or a dict of numbers")
        ranges = SAMPLERS[self.sampler].ranges
        for option, value in (options or {}).items():
            allowed = f"one of {', '.join(ranges)}" if ranges else f"absent: {self.sampler} has none"
            check("sampler_options", option, option in ranges, allowed)
            usable, allowed = ranges[option]
            check(f"sampler_options[{option!r}]", value, positive(value, zero=True) and usable(value), allowed)

    def _check_nbeta(self) -> None:
        allowed = f"a positive number or one of {', '.join(map(repr, NBETA_RULES))}"
        usable = self.nbeta in NBETA_RULES if isinstance(self.nbeta, str) else positive(self.nbeta)
        check("nbeta", self.nbeta, usable, allowed)

    @property
    def burnin(self) -> int:
        """Draws left out, per chain."""
        return self.num_draws // 2 if self.num_burnin_steps is None else self.num_burnin_steps

    def inverse_temperature(self, num_samples: int) -> float:
        """Return nβ, by number or by rule (natural logarithm). "batch" is the number of samples really drawn."""
        if not isinstance(self.nbeta, str):
            return float(self.nbeta)
        name, size = "n", num_samples
        if self.nbeta.startswith("batch") and self.batch_size < num_samples:  # a larger batch is all n samples
            name, size = "batch_size", self.batch_size
        check(name, size, size >= 2, f"at least 2 for nbeta={self.nbeta!r}")
        return size / math.log(size)

    def plan(self, progress: Callable[[int], None] | None) -> Plan:
        options = SAMPLERS[self.sampler].options | dict(self.sampler_options or {})
        return Plan(
            self.sampler, options, self.num_draws, self.batch_size, self.seed, self.memory_budget,
            self.micro_batch_size, progress,
        )  # fmt: skip

    def record(self, group: Group, problem: Problem) -> SamplerSettings:
        """What the result keeps of the settings."""
        return SamplerSettings(
            sampler=self.sampler,
            step_size=group.step_size,
            localization=group.localization,
            nbeta_rule=self.nbeta if isinstance(self.nbeta, str) else "given",
            num_chains=self.num_chains,
            num_draws=self.num_draws,
            num_burnin_steps=self.burnin,
            batch_size=min(self.batch_size, problem.num_samples),
            num_samples=problem.num_samples,
            seed=self.seed,
            member=group.stream,
            preset=self.preset,
            data=self.data,
            options=self.plan(None).sampler_options,
            parameters=None if self.parameters is None else problem.layout.names,
            num_parameters=problem.layout.size,
            paired=self.paired,
            compute_dtype=str(problem.compute_dtype or problem.stack_dtype).removeprefix("torch."),
        )


def check_parameters(model: nn.Module) -> None:
    """Raise a ValueError where the network has no real parameter, or one that cannot be sampled."""
    name, parameters = type(model).__name__, dict(model.named_parameters())
    check("model", name, bool(parameters), "a module with parameters")
    for key, value in parameters.items():
        kind = f"{name}, whose {key} is {value.dtype} on {value.device.type}"
        check("model", kind, not value.is_complex(), "a module of real parameters")
        check("model", kind, value.device.type != "meta", "a module whose weights are loaded")
    movable = sum(value.numel() for value in parameters.values() if value.is_floating_point())
    check("model", f"{name}, of {movable} floating-point numbers", movable > 0, "a module of one number or more")


def check_data(inputs: Batch, targets: Tensor) -> None:
    """Raise a ValueError unless inputs and targets are tensors of one length, of one finite sample or more."""
    named = dict(inputs) if isinstance(inputs, dict) else {"inputs": inputs}
    check("targets", type(targets).__name__, isinstance(targets, Tensor), "a tensor")
    check("targets", tuple(targets.shape), targets.dim() > 0 and len(targets) > 0, "of at least one sample")
    check("inputs", inputs, bool(named), "a tensor or a dict of at least one tensor")
    for name, value in [*named.items(), ("targets", targets)]:
        check(name, type(value).__name__, isinstance(value, Tensor), "a tensor")
        check(name, str(value.layout), value.layout is torch.strided and not value.is_nested, "dense")
        check(name, "without numbers, on device meta", value.device.type != "meta", "a tensor that holds numbers")
        same = value.dim() > 0 and len(value) == len(targets)
        check(name, tuple(value.shape), same, f"of as many samples as targets, {len(targets)}")
        check(name, "NaN or infinity", _finite(value), "finite")


def check_loss(problem: Problem) -> None:
    """Raise a ValueError where inputs, targets and loss do not fit what the first network gives for a few samples."""
    count = min(problem.num_samples, 2)
    name = getattr(problem.loss_fn, "__name__", type(problem.loss_fn).__name__)

    def checked(outputs: Any, targets: Tensor) -> Tensor:
        if problem.loss_fn is cross_entropy:
            _check_labels(outputs, problem.targets)
        losses = problem.loss_fn(outputs, targets)
        found = f"{name}, giving {tuple(losses.shape) if isinstance(losses, Tensor) else type(losses).__name__}"
        fits = isinstance(losses, Tensor) and losses.shape == (count,)
        check("loss_fn", found, fits, f"one loss per sample, ({count},) for {count} samples, and no mean over them")
        return losses

    state = problem.stack.parameters | problem.stack.buffers
    one = {name: value[:1].detach() for name, value in state.items()}
    for moving in problem.layout.names:
        one[moving].requires_grad_()
    few = dataclasses.replace(problem, loss_fn=checked, vectorize=False)

    def losses_of(inputs: Batch, targets: Tensor, compute_dtype: torch.dtype | None = problem.compute_dtype) -> Tensor:
        with torch.enable_grad():
            chosen = dataclasses.replace(few, compute_dtype=compute_dtype)
            return chosen.losses(one, {}, inputs, targets, shared=True)

    inputs, targets = take(problem.inputs, slice(0, count)), problem.targets[:count]
    try:
        losses = losses_of(inputs, targets)
    except Exception:
        _check_types(problem, losses_of, inputs, targets)
        raise
    first = ", ".join(problem.layout.names[:3])
    check("parameters", first, losses.requires_grad, f"such that {name} has a gradient by one of them")


def _check_types(problem: Problem, losses_of: Callable[..., Tensor], inputs: Batch, targets: Tensor) -> None:
    """Raise a ValueError that names what has the wrong type, where the losses exist once that has another."""
    named = dict(inputs) if isinstance(inputs, dict) else {"inputs": inputs}
    wanted = problem.compute_dtype or problem.stack_dtype
    floats = [name for name, value in named.items() if value.is_floating_point()]
    for names in [*([name] for name in named), floats]:
        for kind in (wanted, torch.int64):
            others = named | {name: named[name].to(kind) for name in names}
            if _succeeds(losses_of, others if isinstance(inputs, dict) else others["inputs"], targets):
                check(names[0], str(named[names[0]].dtype), False, f"{kind} for this network")
    if _succeeds(losses_of, inputs, targets.to(wanted)):
        check("targets", str(targets.dtype), False, f"{wanted} for this network and loss_fn")
    if _succeeds(losses_of, inputs, targets, torch.bfloat16):
        check("dtype", None, False, "torch.bfloat16 for this network, which converts to it by itself")


def _succeeds(losses_of: Callable[..., Tensor], *arguments: Any) -> bool:
    try:
        losses_of(*arguments)
    except Exception:  # whatever a module raises; the first error is the one that is shown
        return False
    return True


def _check_labels(outputs: Any, targets: Tensor) -> None:
    """Class labels, as cross-entropy takes them."""
    logits = getattr(outputs, "logits", outputs)
    scores = isinstance(logits, Tensor) and logits.dim() == 2
    found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    check("model", f"outputs {found}", scores, "a classifier, with logits (samples, classes), or take another loss_fn")
    kind = f"{tuple(targets.shape)}, {targets.dtype}"
    labels = targets.dim() == 1 and targets.dtype in (torch.int64, torch.int32)
    check("targets", kind, labels, "class labels (n,) of type int64 for cross_entropy, or take another loss_fn")
    low, high, most = int(targets.min()), int(targets.max()), logits.shape[1] - 1
    known = low >= 0 and high <= most
    check("targets", f"labels from {low} to {high}", known, f"from 0 to {most}, the model's classes")


def _finite(value: Tensor) -> bool:
    """By the sum, which is quick; only where that overflows, number by number."""
    if not value.is_floating_point():
        return True
    return bool(value.sum().isfinite()) or bool(value.isfinite().all())


def machine_memory() -> int:
    """Bytes of this machine."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _is_device(device: torch.device | str | None) -> bool:
    try:
        torch.empty(0, device=device if device is None else torch.device(device))
    except (RuntimeError, AssertionError):  # no such device; or torch was built without it
        return False
    return device is None or torch.device(device).type != "meta"


def positive(value: Any, zero: bool = False) -> bool:
    """Whether this is a finite number above 0, or with `zero` of at least 0."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return number and (value > 0 or (zero and value == 0))


def is_integer(value: Any) -> bool:
    """Return whether this is an integer, and no truth value."""
    return isinstance(value, int) and not isinstance(value, bool)
