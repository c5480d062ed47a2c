"""scripts/planned_answers.py and planned_words.py: the answers by the rules of docs/preregistration.md, in words."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

import planned_answers
import planned_words
from planned_tests import Study


def row(question: str, contrast: str, verdict: str = "", measure: str = "rlct", **more: Any) -> dict[str, Any]:
    """A test without a share, whose interval is that of an accuracy."""
    numbers = {"difference": 0.0, "low": -0.004, "high": 0.004, "p_holm": 0.5, "seeds": 5, "share": None, "place": ""}
    return {"question": question, "measure": measure, "contrast": contrast, "verdict": verdict, **numbers, **more}


NONE = "no usable value"


def study(*names: str, dead: float = 0.0) -> Study:
    """A study whose self-models have a share of dead units."""
    arms = ["baseline", *names]
    own = {"weight_width": 0.2, "rlct": 1.0, "rlct_status": "ok", "seed": 1}
    rows = [{"arm": name, "dead_units": 0.0 if name == "baseline" else dead, **own} for name in arms]
    return Study(pd.DataFrame(rows))


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        (["lower", "lower", "not told apart"], "for"),
        (["lower", "lower", "higher"], "open"),
        (["lower", "the same", "higher"], "against"),
        (["lower", "the same", "not told apart"], "open"),
        (["lower", "lower (not robust, with ok RLCTs: the same)"], "for"),
        ([], "no usable value"),
    ],
)
def test_equal_training_loss(verdicts, expected):
    rows = [row("a", f"own-{place} - as-own-{place}", verdict) for place, verdict in enumerate(verdicts)]
    assert planned_answers.equal_loss(rows, "a", "rlct").verdict == expected


@pytest.mark.parametrize(
    ("verdicts", "expected", "content"),
    [
        ({"other-a": "lower", "other-b": "lower", "random": "lower", "shuffled": "lower"}, "for", False),
        ({"other-a": "lower", "other-b": "lower", "random": "lower"}, "open", False),  # one was not run
        ({"other-a": "the same", "other-b": "lower", "random": "lower", "shuffled": "lower"}, "against", False),
        ({"other-a": "higher", "other-b": "the same", "random": "the same", "shuffled": "lower"}, "against", False),
        ({"other-a": "the same", "other-b": "not told apart", "shuffled": "lower"}, "against", True),
        ({"other-a": "not told apart", "other-b": "not told apart", "shuffled": "lower"}, "open", True),
    ],
)
def test_the_owner_of_the_activations(verdicts, expected, content):
    own = study("as-other-a-10", "as-other-b-10", "as-random-10", "as-shuffled-10")
    rows = [row("c", f"D(own-10) - D({name}-10)", verdict) for name, verdict in verdicts.items()]
    answer = planned_answers.owner(rows, own)
    assert answer.verdict == expected
    assert answer.text.startswith("The content matters") == content


def test_plain_differences_are_beside_the_owner():
    """They decide nothing, also if no difference at equal training loss has a value."""
    beside = row("c, plain", "own-10 - other-a-10", "lower")
    own = study("as-other-a-10")
    assert planned_answers.owner([beside], own).verdict == "no usable value"
    answer = planned_answers.owner([row("c", "D(own-10) - D(other-a-10)", "the same"), beside], own)
    assert answer.verdict == "against"
    assert "Beside it: The RLCT of own-10 is lower than that of other-a-10" in answer.text


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        ([("the same", ""), ("higher", ""), ("not told apart", "x, outside")], "for"),
        ([("the same", ""), ("not told apart", "")], "open"),
        ([("lower", ""), ("lower", ""), ("the same", "")], "against"),
        ([("the same", "x, outside")], "open"),
        ([("lower", "x, outside"), ("lower", "x, outside"), ("lower", "")], "against"),
        ([("lower", "x, outside"), ("lower", "x, outside"), ("the same", "")], "open"),  # both rules hold
    ],
)
def test_controls_at_equal_width(verdicts, expected):
    rows = []
    for number, (verdict, place) in enumerate(verdicts):
        rows.append(row("d", f"own-{number} - decay-last at equal weight_width", verdict, place=place))
    answer = planned_answers.control(rows, "decay-last", "weight_width")
    assert answer.verdict == expected
    enclosed = sum(not place for _, place in verdicts) or "none"
    assert answer.text.startswith(f"The doses enclose {enclosed} of {len(verdicts)} weights. ")


@pytest.mark.parametrize(
    ("width", "accuracy", "decay", "question"),
    [
        ("the same", "the same", "for", "for"),
        ("the same", "lower", "against", "against"),
        ("lower", "not told apart", "against", "against"),
        ("the same", "not told apart", "open", "open"),
    ],
)
def test_a_control_must_be_the_same_at_equal_width_and_at_equal_accuracy(width, accuracy, decay, question):
    """Penalties that widen the weights do the opposite, and do not enter."""
    rows = []
    for own in ("own-1", "own-5"):
        rows.append(row("d", f"{own} - decay-last at equal weight_width", width))
        rows.append(row("d", f"{own} - decay-last at equal accuracy", accuracy))
        rows.append(row("d", f"{own} - penalty at equal accuracy", "the same"))
    table = study("decay-last-1", "penalty-1").table
    table.loc[table["arm"] == "penalty-1", "weight_width"] = 0.3
    found = dict(planned_answers.controls(rows, Study(table)))
    assert found["d"].verdict == question
    assert found["d, control decay-last"].verdict == decay
    assert found["d, control penalty"].verdict == "the opposite"
    assert list(found) == ["d", "d, control decay-last", "d, control penalty"]


def test_outside_readers_must_agree():
    def rows(measures: list[str]) -> list[dict[str, Any]]:
        found = []
        for measure in planned_answers.READERS:
            for own in ("own-1", "own-5"):
                for other in ("baseline", f"as-{own}"):
                    verdict = "higher" if measure in measures else "lower"
                    found.append(row("e", f"{own} - {other}", verdict, measure))
        return found

    readers = list(planned_answers.READERS)
    assert planned_answers.readers(rows(readers)).verdict == "for"
    assert planned_answers.readers(rows([])).verdict == "against"
    words = "in modelability of variance only, so no general claim"
    assert planned_answers.readers(rows(["modelability_of_variance"])).verdict == words
    higher = row("e", "own-10 - baseline", "higher", readers[0])
    assert planned_answers.readers([*rows([]), higher]).verdict == "open"


@pytest.mark.parametrize(
    ("equal", "others", "expected"),
    [("lower", ["lower"] * 3, "for"), ("the same", ["lower"] * 3, "against"), ("lower", ["lower"] * 2, "open")],
)
def test_theory_settings(equal, others, expected):
    rows = [row("f", f"own-{place} - baseline", verdict, "rlct, theory") for place, verdict in enumerate(others)]
    rows.append(row("f", "own-10 - as-own-10", equal, "rlct, theory"))
    answer = planned_answers.theory(rows)
    assert answer.verdict == expected
    assert answer.text.startswith("At equal training loss own-10 is not shown to be lower.") == (expected == "against")


def test_fewer_than_two_pairs_decide_nothing():
    few = {"verdict": "too few pairs", "seeds": 1}
    assert planned_answers.theory([row("f", "own-10 - as-own-10", measure="rlct, theory", **few)]).verdict == NONE
    assert planned_answers.not_lower([]).verdict == NONE
    assert planned_answers.kept_alive([row("h", "own-rms-10 - baseline", **few)], study()).verdict == NONE
    readers = [row("e", "own-1 - baseline", measure=measure, **few) for measure in planned_answers.READERS]
    assert planned_answers.readers(readers).verdict == NONE


def test_accuracy_of_each_self_model():
    rows = [
        row("g", "own-1 - baseline", "the same", "accuracy"),
        row("g", "own-5 - baseline", "lower", "accuracy", low=-0.02, high=-0.006),
        row("g", "own-10 - baseline", "lower", "accuracy", low=-0.02, high=-0.004),
        row("g, beside it", "own-1 - baseline", "", "calibration_error", difference=0.25),
        row("g, beside it", "own-1 - as-own-1", "", "accuracy"),
    ]
    found = {own: planned_answers.accuracy(rows, own) for own in ("own-1", "own-5", "own-10")}
    assert [answer.verdict for answer in found.values()] == ["for", "against", "open"]
    assert "Beside it: The calibration error of own-1 differs from that of the baseline by +0.25" in found["own-1"].text
    assert "as-own-1" in found["own-1"].text
    assert "Beside it" not in found["own-5"].text


def test_dead_units_and_scale():
    fall = pd.Series([7.0, 7.0], [11, 12])
    for verdict, share, expected in (
        ("the same", 1.0, "explained"),
        ("lower", 0.497, "not explained"),
        ("lower", 0.5, "explained in part"),
        ("not told apart", 0.1, "open"),
        ("not told apart", 0.6, "open"),
    ):
        tests = [row("h", "own-1 - units at equal live_units", verdict, share=(share * fall, fall))]
        assert planned_answers.dead_units(tests, "own-1").verdict == expected
        assert planned_answers.dead_units(tests, "own-10").verdict == NONE
    widths = []
    for own, unit_free in (("own-1", "higher"), ("own-5", "the same"), ("own-10", "lower")):
        widths.append(row("h", f"{own} - baseline", "lower", "weight_width"))
        widths.append(row("h", f"{own} - baseline", unit_free, "unit_free_width"))
    assert planned_answers.scale(widths).verdict == "scale"
    assert planned_answers.scale(widths[2:]).verdict == "not shown to be scale"


@pytest.mark.parametrize(
    ("dead", "verdict", "expected"),
    [
        (0.3, "lower", "no answer"),
        (float("nan"), "lower", "no answer"),
        (0.04, "lower", "against dead units"),
        (0.0, "the same", "for dead units"),
    ],
)
def test_units_kept_alive(dead, verdict, expected):
    rows = [row("h", "own-rms-10 - baseline", verdict)]
    assert planned_answers.kept_alive(rows, study("own-rms-10", dead=dead)).verdict == expected


# ---- words ----


def test_what_the_results_mean():
    verdicts = {"a": "for", "b": "against", "c": "for", "d": "open", "f": "for", "h, scale": "not shown to be scale"}
    lines = planned_words.meanings(verdicts, ["f"])
    assert lines[0] == "- (a) for, (f) for, not robust, (c) for: the effect on the RLCT is one of self-modeling."
    assert [line.partition(":")[0] for line in lines[1:]] == ["- (b) against"]
    assert planned_words.meanings({"a": "open"}, []) == ["None of the sentences of the plan applies."]


def test_a_test_in_words():
    share = pd.Series([2.0, 2.0], [11, 12])
    numbers = {"difference": -1.5, "low": -2.0, "high": -1.0, "p_holm": 0.01}
    lower = row(
        "a", "own-1 - as-own-1", "lower (not robust, with ok RLCTs: the same)", share=(share, 4 * share), **numbers
    )
    assert planned_words.sentence(lower) == (
        "The RLCT of own-1 is lower than that of as-own-1 by 1.5 (95 % interval 1 to 2, 5 seeds, corrected p = 0.01); "
        "25 % of its fall remains (25 to 25 %) (not robust, with ok RLCTs: the same)."
    )
    place = "decay-last-1e-3 to decay-last-3e-3"
    same = row("d", "own-1 - decay-last at equal weight_width", "the same", place=place, difference=0.1)
    assert planned_words.sentence(same) == (
        "The RLCT of own-1 is the same as that of decay-last at equal SD, with a difference of +0.1 (95 % interval "
        f"-0.004 to 0.004, 5 seeds, corrected p = 0.5, doses: {place})."
    )
    fall = row("c", "D(own-10) - D(random-10)", "higher", difference=0.5)
    assert planned_words.sentence(fall).startswith("D(own-10) is higher than D(random-10) by 0.5 (")
