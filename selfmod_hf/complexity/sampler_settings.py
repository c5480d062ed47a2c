"""`SamplerSettings`: the record of all settings behind an estimate, as rlct.json keeps it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from ..stacking import ParameterLayout, readable_name
from .settings import DTYPES, LLCSettings


@dataclass(frozen=True)
class SamplerSettings:
    """Hold all settings behind the numbers of a run. The network and the data are not among them.

    `data` describes the inputs for people: id, configuration, split. None: not given.
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

    @classmethod
    def of(
        cls,
        settings: LLCSettings,
        *,
        num_samples: int,
        layout: ParameterLayout,
        dtype: torch.dtype,
        **used: Any,
    ) -> SamplerSettings:
        """Return the record of an estimate's settings, with the values really used.

        Args:
            settings: of the estimate.
            num_samples: n.
            layout: of the sampled parameters.
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
            "num_parameters": layout.size,
            "compute_dtype": str(dtype).removeprefix("torch."),
        }
        if isinstance(settings.nbeta, str):
            record["nbeta_rule"] = settings.nbeta
        if settings.parameters is not None:
            record["parameters"] = tuple(map(readable_name, layout.names, layout.sizes))
        for entry in dataclasses.fields(cls):
            if entry.name not in record:
                record[entry.name] = getattr(settings, entry.name)
        return cls(**record)

    def keywords(self, nbeta: float) -> dict[str, Any]:
        """Return keyword arguments of `estimate_llc_many` for a repetition of the estimate.

        Args:
            nbeta: of the estimate, whatever rule it came from.
        """
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
        return keywords

    @property
    def parameter_names(self) -> str:
        """Return the sampled parameters, if they are a part of the network. Of many only the first three are named."""
        names = self.parameters or ()
        text = ", ".join(names[:3])
        more = len(names) - 3
        if more > 0:
            text += f" and {more} more"
        return text
