"""The RLCT of a sweep's networks at theory settings, nβ = n / log n: does it fall with the self-model weight there too?

`python scripts/theory_rlct.py runs/sweep-mnist --mnist FOLDER`. Each network is estimated from its local minimum at
two step sizes, with the same random numbers. What minibatches and the step add grows in proportion to the step size, so
a line through both gives the value at step size 0. Each finished arm is a line of a JSON Lines file. A run that was
stopped goes on behind the last line. Each line names its settings and the seeds of its networks. Lines of an earlier
version do not, so they are only printed.

The settings are given: calibrating one network of 50,890 parameters takes longer than all of these estimates.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from pathlib import Path
from typing import Any

from ground_truth_table import read_rows

Row = dict[str, Any]


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sweep", type=Path, nargs="?", help="folder of results, of `selfmod sweep --recipe mnist`")
    parser.add_argument("--arms", nargs="*", default=["h64-aw0", "h64-aw1", "h64-aw5", "h64-aw10"])
    parser.add_argument("--seeds", nargs="*", type=int, default=[1, 2, 3, 4])
    parser.add_argument("--mnist", default=None, help="MNIST in Hub layout; default: from the Hub")
    parser.add_argument("--max_train_samples", type=int, help="of a study of so many images, to try it")
    parser.add_argument("--sampler", default="sghmc")
    parser.add_argument("--step_sizes", nargs="*", type=float, default=[4e-6, 2e-6])
    parser.add_argument("--localization", type=float, default=100.0)
    parser.add_argument("--num_draws", type=int, default=1000)
    parser.add_argument("--batch_size", type=int, default=1024)
    parser.add_argument("--file", type=Path, default=Path("runs/theory/estimates.jsonl"))
    parser.add_argument("--only_print", action="store_true", help="the table of what the file holds")
    args = parser.parse_args()
    if args.sweep is None and not args.only_print:
        parser.error("sweep: name its folder, or give --only_print")
    rows = read_rows(args.file)
    problem = None if args.only_print else problem_of(rows, about(args))
    if problem is not None:
        parser.error(f"--file {args.file}: {problem}; allowed is another file, or --only_print")
    return args


def about(args: argparse.Namespace) -> Row:
    """Return what the lines of a run have in common: the seeds of the networks, and the settings of their RLCTs."""
    settings = {
        "nbeta": "n/log n",
        "sampler": args.sampler,
        "localization": args.localization,
        "num_draws": args.num_draws,
        "batch_size": args.batch_size,
        "minimize": True,
    }
    common: Row = {"seeds": args.seeds, "step_sizes": args.step_sizes, "settings": settings}
    common["max_train_samples"] = args.max_train_samples
    return common


def problem_of(rows: list[Row], own: Row) -> str | None:
    """Return why a run cannot go on behind these rows. None: it can.

    Args:
        rows: of the file.
        own: of `about`.
    """
    for row in rows:
        for name, value in own.items():
            if name not in row and value is not None:
                return f"its row of {row['arm']} is of an earlier version, without {name}"
            if row.get(name) != value:
                return f"its row of {row['arm']} has {name} {row[name]}, here they are {value}"
    return None


def main() -> None:
    """Estimate what the file lacks, and print the table."""
    from selfmod_hf import TaskSpec, get_task, load_images

    args = parse()
    if args.only_print:
        print_table(read_rows(args.file))
        return
    args.file.parent.mkdir(parents=True, exist_ok=True)
    task = get_task("mnist")
    if args.mnist is not None:
        task = TaskSpec(name="mnist", dataset_name=args.mnist)
    data = load_images(task, max_train_samples=args.max_train_samples).train
    rows = read_rows(args.file)
    done = {row["arm"] for row in rows}
    for arm in args.arms:
        if arm in done:
            continue
        own = measure(args, arm, data)
        append_rows(args.file, own)
        rows += own
        for row in own:
            print(line_of(row), flush=True)
    print_table(rows)


def append_rows(file: Path, rows: list[Row]) -> None:
    """Append rows to a JSON Lines file in one write."""
    lines = [json.dumps(row) + "\n" for row in rows]
    with file.open("a", encoding="utf-8") as out:
        out.write("".join(lines))


def networks(args: argparse.Namespace, arm: str) -> list[Any]:
    """Return the networks of an arm, one per seed."""
    from selfmod_hf.models.loading import load_model

    return [load_model(args.sweep / "cells" / f"{arm}-seed{seed}") for seed in args.seeds]


def measure(args: argparse.Namespace, arm: str, data: Any) -> list[Row]:
    """Estimate the networks of an arm at all step sizes together, and return a row for each step size.

    Each network is brought to its local minimum once, which takes as long as its chains. `estimate_rlct` would do so
    for each step size.
    """
    from selfmod_hf.complexity.llc import open_session, sample
    from selfmod_hf.complexity.pieces import Group
    from selfmod_hf.complexity.prepare import make_problem
    from selfmod_hf.complexity.settings import LLCSettings
    from selfmod_hf.trainer.rlct import networks_on_data

    started = time.time()
    common = about(args)
    own: dict[str, Any] = dict(common["settings"])
    del own["localization"]  # each group has its own
    found = networks_on_data(networks(args, arm), data, None, own)
    settings = LLCSettings(**found.settings(own))
    problem = make_problem(found.modules, found.inputs, found.targets, settings)
    nbeta = settings.inverse_temperature(problem.num_samples)
    groups = []
    for step_size in args.step_sizes:
        for place in range(len(args.seeds)):
            groups.append(Group(place, place, step_size, args.localization, nbeta))
    with open_session(problem, groups, settings) as session:
        results = sample(session)
    seconds = time.time() - started
    rows = []
    for index, step_size in enumerate(args.step_sizes):
        first = index * len(args.seeds)
        rows.append(row_of(arm, step_size, results[first : first + len(args.seeds)], seconds, common))
    return rows


def row_of(arm: str, step_size: float, results: list[Any], seconds: float, common: Row) -> Row:
    """Return the row of an arm at a step size. `common` is that of `about`."""
    return {
        **common,
        "arm": arm,
        "step_size": step_size,
        "llc": [result.llc for result in results],
        "standard_error": [result.standard_error for result in results],
        "interval": [result.interval for result in results],
        "status": [result.status for result in results],
        "reason": [result.status_reason for result in results],
        "lowered_by": [result.lowered_by for result in results],
        "still_lower": [bias_of(result, "not_at_minimum") for result in results],
        "pull": [bias_of(result, "localization") for result in results],
        "summary": [result.summary() for result in results],
        "seconds": seconds,
    }


def bias_of(result: Any, name: str) -> float | None:
    """Return a foretold bias. None: too few draws were kept to foretell any."""
    if result.biases is None:
        return None
    return getattr(result.biases, name)


def line_of(row: Row) -> str:
    """Return the estimates of an arm as a line."""
    estimates = []
    for llc, error, status in zip(row["llc"], row["standard_error"], row["status"], strict=True):
        estimates.append(f"{llc:.1f} ± {error:.1f} {status}")
    mean = statistics.fmean(row["llc"])
    return f"| {row['arm']} | {row['step_size']:.3g} | {mean:.1f} | {', '.join(estimates)} | {row['seconds']:.0f} |"


def print_table(rows: list[Row]) -> None:
    """Print a line for each arm and step size, then the values at step size 0."""
    print("| arm | step size | mean | one network each | seconds |\n|---|---|---|---|---|")
    for row in rows:
        print(line_of(row))
    print("\n| arm | mean at step size 0 | one network each | nβ L still lower by | the pull takes |")
    print("|---|---|---|---|---|")
    for arm in dict.fromkeys(row["arm"] for row in rows):
        own = sorted((row for row in rows if row["arm"] == arm), key=lambda row: row["step_size"])
        if len(own) == 2:
            print(extrapolated_line(arm, *own))


def extrapolated_line(arm: str, short: Row, long: Row) -> str:
    """Return the line of an arm at step size 0, from its rows at a short and at a long step."""
    share = short["step_size"] / (long["step_size"] - short["step_size"])
    values, parts = [], []
    for index, low in enumerate(short["llc"]):
        value = low + share * (low - long["llc"][index])
        error = math.hypot((1 + share) * short["standard_error"][index], share * long["standard_error"][index])
        values.append(value)
        parts.append(f"{value:.1f} ± {error:.1f}")
    lower, pull = joined(short, "still_lower"), joined(short, "pull")
    return f"| {arm} | {statistics.fmean(values):.1f} | {', '.join(parts)} | {lower} | {pull} |"


def joined(row: Row, name: str) -> str:
    """Return a foretold bias of each network as text. Lines of an earlier version have none."""
    texts = ["-" if value is None else f"{value:.1f}" for value in row.get(name, [])]
    return ", ".join(texts)


if __name__ == "__main__":
    main()
