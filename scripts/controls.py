"""Write docs/controls.md from the tables of the studies of docs/preregistration.md.

    python scripts/controls.py docs/results/preregistered-h64 docs/results/preregistered-h256 \\
        docs/results/preregistered-imdb --theory docs/results/theory-h64.jsonl --write docs/controls.md

The first study answers the questions, the others say whether it holds there as well. Folders are those of `selfmod
sweep`, or tables alone (`selfmod report --tables_dir`). Two figures lie beside the document. Without `--write` it is
printed. What departs from the plan is listed, and a study of other settings or seeds is called exploratory.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from matplotlib.figure import Figure
from planned_answers import SENTENCES, Answer, answers, with_doubts
from planned_rules import VARIANTS, Row, judge
from planned_tests import HEADER, Study, judged, line_of, read_table
from planned_theory import SMALLER, judged_theory, read_theory, theory_variants

from selfmod_hf.experiments.kept_tables import open_study
from selfmod_hf.experiments.plan import Plan
from selfmod_hf.experiments.sweep_settings import SweepSettings
from selfmod_hf.files import write_figure, write_file
from selfmod_hf.reports.arm_columns import interval_text, measure_text
from selfmod_hf.reports.drawn_measures import COMPLEXITY
from selfmod_hf.reports.drawn_study import prepare
from selfmod_hf.reports.figures import over_arms
from selfmod_hf.reports.sweep_results import SweepResults, read_results

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
PLANS = {  # task and width of the baseline -> file, name
    ("mnist", 64): ("preregistered_mnist.yaml", "MNIST, h = 64"),
    ("mnist", 256): ("preregistered_mnist_h256.yaml", "MNIST, h = 256"),
    ("imdb", 128): ("preregistered_imdb.yaml", "IMDB"),
}
FIRST_SEEDS = {"mnist": 5, "imdb": 3}  # of a study for which the time does not suffice
THEORY_SEEDS = (11, 12, 13, 14, 15)
COLUMNS = {
    "accuracy": "accuracy",
    "train_loss": "training loss",
    "weight_width": "SD",
    "unit_free_width": "unit-free SD",
    "activation_mean_square": "activations, mean square",
    "effective_rank": "effective rank",
    "dead_units": "dead units",
    "modelability": "modelability",
    "rlct": "RLCT",
}


@dataclass(frozen=True)
class PlannedStudy:
    """A study of the plan with its results and tests.

    Attributes:
        folder: of the results, or of the tables.
        theory: estimates of scripts/theory_rlct.py, if there are any of this study.
        theory_seeds: of these estimates.
    """

    folder: Path
    theory: Path | None = None
    theory_seeds: Sequence[int] = THEORY_SEEDS

    @cached_property
    def results(self) -> SweepResults:
        """Return the results."""
        return read_results(open_study(self.folder))

    @cached_property
    def table(self) -> pd.DataFrame:
        """Return the networks with the mark of those at chance level."""
        return read_table(self.folder)

    @cached_property
    def rows(self) -> list[Row]:
        """Return the tests."""
        rows = judged(self.table)
        if self.estimates is not None:
            rows += judged_theory(self.estimates)
        return rows

    @cached_property
    def estimates(self) -> pd.DataFrame | None:
        """Return the RLCTs at theory settings. None: there are none."""
        if self.theory is None:
            return None
        return read_theory(self.theory, self.theory_seeds, self.table)

    @cached_property
    def answers(self) -> list[tuple[str, Answer]]:
        """Return the answers by question, each with how it changes with other networks."""
        theory = {} if self.estimates is None else theory_variants(self.estimates)
        others = {}
        for name, change in VARIANTS.items():
            study = Study(change(self.table))
            rows = judge(study.contrasts()) + theory.get(name, [])
            others[name] = answers(rows, study)
        own = Study(self.table)
        if SMALLER in theory:
            rows = [row for row in self.rows if row["question"] != "f"]
            others[SMALLER] = answers(rows + theory[SMALLER], own)
        return with_doubts(answers(self.rows, own), others)

    @property
    def place(self) -> tuple[str, str] | None:
        """Return the file of this study in examples/ and its name. None: the plan has no such study."""
        rows = self.results.rows
        widths = rows[rows["arm"] == "baseline"]["hidden_size"]
        return PLANS.get((self.results.task, int(widths.iloc[0]))) if len(widths) else None

    @property
    def name(self) -> str:
        """Return the name of the study."""
        return self.folder.name if self.place is None else self.place[1]

    def departures(self) -> list[str]:
        """Return what differs from the plan, a sentence each."""
        if self.place is None:
            return ["The plan has no such study."]
        plan = planned(EXAMPLES / self.place[0])
        rows = self.results.rows
        arms = [arm.name for arm in plan.arms]
        known = set(rows["arm"])
        seeds = {int(seed) for seed in rows["seed"].unique()}
        listed = {
            "Arms that were not run": [name for name in arms if name not in known],
            "Arms that the plan does not have": sorted(known - set(arms)),
            "Seeds that were not run": [str(seed) for seed in plan.seeds if seed not in seeds],
            "Seeds that the plan does not have": sorted(map(str, seeds - set(plan.seeds))),
            "Other settings": self._other_settings(plan),
        }
        return [f"{words}: {', '.join(names)}." for words, names in listed.items() if names]

    @property
    def is_planned(self) -> bool:
        """Return whether the study is that of the plan: all its settings and arms, all seeds or the first ones."""
        if self.place is None:
            return False
        plan = planned(EXAMPLES / self.place[0])
        seeds = sorted(int(seed) for seed in self.results.rows["seed"].unique())
        allowed = (list(plan.seeds), list(plan.seeds[: FIRST_SEEDS[self.results.task]]))
        return seeds in allowed and all(text.startswith("Seeds that were not run") for text in self.departures())

    def _other_settings(self, plan: Plan) -> list[str]:
        """Return the settings of the networks that are not the plan's, apart from the name of the data."""
        run = self.results.run
        if run is None:
            return ["unknown, because run.json is missing"]
        found = []
        own, wanted = _flat(run.settings.to_dict()), _flat(plan.settings)
        for name in dict.fromkeys([*wanted, *own]):
            if name != "data dataset_name" and own.get(name) != wanted.get(name):
                found.append(f"{name} {own.get(name)} instead of {wanted.get(name)}")
        return found


def planned(file: Path) -> Plan:
    """Return the plan of a file of examples/."""
    return SweepSettings.make(**yaml.safe_load(file.read_text(encoding="utf-8"))).plan()


def _flat(settings: dict[str, Any]) -> dict[str, Any]:
    """Return settings in groups as one mapping."""
    found = {}
    for group, values in settings.items():
        if not isinstance(values, dict):
            values = {"": values}
        for name, value in values.items():
            found[f"{group} {name}".strip()] = value
    return found


# ---- the document ----


def document(studies: Sequence[PlannedStudy], figures: Sequence[tuple[str, str]], command: str) -> str:
    """Return the document.

    Args:
        studies: the first one answers the questions.
        figures: file name and caption of each figure.
        command: that writes it.
    """
    main, *others = studies
    parts = [
        "# Is it self-modeling?\n",
        f"The answers to the questions of [the plan](preregistration.md), by its rules. Written by `{command}` from "
        "the tables alone, and never by hand.\n",
        *map(_status, studies),
        f"## Answers: {main.name}\n",
        *_answers(main),
    ]
    for other in others:
        parts += [f"## Does it hold as well: {other.name}\n", *_answers(other)]
    for file, caption in figures:
        parts.append(f"![{caption}]({file})\n\n*{caption}*\n")
    for study in studies:
        parts += [f"## Arms: {study.name}\n", arms_table(study), f"## Tests: {study.name}\n", tests_table(study)]
    return "\n".join(parts)


def _status(study: PlannedStudy) -> str:
    """Return a paragraph about what was run of a study."""
    rows = study.results.rows
    kind = "as planned" if study.is_planned else "**exploratory, because it is not the planned study**"
    sentences = [f"{study.name}: {rows['arm'].nunique()} arms, {len(rows)} networks, {kind}."]
    sentences += study.departures()
    if study.theory is None:
        sentences.append("RLCTs at theory settings were not run.")
    return " ".join(sentences) + "\n"


def _answers(study: PlannedStudy) -> list[str]:
    """Return a paragraph for each answer. The sentence of a question comes before its first one."""
    lines = []
    before = ""
    for question, answer in study.answers:
        letter = question[0]
        if letter != before:
            lines.append(f"**({letter}) {SENTENCES[letter]}**\n")
        before = letter
        part = question[3:]
        lead = f"{part[:1].upper()}{part[1:]}: " if part else ""
        verdict = answer.verdict
        if answer.doubt:
            verdict += f", {answer.doubt}"
        lines.append(f"{lead}*{verdict}.* {answer.text}\n")
    return lines


def arms_table(study: PlannedStudy) -> str:
    """Return the means of each arm with their 95 % intervals, over the networks that count."""
    means = study.results.arms
    shown = [name for name in COLUMNS if name in set(means["measure"])]
    lines = ["| arm | networks | " + " | ".join(COLUMNS[name] for name in shown) + " |"]
    lines.append("|---" * (len(shown) + 2) + "|")
    for arm, own in means.groupby("arm", sort=False):
        values = own.set_index("measure")
        cells = [str(arm), f"{values.loc[shown[0], 'count']:.0f}"]
        for name in shown:
            row = values.loc[name]
            cells.append(f"{measure_text(name, row['mean'])} {interval_text(name, row['low'], row['high'])}".strip())
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def tests_table(study: PlannedStudy) -> str:
    """Return all tests of a study."""
    return "\n".join([HEADER, "|---" * (HEADER.count("|") - 1) + "|", *map(line_of, study.rows)]) + "\n"


# ---- figures ----


def contrasts_figure(study: PlannedStudy) -> Figure:
    """Draw the differences of RLCTs with their intervals. The band is the margin of "the same"."""
    rows = [row for row in study.rows if row["measure"] == "rlct" and row["seeds"] > 1]
    margin = Study(study.table).margin("rlct")
    figure = Figure(figsize=(8, max(2.5, 0.22 * len(rows) + 1)), layout="constrained")
    axis = figure.subplots()
    axis.axvspan(-margin, margin, color="0.9")
    axis.axvline(0, color="0.5", linewidth=0.8)
    for place, row in enumerate(rows):
        axis.plot([row["low"], row["high"]], [place, place], color="C0")
        axis.plot(row["difference"], place, "o", color="C0", markersize=4)
    axis.set_yticks(range(len(rows)), [f"{row['question']}: {row['contrast']}" for row in rows], fontsize=7)
    axis.invert_yaxis()
    axis.set_xlabel("difference of the RLCT")
    return figure


def write_figures(study: PlannedStudy, document: Path) -> list[tuple[str, str]]:
    """Draw both figures beside the document, and return their file names and captions."""
    kind = "" if study.is_planned else "exploratory, "
    drawn = {
        "arms": (over_arms(prepare(study.results), COMPLEXITY), "weight width and RLCT of each arm, 95 % t intervals"),
        "contrasts": (contrasts_figure(study), "differences of RLCTs, 95 % intervals, band: the margin of the same"),
    }
    found = []
    for name, (figure, caption) in drawn.items():
        file = document.with_name(f"{document.stem}-{name}.png")
        write_figure(figure, file)
        found.append((file.name, f"{study.name}, {kind}{caption}"))
    return found


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", type=Path, nargs="+", help="of studies, or of their tables")
    parser.add_argument("--theory", type=Path, help="estimates of scripts/theory_rlct.py, of the first study")
    parser.add_argument("--theory_seeds", type=int, nargs="+", default=list(THEORY_SEEDS))
    parser.add_argument("--write", type=Path, help="the document, such as docs/controls.md; default: printed")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Write or print the document."""
    args = parse(arguments)
    first, *others = args.folders
    studies = [PlannedStudy(first, args.theory, args.theory_seeds), *map(PlannedStudy, others)]
    names = " ".join(map(str, args.folders))
    command = f"python scripts/controls.py {names}"
    if args.theory is not None:
        command += f" --theory {args.theory}"
    if args.write is None:
        print(document(studies, [], command))
        return
    figures = write_figures(studies[0], args.write)
    write_file(args.write, document(studies, figures, command))
    print(args.write)


if __name__ == "__main__":
    main()
