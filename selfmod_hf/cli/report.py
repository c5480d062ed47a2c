"""`selfmod report FOLDER_OR_HUB_ID`: figures and tables of a sweep, the paper's values beside them.

Writes figures as PNG and PDF, the tables as report.txt, and all of it as one interactive file, report.html.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .arguments import make_parser, one_line, parse
from .data_flags import flag


@dataclass
class ReportArguments:
    """What to report on, and where to write it."""

    folder: str | None = flag(
        "Results folder of `selfmod sweep`, or the repository it was pushed to; may be given without the flag's name."
    )
    output_dir: str | None = flag("Where it all goes; default: FOLDER/report, or runs/hub/<repository>/report.")


def run(argv: Sequence[str]) -> None:
    """Draw the figures, write the tables and the page, print the tables.

    Raises:
        UsageError: no folder, or one that holds no finished network.
    """
    given = list(argv)
    if given and not given[0].startswith("-"):
        given[0] = f"--folder={given[0]}"
    (args,) = parse(make_parser("report", ReportArguments), given)
    with one_line():
        from ..errors import InputError
        from ..experiments import report
        from ..experiments.figures import draw_figures
        from ..experiments.folder import SweepFolder, write_text
        from ..experiments.html_report import write_html_report
        from ..experiments.on_hub import pull_sweep

        if args.folder is None:
            raise InputError("FOLDER", None, "name the results folder of a sweep")
        here = Path(args.folder)
        folder = SweepFolder(here) if here.is_dir() else pull_sweep(args.folder, Path("runs/hub") / here)
        rows = folder.rows()
        output = Path(args.output_dir or folder.path / "report")
        tables = {
            "Each arm: mean over seeds": report.results_table(rows),
            "Against the baseline": report.tests_table(rows),
            "Trend over the self-model's weight (Spearman)": report.trends_table(rows),
            "Beside the published values": report.published_table(rows),
        }
        if (comparison := report.targets_table(rows)) is not None:
            tables["Targets attached against detached, over the seeds that have both"] = comparison
        text = "\n\n".join(f"{title}\n\n{table}" for title, table in tables.items())
        files = draw_figures(folder, output)
        write_text(output / "report.txt", text + "\n")
        write_html_report(folder, output / "report.html")
    print(text)
    print(f"\n{output}: report.html, report.txt, {', '.join(file.name for file in files)}")
