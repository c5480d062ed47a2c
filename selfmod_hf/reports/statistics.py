"""Compute means and intervals of a study's arms. `comparisons.py` compares arms, and `trends.py` follows an axis.

The samples of an arm are its seeds. One set of networks is behind all figures of an arm: mean RLCT, width, accuracy,
loss, and pairs. `usable` chooses it. The choice is not by the relative standard error, because that leaves out small
RLCTs first, and so raises the mean of the simplest arms. It can still depend on the size of an RLCT: not_at_minimum
begins where nβ L near w* is lower by 10 % of the RLCT (at least a floor of up to 0.25 nats), so the same lower loss
leaves out a small RLCT and keeps a large one.
`with_every_rlct` and `only_ok` give the two other sets: all networks with an RLCT, and those whose RLCT is "ok".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from pandas import DataFrame, Series
from scipy import stats

from ..complexity.result import DIVERGED, NOT_AT_MINIMUM, OK
from ..experiments.chance import main_metric
from ..experiments.folder import KEYS

MEASURES = ("weight_width", "accuracy", "rlct", "train_loss")  # of each study of classes
ARM = ["hidden_size", "detach_targets", "aux_weight"]  # the axes of the paper's studies
NO_COMPLEXITY = (NOT_AT_MINIMUM, DIVERGED)  # statuses of numbers that measure no complexity
LEVEL = 0.95
INTERVAL = ["mean", "low", "high"]
NAN = float("nan")


def main_measures(rows: DataFrame) -> tuple[str, ...]:
    """Return the measures of each study, with the metric that this study compares. It may have further ones.

    Example:
        >>> main_measures(DataFrame({"metric": ["perplexity"], "perplexity": [20.0]}))
        ('weight_width', 'perplexity', 'rlct', 'train_loss')
    """
    metric = main_metric(rows)
    return "weight_width", metric, "rlct", "train_loss"


# ---- networks that count ----


def is_trained(rows: DataFrame) -> Series:
    """Return whether each network has finite weights and is above chance level (`SweepFolder.chance_level`)."""
    # a network with NaN weights predicts class 0 for every sample, so its accuracy is that class's share
    is_finite = rows["weight_width"].notna()
    if "at_chance" in rows:
        return is_finite & ~rows["at_chance"]
    return is_finite


def has_usable_rlct(rows: DataFrame) -> Series:
    """Return whether each network has an RLCT that measures a complexity: neither not_at_minimum nor diverged."""
    return rows["rlct"].notna() & ~rows["rlct_status"].isin(NO_COMPLEXITY)


def usable(rows: DataFrame, measure: str) -> DataFrame:
    """Return the rows of the networks that count and have the measure. Those that count are the same for all measures.

    Networks at chance level do not count, and neither do networks with weights that are not finite. In an arm with
    usable RLCTs only the networks with one count. An arm without any keeps its networks, so that its metric is known.
    Curves are those of the networks that count. Their rows with RLCTs are chosen likewise for each arm and epoch.
    """
    has_measure = rows[measure].notna()
    if measure == "rlct" and "rlct_status" in rows:
        has_measure = has_usable_rlct(rows)
    return rows[is_counted(rows) & has_measure]


def is_counted(rows: DataFrame) -> Series:
    """Return whether each network counts, see `usable`."""
    found = is_trained(rows)
    if "is_counted" in rows:  # of curves, from `mark_curves`
        found &= rows["is_counted"]
    if "rlct" not in rows or "rlct_status" not in rows:
        return found
    has_rlct = has_usable_rlct(rows)
    keys = [rows[name] for name in ("arm", "epoch") if name in rows]
    both = found & has_rlct
    exists = both.groupby(keys).transform("any").astype(bool)
    return found & (has_rlct | ~exists)


def counts_without_rlct(rows: DataFrame) -> Series:
    """Return whether each network counts for all measures except the RLCT, because no RLCT of its arm is usable."""
    return is_counted(rows) & ~has_usable_rlct(rows)


def with_every_rlct(rows: DataFrame) -> DataFrame:
    """Return the rows with each estimated RLCT marked as usable, whatever its status and its network's metric."""
    is_estimated = rows["rlct"].notna()
    status = rows["rlct_status"].mask(is_estimated, OK)
    return rows.assign(rlct_status=status, at_chance=False)


def only_ok(rows: DataFrame) -> DataFrame:
    """Return the rows without the RLCTs of another status than "ok"."""
    is_ok = rows["rlct_status"] == OK
    return rows.assign(rlct=rows["rlct"].where(is_ok))


def count_not_ok(rows: DataFrame) -> int:
    """Return how many RLCTs have another status than "ok"."""
    return int((rows["rlct_status"] != OK).sum())


def measured(rows: DataFrame, measures: Sequence[str]) -> list[str]:
    """Return the measures that a table has."""
    return [measure for measure in measures if measure in rows]


def values_by_arm(rows: DataFrame, measure: str) -> dict[str, Series]:
    """Return the usable values of each arm, by seed and in the order of the seeds.

    Example:
        >>> rows = DataFrame({"arm": ["a", "a"], "seed": [2, 1], "weight_width": [0.3, 0.2]})
        >>> values_by_arm(rows, "weight_width")["a"].tolist()
        [0.2, 0.3]
    """
    by_seed = usable(rows, measure).sort_values("seed").set_index("seed")
    values = by_seed[measure].astype(float)
    return {str(name): own for name, own in values.groupby(by_seed["arm"], sort=False)}


def seeds_by_arm(rows: DataFrame) -> dict[str, set[int]]:
    """Return the seeds of each arm, those of networks that do not count too."""
    return {str(name): set(own["seed"]) for name, own in rows.groupby("arm", sort=False)}


def mark_curves(curves: DataFrame, rows: DataFrame) -> DataFrame:
    """Return the curves with the columns `at_chance` and `is_counted` of their networks.

    Args:
        curves: one row per network and epoch.
        rows: one row per network, from `SweepFolder.rows`.
    """
    marks = rows[[*KEYS, "at_chance"]].assign(is_counted=is_counted(rows))
    marked = curves.merge(marks, on=KEYS, how="left")
    # a curve without its row has no marks
    marked["at_chance"] = marked["at_chance"].eq(True)
    marked["is_counted"] = marked["is_counted"].ne(False)
    return marked


# ---- means ----


def mean_interval(values: np.ndarray) -> tuple[float, float, float]:
    """Return mean, lower and upper bound of Student's 95 % t interval. The bounds of fewer than two values are NaN."""
    if len(values) == 0:
        return NAN, NAN, NAN
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, NAN, NAN
    error = float(stats.sem(values))
    if error == 0:
        return mean, mean, mean
    low, high = stats.t.interval(
        LEVEL,
        len(values) - 1,
        loc=mean,
        scale=error,
    )
    return mean, float(low), float(high)


def axis_values(arm: DataFrame, names: Sequence[str]) -> list[Any]:
    """Return the values on some axes of one arm, which are the same for all of its networks."""
    return [arm[name].iloc[0] for name in names]


def summarize_arms(rows: DataFrame, measures: Sequence[str] = MEASURES) -> DataFrame:
    """Return one row per arm and measure: mean, 95 % interval (low, high), count, left_out.

    Args:
        rows: one row per network. The arms keep their order.
        measures: columns of the rows. Missing ones are left out.
    """
    entries = []
    values = {measure: values_by_arm(rows, measure) for measure in measured(rows, measures)}
    empty = Series(dtype=float)
    for name, arm in rows.groupby("arm", sort=False):
        keys = axis_values(arm, ARM)
        for measure, by_arm in values.items():
            own = by_arm.get(str(name), empty)
            count = len(own)
            left_out = len(arm) - count
            interval = mean_interval(own.to_numpy())
            entries.append((name, *keys, measure, *interval, count, left_out))
    columns = [
        "arm",
        *ARM,
        "measure",
        *INTERVAL,
        "count",
        "left_out",
    ]
    return as_table(entries, columns)


def summarize_epochs(curves: DataFrame) -> DataFrame:
    """Return one row per arm, measure and epoch: mean and 95 % interval (low, high) over seeds, and their count.

    Args:
        curves: one row per network and epoch. A measure that was not followed while training has no column.
    """
    entries = []
    for measure in measured(curves, main_measures(curves)):
        for name, arm in usable(curves, measure).groupby("arm", sort=False):
            keys = axis_values(arm, ARM)
            for epoch, values in arm.groupby("epoch")[measure]:
                interval = mean_interval(values.to_numpy(float))
                entries.append((measure, name, *keys, epoch, *interval, len(values)))
    columns = [
        "measure",
        "arm",
        *ARM,
        "epoch",
        *INTERVAL,
        "count",
    ]
    return as_table(entries, columns)


def as_table(entries: Sequence[Sequence[object]], columns: Sequence[str]) -> DataFrame:
    """Return a table of arms. Widths are integers, also if networks without a hidden layer have none."""
    table = DataFrame(entries, columns=list(columns))
    if "hidden_size" in table and table["hidden_size"].isna().any():
        return table.astype({"hidden_size": "Int64"})
    return table
