"""Compare each arm with its baseline at equal training loss.

A network that was trained less is narrower and has a smaller RLCT, whatever its auxiliary task. So a difference that
the training loss explains is no effect of the arm. There are two ways to take the loss out:

* "stopped": the study has an arm that stops at the arm's training loss (`stop_at_train_loss`). Both arms are compared
  after their training. Networks that never reached the loss are left out.
* "curves": the baseline's value after the epoch whose classification loss is nearest to the arm's last one, seed by
  seed. The RLCT has this way only if RLCTs were estimated while training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from pandas import DataFrame, Series

from ..experiments.arms import STOP, Arm, stop_arm
from .comparisons import NOTHING, TEST, Comparison, arms_by_panel, compare, holm, share_seeds
from .statistics import NAN, seeds_by_arm, usable, values_by_arm

SIMPLICITY = ("rlct", "weight_width")  # the measures that are compared at equal loss
STOPPED, CURVES, UNKNOWN = "stopped", "curves", ""
UNTESTED = Comparison("none (no way to compare)")


@dataclass(frozen=True)
class EqualLoss:
    """Hold an arm's comparison at equal training loss.

    Attributes:
        way: STOPPED or CURVES. UNKNOWN: the study cannot tell.
        other: name of the arm that it is compared with, at equal loss.
        own: values of the arm by seed.
        of_other: values of the other one by seed.
        share: part of the arm's difference from its baseline that remains, over the same seeds. NaN: there is no such
            difference.
        loss: mean training loss of the arm, nats.
        other_loss: mean training loss of the other networks.
    """

    way: str = UNKNOWN
    other: str = ""
    own: Series = field(default_factory=lambda: NOTHING)
    of_other: Series = field(default_factory=lambda: NOTHING)
    share: float = NAN
    loss: float = NAN
    other_loss: float = NAN


def compare_at_equal_loss(rows: DataFrame, curves: DataFrame, study: Sequence[Arm]) -> DataFrame:
    """Return one row per arm and measure of SIMPLICITY: its comparison at equal training loss.

    Baselines, and arms that stop at the loss of another arm, have no row. `p_holm` is corrected by Holm over the arms
    of one panel and measure.

    Args:
        rows: one row per network.
        curves: one row per network and epoch, from `mark_curves`.
        study: the arms, with their panels and baselines.
    """
    entries: list[tuple[object, ...]] = []
    seeds = seeds_by_arm(rows)
    for measure in SIMPLICITY:
        compared = _Measured.of(rows, curves, study, measure)
        for panel, arms in arms_by_panel(study).items():
            judged = [arm for arm in arms if arm.name in seeds and STOP not in arm.changes]
            found = [compared.at_equal_loss(arm) for arm in judged]
            tests = []
            for arm, one in zip(judged, found, strict=True):
                pairs = share_seeds(seeds, arm.name, one.other)
                tests.append(compare(one.own, one.of_other, pairs) if one.way else UNTESTED)
            corrected = holm([test.p for test in tests])
            for arm, one, test, p_holm in zip(judged, found, tests, corrected, strict=True):
                numbers = asdict(test).values()
                entry = (
                    arm.name,
                    panel,
                    measure,
                    one.way,
                    one.other,
                    *numbers,
                    p_holm,
                    one.share,
                    one.loss,
                    one.other_loss,
                )
                entries.append(entry)
    columns = [
        "arm",
        "panel",
        "measure",
        "way",
        "other",
        *TEST,
        "share",
        "loss",
        "other_loss",
    ]
    return DataFrame(entries, columns=columns)


def never_stopped(rows: DataFrame) -> Series:
    """Return which networks have a stopping rule that never ended their training."""
    if STOP not in rows or "stopped_epoch" not in rows:
        return Series(False, index=rows.index)
    return rows[STOP].notna() & rows["stopped_epoch"].isna()


@dataclass(frozen=True)
class _Measured:
    """Hold the values of a measure, by arm and seed.

    Attributes:
        study: the arms.
        values: after training.
        at_stop: the same without networks whose stopping rule never ended their training.
        losses: training losses.
        followed: values after epochs.
    """

    study: Sequence[Arm]
    values: dict[str, Series]
    at_stop: dict[str, Series]
    losses: dict[str, Series]
    followed: _Followed

    @classmethod
    def of(cls, rows: DataFrame, curves: DataFrame, study: Sequence[Arm], measure: str) -> _Measured:
        """Return the values of a measure."""
        losses: dict[str, Series] = {}
        if "train_loss" in rows:
            losses = values_by_arm(rows, "train_loss")
        arrived = rows[~never_stopped(rows)]
        return cls(
            study,
            values_by_arm(rows, measure),
            values_by_arm(arrived, measure),
            losses,
            _Followed.of(curves, measure),
        )

    def at_equal_loss(self, arm: Arm) -> EqualLoss:
        """Compare an arm with the one that stops at its training loss, or else with its baseline's curve."""
        for other in self.study:
            if stop_arm(other) == arm.name and other.name in self.at_stop:
                return self._with_stopped(arm, other.name)
        return self.followed.compare(arm, self.values)

    def _with_stopped(self, arm: Arm, stopped: str) -> EqualLoss:
        own = self.values.get(arm.name, NOTHING)
        other = self.at_stop[stopped]
        baseline = self.values.get(arm.baseline, NOTHING)
        return EqualLoss(
            STOPPED,
            stopped,
            own,
            other,
            remaining_share(own, other, baseline),
            _mean(self.losses.get(arm.name, NOTHING)),
            _mean(self.losses.get(stopped, NOTHING)),
        )


def remaining_share(own: Series, other: Series, baseline: Series) -> float:
    """Return the part of an arm's difference from its baseline that remains against the other arm.

    Args:
        own: values of the arm by seed.
        other: of the other arm.
        baseline: of the baseline. The means are over the seeds of all three, or over all values if there are none.

    Example:
        >>> remaining_share(Series([7.0]), Series([9.0]), Series([11.0]))
        0.5
    """
    shared = own.index.intersection(other.index).intersection(baseline.index)
    if len(shared):
        own, other, baseline = own[shared], other[shared], baseline[shared]
    difference = float(own.mean() - baseline.mean())
    if own.empty or other.empty or baseline.empty or difference == 0:
        return NAN
    return float(own.mean() - other.mean()) / difference


def _mean(values: Series) -> float:
    return float(values.mean()) if len(values) else NAN


@dataclass(frozen=True)
class _Followed:
    """Hold the epochs after which a measure was taken.

    Attributes:
        measure: its column.
        last: classification loss of each network after its last epoch, by arm and seed.
        epochs: usable epochs of each network, by arm and seed.
    """

    measure: str
    last: Series
    epochs: dict[tuple[str, int], DataFrame]

    @classmethod
    def of(cls, curves: DataFrame, measure: str) -> _Followed:
        """Return the epochs of a measure. There are none if it was not followed."""
        if measure not in curves or "classification_loss" not in curves:
            return cls(measure, NOTHING, {})
        if measure == "rlct" and "rlct_status" not in curves:
            return cls(measure, NOTHING, {})
        ordered = curves.sort_values("epoch")
        last = ordered.groupby(["arm", "seed"])["classification_loss"].last()
        known = usable(ordered, measure)
        known = known[known["classification_loss"].notna()]
        epochs = dict(list(known.groupby(["arm", "seed"])))
        return cls(measure, last.dropna(), epochs)

    def compare(self, arm: Arm, values: dict[str, Series]) -> EqualLoss:
        """Compare an arm with the epochs of its baseline of nearest loss."""
        own = values.get(arm.name, NOTHING)
        losses, other, other_losses = {}, {}, {}
        for seed in own.index:
            loss = self.last.get((arm.name, seed))
            epochs = self.epochs.get((arm.baseline, seed))
            if loss is None or epochs is None or len(epochs) < 2:
                continue  # a single epoch is the baseline itself
            nearest = (epochs["classification_loss"] - loss).abs().idxmin()
            losses[seed] = float(loss)
            other[seed] = float(epochs.at[nearest, self.measure])
            other_losses[seed] = float(epochs.at[nearest, "classification_loss"])
        if not other:
            return EqualLoss()
        at_equal_loss = Series(other)
        return EqualLoss(
            CURVES,
            arm.baseline,
            own[list(other)],
            at_equal_loss,
            remaining_share(own, at_equal_loss, values.get(arm.baseline, NOTHING)),
            _mean(Series(losses)),
            _mean(Series(other_losses)),
        )
