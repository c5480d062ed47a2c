"""The tests of docs/preregistration.md: `python scripts/planned_tests.py runs/preregistered-h64`.

It prints one line for each contrast of the questions a to e, g and h, and with `--theory FILE` of question f. Whatever
an arm lacks is left out. Numbers are differences of means, paired by seed. The rules are those of the plan.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from selfmod_hf.reports.comparisons import Comparison, compare, holm
from selfmod_hf.reports.statistics import only_ok, values_by_arm, with_every_rlct

LEVEL = 0.05
MARGIN = 0.03  # of "the same", as a share of the baseline's mean
ACCURACY_MARGIN = 0.005
RESAMPLES = 10_000
FAMILIES = ("decay-last", "decay-all", "penalty")
READERS = ("modelability", "modelability_of_variance", "modelability_from_other")
VARIANTS: dict[str, Callable[[pd.DataFrame], pd.DataFrame]] = {
    "every RLCT": with_every_rlct,
    "ok RLCTs": only_ok,
}
HEADER = "| question | measure | contrast | seeds | difference [95 %] | p, Holm | verdict | share [95 %] |"
Values = dict[str, pd.Series]  # of each arm, by seed
Row = dict[str, Any]


@dataclass(frozen=True)
class Contrast:
    """Two series that are compared, seed by seed.

    Attributes:
        question: its letter. Contrasts of one question and measure are corrected together.
        measure: its column.
        name: of the contrast.
        own: values by seed.
        other: values by seed.
        margin: of "the same".
        share: of a fall that remains or is explained: (numerator, denominator) by seed. None: no share.
    """

    question: str
    measure: str
    name: str
    own: pd.Series
    other: pd.Series
    margin: float
    share: tuple[pd.Series, pd.Series] | None = None

    def difference(self) -> pd.Series:
        """Return the differences of the seeds that both have."""
        return (self.own - self.other).dropna()


# ---- tests ----


def same_p(difference: pd.Series, margin: float) -> float:
    """Return the p-value of two one-sided t-tests: the mean is within the margin."""
    if len(difference) < 2:
        return float("nan")
    above = stats.ttest_1samp(difference, -margin, alternative="greater").pvalue
    below = stats.ttest_1samp(difference, margin, alternative="less").pvalue
    return float(max(above, below))


def verdict(test: Comparison, p_holm: float, p_same: float) -> str:
    """Return lower, higher, the same, or not told apart."""
    if p_holm <= LEVEL:
        return "lower" if test.difference < 0 else "higher"
    if p_same <= LEVEL:
        return "the same"
    return "not told apart"


def judge(contrasts: Sequence[Contrast]) -> list[Row]:
    """Return a row for each contrast. The p-values of one question and measure are corrected together."""
    rows: list[Row] = []
    families = dict.fromkeys((one.question, one.measure) for one in contrasts)
    for family in families:
        members = [one for one in contrasts if (one.question, one.measure) == family]
        tests = [compare(one.own, one.other, are_paired=True) for one in members]
        corrected = holm([test.p for test in tests])
        same = holm([same_p(one.difference(), one.margin) for one in members])
        for one, test, p_holm, p_same in zip(members, tests, corrected, same, strict=True):
            row = {"question": one.question, "measure": one.measure, "contrast": one.name, "seeds": test.pairs}
            numbers = {"difference": test.difference, "low": test.low, "high": test.high, "p_holm": p_holm}
            rows.append({**row, **numbers, "verdict": verdict(test, p_holm, p_same), "share": one.share})
    return rows


def share_text(parts: tuple[pd.Series, pd.Series]) -> str:
    """Return the ratio of two means with its bootstrap interval over the seeds. Empty: fewer than two seeds."""
    both = pd.concat(parts, axis=1).dropna().to_numpy()
    if len(both) < 2:
        return ""
    chosen = np.random.default_rng(0).integers(len(both), size=(RESAMPLES, len(both)))
    means = both[chosen].mean(axis=1)  # (resamples, 2)
    low, high = np.percentile(means[:, 0] / means[:, 1], [2.5, 97.5])
    numerator, denominator = both.mean(axis=0)
    return f"{numerator / denominator:.2f} [{low:.2f}, {high:.2f}]"


def interpolated(doses: Sequence[str], at: dict[str, float], value: float, measured: Values) -> tuple[pd.Series, str]:
    """Return a measure by seed at a value between two neighbouring doses, and where it was taken.

    Args:
        doses: names of arms, the weakest first.
        at: mean of the compared column of each arm.
        value: the mean to be met.
        measured: of the doses, by seed.
    """
    for weaker, stronger in pairwise(doses):
        low, high = sorted((at[weaker], at[stronger]))
        if low <= value <= high and low < high:
            weight = (value - at[weaker]) / (at[stronger] - at[weaker])
            mixed = (1 - weight) * measured[weaker] + weight * measured[stronger]
            return mixed, f"{weaker} to {stronger}"
    nearest = min(doses, key=lambda dose: abs(at[dose] - value))
    return measured[nearest], f"{nearest}, outside"


# ---- the questions ----


class Study:
    """The arms of a study with their values.

    Attributes:
        table: one row per network.
        own: names of the self-models, the smallest weight first.
    """

    def __init__(self, table: pd.DataFrame) -> None:
        self.table = table
        names = [str(name) for name in table["arm"].unique()]
        found = [name for name in names if re.fullmatch(r"own-\d+", name)]
        self.own = sorted(found, key=lambda name: int(name.removeprefix("own-")))
        self.names = names

    def values(self, measure: str) -> Values:
        """Return the values of the networks that count, by arm and seed. Empty: there is no such column."""
        if measure not in self.table:
            return {}
        return values_by_arm(self.table, measure)

    def margin(self, measure: str) -> float:
        """Return the margin of "the same"."""
        if measure == "accuracy":
            return ACCURACY_MARGIN
        return MARGIN * abs(float(self.values(measure)["baseline"].mean()))

    def against(self, question: str, measure: str, other: str) -> list[Contrast]:
        """Return each self-model minus another arm. `{}` in its name stands for the self-model's."""
        values = self.values(measure)
        found = []
        for own in self.own:
            name = other.format(own)
            if own not in values or name not in values:
                continue
            share = None
            if name.startswith("as-"):
                share = (values[own] - values[name], values[own] - values["baseline"])
            margin = self.margin(measure)
            found.append(Contrast(question, measure, f"{own} - {name}", values[own], values[name], margin, share))
        return found

    def owners(self) -> list[Contrast]:
        """Return question c: the fall at equal training loss of the own activations, minus that of other targets."""
        values = self.values("rlct")
        strongest = self.own[-1]
        weight = strongest.removeprefix("own")
        margin = self.margin("rlct")
        found = []
        for kind in ("other-a", "other-b", "random", "shuffled"):
            other = f"{kind}{weight}"
            if other not in values or strongest not in values:
                continue
            plain = f"{strongest} - {other}"
            found.append(Contrast("c, plain", "rlct", plain, values[strongest], values[other], margin))
            stopped = [f"as-{strongest}", f"as-{other}"]
            if all(name in values for name in stopped):
                own, its = values[strongest] - values[stopped[0]], values[other] - values[stopped[1]]
                found.append(Contrast("c", "rlct", f"D({strongest}) - D({other})", own.dropna(), its.dropna(), margin))
        return found

    def doses(self, family: str) -> list[str]:
        """Return the arms of a control, the weakest first, with the baseline before them."""
        arms = [name for name in self.names if name.startswith(f"{family}-")]
        return ["baseline", *sorted(arms, key=lambda name: float(name.removeprefix(f"{family}-")))]

    def controls(self) -> list[Contrast]:
        """Return question d: each self-model minus each control, at equal width and at equal accuracy."""
        found = []
        for family in FAMILIES:
            doses = self.doses(family)
            if len(doses) > 1:
                for at in ("weight_width", "accuracy"):
                    found += self._at_equal("d", at, doses)
        return found

    def _at_equal(self, question: str, at: str, doses: Sequence[str]) -> list[Contrast]:
        rlct = self.values("rlct")
        values = self.values(at)
        found = []
        for own in self.own:
            means = {name: float(values[name].mean()) for name in (own, *doses)}
            other, where = interpolated(doses, means, means[own], rlct)
            explained = None
            if question == "h":
                explained = (rlct["baseline"] - other, rlct["baseline"] - rlct[own])
            name = f"{own} - ({where}) at equal {at}"
            found.append(Contrast(question, "rlct", name, rlct[own], other.dropna(), self.margin("rlct"), explained))
        return found

    def with_live_units(self) -> Study:
        """Return the study with the column live_units."""
        live = self.table["hidden_size"] * (1 - self.table["dead_units"])
        return Study(self.table.assign(live_units=live))

    def fewer_units(self) -> list[Contrast]:
        """Return question h: dead units, units kept alive, and scale."""
        found = self.against("h", "unit_free_width", "baseline")
        found += self.against("h", "weight_width", "baseline")
        found += self.against("h", "dead_units", "baseline")
        units = [name for name in self.names if name.startswith("units-")]
        if units and "dead_units" in self.table:
            largest_first = sorted(units, key=lambda name: -int(name.removeprefix("units-")))
            found += self.with_live_units()._at_equal("h", "live_units", ["baseline", *largest_first])
        rlct = self.values("rlct")
        for name in rlct:
            if name.startswith("own-rms"):
                margin = self.margin("rlct")
                found.append(Contrast("h", "rlct", f"{name} - baseline", rlct[name], rlct["baseline"], margin))
        return found

    def contrasts(self) -> list[Contrast]:
        """Return all contrasts, except those of question f."""
        found = self.against("a", "rlct", "as-{}")
        found += self.against("b", "weight_width", "as-{}")
        found += self.owners()
        found += self.controls()
        for measure in READERS:
            found += self.against("e", measure, "baseline")
            found += self.against("e", measure, "as-{}")
        found += self.against("g", "accuracy", "baseline")
        for measure in ("accuracy_under_noise", "calibration_error"):
            found += self.against("g, beside it", measure, "baseline")
        found += self.against("g, beside it", "accuracy", "as-{}")
        return found + self.fewer_units()


def theory_contrasts(file: Path, seeds: Sequence[int]) -> list[Contrast]:
    """Return question f at both step sizes, from the file of scripts/theory_rlct.py."""
    _, *rows = [json.loads(line) for line in file.read_text().splitlines()]
    found = []
    for step_size in sorted({row["step_size"] for row in rows}, reverse=True):
        values = {row["arm"]: pd.Series(row["llc"], index=seeds) for row in rows if row["step_size"] == step_size}
        pairs = [(own, "baseline") for own in ("own-1", "own-5", "own-10")]
        for other in ("as-own-10", "other-a-10", "shuffled-10", "decay-last-3e-3", "units-32"):
            pairs.append(("own-10", other))
        margin = MARGIN * float(values["baseline"].mean())
        for own, other in pairs:
            if own in values and other in values:
                measure = f"rlct, theory, step size {step_size:.3g}"
                found.append(Contrast("f", measure, f"{own} - {other}", values[own], values[other], margin))
    return found


# ---- the table ----


def read_table(folder: Path) -> pd.DataFrame:
    """Return a study's networks, with the mark of those at chance level."""
    table = pd.read_parquet(folder / "results.parquet")
    run = json.loads((folder / "run.json").read_text())
    share, count = run.get("largest_class_share"), run.get("test_samples")
    if not share or not count:
        print("run.json has no share of the largest class: networks at chance level are not left out\n")
        return table.assign(at_chance=False)
    level = share + 2 * (share * (1 - share) / count) ** 0.5  # as in `SweepFolder.chance_level`
    return table.assign(at_chance=table["accuracy"] <= level)


def judged(table: pd.DataFrame) -> list[Row]:
    """Return the rows of `judge`. A verdict is marked if it changes with the networks that count."""
    rows = judge(Study(table).contrasts())
    for name, change in VARIANTS.items():
        others = {}
        for row in judge(Study(change(table)).contrasts()):
            others[row["question"], row["measure"], row["contrast"]] = row["verdict"]
        for row in rows:
            other = others.get((row["question"], row["measure"], row["contrast"]))
            if other is not None and other != str(row["verdict"]).partition(" (")[0]:
                row["verdict"] = f"{row['verdict']} (not robust, with {name}: {other})"
    return rows


def line_of(row: Row) -> str:
    """Return a row of the printed table."""
    interval = f"{row['difference']:+.4g} [{row['low']:+.4g}, {row['high']:+.4g}]"
    share = "" if row["share"] is None else share_text(row["share"])
    cells = [row["question"], row["measure"], row["contrast"], row["seeds"], interval, f"{row['p_holm']:.2g}"]
    return "| " + " | ".join(map(str, [*cells, row["verdict"], share])) + " |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="of a study, or of its tables")
    parser.add_argument("--theory", type=Path, help="estimates of scripts/theory_rlct.py")
    parser.add_argument("--theory_seeds", type=int, nargs="+", default=[11, 12, 13, 14, 15])
    args = parser.parse_args()
    rows = judged(read_table(args.folder))
    if args.theory is not None:
        rows += judge(theory_contrasts(args.theory, args.theory_seeds))
    print(HEADER)
    print("|" + "---|" * (HEADER.count("|") - 1))
    for row in rows:
        print(line_of(row))


if __name__ == "__main__":
    main()
