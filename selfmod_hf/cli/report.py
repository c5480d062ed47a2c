"""`selfmod report FOLDER_OR_HUB_ID`: figures and tables of a sweep, the paper's values beside them.

Writes figures as PNG and PDF, the tables as report.txt, and all of it as one interactive file, report.html.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..experiments.folder_names import check_output_dir
from ..experiments.setting import setting
from .arguments import make_parser, parse
from .usage_errors import UsageError, hub_in_one_line


@dataclass
class ReportArguments:
    """Flags of the command."""

    folder: str | None = setting(
        "Results folder of `selfmod sweep`, its tables alone (see `tables_dir`), or the repository it was pushed to; "
        "may be given without the flag's name."
    )
    keep_chance: bool = setting(
        "Count networks at chance level (no better than guessing) in means, tests and trends, too.",
        default=False,
    )
    output_dir: str | None = setting("Folder of the report; default: FOLDER/report, or runs/hub/<repository>/report.")
    tables_dir: str | None = setting(
        "Also write the tables alone to this folder: results.parquet, curves.parquet, run.json, without networks and "
        "local paths. `selfmod report` reads such a folder; default: not written."
    )


def flag_classes() -> tuple[type, ...]:
    """Return the dataclasses of this command's flags."""
    return (ReportArguments,)


def run(argv: Sequence[str]) -> None:
    """Write the report, and print its tables.

    Raises:
        UsageError: no folder, or a folder without a finished network.
    """
    (args,) = parse(make_parser("report", *flag_classes()), argv, positional="folder")
    if args.folder is None:
        raise UsageError("folder=None: name the results folder of a sweep")
    check_output_dir(args.output_dir)
    check_output_dir(args.tables_dir, "tables_dir")
    from ..reports.export import KEPT
    from ..reports.report import report

    with hub_in_one_line(f"--folder {args.folder}"):
        found = report(args.folder, args.output_dir, keep_chance=args.keep_chance, tables_dir=args.tables_dir)
    print(found.text)
    print(f"\n{found.path}: report.html, report.txt, {', '.join(file.name for file in found.figures)}")
    if args.tables_dir is not None:
        print(f"{args.tables_dir}: {', '.join(KEPT)}")
