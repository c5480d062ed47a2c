"""`selfmod report FOLDER_OR_HUB_ID`: figures and tables of a sweep, the paper's values beside them.

Writes figures as PNG and PDF, the tables as report.txt, and all of it as one interactive file, report.html.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .arguments import check_output_dir, make_parser, parse
from .data_flags import flag
from .errors import one_line

if TYPE_CHECKING:
    from ..experiments.folder import SweepFolder


@dataclass
class ReportArguments:
    """What to report on, and where to write it."""

    folder: str | None = flag(
        "Results folder of `selfmod sweep`, or the repository it was pushed to; may be given without the flag's name."
    )
    keep_chance: bool = flag(
        "Count networks at chance level (no more accurate than guessing) in means, tests and trends, too.",
        default=False,
    )
    output_dir: str | None = flag("Where it all goes; default: FOLDER/report, or runs/hub/<repository>/report.")


def flag_classes() -> tuple[type, ...]:
    """Return the dataclasses of this command's flags."""
    return (ReportArguments,)


def run(argv: Sequence[str]) -> None:
    """Draw the figures, write the tables and the page, print the tables.

    Raises:
        UsageError: no folder, or one that holds no finished network.
    """
    (args,) = parse(make_parser("report", *flag_classes()), argv, positional="folder")
    with one_line(hub=f"--folder {args.folder}"):
        from ..errors import InputError
        from ..experiments.folder import SweepFolder
        from ..experiments.on_hub import pull_sweep

        if args.folder is None:
            raise InputError("folder", None, "name the results folder of a sweep")
        check_output_dir(args.output_dir)
        here = Path(args.folder)
        folder = SweepFolder(here) if here.is_dir() else pull_sweep(args.folder, Path("runs/hub") / here)
        folder.keep_chance = args.keep_chance
    output = Path(args.output_dir or folder.path / "report")
    text, files = write_report(folder, output)
    print(text)
    print(f"\n{output}: report.html, report.txt, {', '.join(file.name for file in files)}")


def write_report(folder: SweepFolder, output: Path) -> tuple[str, list[Path]]:
    """Draw the figures, write the tables and the page; returns the tables and the figures' files.

    Raises:
        InputError: no network is finished.
    """
    from ..experiments import report
    from ..experiments.figures import draw_figures
    from ..experiments.html_report import write_html_report
    from ..experiments.plan import describe_setting
    from ..files import write_file

    rows = folder.rows()
    tables = {
        "Each arm: mean over seeds": report.results_table(rows),
        "Against the baseline": report.tests_table(rows),
        "Trend over the self-model's weight (Spearman)": report.trends_table(rows),
        "Beside the published values": report.published_table(rows),
    }
    if (comparison := report.targets_table(rows)) is not None:
        tables["Targets attached against detached, over the seeds that have both"] = comparison
    tables["How it was run"] = describe_setting(folder.read_run()["settings"], folder.finished_cells())
    text = "\n\n".join(f"{title}\n\n{table}" for title, table in tables.items())
    files = draw_figures(folder, output)
    write_file(output / "report.txt", text + "\n")
    write_html_report(folder, output / "report.html")
    return text, files
