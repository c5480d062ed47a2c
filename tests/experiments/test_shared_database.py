"""Tunings with a database: workers without a common folder share trials, and no password is shown."""

import json
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

import optuna
import pytest

from selfmod_hf import RunSettings, tune
from selfmod_hf.cli import main
from selfmod_hf.errors import InputError
from selfmod_hf.experiments.shared_database import SharedDatabase, shown
from selfmod_hf.experiments.space import parse_space
from selfmod_hf.experiments.tuning import Tuning
from tests import warm
from tests.postgres import PASSWORD, QUOTED, missing, postgres_server

SMALL = {"max_train_samples": 200, "num_train_epochs": 2}
QUICK = {"num_chains": 1, "num_draws": 6, "stack": 2, "trials": 3, "give_up_below": 0.0}
SPACE = {"aux_weight": "0:5", "hidden_sizes": "4,8"}
needs_server = pytest.mark.skipif(missing() is not None, reason=str(missing()))


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with postgres_server() as url:
        yield url


def study_of(url: str, name: str) -> optuna.Study:
    return optuna.load_study(study_name=name, storage=url.replace("postgresql:", "postgresql+psycopg:"))


def has_password(text: str) -> bool:
    return PASSWORD in text or QUOTED in text


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("postgresql://me:secret@host:5432/db", "postgresql://me:<hidden>@host:5432/db"),
        ("postgresql://me:se/cr@et@host/db", "postgresql://me:<hidden>@host/db"),
        ("mysql+pymysql://me:123@host/db", "mysql+pymysql://me:<hidden>@host/db"),
        ("postgresql://host/db?user=me&password=secret&x=1", "postgresql://host/db?user=me&password=<hidden>&x=1"),
        ("postgresql://me@host:5432/db", "postgresql://me@host:5432/db"),
        ("http://host:8080/me/model@main", "http://host:8080/me/model@main"),
    ],
)
def test_a_password_is_hidden(url, text):
    assert shown(url) == text


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("tune.db", "storage='tune.db': allowed are postgresql://user@host/name and mysql"),
        ("sqlite:///tune.db", "storage='sqlite:///tune.db': allowed are URLs of postgresql and mysql"),
        ("oracle://me:secret@host/db", "storage='oracle://me:<hidden>@host/db': allowed are URLs of postgresql"),
        ("postgresql://me:secret@127.0.0.1:1/db", "storage='postgresql://me:<hidden>@127.0.0.1:1/db': cannot be used"),
    ],
)
def test_an_unusable_database_is_rejected_in_one_line(tmp_path, capsys, url, message):
    flags = ["tune", "--task=digits", "--max_train_samples=200", f"--output_dir={tmp_path / 'new'}"]
    assert main([*flags, f"--storage={url}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert "secret" not in line
    assert not (tmp_path / "new").exists()


def test_a_missing_driver_is_named_with_its_command(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pymysql", None)
    with pytest.raises(ImportError, match=r"a tuning in mysql needs pymysql: pip install 'selfmod_hf\[mysql\]'"):
        SharedDatabase("mysql://me@host/db", tmp_path)


def test_a_folder_with_a_journal_takes_no_database(tmp_path):
    base = RunSettings.make(task="digits", **SMALL)
    tune(base, {"aux_weight": "1"}, output_dir=tmp_path, **{**QUICK, "trials": 1})
    with pytest.raises(InputError, match="holds a tuning with a journal of its own"):
        tune(base, {"aux_weight": "1"}, output_dir=tmp_path, storage="postgresql://me@host/db", **QUICK)


@pytest.mark.slow
@needs_server
def test_a_tuning_in_a_database_is_that_of_a_journal(server, tmp_path, caplog):
    """The same trials to the last bit, and no password in any file or line."""
    base = RunSettings.make(task="digits", **SMALL)
    lines = []
    tune(base, SPACE, output_dir=tmp_path / "journal", **QUICK)
    found = tune(base, SPACE, output_dir=tmp_path / "same", storage=server, say=lines.append, **QUICK)
    for name in ("trials.json", "pareto.json"):
        assert (tmp_path / "same" / name).read_text() == (tmp_path / "journal" / name).read_text()
    assert study_of(server, "same").user_attrs["settings"]["train"]["num_train_epochs"] == 2
    assert not list((tmp_path / "same" / "groups").glob("*/*"))  # checkpoints of finished groups
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or not has_password(path.read_bytes().decode(errors="replace"))
    assert not has_password(f"{lines} {caplog.text} {found} {found.base.command()}")
    with pytest.raises(InputError, match=r"was begun with train=.*; take another folder"):
        tune(base.replace(num_train_epochs=1), SPACE, output_dir=tmp_path / "same", storage=server, **QUICK)


@needs_server
def test_a_wrong_password_is_one_line_without_it(server, tmp_path, capsys):
    url = server.replace(QUOTED, "another-secret")
    flags = ["tune", "--task=digits", "--max_train_samples=200", f"--output_dir={tmp_path / 'new'}"]
    assert main([*flags, "--storage", url]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "password authentication failed for user" in line
    assert "another-secret" not in line


def tuning_in(url: str, folder: Path) -> Tuning:
    return Tuning(
        folder, parse_space({"aux_weight": "0:9"}), {}, stack=2, give_up_below=0, chance=0,
        shared=SharedDatabase(url, folder),
    )  # fmt: skip


@needs_server
def test_a_group_whose_worker_loses_its_connection_goes_to_another(server, tmp_path):
    """The first worker goes on. Its trials are recorded once."""
    one, other = (tuning_in(server, tmp_path / place / "lost") for place in ("a", "b"))
    first, second = one.work(4), other.work(4)
    path, group = next(first)
    assert next(second)[1].trials == [2, 3]
    process = one.shared._locks._ask("SELECT pg_backend_pid()")
    other.shared._locks._ask("SELECT pg_terminate_backend(:process, 5000)", process=process)
    for number in (2, 3):
        other._tell(number, measured(), None, "hopeless")
    other.shared.end_group("00002")
    taken, again = next(second)
    assert (taken.parent.parent.parent, again) == (tmp_path / "b" / "lost", group)
    for tuning, where in ((other, taken), (one, path)):
        for number in group.trials:
            tuning._tell(number, measured(), None, "hopeless")
        tuning.shared.end_group(where.name)
    assert next(first, None) is None
    assert next(second, None) is None
    assert one.counts() == {"complete": 0, "pruned": 4, "running": 0, "fail": 0}


def measured():
    from selfmod_hf.experiments.trial_group import Measured

    return Measured(half_way=0.5, final=0.5, weight_width=0.1, model=None)


@needs_server
@pytest.mark.weekly
def test_three_workers_in_folders_of_their_own_one_of_them_killed(server, tmp_path):
    """Every trial is complete, and was recorded once. The killed worker's trials have the numbers of their commands."""
    flags = ["tune", "--task=digits", "--max_train_samples=300", "--num_train_epochs=30", "--num_draws=6", "--stack=2"]
    flags += ["--num_chains=1", "--give_up_below=0", "--trials=10", "--quiet", "--space", "aux_weight=0:5"]

    def worker(place: str) -> BaseProcess:
        folder = tmp_path / place / "three"
        argv = [*flags, f"--output_dir={folder}", f"--storage={server}"]
        return warm.start([*warm.SELFMOD, *argv], output=tmp_path / f"{place}.out", errors=tmp_path / f"{place}.log")

    workers = {place: worker(place) for place in ("one", "two", "three")}
    end = time.monotonic() + 240
    while not list(tmp_path.glob("two/three/groups/*/*/training/checkpoint-*")):
        assert time.monotonic() < end
        time.sleep(0.02)
    workers["two"].kill()
    workers["two"].join()
    (cut,) = tmp_path.glob("two/three/groups/*/*")
    for place in ("one", "three"):
        workers[place].join(300)
        assert workers[place].exitcode == 0, (tmp_path / f"{place}.log").read_text()
    trials = study_of(server, "three").trials
    assert [trial.number for trial in trials] == list(range(10))
    assert {trial.state.name for trial in trials} == {"COMPLETE"}
    assert int(cut.name) in range(10)
    results = [(tmp_path / place / "three" / "trials.json").read_text() for place in ("one", "three")]
    assert results[0] == results[1]
    assert Counter(entry["trial"] for entry in json.loads(results[0])) == dict.fromkeys(range(10), 1)
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or not has_password(path.read_bytes().decode(errors="replace"))
    # trained again alone: the same numbers
    number = int(cut.name)
    trial = trials[number]
    again = tmp_path / "again"
    argv = ["train", *flags[1:4], "--quiet", f"--aux_weight={trial.params['aux_weight']}", f"--seed={number}"]
    assert main([*argv, f"--output_dir={again}"]) == 0
    log = json.loads((again / "trainer_state.json").read_text())["log_history"]
    widths = [entry["weight_width"] for entry in log if "weight_width" in entry]
    assert trial.user_attrs["weight_width"] == pytest.approx(widths[-1], rel=1e-5)
    shutil.rmtree(again)
