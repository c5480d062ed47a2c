"""Kills runs at random moments, fills their disk, resumes them, and compares with an undisturbed run.

    python scripts/chaos.py                            # every command, every fault, 20 trials each
    python scripts/chaos.py train --faults kill --trials 3

Faults: kill (SIGKILL), term (SIGTERM), disk (the output folder is a small tmpfs that runs full; needs root). After a
fault the same command is started again, until it ends by itself; its results must be those of the undisturbed run,
bit for bit. A full disk must be told of in one line, with exit code 2. Nothing here needs a network: pushes go to the
tests' Hub on loopback, whose files are their results.
"""

from __future__ import annotations

import argparse
import contextlib
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
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))
from tests import warm  # noqa: E402
from tests.loopback_hub import TOKEN, LoopbackHub, client_environment  # noqa: E402

DIGITS = ["--max_train_samples", "400"]
# what may differ between runs that are the same: times; and transformers' `train_loss`, a mean since the last resume
APART = ("runtime", "per_second", "train_loss")


@dataclass(frozen=True)
class Command:
    """What is disturbed.

    Attributes:
        flags: of `selfmod`; it writes into the folder `out`, relative to where it runs.
        results: files that must come out the same.
        prepare: flags of a command that makes the folder `made` first, or none.
        on_hub: it pushes `out`, which is a copy of `made` to begin with; temporary files lie in it too.
        kibibytes: size of a disk that is too small; beside what `out` holds to begin with.
    """

    flags: list[str]
    results: tuple[str, ...]
    prepare: list[str] | None = None
    on_hub: bool = False
    kibibytes: int = 150


TRAIN = ["train", "--task", "digits", *DIGITS, "--hidden_sizes", "16", "--num_train_epochs", "8", "--quiet"]
SWEEP = [
    "sweep", "--recipe", "digits", *DIGITS, "--hidden_sizes", "8", "--aux_weights", "0", "10", "--seeds", "1", "2",
    "--num_train_epochs", "3", "--num_chains", "2", "--num_draws", "60", "--quiet",
]  # fmt: skip
PUSH = ["push", "out", "--repo", "me/pushed", "--quiet"]
COMMANDS = {
    "train": Command(
        [*TRAIN, "--resume_from_checkpoint", "last", "--save_total_limit", "2", "--output_dir", "out"],
        ("out/model.safetensors", "out/config.json", "out/eval_results.json", "out/trainer_state.json"),
        kibibytes=250,
    ),
    "sweep": Command(
        [*SWEEP, "--output_dir", "out"],
        ("out/results.json", "out/*.parquet", "out/cells/*/model.safetensors", "out/cells/*/row.json"),
    ),
    "rlct": Command(
        ["rlct", "--model", "made", "--task", "digits", *DIGITS, "--num_draws", "300", "--quiet",
         "--output_dir", "out"],
        ("out/rlct.json", "out/rlct.safetensors"),
        prepare=[*TRAIN, "--output_dir", "made"],
        kibibytes=12,
    ),
    "tune": Command(
        ["tune", "--task", "digits", *DIGITS, "--num_train_epochs", "4", "--trials", "12", "--stack", "5",
         "--num_draws", "40", "--quiet", "--output_dir", "out", "--space", "aux_weight=0:5", "hidden_sizes=8,8-8",
         "learning_rate=0.05:0.1:log"],
        ("out/trials.json", "out/pareto.json", "out/pareto.txt", "out/groups/*"),
    ),
    "push": Command(
        PUSH,
        ("hub/models/me/pushed/**/*", "hub/datasets/me/pushed/**/*"),
        prepare=[*SWEEP, "--output_dir", "made"],
        on_hub=True,
        kibibytes=250,
    ),
    "push_model": Command(
        PUSH, ("hub/models/me/pushed/**/*",), prepare=[*TRAIN, "--output_dir", "made"], on_hub=True, kibibytes=60
    ),
}  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commands", nargs="*", default=list(COMMANDS), metavar="|".join(COMMANDS))
    parser.add_argument("--faults", nargs="+", choices=list(FAULTS), default=list(FAULTS))
    parser.add_argument("--trials", type=int, default=20, help="of each command, spread over the faults")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
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
    """All trials of one command; returns how many came out otherwise, or without a clear error."""
    command = COMMANDS[name]
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        reference = Path(folder) / "reference"
        reference.mkdir()
        if command.prepare is not None:
            warm.run([*warm.SELFMOD, *command.prepare], cwd=reference, check=True)
        with place(command, reference) as first:
            first.fill()
            times = first.finish()
            expected = first.results()
        print(
            f"{name}: {times[1]:.1f} s undisturbed, writes after {times[0]:.1f}, {len(expected)} files compared",
            flush=True,
        )
        failures, full = 0, []
        for trial in range(trials):
            fault = faults[trial % len(faults)]
            where = Path(folder) / f"trial-{trial}"
            shutil.copytree(reference, where, ignore=lambda _, names: {"out", "hub"} & set(names))
            with place(command, where) as here:
                outcome, clear = FAULTS[fault](here, times, randomness)
                differing = different(expected, here.results())
            verdict = "the same" if not differing else f"DIFFERENT: {', '.join(differing)}"
            print(f"  {fault:5} {outcome}; resumed: {verdict}", flush=True)
            failures += bool(differing) or not clear
            full += ["exit code 2" in outcome] if fault == "disk" else []
            shutil.rmtree(where)
    if 2 * sum(full) < len(full):
        print(f"  only {sum(full)} of {len(full)} disks ran full: take smaller ones")
        failures += 1
    return failures


@dataclass(frozen=True)
class Place:
    """A folder in which a command runs, and the environment it runs in."""

    command: Command
    where: Path
    environment: dict[str, str]

    @property
    def out(self) -> Path:
        return self.where / "out"

    @property
    def errors(self) -> Path:
        return self.where / "errors"

    def start(self) -> BaseProcess:
        command = [*warm.SELFMOD, *self.command.flags]
        return warm.start(command, self.environment, self.where, errors=self.errors)

    def finish(self) -> tuple[float, float]:
        """Run to the end, whatever an earlier run has left; returns after how many seconds something was written into
        `out` for the first time, and after how many it ended."""
        before, start, written = self.changed(), time.perf_counter(), None
        process = self.start()
        while process.is_alive():
            process.join(0.1)
            if written is None and self.changed() != before:
                written = time.perf_counter() - start
        if process.exitcode:
            errors = self.errors.read_text()
            raise SystemExit(f"{self.command.flags} in {self.where} ended with {process.exitcode}:\n{errors}")
        ended = time.perf_counter() - start
        return (ended if written is None else written), ended

    def changed(self) -> int:
        """When a file came into `out` or a folder in it, or went, for the last time; 0 where there is no folder."""
        times = [0]
        for folder, _, _ in os.walk(self.out):
            with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                times.append(os.stat(folder).st_mtime_ns)
        return max(times)

    def fill(self) -> None:
        """What is in `out` before the command runs."""
        if self.command.on_hub:
            shutil.copytree(self.where / "made", self.out, dirs_exist_ok=True)
            (self.out / ".temporary").mkdir()

    def results(self) -> dict[str, str]:
        """Name and digest of each result."""
        paths = sorted(path for pattern in self.command.results for path in self.where.glob(pattern))
        return {str(path.relative_to(self.where)): digest(path) for path in paths}


@contextlib.contextmanager
def place(command: Command, where: Path) -> Iterator[Place]:
    """With a Hub of its own where the command pushes."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"}
    if not command.on_hub:
        yield Place(command, where, environment)
        return
    temporary = where / "out" / ".temporary"
    with LoopbackHub(where / "hub") as hub:
        environment |= client_environment(str(temporary / "home")) | {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN}
        yield Place(command, where, environment | {"TMPDIR": str(temporary), "MPLCONFIGDIR": str(where)})


# ---- faults: disturb the command in a folder, then let it finish ----


# place, (seconds to the first file, to the end) -> what happened; whether it ended as it should
Fault = Callable[[Place, tuple[float, float], random.Random], tuple[str, bool]]


def by_signal(number: signal.Signals) -> Fault:
    def disturb(here: Place, times: tuple[float, float], randomness: random.Random) -> tuple[str, bool]:
        here.fill()
        moments = []
        for _ in range(randomness.choice((1, 1, 2, 3))):  # some runs are hit again while they recover
            before, start, process = here.changed(), time.perf_counter(), here.start()
            # one in four while there is nothing to lose yet, which time goes into imports
            early, moment = randomness.randrange(4) == 0, randomness.random()
            if not early:
                while here.changed() == before and process.is_alive():
                    time.sleep(0.02)
            process.join(moment * (times[0] if early else times[1] - times[0]))
            if not process.is_alive():
                moments.append("after its end")
                continue
            assert process.pid is not None
            os.kill(process.pid, number)
            process.join()
            moments.append(f"after {time.perf_counter() - start:.1f} s")
        here.finish()
        return "hit " + ", ".join(moments), True

    return disturb


def by_full_disk(here: Place, times: tuple[float, float], randomness: random.Random) -> tuple[str, bool]:
    size = int(here.command.kibibytes * randomness.uniform(0.2, 1))
    with small_disk(here.out):
        here.fill()
        used = shutil.disk_usage(here.out).used // 1024
        resize(here.out, f"{used + size}k")
        process = here.start()
        process.join()
        errors = here.errors.read_text().strip()
        last = errors.splitlines()[-1] if errors else ""
        clear = process.exitcode == 0 or (process.exitcode == 2 and "the disk seems to be full" in last)
        outcome = f"{size} KiB: {'' if clear else 'NO CLEAR ERROR, '}exit code {process.exitcode}"
        outcome += "" if clear else f", {last}"
        resize(here.out, "64m")
        here.finish()
        shutil.copytree(here.out, here.where / "kept")
    here.out.rmdir()
    (here.where / "kept").rename(here.out)
    return outcome, clear


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def resize(folder: Path, size: str) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", folder], check=True)


FAULTS: dict[str, Fault] = {"kill": by_signal(signal.SIGKILL), "term": by_signal(signal.SIGTERM), "disk": by_full_disk}


# ---- comparing ----


def digest(path: Path) -> str:
    if path.is_dir():
        return "a folder"
    return hashlib.sha256(comparable(path)).hexdigest()


def comparable(path: Path) -> bytes:
    content = path.read_bytes()
    return canonical(json.loads(content)).encode() if path.suffix == ".json" else content


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
