"""Callbacks that follow a network's complexity while it trains.

What a callback finds goes through `Trainer.log`, the only way by which it reaches the log history, TensorBoard and
the model card alike.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from ..complexity import weight_width

if TYPE_CHECKING:
    from transformers import Trainer, TrainerControl, TrainerState, TrainingArguments


class WeightWidthCallback(TrainerCallback):
    """Logs `weight_width`, the standard deviation of the last layer's weights, after each epoch."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        model = self.trainer.accelerator.unwrap_model(kwargs["model"])
        try:
            width = weight_width(model).sd
        except ValueError:  # weights that are not finite: the run has diverged, and its log says so
            width = float("nan")
        log_aside(self.trainer, control, {"weight_width": width})


def log_aside(trainer: Trainer, control: TrainerControl, logs: dict[str, float]) -> None:
    """Log from within a callback. A log marks the pending one (of the losses) as done; here it stays pending."""
    pending = control.should_log
    trainer.log(logs)
    control.should_log = pending
