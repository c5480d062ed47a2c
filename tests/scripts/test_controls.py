"""scripts/controls.py: the document of made-up studies, and what departs from docs/preregistration.md in them."""

from __future__ import annotations

import json
import shutil
import sys
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

import controls
import planned_answers
from planned_departures import THEORY_ARMS
from theory_rlct import about

from selfmod_hf.experiments.arms import Arm
from selfmod_hf.experiments.folder import SweepFolder
from selfmod_hf.experiments.plan import Plan
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


def made_up(
    folder: Path,
    arms: tuple[Arm, ...] = MNIST.arms,
    seeds: tuple[int, ...] = MNIST.seeds[:5],
    not_ok: tuple[str, ...] = (),
    plan: Plan = MNIST,
) -> Path:
    """A study of the plan's settings whose RLCTs fall with the self-model's weight, at equal training loss too."""
    write_study(folder, arms, seeds, measures=MEASURES, task=plan.task, epochs=1, draws=4, not_ok=not_ok)
    run = json.loads((folder / "run.json").read_text())
    run |= {"settings": plan.settings, "test_samples": 10_000, "axes": []}
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
    assert "\n*for.* Lower for 3 of 3 weights.\n\n- The RLCT of own-1 is lower than that of as-own-1 by 0." in first
    assert "Leaky units (amendment): *against dead units.* The RLCT of leaky-own-10 is lower than that of" in written
    assert "; its fall is " in written
    assert "## Answers: MNIST, h = 64\n" in written
    readers = written.partition("**(e)")[2].partition("**(f)")[0]
    assert "of 6 comparisons" in readers
    assert "own-1" not in readers
    assert "**(f) It holds for the RLCT at theory settings as well.**\n\n*not run.*\n" in written
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
    assert "\nMNIST, h = 256: not run.\n\nIMDB: not run.\n" in written


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
    assert "## Answers: MNIST, h = 64, exploratory" in text
    assert "Arms that were not run: other-a-10, " in text
    if change == "seeds":
        assert "Seeds that were not run: 13, 14, " in text
    if change == "settings":
        assert "Other settings: training num_train_epochs 3 instead of 50." in text


def arms_of(*names: str) -> tuple[Arm, ...]:
    """Arms of the plan."""
    return tuple(arm for arm in MNIST.arms if arm.name in names)


def test_single_networks_that_were_not_run_are_listed(tmp_path):
    folder = made_up(tmp_path / "study")
    shutil.rmtree(folder / "cells" / "decay-all-1e-2-seed13")
    SweepFolder(folder).write_tables()
    found = controls.PlannedStudy(folder)
    assert not found.is_planned
    assert found.departures[1:] == ["Networks that were not run: decay-all-1e-2 seed 13."]


def test_arms_of_other_settings_are_listed(tmp_path):
    """The folder of the other network is no setting."""
    arms = []
    for arm in MNIST.arms:
        changes = dict(arm.changes)
        if arm.name == "decay-all-1e-2":
            changes["weight_decay"] = 0.02
        if arm.name == "other-a-10":
            changes["target_source"] = "network:elsewhere/other-h64-a"
        arms.append(replace(arm, changes=changes))
    found = controls.PlannedStudy(made_up(tmp_path / "study", tuple(arms)))
    assert not found.is_planned
    assert found.departures[1:] == ["Other arms: decay-all-1e-2 with weight_decay 0.02 instead of 0.01."]


@pytest.mark.slow
def test_another_study_does_not_answer_the_questions(tmp_path):
    imdb = controls.planned(controls.EXAMPLES / "preregistered_imdb.yaml")
    folder = made_up(tmp_path / "study", imdb.arms, imdb.seeds, plan=imdb)
    text = controls.document([controls.PlannedStudy(folder)], [], "x")
    assert "\nMNIST, h = 64: not run.\n\nMNIST, h = 256: not run.\n" in text
    assert "IMDB: 10 arms, 50 networks, as planned. RLCTs at theory settings were not planned." in text
    assert "## Answers" not in text
    assert "## What the results mean" not in text
    assert "## Does it hold as well: IMDB\n" in text
    assert "Leaky units (amendment): *not planned for this study.*" in text
    assert "*not planned for this study.*" in text.partition("**(f)")[2].partition("**(g)")[0]
    assert "Control decay-last: *" in text
    assert "Control penalty" not in text


@pytest.mark.slow
@pytest.mark.parametrize("change", [None, "arm", "localization"])
def test_departures_of_theory(change, tmp_path):
    arms = [arm for arm in THEORY_ARMS if arm != "units-32" or change != "arm"]
    file = theory_file(tmp_path, {arm: [50.0, 1.0] for arm in arms}, 50.0 if change == "localization" else 100.0)
    found = controls.PlannedStudy(made_up(tmp_path / "study", arms_of(*THEORY_ARMS)), file)
    text = controls.document([found], [], "x")
    listed = {
        None: "RLCTs at theory settings: as planned.",
        "arm": "are not the planned ones**. Arms that were not run: units-32.",
        "localization": "are not the planned ones**. Other settings: settings localization 50.0 instead of 100.0.",
    }
    assert listed[change] in text
    assert (", exploratory.*" in text.partition("**(f)")[2].partition("**(g)")[0]) == (change is not None)


def theory_file(folder: Path, values: dict[str, list[float]], localization: float = 100.0) -> Path:
    """RLCTs at theory settings of five networks: at step size 0, and what a step of 2e-6 adds to the first ones."""
    file = folder / "theory.jsonl"
    settings = {"sampler": "sghmc", "localization": localization, "num_draws": 1000, "batch_size": 1024}
    seeds = list(MNIST.seeds[:5])
    common = about(Namespace(**settings, seeds=seeds, step_sizes=[4e-6, 2e-6], max_train_samples=None))
    lines = []
    for arm, (value, slope) in values.items():
        for step in (4e-6, 2e-6):
            llc = [value + slope * step / 2e-6 + 0.1 * (seed * len(arm) % 7) for seed in MNIST.seeds[:5]]
            lines.append({**common, "arm": arm, "step_size": step, "llc": llc, "status": ["ok"] * 5})
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
    assert "(not robust, with the smaller step size alone: higher)" in answers["f"].text
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


@pytest.mark.slow
def test_the_committed_tables_of_before_the_plan_are_exploratory(capsys):
    folder = Path(__file__).resolve().parents[2] / "docs" / "results" / "controls-h64"
    controls.main([str(folder)])
    out = capsys.readouterr().out
    assert "20 arms, 40 networks, **exploratory, because it is not the planned study**" in out
    words = "The RLCT of own-1 is lower than that of as-own-1 by 1.64 (95 % interval 0.697 to 2.59, 2 seeds, "
    assert f"{words}corrected p = 0.047); 69 % of its fall remains (66 to 71 %)." in out
