"""Running a sweep: cells of one shape train as populations, then their RLCTs are sampled together.

The cells of a population are fixed when it is opened, and kept in its members.json. A resumed sweep continues the same
populations and gives the same numbers, to the bit on the same machine.

Under a launcher of several processes all of them run this code together. Members, and then chains, are split over them
(`PopulationTrainer`, `estimate_llc`). A population of one network is that network, trained with data parallelism. The
main process alone decides the next step, and alone writes.
"""

from __future__ import annotations

import glob
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from ..data.tasks import WORDS
from ..files import plain, to_json, write_file
from ..json_records import ArmRecord, NetworkRow, PopulationSeconds, RecordedSettings, Session, SweepRun
from ..tokens import without_tokens
from .arms import Cell
from .chance import chance_of
from .folder import SweepFolder
from .further_measures import measure_missing
from .plan import axis_columns, own_columns
from .prepared_sweep import PreparedSweep
from .processes_together import from_main, join_processes
from .ray_engine import check_engine, run_on_ray
from .setting import Say
from .surroundings import surroundings
from .sweep_population import measure_population, train_population
from .sweep_settings import SweepSettings

# runs populations, and yields the folder of each with its seconds
Engine: TypeAlias = Callable[
    [PreparedSweep, Iterator[tuple[Path, list[Cell]]], Say], Iterator[tuple[Path, PopulationSeconds]]
]


def run_sweep(
    recipe: str | SweepSettings | None = None,
    *,
    output_dir: str | Path | None = None,
    say: Say | None = None,
    on: str | None = None,
    **settings: Any,
) -> SweepFolder:
    """Train the networks of a study, and measure the metrics of its task, weight width and RLCT of each.

    A second call with the same arguments continues an interrupted first one. Other arms and seeds are added to the
    folder.

    Args:
        recipe: name of a recipe, or settings in one object. None: networks of a `task` or a `dataset_name` of the
            settings, or else the recipe digits.
        output_dir: folder of the results. Default: `runs/sweep-<recipe or data>`.
        say: called with each line of progress.
        on: `ray` or `ray:ADDRESS`, to train each population as a task of a Ray cluster. None: in this process.
        settings: fields as for `SweepSettings.make`, such as `seeds`, `arms` and `num_train_epochs`. They replace those
            of the object.

    Returns:
        The folder. `rows()` has one row for each network, `curves()` one for each network and epoch.

    Raises:
        ValueError: an unusable setting, or a folder of other settings.

    Example:
        from selfmod_hf import report, run_sweep

        arms = {"baseline": {"aux_weight": 0}, "decay": {"weight_decay": 1e-3}, "own": {"aux_weight": 10}}
        folder = run_sweep("digits", hidden_sizes=[16], arms=arms, seeds=2, output_dir="runs/controls")
        print(folder.rows()[["arm", "accuracy", "weight_width", "rlct"]])
        report(folder.path)
    """
    check_engine(on)
    before = recipe if isinstance(recipe, SweepSettings) else SweepSettings.make(recipe)
    sweep = PreparedSweep.make(before.replace(**settings), output_dir)
    engine = run_here if on is None else partial(run_on_ray, on=on)
    run_prepared_sweep(sweep, engine, say)
    if say is not None and join_processes().is_main_process:
        for line in sweep.all_left_out():
            say(line)
    return sweep.folder


def run_prepared_sweep(
    sweep: PreparedSweep, engine: Engine, say: Say | None = None, command: Sequence[str] = ()
) -> None:
    """Train and measure the unfinished cells. The tables are written after each population.

    Args:
        sweep: its input and its folder. The folder is locked meanwhile.
        engine: `run_here`, or `run_on_ray` with its address.
        say: called with each line of progress, in the main process.
        command: arguments of the command line for the record. Empty: the call is one from Python.

    Raises:
        InputError: the folder is in use, or was begun with other settings.
    """
    folder = sweep.folder
    is_main = join_processes().is_main_process
    if say is None or not is_main:
        say = _ignore
    for reason in sweep.reasons_for_singles():
        say(reason)
    with ExitStack() as stack:
        from_main(lambda: stack.enter_context(folder.locked()))
        from_main(lambda: folder.check_settings(sweep.plan.settings))
        record = _record(sweep, command)
        if is_main:
            folder.write_run(record)
        for path, spent in engine(sweep, _populations(sweep, say), say):
            from_main(partial(folder.close_population, path))
            record.sessions[-1].seconds[path.name] = spent
            if is_main:
                folder.write_tables()
                folder.write_run(record)
        if is_main:
            _complete_rows(sweep)
        columns = measure_missing(sweep, sweep.measures, sweep.functions, say)
        if is_main:
            known = dict.fromkeys([*record.measures, *columns])
            folder.write_run(record.with_fields(measures=list(known)))
            folder.write_tables()  # because a killed session may have finished its last network without them


def run_here(
    sweep: PreparedSweep, populations: Iterator[tuple[Path, list[Cell]]], say: Say
) -> Iterator[tuple[Path, PopulationSeconds]]:
    """Run populations one after another, and yield each when its networks are in the folder of results.

    Args:
        sweep: its input and its folder, which is locked.
        populations: the folder and the cells of each.
        say: called with each line of progress.
    """
    while (population := from_main(lambda: next(populations, None))) is not None:
        path, cells = population
        start = time.perf_counter()
        trainer = train_population(sweep, path, cells, say)
        trained = time.perf_counter()
        measure_population(sweep, trainer, cells, say)
        measured = time.perf_counter()
        yield path, PopulationSeconds(networks=len(cells), training=trained - start, rlct=measured - trained)


def _ignore(line: str) -> None:
    pass


def _complete_rows(sweep: PreparedSweep) -> None:
    """Add the columns of new axes to the rows of networks that an earlier session finished."""
    columns = axis_columns(sweep.arms.values())
    for arm in sweep.arms.values():
        own = own_columns(sweep.plan.run_of(arm), arm, columns)
        for path in sorted(sweep.folder.cells.glob(f"{glob.escape(arm.name)}-seed*/row.json")):
            row = NetworkRow.read(path)
            missing = {name: value for name, value in own.items() if name not in row.to_dict()}
            if row.arm == arm.name and missing:
                write_file(path, to_json(row.with_fields(**plain(missing)).to_dict()))


def _record(sweep: PreparedSweep, command: Sequence[str]) -> SweepRun:
    """Return the content of run.json with a new session."""
    name = sweep.plan.base.task.dataset_name
    test = sweep.data.test
    metric = sweep.metrics[0]
    classes = len(sweep.data.label_names)
    columns = axis_columns(sweep.arms.values())
    before = sweep.folder.read_run()
    started = datetime.now(timezone.utc).isoformat(timespec="seconds")
    session = Session(started=started, command=without_tokens(command), seconds={})
    return SweepRun(
        settings=RecordedSettings.model_validate(sweep.plan.settings),
        local_data=bool(name) and Path(str(name)).exists(),  # the folder may be deleted later
        train_samples=len(sweep.data.train),
        test_samples=len(test),
        test_labels=int(test.labels.sum()) if test.kind == WORDS else None,
        metrics=list(sweep.metrics),
        chance=chance_of(metric, test, classes),
        **surroundings(),
        arms=[ArmRecord.model_validate(vars(arm)) for arm in sweep.arms.values()],
        axes=list(columns.values()),
        measures=[] if before is None else before.measures,
        sessions=[session] if before is None else [*before.sessions, session],
    )


def _populations(sweep: PreparedSweep, say: Say) -> Iterator[tuple[Path, list[Cell]]]:
    """Yield interrupted populations first, then new ones of the other cells.

    Networks that stop at the training loss of another arm come after all others. Those that cannot train are left out.
    """
    for waiting in (False, True):
        interrupted = sweep.interrupted_populations()
        to_open = sweep.populations_to_open()
        for path, cells in interrupted:
            if bool(sweep.waits_for(cells)) != waiting:
                continue
            possible = sweep.can_train(cells, say)
            if possible:
                yield path, possible
            else:
                sweep.folder.close_population(path)
        for cells in to_open:
            if bool(sweep.waits_for(cells)) != waiting:
                continue
            possible = sweep.can_train(cells, say)
            if possible:
                yield sweep.folder.open_population(possible), possible
