"""The tests of docs/preregistration.md: `python scripts/planned_tests.py runs/preregistered-h64`.

It prints one line for each contrast of the questions a to e, g and h, and with `--theory FILE` of question f. Missing
arms are left out. Numbers are differences of means, paired by seed. The rules are those of the plan.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from planned_rules import BESIDE, VARIANTS, Contrast, Row, Values, interpolated, judge, margin_of, mark, share_text
from planned_theory import judged_theory, read_theory

from selfmod_hf.errors import InputError
from selfmod_hf.experiments.chance import is_at_chance, level_of_chance, main_metric
from selfmod_hf.files import read_json
from selfmod_hf.reports.arm_columns import number_text
from selfmod_hf.reports.equal_loss import never_stopped
from selfmod_hf.reports.statistics import values_by_arm

ACCURACY_MARGIN = 0.005
FAMILIES = ("decay-last", "decay-all", "penalty")
LEAKY = ("leaky-own-10", "leaky-baseline")
READERS = ("modelability", "modelability_of_variance", "modelability_from_other")
HEADER = "| question | measure | contrast | seeds | difference [95 %] | p, Holm | verdict | share [95 %] |"


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
        """Return the values of the networks that count, by arm and seed. Empty: the column is missing.

        Networks that never reached the loss at which they should stop do not count.
        """
        if measure not in self.table:
            return {}
        arrived = self.table[~never_stopped(self.table)]
        return values_by_arm(arrived, measure)

    def margin(self, measure: str) -> float:
        """Return the margin of "the same"."""
        if measure == "accuracy":
            return ACCURACY_MARGIN
        return margin_of(self.values(measure))

    def against(self, question: str, measure: str, other: str) -> list[Contrast]:
        """Return each self-model minus another arm. `{}` in its name stands for the self-model's."""
        values = self.values(measure)
        found = []
        for own in self.own:
            name = other.format(own)
            if own not in values or name not in values:
                continue
            share = None
            if question in ("a", "b") and "baseline" in values:
                share = (values[own] - values[name], values[own] - values["baseline"])
            margin = self.margin(measure)
            found.append(Contrast(question, measure, f"{own} - {name}", values[own], values[name], margin, share))
        return found

    def owners(self) -> list[Contrast]:
        """Return question c: the fall at equal training loss of the own activations, minus that of other targets."""
        values = self.values("rlct")
        if not self.own:
            return []
        strongest = self.own[-1]
        weight = strongest.removeprefix("own")
        margin = self.margin("rlct")
        found = []
        for kind in ("other-a", "other-b", "random", "shuffled"):
            other = f"{kind}{weight}"
            if other not in values or strongest not in values:
                continue
            question = "c, plain"
            if kind == "other-a" and f"as-{other}" not in self.names:
                question = "c"  # IMDB: the plan has no baseline at the loss of `other-a`
            plain = f"{strongest} - {other}"
            found.append(Contrast(question, "rlct", plain, values[strongest], values[other], margin))
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
                    found += self._at_equal("d", at, family, doses)
        return found

    def _at_equal(self, question: str, at: str, control: str, doses: Sequence[str]) -> list[Contrast]:
        """Return each self-model minus a control. Arms without a usable RLCT are left out."""
        rlct = self.values("rlct")
        values = self.values(at)
        measured = [name for name in doses if name in rlct and name in values]
        missing = [name for name in doses if name not in measured]
        if not measured:
            return []
        found = []
        for own in self.own:
            if own not in rlct or own not in values:
                continue
            means = {name: float(values[name].mean()) for name in (own, *measured)}
            other, place = interpolated(measured, means, means[own], rlct)
            if missing:
                place += f", without {', '.join(missing)}"
            explained = None
            if question == "h" and "baseline" in rlct:
                explained = (rlct["baseline"] - other, rlct["baseline"] - rlct[own])
            name = f"{own} - {control} at equal {at}"
            margin = self.margin("rlct")
            found.append(Contrast(question, "rlct", name, rlct[own], other.dropna(), margin, explained, place))
        return found

    def with_live_units(self) -> Study:
        """Return the study with the column live_units."""
        live = self.table["hidden_size"] * (1 - self.table["dead_units"])
        return Study(self.table.assign(live_units=live))

    def fewer_units(self) -> list[Contrast]:
        """Return question h: dead units, units kept alive, and scale."""
        found = self.against("h", "unit_free_width", "baseline")
        found += self.against("h", "weight_width", "baseline")
        units = [name for name in self.names if name.startswith("units-")]
        if units and "dead_units" in self.table:
            largest_first = sorted(units, key=lambda name: -int(name.removeprefix("units-")))
            found += self.with_live_units()._at_equal("h", "live_units", "units", ["baseline", *largest_first])
        rlct = self.values("rlct")
        for name in rlct:
            if name.startswith("own-rms") and "baseline" in rlct:
                margin = self.margin("rlct")
                found.append(Contrast("h", "rlct", f"{name} - baseline", rlct[name], rlct["baseline"], margin))
        return found

    def leaky_units(self) -> list[Contrast]:
        """Return the contrast of the amendment to question h: the fall of networks whose units cannot die."""
        rlct = self.values("rlct")
        if not rlct.keys() >= {*LEAKY}:
            return []
        own, other = (rlct[name] for name in LEAKY)
        share = None
        if rlct.keys() >= {"own-10", "baseline"}:
            share = (own - other, rlct["own-10"] - rlct["baseline"])
        margin = margin_of(rlct, "leaky-baseline")
        return [Contrast("h, leaky", "rlct", " - ".join(LEAKY), own, other, margin, share)]

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
            found += self.against(f"g, {BESIDE}", measure, "baseline")
        found += self.against(f"g, {BESIDE}", "accuracy", "as-{}")
        return found + self.fewer_units() + self.leaky_units()


# ---- the table ----


def read_table(folder: Path) -> pd.DataFrame:
    """Return a study's networks, with the mark of those at chance level.

    Raises:
        InputError: run.json does not tell the chance level, so that rule 1 of the plan cannot be applied.
    """
    table = pd.read_parquet(folder / "results.parquet")
    run = read_json(folder / "run.json")  # published tables have a part of it, which `SweepRun` would reject
    chance = run.get("chance")
    if chance is None:
        chance = run.get("largest_class_share")  # as early versions recorded it
    labels = run.get("test_labels") or run.get("test_samples")
    level = None
    if chance is not None and labels:
        level = level_of_chance(main_metric(table), chance, labels)
    if level is None:
        raise InputError("folder", str(folder), "run.json does not tell the chance level")
    return table.assign(at_chance=is_at_chance(table, level))


def judged(table: pd.DataFrame) -> list[Row]:
    """Return the rows of `judge`. A verdict is marked if it changes with the networks that count."""
    rows = judge(Study(table).contrasts())
    for name, change in VARIANTS.items():
        mark(rows, name, judge(Study(change(table)).contrasts()))
    return rows


def line_of(row: Row) -> str:
    """Return a row of the printed table."""
    interval = ""
    if row["seeds"]:
        interval = f"{row['difference']:+.4g}"
    if row["seeds"] > 1:
        interval += f" [{row['low']:+.4g}, {row['high']:+.4g}]"
    share = "" if row["share"] is None else share_text(row["share"])
    contrast = row["contrast"]
    if row["place"]:
        contrast += f" ({row['place']})"
    cells = [row["question"], row["measure"], contrast, row["seeds"], interval, number_text(row["p_holm"], ".2g")]
    return "| " + " | ".join(map(str, [*cells, row["verdict"], share])) + " |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="of a study, or of its tables")
    parser.add_argument("--theory", type=Path, help="estimates of scripts/theory_rlct.py")
    parser.add_argument("--theory_seeds", type=int, nargs="+", default=[11, 12, 13, 14, 15])
    args = parser.parse_args()
    table = read_table(args.folder)
    rows = judged(table)
    if args.theory is not None:
        rows += judged_theory(read_theory(args.theory, args.theory_seeds, table))
    print(HEADER)
    print("|" + "---|" * (HEADER.count("|") - 1))
    for row in rows:
        print(line_of(row))


if __name__ == "__main__":
    main()
