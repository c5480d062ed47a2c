"""A sweep that can begin: its input is checked and its data are loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..data import TaskData
from ..errors import InputError
from ..stacking import chunk_ranges
from ..trainer.member import Member
from .arms import Arm, Cell, stop_arm
from .folder import SweepFolder
from .folder_names import check_output_dir, sweep_folder
from .plan import Plan
from .setting import Say
from .shape import Shape, ShapeMaker, check_arm
from .sweep_settings import SweepSettings


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
        if not output_dir:
            output_dir = sweep_folder(settings.chosen_recipe(), plan.base)
        folder = SweepFolder(output_dir)
        folder.check_settings(plan.settings)
        arms = _all_arms(plan, folder)
        _check_different(plan)
        maker = ShapeMaker(settings)
        shapes: dict[str, Shape] = {}
        networks: dict[str, Any] = {}
        for arm in arms.values():
            key = plan.shape_of(arm)
            if key not in shapes:
                run = plan.shape_run(arm, arms.values())
                shapes[key], networks[key] = maker.make(run)
            check_arm(networks[key], plan.run_of(arm))
        _check_one_metric(plan, arms, shapes)
        return cls(
            plan,
            folder,
            arms,
            shapes,
            measures=tuple(settings.measures or ()),
            functions=settings.functions,
        )

    @property
    def data(self) -> TaskData[Any]:
        """Return the data of the first arm's networks."""
        first = self.plan.cells[0]
        return self.shape_of(first).data

    @property
    def metrics(self) -> tuple[str, ...]:
        """Return the names of the metrics of the first arm's networks. The first one is compared."""
        return self.shape_of(self.plan.cells[0]).metrics

    def shape_of(self, cell: Cell) -> Shape:
        """Return the shape of a network."""
        arm = self.arms[cell.arm]
        key = self.plan.shape_of(arm)
        return self.shapes[key]

    def reasons_for_singles(self) -> list[str]:
        """Return a line for each shape of networks that train one by one without the user's wish."""
        reasons = []
        for shape in self.shapes.values():
            reason = shape.explain()
            if reason is not None:
                reasons.append(reason)
        return reasons

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
                if not self.folder.is_finished(other):
                    continue
                loss = self.folder.final_training_loss(other)
                if loss is None:
                    found[cell] = f"{cell.name}: left out, because {_no_loss(other)}"
        return found

    def all_left_out(self) -> list[str]:
        """Return the lines of `left_out` for the unfinished networks of the plan."""
        unfinished = []
        for cell in self.plan.cells:
            if not self.folder.is_finished(cell):
                unfinished.append(cell)
        lines = self.left_out(unfinished)
        return list(lines.values())

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
        wanted = set(self._wanted())
        first: list[tuple[Path, list[Cell]]] = []
        last: list[tuple[Path, list[Cell]]] = []
        for path, cells in self.folder.unfinished_populations():
            if wanted.isdisjoint(cells):
                continue
            if self.waits_for(cells):
                last.append((path, cells))
            else:
                first.append((path, cells))
        return first + last

    def _wanted(self) -> list[Cell]:
        """Return the planned cells, and those that an interrupted population with a planned cell waits for."""
        planned = set(self.plan.cells)
        wanted = list(self.plan.cells)
        for _, cells in self.folder.unfinished_populations():
            if not planned.isdisjoint(cells):
                wanted += self.waits_for(cells)
        distinct = dict.fromkeys(wanted)
        return list(distinct)

    def populations_to_open(self) -> list[list[Cell]]:
        """Return the unfinished cells outside of interrupted populations, in groups for one training each.

        Networks that stop at the training loss of another arm come last.
        """
        held: set[Cell] = set()
        for _, cells in self.folder.unfinished_populations():
            held.update(cells)
        todo = []
        for cell in self._wanted():
            if cell not in held and not self.folder.is_finished(cell):
                todo.append(cell)
        first: list[list[Cell]] = []
        last: list[list[Cell]] = []
        for alike in self._alike(todo):
            at_once = self.shape_of(alike[0]).members_at_once
            groups = last if self.waits_for(alike) else first
            for chunk in chunk_ranges(len(alike), at_once):
                group = alike[chunk.start : chunk.stop]
                groups.append(group)
        return first + last

    def _alike(self, cells: Sequence[Cell]) -> list[list[Cell]]:
        """Return networks of one shape together, if they stop at losses of the same arm or of none.

        Arms that stop at losses of different arms may turn out to be equal. A population does not allow that.
        """
        found: dict[tuple[str, str | None], list[Cell]] = {}
        for cell in cells:
            arm = self.arms[cell.arm]
            key = (self.plan.shape_of(arm), stop_arm(arm))
            found.setdefault(key, []).append(cell)
        return list(found.values())


def _check_one_metric(plan: Plan, arms: Mapping[str, Arm], shapes: Mapping[str, Shape]) -> None:
    """Raise an InputError if networks of two arms are judged by different metrics."""
    found: dict[str, str] = {}
    for name, arm in arms.items():
        metric = shapes[plan.shape_of(arm)].metrics[0]
        found.setdefault(metric, name)
    if len(found) > 1:
        texts = [f"{name} by its {metric}" for metric, name in found.items()]
        raise InputError("arms", " and ".join(texts), "are judged by different metrics; allowed are arms of one task")


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
    new = [arm for arm in plan.arms if arm.name not in begun]
    for arm in folder.recorded_arms():
        name = arm.name
        if name not in begun:
            continue
        changes = dict(arm.changes)
        if name not in arms:
            baseline = baselines.get(arm.panel, arm.baseline)
            arms[name] = replace(arm, baseline=baseline)
        planned = dict(arms[name].changes)
        if planned != changes:
            problem = f"was begun with arm {name} = {changes}, not {planned}; name it anew"
            raise InputError("output_dir", str(folder.path), problem)
        for other in new:
            if dict(other.changes) == changes:
                problem = f"has the networks of arm {other.name} by the name {name}; take another folder"
                raise InputError("output_dir", str(folder.path), problem)
    return arms


def _check_different(plan: Plan) -> None:
    """Raise an InputError if two arms have the same networks."""
    arms = {arm.name: arm for arm in plan.arms}
    cells = [Cell(name, plan.seeds[0]) for name in arms]
    members = plan.members(cells, arms, stops={}, every_field=True)
    seen: dict[tuple[str, str | None, Member], str] = {}
    for (name, arm), member in zip(arms.items(), members, strict=True):
        needed = _without_idle_values(member)
        key = (plan.shape_of(arm), stop_arm(arm), needed)
        other = seen.setdefault(key, name)
        if other != name:
            raise InputError("arms", f"{other}, {name}", "have the same settings; allowed are different arms")


def _without_idle_values(member: Member) -> Member:
    """Return a member without values that change nothing: of targets that nobody predicts, of no weight decay."""
    idle: dict[str, Any] = {}
    if member.aux_weight == 0:
        idle["target_source"] = None
        idle["target_normalization"] = None
        if not member.activation_penalty:
            idle["detach_targets"] = True
    if member.weight_decay == 0:
        idle["weight_decay_parameters"] = None
    return replace(member, **idle)
