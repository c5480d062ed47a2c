"""Several processes from one command: `selfmod train --accelerate_config ddp` starts what `accelerate launch` would.

The first process checks the settings and starts the others. It trains nothing itself.
"""

from __future__ import annotations

import logging
import os
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate.commands.config.config_args import ClusterConfig
from accelerate.commands.launch import launch_command, launch_command_parser
from accelerate.utils import patch_environment
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from transformers import CONFIG_MAPPING, AutoConfig, AutoModel
from transformers.modeling_layers import GradientCheckpointingLayer

from ..errors import InputError
from ..files import read_yaml
from .network_settings import NetworkSettings, json_object
from .run_settings import RunSettings, share_of_batch
from .setting import setting

CONFIGS = Path(__file__).resolve().parents[1] / "accelerate_configs"
LAYERS = "fsdp_transformer_layer_cls_to_wrap"
ELASTIC_LOG = "torch.distributed.elastic.multiprocessing.api"  # a failed process has printed its own error


@dataclass
class LaunchSettings:
    """Settings of the processes of one training."""

    accelerate_config: str | None = setting(
        "Train in several processes: ddp, ddp_cpu, fsdp2, or a file of `accelerate config`. A launcher's processes "
        "ignore it."
    )
    num_processes: int | None = setting(
        "Number of processes with `accelerate_config`; default: the file's, else one for each accelerator."
    )

    @classmethod
    def taken_from(cls, values: dict[str, Any]) -> LaunchSettings:
        """Return the settings among these values, and remove them there."""
        names = [field.name for field in fields(cls)]
        return cls(**{name: values.pop(name, None) for name in names})

    def launcher(self, run: RunSettings) -> Launcher | None:
        """Return what starts the processes. None: this process trains, alone or as one of a launcher's.

        Raises:
            InputError: an unknown file, a number of processes that cannot be, or processes that cannot run here.
        """
        if "WORLD_SIZE" in os.environ:
            return None
        if self.accelerate_config is None:
            if self.num_processes is not None:
                raise InputError("num_processes", self.num_processes, "allowed with an `accelerate_config`")
            return None
        content = read_yaml("accelerate_config", _file_of(self.accelerate_config))
        self._check_content(content)
        count = self._count(content)
        if count > 1 and content["distributed_type"] in ("NO", False):  # YAML reads a plain NO as False
            problem = f"has distributed_type NO, which starts one process, not {count}"
            raise InputError("accelerate_config", self.accelerate_config, problem)
        if run.train_batch_size is not None:
            share_of_batch(run.train_batch_size, count)
        if content.get("distributed_type") == "FSDP":
            self._add_layers(content, run.network)
        return Launcher(content, count)

    def _check_content(self, content: dict[str, Any]) -> None:
        """Raise an InputError for content that Accelerate would reject in a process."""
        try:
            settings = ClusterConfig.process_config(dict(content))
            unknown = sorted(settings.keys() - ClusterConfig.__dataclass_fields__.keys())
            if unknown:
                raise ValueError(f"unknown keys {', '.join(unknown)}")
            ClusterConfig(**settings)
        except (KeyError, TypeError, ValueError) as error:
            problem = f"is no file of `accelerate config`: {error}"
            raise InputError("accelerate_config", self.accelerate_config, problem) from error

    def _count(self, content: dict[str, Any]) -> int:
        """Return the number of processes: the given one, that of the file, or one for each accelerator."""
        for count in (self.num_processes, content.get("num_processes")):
            if count is None:
                continue
            if type(count) is not int or count < 1:
                raise InputError("num_processes", count, "allowed are integers of at least 1")
            return count
        count = torch.accelerator.device_count()
        if count < 1:
            problem = "needs `num_processes`, because this machine has no accelerator to count"
            raise InputError("accelerate_config", self.accelerate_config, problem)
        return count

    def _add_layers(self, content: dict[str, Any], network: NetworkSettings) -> None:
        """Name the layers that are sharded one by one, unless the file does."""
        if not torch.accelerator.is_available():
            problem = "shards weights over accelerators, and this machine has none; allowed are ddp, ddp_cpu"
            raise InputError("accelerate_config", self.accelerate_config, problem)
        sharding = content.get("fsdp_config") or {}
        if not isinstance(sharding, dict):
            problem = f"fsdp_config={sharding!r}: allowed is a mapping"
            raise InputError("accelerate_config", self.accelerate_config, problem)
        content["fsdp_config"] = sharding
        if LAYERS in sharding:
            return
        names = layer_classes(network)
        if not names:
            problem = "allowed with a transformers backbone, because its layers are sharded one by one"
            raise InputError("accelerate_config", self.accelerate_config, problem)
        sharding[LAYERS] = ",".join(names)


@dataclass(frozen=True)
class Launcher:
    """Start the processes of one training.

    Attributes:
        content: of a file of `accelerate config`.
        count: number of processes.
    """

    content: dict[str, Any]
    count: int

    def run(self, argv: Sequence[str]) -> int:
        """Run `selfmod` with these arguments in each process, and return the exit code of the first one that fails.

        The code is 0 if none fails, and 128 + the signal's number after a signal.
        """
        with tempfile.TemporaryDirectory() as folder, self._environment():
            file = Path(folder, "accelerate.yaml")
            file.write_text(yaml.safe_dump(self.content), encoding="utf-8")
            flags = ["--config_file", str(file), "--num_processes", str(self.count)]
            if "main_process_port" not in self.content:
                flags += ["--main_process_port", "0"]  # any free one
            args = launch_command_parser().parse_args([*flags, "-m", "selfmod_hf", *argv])
            try:
                launch_command(args)
            except ChildFailedError as error:
                _, failure = error.get_first_failure()
                return _code_of(failure.exitcode)
            except subprocess.CalledProcessError as error:  # of a single process
                return _code_of(error.returncode)
            except SignalException as error:
                return 128 + error.sigval
        return 0

    @contextmanager
    def _environment(self) -> Iterator[None]:
        """Tell the processes to use the CPU, if they shall, and hide what torch writes about a process that failed."""
        variables = {}
        if self.content.get("use_cpu"):
            variables["ACCELERATE_USE_CPU"] = "true"
        log = logging.getLogger(ELASTIC_LOG)
        level = log.level
        log.setLevel(logging.CRITICAL)
        try:
            with patch_environment(**variables):
                yield
        finally:
            log.setLevel(level)


def layer_classes(network: NetworkSettings) -> list[str]:
    """Return the names of the classes of an encoder's layers. It is empty for other backbones.

    An encoder's own list of modules that are not split may name its embeddings too, which Accelerate then shards twice.

    Raises:
        InputError: a configuration of no encoder.

    Example:
        >>> layer_classes(NetworkSettings(backbone_config='{"model_type": "bert"}'))
        ['BertLayer']
    """
    name = network.backbone_name
    if network.backbone_config:
        config = _config_of(network.backbone_config)
    elif name and not name.startswith("timm/"):
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
    else:
        return []
    with torch.device("meta"):
        model = AutoModel.from_config(config)
    found = set()
    for module in model.modules():
        if isinstance(module, GradientCheckpointingLayer):
            found.add(type(module).__name__)
    return sorted(found)


def _config_of(text: str) -> Any:
    """Return the configuration of an encoder from JSON."""
    given = json_object("backbone_config", text)
    model_type = given.get("model_type")
    if model_type not in CONFIG_MAPPING:
        problem = f"model_type={model_type!r}: allowed are model types of transformers"
        raise InputError("backbone_config", text, problem)
    return AutoConfig.for_model(**given)


def _file_of(name: str) -> Path:
    """Return the file of a name that the package has, or the path of the user's own."""
    known = sorted(path.stem for path in CONFIGS.glob("*.yaml"))
    if name in known:
        return CONFIGS / f"{name}.yaml"
    if not Path(name).is_file():
        raise InputError("accelerate_config", name, f"allowed are {', '.join(known)}, and files")
    return Path(name)


def _code_of(exitcode: int) -> int:
    """Return the exit code of a process, 128 + the number of the signal that ended it."""
    if exitcode < 0:
        return 128 - exitcode
    return exitcode
