"""Kills runs at random moments, fills their disk, resumes them, and compares with an undisturbed run.

    python scripts/chaos.py                            # every command, every fault, 20 trials each
    python scripts/chaos.py train --faults kill --trials 3

Faults: kill (SIGKILL), term (SIGTERM), disk (the output folder is a small tmpfs that runs full; needs root). After a
fault the same command is started again, until it ends by itself; its results must be those of the undisturbed run,
bit for bit. Nothing here needs a network.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SCRIPTS = Path(__file__).parent
DIGITS = ["--max_train_samples", "400"]
# what may differ between runs that are the same: times; and transformers' `train_loss`, a mean since the last resume
APART = ("runtime", "per_second", "train_loss")


@dataclass(frozen=True)
class Command:
    """What is disturbed.

    Attributes:
        flags: of the command; it writes into the folder `out`, relative to where it runs.
        results: files under `out` that must come out the same.
        prepare: flags of a training that makes `model` first, or none.
        kibibytes: size of a disk that is too small.
    """

    script: str
    flags: list[str]
    results: tuple[str, ...]
    prepare: list[str] | None = None
    kibibytes: int = 400


TRAIN = ["--task", "digits", *DIGITS, "--hidden_sizes", "16", "--num_train_epochs", "8", "--quiet"]
COMMANDS = {
    "train": Command(
        "train.py",
        [*TRAIN, "--resume_from_checkpoint", "last", "--save_total_limit", "2", "--output_dir", "out"],
        ("model.safetensors", "config.json", "eval_results.json", "trainer_state.json"),
        kibibytes=250,
    ),
    "sweep": Command(
        "sweep.py",
        ["--recipe", "digits", *DIGITS, "--hidden_sizes", "8", "--aux_weights", "0", "10", "--seeds", "1", "2",
         "--num_train_epochs", "3", "--num_chains", "2", "--num_draws", "60", "--quiet", "--output_dir", "out"],
        ("results.json", "results.parquet", "curves.parquet", "cells/*/model.safetensors", "cells/*/row.json"),
        kibibytes=150,
    ),
    "rlct": Command(
        "estimate_rlct.py",
        ["--model", "model", "--task", "digits", *DIGITS, "--num_draws", "300", "--quiet", "--output_dir", "out"],
        ("rlct.json", "rlct.safetensors"),
        prepare=[*TRAIN, "--output_dir", "model"],
        kibibytes=12,
    ),
}  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commands", nargs="*", default=list(COMMANDS), metavar="|".join(COMMANDS))
    parser.add_argument("--faults", nargs="+", choices=list(FAULTS), default=list(FAULTS))
    parser.add_argument("--trials", type=int, default=20, help="of each command, spread over the faults")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    for name in args.commands:
        if name not in COMMANDS:
            parser.error(f"{name}: allowed are {', '.join(COMMANDS)}")
    if "disk" in args.faults and os.geteuid() != 0:
        parser.error("--faults disk: mounts a small disk, which only root may do")
    failures = 0
    for name in args.commands:
        failures += disturb(name, args.faults, args.trials, random.Random(f"{args.seed} {name}"))
    print("every resumed run equals its undisturbed one" if not failures else f"{failures} trials came out otherwise")
    return 1 if failures else 0


def disturb(name: str, faults: list[str], trials: int, randomness: random.Random) -> int:
    """All trials of one command; returns how many came out otherwise."""
    command = COMMANDS[name]
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        reference = Path(folder) / "reference"
        prepare(command, reference)
        start = time.perf_counter()
        finish(command, reference)
        seconds = time.perf_counter() - start
        expected = results(command, reference)
        print(f"{name}: {seconds:.1f} s undisturbed, {len(expected)} files compared", flush=True)
        failures = 0
        for trial in range(trials):
            fault = faults[trial % len(faults)]
            here = Path(folder) / f"trial-{trial}"
            shutil.copytree(reference, here, ignore=lambda where, names: {"out"} & set(names))
            outcome = FAULTS[fault](command, here, seconds, randomness)
            differing = different(expected, results(command, here))
            verdict = "the same" if not differing else f"DIFFERENT: {', '.join(differing)}"
            print(f"  {fault:5} {outcome}; resumed: {verdict}", flush=True)
            failures += bool(differing)
            shutil.rmtree(here)
    return failures


def prepare(command: Command, where: Path) -> None:
    where.mkdir()
    if command.prepare is not None:
        subprocess.run([sys.executable, SCRIPTS / "train.py", *command.prepare], cwd=where, check=True, **SILENT)


SILENT: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}


def start(command: Command, where: Path) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, SCRIPTS / command.script, *command.flags], cwd=where, **SILENT)


def finish(command: Command, where: Path) -> None:
    """Run to the end, whatever an earlier run has left."""
    process = start(command, where)
    errors = process.communicate()[1]
    if process.returncode:
        raise SystemExit(f"{command.script} in {where} ended with {process.returncode}:\n{errors}")


# ---- faults: disturb the command in a folder, then let it finish ----


def by_signal(number: signal.Signals) -> Callable[[Command, Path, float, random.Random], str]:
    def disturb(command: Command, where: Path, seconds: float, randomness: random.Random) -> str:
        moments = []
        for _ in range(randomness.choice((1, 1, 2, 3))):  # some runs are hit again while they recover
            moment = randomness.uniform(0, seconds)
            process = start(command, where)
            try:
                process.communicate(timeout=moment)
                moments.append("after its end")
            except subprocess.TimeoutExpired:
                process.send_signal(number)
                process.communicate()
                moments.append(f"after {moment:.1f} s")
        finish(command, where)
        return "hit " + ", ".join(moments)

    return disturb


def by_full_disk(command: Command, where: Path, seconds: float, randomness: random.Random) -> str:
    size = int(command.kibibytes * randomness.uniform(0.2, 1))
    with small_disk(where / "out", size):
        process = start(command, where)
        errors = (process.communicate()[1] or "").strip()
        if process.returncode not in (0, 2) or "Traceback" in errors:
            last = errors.splitlines()[-1] if errors else ""
            outcome = f"{size} KiB: NO CLEAR ERROR, exit code {process.returncode}: {last}"
        else:
            outcome = f"{size} KiB: exit code {process.returncode}"
        subprocess.run(["mount", "-o", "remount,size=64m", where / "out"], check=True)
        finish(command, where)
        shutil.copytree(where / "out", where / "kept")
    (where / "out").rmdir()
    (where / "kept").rename(where / "out")
    return outcome


@contextmanager
def small_disk(folder: Path, kibibytes: int) -> Iterator[None]:
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kibibytes}k", "tmpfs", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


FAULTS = {"kill": by_signal(signal.SIGKILL), "term": by_signal(signal.SIGTERM), "disk": by_full_disk}


# ---- comparing ----


def results(command: Command, where: Path) -> dict[str, str]:
    """Name and digest of each result."""
    paths = sorted(path for pattern in command.results for path in (where / "out").glob(pattern))
    return {str(path.relative_to(where)): hashlib.sha256(comparable(path)).hexdigest() for path in paths}


def comparable(path: Path) -> bytes:
    return canonical(json.loads(path.read_text())).encode() if path.suffix == ".json" else path.read_bytes()


def canonical(value: Any) -> str:
    """JSON without what may differ; of equal entries in a list the first (a run started again after its end logs its
    last evaluation again)."""
    if isinstance(value, dict):
        kept = {k: canonical(v) for k, v in value.items() if not any(word in k for word in APART)}
        return json.dumps(kept, sort_keys=True)
    return json.dumps(list(dict.fromkeys(map(canonical, value)))) if isinstance(value, list) else json.dumps(value)


def different(expected: dict[str, str], found: dict[str, str]) -> list[str]:
    return sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))


if __name__ == "__main__":
    sys.exit(main())
