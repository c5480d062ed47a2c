"""Write docs/controls.md from the tables of the studies of docs/preregistration.md.

    python scripts/controls.py docs/results/preregistered-h64 docs/results/preregistered-h256 \\
        docs/results/preregistered-imdb --theory docs/results/theory-h64.jsonl --write docs/controls.md

MNIST, h = 64, answers the questions, the others say whether it holds there as well. Folders are those of `selfmod
sweep`, or tables alone (`selfmod report --tables_dir`). Two figures lie beside the document. Without `--write` it is
printed. What departs from the plan is listed, and a study of other settings or seeds is called exploratory.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd
import yaml
from matplotlib.figure import Figure
from planned_answers import NO_VALUE, SENTENCES, Answer, answers, with_doubts
from planned_departures import SEEDS_NOT_RUN, departures, theory_departures
from planned_rules import VARIANTS, Row, judge
from planned_tests import HEADER, Study, judged, line_of, read_table
from planned_theory import SMALLER, judged_theory, read_theory, theory_variants
from planned_words import capitalized, meanings

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
MAIN = ("mnist", 64)
ARMS_OF = {  # beginning of a question -> beginnings of the names of the arms that it needs
    "a": ("as-own-",),
    "b": ("as-own-",),
    "c": ("other-",),
    "d": ("decay-", "penalty-"),
    "e": ("own-",),
    "g": ("own-",),
    "h, dead": ("units-",),
    "h, units": ("own-rms-",),
    "h, leaky": ("leaky-",),
    "h, scale": ("own-",),
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

    @cached_property
    def plan(self) -> Plan | None:
        """Return the plan of this study. None: there is none."""
        return None if self.place is None else planned(EXAMPLES / self.place[0])

    @cached_property
    def departures(self) -> list[str]:
        """Return what differs from the plan, a sentence each."""
        if self.plan is None:
            return ["The plan has no such study."]
        results = self.results
        return departures(self.plan, results.rows, results.run, results.study)

    @cached_property
    def theory_departures(self) -> list[str]:
        """Return what differs from the plan in the RLCTs at theory settings."""
        return [] if self.theory is None else theory_departures(self.theory)

    @property
    def is_planned(self) -> bool:
        """Return whether the study is that of the plan: all its settings and arms, all seeds or the first ones."""
        if self.plan is None:
            return False
        seeds = sorted(int(seed) for seed in self.results.rows["seed"].unique())
        allowed = (list(self.plan.seeds), list(self.plan.seeds[: FIRST_SEEDS[self.results.task]]))
        return seeds in allowed and all(text.startswith(SEEDS_NOT_RUN) for text in self.departures)

    @property
    def heading(self) -> str:
        """Return the name of the study, and whether it is exploratory."""
        return self.name if self.is_planned else f"{self.name}, exploratory"

    def verdict(self, question: str, answer: Answer) -> str:
        """Return a verdict with what qualifies it. Without a usable value it is why there is none."""
        if answer.verdict == NO_VALUE:
            return self._no_verdict(question)
        parts = [answer.verdict, answer.doubt]
        if question == "f" and self.theory_departures:
            parts.append("exploratory")
        return ", ".join(part for part in parts if part)

    def _no_verdict(self, question: str) -> str:
        """Return why a question has no verdict."""
        if question == "f":
            is_planned, was_run = self.place == PLANS[MAIN], self.theory is not None
        else:
            (arms,) = (arms for start, arms in ARMS_OF.items() if question.startswith(start))
            of_plan = [] if self.plan is None else [arm.name for arm in self.plan.arms]
            needed = {name for name in of_plan if name.startswith(arms)}
            is_planned, was_run = len(needed) > 0, not needed.isdisjoint(self.results.rows["arm"])
        if was_run:
            return NO_VALUE
        return "not run" if is_planned else "not planned for this study"


def planned(file: Path) -> Plan:
    """Return the plan of a file of examples/."""
    return SweepSettings.make(**yaml.safe_load(file.read_text(encoding="utf-8"))).plan()


# ---- the document ----

TERMS = """own-N is a self-model of weight N. as-own-N is a baseline that stops at the training loss of own-N. D(X) is
the RLCT of X minus that of its baseline at equal training loss. The doses of a control are its settings from weak to
strong, and "at equal SD" is between two of them. "Not robust" says that the verdict is another one if only RLCTs with
status "ok" count, or all.
"""


def document(studies: Sequence[PlannedStudy], figures: Sequence[tuple[str, str]], command: str) -> str:
    """Return the document.

    Args:
        studies: that of MNIST, h = 64, answers the questions. Without it there are no answers.
        figures: file name and caption of each figure.
        command: that writes it.
    """
    parts = [
        "# Is it self-modeling?\n",
        f"The answers to the questions of [the plan](preregistration.md), by its rules. Written by `{command}` from "
        "the tables alone, and never by hand.\n",
        TERMS,
        *map(_status, studies),
    ]
    names = [study.name for study in studies]
    parts += [f"{name}: not run.\n" for _, name in PLANS.values() if name not in names]
    main = next((study for study in studies if study.place == PLANS[MAIN]), None)
    if main is not None:
        parts += [f"## Answers: {main.heading}\n", *_answers(main)]
        parts += [f"## What the results mean: {main.heading}\n", *_meanings(main)]
    for other in studies:
        if other is not main:
            parts += [f"## Does it hold as well: {other.heading}\n", *_answers(other)]
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
    sentences += study.departures
    sentences.append(_theory_status(study))
    return " ".join(sentences) + "\n"


def _theory_status(study: PlannedStudy) -> str:
    """Return what was run of the RLCTs at theory settings."""
    name = "RLCTs at theory settings"
    if study.theory is None:
        return f"{name} were not {'run' if study.place == PLANS[MAIN] else 'planned'}."
    if not study.theory_departures:
        return f"{name}: as planned."
    return f"{name}: **exploratory, because they are not the planned ones**. {' '.join(study.theory_departures)}"


def _meanings(study: PlannedStudy) -> list[str]:
    """Return what the plan says of the verdicts."""
    verdicts = {question: answer.verdict for question, answer in study.answers}
    doubtful = [question for question, answer in study.answers if answer.doubt]
    return ["\n".join(meanings(verdicts, doubtful)) + "\n"]


def _answers(study: PlannedStudy) -> list[str]:
    """Return the paragraphs and lists of each answer. The sentence of a question comes before its first one."""
    lines = []
    before = ""
    for question, answer in study.answers:
        letter = question[0]
        if letter != before:
            lines.append(f"**({letter}) {SENTENCES[letter]}**\n")
        before = letter
        part = question[3:]
        lead = f"{capitalized(part)}: " if part else ""
        lead += f"*{study.verdict(question, answer)}.*"
        blocks = () if answer.verdict == NO_VALUE else answer.blocks
        if not blocks:
            lines.append(f"{lead}\n")
        for paragraph, points in blocks:
            alone = points[0] if len(points) == 1 else ""
            lines.append(" ".join(part for part in (lead, paragraph, alone) if part) + "\n")
            lead = ""
            if len(points) > 1:
                lines.append("".join(f"- {point}\n" for point in points))
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
    differences = "differences of RLCTs, 95 % intervals; inside of the gray band they are the same"
    drawn = {
        "arms": (over_arms(prepare(study.results), COMPLEXITY), "weight width and RLCT of each arm, 95 % t intervals"),
        "contrasts": (contrasts_figure(study), differences),
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
    command = f"python scripts/controls.py {names} --write {args.write or 'docs/controls.md'}"
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
