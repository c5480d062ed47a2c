"""Answer a study's question in a few sentences, made from its numbers.

`speakers.py` chooses the arms that speak. At most three arms speak by name. Of more panels of weights the answer counts
the verdicts. Of other arms it names the first of each panel, and counts the rest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ..experiments.arms import Arm
from ..trainer.task_metrics import SMALLER_IS_BETTER
from .equal_loss import SIMPLICITY
from .findings import (
    EQUAL,
    HIGHER,
    LOWER,
    MISSING,
    REMAINS,
    SUBJECTS,
    UNCLEAR,
    UNTESTED,
    Finding,
    at_equal_loss_text,
    clauses_text,
    listed,
    remains_text,
    remains_verdict,
)
from .speakers import KEPT, Evidence, Findings, Speaker, choose_speakers
from .statistics import NO_COMPLEXITY, count_not_ok, has_usable_rlct

MOST = 3  # arms that speak by name
WORDS = {
    LOWER: "lower",
    HIGHER: "higher",
    UNCLEAR: "not told apart from the baseline's",
    UNTESTED: "not tested",
    EQUAL: "equal",
    MISSING: "not comparable",
}


class Answer(str):
    """A few sentences, with the statements that they are made of.

    Attributes:
        parts: for each arm that speaks one statement per measure.
    """

    parts: list[Finding]

    def __new__(cls, text: str, parts: Sequence[Finding] = ()) -> Answer:
        """Return a text with its statements."""
        answer = super().__new__(cls, text)
        answer.parts = list(parts)
        return answer


def answer_of(evidence: Evidence) -> Answer:
    """Return the answer of a study."""
    speakers = choose_speakers(evidence)
    if not speakers:
        return Answer(_nothing_to_compare(evidence))
    are_weights = all(speaker.is_weight for speaker in speakers)
    if len(speakers) > MOST and are_weights:
        sentences = _of_many_panels(evidence, speakers)
        shown = speakers
    elif len(speakers) == 1:
        sentences = _of_one(evidence, speakers[0])
        shown = speakers
    else:
        shown = speakers[:MOST]
        sentences = [_of_some(evidence, speaker) for speaker in shown] + _not_known(evidence, shown)
    sentences += _closing(evidence, shown, len(speakers) - len(shown))
    parts: list[Finding] = []
    for speaker in shown:
        parts += evidence.findings[speaker.arm.name].values()
    return Answer(" ".join(sentences), parts)


def _nothing_to_compare(evidence: Evidence) -> str:
    """Return the answer of a study without an arm and its baseline."""
    names = list(dict.fromkeys(evidence.rows["arm"]))
    if len(names) > 1:
        return f"Nothing is compared: none of the {len(names)} arms has another baseline than itself."
    values = []
    for measure in evidence.measures:
        mean = evidence.means.get((names[0], measure))
        if mean is not None and mean.count:
            values.append(f"{SUBJECTS[measure]} is {mean.mean:.3g}")
    text = f"Nothing is compared, because {names[0]} is the only arm"
    return f"{text}: {listed(values)}." if values else f"{text}."


def _of_one(evidence: Evidence, speaker: Speaker) -> list[str]:
    """Return the sentences of a single arm: its differences, and what remains of them at equal training loss."""
    arm = speaker.arm
    findings = list(evidence.findings[arm.name].values())
    clauses = clauses_text(findings)
    baseline = _baseline_name(evidence, arm)
    place = f"at {_weight(arm)}" if speaker.is_weight else f"between {arm.name} and {baseline}"
    if _is_no_difference(findings):
        sentences = [f"No difference is seen in RLCT and width {place}: {clauses}."]
    elif speaker.is_weight:
        sentences = [f"At {_weight(arm)}, compared with {baseline}, {clauses}."]
    else:
        sentences = [f"Compared with {baseline}, in {arm.name} {clauses}."]
    if not speaker.keeps_metric:
        sentences.insert(0, f"No self-model weight keeps {_kept_text(evidence.metric)}.")
    known, unknown = _remaining(evidence, arm)
    if known:
        cannot_tell = [f"for {SUBJECTS[measure]} the study cannot tell" for measure in unknown]
        text = "; ".join([*known, *cannot_tell])
        sentences.append(f"{text[0].upper()}{text[1:]}.")
    elif unknown:
        sentences.append("The study cannot tell whether this remains at equal training loss.")
    return sentences


def _of_some(evidence: Evidence, speaker: Speaker) -> str:
    """Return the sentence of one arm of several."""
    arm = speaker.arm
    name = arm.name
    if speaker.is_weight:
        name = f"{arm.panel}, {_weight(arm)}".removeprefix(", ")
    clauses = clauses_text(evidence.findings[arm.name].values())
    known, _ = _remaining(evidence, arm)
    parts = [f"{name} against {_baseline_name(evidence, arm)}: {clauses}", *known]
    return f"{'; '.join(parts)}."


def _not_known(evidence: Evidence, speakers: Sequence[Speaker]) -> list[str]:
    """Return a sentence about the differences of which the study cannot tell whether they remain at equal loss."""
    measures: dict[str, None] = {}
    for speaker in speakers:
        _, unknown = _remaining(evidence, speaker.arm)
        measures |= dict.fromkeys(unknown)
    if not measures:
        return []
    subjects = [SUBJECTS[measure] for measure in measures]
    return [f"The study cannot tell whether differences of {listed(subjects)} remain at equal training loss."]


def _kept_text(metric: str) -> str:
    """Return what an arm that is good enough keeps of its baseline's metric."""
    subject = SUBJECTS[metric]
    if metric in SMALLER_IS_BETTER:
        return f"{subject} below {100 / KEPT:.0f} % of the baseline's"
    return f"{100 * KEPT:.0f} % of the baseline's {subject}"


def _baseline_name(evidence: Evidence, arm: Arm) -> str:
    """Return "the baseline" for one that predicts nothing or has this name, else its name."""
    if arm.baseline == "baseline":
        return "the baseline"
    for other in evidence.study:
        if other.name == arm.baseline and other.changes.get("aux_weight") == 0:
            return "the baseline"
    return arm.baseline


def _weight(arm: Arm) -> str:
    return f"AW {arm.changes['aux_weight']:g}"


def _is_no_difference(findings: Sequence[Finding]) -> bool:
    verdicts = {finding.verdict for finding in findings if finding.measure in SIMPLICITY}
    return UNCLEAR in verdicts and verdicts <= {UNCLEAR, EQUAL}


def _remaining(evidence: Evidence, arm: Arm) -> tuple[list[str], list[str]]:
    """Return what remains of an arm's differences at equal training loss.

    Returns:
        Clauses, and the measures about which the study cannot tell.
    """
    by_words: dict[str, list[str]] = {}
    unknown = []
    for finding in evidence.findings[arm.name].values():
        equal = evidence.equal.get((arm.name, finding.measure))
        if equal is None or finding.verdict not in (LOWER, HIGHER, UNTESTED):
            continue
        if remains_verdict(finding, equal) == MISSING:
            unknown.append(finding.measure)
        else:
            by_words.setdefault(at_equal_loss_text(equal), []).append(remains_text(finding, equal))
    return [f"{words} {listed(texts)}" for words, texts in by_words.items()], unknown


def _of_many_panels(evidence: Evidence, speakers: Sequence[Speaker]) -> list[str]:
    """Return sentences that count the verdicts of more panels than can speak by name."""
    statements = []
    for measure in evidence.measures:
        verdicts: Counter[str] = Counter()
        for speaker in speakers:
            finding = evidence.findings[speaker.arm.name].get(measure)
            if finding is not None:
                verdicts[finding.verdict] += 1
        counts = [f"{WORDS[verdict]} in {count}" for verdict, count in verdicts.items()]
        if counts:
            statements.append(f"{SUBJECTS[measure]} is {listed(counts)}")
    keeping = sum(speaker.keeps_metric for speaker in speakers)
    rule = f"at the largest self-model weight that keeps {_kept_text(evidence.metric)}"
    if keeping < len(speakers):
        rule += f" (in {len(speakers) - keeping} no weight does, and the smallest speaks)"
    sentences = [f"In {len(speakers)} panels, {rule}: {'; '.join(statements)}."]
    remaining = _remaining_in_panels(evidence, speakers)
    return [*sentences, remaining] if remaining else sentences


def _remaining_in_panels(evidence: Evidence, speakers: Sequence[Speaker]) -> str:
    """Return in how many panels differences remain at equal training loss. Empty: there are none."""
    statements = []
    for measure in SIMPLICITY:
        verdicts = []
        for speaker in speakers:
            finding = evidence.findings[speaker.arm.name].get(measure)
            equal = evidence.equal.get((speaker.arm.name, measure))
            if finding is None or equal is None:
                continue
            if finding.verdict in (LOWER, HIGHER):
                verdicts.append(remains_verdict(finding, equal))
        known = [verdict for verdict in verdicts if verdict != MISSING]
        if known:
            remaining = known.count(REMAINS)
            statements.append(f"the difference of {SUBJECTS[measure]} remains in {remaining} of {len(known)}")
        elif verdicts:
            statements.append(f"for {SUBJECTS[measure]} the study cannot tell")
    return f"At equal training loss {'; '.join(statements)}." if statements else ""


def _closing(evidence: Evidence, shown: Sequence[Speaker], more: int) -> list[str]:
    """Return sentences about what the answer leaves out, and about the RLCTs that are not ok."""
    rows = evidence.rows
    is_usable = has_usable_rlct(rows)
    no_complexity = int(rows["rlct_status"].isin(NO_COMPLEXITY).sum())
    missing = int((~is_usable).sum()) - no_complexity
    at_chance = int(rows["at_chance"].sum()) if "at_chance" in rows else 0
    doubtful = count_not_ok(rows[is_usable])
    left_out = []
    if no_complexity:
        left_out.append(f"{no_complexity} of {len(rows)} RLCTs that are not at a minimum or diverged")
    if missing:
        left_out.append(f"{missing} of {len(rows)} RLCTs that are missing")
    if at_chance:
        left_out.append(f"{at_chance} of {len(rows)} networks at chance level")
    sentences = []
    if left_out:
        sentences.append(f"Left out: {listed(left_out)}.")
        sentences += _with_others(evidence, evidence.every_rlct, "With every RLCT counted", shown)
    if doubtful:
        sentences.append(f"Counted, but not ok: {doubtful} of {len(rows)} RLCTs.")
        sentences += _with_others(evidence, evidence.ok_rlct, "With only the RLCTs that are ok", shown)
    if more:
        sentences.append(f"And {more} more {'arm' if more == 1 else 'arms'} below.")
    return sentences


def _with_others(evidence: Evidence, others: Findings, condition: str, shown: Sequence[Speaker]) -> list[str]:
    """Return a sentence if the verdict about an RLCT is another one over another set of networks.

    Args:
        evidence: of the study.
        others: statements about that set.
        condition: the words that name it.
        shown: the arms that speak.
    """
    told, unclear = [], []
    for speaker in shown:
        name = speaker.arm.name
        own = evidence.findings[name].get("rlct")
        other = others.get(name, {}).get("rlct")
        if own is None or other is None or own.verdict == other.verdict:
            continue
        if other.verdict == UNCLEAR:
            unclear.append(f"{name} ({other.numbers})")
        else:
            told.append(f"in {name} {other.text}")
    if unclear:
        told.append(f"the RLCT is not told apart from the baseline's in {listed(unclear)}")
    if not told or len(shown) > MOST:
        return []
    return [f"{condition}, {'; '.join(told)}."]
