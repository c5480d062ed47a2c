"""A sweep that can begin: its input is checked and its data are loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..data import TaskData, TaskSpec
from ..errors import InputError
from ..models import SelfModelingConfig, check_config
from ..models.fields_self_modeling import NETWORK_SOURCE
from ..stacking import chunk_ranges
from ..trainer.member import Member
from ..trainer.member_optimizer import decayed_names
from ..trainer.outside_targets import OutsideTargets
from ..trainer.population import SelfModelingPopulation
from .arms import Arm, Cell, stop_arm
from .folder import SweepFolder
from .folder_names import check_output_dir, sweep_folder
from .footprint import MemoryPlan, free_memory, measure_footprint
from .network_settings import build_network
from .plan import Plan
from .processes_together import from_main, join_processes
from .run_settings import RunSettings
from .setting import Say
from .sweep_settings import SweepSettings

NEVER_RANDOM = ("mlp", "embedding_bag")  # backbones that draw no random numbers while they train


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
    """

    label: str
    run: RunSettings
    data: TaskData[Any]
    config: SelfModelingConfig
    memory: MemoryPlan
    alone: str | None

    @property
    def task(self) -> TaskSpec:
        """Return the task, with the splits and columns that were found in the data."""
        return self.data.task or self.run.task

    @property
    def members_at_once(self) -> int:
        """Return the number of networks in one training."""
        return self.memory.members_at_once() if self.alone is None else 1

    def explain(self) -> str | None:
        """Return why networks of this shape train one by one without the user's wish, or None."""
        reason = self.alone or self.memory.explain()
        if reason is None:
            return None
        return f"networks {self.label}: {reason}" if self.label else reason


@dataclass(frozen=True)
class PreparedSweep:
    """Hold the input of a sweep.

    Attributes:
        plan: arms, seeds and settings.
        folder: of the results.
        arms: by name, those of interrupted populations in the folder among them.
        shapes: by the key of `Plan.shape_of`.
        measures: names of the further measures.
        functions: measures of the user's own.
    """

    plan: Plan
    folder: SweepFolder
    arms: Mapping[str, Arm]
    shapes: Mapping[str, Shape]
    measures: tuple[str, ...] = ()
    functions: tuple[Callable[..., Any], ...] = ()

    @classmethod
    def make(cls, settings: SweepSettings, output_dir: str | Path | None = None) -> PreparedSweep:
        """Check the input and load the data. Nothing is written.

        Args:
            settings: of the sweep.
            output_dir: folder of the results. None: `runs/sweep-<recipe or data>`.

        Raises:
            ValueError: an unusable setting, or a folder of other settings.
        """
        plan = settings.plan()
        check_output_dir(output_dir)
        folder = SweepFolder(output_dir or sweep_folder(settings.chosen_recipe(), plan.base))
        folder.check_settings(plan.settings)
        arms = _all_arms(plan, folder)
        _check_different(plan)
        loaded: dict[str, TaskData[Any]] = {}
        shapes: dict[str, Shape] = {}
        networks: dict[str, Any] = {}
        for arm in arms.values():
            key = plan.shape_of(arm)
            if key not in shapes:
                run = plan.shape_run(arm, arms.values())
                data = _load_data(run, loaded)
                networks[key] = build_network(run.network, data)
                shapes[key] = _make_shape(settings, run, data, networks[key].config)
            _check_arm(networks[key], plan.run_of(arm))
        return cls(plan, folder, arms, shapes, tuple(settings.measures or ()), settings.functions)

    @property
    def data(self) -> TaskData[Any]:
        """Return the data of the first arm's networks."""
        return self.shape_of(self.plan.cells[0]).data

    def shape_of(self, cell: Cell) -> Shape:
        """Return the shape of a network."""
        return self.shapes[self.plan.shape_of(self.arms[cell.arm])]

    def reasons_for_singles(self) -> list[str]:
        """Return a line for each shape of networks that train one by one without the user's wish."""
        reasons = [shape.explain() for shape in self.shapes.values()]
        return [reason for reason in reasons if reason is not None]

    def training_losses(self, cells: Sequence[Cell]) -> dict[Cell, float]:
        """Return the training losses at which networks stop, if those are losses of another arm's networks.

        Args:
            cells: networks that can train, as `can_train` returns them.

        Raises:
            InputError: the other network diverged, so it has no loss.
        """
        found = {}
        for cell in cells:
            for other in self.waits_for([cell]):
                loss = self.folder.final_training_loss(other)
                if loss is None:
                    raise InputError("stop_at_train_loss", other.arm, _no_loss(other))
                found[cell] = loss
        return found

    def waits_for(self, cells: Sequence[Cell]) -> list[Cell]:
        """Return the networks that have to be finished before these, because these stop at their training losses."""
        others = []
        for cell in cells:
            arm = stop_arm(self.arms[cell.arm])
            if arm is not None:
                others.append(Cell(arm, cell.seed))
        return others

    def left_out(self, cells: Sequence[Cell]) -> dict[Cell, str]:
        """Return the networks that cannot train, each with a line that says why.

        Such a network stops at the training loss of a network that has diverged.
        """
        found = {}
        for cell in cells:
            for other in self.waits_for([cell]):
                if self.folder.is_finished(other) and self.folder.final_training_loss(other) is None:
                    found[cell] = f"{cell.name}: left out, because {_no_loss(other)}"
        return found

    def all_left_out(self) -> list[str]:
        """Return the lines of `left_out` for the unfinished networks of the plan."""
        unfinished = [cell for cell in self.plan.cells if not self.folder.is_finished(cell)]
        return list(self.left_out(unfinished).values())

    def can_train(self, cells: Sequence[Cell], say: Say) -> list[Cell]:
        """Return the networks that can train. The reason of each other one is a line of progress."""
        left_out = self.left_out(cells)
        for line in left_out.values():
            say(line)
        return [cell for cell in cells if cell not in left_out]

    def interrupted_populations(self) -> list[tuple[Path, list[Cell]]]:
        """Return the folder and the cells of each interrupted population with a planned cell.

        Networks that stop at the training loss of another arm come last. The populations of the networks that they
        wait for are among the others, planned or not.
        """
        populations = list(self.folder.unfinished_populations())
        wanted = set(self._wanted())
        found = [entry for entry in populations if wanted.intersection(entry[1])]
        return sorted(found, key=lambda entry: bool(self.waits_for(entry[1])))

    def _wanted(self) -> list[Cell]:
        """Return the planned cells, and those that an interrupted population with a planned cell waits for."""
        planned = set(self.plan.cells)
        wanted = dict.fromkeys(self.plan.cells)
        for _, cells in self.folder.unfinished_populations():
            if planned.intersection(cells):
                wanted |= dict.fromkeys(self.waits_for(cells))
        return list(wanted)

    def populations_to_open(self) -> list[list[Cell]]:
        """Return the unfinished cells outside of interrupted populations, in groups for one training each.

        Networks that stop at the training loss of another arm come last.
        """
        held: list[Cell] = []
        for _, cells in self.folder.unfinished_populations():
            held += cells
        by_shape: dict[tuple[str, str], list[Cell]] = {}
        for cell in self._wanted():
            if cell in held or self.folder.is_finished(cell):
                continue
            arm = self.arms[cell.arm]
            # arms that stop at losses of different arms may turn out to be equal, which a population does not allow
            waits_for = stop_arm(arm) or ""
            by_shape.setdefault((waits_for, self.plan.shape_of(arm)), []).append(cell)
        groups = []
        for (_, key), todo in sorted(by_shape.items(), key=lambda entry: bool(entry[0][0])):
            for chunk in chunk_ranges(len(todo), self.shapes[key].members_at_once):
                groups.append(todo[chunk.start : chunk.stop])
        return groups


def _no_loss(cell: Cell) -> str:
    return f"{cell.name} diverged and has no training loss"


def _all_arms(plan: Plan, folder: SweepFolder) -> dict[str, Arm]:
    """Return the planned arms, and those of the folder that have a network.

    In a panel of the plan, an arm of the folder alone is compared with the plan's baseline.

    Raises:
        InputError: the folder has an arm of the same name and of other changes, or the same arm by another name.
    """
    arms = {arm.name: arm for arm in plan.arms}
    baselines = {arm.panel: arm.baseline for arm in plan.arms}
    begun = folder.names_of_arms()
    for arm in folder.recorded_arms():
        if arm.name not in begun:
            continue
        planned = arms.get(arm.name)
        if planned is None:
            own = replace(arm, baseline=baselines.get(arm.panel, arm.baseline))
            arms[arm.name] = own
        elif dict(planned.changes) != dict(arm.changes):
            problem = f"was begun with arm {arm.name} = {dict(arm.changes)}, not {dict(planned.changes)}; name it anew"
            raise InputError("output_dir", str(folder.path), problem)
        for other in plan.arms:
            if other.name not in begun and dict(other.changes) == dict(arm.changes):
                problem = f"has the networks of arm {other.name} by the name {arm.name}; take another folder"
                raise InputError("output_dir", str(folder.path), problem)
    return arms


def _check_different(plan: Plan) -> None:
    """Raise an InputError if two arms have the same networks."""
    seen: dict[tuple[str, str | None, Member], str] = {}
    for arm in plan.arms:
        cell = Cell(arm.name, plan.seeds[0])
        (member,) = plan.members([cell], {arm.name: arm}, {}, every_field=True)
        member = _without_idle_values(member)
        key = (plan.shape_of(arm), stop_arm(arm), member)
        other = seen.setdefault(key, arm.name)
        if other != arm.name:
            raise InputError("arms", f"{other}, {arm.name}", "have the same settings; allowed are different arms")


def _without_idle_values(member: Member) -> Member:
    """Return a member without values that change nothing: of targets that nobody predicts, of no weight decay."""
    idle: dict[str, Any] = {}
    if member.aux_weight == 0:
        idle |= {"target_source": None, "target_normalization": None}
        if not member.activation_penalty:
            idle["detach_targets"] = True
    if member.weight_decay == 0:
        idle["weight_decay_parameters"] = None
    return replace(member, **idle)


def _load_data(run: RunSettings, loaded: dict[str, TaskData[Any]]) -> TaskData[Any]:
    """Return the data of a shape.

    Args:
        run: the common settings of its networks.
        loaded: data of other shapes. The shape's own are added.
    """
    key = repr((run.data, run.network.backbone_name, run.network.backbone_config))
    if key not in loaded:
        with join_processes().main_process_first():
            loaded[key] = run.load_data()
    return loaded[key]


def _make_shape(settings: SweepSettings, run: RunSettings, data: TaskData[Any], config: SelfModelingConfig) -> Shape:
    """Return the shape of networks with some common settings.

    Args:
        settings: of the sweep, for the user's limits.
        run: the common settings.
        data: of the task.
        config: of the network.
    """
    processes = join_processes().num_processes
    if settings.memory_gib is None:
        limit = from_main(lambda: free_memory(processes) // 2)
    else:
        limit = int(settings.memory_gib * 2**30)
    memory = MemoryPlan(
        measure_footprint(config, data.train),
        run.training.per_device_train_batch_size,
        limit,
        processes,
        settings.members_per_population,
    )
    return Shape(_label(config), run, data, config, memory, _reason_alone(run, config, data))


def _label(config: SelfModelingConfig) -> str:
    sizes = config.hidden_sizes
    if not sizes:
        return ""
    word = "width" if len(sizes) == 1 else "widths"
    return f"of {word} {'-'.join(map(str, sizes))}"


def _reason_alone(run: RunSettings, config: SelfModelingConfig, data: TaskData[Any]) -> str | None:
    """Return why networks cannot be stacked, or None."""
    if run.network.backbone_name is not None:
        return "a population has new weights, and the backbone is a pretrained one: one at a time"
    if config.backbone in NEVER_RANDOM:
        return None
    members = [Member(seed, aux_weight=0.0, target_source="own") for seed in (1, 2)]
    population = SelfModelingPopulation(config, members)
    try:
        population(**data.train.batch([0, 0]))
    except InputError as error:
        if error.name != "backbone":
            raise
        return "they draw random numbers while they train (dropout): one at a time"
    return None


def _check_arm(network: Any, run: RunSettings) -> None:
    """Check the settings of an arm that would fail after others have been trained.

    Args:
        network: of the arm's shape.
        run: settings of the arm.

    Raises:
        ValueError: no possible network, a pattern of no parameter, or another network that cannot be loaded.
    """
    config = network.config
    content = config.to_dict()
    for name in ("aux_weight", "target_source", "target_normalization", "activation_penalty", "classification_weight"):
        content[name] = getattr(run.network, name)
    check_config(type(config).from_dict(content))
    patterns = run.training.weight_decay_parameters
    if patterns is not None:
        decayed_names(network, patterns)
    if run.network.target_source.startswith(NETWORK_SOURCE):
        OutsideTargets(network, [run.network.target_source])
