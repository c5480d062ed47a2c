"""Estimate models of known learning coefficient, calibrated by rule, to see that the estimator is right here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..calibration import LLCCalibration, calibrate_llc
from ..result import OK
from .deep_linear import deep_linear
from .generic_linear import generic_deep_linear, with_noise
from .known import GroundTruth
from .normal_crossing import normal_crossing
from .regular import linear_regression, regular
from .relu import relu_teacher
from .softmax import softmax_regression

WRONG_RELATIVE = 0.1  # an "ok" estimate further than this part of the truth from it is wrong
WRONG_ERRORS = 3.0  # unless it is within this many standard errors
WRONG_LEAST = 0.05  # or, for small values, within so many nats
RIGHT_SHARE = 0.5  # more than this part of the estimates must be "ok", else nothing was shown
NUM_DRAWS = 2000
HEADER = f"{'model':52} {'truth':>8} {'estimate':>9} {'error':>8} {'difference':>10}"


@dataclass(frozen=True)
class SelfTest:
    """Hold one model's estimate and the truth."""

    case: GroundTruth
    found: LLCCalibration

    @property
    def truth(self) -> float:
        """Return the value that the estimate should have, see `GroundTruth.truth`."""
        return self.case.truth(self.found.result.nbeta)

    @property
    def status(self) -> str:
        """Return the status of the estimate."""
        return self.found.status

    @property
    def relative_difference(self) -> float | None:
        """Return (estimate - truth) / truth. None: the estimate is not "ok" and says nothing about the truth."""
        if self.status != OK:
            return None
        return self.found.llc / self.truth - 1

    @property
    def is_wrong(self) -> bool:
        """Return whether the estimate is "ok" and further from the truth than 10 %, 3 errors and 0.05 nats.

        A wide interval is no excuse for "ok".
        """
        if self.status != OK:
            return False
        errors = WRONG_ERRORS * self.found.standard_error
        relative = WRONG_RELATIVE * self.truth
        allowed = max(errors, relative, WRONG_LEAST)
        return abs(self.found.llc - self.truth) > allowed

    @property
    def difference(self) -> str:
        """Return the difference in percent as text, or the status."""
        relative = self.relative_difference
        if relative is None:
            return self.status
        return f"{100 * relative:+.1f} %"

    def line(self) -> str:
        """Return a line of the table under `HEADER`."""
        numbers = f"{self.truth:>8.3f} {self.found.llc:>9.3f} {self.found.standard_error:>8.3f}"
        return f"{self.case.name:52} {numbers} {self.difference:>10}"


def verdict(rows: Sequence[SelfTest]) -> tuple[bool, str]:
    """Return whether the estimates agree with the truth, and one line that says so or why not.

    They agree if none is "ok" and wrong, and more than half are "ok". An estimate that is not "ok" is not wrong,
    because it is marked. But it shows nothing either.

    Raises:
        ValueError: no rows.
    """
    if not rows:
        raise ValueError("rows=[]: must be one estimate or more")
    wrong = [row for row in rows if row.is_wrong]
    marked = sum(row.status != OK for row in rows)
    if wrong:
        named = "; ".join(f"{row.case.name}: ok and {row.difference}" for row in wrong)
        return False, f"WRONG: {named}"
    right = len(rows) - marked
    text = f"{right} of {len(rows)} agree with the truth, {marked} are marked as not ok"
    if right > RIGHT_SHARE * len(rows):
        return True, f"RIGHT: {text}"
    return False, f"UNDECIDED: {text}: take more draws"


def self_test(num_draws: int | None = None, seed: int = 0, device: str | None = None) -> Iterator[SelfTest]:
    """Yield an estimate of each of nine models, one after another.

    Args:
        num_draws: of each chain. None: 2,000.
        seed: of all random numbers.
        device: of the computation. None: the CPU.
    """
    if num_draws is None:
        num_draws = NUM_DRAWS
    cases = [
        regular(20),
        regular(5, 4),
        linear_regression(20),
        softmax_regression(6, 4),
        normal_crossing(1, 2),
        deep_linear([8, 6, 5], 3),
        deep_linear([10, 8, 8, 6], 2),
        with_noise(generic_deep_linear([8, 6, 5], 3), 1.0),
        relu_teacher((5, 3, 3), dead=4),
    ]
    for case in cases:
        found = calibrate_llc(
            case.model,
            case.inputs,
            case.targets,
            loss_fn=case.loss_fn,
            num_draws=num_draws,
            seed=seed,
            device=device,
        )
        yield SelfTest(case, found)
