"""The parts of scripts/gpu.sh: `pack` writes its files, `compare`, `ground_truth` and `benchmark` run on the GPU."""

from __future__ import annotations

import argparse
import gzip
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

WEIGHTS = 1e-2  # largest difference of weights between CPU and GPU, as a share of the largest weight
ACCURACY = 0.005
ERRORS = 3.0  # of an RLCT's difference, in standard errors, because CPU and GPU draw other random numbers
MEMBERS, BATCH_SIZES, WIDTHS, NETWORKS = (60, 10), (512, 64), (64, 512), (10, 60)
CHAINS, SAMPLING_BATCH = 4, 512
PIXELS, CLASSES = 784, 10
KINDS = ("float32", "bfloat16")


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("folder", type=Path, help="of the files to pack, else of the results")
    parser.add_argument("--mnist", default="ylecun/mnist", help="to pack: Hub id or folder")
    parser.add_argument("--cifar10", default="uoft-cs/cifar10", help="to pack: Hub id or folder; empty: not at all")
    parser.add_argument("--cifar10_samples", type=int, default=12_000, help="training images of CIFAR-10 to pack")
    parser.add_argument("--tiny", action="store_true", help="try it with tiny settings")
    return parser.parse_args()


def main() -> None:
    """Run a part."""
    args = parse()
    PARTS[args.part](args)


# ---- files ----


def pack(args: argparse.Namespace) -> None:
    """Write MNIST and a part of CIFAR-10 as compressed files of images."""
    args.folder.mkdir(parents=True, exist_ok=True)
    pack_images("mnist", args.mnist, args.folder)
    if args.cifar10:
        pack_images("cifar10", args.cifar10, args.folder, args.cifar10_samples, 2000)


def pack_images(task: str, name: str, folder: Path, train: int | None = None, test: int | None = None) -> None:
    """Write a task's images, spread evenly over its splits, to `<task>.safetensors.gz`."""
    from selfmod_hf.data import ImageFile, load_images, make_task

    entries = {"dataset_name": name, "test_split": "test"}
    data = load_images(make_task(task, entries), max_train_samples=train, max_test_samples=test)
    content = ImageFile(data.train.pixels, data.train.labels, data.test.pixels, data.test.labels, data.label_names)
    packed = folder / f"{task}.safetensors.gz"
    with tempfile.TemporaryDirectory() as temporary:
        plain = Path(temporary) / "images.safetensors"
        content.write(plain)
        with plain.open("rb") as source, gzip.open(packed, "wb") as target:
            shutil.copyfileobj(source, target)
    print(f"{packed}: {packed.stat().st_size / 1e6:.1f} MB")


# ---- CPU beside GPU ----


def compare(args: argparse.Namespace) -> None:
    """Compare the networks of the folders cpu/ and gpu/. The exit code is 1 if they differ by more than rounding."""
    import pandas as pd

    keys = ["arm", "seed"]
    tables = [pd.read_parquet(args.folder / device / "results.parquet") for device in ("cpu", "gpu")]
    both = tables[0].merge(tables[1], on=keys, suffixes=("_cpu", "_gpu"))
    failed = len(both) != len(tables[0])
    print("| network | weights, largest difference | accuracy | RLCT, standard errors |\n|---|---|---|---|")
    for row in both.to_dict("records"):
        name = f"{row['arm']}-seed{row['seed']}"
        weights = weights_difference(args.folder, name)
        accuracy = abs(row["accuracy_cpu"] - row["accuracy_gpu"])
        errors = rlct_difference(row)
        agrees = weights <= WEIGHTS and accuracy <= ACCURACY and errors <= ERRORS
        failed |= not agrees and not args.tiny  # a tiny RLCT has no standard error
        print(f"| {name} | {weights:.2g} | {accuracy:.4f} | {errors:.2f} |")
    if failed:
        raise SystemExit("CPU and GPU differ by more than rounding")


def weights_difference(folder: Path, name: str) -> float:
    """Return the largest difference between the weights on CPU and GPU, as a share of the largest weight."""
    from safetensors.torch import load_file

    cpu, gpu = (load_file(folder / device / "cells" / name / "model.safetensors") for device in ("cpu", "gpu"))
    difference, largest = 0.0, 0.0
    for key, weight in cpu.items():
        difference = max(difference, float((weight - gpu[key]).abs().max()))
        largest = max(largest, float(weight.abs().max()))
    return difference / largest


def rlct_difference(row: dict[str, Any]) -> float:
    """Return the difference of two RLCTs in standard errors of it."""
    variance = row["rlct_standard_error_cpu"] ** 2 + row["rlct_standard_error_gpu"] ** 2
    return abs(row["rlct_cpu"] - row["rlct_gpu"]) / variance**0.5


# ---- known RLCT ----


def ground_truth(args: argparse.Namespace) -> None:
    """Estimate models of known RLCT. The exit code is 1 if an estimate is ok and wrong."""
    from selfmod_hf.complexity.ground_truth.self_test import HEADER, self_test, verdict

    print(HEADER)
    found = []
    for estimate in self_test(60 if args.tiny else None, device=device()):
        found.append(estimate)
        print(estimate.line())
        if args.tiny:
            break
    is_right, text = verdict(found)
    print(text)
    if not is_right and not args.tiny:
        raise SystemExit(1)


def device() -> str:
    """Return the accelerator, or the CPU if there is none."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


# ---- speed ----


def benchmark(args: argparse.Namespace) -> None:
    """Measure populations and LLCs, and their share of the rate of large matrix products."""
    done = Measured(args.folder / "benchmark.jsonl")
    peaks = {}
    for kind in KINDS:
        peaks[kind] = done.value(f"peak {kind}, operations a second", partial(matmul_rate, kind, args.tiny))
    for ways in (populations(args), estimates(args)):
        for name, kind, operations, measure in ways:
            seconds = done.value(name, measure)
            share = operations / seconds / peaks[kind]
            print(f"| {name} | {1e3 * seconds:.3f} ms | {100 * share:.1f} % of the peak |")


class Measured:
    """Seconds by name, in a JSON Lines file. What the file has is not measured again."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.values: dict[str, float] = {}
        if file.exists():
            for line in file.read_text().splitlines():
                row = json.loads(line)
                self.values[row["name"]] = row["value"]

    def value(self, name: str, measure: Callable[[], float]) -> float:
        if name not in self.values:
            self.values[name] = measure()
            with self.file.open("a") as out:
                out.write(json.dumps({"name": name, "value": self.values[name]}) + "\n")
        return self.values[name]


Way = tuple[str, str, float, Callable[[], float]]  # name, type of numbers, operations, seconds of these


def matmul_rate(kind: str, tiny: bool) -> float:
    """Return the operations a second of a large matrix product, the best of ten."""
    import torch

    size = 256 if tiny else 8192
    matrix = torch.randn(size, size, device=device(), dtype=getattr(torch, kind))
    seconds = float("inf")
    for _ in range(10):
        seconds = min(seconds, timed(lambda: matrix @ matrix))
    return 2 * size**3 / seconds


def timed(work: Callable[[], object]) -> float:
    """Return the seconds of some work, the GPU's part of it too."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def operations_of(width: int, outputs: int) -> float:
    """Return the operations of one sample's gradient: 6 for each parameter, 4 in the first layer (docs/scaling.md)."""
    first = PIXELS * width
    parameters = first + width + (width + 1) * outputs
    return 6 * parameters - 2 * first


def populations(args: argparse.Namespace) -> list[Way]:
    """Return an epoch of one network in populations of MLPs 784-64-10 with 64 predicted activations."""
    from benchmark import population_epoch

    from selfmod_hf.data import load_images, make_task

    spec = make_task("mnist", {"dataset_name": str(args.folder / "data" / "mnist.safetensors")})
    data = load_images(spec, max_train_samples=64 if args.tiny else None).train
    found: list[Way] = []
    for batch_size in (64,) if args.tiny else BATCH_SIZES:
        for count in (2,) if args.tiny else MEMBERS:
            for kind in KINDS:
                name = f"population of {count}, batch {batch_size}, {kind}: a network-epoch"
                measure = partial(population_epoch, data, batch_size, count, kind == "bfloat16")
                found.append((name, kind, len(data) * operations_of(64, CLASSES + 64), measure))
    return found


def estimates(args: argparse.Namespace) -> list[Way]:
    """Return a draw of the chains of one network's LLC, sampled with others."""
    import torch
    from llc_speed import NO_CHECKS, new_network, ours

    draws = 4 if args.tiny else 200
    inputs = torch.randn(1024, 1, 28, 28, device=device())
    labels = torch.randint(CLASSES, (1024,), device=device())

    def seconds_of_a_draw(width: int, count: int, kind: str) -> float:
        networks = [new_network(width, seed).to(device()) for seed in range(count)]
        dtype = getattr(torch, kind)
        run = partial(ours, inputs, labels, networks, draws, preset=NO_CHECKS, dtype=dtype)
        run()  # records the step
        return timed(run) / draws / count

    found: list[Way] = []
    for width in (8,) if args.tiny else WIDTHS:
        for count in (2,) if args.tiny else NETWORKS:
            for kind in KINDS:
                name = f"LLC of {count} networks, h = {width}, {CHAINS} chains, {kind}: a draw of a network"
                operations = CHAINS * SAMPLING_BATCH * operations_of(width, CLASSES)
                found.append((name, kind, operations, partial(seconds_of_a_draw, width, count, kind)))
    return found


PARTS: dict[str, Callable[[argparse.Namespace], None]] = {
    "pack": pack,
    "compare": compare,
    "ground_truth": ground_truth,
    "benchmark": benchmark,
}

if __name__ == "__main__":
    main()
