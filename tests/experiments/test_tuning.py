"""Tuning: real studies on digits; a killed worker's trials are finished, and none twice."""

import dataclasses
import json
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from optuna.distributions import CategoricalDistribution, FloatDistribution
from transformers import Trainer

from selfmod_hf import RunSettings, tune
from selfmod_hf.cli import main
from selfmod_hf.complexity import estimate_llc
from selfmod_hf.errors import InputError
from selfmod_hf.experiments.space import parse_space
from selfmod_hf.experiments.trial_group import Group, Measured
from selfmod_hf.experiments.tuning import Tuning
from selfmod_hf.experiments.tuning_result import TuningResult
from tests import warm

SMALL = [
    "--task=digits", "--max_train_samples=300", "--num_draws=40", "--num_train_epochs=4", "--stack=2", "--quiet",
    "--space", "aux_weight=0:5", "hidden_sizes=8,8-8", "learning_rate=0.05:0.1:log",
]  # fmt: skip


def trials(folder: Path):
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    storage = JournalStorage(JournalFileBackend(str(folder / "journal.log")))
    return optuna.load_study(study_name="tune", storage=storage).trials


def trials_of(folder: Path):
    return json.loads((folder / "trials.json").read_text())


def finished_once(folder: Path, count: int) -> None:
    """Each trial is finished, and was told of once."""
    assert len(trials(folder)) == count
    assert {trial.state.name for trial in trials(folder)} <= {"COMPLETE", "PRUNED"}
    journal = [json.loads(line) for line in (folder / "journal.log").read_text().splitlines()]
    ended = Counter(entry["trial_id"] for entry in journal if entry.get("state") in (1, 2))  # complete, pruned
    assert ended == dict.fromkeys(range(count), 1)
    assert list((folder / "groups").iterdir()) == []


def test_a_space():
    space = parse_space({"aux_weight": "0:20", "learning_rate": "0.001:0.1:log", "hidden_sizes": ["16", "32-16"]})
    assert space == {
        "aux_weight": FloatDistribution(0, 20),
        "learning_rate": FloatDistribution(0.001, 0.1, log=True),
        "hidden_sizes": CategoricalDistribution(["16", "32-16"]),
    }
    assert parse_space({"aux_weight": [0, 1, 5]}) == parse_space({"aux_weight": "0,1,5"})
    layers = {"hidden_sizes": [16, [32, 16]], "target_layers": ["hidden.relu1", ["hidden.relu1", "hidden.linear1"]]}
    assert parse_space(layers) == {
        "hidden_sizes": CategoricalDistribution(["16", "32-16"]),
        "target_layers": CategoricalDistribution(["hidden.relu1", "hidden.relu1+hidden.linear1"]),
    }
    for entries in (
        {"hidden_sizes": "8-x"},
        {"aux_weight": [[1, 2]]},
        {"depth": "1:2"},
        {"aux_weight": "2:1"},
        {"aux_weight": "1:2:linear"},
        {"hidden_sizes": "8:16"},
    ):
        with pytest.raises(InputError, match=r"^space="):
            parse_space(entries)


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tune")
    assert main(["tune", *SMALL, "--trials=5", f"--output_dir={folder}"]) == 0
    return folder


def test_a_study_and_its_front(study, capsys):
    finished_once(study, 5)
    front = json.loads((study / "pareto.json").read_text())["front"]
    assert front
    for one in front:
        assert not any(
            other["accuracy"] > one["accuracy"]
            and other["rlct"] < one["rlct"]
            and other["weight_width"] < one["weight_width"]
            for other in front
        )
    assert {path.name for path in study.iterdir()} >= {"journal.log", "pareto.json", "pareto.txt", "pareto.png"}
    together = {trial.params["hidden_sizes"] for trial in trials(study)[:2]}
    assert len(together) == 1  # a population is of one shape
    assert main(["tune", *SMALL, "--trials=5", f"--output_dir={study}"]) == 0  # nothing is left to do
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].startswith("selfmod train --task=digits")
    finished_once(study, 5)


def test_tuning_in_python_is_the_command(study, tmp_path):
    base = RunSettings.make(task="digits", max_train_samples=300, num_train_epochs=4)
    space = {"aux_weight": "0:5", "hidden_sizes": [[8], [8, 8]], "learning_rate": "0.05:0.1:log"}
    lines = []
    arguments = {"trials": 5, "stack": 2, "num_draws": 40, "output_dir": tmp_path}
    found = tune(base, space, say=lines.append, **arguments)
    assert (tmp_path / "trials.json").read_text() == (study / "trials.json").read_text()
    assert lines[0].startswith("trials 0, 1: ")
    assert [trial.number for trial in found.trials] == [0, 1, 2, 3, 4]
    assert sum(found.counts.values()) == 5
    assert found.best in found.trials
    again = found.settings(found.best)
    assert again.training.seed == found.best.number
    assert again.network.aux_weight == found.best.params["aux_weight"]
    assert found.table == (tmp_path / "pareto.txt").read_text().rstrip("\n")
    lines.clear()
    assert tune(base, space, say=lines.append, **arguments).best == found.best  # nothing is left to do
    assert lines == []


def test_tuning_in_python_names_the_field_of_an_error(tmp_path):
    for space, settings, message in (
        ({"depth": "1:2"}, {}, "space='depth': allowed are"),
        ({"aux_weight": "0:1"}, {"trials": 0}, "trials=0: allowed are integers of at least 1"),
        ({"aux_weight": "0:1"}, {"num_draws": 1}, "num_draws=1"),
    ):
        with pytest.raises(InputError, match=message):
            tune("digits", space, output_dir=tmp_path / "new", **settings)
    with pytest.raises(InputError, match=r"hidden_sizes=\[8\]: is searched by `space`"):
        tune(RunSettings.make(task="digits", hidden_sizes=[8]), {"hidden_sizes": [8, 16]}, output_dir=tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_an_old_spelling_is_accepted_with_a_line_that_names_the_new_one(tmp_path, capsys):
    flags = [flag.replace("--num_draws", "--rlct-draws") for flag in SMALL]
    assert main(["tune", *flags, "--trials=1", f"--output_dir={tmp_path}"]) == 0
    assert capsys.readouterr().err == "selfmod: --rlct_draws is an old spelling of --num_draws\n"
    settings = json.loads((tmp_path / "journal.log").read_text().splitlines()[1])["user_attr"]["settings"]
    assert settings["sampling"]["num_draws"] == 40


def test_a_space_from_a_file(tmp_path):
    """Ranges unquoted: `1:5` is a number to YAML, of base 60."""
    file = tmp_path / "space.yaml"
    file.write_text(
        "aux_weight: 1:5\nlearning_rate: 0.05:0.1:log\nhidden_sizes: [[8], [8, 8]]\n"
        "target_layers:\n- hidden.relu1\n- [hidden.linear1, hidden.relu1]\n"
    )
    assert main(["tune", *SMALL[:-3], str(file), "--trials=2", f"--output_dir={tmp_path}"]) == 0
    for trial in trials(tmp_path):
        assert trial.distributions == parse_space(
            {
                "aux_weight": "1:5",
                "learning_rate": "0.05:0.1:log",
                "hidden_sizes": "8,8-8",
                "target_layers": "hidden.relu1,hidden.linear1+hidden.relu1",
            }
        )


def test_the_command_trains_the_trial_again(study, tmp_path):
    entry = json.loads((study / "pareto.json").read_text())["front"][0]
    words = entry["command"].split()
    assert words[0] == "selfmod"
    assert main([*words[1:], f"--output_dir={tmp_path}"]) == 0
    assert json.loads((tmp_path / "eval_results.json").read_text())["eval_accuracy"] == pytest.approx(entry["accuracy"])


def test_a_weight_that_is_not_searched_is_the_given_one(tmp_path):
    flags = [*SMALL[:-4], "--aux_weight=20", "--hidden_sizes=8", "--space", "learning_rate=0.05:0.1"]
    assert main(["tune", *flags, "--trials=1", "--give_up_below=0", f"--output_dir={tmp_path / 'study'}"]) == 0
    (trial,) = trials(tmp_path / "study")
    again = [*flags[:-2], f"--learning_rate={trial.params['learning_rate']}", "--seed=0"]
    again = [flag for flag in again if "num_draws" not in flag and "stack" not in flag]
    assert main(["train", *again, f"--output_dir={tmp_path / 'again'}"]) == 0
    log = json.loads((tmp_path / "again" / "trainer_state.json").read_text())["log_history"]
    widths = [entry["weight_width"] for entry in log if "weight_width" in entry]
    assert trial.user_attrs["weight_width"] == pytest.approx(widths[-1], rel=1e-6)


@pytest.mark.parametrize(
    ("part", "time"), [("_propose", 2), ("_propose", 4), ("_tell", 2), ("_tell", 4), ("finish", 2)]
)
def test_a_study_cut_anywhere_ends_the_same(study, tmp_path, monkeypatch, part, time):
    """Between two trials of a group, between two results of one, and after the training of one: the same trials, each
    finished once, to the last bit."""
    calls, original = [], getattr(Tuning, part)

    def once(self, *args, **kwargs):
        calls.append(part)
        if len(calls) == time:
            raise RuntimeError("cut")
        return original(self, *args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(Tuning, part, once)
        with pytest.raises(RuntimeError, match="cut"):
            main(["tune", *SMALL, "--trials=5", f"--output_dir={tmp_path}"])
    assert main(["tune", *SMALL, "--trials=5", f"--output_dir={tmp_path}"]) == 0
    finished_once(tmp_path, 5)
    for name in ("trials.json", "pareto.json", "pareto.txt"):
        assert (tmp_path / name).read_text() == (study / name).read_text()


@pytest.mark.slow
def test_a_trial_of_an_encoder_that_is_cut_while_it_trains_ends_the_same(tmp_path, monkeypatch):
    """transformers writes a ViT under other names than it has, so that a resumed trial began with a random encoder."""
    encoder = {"model_type": "vit", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    encoder |= {"intermediate_size": 8, "image_size": 8, "patch_size": 4, "num_channels": 1}
    flags = [
        "tune", "--task=digits", "--max_train_samples=300", "--num_draws=40", "--num_train_epochs=4", "--stack=1",
        "--quiet", "--trials=1", "--target_layers=layers.*", f"--backbone_config={json.dumps(encoder)}",
    ]  # fmt: skip
    assert main([*flags, f"--output_dir={tmp_path / 'whole'}"]) == 0
    original = Trainer._save_checkpoint

    def cut(self, *args, **kwargs):
        original(self, *args, **kwargs)
        if self.state.epoch == 2:
            raise RuntimeError("cut")

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "_save_checkpoint", cut)
        with pytest.raises(RuntimeError, match="cut"):
            main([*flags, f"--output_dir={tmp_path / 'cut'}"])
    assert main([*flags, f"--output_dir={tmp_path / 'cut'}"]) == 0
    (whole,) = trials(tmp_path / "whole")
    (resumed,) = trials(tmp_path / "cut")
    assert resumed.user_attrs == whole.user_attrs
    assert "weight_width" in whole.user_attrs


def test_a_journal_that_a_full_disk_has_cut_is_mended(study, tmp_path):
    shutil.copytree(study, tmp_path / "cut")
    journal = tmp_path / "cut" / "journal.log"
    content = journal.read_bytes()
    journal.write_bytes(content + b'{"op_code":4,"worker_id":"a-1')
    flags = [flag for flag in SMALL if not flag.startswith("--stack")]
    assert main(["tune", *flags, "--stack=1", "--trials=6", f"--output_dir={tmp_path / 'cut'}"]) == 0
    finished_once(tmp_path / "cut", 6)
    assert journal.read_bytes().startswith(content)


def test_the_seed_decides_what_is_tried():
    def first(seed: int, folder: Path):
        tuning = Tuning(folder, parse_space({"aux_weight": "0:9"}), {}, stack=3, give_up_below=0, chance=0, seed=seed)
        (_, group) = next(tuning.work(3))
        return [member.aux_weight for member in group.members]

    with tempfile.TemporaryDirectory() as name:
        same, again, other = (first(seed, Path(name, str(k))) for k, seed in enumerate((1, 1, 2)))
    assert same == again
    assert len({*same, *other}) == 6  # nor is one a shifted copy of the other


def groups_without_training(tuning: Tuning, count: int) -> Iterator[Group]:
    """All groups of a study whose networks need not be trained."""
    for path, group in tuning.work(count):
        yield group
        for number in group.trials:
            tuning.study.tell(number, [0.5, float(number), 1.0])
        shutil.rmtree(path)


def test_ranges_of_one_value_and_a_learning_rate_for_each_trial(tmp_path):
    space = parse_space({"aux_weight": "1:1", "learning_rate": "0.001:0.1:log", "hidden_sizes": "8,16"})
    tuning = Tuning(tmp_path, space, {}, stack=8, give_up_below=0, chance=0)
    rates = []
    for group in groups_without_training(tuning, 32):  # the sampler has a model after the first ten trials
        assert set(group.shared) == {"hidden_sizes"}
        assert {member.aux_weight for member in group.members} == {1}
        rates += [member.learning_rate for member in group.members]
    assert len(set(rates)) == len(rates) == 32
    assert all(0.001 <= rate <= 0.1 for rate in rates)


@pytest.mark.parametrize("entry", ["0.1:0.1:log", "0.1:0.1", "0.1"])
def test_a_learning_rate_of_one_value_is_that_value(tmp_path, entry):
    space = parse_space({"learning_rate": entry})
    tuning = Tuning(tmp_path, space, {}, stack=2, give_up_below=0, chance=0)
    for group in groups_without_training(tuning, 16):
        assert [member.learning_rate for member in group.members] == [0.1, 0.1]


def test_trials_of_one_population_train_at_their_own_learning_rates(study, tmp_path):
    """Each as its own command trains it."""
    assert len({entry["parameters"]["learning_rate"] for entry in trials_of(study)}) == 5
    finished = [entry for entry in trials_of(study) if entry["state"] == "complete"]
    for entry in finished[:2]:
        parameters = entry["parameters"]
        hidden = parameters["hidden_sizes"].split("-")
        flags = [flag for flag in SMALL[: SMALL.index("--space")] if "num_draws" not in flag and "stack" not in flag]
        flags += [f"--{name}={parameters[name]}" for name in ("learning_rate", "aux_weight")]
        folder = tmp_path / str(entry["trial"])
        argv = ["train", *flags, "--hidden_sizes", *hidden, f"--seed={entry['trial']}", f"--output_dir={folder}"]
        assert main(argv) == 0
        log = json.loads((folder / "trainer_state.json").read_text())["log_history"]
        widths = [one["weight_width"] for one in log if "weight_width" in one]
        assert entry["weight_width"] == pytest.approx(widths[-1], rel=1e-5)


def told(folder: Path, outcomes: list[tuple[float, float, float, str]], **settings) -> Tuning:
    """A study whose trials came out so: accuracy (or another metric), RLCT, weight width, status of the RLCT."""
    net = torch.nn.Linear(2, 2)
    some = estimate_llc(net, torch.randn(8, 2), torch.arange(8) % 2, num_draws=4, num_chains=1)
    space = parse_space({"aux_weight": "0:9"})
    chosen = {"give_up_below": 0.0, "chance": 0.1, **settings}
    tuning = Tuning(folder, space, {}, stack=len(outcomes), **chosen)

    def estimate(models, seeds):
        return [dataclasses.replace(some, llc=rlct, status=status) for _, rlct, _, status in models]

    for path, group in tuning.work(len(outcomes)):
        measured = [Measured(row[0], row[0], row[2], row) for row in outcomes]
        tuning.finish(path, group, measured, estimate)
    return tuning


def result(tuning: Tuning, keep_accuracy: float) -> TuningResult:
    return tuning.result(RunSettings.make(task="digits"), keep_accuracy)


def test_the_best_trial_is_the_simplest_of_the_accurate(tmp_path):
    outcomes = [(0.98, 30.0, 0.3, "ok"), (0.97, 20.0, 0.2, "ok"), (0.93, 10.0, 0.1, "ok"), (0.975, 40.0, 0.1, "ok")]
    tuning = told(tmp_path, outcomes)
    assert [trial.number for trial in result(tuning, 0).front] == [0, 3, 1, 2]  # the most accurate first
    for keep_accuracy, best in ((0.0, 0), (0.004, 0), (0.011, 1), (0.1, 2)):
        found = result(tuning, keep_accuracy).best
        assert found is not None
        assert found.number == best


def test_the_best_trial_of_language_models_has_a_low_perplexity(tmp_path):
    outcomes = [(40.0, 30.0, 0.3, "ok"), (41.0, 20.0, 0.2, "ok"), (60.0, 10.0, 0.1, "ok"), (90.0, 1.0, 0.1, "ok")]
    tuning = told(tmp_path, outcomes, metric="perplexity", chance=100.0, give_up_below=0.5)
    assert [trial.number for trial in result(tuning, 0).front] == [0, 1, 2]
    assert "half_way 90.000 is above 70.000" in result(tuning, 0).trials[3].user_attrs["pruned"]
    for keep_accuracy, best in ((0.0, 0), (0.03, 1), (0.5, 2)):
        assert result(tuning, keep_accuracy).best.number == best
    assert "perplexity" in result(tuning, 0).table


def test_an_rlct_that_has_not_converged_is_not_simpler_than_another(tmp_path):
    """It beats the others in every objective, but its trace still rises."""
    outcomes = [(0.98, 5.0, 0.1, "not_converged"), (0.97, 20.0, 0.2, "ok"), (0.96, 15.0, 0.3, "ok")]
    tuning = told(tmp_path / "some", outcomes)
    assert [trial.number for trial in result(tuning, 0).front] == [0]
    assert result(tuning, 0.03).best.number == 2
    assert result(tuning, 0.015).best.number == 1
    assert result(tuning, 0.0).best.number == 0  # no other is near it
    none = told(tmp_path / "none", [(*outcome[:3], "not_converged") for outcome in outcomes])
    assert result(none, 0.03).best.number == 0


def test_a_study_without_a_complete_trial_has_no_best(tmp_path):
    tuning = told(tmp_path, [(0.9, 10.0, 0.3, "diverged"), (0.8, -5.0, 0.2, "not_at_minimum")])
    assert result(tuning, 0.5).best is None
    assert tuning.counts() == {"complete": 0, "pruned": 2, "running": 0, "fail": 0}


def test_another_space_needs_another_folder(study, capsys):
    flags = [*SMALL[:-1], "learning_rate=0.05:0.2"]
    assert main(["tune", *flags, "--trials=5", f"--output_dir={study}"]) == 2
    assert "take another folder" in capsys.readouterr().err
    flags = ["--learning_rate=0.01", *SMALL]
    assert main(["tune", *flags, "--trials=5", f"--output_dir={study}"]) == 2


def test_the_same_flags_in_another_order_and_spelling_go_on(study):
    *flags, space, weight, sizes, rate = [flag for flag in SMALL if flag != "--quiet"]
    flags = [flag.replace("max_train_samples", "max-train-samples") for flag in reversed(flags)]
    before = len(trials(study))
    assert main(["tune", *flags, "--disable_tqdm=True", space, weight, sizes, rate, "--trials=5",
                 f"--output_dir={study}"]) == 0  # fmt: skip
    assert len(trials(study)) == before


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--space", "aux_weight=a:b"], "--space='aux_weight=a:b'"),
        (["--space", "aux_weight"], "--space='aux_weight': no such file"),
        (["--space", "aux_weight=0:1", "--aux_weight=2"], "is searched by --space"),
        (["--space", "target_layers=hidden.relu9"], "hidden.relu9"),
        (["--trials=0"], "--trials=0: allowed are integers of at least 1"),
        (["--give_up_below=2"], "--give_up_below=2.0: allowed are numbers from 0 to 1"),
        (["--learning_rte=1"], "--learning_rte: no such flag; did you mean --learning_rate?"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line(tmp_path, capsys, flags, message):
    assert main(["tune", "--task=digits", *flags, f"--output_dir={tmp_path / 'new'}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_two_workers_one_of_them_killed(tmp_path):
    flags = ["tune", *SMALL, "--num_train_epochs=30", "--trials=10", f"--output_dir={tmp_path}"]

    steady, killed = (warm.start([*warm.SELFMOD, *flags]) for _ in range(2))
    end = time.monotonic() + 200
    while len(list(tmp_path.glob("groups/*/training/checkpoint-*"))) < 3:
        assert time.monotonic() < end
        time.sleep(0.02)
    killed.kill()
    killed.join()
    restarted = warm.start([*warm.SELFMOD, *flags])
    for worker in (steady, restarted):
        worker.join(300)
        assert worker.exitcode == 0
    finished_once(tmp_path, 10)
