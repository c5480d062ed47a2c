"""Print a hash of the numbers that a fixed list of runs gives, to compare two states of the code bit by bit.

    python scripts/fingerprints.py > before.json        # at the first commit
    python scripts/fingerprints.py --compare before.json    # at the last commit: exit code 1 where a hash differs

Runs: a network trained on digits, a population, a sweep with its RLCTs, an RLCT by each sampler, in float32 and in
bfloat16, of one network and of two at once, a calibration, and, with `--mnist FOLDER` (MNIST in Hub layout), a network
trained on MNIST with its RLCT by the preset `paper`. Hashes depend on the machine and on torch's version. They compare
two states of the code on one machine.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[1]
SHARED_MNIST = CHECKOUT.parent / "shared" / "hub" / "datasets" / "ylecun" / "mnist"
SAMPLERS = {"sgld": 1e-5, "sghmc": 1e-6, "rmsprop_sgld": 1e-6, "fisher_sgld": 1e-6}  # with their step sizes
ROW = ("accuracy", "train_loss", "weight_width", "rlct", "rlct_standard_error", "rlct_status")  # of a sweep


def hash_of(*values: Any) -> str:
    """Return a short hash of tensors, arrays and numbers, in their order."""
    import numpy as np
    import torch

    digest = hashlib.sha256()
    for value in values:
        array = value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
        digest.update(str((array.dtype, array.shape)).encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]


def hash_of_module(module: Any) -> str:
    """Return a hash of all of a module's parameters and buffers."""
    return hash_of(*module.state_dict().values())


def hash_of_result(result: Any) -> str:
    """Return a hash of an RLCT: its traces, estimate, error and status."""
    status = list(result.status.encode())
    return hash_of(result.loss_trace, result.baseline_trace, result.llc, result.standard_error, result.ess, status)


def train(model: Any, data: Any, folder: str, **settings: Any) -> Any:
    """Train a network or a population, and return it."""
    from selfmod_hf import SelfModelingTrainer, SelfModelingTrainingArguments

    arguments = SelfModelingTrainingArguments(
        folder, report_to="none", disable_tqdm=True, use_cpu=True, save_strategy="no", **settings
    )
    SelfModelingTrainer(model=model, args=arguments, train_dataset=data.train, eval_dataset=data.test).train()
    return model


PAPER = {"preset": "paper"}  # no control variate, and the bits of version 0.1.0
SGD = {
    "optim": "sgd",
    "optim_args": "momentum=0.9,nesterov=True",
    "lr_scheduler_type": "constant",
    "max_grad_norm": 0.0,
}


def digits() -> Any:
    """Load scikit-learn's digits."""
    from selfmod_hf import get_task, load_images

    return load_images(get_task("digits"))


def network(hidden_size: int, image_size: int, aux_weight: float) -> Any:
    """Make a self-modeling MLP with seed 1."""
    from transformers import set_seed

    from selfmod_hf import SelfModelingConfig, SelfModelingForImageClassification

    set_seed(1)
    config = SelfModelingConfig(
        hidden_sizes=[hidden_size],
        image_size=image_size,
        num_labels=10,
        target_layers=["hidden.relu1"],
        aux_weight=aux_weight,
    )
    return SelfModelingForImageClassification(config)


def trained_digits(folder: str) -> dict[str, str]:
    """Train one network with SGD and one with AdamW, and estimate RLCTs of both."""
    import torch

    from selfmod_hf import calibrate_rlct, estimate_rlct

    data, found = digits(), {}
    first = train(network(32, 8, 1.0), data, folder, num_train_epochs=10, learning_rate=0.05, seed=1, **SGD)
    second = train(network(32, 8, 10.0), data, folder, num_train_epochs=3, learning_rate=1e-3, seed=2)
    found["train digits sgd"] = hash_of_module(first)
    found["train digits adamw"] = hash_of_module(second)
    for sampler, step_size in SAMPLERS.items():
        settings = {"sampler": sampler, "step_size": step_size, "localization": 100.0, "num_draws": 200, **PAPER}
        (one,) = estimate_rlct([first], data.train, **settings)
        found[f"rlct {sampler}"] = hash_of_result(one)
        for index, result in enumerate(estimate_rlct([first, second], data.train, **settings)):
            found[f"rlct {sampler}, {index} of two"] = hash_of_result(result)
    (low,) = estimate_rlct([first], data.train, step_size=1e-5, num_draws=200, dtype=torch.bfloat16, **PAPER)
    found["rlct sgld bfloat16"] = hash_of_result(low)
    calibration = calibrate_rlct(first, data.train, num_draws=400, **PAPER)
    cells = [hash_of_result(result) for result in calibration.results]
    found["calibrate"] = hash_of(calibration.llc, calibration.standard_error, list("".join(cells).encode()))
    return found


def population_of_digits(folder: str) -> dict[str, str]:
    """Train a population of three members."""
    from selfmod_hf import Member, SelfModelingPopulation

    members = [Member(seed=1, aux_weight=0.0), Member(seed=2, aux_weight=5.0), Member(1, 2.0, detach_targets=False)]
    population = SelfModelingPopulation(network(16, 8, 0.0).config, members)
    train(population, digits(), folder, num_train_epochs=5, learning_rate=0.05, **SGD)
    return {f"population {member.name}": hash_of_module(population.member(k)) for k, member in enumerate(members)}


def sweep_of_digits(folder: str) -> dict[str, str]:
    """Run the command `selfmod sweep` on a small grid."""
    from selfmod_hf import load_results
    from selfmod_hf.cli import main

    flags = ["--hidden_sizes=8", "--aux_weights", "0", "5", "--seeds", "1", "2", "--num_train_epochs=5"]
    flags.append("--learning_rate=0.05")
    limits = ["--num_chains=2", "--num_draws=100", f"--output_dir={folder}/sweep", "--quiet"]
    assert main(["sweep", "--recipe=digits", *flags, *limits]) == 0
    table = load_results(f"{folder}/sweep").sort_values("network")
    return {f"sweep {row['network']}": hash_of(*[str(row[name]) for name in ROW]) for _, row in table.iterrows()}


def trained_mnist(mnist: Path, folder: str) -> dict[str, str]:
    """Train a network on MNIST for one epoch, and estimate its RLCT with the preset `paper` and few draws."""
    from selfmod_hf import TaskSpec, estimate_rlct, load_images
    from selfmod_hf.complexity import llc_preset

    data = load_images(TaskSpec(name="mnist", dataset_name=str(mnist)))
    settings = {"num_train_epochs": 1, "learning_rate": 0.005, "per_device_train_batch_size": 512}
    model = train(network(64, 28, 10.0), data, folder, seed=1, **settings, **SGD)
    (result,) = estimate_rlct([model], data.train, **{**llc_preset("paper", "mnist"), "num_draws": 100})
    return {"train mnist": hash_of_module(model), "rlct mnist paper": hash_of_result(result)}


def main() -> int:
    """Print the hashes as JSON, or those that differ from a file's."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compare", type=Path, help="a file that this script has printed before")
    parser.add_argument("--mnist", type=Path, default=SHARED_MNIST, help="MNIST in Hub layout; left out when missing")
    arguments = parser.parse_args()
    runs: list[Callable[[str], dict[str, str]]] = [trained_digits, population_of_digits, sweep_of_digits]
    if arguments.mnist.is_dir():
        runs.append(partial(trained_mnist, arguments.mnist))
    found: dict[str, str] = {}
    output = sys.stdout
    for run in runs:
        with tempfile.TemporaryDirectory() as folder:
            sys.stdout = sys.stderr  # the runs print, and this script's output is JSON
            try:
                found |= run(folder)
            finally:
                sys.stdout = output
    if arguments.compare is None:
        print(json.dumps(found, indent=2))
        return 0
    before = json.loads(arguments.compare.read_text(encoding="utf-8"))
    different = [name for name in before if found.get(name) != before[name]]
    print(f"{len(before) - len(different)} of {len(before)} runs give the same bits")
    for name in different:
        print(f"  {name}: {before[name]} before, {found.get(name)} now")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
