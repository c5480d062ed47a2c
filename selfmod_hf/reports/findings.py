"""Say in words what a comparison of two arms found, and never more than its interval allows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ..experiments.chance import CORRELATIONS, SHARES
from .comparisons import NO_SPREAD
from .equal_loss import STOPPED, UNKNOWN

ALPHA = 0.05  # a difference whose p-value, corrected by Holm, is above it is "not told apart from 0"
FAR = 0.1  # two training losses that differ by a larger share are not called equal
SUBJECTS = {
    "rlct": "the RLCT",
    "weight_width": "the width",
    "accuracy": "accuracy",
    "f1": "F1",
    "pearson": "Pearson correlation",
    "perplexity": "perplexity",
}
LOWER, HIGHER, UNCLEAR, UNTESTED, EQUAL, MISSING = "lower", "higher", "unclear", "untested", "equal", "missing"
REMAINS, REVERSED = "remains", "reversed"


@dataclass(frozen=True)
class Finding:
    """Hold one statement of an answer.

    Attributes:
        panel: of the arm.
        arm: name of the arm that is compared with its baseline.
        measure: "rlct", "weight_width" or the metric that the study compares.
        verdict: LOWER or HIGHER: told apart from the baseline's, p <= ALPHA. UNCLEAR: not told apart. UNTESTED: too few
            seeds or no spread. EQUAL: untested, and no difference. MISSING: a mean is missing.
        difference: of the means. NaN: missing.
        percent: the same in percent of the baseline's mean. NaN: a mean is not above 0, so that percents say nothing.
        p: corrected by Holm. NaN: no test.
        text: the statement, a main clause.
        numbers: the difference with its sign, and p.
    """

    panel: str
    arm: str
    measure: str
    verdict: str
    difference: float
    percent: float
    p: float
    text: str
    numbers: str


def finding_of(test: Any) -> Finding:
    """Return the statement about a row of `compare_with_baseline`."""
    percent = math.nan
    if test.other_mean > 0 and test.mean > 0:
        percent = 100 * test.difference / test.other_mean
    verdict = verdict_of(test.difference, test.p_holm)
    amount = _amount(test.measure, test.difference, percent)
    subject = SUBJECTS[test.measure]
    p = p_text(test.p_holm)
    direction = LOWER if test.difference < 0 else HIGHER
    sign = "-" if test.difference < 0 else "+"
    signed = amount if amount.startswith("less") else f"{sign}{amount}"
    numbers = f"{signed}, {p}"
    texts = {
        LOWER: f"{subject} is {amount} lower ({p})",
        HIGHER: f"{subject} is {amount} higher ({p})",
        UNCLEAR: f"{subject} is not told apart from the baseline's ({numbers})",
        UNTESTED: f"{subject} is {amount} {direction} ({_why_untested(test)}: no test)",
        EQUAL: f"{subject} is equal",
        MISSING: f"{subject} cannot be compared",
    }
    return Finding(
        test.panel, test.arm, test.measure, verdict, test.difference, percent, test.p_holm, texts[verdict], numbers
    )


def clauses_text(findings: Iterable[Finding]) -> str:
    """Return the statements in one text. Those about differences that are not told apart become one clause."""
    told: list[Finding] = []
    unclear: list[Finding] = []
    for finding in findings:
        if finding.verdict == UNCLEAR:
            unclear.append(finding)
        else:
            told.append(finding)
    clauses = []
    if told:
        texts = [finding.text for finding in told]
        clauses.append(listed(texts))
    if len(unclear) == 1:
        clauses.append(unclear[0].text)
    elif unclear:
        subjects = [f"{SUBJECTS[finding.measure]} ({finding.numbers})" for finding in unclear]
        clauses.append(f"{listed(subjects)} are not told apart from the baseline's")
    return "; ".join(clauses)


def listed(texts: Sequence[str]) -> str:
    """Return texts joined by commas and a last "and".

    Example:
        >>> listed(["a", "b", "c"])
        'a, b and c'
    """
    if len(texts) < 2:
        return "".join(texts)
    return f"{', '.join(texts[:-1])} and {texts[-1]}"


def verdict_of(difference: float, p: float) -> str:
    """Return the verdict about a difference.

    Args:
        difference: of two means.
        p: corrected by Holm.

    Example:
        >>> verdict_of(-2.0, 0.01), verdict_of(-2.0, 0.2)
        ('lower', 'unclear')
    """
    if math.isnan(difference):
        return MISSING
    if math.isnan(p):
        return EQUAL if difference == 0 else UNTESTED
    if p > ALPHA:
        return UNCLEAR
    return LOWER if difference < 0 else HIGHER


def _why_untested(test: Any) -> str:
    if test.test == NO_SPREAD:
        return f"the same in all {test.pairs} seeds"
    if test.pairs == 0:
        return "no 2 seeds of each"
    return "1 common seed"


def _amount(measure: str, difference: float, percent: float) -> str:
    """Return the size of a difference."""
    if measure in CORRELATIONS:
        return two_digits(difference)
    if measure in SHARES:
        size = two_digits(100 * difference)
        return f"{size} {'point' if size == '1' else 'points'}"
    if math.isnan(percent):
        return f"{abs(difference):.2g}"
    return f"{two_digits(percent)} %"


def two_digits(value: float) -> str:
    """Return the size of a number with two digits.

    Example:
        >>> two_digits(-22.4), two_digits(2.34), two_digits(116.7), two_digits(0.00012)
        ('22', '2.3', '117', 'less than 0.01')
    """
    size = abs(value)
    if not math.isfinite(size):
        return "an unknown share"
    if size >= 99.5:
        return f"{size:.0f}"
    if 0 < size < 0.01:
        return "less than 0.01"
    return f"{size:.2g}"


def p_text(p: float) -> str:
    """Return a p-value as it is printed. It is never rounded over ALPHA.

    Example:
        >>> p_text(0.0002), p_text(0.0123), p_text(0.4), p_text(0.0504)
        ('p < .001', 'p = .012', 'p = .40', 'p > .05')
    """
    if math.isnan(p):
        return "no test"
    if p < 0.001:
        return "p < .001"
    if ALPHA < p < 0.0505:
        return "p > .05"
    if p > 0.995:
        return "p = 1"
    text = f"{p:.3f}" if p < 0.1 else f"{p:.2f}"
    return f"p = {text.lstrip('0')}"


# ---- at equal training loss ----


def remains_verdict(finding: Finding, equal: Any) -> str:
    """Return what is left of a difference at equal training loss.

    Args:
        finding: the difference from the baseline.
        equal: its row of `compare_at_equal_loss`.

    Returns:
        REMAINS or REVERSED: told apart from 0. UNCLEAR: not told apart. UNTESTED: too few seeds or no spread. MISSING:
        the study cannot tell.
    """
    if equal.way == UNKNOWN or math.isnan(equal.difference):
        return MISSING
    if math.isnan(equal.p_holm):
        return UNTESTED
    if equal.p_holm > ALPHA:
        return UNCLEAR
    return REMAINS if equal.difference * finding.difference > 0 else REVERSED


def remains_text(finding: Finding, equal: Any) -> str:
    """Return a clause: the part of a difference that remains at equal training loss.

    Args:
        finding: the difference from the baseline.
        equal: its row of `compare_at_equal_loss`.
    """
    name = SUBJECTS[finding.measure]
    noun = "fall" if finding.difference < 0 else "rise"
    change = f"{name}'s {noun}"
    share = ""
    if equal.difference * finding.difference > 0 and equal.share > 0:
        share = f"{two_digits(100 * equal.share)} %"
    some = f"{share} of {change} remains" if share else f"{change} remains"
    none_or_some = some if share else f"nothing of {change} remains"
    p = p_text(equal.p_holm)
    beside = f"{share} remains, {p}" if share else p
    texts = {
        REMAINS: f"{some} ({p})",
        REVERSED: f"{change} is reversed ({p})",
        UNCLEAR: f"{change} is not told apart from 0 ({beside})",
        UNTESTED: f"{none_or_some} (no test)",
        MISSING: f"for {name} the study cannot tell",
    }
    return texts[remains_verdict(finding, equal)]


def at_equal_loss_text(equal: Any) -> str:
    """Return the words before such a clause, with the way of the comparison and, if they differ, the two losses."""
    way = f"arm {equal.other}" if equal.way == STOPPED else "by the baseline's curve"
    gap = abs(equal.loss - equal.other_loss)
    if gap > FAR * abs(equal.loss):
        losses = f"{equal.loss:.2g} against {equal.other_loss:.2g}"
        return f"at the nearest training loss ({way}, {losses} nats)"
    return f"at equal training loss ({way})"
