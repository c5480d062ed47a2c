"""The table at the end of a run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ..hub.metric_names import METRICS, metric_title
from ..trainer import SelfModelingTrainer
from ..trainer.wrapped_networks import is_wrapped


def run_summary(trainer: SelfModelingTrainer, metrics: Mapping[str, float], where: str) -> str:
    """Return the table at the end of a run.

    Args:
        trainer: after its training.
        metrics: of the last evaluation.
        where: the place of the network.
    """
    rows = {}
    if "eval_accuracy" not in metrics:  # prediction_loss_only, or other metrics
        rows["loss"] = f"{metrics['eval_loss']:.4f}"
    for name in METRICS:
        key = f"eval_{name}"
        if key in metrics:
            title = metric_title(name, trainer.model.config)
            if not title.startswith("F1"):
                title = title[0].lower() + title[1:]
            rows[title] = f"{metrics[key]:.4f}"
    if "eval_classification_loss" in metrics:
        title = "task loss" if is_wrapped(trainer.model) else "classification loss"
        rows[title] = f"{metrics['eval_classification_loss']:.4f}"
    if "eval_self_modeling_loss" in metrics:
        weight = trainer.model.config.aux_weight
        rows["self-modeling loss"] = f"{metrics['eval_self_modeling_loss']:.5f} (weight {weight:g})"
    widths = [entry["weight_width"] for entry in trainer.state.log_history if "weight_width" in entry]
    if widths:
        rows["weight width"] = f"{widths[-1]:.4f}"
    estimate = newest_rlct(trainer.state.log_history)
    if estimate is not None:
        rows["RLCT"] = f"{rlct_text(estimate)}, estimated after epoch {estimate['epoch']:g}"
    if not math.isfinite(metrics["eval_loss"]):
        rows["diverged"] = "the loss is not finite; try a smaller learning rate or self-model weight"
    rows["model"] = where
    width = max(22, 2 + max(map(len, rows)))
    return "\n".join(f"{name:{width}}{value}" for name, value in rows.items())


def newest_rlct(log_history: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Return the log entry of the newest RLCT of a training, or None.

    Args:
        log_history: of the Trainer's state.
    """
    for entry in reversed(log_history):
        if "rlct" in entry:
            return entry
    return None


def rlct_text(entry: Mapping[str, Any]) -> str:
    """Return an estimate for people, for example `31.25 ± 0.40 (ok)`.

    Args:
        entry: from `newest_rlct`.

    Example:
        >>> rlct_text({"rlct": 31.25, "rlct_standard_error": 0.4, "rlct_status": "ok"})
        '31.25 ± 0.40 (ok)'
    """
    value = entry["rlct"]
    error = entry["rlct_standard_error"]
    status = entry["rlct_status"]
    if not math.isfinite(value):
        return f"none ({status})"
    return f"{value:.2f} ± {error:.2f} ({status})"
