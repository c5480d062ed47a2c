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
from tests.reports.folders import write_study

MEASURES = ["dead_units", "unit_free_width", "modelability", "modelability_of_variance", "modelability_from_other"]
MNIST = controls.planned(controls.EXAMPLES / "preregistered_mnist.yaml")


def row(question: str, contrast: str, verdict: str, measure: str = "rlct", **more: Any) -> dict[str, Any]:
    """A test without a share, whose interval is that of an accuracy."""
    numbers = {"difference": 0.0, "low": -0.004, "high": 0.004, "p_holm": 0.5, "seeds": 5, "share": None, "place": ""}
    return {"question": question, "measure": measure, "contrast": contrast, "verdict": verdict, **numbers, **more}


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
        (["lower", "lower (not robust, with ok RLCTs: the same)"], "for, not robust"),
        ([], "not run"),
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
        ({"other-a": "higher", "other-b": "the same", "random": "the same", "shuffled": "lower"}, "against", True),
        ({"other-a": "not told apart", "other-b": "not told apart", "shuffled": "lower"}, "open", True),
    ],
)
def test_the_owner_of_the_activations(verdicts, expected, content):
    own = study("as-other-a-10", "as-other-b-10", "as-random-10", "as-shuffled-10")
    rows = [row("c", f"D(own-10) - D({name}-10)", verdict) for name, verdict in verdicts.items()]
    answer = planned_answers.owner(rows, own)
    assert answer.verdict == expected
    assert answer.text.startswith("The content matters") == content


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        ([("the same", ""), ("higher", ""), ("not told apart", "x, outside")], "for"),
        ([("the same", ""), ("not told apart", "")], "open"),
        ([("lower", ""), ("lower", ""), ("the same", "")], "against"),
        ([("the same", "x, outside")], "open"),
    ],
)
def test_controls_at_equal_width(verdicts, expected):
    rows = []
    for number, (verdict, place) in enumerate(verdicts):
        rows.append(row("d", f"own-{number} - decay-last at equal weight_width", verdict, place=place))
    assert planned_answers.control(rows, "decay-last", "weight_width").verdict == expected


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


@pytest.mark.parametrize(
    ("equal", "others", "expected"),
    [("lower", ["lower"] * 3, "for"), ("the same", ["lower"] * 3, "against"), ("lower", ["lower"] * 2, "open")],
)
def test_theory_settings(equal, others, expected):
    rows = [row("f", f"own-{place} - baseline", verdict, "rlct, theory") for place, verdict in enumerate(others)]
    rows.append(row("f", "own-10 - as-own-10", equal, "rlct, theory"))
    assert planned_answers.theory(rows).verdict == expected


def test_accuracy_of_each_self_model():
    rows = [
        row("g", "own-1 - baseline", "the same", "accuracy"),
        row("g", "own-5 - baseline", "lower", "accuracy", low=-0.02, high=-0.006),
        row("g", "own-10 - baseline", "lower", "accuracy", low=-0.02, high=-0.004),
    ]
    assert planned_answers.accuracy(rows).verdict == "own-1 for, own-5 against, own-10 open"


def test_dead_units_and_scale():
    fall = pd.Series([7.0, 7.0], [11, 12])
    rows = [
        row("h", "own-1 - units at equal live_units", "the same", share=(fall, fall)),
        row("h", "own-5 - units at equal live_units", "lower", share=(0.4 * fall, fall)),
        row("h", "own-10 - units at equal live_units", "lower", share=(0.6 * fall, fall)),
    ]
    assert planned_answers.dead_units(rows).verdict == "own-1 explains it, own-5 does not, own-10 a part"
    widths = []
    for own, unit_free in (("own-1", "higher"), ("own-5", "the same"), ("own-10", "lower")):
        widths.append(row("h", f"{own} - baseline", "lower", "weight_width"))
        widths.append(row("h", f"{own} - baseline", unit_free, "unit_free_width"))
    assert planned_answers.scale(widths).verdict == "scale"
    assert planned_answers.scale(widths[2:]).verdict == "not scale"


@pytest.mark.parametrize(
    ("dead", "verdict", "expected"),
    [(0.3, "lower", "no answer"), (0.04, "lower", "against dead units"), (0.0, "the same", "for dead units")],
)
def test_units_kept_alive(dead, verdict, expected):
    rows = [row("h", "own-rms-10 - baseline", verdict)]
    assert planned_answers.kept_alive(rows, study("own-rms-10", dead=dead)).verdict == expected


# ---- the document ----


def made_up(folder: Path, arms: tuple[Arm, ...] = MNIST.arms, seeds: tuple[int, ...] = MNIST.seeds[:5]) -> Path:
    """A study of the plan's settings whose RLCTs fall with the self-model's weight, at equal training loss too."""
    write_study(folder, arms, seeds, measures=MEASURES, task="mnist", epochs=1, draws=4)
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
