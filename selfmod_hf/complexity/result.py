"""`LLCResult`: the estimate, its settings, and how far it can be trusted."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load_file, save
from scipy.special import stdtrit

from ..errors import InputError
from ..files import plain, read_json, write_files
from ..json_records import problem_of
from .biases import Biases
from .diagnostics import degrees_of_freedom, effective_sample_size, split_rhat, standard_error
from .json_numbers import MaybeNaN, Numbers
from .plots import PathLike, plot_traces
from .sampler_settings import SamplerSettings

STATUSES = OK, NOT_AT_MINIMUM, NOT_CONVERGED, DIVERGED, BIASED, NOT_IDENTIFIED = (
    "ok",
    "not_at_minimum",
    "not_converged",
    "diverged",
    "biased",
    "not_identified",
)

TRACES = ("loss_trace", "baseline_trace")
OPTIONAL_TRACES = ("correction_trace", "probe_losses")
TRACES_SUFFIX = ".safetensors"
_OPTIONAL = ("biases", "systematic_error", "lowered_by", "moved_by", "loss")  # fields that version 0.1.0 does not know


@dataclass(frozen=True)
class LLCResult:
    """Hold a local learning coefficient, `llc = nβ ( E[L(w)] - L(w*) )`, dimensionless.

    Attributes:
        llc: mean over chains and kept draws. NaN if any chain diverged.
        standard_error: Monte Carlo standard error of `llc`.
        llc_per_chain: (C,).
        loss_trace: (C, T), nats: the minibatch loss of every draw, burn-in included.
        baseline_trace: (C, T), nats: the loss of w* on the same minibatches.
        init_loss: L(w*) over the complete training set, nats.
        nbeta: nβ, the inverse temperature times the number of samples.
        settings: sampler, step size and all else.
        rhat: split R-hat of the kept draws.
        ess: effective sample size of the kept draws, all chains together.
        acceptance_rate: mean Metropolis (MALA) acceptance probability. None if the sampler has none.
        status: one of `STATUSES`, by the rules in `status.py`. "not_identified" is a calibration's alone.
        status_reason: one line.
        diverged_chains: the chains outside of the region.
        distance_per_chain: (C,), |w - w*| at the last draw.
        weights_sha256: SHA-256 of the file of w*. None if the network was not read from a file, and in files of
            version 0.1.0.
        recorded: whether sampling steps ran as a recorded list of operations, because it is faster than the module
            itself from 100 draws on. None in files of version 0.1.0.
        correction_trace: (C, T), nats: what the control variate adds to the loss of every draw. None without one.
        biases: foretold, see `Biases`. None for the paper's presets, for fewer than 20 kept draws, and in files of
            before they were.
        probe_losses: (C, T, q), nats, float32: the loss of each probe at every draw. None: no `probes` were given. See
            `complexity.probes`.
        lowered_by: nβ (L(w_before) - L(w*)), nats, if `minimize` moved the weights to w*. None: it did not.
        moved_by: |w_before - w*|, likewise.
        systematic_error: sum of the absolute biases that are left in `llc`. None: not known.
        loss: name of the loss of a task model's samples. None: cross-entropy, or a loss of the caller's.

    Example:
        >>> import torch
        >>> from selfmod_hf.complexity import estimate_llc
        >>> result = estimate_llc(torch.nn.Linear(2, 3), torch.randn(99, 2), torch.arange(99) % 3, num_draws=40)
        >>> result.llc_per_chain.shape, result.settings.sampler
        ((4,), 'sgld')
    """

    llc: MaybeNaN
    standard_error: MaybeNaN
    llc_per_chain: Numbers
    loss_trace: Numbers = field(repr=False)
    baseline_trace: Numbers = field(repr=False)
    init_loss: MaybeNaN
    nbeta: float
    settings: SamplerSettings
    rhat: MaybeNaN
    ess: MaybeNaN
    acceptance_rate: float | None
    status: str
    status_reason: str
    diverged_chains: tuple[int, ...] = ()
    distance_per_chain: Numbers = field(default_factory=lambda: np.empty(0), repr=False)
    weights_sha256: str | None = None
    recorded: bool | None = None
    correction_trace: Numbers | None = field(default=None, repr=False)
    biases: Biases | None = None
    systematic_error: float | None = None
    lowered_by: float | None = None
    moved_by: float | None = None
    probe_losses: Numbers | None = field(default=None, repr=False)
    loss: str | None = None

    @property
    def interval(self) -> tuple[float, float]:
        """Return the 95 % interval of the learning coefficient, (low, high). NaN if a chain diverged.

        It is `llc` ± t standard errors. t is Student's quantile, because few draws do not know their own error well.
        Foretold biases widen it on the side of the truth: downwards by what they add to `llc`, upwards by what they
        take away, and on both sides by rounding. Without `biases`, `systematic_error` widens both sides.
        """
        degrees = degrees_of_freedom(self.ess, self.settings.num_chains)
        quantile = float(stdtrit(degrees, 0.975))
        half = quantile * self.standard_error
        if self.biases is not None:
            below = self.biases.of_the_step
            if not math.isnan(self.biases.heating_error):
                below += self.biases.heating_error
            half += self.biases.of_rounding
            return self.llc - half - below, self.llc + half + self.biases.taken_away
        half += self.systematic_error or 0.0
        return self.llc - half, self.llc + half

    @property
    def sampler(self) -> str:
        """Return the name of the sampler."""
        return self.settings.sampler

    @property
    def kept(self) -> slice:
        """Return the draws behind the estimate."""
        return slice(self.settings.num_burnin_steps, None)

    @property
    def corrected_losses(self) -> NDArray[np.float64]:
        """Return the loss of every draw, (C, T), corrected by the control variate if there is one."""
        if self.correction_trace is None:
            return self.loss_trace
        return self.loss_trace + self.correction_trace

    def llc_trace(self, *, paired: bool = True) -> NDArray[np.float64]:
        """Return the contribution of each draw, nβ times the corrected loss above w*'s, (C, T).

        Args:
            paired: above w*'s loss on the same minibatch, else above its loss on the complete training set.
        """
        baseline = self.baseline_trace if paired else self.init_loss
        return self.nbeta * (self.corrected_losses - baseline)

    def estimate(self, *, paired: bool) -> tuple[float, float]:
        """Return (llc, standard error) with or without pairing, from the same draws. NaN if a chain diverged."""
        if self.diverged_chains:
            return math.nan, math.nan
        trace = self.llc_trace(paired=paired)
        kept = trace[:, self.kept]
        return float(kept.mean()), standard_error(kept, dependent=self.settings.shared_minibatches)

    def to_dict(self) -> dict[str, Any]:
        """Return all fields except the traces, ready for JSON. NaN and infinity become None."""
        values: dict[str, Any] = {}
        for entry in dataclasses.fields(self):
            if entry.name not in (*TRACES, *OPTIONAL_TRACES):
                values[entry.name] = getattr(self, entry.name)
        values["settings"] = self.settings.to_dict()
        for name in _OPTIONAL:
            if values[name] is None:  # version 0.1.0 reads the file then
                del values[name]
        if self.biases is not None:
            values["biases"] = dataclasses.asdict(self.biases)
        return plain(values)

    def save(self, path: PathLike) -> Path:
        """Write `path` (JSON) and, beside it, the traces as safetensors.

        Both appear complete or not at all. If they replace older ones, the JSON of one is never beside the traces of
        the other.
        """
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        traces_path = path.with_suffix(TRACES_SUFFIX)
        traces = {}
        for name in (*TRACES, *OPTIONAL_TRACES):
            trace = getattr(self, name)
            if trace is not None:
                traces[name] = np.ascontiguousarray(trace)
        values = self.to_dict()
        values["traces"] = traces_path.name
        text = json.dumps(values, indent=2) + "\n"
        write_files({traces_path: save(traces), path: text.encode()})
        return path

    @classmethod
    def load(cls, path: PathLike) -> LLCResult:
        """Read the files of `save`.

        Raises:
            InputError: one of the files cannot be read, or a field is missing, unknown or has a wrong type.
        """
        path = Path(path)
        values = read_json(path)
        name = values.pop("traces", None)
        if not isinstance(name, str):
            raise InputError("file", str(path), f"traces={name!r}: allowed is the name of a file beside it")
        traces = path.parent / Path(name).name  # beside it, whatever folder it names
        try:
            return cls.from_dict(values, path, load_file(traces))
        except (OSError, SafetensorError) as error:
            raise InputError("file", str(traces), f"cannot be read ({error})") from error

    @classmethod
    def from_dict(
        cls,
        values: Mapping[str, Any],
        path: PathLike,
        traces: Mapping[str, NDArray[np.float64]] | None = None,
    ) -> LLCResult:
        """Return the result of these values, from its `to_dict`.

        Args:
            values: content of rlct.json. Without traces, unknown fields are ignored, because a later version may have
                written them. With traces they are rejected.
            path: the file of the values, for errors.
            traces: `loss_trace`, `baseline_trace` and, with a control variate, `correction_trace`. None: all are empty.

        Raises:
            InputError: a field is missing or has a wrong type.
        """
        extra: Literal["forbid", "ignore"] = "ignore" if traces is None else "forbid"
        complete = dict(values)
        complete.pop("traces", None)
        for name in TRACES:
            complete[name] = []
        text = json.dumps(complete)
        try:
            result = _READER.validate_json(text, strict=True, extra=extra)
        except ValidationError as error:
            raise InputError("file", str(path), problem_of(error)) from error
        if traces is None:
            return result
        found = set(traces)
        if found - set(OPTIONAL_TRACES) != set(TRACES):
            allowed = ", ".join(TRACES)
            raise InputError("file", str(path), f"has traces {', '.join(traces)}; allowed are {allowed}")
        arrays: dict[str, Any] = dict(traces)
        result = dataclasses.replace(result, **arrays)
        wrong = _wrong_fields(result)
        if wrong:
            named = ", ".join(wrong)
            raise InputError("file", str(path), f"{named}: of a wrong type or shape")
        return result

    def summary(self) -> str:
        """Return a table of lines for people: estimate, status, settings, diagnostics."""
        settings = self.settings
        low, high = self.interval
        rows = {
            "RLCT": f"{self.llc:.3f} ± {self.standard_error:.3f} (standard error)",
            "95 % interval": f"{low:.3f} to {high:.3f}",
        }
        if settings.parameters is not None:
            rows["of"] = f"{settings.part} alone"
        first = f"the first {settings.num_burnin_steps} left out"
        sampler = f"{settings.sampler}, step size {settings.step_size:g}, localization {settings.localization:g}"
        rows |= {
            "status": f"{self.status}: {self.status_reason}",
            "nβ": f"{self.nbeta:.3f} ({settings.nbeta_rule})",
            "sampler": sampler,
            "control variate": "yes" if settings.control_variate else "no",
            "minibatches": "the same in all chains" if settings.shared_minibatches else "of each chain",
            "draws": f"{settings.num_chains} chains x {settings.num_draws}, {first}",
            "R-hat, ESS": f"{self.rhat:.3f}, {self.ess:.0f}",
            "preset": str(settings.preset),
            "data": f"{settings.data}, {settings.num_samples} samples",
            "loss at w*": f"{self.init_loss:.5f}",
        }
        if self.loss is not None:
            rows["loss"] = self.loss
        if self.lowered_by is not None:
            rows["minimized"] = f"nβ L is lower by {self.lowered_by:.3f}, |w - w*| is {self.moved_by:.4g}"
        if self.biases is not None:
            rows["foretold biases"] = self.biases.summary()
        if settings.of_paper:
            rows["meaning"] = "a comparison of networks, not λ: the rules that compare with λ do not apply"
        lines = [f"{name:22}{value}" for name, value in rows.items()]
        return "\n".join(lines)

    def plot(self, path: PathLike | None = None) -> Any:
        """Plot the traces, the kept part shaded, save them to `path` if given, and return the matplotlib figure."""
        title = f"RLCT {self.llc:.4g} ± {self.standard_error:.2g}, {self.status}"
        trace = self.llc_trace(paired=self.settings.paired)
        burnin = self.settings.num_burnin_steps
        return plot_traces(trace, self.llc_per_chain, burnin, self.llc, title, path)


_READER = TypeAdapter(LLCResult)


def _wrong_fields(result: LLCResult) -> list[str]:
    """Return the names of fields at odds with the number of chains and draws, or with each other."""
    settings = result.settings
    chains = len(result.llc_per_chain)
    wrong = []
    if result.status not in STATUSES:
        wrong.append("status")
    diverged = [chain for chain in range(chains) if chain in result.diverged_chains]
    others = np.delete(result.llc_per_chain, diverged)
    finite = bool(np.isfinite(others).all())
    if chains == 0 or chains != settings.num_chains or not finite:
        wrong.append("llc_per_chain")
    if len(result.distance_per_chain) not in (0, chains):
        wrong.append("distance_per_chain")
    numbered = len(diverged) == len(result.diverged_chains)
    if not numbered or bool(diverged) != (result.status == DIVERGED):
        wrong.append("diverged_chains")
    shape = (chains, settings.num_draws)
    for name in (*TRACES, "correction_trace"):
        trace = getattr(result, name)
        if trace is None and name not in TRACES:
            continue
        if trace.shape != shape or trace.dtype.kind != "f":
            wrong.append(name)
    probes = result.probe_losses
    if probes is not None and (probes.ndim != 3 or probes.shape[:2] != shape or probes.dtype.kind != "f"):
        wrong.append("probe_losses")
    return wrong


def summarize(kept: NDArray[np.float64], *, dependent: bool) -> tuple[float, float, float, float]:
    """Return mean, standard error, R-hat and ESS of draws (C, T), see `standard_error`."""
    mean = float(kept.mean())
    error = standard_error(kept, dependent=dependent)
    ess = effective_sample_size(kept)
    if dependent:
        ess *= (standard_error(kept) / error) ** 2
    return mean, error, split_rhat(kept), ess
