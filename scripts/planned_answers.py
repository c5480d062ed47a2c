"""The answers to the questions of docs/preregistration.md: the plan's rules for and against, applied to its tests."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from planned_rules import BESIDE, Row, plain, share_numbers
from planned_tests import ACCURACY_MARGIN, FAMILIES, READERS, Study
from planned_words import capitalized, counts, measure_words, sentence

from selfmod_hf.reports.comparisons import NOTHING

FOR, AGAINST, OPEN = "for", "against", "open"
OPPOSITE = "the opposite"
NO_VALUE = "no usable value"
Answers = list[tuple[str, "Answer"]]  # question, answer
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
        verdict: for, against, open, or what the plan says in its place.
        blocks: the numbers of the verdict: a paragraph, and a sentence for each test below it.
        doubt: says how the verdict changes with other networks. Empty: it does not.
    """

    verdict: str
    blocks: tuple[tuple[str, tuple[str, ...]], ...]
    doubt: str = ""

    @property
    def text(self) -> str:
        """Return all sentences."""
        parts = []
        for paragraph, points in self.blocks:
            parts += [paragraph, *points]
        return " ".join(part for part in parts if part)


# ---- rows ----


def chosen(rows: Sequence[Row], question: str, measure: str, ending: str = "") -> list[Row]:
    """Return the tests of a question and measure whose contrast has an ending. Fewer than two pairs are no test."""
    found = []
    for row in rows:
        is_own = row["question"] == question and row["measure"] == measure
        if is_own and row["contrast"].endswith(ending) and row["seeds"] > 1:
            found.append(row)
    return found


def of_arm(rows: Sequence[Row], own: str) -> list[Row]:
    """Return the tests of a self-model."""
    return [row for row in rows if row["contrast"].startswith(f"{own} - ")]


def answer_of(
    verdict: str,
    rows: Sequence[Row],
    remark: str = "",
    beside: Sequence[Row] = (),
    noun: str = "weights",
) -> Answer:
    """Return an answer: how often each verdict was found, then a sentence for each test.

    Args:
        verdict: of the question.
        rows: the tests that decide.
        remark: precedes their sentences.
        beside: rows that do not decide.
        noun: the plural of what was tested. Empty: verdicts are not counted.
    """
    if not rows:
        return Answer(NO_VALUE, (("No arms of this question have a usable value.", ()),))
    parts = [remark] if remark else []
    if noun and len(rows) > 1:
        parts.append(capitalized(counts(rows, noun)))
    blocks = [(" ".join(parts), tuple(map(sentence, rows)))]
    if beside:
        blocks.append(("Beside it:", tuple(map(sentence, beside))))
    return Answer(verdict, tuple(blocks))


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
    others = [row for row in tests if "other-" in row["contrast"]]
    lower = [row for row in tests if plain(row) == "lower"]
    expected = [name for name in study.names if re.match("as-(other|random|shuffled)", name)]
    verdict = OPEN
    if tests and len(lower) == len(tests) >= len(expected):
        verdict = FOR
    elif count(others, "the same", "higher"):
        verdict = AGAINST
    remark = ""
    unshuffled = [row for row in tests if "shuffled" not in row["contrast"]]
    if lower and unshuffled and count(unshuffled, "the same", "not told apart") == len(unshuffled):
        remark = "The content matters, the owner is not shown to."
    return answer_of(verdict, tests, remark, chosen(rows, "c, plain", "rlct"), "other targets")


def control(rows: Sequence[Row], family: str, at: str) -> Answer:
    """Answer d for one control at equal width or accuracy.

    For: it is the same as the self-models, or lower, wherever its doses enclose their value. Against: two self-models
    or more are lower, outside of the doses too. If both hold, the answer is open.
    """
    tests = chosen(rows, "d", "rlct", f"{family} at equal {at}")
    enclosed = [row for row in tests if "outside" not in row["place"]]
    is_for = len(enclosed) > 0 and count(enclosed, "the same", "higher") == len(enclosed)
    is_against = count(tests, "lower") >= 2
    verdict = OPEN
    if is_for and not is_against:
        verdict = FOR
    elif is_against and not is_for:
        verdict = AGAINST
    remark = f"The doses enclose {len(enclosed) or 'none'} of {len(tests)} weights."
    return answer_of(verdict, tests, remark)


def family_of(rows: Sequence[Row], study: Study, family: str) -> Answer:
    """Answer d for one control: for at equal width and at equal accuracy, or against at one of them."""
    parts = {words: control(rows, family, at) for at, words in AT_EQUAL.items()}
    verdicts = {part.verdict for part in parts.values()}
    verdict = OPEN
    if verdicts in ({FOR}, {NO_VALUE}):
        verdict = verdicts.pop()
    elif AGAINST in verdicts:
        verdict = AGAINST
    blocks: list[tuple[str, tuple[str, ...]]] = []
    for words, part in parts.items():
        (paragraph, points), *_ = part.blocks
        blocks.append((f"At equal {words}: {part.verdict}. {paragraph}", points))
    if family == "penalty" and verdict != NO_VALUE and widens(study, family):
        verdict = OPPOSITE
        blocks[0] = ("Each penalty widens the weights, so no width is equal.", ())
    return Answer(verdict, tuple(blocks))


def controls(rows: Sequence[Row], study: Study) -> Answers:
    """Answer d: for if one control is for, against if all are. The opposite is left out."""
    families = {name: family_of(rows, study, name) for name in FAMILIES if len(study.doses(name)) > 1}
    verdicts = {answer.verdict for answer in families.values()} - {NO_VALUE}
    if not verdicts:
        return [("d", answer_of(OPEN, []))]
    verdict = OPEN
    if FOR in verdicts:
        verdict = FOR
    elif verdicts - {OPPOSITE} == {AGAINST}:
        verdict = AGAINST
    text = ", ".join(f"{name} {answer.verdict}" for name, answer in families.items())
    rule = f"A control counts for it if its RLCT is the same or lower. Controls: {text}."
    found = [("d", Answer(verdict, ((rule, ()),)))]
    return found + [(f"d, control {name}", answer) for name, answer in families.items()]


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
            holds.append(measure_words(measure))
    verdict = OPEN if count(tests, "higher") else AGAINST
    if len(holds) == len(READERS):
        verdict = FOR
    elif holds:
        verdict = f"in {', '.join(holds)} only, so no general claim"
    if not tests:
        return answer_of(verdict, tests)
    points = []
    for measure in READERS:
        own = chosen(tests, "e", measure)
        if own:
            points.append(f"{capitalized(measure_words(measure))}: {counts(own, 'comparisons')}")
    return Answer(verdict, (("The numbers are in the table of tests.", tuple(points)),))


def theory(rows: Sequence[Row]) -> Answer:
    """Answer f: the self-models are lower than the baseline, and the strongest at equal training loss."""
    tests = chosen(rows, "f", "rlct, theory")
    first = [row for row in tests if row["contrast"].endswith(" - baseline")]
    equal = [row for row in tests if row["contrast"] == "own-10 - as-own-10"]
    verdict = OPEN
    remark = ""
    if equal and plain(equal[0]) != "lower":
        verdict = AGAINST
        remark = "At equal training loss own-10 is not shown to be lower."
    elif equal and count(first, "lower") == 3:
        verdict = FOR
    return answer_of(verdict, tests, remark, noun="comparisons")


def accuracy(rows: Sequence[Row], own: str) -> Answer:
    """Answer g for a self-model: the interval is above or below the margin."""
    tests = of_arm(chosen(rows, "g", "accuracy"), own)
    verdict = OPEN
    for row in tests:
        if row["low"] > -ACCURACY_MARGIN:
            verdict = FOR
        elif row["high"] < -ACCURACY_MARGIN:
            verdict = AGAINST
    beside = of_arm([row for row in rows if row["question"] == f"g, {BESIDE}" and row["seeds"] > 1], own)
    return answer_of(verdict, tests, "", beside)


def dead_units(rows: Sequence[Row], own: str) -> Answer:
    """Answer h for a self-model: whether fewer live units explain the fall."""
    tests = of_arm(chosen(rows, "h", "rlct", "at equal live_units"), own)
    verdict = OPEN
    for row in tests:
        if plain(row) in ("the same", "higher"):
            verdict = "explained"
        elif plain(row) == "lower" and share_of(row) < 0.5:
            verdict = "not explained"
        elif plain(row) == "lower" and share_of(row) >= 0.5:
            verdict = "explained in part"
    return answer_of(verdict, tests)


def share_of(row: Row) -> float:
    """Return the share of a test, or NaN."""
    numbers = None if row["share"] is None else share_numbers(row["share"])
    return math.nan if numbers is None else numbers[0]


def kept_alive(rows: Sequence[Row], study: Study) -> Answer:
    """Answer h by the arm of normalized targets, if it keeps its units alive."""
    tests = [row for row in chosen(rows, "h", "rlct") if row["contrast"].startswith("own-rms")]
    dead = study.values("dead_units")
    for row in tests:
        name = row["contrast"].partition(" ")[0]
        own, other = (float(dead.get(arm, NOTHING).mean()) for arm in (name, "baseline"))
        if not own <= other + 0.05:  # also if one of them is NaN
            return answer_of("no answer", tests, f"Its share of dead units is {own:.2f}, the baseline's {other:.2f}.")
    return not_lower(tests)


def not_lower(tests: Sequence[Row]) -> Answer:
    """Answer h by arms whose units are alive: without a fall, dead units explain it."""
    if count(tests, "lower"):
        return answer_of(f"{AGAINST} dead units", tests)
    return answer_of(f"{FOR} dead units", tests, "It is not shown to be lower.")


def scale(rows: Sequence[Row]) -> Answer:
    """Answer h for the width: it falls, and in the network's own scale it does not."""
    widths = {row["contrast"]: row for row in chosen(rows, "h", "weight_width")}
    tests, weights, found = [], 0, 0
    for row in chosen(rows, "h", "unit_free_width"):
        width = widths.get(row["contrast"])
        if width is None:
            continue
        weights += 1
        found += plain(width) == "lower" and plain(row) in ("the same", "higher")
        tests += [width, row]
    remark = f"The SD is lower and the unit-free SD is the same or higher for {found} of {weights} weights."
    return answer_of("scale" if found >= 2 else "not shown to be scale", tests, remark, noun="")


# ---- all answers ----


def answers(rows: Sequence[Row], study: Study) -> Answers:
    """Return the answers of a study by question, in the order of the plan."""
    found = [
        ("a", equal_loss(rows, "a", "rlct")),
        ("b", equal_loss(rows, "b", "weight_width")),
        ("c", owner(rows, study)),
        *controls(rows, study),
        ("e", readers(rows)),
        ("f", theory(rows)),
    ]
    found += [(f"g, accuracy of {own}", accuracy(rows, own)) for own in study.own]
    found += [(f"h, dead units of {own}", dead_units(rows, own)) for own in study.own]
    leaky = chosen(rows, "h, leaky", "rlct")
    found += [
        ("h, units kept alive by normalized targets", kept_alive(rows, study)),
        ("h, leaky units (amendment)", not_lower(leaky)),
        ("h, scale", scale(rows)),
    ]
    return found


def with_doubts(found: Answers, variants: Mapping[str, Answers]) -> Answers:
    """Return answers that say which of their verdicts change.

    Args:
        found: of the networks that count.
        variants: the answers of other networks or estimates, by their names.
    """
    marked = []
    for question, answer in found:
        doubts = []
        for name, others in variants.items():
            verdict = dict(others).get(question, answer_of(OPEN, [])).verdict
            if verdict != answer.verdict:
                doubts.append(f"with {name}: {verdict}")
        doubt = f"not robust ({'; '.join(doubts)})" if doubts else ""
        marked.append((question, replace(answer, doubt=doubt)))
    return marked
