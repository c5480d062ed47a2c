"""The further measures of a sweep's networks: a column of the results each.

They are computed after all networks are finished, from the saved networks. So a second call with more `measures` adds
columns to a finished folder, and trains nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from ..files import plain
from ..json_records import NetworkRow
from ..measures import FROM_OTHER, measure_networks
from ..models import load_model
from ..stacking import chunk_ranges
from .arms import Cell
from .plan import axis_columns
from .prepared_sweep import PreparedSweep
from .processes_together import join_processes
from .setting import Say


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
    if not join_processes().is_main_process:
        return list(names)
    own: list[str] = []  # columns of the functions, known from the first networks
    for cells in _groups(sweep):
        rows = {cell: NetworkRow.read(sweep.folder.cells / cell.name / "row.json") for cell in cells}
        todo: dict[tuple[Any, ...], list[Cell]] = {}  # networks by their missing measures
        for cell, row in rows.items():
            missing = _missing(row.to_dict(), names, functions, own)
            if missing:
                todo.setdefault(missing, []).append(cell)
        for missing, group in todo.items():
            more = f" and {len(group) - 1} more" if len(group) > 1 else ""
            say(f"  measuring {group[0].name}{more}")
            results = _measure(sweep, group, missing)
            for found in results:
                own += [name for name in found if name not in (*names, *own)]
            for cell, found in zip(group, results, strict=True):
                if any(map(callable, missing)):
                    found = {**dict.fromkeys(own), **found}  # they are not called with a network that has diverged
                sweep.folder.write_row(cell, rows[cell].with_fields(**plain(found)))
    return [*names, *own]


def _groups(sweep: PreparedSweep) -> Iterator[list[Cell]]:
    """Yield the networks that are measured at once: neighbours of equal shape that fit into the memory."""
    for _, neighbours in groupby(sweep.plan.cells, key=lambda cell: id(sweep.shape_of(cell))):
        cells = list(neighbours)
        at_once = sweep.shape_of(cells[0]).memory.sampled_at_once()
        for chunk in chunk_ranges(len(cells), at_once):
            yield [cells[k] for k in chunk]


def _missing(
    row: Mapping[str, Any], names: Sequence[str], functions: Sequence[Callable[..., Any]], own: Sequence[str]
) -> tuple[Any, ...]:
    """Return the measures that a row has not: names, and all functions if it misses one of their columns."""
    missing: list[Any] = [name for name in names if name not in row]
    if not own or any(name not in row for name in own):
        missing += functions
    return tuple(missing)


def _measure(sweep: PreparedSweep, cells: Sequence[Cell], measures: Sequence[Any]) -> list[dict[str, float | None]]:
    """Return measures of saved networks of equal shape."""
    models = [_load(sweep, cell) for cell in cells]
    others: list[Any] = [None] * len(cells)
    if FROM_OTHER in measures:
        seeds = sweep.plan.seeds
        for k, cell in enumerate(cells):
            next_seed = seeds[(seeds.index(cell.seed) + 1) % len(seeds)]
            if next_seed != cell.seed:
                others[k] = _load(sweep, Cell(cell.arm, next_seed))
    columns = axis_columns(sweep.arms.values()).values()
    return measure_networks(models, sweep.shape_of(cells[0]).data, measures, others=others, columns=columns)


def _load(sweep: PreparedSweep, cell: Cell) -> Any:
    return load_model(sweep.folder.cells / cell.name, finite=False)
