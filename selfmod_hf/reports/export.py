"""Write the tables of a study alone, small enough for a code repository. `selfmod report` reads them."""

from __future__ import annotations

from pathlib import Path

from ..errors import InputError
from ..experiments.folder import SweepFolder
from ..files import to_json, write_file
from .local_paths import hide_local_paths, local_paths

KEPT = ("results.parquet", "curves.parquet", "run.json")
NOT_KEPT = ("results.json",)  # the same as results.parquet


def export_tables(folder: SweepFolder, into: Path) -> list[Path]:
    """Write results.parquet, curves.parquet and run.json of a study to another folder, and return the files.

    Networks, sessions and paths of this machine are left out.

    Raises:
        InputError: the folder is that of the study, or the study has no finished network.
    """
    if into.resolve() == folder.path.resolve():
        raise InputError("tables_dir", str(into), "allowed is another folder than that of the study")
    into.mkdir(parents=True, exist_ok=True)
    folder.write_tables(into)
    for name in NOT_KEPT:
        (into / name).unlink()
    run = folder.read_run()
    if run is not None:
        content = run.to_dict()
        content.pop("sessions", None)
        write_file(into / "run.json", to_json(content))
    hide_local_paths(into, local_paths(run))
    return [into / name for name in KEPT if (into / name).is_file()]
