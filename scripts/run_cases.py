"""Run small experiments, one process each, and report which of them fail.

    python scripts/run_cases.py FOLDER

An experiment is a Python file that exits with 0 when it sees what is right. Its last line of output says what it saw.
Without FOLDER, the folder `shared/cases` beside this checkout is used. Where it is missing, nothing is run.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
DEFAULT_FOLDER = CHECKOUT.parent / "shared" / "cases"


def run_case(path: Path, timeout: float) -> tuple[bool, str]:
    """Return whether an experiment exits with 0, and the last line that it printed."""
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    command = [sys.executable, str(path)]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        return False, f"not finished after {timeout:g} s"
    lines = (done.stdout.strip() or done.stderr.strip()).splitlines()
    return done.returncode == 0, lines[-1] if lines else ""


def main() -> int:
    """Run each file of a folder. Return 1 when one of them fails, else 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=DEFAULT_FOLDER)
    parser.add_argument("--timeout", type=float, default=300.0, help="seconds for each experiment (default: 300)")
    arguments = parser.parse_args()
    if not arguments.folder.is_dir():
        print(f"{arguments.folder}: no such folder, nothing to run")
        return 0
    failed = 0
    for path in sorted(arguments.folder.glob("*.py")):
        passed, line = run_case(path, arguments.timeout)
        failed += not passed
        print(f"{'ok   ' if passed else 'WRONG'} {path.stem}: {line}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
