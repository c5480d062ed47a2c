"""No token in what is printed, logged, written, pushed or published: everything is searched for it."""

import json
import os
import shutil
from pathlib import Path

import pytest

from selfmod_hf.tokens import HIDDEN, hide_tokens, without_tokens
from tests import loopback_hub as loopback
from tests import warm

TOKEN = "hf_" + "RecognisableToken" * 2
SHORT = "odd-token"  # of another form than the Hub's own

# its argument is a list of commands; TOKEN is in the environment, or typed
PROGRAM = """
import json, sys
from selfmod_hf import load_results
from selfmod_hf.cli import main
for argv in json.loads(sys.argv[1]):
    sys.argv = ["selfmod", *argv]  # as the console command has it
    print(len(load_results(*argv[1:])) if argv[0] == "load_results" else main(argv), "END", flush=True)
"""


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (["--hub_token", SHORT, "--seed", "1"], ["--hub_token", HIDDEN, "--seed", "1"]),
        ([f"--hub_token={SHORT}", "x"], [f"--hub_token={HIDDEN}", "x"]),
        (["--hub-token", SHORT], ["--hub-token", HIDDEN]),
        ([f"--hub-token={SHORT}"], [f"--hub-token={HIDDEN}"]),
        (["--repo", TOKEN], ["--repo", HIDDEN]),
        (["--repo", "hf_oauth_ey.J0-e_XAi" * 3], ["--repo", HIDDEN]),
        (["--repo", "api_org_" + "a1" * 12], ["--repo", HIDDEN]),
        (["--hub_token"], ["--hub_token"]),
        (["--model=hf_hub/hf_short", "--tokenizer_name", "x"], ["--model=hf_hub/hf_short", "--tokenizer_name", "x"]),
    ],
)
def test_command_lines_are_kept_without_tokens(given, kept):
    assert without_tokens(given) == kept


def test_a_token_of_the_environment_is_hidden(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", SHORT)
    assert hide_tokens(f"Authorization: Bearer {SHORT}, {TOKEN}") == f"Authorization: Bearer {HIDDEN}, {HIDDEN}"
    assert hide_tokens("value tee refused", ["--hub_token", "tee"]) == "value tee refused"  # too short to be one


def run(hub, folder: Path, commands: list[list[str]], token: str | None) -> str:
    env = hub.env(token=token) | {"TENSORBOARD_LOGGING_DIR": str(folder / "events")}
    done = warm.run(["-c", PROGRAM, json.dumps(commands)], env, folder)
    assert done.stdout.count(" END") == len(commands), done.stderr
    assert not (Path(env["HF_HOME"]) / "token").exists()
    return done.stdout + done.stderr


def found_in(folder: Path, *secrets: str) -> list[str]:
    names = []
    for path in folder.rglob("*"):
        if path.is_file() and any(secret.encode() in path.read_bytes() for secret in secrets):
            names.append(str(path))
        assert not any(secret in str(path) for secret in secrets)
    return names


@pytest.mark.slow
def test_no_token_is_written_or_printed(loopback_hub, small_sweep, tmp_path, monkeypatch):
    monkeypatch.setitem(loopback.USERS, TOKEN, "me")
    monkeypatch.setitem(loopback.USERS, SHORT, "me")
    shutil.copytree(small_sweep, tmp_path / "sweep")
    tiny = ["--max_train_samples=40", "--max_test_samples=20", "--num_train_epochs=1", "--hidden_sizes=4", "--quiet"]
    for secret, flag in ((TOKEN, [f"--hub_token={TOKEN}"]), (SHORT, ["--hub_token", SHORT])):
        typed = [
            ["train", "--task=digits", *tiny, "--report_to=tensorboard", "--output_dir=net", "--push_to_hub",
             "--hub_model_id=me/net", *flag],
            ["train", "--task=digits", *tiny, *flag, "--no_such_flag"],
            ["train", "--task=digits", *tiny, *flag, "--hub_model_id=../x", "--push_to_hub"],
            ["sweep", "--recipe=digits", *flag],
            ["push", "net", "--repo=me/net", *flag],
            ["tune", "--task=digits", *tiny, "--trials=1", "--num_draws=10", "--output_dir=tune", *flag],
        ]  # fmt: skip
        shutil.rmtree(tmp_path / "tune", ignore_errors=True)
        output = run(loopback_hub, tmp_path, typed, token=None)
        assert secret not in output
        assert (loopback_hub.root / "models/me/net/model.safetensors").is_file()
    in_environment = [
        ["push", "net", "--repo=me/net", "--quiet"],
        ["push", "sweep", "--repo=me/sweep", "--quiet"],
        ["push", "sweep", "--repo=colleague/sweep", "--quiet"],
        ["report", "me/sweep"],
        ["load_results", "me/sweep"],
        ["rlct", "--model=me/net", "--num_draws=4", "--num_chains=1", "--quiet", "--max_train_samples=40"],
    ]
    output = run(loopback_hub, tmp_path, in_environment, token=TOKEN)
    assert TOKEN not in output
    assert any("tfevents" in path.name for path in tmp_path.rglob("*"))
    assert (tmp_path / "runs/hub/me/sweep/report/report.html").is_file()
    assert found_in(tmp_path, TOKEN, SHORT) == []


def test_a_sweep_records_its_command_without_tokens(tmp_path, monkeypatch):
    from selfmod_hf.experiments.prepared_sweep import PreparedSweep
    from selfmod_hf.experiments.sweep import run_here, run_prepared_sweep
    from selfmod_hf.experiments.sweep_settings import SweepSettings

    few = {"max_train_samples": 40, "max_test_samples": 20, "num_train_epochs": 1, "num_chains": 1, "num_draws": 4}
    monkeypatch.chdir(tmp_path)
    sweep = PreparedSweep.make(SweepSettings.make("digits", hidden_sizes=[4], aux_weights=[0], seeds=[1], **few))
    run_prepared_sweep(sweep, run_here, command=["sweep", "--hub_token", SHORT, f"--x={TOKEN}"])
    (session,) = json.loads(Path("runs/sweep-digits/run.json").read_text())["sessions"]
    assert session["command"] == ["sweep", "--hub_token", HIDDEN, f"--x={HIDDEN}"]
    assert found_in(tmp_path, TOKEN, SHORT) == []
    assert os.listdir(tmp_path) == ["runs"]
