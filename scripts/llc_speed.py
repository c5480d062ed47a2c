"""Seconds of an estimate of the LLC in this package, devinterp and canonical-interp, side by side in one run.

`python scripts/benchmark.py llc`. Every tool gets MNIST as tensors in memory, the settings of the paper, 4 chains and a
batch of 512. The tools take turns, so that a machine that slows down slows all of them. A tool that is not installed is
left out.
"""

from __future__ import annotations

import argparse
import logging
import math
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

BATCH_SIZE, CHAINS = 512, 4
STEP_SIZE, LOCALIZATION = 1e-4, 100.0
NBETA = BATCH_SIZE / math.log(BATCH_SIZE)
NO_CHECKS = "paper (mnist)"  # neither foretold biases nor a search for a lower loss: the other tools have none
# nβ by name, because a preset with a number in its place is no longer the paper's, and has the checks
OURS: dict[str, Any] = {
    "step_size": STEP_SIZE,
    "localization": LOCALIZATION,
    "nbeta": "batch/log batch",
    "num_chains": CHAINS,
    "batch_size": BATCH_SIZE,
}
DRAWS = {64: 1000, 512: 300}  # hidden size -> draws of each chain

Estimate = tuple[float, float]  # LLC, standard deviation over the chains


@dataclass(frozen=True)
class Tool:
    """A way to estimate the LLC.

    Attributes:
        name: of the row.
        run: (networks, draws) -> the estimate of the first network. It estimates all of them.
        compiles: whether the first run compiles.
    """

    name: str
    run: Callable[[Sequence[Any], int], Estimate]
    compiles: bool = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument("--models", nargs="*", default=[], help="trained MNIST networks, to compare the estimates")
    parser.add_argument("--hidden_sizes", nargs="*", type=int, default=[64, 512])
    parser.add_argument("--networks", nargs="*", type=int, default=[1, 10], help="numbers of networks at once")
    parser.add_argument("--tools", nargs="*", default=None, help="names of rows of the table; default: all")
    parser.add_argument("--draws", type=int, default=None, help="default: 1000, and 300 with 512 hidden units")
    parser.add_argument("--repeats", type=int, default=3, help="times of each tool. The table has the median")
    parser.add_argument("--samples", type=int, default=None, help="of MNIST's training split; default: all")
    parser.add_argument("--mnist", type=Path, default=None, help="MNIST in Hub layout; default: from the Hub")
    parser.add_argument("--threads", type=int, default=None, help="torch's own default, if not given")


def run(args: argparse.Namespace, print_table: Callable[..., None]) -> None:
    """Print the estimates of `--models`, and a table of seconds for each width and number of networks."""
    os.environ.setdefault("TQDM_DISABLE", "1")  # read at tqdm's import: no bars of devinterp's chains
    import torch

    from selfmod_hf import SelfModelingForImageClassification

    if args.threads:
        torch.set_num_threads(args.threads)
    warnings.filterwarnings("ignore", module="devinterp")
    logging.disable(logging.WARNING)
    inputs, labels = mnist(args)
    tools = chosen_tools(installed_tools(inputs, labels), args.tools)
    for folder in args.models:
        network = SelfModelingForImageClassification.from_pretrained(folder).prune()
        print_estimates(folder, plain_network(network), tools)
    for hidden in args.hidden_sizes:
        draws = args.draws or DRAWS.get(hidden, 300)
        for count in args.networks:
            networks = [new_network(hidden, seed) for seed in range(count)]
            rows = seconds_in_turn(tools, networks, draws, args.repeats)
            width = f"MLP 784-{hidden}-10, {count} network{'s' * (count > 1)}"
            print_table(f"LLC, {width}, {CHAINS} chains x {draws} draws, batch {BATCH_SIZE}", rows, "seconds a network")


def mnist(args: argparse.Namespace) -> tuple[Any, Any]:
    """Return the pictures and labels of MNIST's training split."""
    from selfmod_hf import TaskSpec
    from selfmod_hf.data import get_task, load_images

    task = get_task("mnist")
    if args.mnist is not None:
        task = TaskSpec(name="mnist", dataset_name=str(args.mnist))
    return load_images(task, max_train_samples=args.samples, max_test_samples=100).train.all()


def plain_network(model: Any) -> Any:
    """Return the pruned MLP as a plain torch module, pictures to logits."""
    from torch import nn

    return nn.Sequential(nn.Flatten(), *model.hidden, model.classifier).eval()


def new_network(hidden: int, seed: int) -> Any:
    """Return an untrained MLP."""
    import torch
    from torch import nn

    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(784, hidden), nn.ReLU(), nn.Linear(hidden, 10)).eval()


def print_estimates(name: str, model: Any, tools: Sequence[Tool]) -> None:
    """Print the estimate of each tool."""
    print(f"\n{name}: LLC (standard deviation over {CHAINS} chains), 1000 draws, the second half")
    for tool in tools:
        if not tool.compiles:
            mean, spread = tool.run([model], 1000)
            print(f"| {tool.name} | {mean:.2f} | {spread:.2f} |")  # canonical-interp gives the mean alone: nan


def seconds_in_turn(
    tools: Sequence[Tool],
    networks: Sequence[Any],
    draws: int,
    repeats: int,
) -> list[tuple[str, float]]:
    """Return the median seconds a network of each tool. The first run of a tool that compiles is left out."""
    for tool in tools:
        if tool.compiles:
            start = time.perf_counter()
            tool.run(networks[:1], draws)
            print(f"{tool.name}: first run, with compiling, {time.perf_counter() - start:.1f} s", flush=True)
    seconds: dict[str, list[float]] = {tool.name: [] for tool in tools}
    for _ in range(repeats):
        for tool in tools:
            start = time.perf_counter()
            tool.run(networks, draws)
            each = (time.perf_counter() - start) / len(networks)
            seconds[tool.name].append(each)
            print(f"{tool.name}: {each:.2f} s", flush=True)
    return [(name, statistics.median(times)) for name, times in seconds.items()]


# ---- the tools ----


def installed_tools(inputs: Any, labels: Any) -> list[Tool]:
    """Return the rows of the table. Say which tools are missing."""
    import torch

    data = (inputs, labels)
    half = partial(ours, *data, dtype=torch.bfloat16)
    found = [
        Tool("ours", partial(ours, *data, preset=NO_CHECKS)),
        Tool("ours, biases foretold", partial(ours, *data, control_variate=False)),
        Tool("ours, biases foretold, control variate", partial(ours, *data, control_variate=True)),
        Tool("ours, shared minibatches", partial(ours, *data, preset=NO_CHECKS, shared_minibatches=True)),
        Tool("ours, bfloat16", partial(half, preset=NO_CHECKS)),
        Tool("ours, bfloat16, shared minibatches", partial(half, preset=NO_CHECKS, shared_minibatches=True)),
        Tool("ours, bfloat16, biases foretold, control variate", partial(half, control_variate=True)),
    ]
    number = installed("devinterp", "devinterp.slt.llc")
    if number is not None:
        found.append(Tool(f"devinterp {number}", partial(devinterp, *data)))
    number = installed("canonical-interp", "canonical_interp.slt")
    if number is not None:
        name = f"canonical-interp {number}"
        found.append(Tool(name, partial(canonical, *data, compiled=False)))
        found.append(Tool(f"{name}, compiled", partial(canonical, *data, compiled=True), compiles=True))
    return found


def chosen_tools(tools: list[Tool], names: Sequence[str] | None) -> list[Tool]:
    """Return the tools of these names. None: all."""
    if names is None:
        return tools
    known = [tool.name for tool in tools]
    for name in names:
        if name not in known:
            raise SystemExit(f"--tools {name!r}: allowed are {', '.join(known)}")
    return [tool for tool in tools if tool.name in names]


def installed(package: str, module: str) -> str | None:
    """Return the version of a package. None: one of its modules cannot be imported."""
    try:
        import_module(module)
    except ImportError as error:  # canonical-interp needs Python 3.12
        print(f"{package} is left out: {error}")
        return None
    return version(package)


def ours(inputs: Any, labels: Any, networks: Sequence[Any], draws: int, **settings: Any) -> Estimate:
    """Estimate the LLC of all networks at once."""
    from selfmod_hf.complexity import estimate_llc_many

    results = estimate_llc_many(
        networks,
        inputs,
        labels,
        num_draws=draws,
        **OURS,
        **settings,
    )
    first = results[0]
    return first.llc, float(first.llc_per_chain.std(ddof=1))


def devinterp(inputs: Any, labels: Any, networks: Sequence[Any], draws: int) -> Estimate:
    """Estimate the LLC of one network after another with devinterp 2. The draws of the second half count."""
    import torch
    from datasets import Dataset
    from devinterp.slt.llc import llc

    def losses(model: Any, tokens: Any) -> Any:
        """Return the losses (B, 1). A sample is two tokens: its number, and a zero."""
        rows = tokens[:, 0]
        logits = model(inputs[rows])
        return torch.nn.functional.cross_entropy(logits, labels[rows], reduction="none")[:, None]

    numbers = torch.arange(len(labels))
    tokens = torch.stack([numbers, torch.zeros_like(numbers)], dim=1)
    rows = Dataset.from_dict({"input_ids": tokens.numpy()}).with_format("torch")
    estimates = []
    for network in networks:
        with tempfile.TemporaryDirectory() as folder:
            found = llc(
                network,
                rows,
                {},
                lr=STEP_SIZE,
                n_beta=NBETA,
                localization=LOCALIZATION,
                num_chains=CHAINS,
                num_draws=draws,
                batch_size=BATCH_SIZE,
                match_sampling_input_ids_across_chains=False,
                loss_fn=losses,
                device="cpu",
                output_path=f"{folder}/samples.zarr",
            )
            trace = NBETA * (found.loss_trace.values - float(found.init_loss))  # (chains, steps)
        kept = trace[:, draws // 2 :].mean(1)
        estimates.append((float(kept.mean()), float(kept.std(ddof=1))))
    return estimates[0]


class Gathered:
    """A data set that hands a DataLoader whole batches. Batches of single samples would only be slower."""

    def __init__(self, inputs: Any, labels: Any) -> None:
        self.inputs, self.labels = inputs, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitems__(self, rows: list[int]) -> tuple[Any, Any]:
        return self.inputs[rows], self.labels[rows]


def canonical(inputs: Any, labels: Any, networks: Sequence[Any], draws: int, *, compiled: bool) -> Estimate:
    """Estimate the LLC of one network after another with canonical-interp."""
    from canonical_interp.slt import LLCEstimator
    from torch.utils.data import DataLoader

    data: Any = Gathered(inputs, labels)
    estimates = []
    for network in networks:
        loader: Any = DataLoader(
            data, batch_size=BATCH_SIZE, shuffle=True, drop_last=True, collate_fn=lambda batch: batch
        )
        estimator = LLCEstimator(
            draws=draws - draws // 2,
            chains=CHAINS,
            burnin_steps=draws // 2,
            learning_rate=STEP_SIZE,
            localization=LOCALIZATION,
            nbeta=NBETA,
        )
        mode = "default" if compiled else False
        found = estimator.estimate_llc(network, loader, seed=0, compile=mode, show_progress=False)
        estimates.append((float(found.mean()), float(found.std())))
    return estimates[0]
