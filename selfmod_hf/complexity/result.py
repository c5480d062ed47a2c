"""`LLCResult`: the estimate, what it was made with, and how far it can be trusted."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import InputError
from ..files import plain, write_files
from ..stacking import ParameterLayout
from .diagnostics import effective_sample_size, split_rhat, standard_error
from .settings import DTYPES, LLCSettings

STATUSES = OK, NOT_AT_MINIMUM, NOT_CONVERGED, DIVERGED = "ok", "not_at_minimum", "not_converged", "diverged"

TRACES_SUFFIX = ".safetensors"


@dataclass(frozen=True)
class SamplerSettings:
    """Everything that decides the numbers of a run, besides the network and the data.

    `data` says what the inputs are, for people: id, configuration, split; None where that was not told.
    """

    sampler: str
    step_size: float
    localization: float
    nbeta_rule: str
    num_chains: int
    num_draws: int
    num_burnin_steps: int
    batch_size: int
    num_samples: int
    seed: int
    member: int = 0
    preset: str | None = None
    options: Mapping[str, float] = field(default_factory=dict)
    parameters: tuple[str, ...] | None = None
    num_parameters: int = 0
    paired: bool = True
    compute_dtype: str = "float32"
    data: str | None = None  # files from before it was kept have none

    @classmethod
    def of(
        cls, settings: LLCSettings, *, num_samples: int, layout: ParameterLayout, dtype: torch.dtype, **used: Any
    ) -> SamplerSettings:
        """Return the record of an estimate's settings, with the values that were really used.

        Args:
            settings: of the estimate.
            num_samples: n.
            layout: of the parameters that moved.
            dtype: type in which losses were computed.
            used: fields of the record whose values are not those of the settings.
        """
        record = used | {
            "nbeta_rule": settings.nbeta if isinstance(settings.nbeta, str) else "given",
            "num_burnin_steps": settings.burnin,
            "batch_size": min(settings.batch_size, num_samples),
            "num_samples": num_samples,
            "options": settings.options,
            "parameters": None if settings.parameters is None else layout.names,
            "num_parameters": layout.size,
            "compute_dtype": str(dtype).removeprefix("torch."),
        }
        same = {field.name for field in dataclasses.fields(cls)} - set(record)
        return cls(**record, **{name: getattr(settings, name) for name in same})

    @classmethod
    def wrong_entries(cls, values: Mapping[str, Any]) -> list[str]:
        """Return the names of entries that are missing or have another type than their field."""
        wrong = []
        for entry in dataclasses.fields(cls):
            required = entry.default is dataclasses.MISSING and entry.default_factory is dataclasses.MISSING
            if entry.name in values:
                if not _has_type(values[entry.name], str(entry.type)):
                    wrong.append(entry.name)
            elif required:
                wrong.append(entry.name)
        return wrong

    def keywords(self, nbeta: float) -> dict[str, Any]:
        """Return keyword arguments of `estimate_llc_many` that repeat the estimate.

        Args:
            nbeta: of the estimate, whatever rule it came from.
        """
        renamed = {
            "nbeta": nbeta,
            "sampler_options": dict(self.options or {}),
            "dtype": DTYPES.get(self.compute_dtype),
            "preset": f"as published ({self.preset})" if self.preset else "as published",
        }
        same = {f.name for f in dataclasses.fields(LLCSettings)} - set(renamed)
        same &= {f.name for f in dataclasses.fields(self)} - {"data"}
        return {name: getattr(self, name) for name in same} | renamed | {"members": [self.member]}

    @property
    def parameter_names(self) -> str:
        """Return the parameters that were sampled, if they are a part of the network, of many the first three."""
        names = self.parameters or ()
        return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


@dataclass(frozen=True)
class LLCResult:
    """A local learning coefficient, `llc = nβ ( E[L(w)] - L(w*) )`, dimensionless.

    Attributes:
        llc: mean over chains and kept draws; NaN where any chain diverged.
        standard_error: Monte Carlo standard error of `llc`.
        llc_per_chain: (C,).
        loss_trace: (C, T), nats: the minibatch loss of every draw, burn-in included.
        baseline_trace: (C, T), nats: the loss of w* on the same minibatches.
        init_loss: L(w*) over the whole training set, nats.
        nbeta: nβ, the inverse temperature times the number of samples.
        settings: sampler, step size and all else.
        rhat: split R-hat of the kept draws.
        ess: effective sample size of the kept draws, all chains together.
        acceptance_rate: mean Metropolis (MALA) acceptance probability; None where the sampler has none.
        status: "ok", "not_at_minimum", "not_converged" or "diverged"; rules in `status.py`.
        status_reason: one line.
        diverged_chains: the chains that left the region.
        distance_per_chain: (C,), |w - w*| at the last draw.
        weights_sha256: SHA-256 of the file that held w*, of a network that was read from one; else None, as in files of
            version 0.1.0.
        recorded: whether sampling steps ran as a recorded list of operations, which is faster than the module itself.
            None in files of version 0.1.0.
    """

    llc: float
    standard_error: float
    llc_per_chain: NDArray[np.float64]
    loss_trace: NDArray[np.float64] = field(repr=False)
    baseline_trace: NDArray[np.float64] = field(repr=False)
    init_loss: float
    nbeta: float
    settings: SamplerSettings
    rhat: float
    ess: float
    acceptance_rate: float | None
    status: str
    status_reason: str
    diverged_chains: tuple[int, ...] = ()
    distance_per_chain: NDArray[np.float64] = field(default_factory=lambda: np.empty(0), repr=False)
    weights_sha256: str | None = None
    recorded: bool | None = None

    @property
    def sampler(self) -> str:
        return self.settings.sampler

    @property
    def kept(self) -> slice:
        """Return the draws that enter the estimate."""
        return slice(self.settings.num_burnin_steps, None)

    def llc_trace(self, *, paired: bool = True) -> NDArray[np.float64]:
        """Return the contribution of each draw, nβ times the loss above w*'s, (C, T).

        Args:
            paired: above w*'s loss on the same minibatch, else above its loss on the whole training set.
        """
        baseline = self.baseline_trace if paired else self.init_loss
        return self.nbeta * (self.loss_trace - baseline)

    def estimate(self, *, paired: bool) -> tuple[float, float]:
        """Return (llc, standard error) with or without pairing, from the same draws; NaN where a chain diverged."""
        if self.diverged_chains:
            return math.nan, math.nan
        kept = self.llc_trace(paired=paired)[:, self.kept]
        return float(kept.mean()), standard_error(kept)

    def to_dict(self) -> dict[str, Any]:
        """Return all but the traces, ready for JSON. Numbers that are not finite become None."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        del fields["loss_trace"], fields["baseline_trace"]
        fields["settings"] = dataclasses.asdict(self.settings)
        return plain(fields)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write `path` (JSON) and, beside it, the traces as safetensors.

        Both appear complete or not at all. If they replace older ones, the JSON of one is never beside the traces of
        the other.
        """
        from safetensors.numpy import save

        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        traces = {"loss_trace": self.loss_trace, "baseline_trace": self.baseline_trace}
        content = save({name: np.ascontiguousarray(t) for name, t in traces.items()})
        text = json.dumps(self.to_dict() | {"traces": path.with_suffix(TRACES_SUFFIX).name}, indent=2)
        write_files({path.with_suffix(TRACES_SUFFIX): content, path: (text + "\n").encode()})
        return path

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> LLCResult:
        """Read the files that `save` wrote.

        Raises:
            ValueError: one of the files cannot be read, or holds something else.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        path = Path(path)
        try:
            fields = json.loads(path.read_text(encoding="utf-8"))
            traces = load_file(path.parent / Path(fields.pop("traces")).name)  # beside it, wherever it says
            settings = fields.pop("settings")
            if settings["parameters"] is not None:
                settings["parameters"] = tuple(settings["parameters"])
            for name in ("llc", "standard_error", "init_loss", "rhat", "ess"):
                fields[name] = math.nan if fields[name] is None else fields[name]
            for name in ("llc_per_chain", "distance_per_chain"):
                fields[name] = np.array([math.nan if x is None else x for x in fields[name]], dtype=np.float64)
            fields["diverged_chains"] = tuple(fields["diverged_chains"])
            result = cls(settings=SamplerSettings(**settings), **fields, **dict[str, Any](traces))
            _check_fields(result)
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError, SafetensorError) as error:
            problem = f"no LLC result with its traces ({type(error).__name__}: {error})"
            raise InputError("file", str(path), problem) from error
        return result

    def summary(self) -> str:
        """Return a table of lines for people: estimate, status, settings, diagnostics."""
        settings = self.settings
        rows = {"RLCT": f"{self.llc:.3f} ± {self.standard_error:.3f} (standard error)"}
        if settings.parameters is not None:
            rows["of"] = f"the parameters {settings.parameter_names} alone"
        first = f"the first {settings.num_burnin_steps} left out"
        rows |= {
            "status": f"{self.status}: {self.status_reason}",
            "nβ": f"{self.nbeta:.3f} ({settings.nbeta_rule})",
            "sampler": f"{settings.sampler}, step size {settings.step_size:g}, localization {settings.localization:g}",
            "draws": f"{settings.num_chains} chains x {settings.num_draws}, {first}",
            "R-hat, ESS": f"{self.rhat:.3f}, {self.ess:.0f}",
            "preset": str(settings.preset),
            "data": f"{settings.data}, {settings.num_samples} samples",
            "loss at w*": f"{self.init_loss:.5f}",
        }
        return "\n".join(f"{name:22}{value}" for name, value in rows.items())

    def plot(self, path: str | os.PathLike[str] | None = None) -> Any:
        """Plot the traces, the kept part shaded, save them to `path` if given, and return the matplotlib figure."""
        from .plots import plot_traces

        title = f"LLC {self.llc:.4g} ± {self.standard_error:.2g}, {self.status}"
        trace = self.llc_trace(paired=self.settings.paired)
        return plot_traces(trace, self.llc_per_chain, self.settings.num_burnin_steps, self.llc, title, path)


def _check_fields(result: LLCResult) -> None:
    """Raise a ValueError for fields of other types, and traces of other shapes, than `save` writes."""
    wrong = SamplerSettings.wrong_entries(vars(result.settings))
    wrong += [name for name, is_right in _fields_are_right(result).items() if not is_right]
    if wrong:
        raise ValueError(f"{', '.join(wrong)}: of a wrong type or shape")


def _fields_are_right(result: LLCResult) -> dict[str, bool]:
    """Return whether each field has its type, and whether those that describe chains fit each other."""
    settings, chains = result.settings, len(result.llc_per_chain)
    right = {}
    for name in ("llc", "standard_error", "init_loss", "nbeta", "rhat", "ess"):
        right[name] = _number(getattr(result, name))
    right["status_reason"] = isinstance(result.status_reason, str)
    right["weights_sha256"] = isinstance(result.weights_sha256, (str, type(None)))
    right["recorded"] = isinstance(result.recorded, (bool, type(None)))
    right["status"] = result.status in STATUSES
    diverged = [chain for chain in range(chains) if chain in result.diverged_chains]
    finite = bool(np.isfinite(np.delete(result.llc_per_chain, diverged)).all())
    right["llc_per_chain"] = settings.num_chains == chains > 0 and finite
    right["distance_per_chain"] = len(result.distance_per_chain) in (0, chains)
    numbered = all(isinstance(chain, int) and 0 <= chain < chains for chain in result.diverged_chains)
    right["diverged_chains"] = numbered and bool(result.diverged_chains) == (result.status == DIVERGED)
    for name in ("loss_trace", "baseline_trace"):
        trace = getattr(result, name)
        right[name] = trace.shape == (chains, settings.num_draws) and trace.dtype.kind == "f"
    return right


def _number(value: Any) -> bool:
    """Return whether this is a number, and no truth value."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _has_type(value: Any, annotation: str) -> bool:
    """Return whether a value is of the type that a field of `SamplerSettings` is annotated with."""
    if value is None:
        return "None" in annotation
    if annotation.startswith("Mapping"):
        return isinstance(value, Mapping) and all(map(_number, value.values()))
    if annotation.startswith("tuple"):
        return isinstance(value, (list, tuple)) and all(isinstance(name, str) for name in value)
    kind = annotation.partition(" ")[0]
    if kind in ("str", "bool"):
        return isinstance(value, {"str": str, "bool": bool}[kind])
    return _number(value) and (kind == "float" or isinstance(value, int))


def summarize(kept: NDArray[np.float64]) -> tuple[float, float, float, float]:
    """Return mean, standard error, R-hat and ESS of draws (C, T)."""
    return float(kept.mean()), standard_error(kept), split_rhat(kept), effective_sample_size(kept)
