"""The tests of docs/preregistration.md in words, and what its results mean."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from planned_rules import Row, plain, share_numbers

MEASURES = {
    "rlct": "RLCT",
    "rlct, theory": "RLCT at theory settings",
    "weight_width": "SD",
    "unit_free_width": "unit-free SD",
}
SHARES = {  # question -> what its share says
    "a": "{} of its fall remains",
    "b": "{} of its fall remains",
    "h": "{} of its fall is explained",
    "h, leaky": "its fall is {} of that of own-10",
}
NARROWER = (
    'no sentence of this project says that self-modeling narrows the weights without "as less training does", or "in '
    'their own scale".'
)
MEANINGS: list[tuple[dict[str, str], str]] = [  # verdicts by question, and what the plan says of them
    ({"a": "for", "f": "for", "c": "for"}, "the effect on the RLCT is one of self-modeling."),
    ({"a": "for", "c": "against"}, "predicting activations lowers the RLCT, whoever's they are."),
    ({"d": "for"}, "the published measures do not tell self-modeling from weight decay."),
    ({"b": "against"}, NARROWER),
    ({"h, scale": "scale"}, NARROWER),
    ({"a": "against"}, "the published fall of the RLCT is one of less training."),
]


def measure_words(name: str) -> str:
    """Return a measure in words."""
    return MEASURES.get(name, name.replace("_", " "))


def counts(rows: Sequence[Row], noun: str) -> str:
    """Return how often each verdict was found.

    Args:
        rows: tests.
        noun: the plural of what was tested.
    """
    parts = []
    for verdict, number in Counter(map(plain, rows)).items():
        parts.append(f"{verdict} for {number} of {len(rows)}")
    parts[0] += f" {noun}"
    return f"{', '.join(parts)}."


def sentence(row: Row) -> str:
    """Return a test as a sentence."""
    own, _, other = row["contrast"].partition(" - ")
    other = other.replace("weight_width", "SD").replace("live_units", "live units")
    if not own.startswith("D("):
        own = f"the {measure_words(row['measure'])} of {own}"
        other = "that of the baseline" if other == "baseline" else f"that of {other}"
    if row["place"].endswith(", outside"):  # no two doses enclose the value
        family, _, at = other.removeprefix("that of ").partition(" at equal ")
        dose = row["place"].removesuffix(", outside")
        other = f"that of {dose}, the nearest dose of {family} (its {at} is not equal)"
    difference = row["difference"]
    forms = {
        "lower": f"is lower than {other} by {-difference:.3g}",
        "higher": f"is higher than {other} by {difference:.3g}",
        "the same": f"is the same as {other}, with a difference of {difference:+.3g}",
        "not told apart": f"is not told apart from {other}, with a difference of {difference:+.3g}",
        "": f"differs from {other} by {difference:+.3g}",
    }
    text = f"{own} {forms[plain(row)]} ({details(row)})"
    share = share_words(row)
    if share:
        text += f"; {share}"
    _, bracket, doubt = str(row["verdict"]).partition(" (")
    return capitalized(f"{text}{bracket}{doubt}.")


def details(row: Row) -> str:
    """Return interval, seeds, p-value and doses of a test."""
    low, high = row["low"], row["high"]
    if plain(row) == "lower":  # the sentence has the size of the fall
        low, high = -high, -low
    parts = []
    if math.isfinite(low):
        parts.append(f"95 % interval {low:.3g} to {high:.3g}")
    parts.append(f"{row['seeds']} seeds")
    if math.isfinite(row["p_holm"]):
        parts.append(f"corrected p = {row['p_holm']:.2g}")
    if row["place"] and not row["place"].endswith(", outside"):
        parts.append(f"doses: {row['place']}")
    return ", ".join(parts)


def share_words(row: Row) -> str:
    """Return the share of a test with its interval. Empty: it has none."""
    numbers = None if row["share"] is None else share_numbers(row["share"])
    if numbers is None:
        return ""
    value, low, high = (f"{100 * number:.0f}" for number in numbers)
    if numbers[0] < 0 and row["question"] in ("a", "b"):
        return f"none of its fall remains (share {value} %, {low} to {high} %)"
    return f"{SHARES[row['question']].format(value + ' %')} ({low} to {high} %)"


def meanings(verdicts: dict[str, str], doubtful: Sequence[str]) -> list[str]:
    """Return what the plan says of some verdicts, a line each.

    Args:
        verdicts: by question.
        doubtful: the questions whose verdict is not robust.
    """
    lines = []
    for needed, meaning in MEANINGS:
        if any(verdicts.get(question) != verdict for question, verdict in needed.items()):
            continue
        parts = []
        for question, verdict in needed.items():
            doubt = ", not robust" if question in doubtful else ""
            parts.append(f"({question[0]}) {verdict}{doubt}")
        lines.append(f"- {', '.join(parts)}: {meaning}")
    return lines or ["None of the sentences of the plan applies."]


def capitalized(text: str) -> str:
    """Return a text whose first letter is a capital."""
    return text[:1].upper() + text[1:]
