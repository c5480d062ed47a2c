"""`selfmod train --accelerate_config ddp_cpu --num_processes 2`: one command, several processes."""

import json
import os
from pathlib import Path
from subprocess import CompletedProcess
from textwrap import indent

import pytest
import torch
import yaml
from accelerate.commands.config import load_config_from_file
from safetensors.torch import load_file

from selfmod_hf import RunSettings
from selfmod_hf.cli import main
from selfmod_hf.errors import InputError
from selfmod_hf.experiments.launching import CONFIGS, LAYERS, Launcher, LaunchSettings, layer_classes
from selfmod_hf.experiments.network_settings import NetworkSettings
from tests import warm
from tests.trainer.test_fsdp import SHARD_ON_CPU

FLAGS = ["train", "--task", "digits", "--max_train_samples", "203", "--num_train_epochs", "2", "--quiet"]
TWO = ["--accelerate_config", "ddp_cpu", "--num_processes", "2"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}


def selfmod(*flags: str, cwd: Path) -> CompletedProcess[str]:
    """Run the command. The processes that it starts are new interpreters."""
    return warm.run(["-m", "selfmod_hf", *flags], ENVIRONMENT, cwd)


@pytest.mark.slow
def test_two_processes_of_one_command_train_what_one_does(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([*FLAGS, "--output_dir", "one"]) == 0
    table = capsys.readouterr().out
    done = selfmod(*FLAGS, *TWO, "--output_dir", "two", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[:3] == table.splitlines()[:3]  # one process prints
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, two[name], rtol=0, atol=1e-5)
    arguments = json.loads((tmp_path / "two" / "training_args.json").read_text())
    assert arguments["per_device_train_batch_size"] == 32


@pytest.mark.slow
def test_an_error_of_a_process_is_its_own_and_so_is_the_exit_code(tmp_path):
    Path(tmp_path, "config.yaml").write_text(yaml.safe_dump({"accelerate_config": "ddp_cpu", "num_processes": 2}))
    flags = [*FLAGS, "--config", "config.yaml", "--target_layers", "hidden.none", "--aux_weight", "1"]
    done = selfmod(*flags, cwd=tmp_path)
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if line.startswith("selfmod: error: --target_layers")]
    assert len(set(lines)) == 1
    assert "Traceback" not in done.stderr
    assert "ChildFailedError" not in done.stderr


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--accelerate_config", "dpp"], "--accelerate_config='dpp': allowed are ddp, ddp_cpu, fsdp2, and files"),
        (["--num_processes", "2"], "--num_processes=2: allowed with an --accelerate_config"),
        (["--accelerate_config", "ddp_cpu", "--num_processes", "0"], "--num_processes=0: allowed are integers of at"),
        (["--accelerate_config", "ddp_cpu", "--num_processes", "3"], "--train_batch_size=64: allowed are multiples of"),
        ([*TWO, "--learning_rate", "-1"], "--learning_rate=-1.0: allowed are finite numbers above 0"),
    ],
)
def test_unusable_settings_are_one_line_before_any_process_starts(flags, message, capsys):
    assert main([*FLAGS, *flags]) == 2
    assert capsys.readouterr().err.startswith(f"selfmod: error: {message}")


def test_the_processes_of_a_launcher_start_no_others(monkeypatch):
    run = RunSettings.make(task="digits")
    launch = LaunchSettings("ddp_cpu", 2)
    assert launch.launcher(run).count == 2
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert launch.launcher(run) is None


def test_a_file_of_accelerate_config_decides_what_is_not_given(tmp_path):
    content = {**yaml.safe_load((CONFIGS / "ddp_cpu.yaml").read_text()), "num_processes": 4}
    Path(tmp_path, "own.yaml").write_text(yaml.safe_dump(content))
    run = RunSettings.make(task="digits")
    assert LaunchSettings(str(tmp_path / "own.yaml")).launcher(run).count == 4
    assert LaunchSettings(str(tmp_path / "own.yaml"), 2).launcher(run).count == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"speed": 3}, "accelerate_config='own.yaml': is no file of `accelerate config`: unknown keys speed"),
        ({"distributed_type": "MANY"}, "accelerate_config='own.yaml': is no file of `accelerate config`: 'MANY'"),
        (
            {"distributed_type": "NO", "num_processes": 2},
            "accelerate_config='own.yaml': has distributed_type NO, which",
        ),
        ({"num_processes": "two"}, "num_processes='two': allowed are integers of at least 1"),
        ({"num_processes": 0}, "num_processes=0: allowed are integers of at least 1"),
    ],
)
def test_unusable_files_are_rejected_before_any_process_starts(tmp_path, monkeypatch, changes, message):
    monkeypatch.chdir(tmp_path)
    content = {**yaml.safe_load((CONFIGS / "ddp_cpu.yaml").read_text()), **changes}
    Path("own.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(InputError) as caught:
        LaunchSettings("own.yaml").launcher(RunSettings.make(task="digits"))
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("text", ["{bert", "{}", '{"model_type": "bret"}'])
def test_the_layers_of_no_encoder_name_the_field(text):
    with pytest.raises(InputError, match=r"^backbone_config="):
        layer_classes(NetworkSettings(backbone_config=text))


@pytest.mark.skipif(torch.accelerator.is_available(), reason="has an accelerator")
def test_without_an_accelerator_the_number_is_needed():
    with pytest.raises(InputError, match=r"^accelerate_config='ddp_cpu': needs `num_processes`, because this machine"):
        LaunchSettings("ddp_cpu").launcher(RunSettings.make(task="digits"))


@pytest.mark.slow
def test_a_single_process_gives_its_exit_code(tmp_path, capfd):
    content = {**yaml.safe_load((CONFIGS / "ddp_cpu.yaml").read_text()), "distributed_type": "NO"}
    assert Launcher(content, 1).run([*FLAGS, "--learning_rate", "-1", "--output_dir", str(tmp_path)]) == 2
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("name", ["ddp", "ddp_cpu", "fsdp2"])
def test_accelerate_reads_the_files_of_the_package(name):
    config = load_config_from_file(str(CONFIGS / f"{name}.yaml"))
    assert config.use_cpu is (name == "ddp_cpu")


@pytest.mark.skipif(torch.accelerator.is_available(), reason="has an accelerator")
def test_sharding_needs_an_accelerator():
    run = RunSettings.make(task="digits")
    with pytest.raises(InputError, match=r"^accelerate_config='fsdp2': .* this machine has none; allowed are ddp, ddp"):
        LaunchSettings("fsdp2", 2).launcher(run)


def test_the_layers_that_are_sharded_one_by_one():
    assert layer_classes(NetworkSettings(backbone_config='{"model_type": "vit"}')) == ["ViTLayer"]
    assert layer_classes(NetworkSettings(backbone="mlp")) == []
    assert layer_classes(NetworkSettings(backbone_name="timm/resnet10t")) == []


# Python imports this file when a process starts
OF_A_LAUNCHER = f"""
import os
if "WORLD_SIZE" in os.environ:
{indent(SHARD_ON_CPU, "    ")}
"""


@pytest.mark.slow
def test_two_sharded_processes_train_what_one_does(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sizes = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 20}
    vit = json.dumps({"model_type": "vit", "image_size": 8, "patch_size": 4, **sizes})
    limits = ["--max_train_samples", "64", "--max_test_samples", "20"]
    flags = [*FLAGS, *limits, "--backbone_config", vit, "--target_layers", "layers.*", "--aux_weight", "1"]
    assert main([*flags, "--output_dir", "one"]) == 0
    Path("sitecustomize.py").write_text(OF_A_LAUNCHER)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ENVIRONMENT['PYTHONPATH']}")
    content = yaml.safe_load((CONFIGS / "fsdp2.yaml").read_text())
    content["fsdp_config"][LAYERS] = ",".join(layer_classes(NetworkSettings(backbone_config=vit)))
    assert Launcher(content, 2).run([*flags, "--output_dir", "two"]) == 0
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, two[name], rtol=0, atol=1e-4)
