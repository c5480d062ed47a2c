"""Several processes from one command: `selfmod train --accelerate_config ddp` starts what `accelerate launch` would.

The first process checks the settings and starts the others. It trains nothing itself.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate.commands.launch import launch_command, launch_command_parser
from accelerate.utils import patch_environment
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from transformers import AutoConfig, AutoModel
from transformers.modeling_layers import GradientCheckpointingLayer

from ..errors import InputError
from ..files import read_yaml
from .network_settings import NetworkSettings
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
    num_processes: int | None = setting("Their number. Default: the file's, else one for each accelerator.")

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
        count = self._count(content)
        if run.train_batch_size is not None:
            share_of_batch(run.train_batch_size, count)
        if content.get("distributed_type") == "FSDP":
            self._add_layers(content, run.network)
        return Launcher(content, count)

    def _count(self, content: dict[str, Any]) -> int:
        count = self.num_processes
        if count is None:
            count = content.get("num_processes")
        if count is None:
            count = torch.accelerator.device_count()
        if count < 1:
            raise InputError("num_processes", self.num_processes, "allowed are integers of at least 1")
        return count

    def _add_layers(self, content: dict[str, Any], network: NetworkSettings) -> None:
        """Name the layers that are sharded one by one, unless the file does."""
        if not torch.accelerator.is_available():
            problem = "shards weights over accelerators, and this machine has none; allowed are ddp, ddp_cpu"
            raise InputError("accelerate_config", self.accelerate_config, problem)
        sharding = content.setdefault("fsdp_config", {})
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

    Example:
        >>> layer_classes(NetworkSettings(backbone_config='{"model_type": "bert"}'))
        ['BertLayer']
    """
    name = network.backbone_name
    if network.backbone_config:
        given = json.loads(network.backbone_config)
        config = AutoConfig.for_model(**given)
    elif name and not name.startswith("timm/"):
        config = AutoConfig.from_pretrained(name)
    else:
        return []
    with torch.device("meta"):
        model = AutoModel.from_config(config)
    found = set()
    for module in model.modules():
        if isinstance(module, GradientCheckpointingLayer):
            found.add(type(module).__name__)
    return sorted(found)


def _file_of(name: str) -> Path:
    """Return the file of a name that the package has, or the path of the user's own."""
    known = sorted(path.stem for path in CONFIGS.glob("*.yaml"))
    if name in known:
        return CONFIGS / f"{name}.yaml"
    if not Path(name).is_file():
        raise InputError("accelerate_config", name, f"allowed are {', '.join(known)}, and files")
    return Path(name)


def _code_of(exitcode: int) -> int:
    """Return the code of a process as a shell has it, after a signal too."""
    if exitcode < 0:
        return 128 - exitcode
    return exitcode
