"""The shapes of a sweep's networks. Networks of one shape have all settings in common that a population shares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from ..data import TaskData, TaskSpec
from ..errors import InputError
from ..models import SelfModelingConfig, check_config
from ..models.fields_self_modeling import NETWORK_SOURCE
from ..trainer.member import Member
from ..trainer.member_optimizer import decayed_names
from ..trainer.outside_targets import OutsideTargets
from ..trainer.population import SelfModelingPopulation
from ..trainer.task_metrics import evaluated_names
from .footprint import MemoryPlan, free_memory, measure_footprint
from .network_settings import build_network
from .processes_together import from_main, join_processes
from .run_settings import RunSettings
from .sweep_settings import SweepSettings

NEVER_RANDOM = ("mlp", "embedding_bag")  # backbones that draw no random numbers while they train
OF_ARM = (
    "aux_weight",
    "target_source",
    "target_normalization",
    "activation_penalty",
    "classification_weight",
)  # fields of a configuration in which arms of one shape may differ


@dataclass(frozen=True)
class Shape:
    """Hold what networks of one shape have in common. They can train as one population.

    Attributes:
        label: their hidden layers in words, such as `of width 64`. It can be empty.
        run: their common settings.
        data: of their task.
        config: of their network. A member's own values replace its fields.
        memory: how many of them train at once.
        alone: why each of them must train alone. None: they can be stacked.
        metrics: names of the metrics of their evaluation. The study compares the first one.
    """

    label: str
    run: RunSettings
    data: TaskData[Any]
    config: SelfModelingConfig
    memory: MemoryPlan
    alone: str | None
    metrics: tuple[str, ...] = ("accuracy",)

    @property
    def task(self) -> TaskSpec:
        """Return the task, with the splits and columns that were found in the data."""
        return self.data.task or self.run.task

    @property
    def members_at_once(self) -> int:
        """Return the number of networks in one training."""
        if self.alone is not None:
            return 1
        return self.memory.members_at_once()

    def explain(self) -> str | None:
        """Return why networks of this shape train one by one without the user's wish, or None."""
        reason = self.alone or self.memory.explain()
        if reason is None:
            return None
        if not self.label:
            return reason
        return f"networks {self.label}: {reason}"


class ShapeMaker:
    """Build shapes, and load each distinct data set once.

    Args:
        settings: of the sweep, for the user's limits.
    """

    def __init__(self, settings: SweepSettings) -> None:
        self.settings = settings
        self._loaded: dict[str, TaskData[Any]] = {}

    def make(self, run: RunSettings) -> tuple[Shape, Any]:
        """Return the shape of networks with some common settings, and one of its networks.

        Args:
            run: the common settings.
        """
        data = self._load_data(run)
        network = build_network(run.network, data)
        config = network.config
        memory = self._plan_memory(run, data, config)
        shape = Shape(
            _label(config),
            run,
            data,
            config,
            memory,
            alone=_reason_alone(run, config, data),
            metrics=tuple(evaluated_names(network)),
        )
        return shape, network

    def _load_data(self, run: RunSettings) -> TaskData[Any]:
        """Return the data of networks with some common settings."""
        network = run.network
        key = repr(
            (run.data, network.backbone_name, network.backbone_config, network.head)
        )  # a head orders the classes
        if key not in self._loaded:
            with join_processes().main_process_first():
                self._loaded[key] = run.load_data()
        return self._loaded[key]

    def _plan_memory(self, run: RunSettings, data: TaskData[Any], config: SelfModelingConfig) -> MemoryPlan:
        """Return how many networks train at once."""
        processes = join_processes().num_processes
        if self.settings.memory_gib is None:
            limit = from_main(lambda: free_memory(processes) // 2)
        else:
            limit = int(self.settings.memory_gib * 2**30)
        return MemoryPlan(
            footprint=measure_footprint(config, data.train),
            batch_size=run.training.per_device_train_batch_size,
            limit=limit,
            num_processes=processes,
            members=self.settings.members_per_population,
        )


def _label(config: SelfModelingConfig) -> str:
    sizes = config.hidden_sizes
    if not sizes:
        return ""
    word = "width" if len(sizes) == 1 else "widths"
    text = "-".join(map(str, sizes))
    return f"of {word} {text}"


def _reason_alone(run: RunSettings, config: SelfModelingConfig, data: TaskData[Any]) -> str | None:
    """Return why networks cannot be stacked, or None."""
    if run.network.backbone_name is not None:
        return "a population has new weights, and the backbone is a pretrained one: one at a time"
    if run.network.head == "own":
        return "networks that keep their task model's own head train one at a time"
    if run.network.freeze:
        return "some of their parameters are frozen: one at a time"
    if config.backbone in NEVER_RANDOM:
        return None
    members = [Member(seed, aux_weight=0.0, target_source="own") for seed in (1, 2)]
    population = SelfModelingPopulation(config, members)
    batch = data.train.take_members(torch.zeros(2, 2, dtype=torch.long))
    try:
        population(**batch)
    except InputError as error:
        if error.name != "backbone":
            raise
        if "random numbers" in error.problem:
            return "they draw random numbers while they train (dropout): one at a time"
        return "they decide by values of their inputs (attention looks for padding): one at a time"
    return None


def check_arm(network: Any, run: RunSettings) -> None:
    """Check the settings of an arm that would fail after others have been trained.

    Args:
        network: of the arm's shape.
        run: settings of the arm.

    Raises:
        ValueError: no possible network, a pattern of no parameter, or another network that cannot be loaded.
    """
    config = network.config
    content = config.to_dict()
    for name in OF_ARM:
        content[name] = getattr(run.network, name)
    own_config = type(config).from_dict(content)
    check_config(own_config)
    patterns = run.training.weight_decay_parameters
    if patterns is not None:
        decayed_names(network, patterns)
    source = run.network.target_source
    if source.startswith(NETWORK_SOURCE):
        OutsideTargets(network, [source])
