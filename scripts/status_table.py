"""Error rates of the status, and coverage of the intervals, on models of known λ and on trained classifiers.

`python scripts/benchmark.py status`. Every estimate is a single cell, without calibration, by SGHMC at a step size and
a localization in units of the curvature. Each finished model is a line of a JSON Lines file. A run that was stopped
goes on behind the last line.

* A model of known λ is estimated at good settings, at a long step and under a strong pull. An estimate within 10 % of
  the truth (or 0.25 nats) is good, and one that is over 20 % off (or 0.5 nats) is bad.
* A false alarm is a good estimate that is neither "ok" nor short of draws ("not_converged").
* A miss is a bad estimate with status "ok".
* A good classifier should be "ok", and the others should not: their training did not end at a minimum. Good ones are
  estimated at a long step as well.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from ground_truth_table import each_row, read_rows
from trained_classifiers import KINDS, SHAPES, make_data, trained_classifiers

Row = dict[str, Any]

# variant -> step size over 1/a and localization over nβ
LONG_STEP = "long step"
VARIANTS = {"good": (0.04, 1e-3), LONG_STEP: (1.0, 1e-3), "strong pull": (0.04, 1.0)}
COLUMNS = (
    "models of known λ",
    "draws",
    "good",
    "false alarms",
    "good but short of draws",
    "bad",
    "misses",
    "ok intervals that cover",
)
NEAR, FAR = 0.10, 0.20
NEAR_NATS, FAR_NATS = 0.25, 0.5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument("--half", type=int, default=0, choices=(0, 1), help="of the models of known λ")
    parser.add_argument("--count", type=int, default=None, help="models of known λ; default: three of each kind")
    parser.add_argument("--repeats", type=int, default=4, help="estimates of each of them, with seeds of their own")
    parser.add_argument("--networks", type=int, default=25, help="classifiers of each kind and shape")
    parser.add_argument("--draws", nargs="*", type=int, default=[1000, 8000], help="short and long runs")
    parser.add_argument("--jobs", type=int, default=1, help="processes, one thread each")
    parser.add_argument("--file", type=Path, default=Path("runs/status/estimates.jsonl"))
    parser.add_argument("--only_print", action="store_true", help="the tables of what the file holds")


def run(args: argparse.Namespace) -> None:
    """Estimate what the file lacks, and print the tables."""
    args.file.parent.mkdir(parents=True, exist_ok=True)
    rows = read_rows(args.file)
    if not args.only_print:
        done = {row["key"] for row in rows}
        waiting = [task for task in tasks(args) if key_of(task) not in done]
        for row in each_row(partial(row_of, repeats=args.repeats), waiting, args.jobs):
            rows.append(row)
            with args.file.open("a", encoding="utf-8") as out:
                out.write(json.dumps(row) + "\n")
            print(line_of(row), flush=True)
    print_tables(rows)


def tasks(args: argparse.Namespace) -> Iterator[tuple[Any, str, int]]:
    """Yield (case or classifiers, variant, draws)."""
    from selfmod_hf.complexity.ground_truth import cases

    for draws in args.draws:
        for case in cases(args.half, args.count):
            for variant in VARIANTS:
                yield case, variant, draws
        for shape in SHAPES:
            for kind in KINDS:
                yield (kind, shape, args.networks), "good", draws
            yield ("good", shape, args.networks), LONG_STEP, draws


def key_of(task: tuple[Any, str, int]) -> str:
    """Return the name of a task."""
    subject, variant, draws = task
    name = "/".join(map(str, subject)) if isinstance(subject, tuple) else subject.key
    return f"{name}/{variant}/{draws}"


def row_of(task: tuple[Any, str, int], repeats: int) -> Row:
    """Return the row of one task: statuses, estimates and intervals."""
    subject, variant, draws = task
    start = time.perf_counter()
    if isinstance(subject, tuple):
        kind, shape, networks = subject
        row = of_classifiers(kind, shape, networks, variant, draws)
    else:
        row = of_case(subject, variant, draws, repeats)
    return row | {"key": key_of(task), "variant": variant, "draws": draws, "seconds": time.perf_counter() - start}


def of_case(case: Any, variant: str, draws: int, repeats: int) -> Row:
    """Return the estimates of one model of known λ."""
    truth = case.build()
    found = estimates([truth.model] * repeats, truth.inputs, truth.targets, variant, draws, truth.loss_fn)
    nbeta = found[0].nbeta
    return {"kind": case.kind, "truth": truth.truth(nbeta), "estimates": [brief(result) for result in found]}


def of_classifiers(kind: str, shape: str, networks: int, variant: str, draws: int) -> Row:
    """Return the estimates of classifiers of one kind and shape."""
    from selfmod_hf.complexity import cross_entropy

    inputs, labels = make_data()
    trained = trained_classifiers(kind, shape, range(networks), inputs, labels)
    models = [one.model for one in trained]
    found = estimates(models, inputs, labels, variant, draws, cross_entropy)
    return {"kind": f"{kind}, {shape}", "truth": None, "estimates": [brief(result) for result in found]}


def estimates(models: Any, inputs: Any, targets: Any, variant: str, draws: int, loss_fn: Any) -> list[Any]:
    """Return an estimate of each model, with noise of its own."""
    from selfmod_hf.complexity import estimate_llc_many
    from selfmod_hf.complexity.curvature import largest_curvature
    from selfmod_hf.complexity.prepare import make_problem
    from selfmod_hf.complexity.settings import LLCSettings

    settings = LLCSettings(loss_fn=loss_fn)
    problem = make_problem(models[:1], inputs, targets, settings)
    nbeta = settings.inverse_temperature(problem.num_samples)
    step, pull = VARIANTS[variant]
    curvature = largest_curvature(problem, nbeta=nbeta, localization=pull * nbeta)
    return estimate_llc_many(
        models,
        inputs,
        targets,
        loss_fn=loss_fn,
        sampler="sghmc",
        step_size=step / curvature,
        localization=pull * nbeta,
        num_draws=draws,
    )


def brief(result: Any) -> Row:
    """Return what the tables need of an estimate."""
    return {
        "llc": result.llc,
        "standard_error": result.standard_error,
        "interval": list(result.interval),
        "ess": result.ess,
        "status": result.status,
        "reason": result.status_reason,
    }


def line_of(row: Row) -> str:
    """Return a task as a line for people."""
    counts = Counter(estimate["status"] for estimate in row["estimates"])
    statuses = ", ".join(f"{count} {status}" for status, count in counts.most_common())
    return f"{row['key'][:70]:70} {statuses}  {row['seconds']:.1f} s"


def off(estimate: Row, truth: float, share: float, nats: float) -> bool:
    """Return whether an estimate is off by more than a share of the truth and more than some nats, or is no number."""
    llc = estimate["llc"]
    return not abs(llc - truth) <= max(share * truth, nats)


def print_tables(rows: list[Row]) -> None:
    """Print error rates and coverage of known models by variant and draws, then the statuses of the classifiers."""
    known = [row for row in rows if row["truth"] is not None]
    print(f"\n| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    for variant, draws in sorted({(row["variant"], row["draws"]) for row in known}):
        own = [row for row in known if (row["variant"], row["draws"]) == (variant, draws)]
        print(rates_line(variant, draws, own))
    print("\n| classifiers | settings | draws | statuses |\n|---|---|---|---|")
    for row in rows:
        if row["truth"] is None:
            counts = Counter(estimate["status"] for estimate in row["estimates"])
            statuses = ", ".join(f"{count} {status}" for status, count in counts.most_common())
            print(f"| {row['kind']} | {row['variant']} | {row['draws']} | {statuses} |")
    print_wrong(known)


def rates_line(variant: str, draws: int, rows: list[Row]) -> str:
    """Return a line of the table of known models."""
    pairs = [(estimate, row["truth"]) for row in rows for estimate in row["estimates"]]
    good = [estimate for estimate, truth in pairs if not off(estimate, truth, NEAR, NEAR_NATS)]
    bad = [estimate for estimate, truth in pairs if off(estimate, truth, FAR, FAR_NATS)]
    false = sum(estimate["status"] not in ("ok", "not_converged") for estimate in good)
    short = sum(estimate["status"] == "not_converged" for estimate in good)
    misses = sum(estimate["status"] == "ok" for estimate in bad)
    ok = [(estimate["interval"], truth) for estimate, truth in pairs if estimate["status"] == "ok"]
    covered = sum(low <= truth <= high for (low, high), truth in ok)
    return f"| {variant} | {draws} | {len(good)} | {false} | {short} | {len(bad)} | {misses} | {covered} of {len(ok)} |"


def print_wrong(rows: list[Row]) -> None:
    """Print every false alarm and every miss."""
    for row in rows:
        for estimate in row["estimates"]:
            truth = row["truth"]
            good = not off(estimate, truth, NEAR, NEAR_NATS)
            alarm = good and estimate["status"] not in ("ok", "not_converged")
            miss = off(estimate, truth, FAR, FAR_NATS) and estimate["status"] == "ok"
            if alarm or miss:
                numbers = f"{estimate['llc']:.3f} ± {estimate['standard_error']:.3f} of {truth:.3f}"
                print(f"{'miss' if miss else 'false alarm'}: {row['key']}: {numbers}, {estimate['reason']}")
