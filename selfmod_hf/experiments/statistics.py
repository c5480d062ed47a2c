"""What the cells of a sweep say: intervals per arm, tests against the baseline, trends over the self-model's weight.

An arm is one width, one self-model weight and one kind of targets; its samples are the seeds. Counted and left out of
every figure are RLCTs whose status is not "ok", and widths and accuracies of networks whose weights are not finite. So
are networks at chance level (`SweepFolder.chance_level`), which have learned nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .folder import KEYS

if TYPE_CHECKING:
    import pandas as pd

MEASURES = ("weight_width", "accuracy", "rlct")
ARM = ["hidden_size", "detach_targets", "aux_weight"]
LEVEL = 0.95


def usable(rows: pd.DataFrame, measure: str) -> pd.DataFrame:
    """Return the rows that count for a measure."""
    if "at_chance" in rows:
        rows = rows[~rows["at_chance"]]
    rows = rows[rows[measure].notna()]
    if measure == "accuracy":  # of weights that are NaN it would be the share of class 0
        rows = rows[rows["weight_width"].notna()]
    return rows[rows["rlct_status"] == "ok"] if measure == "rlct" else rows


def mark_chance(curves: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """Return the curves with the column `at_chance` of their networks.

    Args:
        curves: figures over epochs.
        rows: one a network, from `SweepFolder.rows`.
    """
    marked = curves.merge(rows[[*KEYS, "at_chance"]], on=KEYS, how="left")
    marked["at_chance"] = marked["at_chance"].eq(True)  # a curve without its row has no mark
    return marked


def mean_interval(values: np.ndarray) -> tuple[float, float, float]:
    """(mean, low, high): Student's t interval of 95 %; NaN bounds for fewer than two values."""
    from scipy import stats

    if len(values) == 0:
        return np.nan, np.nan, np.nan
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, np.nan, np.nan
    error = float(stats.sem(values))
    if error == 0:
        return mean, mean, mean
    low, high = stats.t.interval(LEVEL, len(values) - 1, loc=mean, scale=error)
    return mean, float(low), float(high)


def summarize_arms(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per arm and measure: mean, 95 % interval (low, high), count, left_out."""
    import pandas as pd

    entries = []
    for key, arm in rows.groupby(ARM):
        for measure in MEASURES:
            values = usable(arm, measure)[measure].to_numpy(float)
            mean, low, high = mean_interval(values)
            entries.append(
                dict(zip(ARM, key, strict=True))
                | {"measure": measure, "mean": mean, "low": low, "high": high}
                | {"count": len(values), "left_out": len(arm) - len(values)}
            )
    return pd.DataFrame(entries)


def compare_with_baseline(rows: pd.DataFrame) -> pd.DataFrame:
    """Each arm of weight > 0 against the baseline of its width.

    A paired t-test where both have the same seeds, two or more of them (a seed gives both the same initial network
    and order of data); else Welch's. `effect` is Cohen's d: for pairs the mean difference over the standard
    deviation of the differences, else over the root of the mean variance. `p_holm` is corrected by Holm over the
    arms of one width and measure.
    """
    import pandas as pd

    entries = []
    for (hidden_size, detach), group in rows.groupby(["hidden_size", "detach_targets"]):
        baseline = rows[(rows["hidden_size"] == hidden_size) & (rows["aux_weight"] == 0)]
        for measure in MEASURES:
            tests = [
                {"hidden_size": hidden_size, "detach_targets": detach, "aux_weight": weight, "measure": measure}
                | _compare(usable(arm, measure), usable(baseline, measure), measure)
                for weight, arm in group[group["aux_weight"] > 0].groupby("aux_weight")
            ]
            for test, corrected in zip(tests, _holm([test["p"] for test in tests]), strict=True):
                entries.append(test | {"p_holm": corrected})
    return pd.DataFrame(entries)


def with_both_targets(rows: pd.DataFrame) -> pd.DataFrame:
    """The networks that are there with targets detached and attached alike (same width, weight and seed), and the
    baselines of the same seeds; none, where a sweep trained one kind only."""
    import pandas as pd

    own = rows[rows["aux_weight"] > 0]
    kinds = own.groupby(["hidden_size", "aux_weight", "seed"])["detach_targets"].transform("nunique")
    paired = own[(kinds == 2).to_numpy()]
    seeds = paired[["hidden_size", "seed"]].drop_duplicates()
    baselines = rows[rows["aux_weight"] == 0].merge(seeds, on=["hidden_size", "seed"])
    return pd.concat([baselines, paired], ignore_index=True) if len(paired) else paired


def compare_targets(rows: pd.DataFrame) -> pd.DataFrame:
    """Attached targets against detached ones, per width and weight: both means, and the test as for the baseline.

    `rows` as `with_both_targets` gives them; `difference` is attached minus detached. A seed whose RLCT is not "ok" in
    one of the two is no pair: Welch's test then takes what is left in each.
    """
    import pandas as pd

    entries = []
    for hidden_size, group in rows[rows["aux_weight"] > 0].groupby("hidden_size"):
        for measure in MEASURES:
            tests = []
            for weight, arm in group.groupby("aux_weight"):
                detached, attached = (usable(arm[arm["detach_targets"] == kind], measure) for kind in (True, False))
                tests.append(
                    {"hidden_size": hidden_size, "aux_weight": weight, "measure": measure}
                    | {"detached": detached[measure].mean(), "attached": attached[measure].mean()}
                    | {"count": (len(detached), len(attached)), **_compare(attached, detached, measure)}
                )
            for test, corrected in zip(tests, _holm([test["p"] for test in tests]), strict=True):
                entries.append(test | {"p_holm": corrected})
    return pd.DataFrame(entries)


def _compare(arm: pd.DataFrame, baseline: pd.DataFrame, measure: str) -> dict[str, Any]:
    from scipy import stats

    a, b = (frame.set_index("seed")[measure].sort_index() for frame in (arm, baseline))
    if len(a) < 2 or len(b) < 2:
        return {"test": "none (fewer than 2 usable)", "difference": np.nan, "effect": np.nan, "p": np.nan}
    if a.index.equals(b.index):
        differences = (a - b).to_numpy(float)
        if np.ptp(differences) == 0:
            name = "none (equal differences)"
            return {"test": name, "difference": float(differences[0]), "effect": np.nan, "p": np.nan}
        name, result, spread = "paired t", stats.ttest_rel(a, b), float(differences.std(ddof=1))
    else:
        name, result = "Welch t", stats.ttest_ind(a, b, equal_var=False)
        spread = float(np.sqrt((a.var(ddof=1) + b.var(ddof=1)) / 2))
    difference = float(a.mean() - b.mean())
    effect = difference / spread if spread > 0 else np.nan
    return {"test": name, "difference": difference, "effect": effect, "p": float(result.pvalue)}


def _holm(p: list[float]) -> list[float]:
    """Corrected p-values; tests that could not be made (NaN) are no part of the family."""
    from statsmodels.stats.multitest import multipletests

    made = [value for value in p if not np.isnan(value)]
    corrected = iter(multipletests(made, method="holm")[1] if len(made) > 1 else made)  # one test stays as it is
    return [float(next(corrected)) if not np.isnan(value) else np.nan for value in p]


def trends(rows: pd.DataFrame) -> pd.DataFrame:
    """Spearman's rank correlation of each measure with the self-model's weight, over networks, per width.

    The 95 % interval is by Fisher's transformation with the variance of Bonett & Wright (2000),
    (1 + r²/2) / (n - 3). NaN for fewer than 4 networks or a single weight.
    """
    import pandas as pd
    from scipy import stats

    entries = []
    for hidden_size, everything in rows.groupby("hidden_size"):
        baseline = everything[everything["aux_weight"] == 0]
        for detach, own in everything[everything["aux_weight"] > 0].groupby("detach_targets"):
            group = pd.concat([baseline, own])
            for measure in MEASURES:
                used = usable(group, measure)
                entry = {"hidden_size": hidden_size, "detach_targets": detach, "measure": measure}
                entry |= {"count": len(used), "left_out": len(group) - len(used)}
                rho = low = high = p = np.nan
                if len(used) > 3 and used["aux_weight"].nunique() > 1 and used[measure].nunique() > 1:
                    rho, p = (float(value) for value in stats.spearmanr(used["aux_weight"], used[measure]))
                    low, high = _spearman_interval(rho, len(used))
                entries.append(entry | {"rho": rho, "low": low, "high": high, "p": p})
    return pd.DataFrame(entries)


def _spearman_interval(rho: float, count: int) -> tuple[float, float]:
    from scipy import stats

    if 1 - abs(rho) < 1e-12:
        return rho, rho
    half = stats.norm.ppf((1 + LEVEL) / 2) * np.sqrt((1 + rho**2 / 2) / (count - 3))
    return float(np.tanh(np.arctanh(rho) - half)), float(np.tanh(np.arctanh(rho) + half))
