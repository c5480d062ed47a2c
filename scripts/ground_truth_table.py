"""Calibrated estimates of models of known λ, without any tuning by hand, as a table by kind.

`python scripts/benchmark.py ground_truth --half 0`. Each finished model is a line of a JSON Lines file. A run that was
stopped goes on behind the last line. Half 0 is for development. Half 1 is for one run at the end.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

Row = dict[str, Any]

NEAR, FAR = 0.10, 0.20  # relative errors
COLUMNS = (
    "kind",
    "models",
    "ok",
    "median error",
    "within 10 %",
    "ok and over 20 % off",
    "ok intervals that cover",
    "their half width",
    "seconds each",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--half", type=int, default=0, choices=(0, 1), help="1: once, at the end")
    which.add_argument("--unlisted", action="store_true", help="the models of unlisted_models.py")
    parser.add_argument("--kinds", nargs="*", default=None, help="default: all")
    parser.add_argument("--count", type=int, default=None, help="number of models; default: three of each kind")
    parser.add_argument("--num_draws", type=int, default=4000)
    parser.add_argument("--batch_size", type=int, default=512)
    parser.add_argument("--jobs", type=int, default=1, help="processes, one thread each")
    parser.add_argument("--file", type=Path, default=None, help="default: runs/ground_truth/half-H-draws-T.jsonl")
    parser.add_argument("--only_print", action="store_true", help="the table of what the file holds")


def run(args: argparse.Namespace) -> None:
    """Estimate the models that the file lacks, and print the tables."""
    name = "unlisted" if args.unlisted else f"half-{args.half}"
    file = args.file or Path(f"runs/ground_truth/{name}-draws-{args.num_draws}.jsonl")
    file.parent.mkdir(parents=True, exist_ok=True)
    rows = read_rows(file)
    wanted = wanted_cases(args)
    done = {row["key"] for row in rows}
    waiting = [case for case in wanted if case.key not in done]
    if not args.only_print:
        estimate = partial(row_of, num_draws=args.num_draws, batch_size=args.batch_size)
        for row in each_row(estimate, waiting, args.jobs):
            rows.append(row)
            with file.open("a", encoding="utf-8") as out:
                out.write(json.dumps(row) + "\n")
            print(line_of(row), flush=True)
    print_tables(rows)


def wanted_cases(args: argparse.Namespace) -> list[Any]:
    """Return the models that are asked for."""
    if not args.unlisted:
        from selfmod_hf.complexity.ground_truth import cases

        return cases(args.half, args.count, kinds=args.kinds)
    from unlisted_models import unlisted_cases

    by_kind = {case.kind: case for case in unlisted_cases()}
    if args.count is not None:
        raise SystemExit(f"--count {args.count}: allowed without --unlisted, which has one model of each kind")
    if args.kinds is None:
        return list(by_kind.values())
    for kind in args.kinds:
        if kind not in by_kind:
            raise SystemExit(f"--kinds {kind!r}: allowed with --unlisted are {', '.join(by_kind)}")
    return [by_kind[kind] for kind in args.kinds]


def read_rows(file: Path) -> list[Row]:
    """Return the rows of a file. A last line that was cut off is removed from the file too."""
    if not file.exists():
        return []
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        lines.pop()
        file.write_text("".join(lines), encoding="utf-8")
    return [json.loads(line) for line in lines]


def each_row(estimate: Any, waiting: list[Any], jobs: int) -> Iterator[Row]:
    """Yield a row for each case as it ends."""
    if jobs == 1:
        yield from map(estimate, waiting)
        return
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=_one_thread) as pool:
        futures = [pool.submit(estimate, case) for case in waiting]
        for future in as_completed(futures):
            yield future.result()


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def row_of(case: Any, num_draws: int, batch_size: int) -> Row:
    """Return the row of one case: the model, the truth, the calibrated estimate and its time."""
    from selfmod_hf.complexity import calibrate_llc

    truth = case.build()
    start = time.perf_counter()
    found = calibrate_llc(
        truth.model,
        truth.inputs,
        truth.targets,
        loss_fn=truth.loss_fn,
        num_draws=num_draws,
        batch_size=batch_size,
    )
    seconds = time.perf_counter() - start
    cell = found.result
    exact = None
    if truth.posterior_mean is not None:
        exact = truth.posterior_mean(cell.nbeta, max(found.localization, 1e-3))
    return {
        "key": case.key,
        "kind": case.kind,
        "name": truth.name,
        "half": case.half,
        "num_samples": len(truth.targets),
        "num_draws": num_draws,
        "num_parameters": truth.num_parameters,
        "learning_coefficient": truth.learning_coefficient,
        "multiplicity": truth.multiplicity,
        "truth": truth.truth(cell.nbeta),
        "llc": found.llc,
        "standard_error": found.standard_error,
        "interval": list(found.interval),
        "status": found.status,
        "status_reason": found.status_reason,
        "confirmed": found.confirmed,
        "cell": {
            "step_size": found.step_size,
            "localization": found.localization,
            "llc": cell.llc,
            "standard_error": cell.standard_error,
            "exact": exact,
        },
        "seconds": seconds,
    }


def error_of(row: Row) -> float:
    """Return |estimate / truth - 1|, infinite without an estimate."""
    if row["llc"] is None or not math.isfinite(row["llc"]):
        return math.inf
    return abs(row["llc"] / row["truth"] - 1)


def cell_error(row: Row) -> float:
    """Return how far the chosen cell is from the exact mean at its own localization: the error of sampling alone."""
    cell = row["cell"]
    if cell["llc"] is None or not math.isfinite(cell["llc"]):
        return math.inf
    return abs(cell["llc"] / cell["exact"] - 1)


def covers(row: Row) -> bool:
    """Return whether the truth is in the interval."""
    low, high = row["interval"]
    return low <= row["truth"] <= high


def half_width(row: Row) -> float:
    """Return half of the interval's width as a part of the truth."""
    low, high = row["interval"]
    return (high - low) / 2 / row["truth"]


def line_of(row: Row) -> str:
    """Return one model as a line for people."""
    difference = 100 * (row["llc"] / row["truth"] - 1)
    numbers = f"{row['truth']:9.3f} {row['llc']:9.3f} ± {row['standard_error']:.3f} {difference:+7.1f} %"
    return f"{row['name'][:60]:60} {numbers} {row['status']:15} {row['seconds']:6.1f} s"


def print_tables(rows: list[Row]) -> None:
    """Print the table by kind, and every model that is "ok" and more than 20 % off."""
    if not rows:
        print("no models")
        return
    by_kind: dict[str, list[Row]] = {}
    for row in rows:
        by_kind.setdefault(row["kind"], []).append(row)
    print(f"\n| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    for kind, of_kind in by_kind.items():
        print(summary_line(kind, of_kind))
    print(summary_line("all", rows))
    ok = [row for row in rows if row["status"] == "ok"]
    print(f"\nrank correlation with the truth: {rank_correlation(rows):.4f}, of ok ones {rank_correlation(ok):.4f}")
    known = [cell_error(row) for row in rows if row["cell"]["exact"]]
    print(f"chosen cells off their own exact value by {statistics.median(known or [math.nan]):.1%} in the median")
    wrong = [row for row in ok if error_of(row) > FAR]
    for row in sorted(wrong, key=error_of, reverse=True):
        print(f"ok and over 20 % off: {line_of(row)}")


def summary_line(kind: str, rows: list[Row]) -> str:
    """Return a line of the table."""
    import numpy as np

    errors = np.array([error_of(row) for row in rows])
    ok = [row for row in rows if row["status"] == "ok"]
    wrong = sum(error_of(row) > FAR for row in ok)
    covered = sum(covers(row) for row in ok)
    width = np.median([half_width(row) for row in ok]) if ok else math.nan
    seconds = np.mean([row["seconds"] for row in rows])
    near = np.mean(errors <= NEAR)
    cells = [
        kind,
        str(len(rows)),
        str(len(ok)),
        f"{np.median(errors):.1%}",
        f"{near:.0%}",
        str(wrong),
        f"{covered} of {len(ok)}",
        f"{width:.1%}",
        f"{seconds:.0f}",
    ]
    return f"| {' | '.join(cells)} |"


def rank_correlation(rows: list[Row]) -> float:
    """Return Spearman's correlation of estimates and truth. NaN for fewer than three models."""
    from scipy.stats import spearmanr

    finite = [row for row in rows if math.isfinite(error_of(row))]
    if len(finite) < 3:
        return math.nan
    return float(spearmanr([row["llc"] for row in finite], [row["truth"] for row in finite]).statistic)
