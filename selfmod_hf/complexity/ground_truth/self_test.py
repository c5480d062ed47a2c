"""Estimate models of known learning coefficient, calibrated by rule, to see that the estimator is right here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..calibration import LLCCalibration, calibrate_llc
from .deep_linear import deep_linear
from .known import GroundTruth
from .normal_crossing import normal_crossing
from .regular import regular


@dataclass(frozen=True)
class SelfTest:
    """Hold one model's estimate and the truth."""

    case: GroundTruth
    found: LLCCalibration

    @property
    def relative_difference(self) -> float | None:
        """Return (estimate - truth) / truth. None: the estimate is not "ok" and says nothing about the truth."""
        if self.found.result.status != "ok":
            return None
        return self.found.llc / self.case.learning_coefficient - 1


def self_test(num_draws: int = 2000, seed: int = 0) -> Iterator[SelfTest]:
    """Yield an estimate of each of five models, one after another.

    Args:
        num_draws: of each chain.
        seed: of all random numbers.
    """
    cases = [
        regular(20),
        regular(5, 4),
        normal_crossing(1, 2),
        deep_linear([8, 6, 5], 3),
        deep_linear([10, 8, 8, 6], 2),
    ]
    for case in cases:
        found = calibrate_llc(
            case.model,
            case.inputs,
            case.targets,
            loss_fn=case.loss_fn,
            num_draws=num_draws,
            seed=seed,
        )
        yield SelfTest(case, found)
