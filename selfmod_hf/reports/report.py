"""Report on a sweep: figures, tables as text, and all of it as one interactive page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError
from ..experiments.kept_tables import open_study
from ..extras import need
from ..files import files_of_user, write_file
from .export import export_tables
from .on_hub import pull_sweep
from .sweep_results import SweepResults, read_results
from .sweep_tables import sweep_tables
from .table import Table, as_text


@dataclass(frozen=True)
class Report:
    """Names the files, tables and statistics of a written report.

    Attributes:
        path: the folder of report.html, report.txt and the figures.
        results: rows and curves of the sweep, and their statistics.
        tables: by their names (`arms`, `arms_ok`, `measures`, `not_ok`, `at_chance`, `tests`, `every_rlct`,
            `equal_loss`, `trends`, `published`, `targets`).
        text: content of report.txt. It begins with the answer.
        figures: files of the figures.
    """

    path: Path
    results: SweepResults
    tables: dict[str, Table]
    text: str
    figures: list[Path]


def report(
    folder: str | Path,
    output_dir: str | Path | None = None,
    *,
    keep_chance: bool = False,
    tables_dir: str | Path | None = None,
) -> Report:
    """Report on a sweep: draw the figures, write the tables (report.txt) and the page (report.html).

    Args:
        folder: results folder of a sweep, or its tables alone (results.parquet, curves.parquet, run.json), or the
            repository (``user/name``) that it was pushed to. A repository's files are linked into
            ``runs/hub/<repository>``.
        output_dir: the folder for the files. Default: ``report`` in the results folder.
        keep_chance: whether networks at chance level, no better than guessing, count in means, tests and
            trends.
        tables_dir: the folder for the tables alone, without networks and without paths of this machine. Default: they
            are not written.

    Returns:
        The files, tables and statistics. Each statistic is a data frame.

    Raises:
        InputError: no such folder or repository, no finished network, or an unusable file.
        MissingExtraError: the extra `report` is not installed.

    Example:
        from selfmod_hf import report

        found = report("runs/figure2")
        print(found.results.arms.query("measure == 'rlct'"))
    """
    need("a report", "report")
    from .figures import draw_figures
    from .html_report import write_html_report

    if not str(folder):
        raise InputError("folder", folder, "name the results folder of a sweep")
    here = Path(folder)
    sweep = open_study(here) if here.is_dir() else pull_sweep(str(folder), Path("runs/hub") / here)
    sweep.keep_chance = keep_chance
    with files_of_user("folder", sweep.path):
        results = read_results(sweep)
    if tables_dir is not None:
        export_tables(sweep, Path(tables_dir))
    output = Path(output_dir or sweep.path / "report")
    tables = sweep_tables(results)
    text = f"{results.answer}\n\n{as_text(list(tables.values()))}\n\nHow it was run\n\n{results.setting}"
    figures = draw_figures(results, output)
    write_file(output / "report.txt", text + "\n")
    write_html_report(results, tables, output / "report.html")
    return Report(output, results, tables, text, figures)
