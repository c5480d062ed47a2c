"""`SamplerSettings`: the record of all settings behind an estimate, as rlct.json keeps it."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from ..errors import InputError
from ..stacking import CHOSEN_NUMBERS
from .input_checks import check
from .presets import DECIDING, of_paper
from .settings import DTYPES, LLCSettings

AT_ANCHOR, EARLIER = "w*", "earlier rounds"  # where chains start
_IF_UNUSUAL = (
    "heads",
    "start",
    "directions",
    "shared_minibatches",
)  # left out of files otherwise, as in those of before they were
_SHOWN = 3  # names of parameters in a text


@dataclass(frozen=True)
class SamplerSettings:
    """Hold all settings behind the numbers of a run. The network and the data are not among them.

    `data` describes the inputs for people: id, configuration, split. None: not given. `heads` are the attention heads
    (``module:numbers``) whose masks are the `parameters`. None: parameters were chosen otherwise, or all were sampled.
    `start` says where the chains began: at w*, or where the earlier rounds of a calibration ended. `directions` is the
    number of directions in the preconditioner of a sampler, if the memory budget allowed fewer than usual.
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
    control_variate: bool = False  # whether it was used
    minimize: bool = False
    data: str | None = None  # files from before it was kept have none
    heads: tuple[str, ...] | None = None
    start: str = AT_ANCHOR
    directions: int | None = None
    shared_minibatches: bool = False

    @classmethod
    def of(
        cls,
        settings: LLCSettings,
        *,
        num_samples: int,
        names: Sequence[str],
        dtype: torch.dtype,
        **used: Any,
    ) -> SamplerSettings:
        """Return the record of an estimate's settings, with the values really used.

        Args:
            settings: of the estimate.
            num_samples: n.
            names: of the sampled parameters, for people.
            dtype: type of the computation of losses.
            used: fields of the record with other values than in the settings.
        """
        record: dict[str, Any] = {
            **used,
            "nbeta_rule": "given",
            "num_burnin_steps": settings.burnin,
            "batch_size": min(settings.batch_size, num_samples),
            "num_samples": num_samples,
            "options": settings.options,
            "control_variate": settings.corrects(num_samples),
            "parameters": None,
            "compute_dtype": str(dtype).removeprefix("torch."),
        }
        if isinstance(settings.nbeta, str):
            record["nbeta_rule"] = settings.nbeta
        if settings.parameters is not None:
            record["parameters"] = tuple(names)
        for entry in dataclasses.fields(cls):
            if entry.name not in record and hasattr(settings, entry.name):
                record[entry.name] = getattr(settings, entry.name)
        return cls(**record)

    @property
    def of_paper(self) -> bool:
        """Return whether the estimate is one of the paper's, which compare networks."""
        sampling = {name: getattr(self, name) for name in DECIDING if name != "nbeta"}
        return of_paper(self.preset, sampling | {"nbeta": self.nbeta_rule}, self.num_samples)

    def to_dict(self) -> dict[str, Any]:
        """Return all fields by name, those of `_IF_UNUSUAL` only if they are unusual."""
        values = dataclasses.asdict(self)
        for entry in dataclasses.fields(self):
            if entry.name in _IF_UNUSUAL and values[entry.name] == entry.default:
                del values[entry.name]
        return values

    def keywords(self, nbeta: float, parameters: Any = None) -> dict[str, Any]:
        """Return keyword arguments of `estimate_llc_many` for a repetition of the estimate.

        They are those of `estimate_rlct` if heads were sampled: `heads` are among them then.

        Args:
            nbeta: of the estimate, whatever rule it came from.
            parameters: in place of the recorded names. They are needed after an estimate with masks.

        Raises:
            InputError: the estimate had masks, and no `parameters` are given. Or the chains did not
                start at w*, so that the settings do not give them again.
        """
        allowed = f"{AT_ANCHOR!r} for a repetition: its chains continued those of a calibration, so calibrate again"
        check("start", self.start, self.start == AT_ANCHOR, allowed)
        preset = "as published"
        if self.preset:
            preset += f" ({self.preset})"
        keywords: dict[str, Any] = {
            "members": [self.member],
            "nbeta": nbeta,
            "sampler_options": dict(self.options or {}),
            "dtype": DTYPES.get(self.compute_dtype),
            "preset": preset,
        }
        for setting in dataclasses.fields(LLCSettings):
            name = setting.name
            if name not in keywords and name != "data" and hasattr(self, name):
                keywords[name] = getattr(self, name)
        if parameters is not None:
            keywords["parameters"] = parameters
        elif self.heads is not None:
            del keywords["parameters"]
            keywords["heads"] = list(self.heads)
        else:
            self._check_without_masks()
        return keywords

    def _check_without_masks(self) -> None:
        """Raise an InputError if masks chose numbers of a parameter."""
        for name in self.parameters or ():
            if CHOSEN_NUMBERS in name:
                problem = "the estimate had masks, of which only names are recorded; give `parameters` again"
                raise InputError("parameters", name, problem)

    @property
    def parameter_names(self) -> str:
        """Return the sampled part of the network, or an empty text. Equal texts have equal parts.

        Heads are named as such. Of many parameters only the first three are named, and a digest stands for the others.
        """
        if self.heads is not None:
            heads = ", ".join(self.heads)
            return f"heads {heads}"
        names = self.parameters or ()
        text = ", ".join(names[:_SHOWN])
        more = len(names) - _SHOWN
        if more > 0:
            digest = hashlib.sha256("\n".join(names).encode()).hexdigest()
            text += f" and {more} more ({digest[:6]})"
        return text

    @property
    def part(self) -> str:
        """Return the same with its kind, for a sentence."""
        names = self.parameter_names
        if not names:
            return ""
        if self.heads is not None:
            return f"the {names}"
        return f"the parameters {names}"
