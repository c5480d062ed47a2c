"""Results folders of studies that nobody trained: `write_study` makes them of any arms in a moment.

The numbers follow a made-up rule of the arm's settings plus noise of the seed, so that tests know what differs.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from selfmod_hf.complexity import LLCResult
from selfmod_hf.complexity.sampler_settings import SamplerSettings
from selfmod_hf.experiments.arms import Arm, make_arms, network_name
from selfmod_hf.weights import weights_sha256

NBETA = 82.07
CHAINS = 4
CONTROLS: dict[str, dict[str, Any]] = {
    "baseline": {"aux_weight": 0.0},
    "own-aw1": {"aux_weight": 1.0},
    "own-aw5": {"aux_weight": 5.0},
    "own-aw10": {"aux_weight": 10.0},
    "another-network": {"aux_weight": 10.0, "target_source": "network:other"},
    "random-targets": {"aux_weight": 10.0, "target_source": "random"},
    "shuffled": {"aux_weight": 10.0, "target_source": "shuffled"},
    "last-layer-decay": {"aux_weight": 0.0, "weight_decay": 0.003},
    "decay": {"aux_weight": 0.0, "weight_decay": 0.001},
    "activations-L2": {"aux_weight": 0.0, "activation_penalty": 0.1},
    "stopped-early": {"aux_weight": 0.0, "num_train_epochs": 6},
    "narrow": {"aux_weight": 0.0, "hidden_sizes": [4]},
}


def grid(**axes: Sequence[Any]) -> list[Arm]:
    """The arms of a grid."""
    return make_arms(axes)


def controls(**axes: Sequence[Any]) -> list[Arm]:
    """A baseline, self-models and eight controls, by their names."""
    return make_arms(axes, CONTROLS)


def write_study(
    folder: Path,
    arms: Sequence[Arm],
    seeds: Sequence[int] = (1, 2, 3),
    *,
    measures: Sequence[str] = (),
    epochs: int = 8,
    draws: int = 40,
    task: str = "digits",
    not_ok: Sequence[str] = (),
) -> Path:
    """Write a finished study.

    Args:
        folder: of the results.
        arms: from `make_arms`.
        seeds: of each arm.
        measures: names of further measures.
        epochs: points of a curve.
        draws: of each of the four chains.
        task: its name.
        not_ok: names of the networks whose RLCT is not converged.
    """
    axes = sorted({name for arm in arms for name in arm.changes} - {"aux_weight", "detach_targets"})
    for number, arm in enumerate(arms):
        for seed in seeds:
            random = np.random.default_rng([number, seed])
            status = "not_converged" if network_name(arm.name, seed) in not_ok else "ok"
            write_network(folder, arm, seed, random, axes, measures, epochs, draws, task, status)
    run = {
        "settings": {"task": task, "training": {"learning_rate": 0.05}, "sampling": {"num_draws": draws}, "data": {}},
        "train_samples": 1437, "test_samples": 360, "largest_class_share": 0.1,
        "arms": [vars(arm) for arm in arms], "axes": axes, "measures": list(measures),
        "sessions": [{"started": "2026-11-26T05:00:00+00:00", "command": ["sweep", "--recipe", task], "seconds": {}}],
    }  # fmt: skip
    (folder / "run.json").write_text(json.dumps(run))
    return folder


def write_network(
    folder: Path,
    arm: Arm,
    seed: int,
    random: np.random.Generator,
    axes: Sequence[str],
    measures: Sequence[str],
    epochs: int,
    draws: int,
    task: str,
    status: str,
) -> None:
    """Write one network of a study: its row, curve, RLCT with traces, and the last layer's weights."""
    cell = folder / "cells" / network_name(arm.name, seed)
    cell.mkdir(parents=True)
    changes = arm.changes
    hidden = changes.get("hidden_sizes", [8])
    weight = float(changes.get("aux_weight", 0))
    others = 1000 * changes.get("weight_decay", 0) + 10 * changes.get("activation_penalty", 0)
    pull = np.log1p(weight) + others + 0.3 * random.standard_normal()  # how much simpler than the baseline
    keys = {
        "task": task, "hidden_size": hidden[-1], "aux_weight": weight, "seed": seed,
        "detach_targets": changes.get("detach_targets", True), "arm": arm.name,
    }  # fmt: skip
    width = 0.3 * np.exp(-0.1 * pull)
    rlct = 3 + 0.01 * hidden[-1] - 0.25 * pull
    loss = 0.05 * np.exp(0.3 * pull)
    curve = []
    for epoch in range(1, epochs + 1):
        part = epoch / epochs
        point = {
            "epoch": epoch, "weight_width": width * part, "accuracy": 0.98 - 0.4 / epoch - 0.005 * pull,
            "classification_loss": loss / part**1.5, "self_modeling_loss": 0.1 / epoch, "loss": loss / part,
        }  # fmt: skip
        curve.append({**keys, **point})
    save_file(
        {"classifier.weight": random.normal(0, width, (10, hidden[-1])).astype(np.float32)}, cell / "model.safetensors"
    )
    sha256 = weights_sha256(cell)
    row = {
        **keys, "accuracy": curve[-1]["accuracy"], "weight_width": width, "rlct": rlct, "rlct_standard_error": 0.05,
        "rlct_status": status, "rlct_status_reason": "made up", "nbeta": NBETA, "rlct_preset": "paper (mnist)",
        "rlct_rhat": 1.01, "rlct_ess": 400.0, "train_loss": loss, "num_epochs": epochs, "batch_size": 64,
        "learning_rate": float(changes.get("learning_rate", 0.05)), "weights_sha256": sha256,
    }  # fmt: skip
    for name in axes:
        value = changes.get(name)
        row.setdefault(name, "-".join(map(str, value)) if isinstance(value, list) else value)
    row |= {name: float(abs(np.sin(place + pull))) for place, name in enumerate(measures)}
    trace = rlct / NBETA * (1 + 0.2 * random.standard_normal((CHAINS, draws)))
    settings = SamplerSettings(
        sampler="sgld", step_size=1e-4, localization=100.0, nbeta_rule="batch/log batch", num_chains=CHAINS,
        num_draws=draws, num_burnin_steps=draws // 2, batch_size=512, num_samples=1437, seed=0,
    )  # fmt: skip
    per_chain = NBETA * trace[:, draws // 2 :].mean(axis=1)
    result = LLCResult(
        llc=rlct, standard_error=0.05, llc_per_chain=per_chain, loss_trace=trace + loss,
        baseline_trace=np.full_like(trace, loss), init_loss=loss, nbeta=NBETA, settings=settings, rhat=1.01, ess=400.0,
        acceptance_rate=0.99, status=status, status_reason="made up", diverged_chains=(),
        distance_per_chain=np.ones(CHAINS), weights_sha256=sha256,
    )  # fmt: skip
    result.save(cell / "rlct.json")
    curve[-1]["weights_sha256"] = sha256
    (cell / "curve.json").write_text(json.dumps(curve))
    (cell / "row.json").write_text(json.dumps(row))


def change_row(folder: Path, network: str, **values: Any) -> None:
    """Write other results of a network."""
    path = folder / "cells" / network / "row.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
