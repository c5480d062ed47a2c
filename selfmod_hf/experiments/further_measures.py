"""The further measures of a sweep's networks: a column of the results each.

They are computed after all networks are finished, from the saved networks. So a second call with more `measures` adds
columns to a finished folder, and trains nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..files import plain
from ..json_records import NetworkRow
from ..measures import measure_network
from ..models import load_model
from .arms import Cell
from .prepared_sweep import PreparedSweep
from .processes_together import join_processes
from .setting import Say
from .sweep_settings import FROM_OTHER


def measure_missing(
    sweep: PreparedSweep, names: Sequence[str], functions: Sequence[Callable[..., Any]], say: Say
) -> list[str]:
    """Compute the missing measures of the planned networks, and write them into their rows.

    The main process computes. All processes return the names.

    Args:
        sweep: its finished networks.
        names: of measures.
        functions: the user's own measures, called with a network and its data. A network is measured again if its row
            misses one of the names that the first network has.
        say: called with each line of progress.

    Returns:
        The names of all columns.
    """
    columns = list(names)
    if not join_processes().is_main_process:
        return columns
    of_functions: list[str] | None = None if functions else []
    for cell in sweep.plan.cells:
        path = sweep.folder.cells / cell.name / "row.json"
        row = NetworkRow.read(path)
        missing: list[Any] = [name for name in columns if name not in row.to_dict()]
        if of_functions is None or any(name not in row.to_dict() for name in of_functions):
            missing += functions
        if not missing:
            continue
        say(f"  measuring {cell.name}")
        found = _measure(sweep, cell, missing)
        if of_functions is None:
            of_functions = [name for name in found if name not in columns]
        sweep.folder.write_row(cell, row.with_fields(**plain(found)))
    return columns + (of_functions or [])


def _measure(sweep: PreparedSweep, cell: Cell, measures: Sequence[Any]) -> dict[str, float | None]:
    """Return measures of a saved network."""
    folder = sweep.folder.cells
    model = load_model(folder / cell.name, finite=False)
    data = sweep.shape_of(cell).data
    other = None
    given = [measure for measure in measures if measure != FROM_OTHER]
    found: dict[str, float | None] = {}
    if FROM_OTHER in measures:
        found[FROM_OTHER] = None
        seeds = sweep.plan.seeds
        next_seed = seeds[(seeds.index(cell.seed) + 1) % len(seeds)]
        if next_seed != cell.seed:
            other = load_model(folder / Cell(cell.arm, next_seed).name, finite=False)
    return {**found, **measure_network(model, data, given, other=other)}
