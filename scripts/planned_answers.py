"""The answers to the questions of docs/preregistration.md: the plan's rules for and against, applied to its tests."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from planned_rules import Row, share_text
from planned_tests import ACCURACY_MARGIN, FAMILIES, READERS, Study

FOR, AGAINST, OPEN = "for", "against", "open"
NOT_RUN = "not run"
AT_EQUAL = {"weight_width": "width", "accuracy": "accuracy"}
SENTENCES = {
    "a": "The RLCT of a self-model is lower than the baseline's at equal training loss.",
    "b": "The weights of a self-model are narrower than the baseline's at equal training loss.",
    "c": "It must be the network's own activations.",
    "d": "Weight decay or an activation penalty has the same RLCT at equal width, and at equal accuracy.",
    "e": "Self-models are easier to predict for an outside reader.",
    "f": "It holds for the RLCT at theory settings as well.",
    "g": "Accuracy on new data is kept.",
    "h": "The fall is one of dead units, or of scale.",
}


@dataclass(frozen=True)
class Answer:
    """The answer to a question in one study.

    Attributes:
        verdict: for, against, open, not run, or what the plan says in its place.
        text: one sentence with the numbers of the verdict.
    """

    verdict: str
    text: str


# ---- rows ----


def plain(row: Row) -> str:
    """Return the verdict of a test without the remark that it is not robust."""
    return str(row["verdict"]).partition(" (")[0]


def chosen(rows: Sequence[Row], question: str, measure: str, ending: str = "") -> list[Row]:
    """Return the tests of a question and measure whose contrast has an ending."""
    found = []
    for row in rows:
        if row["question"] == question and row["measure"] == measure and row["contrast"].endswith(ending):
            found.append(row)
    return found


def numbers(row: Row) -> str:
    """Return a test in words: its contrast, the difference with its interval, and the verdict."""
    text = f"{row['contrast']}: {row['difference']:+.3g}"
    if math.isfinite(row["low"]):
        text += f" [{row['low']:+.3g}, {row['high']:+.3g}]"
    text += f" {row['verdict']}"
    share = "" if row["share"] is None else share_text(row["share"])
    if share:
        text += f", share {share}"
    if row["place"]:
        text += f", {row['place']}"
    return text


def answer_of(verdict: str, rows: Sequence[Row], remark: str = "") -> Answer:
    """Return an answer with the numbers of its tests. It is not robust if one of them is not."""
    if not rows:
        return Answer(NOT_RUN, "No arms of this question have a usable value.")
    if any("not robust" in str(row["verdict"]) for row in rows):
        verdict += ", not robust"
    texts = "; ".join(map(numbers, rows))
    return Answer(verdict, f"{remark}{texts}.")


def count(rows: Sequence[Row], *verdicts: str) -> int:
    """Return the number of tests with one of these verdicts."""
    return sum(plain(row) in verdicts for row in rows)


# ---- questions ----


def equal_loss(rows: Sequence[Row], question: str, measure: str) -> Answer:
    """Answer a and b: lower for at least two self-models and higher for none."""
    own = chosen(rows, question, measure)
    verdict = OPEN
    if count(own, "lower") >= 2 and not count(own, "higher"):
        verdict = FOR
    elif count(own, "the same", "higher") >= 2:
        verdict = AGAINST
    return answer_of(verdict, own)


def owner(rows: Sequence[Row], study: Study) -> Answer:
    """Answer c: the fall of the own activations is larger than that of every other target."""
    tests = chosen(rows, "c", "rlct")
    beside = chosen(rows, "c, plain", "rlct")
    if not tests:  # IMDB has no baseline at the other target's loss
        tests = [row for row in beside if " other-" in row["contrast"]]
    others = [row for row in tests if "other-" in row["contrast"]]
    lower = [row for row in tests if plain(row) == "lower"]
    expected = [name for name in study.names if re.match("as-(other|random|shuffled)", name)]
    verdict = OPEN
    if tests and len(lower) == len(tests) >= len(expected):
        verdict = FOR
    elif count(others, "the same", "higher"):
        verdict = AGAINST
    remark = ""
    if len(tests) > 1 and lower and all("shuffled" in row["contrast"] for row in lower):
        remark = "The content matters, the owner is not shown to. "
    return answer_of(verdict, tests, remark)


def control(rows: Sequence[Row], family: str, at: str) -> Answer:
    """Answer d for one control: it is the same as the self-models, or lower, wherever its doses enclose their value."""
    tests = chosen(rows, "d", "rlct", f"{family} at equal {at}")
    enclosed = [row for row in tests if "outside" not in row["place"]]
    verdict = OPEN
    if count(tests, "lower") >= 2:
        verdict = AGAINST
    elif enclosed and count(enclosed, "the same", "higher") == len(enclosed):
        verdict = FOR
    return answer_of(verdict, tests)


def controls(rows: Sequence[Row], study: Study) -> list[tuple[str, Answer]]:
    """Answer d for each control at equal width and at equal accuracy."""
    found = []
    for family in FAMILIES:
        for at, words in AT_EQUAL.items():
            name = f"d, {family} at equal {words}"
            answer = control(rows, family, at)
            if family == "penalty" and at == "weight_width" and widens(study, family):
                answer = Answer("the opposite", f"Each penalty widens the weights, so no width is equal. {answer.text}")
            if answer.verdict != NOT_RUN:
                found.append((name, answer))
    return found or [("d", answer_of(OPEN, []))]


def widens(study: Study, family: str) -> bool:
    """Return whether each dose of a control has wider weights than the baseline."""
    values = study.values("weight_width")
    doses = [values[name] for name in study.doses(family)[1:] if name in values]
    if not doses or "baseline" not in values:
        return False
    return min(float(dose.mean()) for dose in doses) > float(values["baseline"].mean())


def readers(rows: Sequence[Row]) -> Answer:
    """Answer e: higher against the baseline and at equal training loss, in each measure."""
    tests = [row for measure in READERS for row in chosen(rows, "e", measure)]
    holds = []
    for measure in READERS:
        both: dict[str, list[str]] = {}
        for row in chosen(rows, "e", measure):
            both.setdefault(row["contrast"].partition(" - ")[0], []).append(plain(row))
        if sum(verdicts == ["higher", "higher"] for verdicts in both.values()) >= 2:
            holds.append(measure)
    verdict = AGAINST
    if len(holds) == len(READERS):
        verdict = FOR
    elif holds:
        verdict = f"in {', '.join(holds)} only, so no general claim"
    named = []
    for row in tests:
        named.append({**row, "contrast": f"{row['measure']}, {row['contrast']}"})
    return answer_of(verdict, named)


def theory(rows: Sequence[Row]) -> Answer:
    """Answer f: the self-models are lower than the baseline, and the strongest at equal training loss."""
    tests = chosen(rows, "f", "rlct, theory")
    first = [row for row in tests if row["contrast"].endswith(" - baseline")]
    equal = [row for row in tests if row["contrast"] == "own-10 - as-own-10"]
    verdict = OPEN
    if equal and plain(equal[0]) != "lower":
        verdict = AGAINST
    elif equal and count(first, "lower") == 3:
        verdict = FOR
    return answer_of(verdict, tests)


def accuracy(rows: Sequence[Row]) -> Answer:
    """Answer g for each self-model: the interval is above or below the margin."""
    tests = chosen(rows, "g", "accuracy")
    verdicts = []
    for row in tests:
        verdict = OPEN
        if row["low"] > -ACCURACY_MARGIN:
            verdict = FOR
        elif row["high"] < -ACCURACY_MARGIN:
            verdict = AGAINST
        verdicts.append(f"{row['contrast'].partition(' ')[0]} {verdict}")
    return answer_of(", ".join(verdicts), tests)


def dead_units(rows: Sequence[Row]) -> Answer:
    """Answer h for each self-model: whether fewer live units explain the fall."""
    tests = chosen(rows, "h", "rlct", "at equal live_units")
    verdicts = []
    for row in tests:
        verdict = "a part"
        if plain(row) in ("the same", "higher"):
            verdict = "explains it"
        elif plain(row) == "lower" and share_of(row) < 0.5:
            verdict = "does not"
        verdicts.append(f"{row['contrast'].partition(' ')[0]} {verdict}")
    return answer_of(", ".join(verdicts), tests)


def share_of(row: Row) -> float:
    """Return the share of a test, or NaN."""
    text = "" if row["share"] is None else share_text(row["share"])
    return float(text.partition(" ")[0]) if text else math.nan


def kept_alive(rows: Sequence[Row], study: Study) -> Answer:
    """Answer h by the arm of normalized targets, if it keeps its units alive."""
    tests = [row for row in chosen(rows, "h", "rlct") if row["contrast"].startswith("own-rms")]
    dead = study.values("dead_units")
    for row in tests:
        own, other = (float(dead[name].mean()) for name in (row["contrast"].partition(" ")[0], "baseline"))
        if own > other + 0.05:
            return answer_of("no answer", tests, f"Its share of dead units is {own:.2f}, the baseline's {other:.2f}. ")
    return not_lower(tests)


def not_lower(tests: Sequence[Row]) -> Answer:
    """Answer h by arms whose units are alive: without a fall, dead units explain it."""
    verdict = AGAINST if count(tests, "lower") else FOR
    return answer_of(f"{verdict} dead units", tests)


def scale(rows: Sequence[Row]) -> Answer:
    """Answer h for the width: it falls, and in the network's own scale it does not."""
    widths = {row["contrast"]: row for row in chosen(rows, "h", "weight_width")}
    tests, found = [], 0
    for row in chosen(rows, "h", "unit_free_width"):
        width = widths.get(row["contrast"])
        if width is None:
            continue
        found += plain(width) == "lower" and plain(row) in ("the same", "higher")
        tests += [{**one, "contrast": f"{one['measure']}, {one['contrast']}"} for one in (width, row)]
    return answer_of("scale" if found >= 2 else "not scale", tests)


def answers(rows: Sequence[Row], study: Study) -> list[tuple[str, Answer]]:
    """Return the answers of a study by question, in the order of the plan."""
    one: dict[str, Callable[[], Answer]] = {
        "a": lambda: equal_loss(rows, "a", "rlct"),
        "b": lambda: equal_loss(rows, "b", "weight_width"),
        "c": lambda: owner(rows, study),
    }
    found = [(question, answer()) for question, answer in one.items()]
    found += controls(rows, study)
    found += [("e", readers(rows)), ("f", theory(rows)), ("g", accuracy(rows))]
    found += [
        ("h, dead units", dead_units(rows)),
        ("h, units kept alive by normalized targets", kept_alive(rows, study)),
    ]
    found.append(("h, leaky units (amendment)", not_lower(chosen(rows, "h, leaky", "rlct"))))
    return [*found, ("h, scale", scale(rows))]
