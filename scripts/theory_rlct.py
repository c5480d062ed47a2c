"""The RLCT of a sweep's networks at theory settings, nβ = n / log n: does it fall with the self-model weight there too?

`python scripts/theory_rlct.py runs/sweep-mnist --mnist FOLDER`. One network of the first arm is calibrated. All
networks are then estimated at its step size and localization, with the same random numbers, from their local minimum.
A second estimate at half the step size shows what the step size adds. Each finished arm is a line of a JSON Lines file.
A run that was stopped goes on behind the last line.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

from ground_truth_table import read_rows

Row = dict[str, Any]


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sweep", type=Path, help="folder of results, of `selfmod sweep --recipe mnist`")
    parser.add_argument("--arms", nargs="*", default=["h64-aw0", "h64-aw1", "h64-aw5", "h64-aw10"])
    parser.add_argument("--seeds", nargs="*", type=int, default=[1, 2, 3, 4])
    parser.add_argument("--mnist", default=None, help="MNIST in Hub layout; default: from the Hub")
    parser.add_argument("--num_draws", type=int, default=4000)
    parser.add_argument("--batch_size", type=int, default=1024)
    parser.add_argument("--file", type=Path, default=Path("runs/theory/estimates.jsonl"))
    return parser.parse_args()


def main() -> None:
    """Estimate what the file lacks, and print the table."""
    from selfmod_hf import TaskSpec, get_task, load_images

    args = parse()
    args.file.parent.mkdir(parents=True, exist_ok=True)
    task = get_task("mnist")
    if args.mnist is not None:
        task = TaskSpec(name="mnist", dataset_name=args.mnist)
    data = load_images(task).train
    rows = read_rows(args.file)
    if not rows:
        rows.append(calibrate(args, data))
        append_row(args.file, rows[0])
    cell, *rows = rows
    print(cell["summary"], flush=True)
    done = {(row["arm"], row["step_size"]) for row in rows}
    for step_size in (cell["step_size"], cell["step_size"] / 2):
        for arm in args.arms:
            if (arm, step_size) in done:
                continue
            row = measure(args, arm, data, cell | {"step_size": step_size})
            append_row(args.file, row)
            rows.append(row)
            print(line_of(row), flush=True)
    print_table(rows)


def append_row(file: Path, row: Row) -> None:
    """Append a row to a JSON Lines file."""
    with file.open("a", encoding="utf-8") as out:
        out.write(json.dumps(row) + "\n")


def networks(args: argparse.Namespace, arm: str) -> list[Any]:
    """Return the networks of an arm, one per seed."""
    from selfmod_hf.models.loading import load_model

    return [load_model(args.sweep / "cells" / f"{arm}-seed{seed}") for seed in args.seeds]


def settings(args: argparse.Namespace) -> dict[str, Any]:
    """Return the settings that the calibration does not choose."""
    return {"nbeta": "n/log n", "num_draws": args.num_draws, "batch_size": args.batch_size, "minimize": True}


def calibrate(args: argparse.Namespace, data: Any) -> Row:
    """Return sampler, step size and localization for the first network of the first arm, and the search's report."""
    from selfmod_hf import calibrate_rlct
    from selfmod_hf.cli.progress import SamplingBar

    started = time.time()
    with SamplingBar(desc="Calibration", unit="step") as bar:
        found = calibrate_rlct(networks(args, args.arms[0])[0], data, **settings(args), progress=bar)
    return {
        "sampler": found.sampler,
        "step_size": found.step_size,
        "localization": found.localization,
        "summary": found.summary(),
        "seconds": time.time() - started,
    }


def measure(args: argparse.Namespace, arm: str, data: Any, cell: Row) -> Row:
    """Estimate the networks of an arm together."""
    from selfmod_hf import estimate_rlct

    started = time.time()
    chosen = {name: cell[name] for name in ("sampler", "step_size", "localization")}
    results = estimate_rlct(networks(args, arm), data, **settings(args), **chosen)
    return {
        "arm": arm,
        **chosen,
        "llc": [result.llc for result in results],
        "standard_error": [result.standard_error for result in results],
        "interval": [result.interval for result in results],
        "status": [result.status for result in results],
        "reason": [result.status_reason for result in results],
        "summary": [result.summary() for result in results],
        "seconds": time.time() - started,
    }


def line_of(row: Row) -> str:
    """Return the estimates of an arm as a line."""
    estimates = []
    for llc, error, status in zip(row["llc"], row["standard_error"], row["status"], strict=True):
        estimates.append(f"{llc:.1f} ± {error:.1f} {status}")
    mean = statistics.fmean(row["llc"])
    return f"| {row['arm']} | {row['step_size']:.3g} | {mean:.1f} | {', '.join(estimates)} | {row['seconds']:.0f} |"


def print_table(rows: list[Row]) -> None:
    """Print a line for each arm and step size."""
    print("| arm | step size | mean | one network each | seconds |\n|---|---|---|---|---|")
    for row in rows:
        print(line_of(row))


if __name__ == "__main__":
    main()
