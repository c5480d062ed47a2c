"""A sweep that can begin: its input is checked and its data are loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data import TaskData, TaskSpec
from ..stacking import chunk_ranges
from ..trainer.recipe_network import recipe_config
from .data_settings import DataSettings, load_data
from .folder import SweepFolder
from .folder_names import check_output_dir
from .footprint import MemoryPlan, free_memory, measure_footprint
from .plan import Cell, Plan
from .processes_together import from_main, join_processes
from .sweep_settings import SweepSettings


@dataclass(frozen=True)
class PreparedSweep:
    """Hold the input of a sweep.

    Attributes:
        plan: cells and settings.
        task: the data set and its recipe.
        data: the task's.
        folder: of the results.
        memory: how many networks train at once.
    """

    plan: Plan
    task: TaskSpec
    data: TaskData[Any]
    folder: SweepFolder
    memory: MemoryPlan

    @classmethod
    def make(cls, settings: SweepSettings, output_dir: str | Path | None = None) -> PreparedSweep:
        """Check the input and load the data. Nothing is written.

        Args:
            settings: of the sweep.
            output_dir: folder of the results. None: `runs/sweep-<recipe>`.

        Raises:
            ValueError: an unusable setting, or a folder of other settings.
        """
        plan = settings.plan()
        task = settings.task_spec()
        check_output_dir(output_dir)
        folder = SweepFolder(output_dir or f"runs/sweep-{settings.recipe}")
        folder.check_settings(plan.settings)
        limits = DataSettings(
            augment=plan.data.get("augment", False),
            max_train_samples=settings.max_train_samples,
            max_test_samples=settings.max_test_samples,
        )
        with join_processes().main_process_first():
            data = load_data(task, limits)
        return cls(plan, task, data, folder, _memory_plan(settings, plan, task, data))

    def reasons_for_singles(self) -> list[str]:
        """Return a line for each width of networks that train one by one without the user's wish."""
        reasons = map(self.memory.explain, self.plan.hidden_sizes)
        return [reason for reason in reasons if reason is not None]

    def interrupted_populations(self) -> list[tuple[Path, list[Cell]]]:
        """Return the folder and the cells of each interrupted population with a planned cell."""
        found = []
        for path, cells in self.folder.unfinished_populations():
            if set(self.plan.cells).intersection(cells):
                found.append((path, cells))
        return found

    def populations_to_open(self) -> list[list[Cell]]:
        """Return the unfinished cells outside of interrupted populations, in groups for one training each."""
        held: list[Cell] = []
        for _, cells in self.folder.unfinished_populations():
            held += cells
        groups = []
        for hidden_size in self.plan.hidden_sizes:
            todo = []
            for cell in self.plan.cells:
                is_taken = cell in held or self.folder.is_finished(cell)
                if cell.hidden_size == hidden_size and not is_taken:
                    todo.append(cell)
            for chunk in chunk_ranges(len(todo), self.memory.members_at_once(hidden_size)):
                groups.append(todo[chunk.start : chunk.stop])
        return groups


def _memory_plan(settings: SweepSettings, plan: Plan, task: TaskSpec, data: TaskData[Any]) -> MemoryPlan:
    """Return how many networks of each width train at once."""
    footprints = {}
    for size in plan.hidden_sizes:
        config = recipe_config(task, data, hidden_sizes=[size])
        footprints[size] = measure_footprint(config, data.train)
    processes = join_processes().num_processes
    if settings.memory_gib is None:
        limit = from_main(lambda: free_memory(processes) // 2)
    else:
        limit = int(settings.memory_gib * 2**30)
    batch_size = plan.training["per_device_train_batch_size"]
    return MemoryPlan(footprints, batch_size, limit, processes, settings.members_per_population)
