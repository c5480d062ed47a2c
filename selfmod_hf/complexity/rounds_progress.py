"""Report the progress of several rounds of chains as that of one computation."""

from __future__ import annotations

from .distributed import my_chains
from .settings import LLCSettings


class RoundsProgress:
    """Pass on the steps of rounds to `settings.progress`. Nothing is reported if that is None.

    Args:
        settings: of the estimate.
    """

    def __init__(self, settings: LLCSettings) -> None:
        self._report = settings.progress
        self._steps = settings.num_draws * len(my_chains(settings.num_chains))  # of a cell with `num_draws`
        self._before = 0  # steps of the rounds before
        self._done = 0
        self._total = 0
        estimate = getattr(self._report, "estimate", None)
        if estimate is not None:
            self.estimate = estimate

    def expect(self, share: float) -> None:
        """Report that this many draws of all cells follow, as a multiple of num_draws. The rounds may take fewer."""
        self._total = self._done + round(share * self._steps)
        self._pass_on()

    def of_round(self) -> RoundsProgress | None:
        """Return the `progress` of a new round, which counts from 0. None: nothing is reported."""
        self._before = self._done
        return None if self._report is None else self

    def __call__(self, done: int, total: int) -> None:
        """Report the steps of this round."""
        self._done = self._before + done
        self._total = max(self._total, self._before + total)
        self._pass_on()

    def end(self) -> None:
        """Report that no more steps follow."""
        if self._total > self._done:
            self._total = self._done
            self._pass_on()

    def _pass_on(self) -> None:
        if self._report is not None:
            self._report(self._done, self._total)
