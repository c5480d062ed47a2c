"""A tuning or a reproduction called from Python: its input, and the page about it."""

import json
import re
import sys
from pathlib import Path

import pytest

from selfmod_hf import RunSettings, reproduce, tune
from selfmod_hf.errors import InputError
from selfmod_hf.experiments.reproduce_settings import REPRODUCTIONS, TaskParts

PAGE = Path(__file__).resolve().parents[2] / "docs" / "tuning.md"
FEW = {"trials": 2, "num_chains": 1, "num_draws": 6}


@pytest.mark.parametrize(
    ("space", "settings", "message"),
    [
        ({"aux_weight": "0:1"}, {"trials": "4"}, "trials='4': allowed are integers"),
        ({"aux_weight": "0:1"}, {"keep_accuracy": None}, "keep_accuracy=None: allowed are numbers"),
        ({"aux_weight": "0:1"}, {"trails": 4}, "trails=4: no setting has this name; did you mean trials"),
        ("aux_weight=0:1", {}, "space='aux_weight=0:1': allowed are mappings"),
    ],
)
def test_a_setting_of_another_type_is_named(tmp_path, space, settings, message):
    with pytest.raises(InputError, match=message):
        tune("digits", space, output_dir=tmp_path / "new", **settings)
    assert not (tmp_path / "new").exists()


def test_settings_of_another_kind_are_named():
    with pytest.raises(InputError, match="base=3: allowed are RunSettings and names of built-in tasks"):
        tune(3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"use_tuned": "False"}, "use_tuned='False': allowed are True and False"),
        ({"tasks": 5}, "tasks=5: allowed are lists of texts"),
        ({"tasks": []}, r"tasks=\[\]: allowed are different ones of digits"),
        ({"scala": "full"}, "scala='full': no setting has this name; did you mean scale"),
    ],
)
def test_a_setting_of_a_reproduction_is_named(tmp_path, settings, message):
    with pytest.raises(InputError, match=message):
        reproduce(output_dir=tmp_path / "new", **settings)
    assert not (tmp_path / "new").exists()


def test_a_reproduction_from_python_records_no_command(tmp_path, monkeypatch):
    quick = {"hidden_sizes": [4], "seeds": [1], "num_train_epochs": 1, "max_train_samples": 40, "num_draws": 6}
    monkeypatch.setitem(REPRODUCTIONS, "digits", TaskParts(quick=quick | {"aux_weights": [0, 1]}, tune={}, full={}))
    monkeypatch.setattr(sys, "argv", ["kernel", "-f", "/home/me/kernel.json"])
    folder = reproduce("digits", tune=False, output_dir=tmp_path)
    assert [session["command"] for session in folder.content["sessions"]] == [[]]
    record = json.loads((tmp_path / "digits" / "sweep" / "run.json").read_text())
    assert [session["command"] for session in record["sessions"]] == [[]]


def test_only_a_missing_optuna_is_called_missing(tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "selfmod_hf.experiments.space", None)  # a broken installation
        with pytest.raises(ModuleNotFoundError, match=r"selfmod_hf\.experiments\.space"):
            tune("digits", output_dir=tmp_path)
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ImportError, match="a tuning needs optuna: pip install"):
        tune("digits", output_dir=tmp_path)


def test_the_snippet_of_the_page_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (snippet,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    quick = snippet.replace("num_train_epochs=20", "num_train_epochs=1, max_train_samples=60, max_test_samples=20")
    quick = quick.replace("trials=40", ", ".join(f"{name}={value}" for name, value in FEW.items()))
    names: dict = {}
    exec(quick, names)
    assert names["found"].counts["running"] == 0
    if names["found"].best is not None:
        assert isinstance(names["run"], RunSettings)
        assert "selfmod train --task=digits" in capsys.readouterr().out
