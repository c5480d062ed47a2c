"""What is one line, what is a traceback, and what Ctrl-C says."""

import ast
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import TrainerCallback
from transformers.trainer import DEFAULT_CALLBACKS

import selfmod_hf
from selfmod_hf.cli import main
from selfmod_hf.cli.usage_errors import with_flags
from selfmod_hf.complexity.samplers import SAMPLERS
from selfmod_hf.experiments import reproduce_settings
from tests import warm

pytestmark = pytest.mark.usefixtures("blank_figures")
LIMITS = ["--max_train_samples=100", "--max_test_samples=50", "--num_train_epochs=2", "--quiet"]
SMALL = {
    "train": ["--task=digits", *LIMITS],
    "sweep": ["--hidden_sizes=4", "--aux_weights", "0", "1", "--seeds=1", "--num_draws=4", "--num_chains=1", *LIMITS],
    "tune": ["--task=digits", "--trials=2", "--stack=2", "--num_draws=4", *LIMITS],
    "reproduce": ["--tune=False", "--quiet"],
}


class UsersBug(TrainerCallback):
    """A callback of the user's that fails in the second epoch."""

    def on_epoch_begin(self, args, state, control, **kwargs):
        if state.epoch >= 1:
            raise ValueError("shapes (3,) and (4,) are not aligned")


class ControlC(TrainerCallback):
    """The user's Ctrl-C in the second epoch."""

    def on_epoch_begin(self, args, state, control, **kwargs):
        if state.epoch >= 1:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture
def small_study(monkeypatch):
    quick = {"hidden_sizes": [4], "seeds": [1], "num_train_epochs": 2, "max_train_samples": 100, "num_draws": 4}
    parts = reproduce_settings.TaskParts(quick=quick, tune={}, full={})
    monkeypatch.setattr(reproduce_settings, "REPRODUCTIONS", {"digits": parts})


def with_callback(monkeypatch, callback):
    monkeypatch.setattr("transformers.trainer.DEFAULT_CALLBACKS", [*DEFAULT_CALLBACKS, callback])


@pytest.mark.parametrize("command", SMALL)
def test_a_bug_of_the_users_keeps_its_traceback(command, small_study, tmp_path, monkeypatch, capsys):
    with_callback(monkeypatch, UsersBug)
    with pytest.raises(ValueError, match="are not aligned"):
        main([command, *SMALL[command], f"--output_dir={tmp_path / 'out'}"])
    assert "selfmod: error" not in capsys.readouterr().err


def test_a_bug_while_sampling_keeps_its_traceback(small_model, tmp_path, monkeypatch, capsys):
    def buggy(*args, **kwargs):
        raise ValueError("of a sampler")

    monkeypatch.setitem(SAMPLERS, "sgld", replace(SAMPLERS["sgld"], update=buggy))
    with pytest.raises(ValueError, match="of a sampler"):
        main(["rlct", f"--model={small_model}", "--num_draws=4", f"--output_dir={tmp_path}"])
    assert "selfmod: error" not in capsys.readouterr().err


@pytest.mark.slow
def test_the_exit_code_of_a_bug_is_1(tmp_path):
    program = (
        "import sys\nimport transformers.trainer\nfrom tests.cli.test_usage_errors import UsersBug\n"
        "from selfmod_hf.cli import entry\ntransformers.trainer.DEFAULT_CALLBACKS.append(UsersBug)\nentry()"
    )
    command = ["-c", program, "train", *SMALL["train"], f"--output_dir={tmp_path}"]
    done = warm.run(command, cwd=Path(__file__).parents[2])
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "ValueError: shapes (3,) and (4,) are not aligned"
    assert "test_usage_errors.py" in done.stderr  # where it happened


@pytest.mark.parametrize("command", SMALL)
def test_control_c_is_one_line_that_says_how_to_go_on(command, small_study, tmp_path, monkeypatch, capsys):
    argv = [command, *SMALL[command], f"--output_dir={tmp_path / 'out'}"]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore the signal
    try:
        with monkeypatch.context() as patch:
            with_callback(patch, ControlC)
            assert main(argv) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("selfmod:"))
    assert line.startswith("selfmod: interrupted: the same command")
    if command == "train":
        assert "--resume_from_checkpoint last" in line
        argv += ["--resume_from_checkpoint=last"]
    assert main(argv) == 0  # and so it does


def test_a_rejection_shows_its_traceback_where_that_is_asked_for(tmp_path, monkeypatch, capsys):
    argv = ["train", "--task=minst", f"--output_dir={tmp_path}", "--hub_token=hf_abcdefghijklmnopqrst"]
    assert main(argv) == 2
    short = capsys.readouterr().err
    monkeypatch.setenv("SELFMOD_TRACEBACK", "1")
    assert main(argv) == 2
    long = capsys.readouterr().err
    assert short.startswith("selfmod: error: --task='minst': allowed are digits, ")
    assert short.count("\n") == 1
    assert long.endswith(short)
    assert "Traceback (most recent call last)" in long
    assert "in get_task" in long
    assert "hf_abc" not in long


def test_a_hub_that_cannot_be_reached_while_pushing_is_one_line(small_model, capsys):
    assert main(["push", str(small_model), "--repo=me/x", "--quiet"]) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("selfmod: error: --repo me/x: ")
    assert errors.count("\n") == 1


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("label_column='y': no such column", "--label_column='y': no such column"),
        ("task, seeds=None: name the `seeds`", "task, --seeds=None: name the --seeds"),
        ("target_layers: no module is named 'x'", "--target_layers: no module is named 'x'"),
        ("per_device_train_batch_size=3: odd", "--train_batch_size=3: odd"),
        ("config: a field has a wrong type", "config: a field has a wrong type"),
        ("file='/a/row.json': lacks `seeds` or `y`", "file='/a/row.json': lacks --seeds or `y`"),
        ("the seeds=3 are odd", "the seeds=3 are odd"),
        ("train_data.labels=7: too large", "--label_column: labels=7: too large"),
        ("train_data='pixel_values': odd", "train_data='pixel_values': odd"),  # no flag of this command names data
    ],
)
def test_fields_become_flags_where_the_command_has_them(line, shown):
    flags = {"label_column", "seeds", "target_layers", "train_batch_size", "config"}
    assert with_flags(line, flags) == shown


def raised_texts(path: Path) -> list[str]:
    statements = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Raise)]
    constants = [node for statement in statements for node in ast.walk(statement) if isinstance(node, ast.Constant)]
    return [node.value for node in constants if isinstance(node.value, str)]


def test_below_the_command_line_no_error_names_a_flag():
    package = Path(selfmod_hf.__file__).parent
    files = [path for path in package.rglob("*.py") if not path.is_relative_to(package / "cli")]
    assert len(files) > 50
    assert [(path.name, text) for path in files for text in raised_texts(path) if "--" in text] == []


def test_a_bug_in_the_loss_is_no_wrong_flag(tmp_path, monkeypatch):
    def broken(*args):
        raise ValueError("shapes (3,) and (4,) are not aligned")

    monkeypatch.setattr("selfmod_hf.models.losses_self_modeling.self_modeling_losses", broken)
    with pytest.raises(ValueError, match="are not aligned"):
        main(["train", *SMALL["train"], f"--output_dir={tmp_path}"])
