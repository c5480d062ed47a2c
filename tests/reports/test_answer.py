"""The answer of a study says what its numbers say, for any numbers."""

import math
import re

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from selfmod_hf.complexity.result import STATUSES
from selfmod_hf.experiments.arms import Arm, make_arms
from selfmod_hf.experiments.folder import SweepFolder
from selfmod_hf.reports.sweep_results import SweepResults
from selfmod_hf.reports.sweep_tables import sweep_tables
from selfmod_hf.reports.table import as_text

NAMED = {
    "baseline": {"aux_weight": 0.0},
    "self-model": {"aux_weight": 10.0},
    "decay": {"weight_decay": 1e-3, "aux_weight": 0.0},
    "early": {"aux_weight": 0.0, "stop_at_train_loss": "self-model"},
}


def network(arm: Arm, seed: int, **values) -> dict:
    changes = arm.changes
    hidden = changes.get("hidden_sizes")
    row = {"task": "any", "hidden_size": hidden[-1] if hidden else None, "aux_weight": changes.get("aux_weight", 1.0)}
    row |= {"seed": seed, "detach_targets": changes.get("detach_targets", True), "arm": arm.name}
    row |= {"accuracy": 0.9, "weight_width": 0.2, "rlct": 10.0, "rlct_status": "ok", "train_loss": 0.1}
    row |= {"at_chance": False, "nbeta": 80.0, "weight_decay": changes.get("weight_decay", 0.0)}
    return row | values


def results_of(study: list[Arm], rows: list[dict]) -> SweepResults:
    table = pd.DataFrame(rows)
    if table["hidden_size"].isna().any():
        table = table.astype({"hidden_size": "Int64"})
    points = []
    for row in rows:
        for epoch, loss in ((1, 0.3), (2, 0.15), (3, row["train_loss"])):
            point = {name: row[name] for name in ("task", "hidden_size", "aux_weight", "seed", "detach_targets", "arm")}
            point |= {"epoch": epoch, "classification_loss": loss, "accuracy": row["accuracy"]}
            width = None if row["weight_width"] is None else row["weight_width"] * epoch / 3
            points.append({**point, "weight_width": width, "at_chance": row["at_chance"]})
    return SweepResults(SweepFolder("nowhere"), table, pd.DataFrame(points), None, study)


def falling(study: list[Arm], seeds: int, fall: float) -> list[dict]:
    """RLCT and width fall by a share per arm, with a little noise of the seed."""
    rows = []
    for number, arm in enumerate(study):
        for seed in range(seeds):
            noise = 0.01 * math.sin(7 * seed + 3 * number)
            part = 1 - fall * number + noise
            rows.append(network(arm, seed, rlct=10 * part, weight_width=0.2 * part, accuracy=0.9 - 0.01 * number))
    return rows


def test_a_fall_is_said_with_its_percents_and_what_remains():
    study = make_arms({"aux_weight": [0.0, 1.0, 10.0]})
    found = results_of(study, falling(study, 8, 0.1))
    assert found.answer.startswith("At AW 10, compared with the baseline, the RLCT is 20 % lower (p < .001), ")
    assert "the width is 20 % lower (p < .001)" in found.answer
    assert "accuracy is 2 points lower" in found.answer
    assert "at equal training loss" in found.answer.lower()
    assert "for the RLCT the study cannot tell" in found.answer
    assert {part.arm for part in found.answer.parts} == {"aw10"}
    assert [part.measure for part in found.answer.parts] == ["rlct", "weight_width", "accuracy"]


def test_the_largest_weight_that_keeps_accuracy_speaks():
    study = make_arms({"aux_weight": [0.0, 1.0, 10.0, 50.0]})
    rows = falling(study, 4, 0.1)
    for row in rows:
        if row["arm"] == "aw50":
            row["accuracy"] = 0.3
    assert {part.arm for part in results_of(study, rows).answer.parts} == {"aw10"}
    for row in rows:
        if row["arm"] == "aw10":
            row["rlct_status"] = "not_at_minimum"
    found = results_of(study, rows)
    assert {part.arm for part in found.answer.parts} == {"aw1"}
    assert "Left out: 4 of 16 RLCTs that are not at a minimum or diverged." in found.answer
    for row in rows:
        row["accuracy"] = 0.9 if row["aux_weight"] == 0 else 0.2
    answer = results_of(study, rows).answer
    assert answer.startswith("No self-model weight keeps 95 % of the baseline's accuracy. At AW 1, ")


def test_no_difference():
    study = make_arms({"aux_weight": [0.0, 10.0]})
    rows = falling(study, 6, 0.0)
    for row in rows:
        row |= {"rlct": 10 + (row["seed"] * 7 + row["aux_weight"]) % 4, "weight_width": 0.2 + (row["seed"] % 3) / 100}
    answer = results_of(study, rows).answer
    assert answer.startswith("No difference is seen in RLCT and width at AW 10: ")
    assert "the RLCT is not told apart from the baseline's" in answer
    assert "equal training loss" not in answer


def test_two_networks():
    study = make_arms({"aux_weight": [0.0, 10.0]})
    answer = results_of(study, falling(study, 1, 0.3)).answer
    assert "the RLCT is 30 % lower (1 common seed: no test)" in answer
    assert "p " not in answer.split("At equal")[0]


def test_one_arm_alone():
    study = make_arms({"aux_weight": [0.0]})
    found = results_of(study, falling(study, 3, 0.0))
    assert found.answer.startswith("Nothing is compared, because aw0 is the only arm: the RLCT is 10")
    assert found.answer.parts == []


def test_named_arms_speak_each_in_a_sentence_and_the_stopped_one_is_what_they_are_compared_with():
    study = make_arms({}, NAMED)
    found = results_of(study, falling(study, 6, 0.05))
    sentences = found.answer.split(". ")
    assert sentences[0].startswith("self-model against the baseline: the RLCT is 5")
    assert "at equal training loss (arm early) the RLCT's fall is reversed" in found.answer
    assert sentences[1].startswith("decay against the baseline")
    assert {part.arm for part in found.answer.parts} == {"self-model", "decay"}


def test_more_than_three_arms_and_more_than_three_panels():
    many = {"baseline": {"aux_weight": 0.0}, **{f"decay{n}": {"weight_decay": float(n)} for n in range(1, 8)}}
    study = make_arms({}, many)
    answer = results_of(study, falling(study, 3, 0.02)).answer
    assert "And 4 more arms below." in answer
    assert "decay4" not in answer
    grid = make_arms({"hidden_sizes": [[8], [16], [32], [64]], "aux_weight": [0.0, 10.0]})
    rows = [{**row, "rlct": 10 - row["aux_weight"] / 10 + 0.01 * row["seed"] ** 2} for row in falling(grid, 4, 0.0)]
    for row in rows:
        row["rlct"] += 0.003 * row["aux_weight"] * row["seed"]
    answer = results_of(grid, rows).answer
    assert answer.startswith("In 4 panels, at the largest self-model weight that keeps 95 %")
    assert "the RLCT is lower in 4" in answer


def test_missing_rlcts_are_counted_apart():
    study = make_arms({"aux_weight": [0.0, 10.0]})
    rows = falling(study, 4, 0.2)
    rows[0] |= {"rlct": None}
    rows[5] |= {"rlct": None, "rlct_status": "diverged"}
    left_out = "Left out: 1 of 8 RLCTs that are not at a minimum or diverged and 1 of 8 RLCTs that are missing."
    assert left_out in results_of(study, rows).answer


def test_a_selection_that_decides_is_said():
    study = make_arms({"aux_weight": [0.0, 10.0]})
    rows = falling(study, 8, 0.2)
    for row in rows:
        if row["arm"] == "aw10" and row["seed"] < 4:
            row |= {"rlct": 30.0 + row["seed"], "rlct_status": "not_at_minimum"}
    found = results_of(study, rows)
    assert "the RLCT is 19 % lower" in found.answer
    assert "Left out: 4 of 16 RLCTs that are not at a minimum or diverged." in found.answer
    assert "With every RLCT counted, the RLCT is not told apart from the baseline's in aw10 (" in found.answer
    (line,) = sweep_tables(found)["every_rlct"].rows
    assert "4 of 8" in line
    counted, ok, every = line[-9:-6], line[-6:-3], line[-3:]
    assert counted == ok != every


@pytest.mark.parametrize("status", ["not_converged", "biased", "not_identified"])
def test_an_answer_that_rests_on_doubtful_rlcts_says_what_the_others_say(status):
    study = make_arms({"aux_weight": [0.0, 10.0]})
    rows = falling(study, 8, 0.2)
    for row in rows:
        if row["arm"] == "aw10" and row["seed"] < 4:
            row |= {"rlct": 30.0 + row["seed"], "rlct_status": status}
    found = results_of(study, rows)
    assert "the RLCT is not told apart from the baseline's" in found.answer
    assert "Counted, but not ok: 4 of 16 RLCTs." in found.answer
    assert "With only the RLCTs that are ok, in aw10 the RLCT is 19 % lower" in found.answer
    tables = sweep_tables(found)
    assert tables["arms"].rows[1][-2] != tables["arms_ok"].rows[1][-2]
    assert [tables[name].rows[1][-1] for name in ("arms", "arms_ok")] == ["0", "4"]
    (line,) = tables["not_ok"].rows
    assert line[3:5] == [status, "yes"]


def test_the_first_arms_of_each_panel_speak():
    study = make_arms({"hidden_sizes": [[8], [16]]}, NAMED)
    found = results_of(study, falling(study, 3, 0.02))
    assert list(dict.fromkeys(part.arm for part in found.answer.parts)) == [
        "h8-self-model",
        "h16-self-model",
        "h8-decay",
    ]
    assert "And 1 more arm below." in found.answer


# ---- any table ----

STUDIES = [
    make_arms({"aux_weight": [0.0, 10.0]}),
    make_arms({"aux_weight": [0.0]}),
    make_arms({"hidden_sizes": [[8], [16]], "aux_weight": [0.0, 1.0, 10.0], "detach_targets": [True, False]}),
    make_arms({}, NAMED),
    make_arms({"learning_rate": [0.1, 0.01]}),
    make_arms({"hidden_sizes": [[4], [8], [16], [32]], "aux_weight": [0.0, 5.0]}),
]
NUMBER = st.one_of(st.none(), st.floats(-50, 50), st.sampled_from([0.0, 1.0, 1e-9, 10.0]))


@st.composite
def any_results(draw) -> SweepResults:
    study = draw(st.sampled_from(STUDIES))
    rows = []
    for arm in study:
        for seed in draw(st.lists(st.integers(0, 5), unique=True, max_size=6)):
            width = draw(NUMBER)
            values = {"rlct": draw(NUMBER), "weight_width": width, "train_loss": draw(st.sampled_from([0.1, 0.2, 0.5]))}
            values |= {"accuracy": draw(st.sampled_from([0.0, 0.1, 0.5, 0.9, 0.91]))}
            values["rlct_status"] = draw(st.sampled_from(["ok", *STATUSES]))
            rows.append(network(arm, seed, **values, at_chance=draw(st.integers(0, 5)) == 0))
    if not rows:
        rows = [network(study[0], 0)]
    present = {row["arm"] for row in rows}
    return results_of([arm for arm in study if arm.name in present], rows)


@given(any_results())
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_no_sentence_contradicts_its_number(results):
    answer = results.answer
    assert answer.endswith(".")
    assert not re.search(r"\bnan\b|\binf\b|None", answer)
    assert as_text(list(sweep_tables(results).values()))
    tests = {(test.arm, test.measure): test for test in results.tests.itertuples()}
    for part in results.answer.parts:
        test = tests[part.arm, part.measure]
        is_told = not math.isnan(test.p_holm) and test.p_holm <= 0.05
        assert (part.verdict in ("lower", "higher")) == is_told
        if is_told:
            assert (" lower (" in part.text) == (test.difference < 0)
            assert (test.high < 0) if test.difference < 0 else (test.low > 0)  # the interval leaves 0 out
        elif not math.isnan(test.p_holm):
            assert "not told apart from" in part.text
        assert ("no test" in part.text) == (part.verdict == "untested")
    statuses = results.rows["rlct_status"]
    no_complexity = statuses.isin(["not_at_minimum", "diverged"])
    left_out = int(no_complexity.sum())
    missing = int((results.rows["rlct"].isna() & ~no_complexity).sum())
    doubtful = int((~statuses.isin(["ok", "not_at_minimum", "diverged"]) & results.rows["rlct"].notna()).sum())
    if results.answer.parts and left_out:
        assert f"{left_out} of {len(results.rows)} RLCTs that are not at a minimum or diverged" in answer
    if results.answer.parts and missing:
        assert f"{missing} of {len(results.rows)} RLCTs that are missing" in answer
    if results.answer.parts and doubtful:
        assert f"Counted, but not ok: {doubtful} of {len(results.rows)} RLCTs." in answer
