"""scripts/controls.py: the answers by the rules of docs/preregistration.md, and the document of made-up studies."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

import controls
import planned_answers
from planned_tests import Study

from selfmod_hf.experiments.arms import Arm
from selfmod_hf.experiments.folder import SweepFolder
from tests.reports.folders import change_row, write_study

MEASURES = [
    "dead_units",
    "effective_rank",
    "activation_mean_square",
    "unit_free_width",
    "modelability",
    "modelability_of_variance",
    "modelability_from_other",
]
MNIST = controls.planned(controls.EXAMPLES / "preregistered_mnist.yaml")


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
    assert "Beside it: own-10 - other-a-10" in answer.text


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
    enclosed = sum(not place for _, place in verdicts) or "None"
    assert answer.text.startswith(f"{enclosed} of {len(verdicts)} enclosed. ")


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
    assert planned_answers.readers(rows(readers[1:2])).verdict == f"in {readers[1]} only, so no general claim"
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
    assert answer.text.startswith("At equal training loss it is not shown to be lower.") == (expected == "against")


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
    assert "Beside it: calibration_error, own-1 - baseline: +0.25 " in found["own-1"].text
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


# ---- the document ----


def made_up(
    folder: Path,
    arms: tuple[Arm, ...] = MNIST.arms,
    seeds: tuple[int, ...] = MNIST.seeds[:5],
    not_ok: tuple[str, ...] = (),
) -> Path:
    """A study of the plan's settings whose RLCTs fall with the self-model's weight, at equal training loss too."""
    write_study(folder, arms, seeds, measures=MEASURES, task="mnist", epochs=1, draws=4, not_ok=not_ok)
    run = json.loads((folder / "run.json").read_text())
    run |= {"settings": MNIST.settings, "test_samples": 10_000, "axes": []}
    (folder / "run.json").write_text(json.dumps(run))
    SweepFolder(folder).write_tables()
    return folder


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("controls")
    controls.main([str(made_up(folder / "study")), "--write", str(folder / "controls.md")])
    for name in ("arms", "contrasts"):
        assert (folder / f"controls-{name}.png").stat().st_size > 10_000
    return (folder / "controls.md").read_text()


def test_the_document_answers_each_question(written):
    for letter, sentence in planned_answers.SENTENCES.items():
        assert f"**({letter}) {sentence}**" in written
    first = written.partition("**(a)")[2].partition("**(b)")[0]
    assert "\n*for.* own-1 - as-own-1: -" in first
    assert "Leaky units (amendment): *for dead units.*" not in written.partition("**(h)")[2]
    assert "leaky-own-10 - leaky-baseline: -" in written
    assert written.count("](controls-") == 2
    assert written.count("\n| own-10 |") == 1
    assert "| activations, mean square | effective rank | dead units |" in written
    assert "| h | dead_units |" not in written
    assert "| g, beside it | accuracy | own-1 - as-own-1 | 5 |" in written
    for line in written.splitlines():
        assert not line.startswith("| g, beside it") or line.endswith("] | - |  |  |")


def test_the_first_seeds_are_planned_and_the_others_are_listed(written):
    assert "MNIST, h = 64: 32 arms, 160 networks, as planned. Seeds that were not run: 16, 17, 18, 19, 20." in written
    assert "exploratory" not in written.partition("## Answers")[0]


@pytest.mark.parametrize("change", ["seeds", "arms", "settings"])
def test_what_departs_from_the_plan_is_exploratory(change, tmp_path):
    few = MNIST.arms[:4]
    folder = made_up(tmp_path / "study", few, (11, 12) if change == "seeds" else MNIST.seeds[:5])
    if change == "settings":
        run = json.loads((folder / "run.json").read_text())
        run["settings"]["training"]["num_train_epochs"] = 3
        (folder / "run.json").write_text(json.dumps(run))
    found = controls.PlannedStudy(folder)
    assert not found.is_planned
    text = controls.document([found], [], "x")
    assert "**exploratory, because it is not the planned study**" in text
    assert "Arms that were not run: other-a-10, " in text
    if change == "seeds":
        assert "Seeds that were not run: 13, 14, " in text
    if change == "settings":
        assert "Other settings: training num_train_epochs 3 instead of 50." in text


def arms_of(*names: str) -> tuple[Arm, ...]:
    """Arms of the plan."""
    return tuple(arm for arm in MNIST.arms if arm.name in names)


def theory_file(folder: Path, values: dict[str, list[float]]) -> Path:
    """RLCTs at theory settings of five networks: at step size 0, and what a step of 2e-6 adds to the first ones."""
    file = folder / "theory.jsonl"
    lines = []
    for arm, (value, slope) in values.items():
        for step in (4e-6, 2e-6):
            llc = [value + slope * step / 2e-6 + 0.1 * (seed * len(arm) % 7) for seed in MNIST.seeds[:5]]
            lines.append({"arm": arm, "step_size": step, "llc": llc, "status": ["ok"] * 5})
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def test_a_question_is_robust_if_its_verdict_is(tmp_path):
    """Without own-10 two self-models are still lower. A step size changes one test, which does not decide."""
    used = ("baseline", "own-1", "own-5", "own-10", "as-own-1", "as-own-5", "as-own-10", "units-32")
    not_ok = tuple(f"own-10-seed{seed}" for seed in MNIST.seeds[:5])
    folder = made_up(tmp_path / "study", arms_of(*used), not_ok=not_ok)
    values = {"baseline": [90.0, 0.0], "own-1": [80.0, 0.0], "own-5": [70.0, 0.0], "own-10": [60.0, 0.0]}
    theory = theory_file(tmp_path, {**values, "as-own-10": [75.0, 0.0], "units-32": [65.0, -30.0]})
    found = controls.PlannedStudy(folder, theory)
    answers = dict(found.answers)
    assert "(not robust, with ok RLCTs: no values)" in answers["a"].text
    assert answers["a"].verdict == "for"
    assert answers["a"].doubt == ""
    assert "lower (not robust, with the smaller step size alone: higher)" in answers["f"].text
    assert answers["f"].verdict == "for"
    assert answers["f"].doubt == ""
    text = controls.document([found], [], "x")
    assert ", not robust (with ok RLCTs: no usable value).*" in text.partition("Dead units of own-10")[2]


def test_a_question_is_not_robust_if_its_interval_moves(tmp_path):
    """The accuracy of two networks alone is not above the margin with certainty."""
    not_ok = tuple(f"own-1-seed{seed}" for seed in MNIST.seeds[2:5])
    folder = made_up(tmp_path / "study", arms_of("baseline", "own-1"), not_ok=not_ok)
    for seed in MNIST.seeds[:5]:
        accuracy = 0.97 + 0.001 * (seed % 2)
        change_row(folder, f"baseline-seed{seed}", accuracy=0.97)
        change_row(folder, f"own-1-seed{seed}", accuracy=accuracy)
    SweepFolder(folder).write_tables()
    answer = dict(controls.PlannedStudy(folder).answers)["g, accuracy of own-1"]
    assert answer.verdict == "for"
    assert answer.doubt == "not robust (with ok RLCTs: open)"


@pytest.mark.parametrize("file", sorted({file for file, _ in controls.PLANS.values()}))
def test_the_plan_of_each_file_is_one_of_the_table_of_contents(file):
    plan = controls.planned(controls.EXAMPLES / file)
    key = (plan.task, plan.run_of(plan.arms[0]).network.hidden_sizes[-1])
    assert controls.PLANS[key][0] == file


def test_the_committed_tables_of_before_the_plan_are_exploratory(capsys):
    folder = Path(__file__).resolve().parents[2] / "docs" / "results" / "controls-h64"
    controls.main([str(folder)])
    out = capsys.readouterr().out
    assert "20 arms, 40 networks, **exploratory, because it is not the planned study**" in out
    assert "*for.* own-1 - as-own-1: -1.64 [-2.59, -0.697] lower, share 0.69" in out
