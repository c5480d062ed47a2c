"""Every flag of every command against values it cannot take: exit code 2 and one line that names flag or value, or a
right result. The flags are read from the dataclasses, so a new one is covered as soon as it is there."""

import dataclasses
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import selfmod_hf
from selfmod_hf.cli import main
from selfmod_hf.cli.arguments import make_parser
from selfmod_hf.cli.push import PushArguments
from selfmod_hf.cli.report import ReportArguments
from selfmod_hf.cli.rlct import RLCTArguments
from selfmod_hf.cli.sweep import SweepArguments
from selfmod_hf.cli.train import CommandArguments
from selfmod_hf.cli.tune import TuneArguments
from selfmod_hf.experiments.data_settings import DataSettings
from selfmod_hf.experiments.run_settings import GROUPS
from selfmod_hf.experiments.sweep_settings import StudySettings

TRAIN = (CommandArguments, *GROUPS)
FEW = ["--max_train_samples=40", "--max_test_samples=20", "--num_train_epochs=1", "--quiet", "--output_dir=out"]
COMMANDS: dict[str, tuple[tuple[Any, ...], list[str]]] = {
    "train": (TRAIN, ["--task=digits", "--hidden_sizes=4", *FEW]),
    "sweep": (
        (StudySettings, SweepArguments),
        ["--hidden_sizes=4", "--aux_weights=0", "--seeds=1", "--num_chains=1", "--num_draws=4", *FEW],
    ),
    "rlct": (
        (DataSettings, RLCTArguments),
        ["--model=MODEL", "--task=digits", "--max_train_samples=40", "--num_draws=4", "--num_chains=1", "--quiet",
         "--output_dir=out"],
    ),
    "tune": ((TuneArguments, *TRAIN), ["--task=digits", "--hidden_sizes=4", "--trials=1", "--num_draws=4", *FEW]),
    "report": ((ReportArguments,), ["--folder=SWEEP", "--output_dir=out"]),
    "push": ((PushArguments,), ["--folder=MODEL", "--repo=me/x", "--quiet"]),
}  # fmt: skip


def kind_of(field: dataclasses.Field[Any]) -> str:
    """What a flag takes: "bool", "int", "float" or "text" (choices among them)."""
    kind = str(field.type).replace("builtins.", "")
    for name in ("str", "dict", "Parallelism"):
        if name in kind:
            return "text"
    return next((name for name in ("bool", "int", "float") if name in kind), "text")


FLAGS = [
    (command, field.name, kind_of(field))
    for command, (classes, _) in COMMANDS.items()
    for cls in classes
    for field in dataclasses.fields(cls)
    if command != "tune" or cls is TuneArguments
]
TYPED = [flag for flag in FLAGS if flag[2] != "text"]


pytestmark = pytest.mark.usefixtures("blank_figures")


@pytest.fixture
def place(small_model, small_sweep, tmp_path, monkeypatch) -> dict[str, str]:
    monkeypatch.chdir(tmp_path)
    return {"MODEL": str(small_model), "SWEEP": str(small_sweep)}


def attempt(place: dict[str, str], capsys: Any, command: str, *flags: str) -> str | None:
    """Runs a command; its line of error, or None where it came to a result. Anything else fails the test."""
    argv = [
        command,
        *(re.sub("MODEL|SWEEP", lambda m: place[m.group()], flag) for flag in (*COMMANDS[command][1], *flags)),
    ]
    capsys.readouterr()
    code = main(argv)
    output, errors = capsys.readouterr()
    lines = [line for line in errors.splitlines() if line.startswith("selfmod: error")]
    assert (code, len(lines)) in ((0, 0), (2, 1)), (argv, code, errors)
    assert "Traceback" not in errors
    if lines:
        return lines[0]
    assert not re.search(r"\b(nan|inf)\b", output), (argv, output)
    return None


NO_INT = ["abc", "", "1.5", "1e3", "nan", "None", "0x", "1,2", "[1]", "١٢x", "1 2"]
NO_FLOAT = ["abc", "", "nan", "-nan", "inf", "-Infinity", "1e999", "None", "1,5", "{}", "1/2", "0x10"]
NO_BOOL = ["maybe", "", "2", "nan", "tru", "None", "-1"]


@pytest.mark.parametrize("command", COMMANDS)
def test_each_typed_flag_refuses_what_it_cannot_take(place, capsys, command):
    """At least 300 cases in all, each refused before any work."""
    count = 0
    for number, (_, name, kind) in enumerate(flag for flag in TYPED if flag[0] == command):
        values = {"int": NO_INT, "float": NO_FLOAT, "bool": NO_BOOL}[kind]
        for value in (values[number % len(values)], values[(number + 3) % len(values)]):
            if (name, value) in (("max_grad_norm", "inf"), ("max_grad_norm", "1e999")):
                continue  # clips nothing, logs the norm
            line = attempt(place, capsys, command, f"--{name}={value}")
            assert line is not None, (name, value)
            assert name in line, (name, value, line)
            count += 1
    assert count >= 2 * len([flag for flag in TYPED if flag[0] == command]) - 2
    assert not Path("out").exists()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(flag=st.sampled_from(TYPED), value=st.text(max_size=12) | st.floats().map(str) | st.integers().map(str))
def test_a_typed_flag_reads_or_refuses_any_text(place, capsys, flag, value):
    """The flags alone: what they would start does not run, since another of them is wrong."""
    command, name, _ = flag
    line = attempt(place, capsys, command, f"--{name}={value}", "--no_such_flag")
    assert line is not None
    assert name in line or "no_such_flag" in line


def test_unknown_flags_and_commands(place, capsys):
    for command in COMMANDS:
        if command != "tune":
            assert "--no_such_flag" in (attempt(place, capsys, command, "--no_such_flag") or "")
    assert "--no_such_flag" in (attempt(place, capsys, "tune", "--no_such_flag=1") or "")
    assert main(["tarin"]) == 2
    assert "command 'tarin': allowed are train" in capsys.readouterr().err


# command, flags, a part of the line
OUT_OF_RANGE = [
    *(("train", [f"--{name}={value}"], name) for name, values in {
        "num_train_epochs": ["0", "-1"],
        "learning_rate": ["0", "-1"],
        "per_device_train_batch_size": ["0", "-5"],
        "per_device_eval_batch_size": ["0", "-5"],
        "gradient_accumulation_steps": ["0", "-1"],
        "rlct_every_n_epochs": ["-1"],
        "train_batch_size": ["0", "-3"],
        "max_train_samples": ["0", "-1"],
        "max_test_samples": ["0", "-1"],
        "hidden_sizes": ["0", "-4", "1000000000", "99999999999999999999"],
        "aux_weight": ["-1"],
        "classification_weight": ["-0.5"],
        "target_layers": ["", "hidden.relu9", "*", "..", "hidden..relu1"],
        "target_pooling": ["", "max"],
        "feature_pooling": ["", "max"],
        "task": ["", "minst", "../digits"],
        "image_size": ["0", "8"],
        "backbone": ["", "cnn", "timm/", "timm/../../x", "timm/nothing"],
        "backbone_kwargs": ["", "[]", "{", '{"num_embeddings": 3}', "5"],
        "backbone_config": ["", "[]", "{", "{}", '{"model_type": "nope"}'],
        "text_column": ["text"],
        "tokenizer_name": ["x"],
        "max_length": ["0", "-1"],
        "mixed_precision": ["", "fp8"],
        "small_image_stem": ["true"],
        "config": ["nowhere.yaml", "."],
        "resume_from_checkpoint": ["nowhere"],
        "dataset_name": ["", " ", "./nowhere"],
    }.items() for value in values),
    *(("sweep", [f"--{name}={value}"], name) for name, values in {
        "recipe": ["", "svhn"],
        "hidden_sizes": ["0", "-1", "1000000000"],
        "aux_weights": ["-1"],
        "seeds": ["-1", "4294967296"],
        "detach_targets": ["", "maybe"],
        "num_train_epochs": ["0"],
        "train_batch_size": ["0"],
        "learning_rate": ["0", "-1"],
        "members_per_population": ["0"],
        "memory_gib": ["0", "-1"],
        "num_chains": ["0", "1000000000"],
        "num_draws": ["0", "1", "100000000000"],
        "max_train_samples": ["0"],
        "max_test_samples": ["-1"],
        "rlct_preset": ["", "mine"],
        "dataset_name": ["", "./nowhere"],
    }.items() for value in values),
    *(("rlct", [f"--{name}={value}"], name) for name, values in {
        "model": ["", "./nowhere", "a/b/c"],
        "subfolder": ["nowhere", "../.."],
        "checkpoints": ["nowhere"],
        "sampler": ["", "hmc"],
        "step_size": ["0", "-1"],
        "localization": ["-1"],
        "nbeta": ["", "0", "-1", "nan", "inf", "n"],
        "num_chains": ["0", "1000000000000"],
        "num_draws": ["0", "1", "1000000000000"],
        "num_burnin_steps": ["-1", "4"],
        "batch_size": ["0"],
        "parameters": ["", "nothing.*"],
        "seed": ["-1"],
        "device": ["", "gpu", "cuda:99", "meta"],
        "dtype": ["", "int8"],
        "memory_gib": ["0", "-1"],
        "rlct_preset": ["", "mine"],
    }.items() for value in values),
    *(("tune", [f"--{name}={value}"], name) for name, values in {
        "space": ["", "aux_weight", "depth=1:2", "aux_weight=a:b", "aux_weight=1:0", "learning_rate=0:1:log",
                  "learning_rate=nan:1", "aux_weight=-1:2", "hidden_sizes=x", "target_layers=hidden.relu7",
                  "aux_weight=", "learning_rate=0,1", "hidden_sizes=0"],
        "trials": ["0", "-1"],
        "stack": ["0"],
        "give_up_below": ["-1", "2"],
        "keep_accuracy": ["-1", "2"],
        "num_draws": ["0"],
        "num_chains": ["0"],
    }.items() for value in values),
    *(("report", [f"--{name}={value}"], name) for name, values in {"folder": ["", "."]}.items() for value in values),
    *(("push", [f"--{name}={value}"], name) for name, values in {"folder": ["", "nowhere", "."]}.items()
      for value in values),
]  # fmt: skip
OTHER_WORDS = {  # what a line says in place of the flag's name
    "space": "target_layers",
    "tokenizer_name": "texts", "backbone_kwargs": "backbone", "small_image_stem": "stem",
    "text_column": "dataset_name", "rlct_preset": "preset", "subfolder": "--model", "folder": "older",
    "num_chains": "num_", "num_draws": "num_", "num_burnin_steps": "num_", "hidden_sizes": "config", "model": "",
    "backbone_config": "backbone", "mixed_precision": "", "dataset_name": "",
}  # fmt: skip


@pytest.mark.parametrize("case", range(len(OUT_OF_RANGE)), ids=lambda i: " ".join(OUT_OF_RANGE[i][1])[2:60])
def test_what_is_out_of_range_is_refused_before_work(place, capsys, case, monkeypatch):
    command, flags, name = OUT_OF_RANGE[case]
    if name == "backbone_config":
        flags = [*flags, "--aux_weight=0"]
    if name == "checkpoints":
        flags = [*flags, "--model="]  # one of the two
        monkeypatch.setitem(COMMANDS, "rlct", (COMMANDS["rlct"][0], COMMANDS["rlct"][1][1:]))
        flags = flags[:1]
    line = attempt(place, capsys, command, *flags)
    assert line is not None
    assert name in line or OTHER_WORDS.get(name, name) in line
    assert not list(Path.cwd().rglob("*.safetensors"))


# ------------------------------------------------------------------------------------------- files

# each level ten times the one before
LEVELS = [f"&a{n} [{', '.join([f'*a{n - 1}' if n else '1'] * 10)}]" for n in range(10)]
BOMB = f"hidden_sizes: [{', '.join(LEVELS)}]"
FILES: dict[str, bytes] = {
    "empty": b"",
    "list": b"- 1\n",
    "number": b"5",
    "broken": b"{",
    "tabs": b"a:\n\t- b",
    "not UTF-8": b"task: \xff\xfe",
    "aliases": b"hidden_sizes: [&a [1, 1], *a]",
    "a few lines that stand for 10 GB": BOMB.encode(),
    "large": b"task: digits\n" + b"#" * 1_000_000,
    "python": b"task: !!python/object/apply:os.system ['touch ran']",
    "number as key": b"5: 3",
    "null as key": b"null: 3",
    "unknown": b"aux_wieght: 3",
    "wrong type": b"hidden_sizes: {a: 1}",
    "text for a number": b"learning_rate: fast",
    "list for a number": b"learning_rate: [1, 2]",
    "NaN": b"aux_weight: .nan",
    "infinity": b"learning_rate: .inf",
    "nested": b"hidden_sizes: [[1, 2], [3]]",
    "a date": b"num_train_epochs: 2024-01-01",
    "bool for a number": b"num_train_epochs: true",
    "binary": b"seed: !!binary gIGCg4SFhoeIiYqLjI2Oj5A=",
    "deep": b"[" * 50_000,
}


@pytest.mark.parametrize("case", FILES)
@pytest.mark.parametrize("command", ["train", "tune"])
def test_a_file_of_flags_that_cannot_be_used(place, capsys, case, command):
    Path("flags.yaml").write_bytes(FILES[case])
    flag = "--config" if command == "train" else "--space"
    if (command, case) == ("tune", "list for a number"):
        return  # choices
    line = attempt(place, capsys, command, f"{flag}=flags.yaml")
    assert line is not None
    assert not Path("ran").exists()
    if case in ("aliases", "a few lines that stand for 10 GB"):
        assert "aliases (*name) are not allowed" in line
    if case == "deep":  # not left to Python's own limit, which is reached after a minute
        assert "is nested more than 20 levels deep" in line


def test_a_file_of_flags_that_is_no_file_is_not_waited_for(place, capsys):
    os.mkfifo("pipe")
    for path in ("pipe", "/dev/zero"):
        for command, flag in (("train", "--config"), ("tune", "--space")):
            assert "no such file" in (attempt(place, capsys, command, f"{flag}={path}") or "")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=4,
)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from([flag[1] for flag in FLAGS if flag[0] == "train"]), value=JSON)
def test_any_value_in_a_file_is_read_or_refused(place, capsys, name, value):
    """With a task that is not there, so that nothing runs."""
    if name in ("task", "dataset_name"):
        return
    Path("flags.json").write_text(json.dumps({name: value, "task": "nothing"}))
    line = attempt(place, capsys, "train", "--config=flags.json", "--task=nothing")
    assert line is not None


# what would leave the test's folder, reach for a network, or take long
ELSEWHERE = ("output_dir", "logging_dir", "config", "task", "dataset_name", "backbone_name", "tokenizer_name")
ELSEWHERE += ("report_to", "push_to_hub", "resume_from_checkpoint", "num_train_epochs", "max_steps", "project")


def plausible() -> list[tuple[str, list[str]]]:
    """Flags of `train`, and values that may well be meant."""
    numbers = {"bool": ["True", "False"], "int": ["0", "1", "2", "7"], "float": ["0", "0.1", "0.5", "1"]}
    known = [(action.dest, action.choices) for action in make_parser("train", *TRAIN)._actions]
    choices = {name: [str(getattr(c, "value", c)) for c in some] for name, some in known if some}
    kinds = {name: kind for command, name, kind in FLAGS if command == "train" and name not in ELSEWHERE}
    values = {name: choices.get(name) or numbers.get(kind) for name, kind in kinds.items()}
    return [(name, found) for name, found in values.items() if found]


@pytest.mark.slow
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(flag=st.sampled_from(plausible()), data=st.data())
def test_a_plausible_value_runs_or_is_refused(place, capsys, flag, data):
    """Nothing else is wrong, so that the command runs to its end where the value can be used."""
    name, values = flag
    shutil.rmtree("out", ignore_errors=True)
    attempt(place, capsys, "train", f"--{name}={data.draw(st.sampled_from(values))}")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--label_smoothing_factor=0.1"], "label_smoothing_factor=0.1: allowed is 0"),
        (["--use_liger_kernel"], "use_liger_kernel=True: allowed is False"),
        (["--lr_scheduler_type=warmup_stable_decay"], "lr_scheduler_type"),
        (["--report_to=clearml"], "clearml"),
    ],
)
def test_what_transformers_would_only_find_later(place, capsys, flags, message):
    assert message in (attempt(place, capsys, "train", *flags) or "")


def test_flags_with_dashes_are_those_with_underscores(place, capsys):
    assert attempt(place, capsys, "train", "--per-device-train-batch-size=8", "--aux-weight=0") is None
    assert json.loads(Path("out/training_args.json").read_text())["per_device_train_batch_size"] == 8
    assert json.loads(Path("out/config.json").read_text())["target_layers"] == []
    line = attempt(place, capsys, "tune", "--space=hidden_sizes=4,8", "--hidden-sizes=8")
    assert "--hidden_sizes=[8]: is searched by --space" in (line or "")


def test_a_checkpoint_of_another_network_is_refused(place, capsys):
    assert attempt(place, capsys, "train") is None
    line = attempt(place, capsys, "train", "--hidden_sizes=5", "--resume_from_checkpoint=last")
    assert "holds another network" in (line or "")


def test_a_self_test_without_draws_is_refused(capsys):
    assert main(["rlct", "--self_test", "--num_draws=-5"]) == 2
    printed = capsys.readouterr()
    assert "num_draws" in printed.err
    assert printed.out == ""  # no header of a table without rows


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["train", "--lr=1"], "--lr: no such flag; did you mean --learning_rate?"),
        (["train", "--epochs", "3"], "--epochs: no such flag; did you mean --num_train_epochs?"),
        (["train", "--batch_size=8"], "--batch_size: no such flag; did you mean --train_batch_size"),
        (["sweep", "--aux_wieghts=1"], "--aux_wieghts: no such flag; did you mean --aux_weights"),
        (["train", "MODEL"], "MODEL: belongs to no flag"),
        (["push", "--repo=me/x", "MODEL", "MODEL"], "MODEL: belongs to no flag"),
        (["push", "MODEL", "--repo=me/a b"], "--repo me/a b: no name of a repository (user/name)"),
        (["report", "a b/c"], "--folder a b/c: no name of a repository (user/name)"),
        (["rlct", "--model=a b/c"], "--model a b/c: no name of a repository (user/name)"),
        (["rlct", "--model=MODEL", "--subfolder=x"], "--model='MODEL': holds no x/config.json"),
        (["rlct", "--model=MODEL", "--revision=v1"], "--revision='v1': allowed with a --model of the Hub"),
        (["rlct", "--model=MODEL", "--augment"], "--augment=True: the RLCT is that of the training set as it is"),
        (
            ["rlct", "--model=MODEL", "--sampler=fisher_sgld"],
            "--sampler='fisher_sgld': give --step_size and --localization",
        ),
        (["rlct", "--self_test", "--task=mnist"], "--task mnist: has no effect on --self_test"),
        (["rlct", "--self_test", "--sampler=sghmc"], "--sampler sghmc: has no effect on --self_test"),
        (["train", "--train_split=test"], "--train_split='test': digits is built in; allowed with data"),
        (["rlct", "--model=MODEL", "--label_column=y"], "--label_column='y': digits is built in; allowed with data"),
        (
            ["train", "--backbone_name=me/bert", '--backbone_kwargs={"a": 1}'],
            "--backbone_kwargs='{\"a\": 1}': allowed with",
        ),
        (["train", "--config=nowhere.yaml"], "--config='nowhere.yaml': no such file"),
        (["tune", "--space=aux_weight=20:0"], "--space='aux_weight=20:0': allowed is LOW:HIGH"),
        (["train", "--optim_args=momentum"], "optim_args='momentum': allowed are NAME=VALUE"),
        (["train", "--report_to=nothing"], "report_to='nothing': nothing is not supported"),
        (["train", "--rlct_preset=papper"], "rlct_preset='papper'"),
        (["tarin"], "command 'tarin': allowed are train, sweep"),
        (["trian"], "(and --help, --version); did you mean train?"),
    ],
)
def test_what_newcomers_type_is_answered_by_what_to_type(place, capsys, argv, message):
    line = " ".join(argument.replace("MODEL", place["MODEL"]) for argument in argv)
    assert main([argument.replace("MODEL", place["MODEL"]) for argument in argv]) == 2, line
    assert message.replace("MODEL", place["MODEL"]) in capsys.readouterr().err


@pytest.mark.parametrize("command", ["train", "sweep", "rlct", "tune", "report", "reproduce"])
def test_an_output_folder_that_is_a_file(place, capsys, command):
    Path("file").write_text("")
    given = {"rlct": ["--model", place["MODEL"]], "report": [place["SWEEP"]]}
    assert main([command, *given.get(command, []), "--output_dir", "file/inside"]) == 2
    assert "--output_dir='file/inside': cannot be written to (file is no folder)" in capsys.readouterr().err


def test_the_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"selfmod_hf {selfmod_hf.__version__}\n"


# ------------------------------------------------------------------------------------------- folders


def test_output_folders_that_cannot_be_written(place, capsys):
    Path("file").write_text("")
    for command in ("train", "sweep", "rlct", "tune", "report"):
        for folder in ("file", "file/inside", "/proc/nothing", "x" * 300, "a\0b"):
            line = attempt(place, capsys, command, f"--output_dir={folder}")
            assert "--output_dir" in (line or ""), (command, folder, line)
    assert Path("file").read_text() == ""


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_model_folders_without_a_file(place, capsys, tmp_path, name):
    folder = tmp_path / "model"
    shutil.copytree(place["MODEL"], folder)
    (folder / name).unlink()
    line = attempt(place, capsys, "rlct", f"--model={folder}")
    assert line is not None
    assert name in line
