"""Side-by-side measurements, each a table printed from one run: `python scripts/benchmark.py trainer`.

Sub-commands: trainer, llc, ground_truth, status, population, scaling, cifar10, imdb, attention, encoder, report.
Figures belong in LOG.md with the kind of machine.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import attention_speed
import encoder_overhead
import ground_truth_table
import llc_speed
import status_table


def machine() -> str:
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    return f"{device}, {platform.machine()}, torch {torch.__version__}"


def print_table(title: str, rows: list[tuple[str, float]], unit: str) -> None:
    """Rows of name and seconds, and the ratio of each to the first."""
    print(f"\n{title}\n{machine()}\n")
    print(f"| | {unit} | ratio |\n|---|---|---|")
    for name, value in rows:
        print(f"| {name} | {value:.3f} | {value / rows[0][1]:.2f} |")


# ------------------------------------------------------------------------------------- trainer


def benchmark_trainer(args: argparse.Namespace) -> None:
    """Seconds per epoch: our Trainer, transformers' own on the same network, the usual PIL pipeline."""
    from selfmod_hf.data import get_task, load_images

    data = load_images(get_task("mnist"), max_train_samples=args.samples, max_test_samples=100).train
    samples = InMemory(data)
    ways: dict[str, Callable[[], float]] = {
        "ours": lambda: trainer_epoch(data, args.batch_size, ours=True),
        "transformers Trainer, our loader": lambda: trainer_epoch(data, args.batch_size, ours=False),
        "transformers Trainer, in-memory tensors": lambda: trainer_epoch(samples, args.batch_size, ours=False),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(args.repeats):  # interleaved: a slow minute of the machine touches all
        for name, run in ways.items():
            seconds[name].append(run())
    rows = [(name, statistics.median(values)) for name, values in seconds.items()]
    rows.append(("PIL transforms, 2-worker DataLoader, plain loop", pil_epoch(args.samples, args.batch_size)))
    title = f"MNIST MLP h = 64, AW 10, batch {args.batch_size}, {len(data):,} images, median of {args.repeats}"
    print_table(title, rows, "seconds an epoch")


class InMemory:
    """Normalized tensors, one sample at a time: what a plain Trainer is usually given."""

    def __init__(self, data: Any) -> None:
        self.pixels, self.labels = data.all()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"pixel_values": self.pixels[index], "labels": self.labels[index]}


def mnist_network() -> Any:
    from transformers import set_seed

    from selfmod_hf import SelfModelingConfig, SelfModelingForImageClassification

    set_seed(0)
    config = SelfModelingConfig(hidden_sizes=[64], target_layers=["hidden.relu1"], aux_weight=10.0, num_labels=10)
    return SelfModelingForImageClassification(config)


def trainer_epoch(data: Any, batch_size: int, ours: bool, model: Any = None, **changes: Any) -> float:
    """Seconds of the second of two epochs; `model` may be a population. `changes`: of the training arguments."""
    import torch
    from transformers import Trainer, TrainerCallback, TrainingArguments

    from selfmod_hf import SelfModelingTrainer, SelfModelingTrainingArguments
    from selfmod_hf.data import EpochBatchSampler, ImageTensors, TensorDataLoader

    class Stopwatch(TrainerCallback):
        def on_epoch_begin(self, *args: Any, **kwargs: Any) -> None:
            self.start = time.perf_counter()

        def on_epoch_end(self, *args: Any, **kwargs: Any) -> None:
            self.seconds = time.perf_counter() - self.start

    class PlainTrainer(Trainer):
        def get_train_dataloader(self) -> Any:
            if not isinstance(data, ImageTensors):
                return super().get_train_dataloader()
            return TensorDataLoader(data, EpochBatchSampler(len(data), batch_size, seed=0))

    settings = {
        "output_dir": tempfile.mkdtemp(),
        "optim": "sgd",
        "optim_args": "momentum=0.9,nesterov=True",
        "learning_rate": 0.005,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
        "per_device_train_batch_size": batch_size,
        "num_train_epochs": 2,
        "logging_strategy": "epoch",
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "logging_nan_inf_filter": False,
        "use_cpu": not torch.accelerator.is_available(),  # bf16 on a CPU asks for it
        **changes,
    }
    trainer_class, args_class = (
        (SelfModelingTrainer, SelfModelingTrainingArguments) if ours else (PlainTrainer, TrainingArguments)
    )
    watch = Stopwatch()
    trainer = trainer_class(
        model=model or mnist_network(), args=args_class(**settings), train_dataset=data, callbacks=[watch]
    )
    trainer.train()
    return watch.seconds


class Pictures:
    """PIL images through per-sample transforms, as image pipelines usually read them."""

    def __init__(self, samples: int | None) -> None:
        from datasets import load_dataset
        from torchvision import transforms

        data = load_dataset("ylecun/mnist", split="train")
        self.data = data if samples is None else data.select(range(samples))
        self.transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.5,), (0.5,))])

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        row = self.data[index]
        return self.transform(row["image"]), row["label"]


def pil_epoch(samples: int | None, batch_size: int) -> float:
    """Seconds of one epoch of the usual pipeline; its workers start with the epoch, as DataLoader has it."""
    import torch
    from torch.utils.data import DataLoader

    model = mnist_network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.005, momentum=0.9, nesterov=True)
    pictures: Any = Pictures(samples)
    loader: Any = DataLoader(pictures, batch_size=batch_size, shuffle=True, num_workers=2)
    start = time.perf_counter()
    for pixels, labels in loader:
        optimizer.zero_grad()
        model(pixels, labels).loss.backward()
        optimizer.step()
    return time.perf_counter() - start


# ------------------------------------------------------------------------------------- population


def benchmark_population(args: argparse.Namespace) -> None:
    """Seconds per network and epoch: populations beside single networks, and the arithmetic's share of it."""
    from selfmod_hf.data import get_task, load_images

    data = load_images(get_task("mnist"), max_train_samples=args.samples, max_test_samples=100).train
    if args.arms:
        benchmark_arms(data, args)
        return
    for batch_size in args.batch_sizes:
        peak = len(data) * 6 * 64 * 784 * 2 / 3 / matmul_rate(batch_size)  # no gradient of the input
        ways: dict[str, Callable[[], float]] = {
            f"population of {count}{', bf16' if bf16 else ''}": partial(population_epoch, data, batch_size, count, bf16)
            for bf16 in (False, True)
            for count in args.members
        }
        ways["ours, one network"] = partial(trainer_epoch, data, batch_size, ours=True)
        ways["transformers Trainer, one network"] = partial(trainer_epoch, data, batch_size, ours=False)
        ways["transformers Trainer, in-memory tensors"] = partial(trainer_epoch, InMemory(data), batch_size, ours=False)
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(args.repeats):
            for name, run in ways.items():
                seconds[name].append(run())
        rows = [(name, statistics.median(values)) for name, values in seconds.items()]
        if args.pil:
            rows.append(("PIL transforms, 2-worker DataLoader, plain loop", pil_epoch(args.samples, batch_size)))
        rows.append(("the first layer's matrix products alone, at this machine's rate", peak))
        title = f"MNIST MLP h = 64, AW 10, batch {batch_size}, {len(data):,} images, median of {args.repeats}"
        print_table(title, rows, "seconds a network-epoch")


# arms of controls: each has a value that is another block or another parameter group of the population
ARMS: tuple[dict[str, Any], ...] = (
    {"aux_weight": 0.0},
    {"aux_weight": 10.0},
    {"aux_weight": 10.0, "target_source": "shuffled"},
    {"aux_weight": 10.0, "target_source": "random"},
    {"aux_weight": 0.0, "activation_penalty": 0.1},
    {"aux_weight": 0.0, "weight_decay": 1e-3, "weight_decay_parameters": ("classifier.*",)},
)


def benchmark_arms(data: Any, args: argparse.Namespace) -> None:
    """Seconds per network and epoch of networks of one arm, and of as many of six arms, alternately."""
    for batch_size in args.batch_sizes:
        for count in args.members:
            ways = {
                f"{count} networks of one arm": partial(population_epoch, data, batch_size, count, False),
                f"{count} networks of {len(ARMS)} arms": partial(
                    population_epoch, data, batch_size, count, False, ARMS
                ),
            }
            seconds: dict[str, list[float]] = {name: [] for name in ways}
            for _ in range(args.repeats):
                for name, run in ways.items():
                    seconds[name].append(run())
            rows = [(name, statistics.median(values)) for name, values in seconds.items()]
            title = f"MNIST MLP h = 64, batch {batch_size}, {len(data):,} images, median of {args.repeats}"
            print_table(title, rows, "seconds a network-epoch")


def population_epoch(
    data: Any, batch_size: int, count: int, bf16: bool, arms: tuple[dict[str, Any], ...] = ({"aux_weight": 10.0},)
) -> float:
    """Seconds of one epoch, per member."""
    from selfmod_hf import Member, SelfModelingPopulation

    seeds = range(count // len(arms))
    members = [Member(seed, **arm) for arm in arms for seed in seeds]
    population = SelfModelingPopulation(mnist_network().config, members)
    return trainer_epoch(data, batch_size, ours=True, model=population, bf16=bf16) / count


def matmul_rate(batch_size: int) -> float:
    """Operations a second of the first layer's product for 10 networks, the best of 20."""
    import torch

    images, weights = torch.randn(10, batch_size, 784), torch.randn(10, 784, 64)
    best = float("inf")
    for _ in range(20):
        start = time.perf_counter()
        torch.bmm(images, weights)
        best = min(best, time.perf_counter() - start)
    return 2 * images.numel() * 64 / best


# ------------------------------------------------------------------------------------- scaling

SAMPLES, BATCH, WIDTH, CHAINS = 8192, 512, 64, 4  # pictures of 28x28, random; an MLP of one hidden layer


def benchmark_scaling(args: argparse.Namespace) -> None:
    """Seconds of a training step and of a gradient of all chains as networks and processes grow, beside the model
    overhead + networks x cost, whose two numbers are taken from the smallest and the largest row."""
    if args.one_of is not None:
        scaling_rows(args)
        return
    tables = {processes: scaling_in(processes, args) for processes in args.processes}
    print(f"{machine()}\nfirst layer's products alone: {matmul_rate(BATCH) / 1e9:.0f} GFLOP/s")
    for kind, unit in (("training", "networks"), ("llc", f"networks x {CHAINS} chains")):
        print(f"\n{kind}, ms\n\n| processes | {unit} | measured | model | model / measured | a network |")
        print("|---|---|---|---|---|---|")
        for processes, found in tables.items():
            rows = [(int(count), 1e3 * seconds) for count, seconds in found[kind].items()]
            (least, first), (most, last) = rows[0], rows[-1]
            cost = (last - first) / (most - least)
            for count, measured in rows:
                model = first + cost * (count - least)
                share = f"{model / measured:.2f}" if count not in (least, most) else "fitted"
                print(f"| {processes} | {count} | {measured:.2f} | {model:.2f} | {share} | {measured / count:.3f} |")
            print(f"| {processes} | overhead {first - cost * least:.2f}, a network {cost:.3f} | | | | |")


def scaling_in(processes: int, args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """{"training": {networks: seconds a step}, "llc": ...}, by this many processes; all cores in use."""
    import json
    import os
    import subprocess
    import sys

    with tempfile.TemporaryDirectory() as folder:
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        flags = ["--members", *args.members, "--networks", *args.networks, "--one_of", folder]
        command = [sys.executable, *(launcher if processes > 1 else []), __file__, "scaling", *flags]
        threads = max(1, (os.cpu_count() or 1) // processes)
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        subprocess.run(list(map(str, command)), check=True, env=environment, stdout=subprocess.DEVNULL)
        with open(f"{folder}/rows.json", encoding="utf-8") as file:
            return json.load(file)


def scaling_rows(args: argparse.Namespace) -> None:
    """What each process of a launcher does; the first one writes `rows.json`."""
    import json

    import torch
    from accelerate import PartialState

    from selfmod_hf import Member, SelfModelingPopulation
    from selfmod_hf.complexity import estimate_llc_many
    from selfmod_hf.data import ImageTensors

    state = PartialState(cpu=True)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (SAMPLES, 1, 28, 28), dtype=torch.uint8, generator=generator)
    data = ImageTensors(pixels, torch.randint(0, 10, (SAMPLES,), generator=generator))
    rows: dict[str, dict[int, float]] = {"training": {}, "llc": {}}
    for count in args.members:
        population = SelfModelingPopulation(mnist_network().config, [Member(seed, 10.0) for seed in range(count)])
        rows["training"][count] = trainer_epoch(data, BATCH, ours=True, model=population) / (SAMPLES // BATCH)
    inputs, labels = data.all()
    for count in args.networks:
        networks = [llc_speed.plain_network(mnist_network().prune()) for _ in range(count)]

        def sample(draws: int, networks: list[Any] = networks) -> None:
            estimate_llc_many(
                networks, inputs, labels, num_chains=CHAINS, num_draws=draws, batch_size=BATCH, nbeta=82.0,
                step_size=1e-5, memory_budget=4 << 30,
            )  # fmt: skip

        # what is done once (recording the step, w*'s losses) falls out of the difference. Some steps take a second
        # gradient, for the acceptance: 25 of 100, 5 of 5 (26 of 1,000)
        rows["llc"][count] = (timed(partial(sample, 100)) - timed(partial(sample, 5))) / (125 - 10)
    if state.is_main_process:
        with open(f"{args.one_of}/rows.json", "w", encoding="utf-8") as file:
            json.dump(rows, file)
    state.wait_for_everyone()
    state.destroy_process_group()


# ------------------------------------------------------------------------------------- llc


def benchmark_llc(args: argparse.Namespace) -> None:
    """Seconds of an LLC estimate beside devinterp 2.0.1 and canonical-interp. With --models, the estimates too.

    Needs `pip install -e .[bench]` and Python 3.12.
    """
    llc_speed.run(args, print_table)


def benchmark_ground_truth(args: argparse.Namespace) -> None:
    """Calibrated estimates of models of known λ, by kind, beside the truth."""
    print(machine())
    ground_truth_table.run(args)


def benchmark_status(args: argparse.Namespace) -> None:
    """Error rates of the status and coverage of intervals, on models of known λ and on trained classifiers."""
    print(machine())
    status_table.run(args)


# ------------------------------------------------------------------------------------- cifar10


def benchmark_cifar10(args: argparse.Namespace) -> None:
    """Seconds a step of the paper's ResNet-18: ours with self-modeling and augmentation, transformers' Trainer on the
    same network and on the plain one, and the arithmetic of the self-model's head. Random pixels: the time does not
    depend on them."""
    import torch

    from selfmod_hf.data import ImageTensors, RandomAffine

    steps, size = args.steps, 64
    pixels = torch.randint(0, 256, (steps * size, 3, 32, 32), dtype=torch.uint8)
    data = ImageTensors(pixels, torch.arange(steps * size) % 10, augmentation=RandomAffine())
    plain_data = InMemory(data)
    adam = {"optim": "adamw_torch_fused", "optim_args": None, "learning_rate": 1e-4, "weight_decay": 0.0}
    network = cifar10_network()
    ways: dict[str, Callable[[], float]] = {
        "transformers Trainer, the network without self-model": lambda: trainer_epoch(
            plain_data, size, ours=False, model=network.prune(), **adam
        ),
        "transformers Trainer, the network with self-model": lambda: trainer_epoch(
            plain_data, size, ours=False, model=network, **adam
        ),
        "ours, with self-model and augmentation": lambda: trainer_epoch(data, size, ours=True, model=network, **adam),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(args.repeats):
        for name, run in ways.items():
            seconds[name].append(run() / steps)
    plain, same, ours = (statistics.median(values) for values in seconds.values())
    head = head_step(network, size)
    rows = [*zip(ways, (plain, same, ours), strict=True), ("arithmetic of the self-model's head alone", head)]
    print_table(f"CIFAR-10 ResNet-18, batch {size}, median of {args.repeats} x {steps} steps", rows, "seconds a step")
    print(
        f"overhead over the same network in a plain Trainer: {100 * (ours / same - 1):+.1f} %; over the plain one, "
        f"outside the head's arithmetic: {100 * ((ours - head) / plain - 1):+.1f} %"
    )


def benchmark_attention(args: argparse.Namespace) -> None:
    """Seconds of a draw of four chains by the form of a transformer's attention."""
    attention_speed.run(args, print_table)


def benchmark_encoder(args: argparse.Namespace) -> None:
    """Seconds a step of a BERT-base-shaped classifier with a self-model, and in transformers' own Trainer."""
    encoder_overhead.run(args, print_table)


def cifar10_network() -> Any:
    from transformers import set_seed

    from selfmod_hf import SelfModelingConfig, SelfModelingForImageClassification
    from selfmod_hf.data import get_task

    set_seed(0)
    recipe = get_task("cifar10").recipe
    names = ("backbone", "small_image_stem", "hidden_sizes", "target_layers", "aux_weight")
    fields = {name: recipe[name] for name in names}
    return SelfModelingForImageClassification(
        SelfModelingConfig(**fields, image_size=32, num_channels=3, num_labels=10)
    )


def head_step(network: Any, batch_size: int) -> float:
    """Seconds of forward, backward and Adam's step of the self-model's head, a linear layer, the median of 5."""
    import torch

    head = network.self_model_head
    optimizer = torch.optim.AdamW(head.parameters(), weight_decay=0.0, fused=True)
    features = torch.randn(batch_size, head.in_features, requires_grad=True)
    targets = torch.randn(batch_size, head.out_features)

    def step() -> None:
        optimizer.zero_grad()
        (head(features) - targets).square().mean().backward()
        optimizer.step()

    step()
    return statistics.median(timed(step) for _ in range(5))


# ------------------------------------------------------------------------------------- imdb


def benchmark_imdb(args: argparse.Namespace) -> None:
    """Seconds per network and epoch of the paper's IMDB recipe: populations, one network, and the usual pipeline."""
    from selfmod_hf import Member, SelfModelingConfig, SelfModelingForSequenceClassification, SelfModelingPopulation
    from selfmod_hf.data import get_task, load_texts

    data = load_texts(get_task("imdb"), max_test_samples=100).train
    kwargs = {"num_embeddings": len(data.tokenizer), "embedding_dim": 64}
    config = SelfModelingConfig(
        backbone="embedding_bag", backbone_kwargs=kwargs, hidden_sizes=[128], target_layers=["hidden.relu1"],
        aux_weight=100.0,
    )  # fmt: skip
    sgd = {"optim_args": None, "learning_rate": 0.1, "weight_decay": 0.0}

    def population(count: int) -> float:
        model = SelfModelingPopulation(config, [Member(seed, 100.0) for seed in range(count)])
        return trainer_epoch(data, 64, ours=True, model=model, **sgd) / count

    def single() -> float:
        return trainer_epoch(data, 64, ours=True, model=SelfModelingForSequenceClassification(config), **sgd)

    rows = [(f"population of {count}", population(count)) for count in args.members]
    rows.append(("ours, one network", single()))
    share = args.pipeline_samples / len(data)
    rows.append(("tokenizing per batch in 2 workers, dense gradients, plain loop", text_pipeline(args, config) / share))
    title = f"IMDB, {len(data):,} reviews, batch 64; the last row from {args.pipeline_samples:,} reviews"
    print_table(title, rows, "seconds a network-epoch")


def text_pipeline(args: argparse.Namespace, config: Any) -> float:
    """Seconds of an epoch over some reviews as the usual pipeline does it: words by regular expressions in a
    DataLoader's workers, torch's embedding bag with its dense gradient, a plain loop."""
    import re

    import torch
    from datasets import load_dataset
    from torch import nn
    from torch.utils.data import DataLoader

    from selfmod_hf.data.tokenizer import BASIC_ENGLISH

    every = load_dataset("stanfordnlp/imdb", split="train")
    rows = every.select([index * len(every) // args.pipeline_samples for index in range(args.pipeline_samples)])
    patterns = [(re.compile(re.escape(old)), new) for old, new in BASIC_ENGLISH]

    def words(text: str) -> list[str]:
        text = text.lower()
        for pattern, replacement in patterns:
            text = pattern.sub(replacement, text)
        return text.split()

    known = sorted({word for text in every["text"] for word in words(text)})
    numbers = {word: number for number, word in enumerate(known, start=1)}

    def collate(batch: list[dict[str, Any]]) -> tuple[Any, Any, Any]:
        tokens = [torch.tensor([numbers.get(word, 0) for word in words(row["text"])]) for row in batch]
        offsets = torch.tensor([0, *map(len, tokens)])[:-1].cumsum(0)
        return torch.cat(tokens), offsets, torch.tensor([row["label"] for row in batch])

    bag = nn.EmbeddingBag(config.backbone_kwargs["num_embeddings"], 64)
    hidden, heads = nn.Sequential(nn.Linear(64, 128), nn.ReLU()), nn.Linear(128, 2 + 128)
    optimizer = torch.optim.SGD([*bag.parameters(), *hidden.parameters(), *heads.parameters()], lr=0.1)
    loader: Any = DataLoader(rows, batch_size=64, shuffle=True, num_workers=2, collate_fn=collate)
    start = time.perf_counter()
    for tokens, offsets, labels in loader:
        features = hidden(bag(tokens, offsets))
        logits, predictions = heads(features).split([2, 128], dim=1)
        loss = nn.functional.cross_entropy(logits, labels) + 100 * (predictions - features.detach()).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return time.perf_counter() - start


# ------------------------------------------------------------------------------------- report


def benchmark_report(args: argparse.Namespace) -> None:
    """Size of report.html of a made-up study, and seconds until its figures respond in headless Chromium."""
    sys.path.insert(0, str(Path(__file__).parents[1]))  # the tests' folders and browser
    from selfmod_hf.experiments.folder import SweepFolder
    from selfmod_hf.reports.html_report import write_html_report
    from selfmod_hf.reports.sweep_results import read_results
    from selfmod_hf.reports.sweep_tables import sweep_tables
    from tests.reports.folders import grid, write_study

    seeds = range(1, args.networks // args.arms + 1)
    arms = grid(aux_weight=[0.0, *(float(2**power) for power in range(args.arms - 1))])
    folder = Path(tempfile.mkdtemp())
    write_study(folder, arms, seeds, epochs=args.epochs, draws=args.draws)
    start = time.perf_counter()
    results = read_results(SweepFolder(folder))
    tables = sweep_tables(results)
    computed = time.perf_counter()
    page = folder / "report.html"
    write_html_report(results, tables, page)
    written = time.perf_counter()
    starts = [start_of_page(page) for _ in range(args.repeats)]
    responds, drawn, busy = (statistics.median(column) for column in zip(*starts, strict=True))
    rows = [
        ("a figure responds to the mouse", responds),
        ("all figures drawn", drawn),
        ("CPU time of the page until then", busy),
        ("(statistics and tables computed)", computed - start),
        ("(page written)", written - computed),
    ]
    print_table(
        f"report.html, {len(results.rows):,} networks, {args.arms} arms, median of {args.repeats}", rows, "seconds"
    )
    times = ", ".join(f"{first:.2f} ({last:.2f})" for first, last, _ in starts)
    megabytes = page.stat().st_size / 1e6
    print(f"\n{megabytes:.2f} MB; each start, responds (all drawn): {times}; load {os.getloadavg()[0]:.1f}")


def start_of_page(page: Path) -> tuple[float, float, float]:
    """Seconds from opening a page in a new browser until a figure shows the mark below the mouse, until all are drawn,
    and the CPU time of its main thread until then, which does not depend on other work of the machine."""
    from selenium.webdriver.common.action_chains import ActionChains

    from tests.browser import headless_chromium, open_page, wait_for

    browsers = headless_chromium()
    browser = next(browsers)
    open_page(browser, "about:blank")
    browser.execute_cdp_cmd("Performance.enable", {"timeDomain": "threadTicks"})
    open_page(browser, page.as_uri())
    wait_for(browser, "return document.documentElement.dataset.readyAfter")
    right, down = browser.execute_script(TO_A_MARK)
    ActionChains(browser).move_by_offset(right, down).perform()
    wait_for(browser, "return document.querySelector('#rlct .hoverlayer').textContent")
    responds = browser.execute_script("return performance.now()")
    drawn = float(wait_for(browser, "return document.documentElement.dataset.drawnAfter"))
    metrics = browser.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]
    busy = {entry["name"]: entry["value"] for entry in metrics}["ThreadTime"]
    next(browsers, None)  # closes it
    return responds / 1000, drawn / 1000, busy


# pixels from the corner of the page to the first network of the first figure, brought into view
TO_A_MARK = """
const plot = document.getElementById("rlct");
plot.scrollIntoView({block: "center"});
const box = plot.getBoundingClientRect(), { xaxis, yaxis, _size } = plot._fullLayout, { x, y } = plot.data[0];
return [Math.round(box.x + _size.l + xaxis.l2p(x[0])), Math.round(box.y + _size.t + yaxis.l2p(y[0]))];
"""


def timed(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(required=True)
    trainer = commands.add_parser("trainer", help=benchmark_trainer.__doc__)
    trainer.add_argument("--batch_size", type=int, default=64)
    trainer.add_argument("--samples", type=int, default=None, help="of MNIST's training split; default: all")
    trainer.add_argument("--repeats", type=int, default=3)
    trainer.set_defaults(run=benchmark_trainer)
    population = commands.add_parser("population", help=benchmark_population.__doc__)
    population.add_argument("--batch_sizes", nargs="*", type=int, default=[64, 512])
    population.add_argument("--members", nargs="*", type=int, default=[60, 10])
    population.add_argument("--samples", type=int, default=None, help="of MNIST's training split; default: all")
    population.add_argument("--repeats", type=int, default=1)
    population.add_argument("--pil", action="store_true", help="the PIL pipeline too (needs torchvision)")
    population.add_argument("--arms", action="store_true", help="networks of one arm beside networks of six")
    population.set_defaults(run=benchmark_population)
    scaling = commands.add_parser("scaling", help=benchmark_scaling.__doc__)
    scaling.add_argument("--members", nargs="*", type=int, default=[1, 2, 4, 8, 16, 32, 64])
    scaling.add_argument("--networks", nargs="*", type=int, default=[1, 4, 16, 64])
    scaling.add_argument("--processes", nargs="*", type=int, default=[1, 2])
    scaling.add_argument("--one_of", help=argparse.SUPPRESS)  # folder of a process that the command itself starts
    scaling.set_defaults(run=benchmark_scaling)
    llc = commands.add_parser("llc", help=benchmark_llc.__doc__)
    llc_speed.add_arguments(llc)
    llc.set_defaults(run=benchmark_llc)
    ground_truth = commands.add_parser("ground_truth", help=benchmark_ground_truth.__doc__)
    ground_truth_table.add_arguments(ground_truth)
    ground_truth.set_defaults(run=benchmark_ground_truth)
    status = commands.add_parser("status", help=benchmark_status.__doc__)
    status_table.add_arguments(status)
    status.set_defaults(run=benchmark_status)
    cifar10 = commands.add_parser("cifar10", help=benchmark_cifar10.__doc__)
    cifar10.add_argument("--steps", type=int, default=4)
    cifar10.add_argument("--repeats", type=int, default=3)
    cifar10.set_defaults(run=benchmark_cifar10)
    attention = commands.add_parser("attention", help=benchmark_attention.__doc__)
    attention_speed.add_arguments(attention)
    attention.set_defaults(run=benchmark_attention)
    encoder = commands.add_parser("encoder", help=benchmark_encoder.__doc__)
    encoder_overhead.add_arguments(encoder)
    encoder.set_defaults(run=benchmark_encoder)
    report = commands.add_parser("report", help=benchmark_report.__doc__)
    report.add_argument("--networks", type=int, default=1000)
    report.add_argument("--arms", type=int, default=20)
    report.add_argument("--epochs", type=int, default=50)
    report.add_argument("--draws", type=int, default=200)
    report.add_argument("--repeats", type=int, default=5)
    report.set_defaults(run=benchmark_report)
    imdb = commands.add_parser("imdb", help=benchmark_imdb.__doc__)
    imdb.add_argument("--members", nargs="*", type=int, default=[3])
    imdb.add_argument("--pipeline_samples", type=int, default=6400)
    imdb.set_defaults(run=benchmark_imdb)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
