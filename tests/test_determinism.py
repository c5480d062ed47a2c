"""What docs/determinism.md says of one command run in several ways: the same bits, or how close.

python -m tests.test_determinism    # prints the distances that the page quotes
"""

import json
import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests import warm

ROOT = Path(__file__).parents[1]
DATA = ["--max_train_samples=700"]
# large enough for torch to use more than one thread
TRAIN = ["--task=digits", *DATA, "--hidden_sizes=256", "--train_batch_size=256", "--num_train_epochs=6", "--quiet"]
SWEEP = [
    "--recipe=digits", *DATA, "--hidden_sizes=64", "--aux_weights", "0", "10", "--seeds", "1", "2", "3",
    "--num_train_epochs=4", "--num_chains=2", "--num_draws=60", "--quiet",
]  # fmt: skip
RLCT = ["--model=MODEL", "--task=digits", *DATA, "--num_draws=100", "--quiet"]
COMMANDS = {
    "train": ("train.py", TRAIN),
    "sweep": ("sweep.py", SWEEP),
    "rlct": ("estimate_rlct.py", RLCT),
}
ACCELERATE = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes=2", "--num_machines=1"]
ACCELERATE += ["--mixed_precision=no", "--dynamo_backend=no"]


def in_a_new_interpreter(
    arguments: list, threads: int = 1, launcher: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, *launcher, *arguments], env=environment, capture_output=True, text=True)


in_two_threads = partial(in_a_new_interpreter, threads=2)
# how it is started, further flags
WAYS = {
    "plain": (warm.run, []),
    "again": (in_a_new_interpreter, []),
    "two threads": (in_two_threads, []),
    "two threads again": (in_two_threads, []),
    "two processes": (warm.run_two, []),
    "two processes again": (warm.run_two, []),
    "two processes, accelerate": (partial(in_a_new_interpreter, launcher=ACCELERATE), []),
    "in pieces": (warm.run, ["--memory_gib=0.002"]),
    "two at a time": (warm.run, ["--members_per_population=2"]),
}
# what is compared -> the largest relative distance allowed; 0: the same bits
ALLOWED = {
    ("train", "plain", "again"): 0,
    ("train", "two threads", "two threads again"): 0,
    ("train", "two processes", "two processes again"): 0,
    ("train", "two processes", "two processes, accelerate"): 0,
    ("train", "plain", "two threads"): 1e-5,
    ("train", "plain", "two processes"): 1e-5,
    ("sweep", "plain", "again"): 0,
    ("sweep", "two processes", "two processes again"): 0,
    ("sweep", "plain", "two threads"): 1e-5,
    ("sweep", "plain", "two processes"): 1e-5,
    ("sweep", "plain", "two at a time"): 1e-5,
    ("rlct", "plain", "again"): 0,
    ("rlct", "two threads", "two threads again"): 0,
    ("rlct", "two processes", "two processes again"): 0,
    ("rlct", "plain", "two threads"): 1e-5,
    ("rlct", "plain", "two processes"): 1e-5,
    ("rlct", "plain", "in pieces"): 1e-5,
}


def run_all(folder: Path) -> None:
    """`COMMAND-WAY/` of everything that is compared."""
    for name, way in dict.fromkeys((command, way) for command, *ways in ALLOWED for way in ways):
        script, flags = COMMANDS[name]
        start, more = WAYS[way]
        flags = [flag.replace("MODEL", str(folder / "train-plain")) for flag in flags]
        done = start([ROOT / "scripts" / script, *flags, *more, f"--output_dir={folder / f'{name}-{way}'}"])
        assert done.returncode == 0, done.stderr[-3000:]


def numbers(folder: Path) -> dict[str, np.ndarray]:
    """Everything that a run has computed: weights, traces, rows."""
    found = {}
    for path in sorted(folder.rglob("*.safetensors")):
        if "checkpoint-" not in str(path):
            found |= {f"{path.relative_to(folder)} {name}": value for name, value in load_file(path).items()}
    for path in sorted(folder.rglob("row.json")):
        row = json.loads(path.read_text())
        found |= {f"{path.parent.name} {k}": np.array(v) for k, v in row.items() if isinstance(v, float)}
    return found


def distance(one: Path, other: Path) -> float:
    """The largest difference, relative to the largest value of its tensor; 0 for the same bits."""
    first, second = numbers(one), numbers(other)
    assert first.keys() == second.keys()
    assert first
    worst = 0.0
    for name, value in first.items():
        assert np.isfinite(value).all()
        if value.tobytes() != second[name].tobytes():
            worst = max(worst, float(np.abs(value - second[name]).max() / np.abs(value).max()))
    return worst


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("ways")
    run_all(folder)
    return folder


@pytest.mark.weekly
@pytest.mark.parametrize(("command", "one", "other"), ALLOWED)
def test_a_command_in_two_ways(runs, command, one, other):
    assert distance(runs / f"{command}-{one}", runs / f"{command}-{other}") <= ALLOWED[command, one, other]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        run_all(Path(name))
        for command, one, other in ALLOWED:
            found = distance(Path(name) / f"{command}-{one}", Path(name) / f"{command}-{other}")
            print(f"{command:6} {one} / {other}: {found:.2g}")
