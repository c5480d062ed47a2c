"""Report the progress of several rounds of chains as that of one computation."""

from __future__ import annotations

from collections.abc import Callable


class RoundsProgress:
    """Pass on the steps of rounds.

    Args:
        report: called with (steps done, steps in all). Its method `estimate`, if it has one, is passed on.
    """

    def __init__(self, report: Callable[[int, int], None]) -> None:
        self._report = report
        self._before = 0  # steps of the rounds before
        self._done = 0
        self._total = 0
        if hasattr(report, "estimate"):
            self.estimate = report.estimate

    def expect(self, steps: int) -> None:
        """Report that this many steps follow those that are done. The rounds may take fewer."""
        self._total = self._done + steps
        self._report(self._done, self._total)

    def begin_round(self) -> None:
        """Count the steps of a new round from 0."""
        self._before = self._done

    def __call__(self, done: int, total: int) -> None:
        """Report the steps of this round."""
        self._done = self._before + done
        self._total = max(self._total, self._before + total)
        self._report(self._done, self._total)

    def end(self) -> None:
        """Report that no more steps follow."""
        if self._total > self._done:
            self._total = self._done
            self._report(self._done, self._total)
