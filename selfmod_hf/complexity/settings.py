"""The settings of an estimate, in one place: names, types, defaults and checks.

Every function that estimates takes them as keywords, `**settings: Unpack[LLCOptions]`, and makes one `LLCSettings` of
them. Type checkers read their names and types from `LLCOptions`. `help()` and notebooks read them from the signature
that `shows_settings` gives. Defaults are those of `LLCSettings`. A test compares the two.
"""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import NoneType
from typing import Any, TypedDict, TypeVar

import torch

from ..stacking import Batch, LossFunction
from .input_checks import check, check_data, is_integer, positive
from .presets import DECIDING, of_paper
from .sample_losses import cross_entropy
from .samplers import SAMPLERS

DEFAULT_MEMORY_BUDGET = 2 << 30  # bytes
NBETA_RULES = ("n/log n", "batch/log batch")
DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16}

Function = TypeVar("Function", bound=Callable[..., Any])


class CalibrationOptions(TypedDict, total=False):
    """List the settings as keywords, except for step size and localization. See `LLCSettings`."""

    loss_fn: LossFunction
    sampler: str
    nbeta: float | str
    num_chains: int
    num_draws: int
    num_burnin_steps: int | None
    batch_size: int
    seed: int
    parameters: Sequence[str] | Mapping[str, torch.Tensor | None] | None
    device: torch.device | str | None
    dtype: torch.dtype | None
    memory_budget: int
    micro_batch_size: int | None
    sampler_options: Mapping[str, float] | None
    paired: bool
    control_variate: bool | None
    minimize: bool
    target_standard_error: float | None
    resume_from: str | os.PathLike[str] | None
    probes: tuple[Batch, torch.Tensor] | None
    vectorize: bool
    preset: str | None
    data: str | None
    progress: Callable[[int, int], None] | None


class LLCOptions(CalibrationOptions, total=False):
    """List all settings as keywords. See `LLCSettings`."""

    step_size: float
    localization: float
    shared_minibatches: bool


@dataclass(frozen=True)
class LLCSettings:
    """Hold and check the settings of an estimate.

    Attributes:
        loss_fn: `loss_fn(outputs, targets)` -> one loss per sample, (B,), in nats.
        sampler: "sgld", "fisher_sgld", "rmsprop_sgld", "sghmc", "preconditioned" or "mala". Estimates of "fisher_sgld"
            alone do not change when layers are rescaled. Its step size and localization are in units of the Fisher
            information. "preconditioned" is "sghmc" in coordinates in which the posterior is about as wide in every
            direction. Its step size has no unit (0.04 to 0.1), and its localization is that of all others. "mala"
            accepts or rejects each step, with all samples, and adapts its step size in the burn-in.
        step_size: ε. Its default, and those of localization and nbeta, are a starting point and fit no network. Take
            them from `llc_preset`, or let `calibrate_llc` choose them.
        localization: γ, the strength of the pull to w*.
        nbeta: nβ, a number, or "n/log n" (theory), or "batch/log batch" (the published recipe), with the natural
            logarithm. The batch is the drawn one: n if batch_size is larger.
        num_chains: C.
        num_draws: T, draws per chain, one per step. Draw 0 is w* itself.
        num_burnin_steps: draws of the T left out of the estimate. None: the first half.
        batch_size: B. With n or more samples there is no minibatch noise.
        seed: of all random numbers. Chain c's depend on (seed, member, c) and nothing else.
        parameters: names of the parameters to sample, with wildcards (`"fc.*"`). None: all, frozen ones too. The
            others stay at w*: the LLC of a layer, with the rest of the network as it is. A dict of names and masks
            chooses single numbers of parameters, for example the rows of one attention head. A mask is a bool tensor of
            the parameter's shape, or None for all of its numbers.
        device: device of the computation. None: the model's.
        dtype: float32 and float64 set the type of everything. bfloat16 is for forward and backward alone: at every
            step inputs, weights and buffers are rounded to it, while the chains' own weights, updates and losses stay
            as they are. None: the model's own, and float32 for weights in half precision, because the steps of a
            chain are smaller than their rounding.
        memory_budget: bytes for the chains' state and activations. More chains than fit run in turn. The C
            library may keep freed memory on top of it.
        micro_batch_size: accumulate gradients over pieces of this many samples. None: as the budget asks.
        sampler_options: the sampler's own settings, such as `{"momentum": 0.9}`.
        paired: compare every draw with w* on the same minibatch, else with the complete training set.
        shared_minibatches: all chains take the same minibatches. That is faster, because samples are gathered once. The
            chains then depend on each other. The standard error is at least that of the mean over the chains, taken as
            one chain. Foretold biases keep the errors of independent chains.
        control_variate: subtract the noise of each minibatch at w* from its gradient and its loss, because it is known
            exactly. The sampled distribution and the estimate then have little minibatch noise. It requires `paired`.
            None: where it lowers the noise of the gradients, and never for a preset of the paper.
        minimize: first bring w* to the local minimum of L with L-BFGS on all data, at most 500 gradients. The estimate
            is that of the minimum. The result says how far it is and how much lower its loss is.
        target_standard_error: continue the chains until the standard error of the estimate is at most this, for at
            most 8 times `num_draws`. None: `num_draws` exactly.
        resume_from: a folder. The state of the chains is kept there ten times in `num_draws`. If the estimate is killed
            and called again, it goes on at the last one. Its numbers are those of an estimate with such a folder that
            was never killed. The folder is removed when the estimate is complete. None: no state is kept.
        probes: (inputs, targets) of q samples. Their losses at every draw are kept, `LLCResult.probe_losses` (C, T, q).
            See `complexity.probes`. None: none.
        vectorize: False runs chains in a loop. So do modules without a `torch.vmap` rule, after a warning.
        preset: a name to be kept in the result's settings, see `llc_preset`.
        data: a description of the inputs for people, kept likewise: id, configuration, split ("ylecun/mnist, train").
        progress: called with (chain steps done, chain steps in all) of this process.

    Raises:
        ValueError: an invalid setting. The message names it, its value and the allowed values.

    Example:
        >>> LLCSettings(num_draws=1).num_draws
        Traceback (most recent call last):
        selfmod_hf.errors.InputError: num_draws=1: must be an integer of at least 2
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
    parameters: Sequence[str] | Mapping[str, torch.Tensor | None] | None = None
    device: torch.device | str | None = None
    dtype: torch.dtype | None = None
    memory_budget: int = DEFAULT_MEMORY_BUDGET
    micro_batch_size: int | None = None
    sampler_options: Mapping[str, float] | None = None
    paired: bool = True
    shared_minibatches: bool = False
    control_variate: bool | None = None
    minimize: bool = False
    target_standard_error: float | None = None
    resume_from: str | os.PathLike[str] | None = None
    probes: tuple[Batch, torch.Tensor] | None = field(default=None, repr=False)
    vectorize: bool = True
    preset: str | None = None
    data: str | None = None
    progress: Callable[[int, int], None] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        self._require("loss_fn", callable(self.loss_fn), "a function (outputs, targets) -> one loss per sample")
        self._require("sampler", self.sampler in SAMPLERS, f"one of {', '.join(SAMPLERS)}")
        self._require("step_size", positive(self.step_size), "a positive number")
        self._check_preconditioner()
        self._require("localization", positive(self.localization, zero=True), "zero or positive")
        self._check_counts()
        known = self.dtype is None or self.dtype in DTYPES.values()
        self._require("dtype", known, "None, float32, float64 or bfloat16")
        for name in ("paired", "shared_minibatches", "vectorize"):
            self._require(name, isinstance(getattr(self, name), bool), "True or False")
        self._check_additions()
        self._require("preset", isinstance(self.preset, (str, NoneType)), "None or a text")
        self._require("data", isinstance(self.data, (str, NoneType)), "None or a text")
        usable = self.progress is None or callable(self.progress)
        self._require("progress", usable, "None or a function (done, total)")
        self._require("device", _is_device(self.device), "None or a device of torch that is there")
        self._check_sampler_options()
        self._check_nbeta()
        self._check_probes()

    def _require(self, name: str, condition: bool, allowed: str) -> None:
        """Raise a ValueError that names a setting, its value and the allowed values, unless the condition holds."""
        check(name, getattr(self, name), condition, allowed)

    def _check_counts(self) -> None:
        """Raise a ValueError for an invalid number of samples, chains, draws or bytes."""
        for name, least in (("num_chains", 1), ("num_draws", 2), ("batch_size", 1), ("memory_budget", 1)):
            usable = is_integer(getattr(self, name), least)
            self._require(name, usable, f"an integer of at least {least}")
        draws = self.num_chains * self.num_draws
        bytes_per_draw = 2 * 8  # two traces in float64: all draws are kept
        most = machine_memory() // bytes_per_draw
        check("num_chains x num_draws", draws, draws <= most, f"at most {most}")
        self._require("seed", is_integer(self.seed), "an integer of at least 0")
        burnin = self.num_burnin_steps
        last = self.num_draws - 1
        usable = burnin is None or (is_integer(burnin) and burnin <= last)
        self._require("num_burnin_steps", usable, f"None, or from 0 to num_draws - 1 = {last}")
        micro = self.micro_batch_size
        usable = micro is None or is_integer(micro, 1)
        self._require("micro_batch_size", usable, "None or at least 1")

    def _check_additions(self) -> None:
        """Raise a ValueError for an invalid control variate, minimization or target."""
        self._require("control_variate", isinstance(self.control_variate, (bool, NoneType)), "None, True or False")
        unpaired = "None or False with paired=False, because it compares w with w* on the same minibatch"
        self._require("control_variate", self.paired or not self.control_variate, unpaired)
        self._require("minimize", isinstance(self.minimize, bool), "True or False")
        target = self.target_standard_error
        usable = target is None or positive(target)
        self._require("target_standard_error", usable, "None or a positive number")
        if self.resume_from is not None:
            self._require("resume_from", _can_be_folder(self.resume_from), "None or the path of a folder to write into")

    def _check_probes(self) -> None:
        """Raise a ValueError unless the probes are samples whose losses fit into memory."""
        if self.probes is None:
            return
        kind = type(self.probes).__name__
        is_pair = isinstance(self.probes, tuple) and len(self.probes) == 2
        check("probes", kind, is_pair, "None or a tuple (inputs, targets)")
        inputs, targets = self.probes
        check_data(inputs, targets, "probes ")
        losses = self.num_chains * self.num_draws * len(targets)
        most = machine_memory() // 4  # float32
        check("num_chains x num_draws x probes", losses, losses <= most, f"at most {most}")

    def _check_preconditioner(self) -> None:
        """Raise a ValueError for a step size or a type that a sampler with a preconditioner does not take."""
        sampler = SAMPLERS[self.sampler]
        if not sampler.needs_preconditioner:
            return
        least, most = sampler.least_step, sampler.most_step
        allowed = f"from {least:g} to {most:g} with sampler={self.sampler!r}, in units of its preconditioner"
        self._require("step_size", least <= self.step_size <= most, allowed)
        allowed = f"None, float32 or float64 with sampler={self.sampler!r}"
        self._require("dtype", self.dtype is not torch.bfloat16, allowed)

    def _check_sampler_options(self) -> None:
        """Raise a ValueError for an unknown option of the sampler, or a value out of its range."""
        options = self.sampler_options
        self._require("sampler_options", isinstance(options, (Mapping, NoneType)), "None or a dict of numbers")
        ranges = SAMPLERS[self.sampler].ranges
        known = f"absent: {self.sampler} has none"
        if ranges:
            known = f"one of {', '.join(ranges)}"
        for option, value in (options or {}).items():
            check("sampler_options", option, option in ranges, known)
            in_range, allowed = ranges[option]
            usable = positive(value, zero=True) and in_range(value)
            check(f"sampler_options[{option!r}]", value, usable, allowed)

    def _check_nbeta(self) -> None:
        """Raise a ValueError unless nbeta is a number or a rule."""
        rules = ", ".join(map(repr, NBETA_RULES))
        usable = positive(self.nbeta)
        if isinstance(self.nbeta, str):
            usable = self.nbeta in NBETA_RULES
        self._require("nbeta", usable, f"a positive number or one of {rules}")

    @property
    def burnin(self) -> int:
        """Return how many draws of each chain are left out."""
        if self.num_burnin_steps is None:
            return self.num_draws // 2
        return self.num_burnin_steps

    @property
    def options(self) -> dict[str, float]:
        """Return the sampler's own settings, its defaults included."""
        defaults = SAMPLERS[self.sampler].options
        return defaults | dict(self.sampler_options or {})

    def corrects(self, num_samples: int) -> bool:
        """Return whether a control variate is used with this number of samples.

        Example:
            >>> LLCSettings(batch_size=50).corrects(num_samples=50)
            False
        """
        if self.batch_size >= num_samples:  # no minibatch has noise
            return False
        if self.control_variate is not None:
            return self.control_variate
        return self.paired and not self.of_paper

    @property
    def of_paper(self) -> bool:
        """Return whether the estimate is one of the paper's. These stay as they were published."""
        return of_paper(self.preset, {name: getattr(self, name) for name in DECIDING})

    def inverse_temperature(self, num_samples: int) -> float:
        """Return nβ, by number or by rule (natural logarithm). "batch" is the number of samples really drawn.

        Example:
            >>> round(LLCSettings(nbeta="n/log n").inverse_temperature(num_samples=1000), 2)
            144.76
        """
        if not isinstance(self.nbeta, str):
            return float(self.nbeta)
        name = "n"
        size = num_samples
        of_batch = self.nbeta.startswith("batch")
        if of_batch and self.batch_size < num_samples:  # a larger batch is all n samples
            name = "batch_size"
            size = self.batch_size
        check(name, size, size >= 2, f"at least 2 for nbeta={self.nbeta!r}")
        return size / math.log(size)


def shows_settings(options: type, **defaults: Any) -> Callable[[Function], Function]:
    """Return a decorator that puts the settings in place of `**settings` in a function's signature.

    Args:
        options: `LLCOptions`, or some of them.
        defaults: values in place of the defaults of `LLCSettings`.
    """
    shown = []
    for setting in fields(LLCSettings):
        if setting.name not in options.__annotations__:
            continue
        parameter = inspect.Parameter(
            setting.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=defaults.get(setting.name, setting.default),
            annotation=setting.type,
        )
        shown.append(parameter)

    def decorate(function: Function) -> Function:
        signature = inspect.signature(function)
        own = []
        for parameter in signature.parameters.values():
            if parameter.kind is not inspect.Parameter.VAR_KEYWORD:
                own.append(parameter)
        function.__signature__ = signature.replace(parameters=[*own, *shown])  # type: ignore[attr-defined]
        return function

    return decorate


def machine_memory() -> int:
    """Return the bytes of memory of this machine."""
    pages = os.sysconf("SC_PHYS_PAGES")
    return pages * os.sysconf("SC_PAGE_SIZE")


def _can_be_folder(path: object) -> bool:
    """Return whether a path is a folder that can be written to, or can be made as one."""
    if not isinstance(path, (str, os.PathLike)) or not os.fspath(path):
        return False
    folder = Path(path)
    try:
        there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    except (OSError, ValueError):  # a name that is too long, or with a null character
        return False
    return there.is_dir() and os.access(there, os.W_OK)


def _is_device(device: torch.device | str | None) -> bool:
    """Return whether a device can hold numbers."""
    if device is None:
        return True
    try:
        torch.empty(0, device=torch.device(device))
    except (RuntimeError, AssertionError):  # no such device, or torch was built without it
        return False
    return torch.device(device).type != "meta"
