"""`selfmod train` and scripts/train.py, in this process where that is enough, as real processes where it is not."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from selfmod_hf.cli import COMMANDS, main
from selfmod_hf.cli.arguments import typed_values
from selfmod_hf.cli.train import parser, run_settings
from selfmod_hf.models import SelfModelingForImageClassification
from tests import warm

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = str(ROOT / "scripts" / "train.py")
SHORT = ["--num_train_epochs", "2"]


def run(*command: str, cwd: Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess:
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def launch(*flags: str) -> list[str]:
    return [sys.executable, "-m", "accelerate.commands.launch", *flags, SCRIPT]


@pytest.mark.slow
def test_digits_reach_95_percent_with_self_modeling_on(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["train"]) == 0
    table = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()[-5:] if line)
    assert float(table["accuracy"]) >= 0.95
    metrics = json.loads(Path("runs/digits-h64-aw1-seed42/eval_results.json").read_text())
    assert metrics["eval_self_modeling_loss"] > 0
    model = SelfModelingForImageClassification.from_pretrained("runs/digits-h64-aw1-seed42")
    assert model.config.aux_weight == 1.0


def test_the_script_is_the_command(tmp_path):
    done = warm.run([SCRIPT, "--task", "digits", *SHORT, "--quiet"], cwd=tmp_path, check=True)
    assert [line.split("  ")[0] for line in done.stdout.splitlines()] == [
        "accuracy",
        "classification loss",
        "self-modeling loss",
        "weight width",
        "model",
    ]


@pytest.mark.slow
def test_two_processes_train_what_one_does(tmp_path):
    """A batch of 64 over two processes; 1,437 images leave a last batch of 29."""
    flags = ["--task", "digits", *SHORT, "--seed", "3"]
    warm.run([SCRIPT, *flags, "--output_dir", "one"], cwd=tmp_path, check=True)
    two = launch("--multi_gpu", "--num_processes", "2", "--num_machines", "1")  # gloo where there is no GPU
    done = run(*two, *flags, "--output_dir", "two", cwd=tmp_path)
    assert done.stdout.count("accuracy  ") == 1  # one process prints
    assert "find_unused_parameters" not in done.stderr  # torch warns where it looks for them, and there are none
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, two[name], rtol=0, atol=1e-5)
    logs = [json.loads((tmp_path / name / "trainer_state.json").read_text())["log_history"] for name in ("one", "two")]
    for mine, theirs in zip(*logs, strict=True):
        kept = [n for n in mine if "loss" in n or "accuracy" in n or n == "weight_width"]
        assert {n: mine[n] for n in kept} == pytest.approx({n: theirs[n] for n in kept}, rel=1e-4)
    assert json.loads((tmp_path / "two" / "training_args.json").read_text())["per_device_train_batch_size"] == 32


@pytest.mark.slow
def test_two_processes_train_an_encoder_that_does_not_use_all_its_parameters(tmp_path):
    """DINOv2's mask token and others get no gradient."""
    encoder = {"model_type": "dinov2", "hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2}
    flags = ["--task", "digits", "--max_train_samples", "200", "--num_train_epochs", "2", "--aux_weight", "1"]
    flags += ["--backbone_config", json.dumps(encoder | {"image_size": 8, "patch_size": 4}), "--target_layers"]
    done = warm.run_two([SCRIPT, *flags, "encoder.layer.*"], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "self-modeling loss" in done.stdout


@pytest.mark.slow
def test_accelerate_launch_with_bf16_on_the_cpu(tmp_path):
    done = run(
        *launch("--num_processes", "2", "--cpu", "--mixed_precision", "bf16"), "--task", "digits", *SHORT, cwd=tmp_path
    )
    assert "accuracy" in done.stdout
    arguments = json.loads((tmp_path / "runs/digits-h64-aw1-seed42/training_args.json").read_text())
    assert arguments["mixed_precision"] == "bf16"


@pytest.mark.slow
@pytest.mark.parametrize("place", ["of the launcher", "of the script"])
def test_accelerate_launch_with_bf16_where_there_is_no_gpu(tmp_path, place):
    """The launcher is not told that there is none, as in README's example."""
    precision = ["--mixed_precision", "bf16"]
    before, after = (precision, []) if place == "of the launcher" else ([], precision)
    limits = ["--max_train_samples", "100", "--max_test_samples", "50", "--num_train_epochs", "1"]
    done = run(*launch("--num_processes", "1", *before), "--task", "digits", *limits, *after, cwd=tmp_path)
    assert "accuracy" in done.stdout
    arguments = json.loads((tmp_path / "runs/digits-h64-aw1-seed42/training_args.json").read_text())
    assert arguments["mixed_precision"] == "bf16"


@pytest.mark.parametrize("suffix", ["yaml", "json"])
def test_a_file_of_flags_wins_over_the_recipe_and_loses_to_what_is_typed(tmp_path, monkeypatch, suffix):
    monkeypatch.chdir(tmp_path)
    settings = {"task": "digits", "hidden_sizes": [12, 7], "target_layers": ["hidden.relu2"], "learning_rate": 1e-2}
    settings |= {"aux_weight": 4, "num_train_epochs": 9, "detach_targets": False, "output_dir": "here"}
    if suffix == "json":
        Path("run.json").write_text(json.dumps(settings))
    else:
        Path("run.yaml").write_text("\n".join(f"{name}: {value}" for name, value in settings.items()))
    assert main(["train", "--config", f"run.{suffix}", "--num_train_epochs", "1", "--quiet"]) == 0
    config = SelfModelingForImageClassification.from_pretrained("here").config
    assert (config.hidden_sizes, config.target_layers) == ([12, 7], ["hidden.relu2"])
    assert (config.aux_weight, config.detach_targets) == (4, False)
    arguments = json.loads(Path("here/training_args.json").read_text())
    assert (arguments["learning_rate"], arguments["num_train_epochs"]) == (0.01, 1)


@pytest.mark.parametrize(
    ("argv", "kept"),
    [
        (["--task=cifar10", "--backbone=timm/resnet34"], (True, "{}")),
        (["--task=cifar10", "--backbone=mlp"], (False, "{}")),
        (["--task=imdb"], (False, '{"embedding_dim": 64}')),
        (["--task=imdb", "--backbone=mlp"], (False, "{}")),
    ],
)
def test_another_backbone_than_the_tasks_keeps_what_fits_it(argv, kept):
    settings, _ = run_settings(typed_values(parser(), argv))
    assert (settings.network.small_image_stem, settings.network.backbone_kwargs) == kept


def test_weight_zero_is_the_baseline(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--aux_weight", "0", "--quiet", *SHORT]) == 0
    config = SelfModelingForImageClassification.from_pretrained("runs/digits-h64-aw0-seed42").config
    assert (config.aux_weight, config.target_layers) == (0, [])


def test_a_timm_backbone_by_flags_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = ["--backbone", "timm/resnet18", "--backbone_kwargs", '{"stem_type": "deep", "stem_width": 8}']
    flags += ["--hidden_sizes", "16", "--target_layers", "layer4", "hidden.relu1", "--max_train_samples", "64"]
    assert main(["train", *flags, "--num_train_epochs", "1", "--aux_weight", "0.5", "--quiet"]) == 0
    model = SelfModelingForImageClassification.from_pretrained("runs/digits-resnet18-h16-aw0.5-seed42")
    assert model.backbone.conv1[0].out_channels == 8
    assert model.self_model_head.out_features == 512 + 16


def test_a_stopped_run_goes_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder, epochs in (("whole", "3"), ("cut", "2")):
        assert main(["train", "--output_dir", folder, "--num_train_epochs", epochs, "--quiet"]) == 0
    resume = ["--output_dir", "cut", "--num_train_epochs", "3", "--resume_from_checkpoint", "last", "--quiet"]
    assert main(["train", *resume]) == 0
    whole, cut = (load_file(f"{folder}/model.safetensors") for folder in ("whole", "cut"))
    assert all(torch.equal(tensor, cut[name]) for name, tensor in whole.items())


# ------------------------------------------------------------------------------------- wrong input

WRONG = {
    "unknown task": (["--task", "minst"], "allowed are digits, mnist"),
    "unknown flag": (["--aux_wieght", "1"], "--aux_wieght"),
    "unknown layer": (["--target_layers", "hidden.relu7"], "allowed are hidden.linear1, hidden.relu1"),
    "unknown backbone": (["--backbone", "timm/resnut18"], "resnet18"),
    "negative weight": (["--aux_weight", "-1"], "aux_weight=-1.0"),
    "no number": (["--learning_rate", "fast"], "fast"),
    "no samples": (["--max_train_samples", "0"], "--max_train_samples=0"),
    "kwargs no JSON": (["--backbone_kwargs", "{"], "--backbone_kwargs"),
    "precision": (["--mixed_precision", "fp8"], "allowed are no, bf16, fp16"),
    "hidden size": (["--hidden_sizes", "0"], "hidden_sizes=[0]"),
    "no config file": (["--config", "nowhere.yaml"], "nowhere.yaml"),
    "no checkpoint": (["--resume_from_checkpoint", "nowhere"], "nowhere"),
    "no local folder": (["--dataset_name", "./nowhere"], "--dataset_name='./nowhere'"),
    "image size of digits": (["--image_size", "16"], "--image_size=[16, 16]"),
    "learning rate": (["--learning_rate", "0"], "learning_rate=0.0"),
    "image size": (["--image_size", "3", "3", "3"], "--image_size=[3, 3, 3]"),
    "batch size": (["--per_device_train_batch_size", "0"], "per_device_train_batch_size"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_is_one_line_and_exit_code_2(case, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    flags, message = WRONG[case]
    assert main(["train", "--num_train_epochs", "1", *flags]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("selfmod: error")]
    assert message in line
    assert not list(tmp_path.rglob("*.safetensors"))


def test_unknown_keys_of_a_file_are_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("run.yaml").write_text("aux_wieght: 3\n")
    assert main(["train", "--config", "run.yaml"]) == 2
    assert "unknown key 'aux_wieght'; did you mean aux_weight" in capsys.readouterr().err


def test_an_output_folder_that_cannot_be_written(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    assert main(["train", "--output_dir", "file/inside"]) == 2
    assert "--output_dir='file/inside'" in capsys.readouterr().err


@pytest.mark.slow
def test_no_network_and_no_cache_says_what_to_do(tmp_path):
    env = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path)}
    done = warm.run([SCRIPT, "--task", "mnist"], env, tmp_path)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "use --task digits" in done.stderr.splitlines()[-1]


ENTRY = """
import atexit, sys
import selfmod_hf.cli as cli

class Late:
    def __del__(self):
        print("torn down")

late = Late()
command = cli.main

def with_a_library(argv):
    atexit.register(print, "a library's end")
    return command(argv)

cli.main = with_a_library
cli.entry(sys.argv[1:])
"""


@pytest.mark.parametrize(("argv", "code"), [(["--version"], 0), (["tarin"], 2), (["push", "--help"], 0)])
@pytest.mark.parametrize("processes", ["1", "2"])
def test_one_of_several_processes_ends_without_tearing_python_down(processes, argv, code):
    """After what libraries have registered for the end, and with the command's own exit code."""
    env = {**os.environ, "WORLD_SIZE": processes}
    done = subprocess.run([sys.executable, "-c", ENTRY, *argv], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert "a library's end" in done.stdout
    assert ("torn down" in done.stdout) == (processes == "1")


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_explains_itself_on_one_screen(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: selfmod {command} ")
    lines = text.splitlines()
    assert len(lines) <= 60
    assert max(map(len, lines)) <= 120
    with pytest.raises(SystemExit):
        main([command, "--help", "all"])
    everything = capsys.readouterr().out
    assert set(re.findall(r"^  --\w+", text, flags=re.MULTILINE)) <= set(re.findall(r"  --\w+", everything))
    if command in ("train", "sweep", "tune", "rlct"):
        assert f"selfmod {command} --help all explains every flag" in lines[-1]
        assert len(everything.splitlines()) > 100


def test_help_takes_all_or_nothing(capsys):
    assert main(["push", "--help=some"]) == 2
    assert "--help=some: allowed are --help and --help all" in capsys.readouterr().err


def test_help_explains_each_flag_and_has_the_values_that_hold(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help", "all"])
    text = " ".join(capsys.readouterr().out.split())
    assert all(flag in text for flag in ("--aux_weight", "--target_layers", "--learning_rate", "--log_weight_width"))
    assert "(default: steps)" not in text  # transformers' own; ours are epochs
    assert "(default: 1)" in text.partition("--save_total_limit ")[2].partition(" --")[2][:400]
    assert "The same as --detach_targets False." in text
    assert "imdb: " in text.partition("A built-in task's own flags")[2]
