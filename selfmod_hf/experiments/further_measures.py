"""The further measures of a sweep's networks: a column of the results each.

They are computed after all networks are finished, from the saved networks. So a second call with more `measures` adds
columns to a finished folder, and trains nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from glob import escape
from typing import Any

from ..files import plain
from ..json_records import NetworkRow
from ..measures import FROM_OTHER, measure_networks
from ..models import SelfModelingPreTrainedModel, load_model
from ..stacking import chunk_ranges
from .arms import Cell
from .plan import axis_columns
from .prepared_sweep import PreparedSweep
from .processes_together import join_processes
from .setting import Say

PARTNER = f"{FROM_OTHER}_seed"  # the seed of the other network


def measure_missing(
    sweep: PreparedSweep,
    names: Sequence[str],
    functions: Sequence[Callable[..., Any]],
    say: Say,
) -> list[str]:
    """Compute the missing measures of the planned networks, and write them into their rows.

    The main process computes. All processes return the names.

    Args:
        sweep: its finished networks.
        names: of measures.
        functions: the user's own measures, called with a network and its data. A network is measured if its row
            misses one of the names that the first network has. Rows with all names keep their numbers.
        say: called with each line of progress.

    Returns:
        The names of all columns.
    """
    if not join_processes().is_main_process:
        return list(names)
    own = _names_of(sweep, functions)
    for cells in _groups(sweep):
        todo: dict[tuple[Any, ...], list[Cell]] = {}  # networks by their missing measures
        for cell in cells:
            row = _row(sweep, cell).to_dict()
            missing: list[Any] = [name for name in names if name not in row]
            has_old_partner = FROM_OTHER in names and row.get(PARTNER) != _partner(sweep, cell)
            if has_old_partner and FROM_OTHER not in missing:
                missing.append(FROM_OTHER)
            if not row.keys() >= set(own):
                missing += functions
            if missing:
                key = tuple(missing)
                todo.setdefault(key, []).append(cell)
        for measures, group in todo.items():
            text = group[0].name
            if len(group) > 1:
                text += f" and {len(group) - 1} more"
            say(f"  measuring {text}")
            _measure(sweep, group, measures, own)
    return [*names, *own]


def _names_of(sweep: PreparedSweep, functions: Sequence[Callable[..., Any]]) -> list[str]:
    """Return the names of the functions' columns, from the first network that has not diverged."""
    if not functions:
        return []
    taken = _taken(sweep)
    for cell in _finished(sweep):
        model = _load(sweep, cell)
        data = sweep.shape_of(cell).data
        (found,) = measure_networks([model], data, functions, columns=taken)
        if found:
            return list(found)
    return []


def _load(sweep: PreparedSweep, cell: Cell) -> SelfModelingPreTrainedModel:
    """Return a saved network. It may have diverged."""
    path = sweep.folder.cells / cell.name
    return load_model(path, finite=False)


def _finished(sweep: PreparedSweep) -> Iterator[Cell]:
    """Yield the planned networks that are finished. Others were left out."""
    for cell in sweep.plan.cells:
        if sweep.folder.is_finished(cell):
            yield cell


def _taken(sweep: PreparedSweep) -> list[str]:
    """Return names of columns that the functions may not use."""
    columns = axis_columns(sweep.arms.values())
    return [*columns.values(), PARTNER]


def _row(sweep: PreparedSweep, cell: Cell) -> NetworkRow:
    path = sweep.folder.cells / cell.name / "row.json"
    return NetworkRow.read(path)


def _groups(sweep: PreparedSweep) -> Iterator[list[Cell]]:
    """Yield the networks that are measured at once: those of equal shape that fit into the memory."""
    by_shape: dict[int, list[Cell]] = {}
    for cell in _finished(sweep):
        shape = sweep.shape_of(cell)
        own = by_shape.setdefault(id(shape), [])
        own.append(cell)
    for cells in by_shape.values():
        memory = sweep.shape_of(cells[0]).memory
        at_once = memory.sampled_at_once()
        for chunk in chunk_ranges(len(cells), at_once):
            yield cells[chunk.start : chunk.stop]


def _measure(sweep: PreparedSweep, cells: Sequence[Cell], measures: Sequence[Any], own: list[str]) -> None:
    """Write measures of saved networks of equal shape into their rows.

    Args:
        sweep: its finished networks.
        cells: the networks.
        measures: names and functions.
        own: columns of the functions. New ones are added.
    """
    partners: list[int | None] = [None] * len(cells)
    if FROM_OTHER in measures:
        partners = [_partner(sweep, cell) for cell in cells]
    models = []
    others = []
    for cell, partner in zip(cells, partners, strict=True):
        model = _load(sweep, cell)
        models.append(model)
        other = None
        if partner is not None:
            other_cell = Cell(cell.arm, partner)
            other = _load(sweep, other_cell)
        others.append(other)
    data = sweep.shape_of(cells[0]).data
    taken = _taken(sweep)
    results = measure_networks(models, data, measures, others=others, columns=taken)
    has_functions = any(map(callable, measures))
    for found in results:
        for name in found:
            if name not in measures and name not in own:
                own.append(name)
    for cell, partner, found in zip(cells, partners, results, strict=True):
        values: dict[str, Any] = {}
        if has_functions:
            values = dict.fromkeys(own)  # functions are not called with a network that has diverged
        values.update(found)
        if FROM_OTHER in measures:
            values[PARTNER] = partner
        row = _row(sweep, cell)
        row = row.with_fields(**plain(values))
        sweep.folder.write_row(cell, row)


def _partner(sweep: PreparedSweep, cell: Cell) -> int | None:
    """Return the next seed of the same arm, after the last one the first. None: there is no other one.

    All finished networks of the folder count, so that the order in which seeds were added does not matter.
    """
    seeds = {cell.seed}
    start = cell.name.removesuffix(str(cell.seed))
    pattern = f"{escape(start)}*/row.json"
    for path in sweep.folder.cells.glob(pattern):
        seed = path.parent.name.removeprefix(start)
        if seed.isdecimal():
            seeds.add(int(seed))
    if len(seeds) == 1:
        return None
    later = [seed for seed in seeds if seed > cell.seed]
    return min(later or seeds)
