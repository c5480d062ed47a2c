"""What a person sees while a network trains: a bar on a terminal, and one plain line for each evaluation."""

from __future__ import annotations

from typing import Any

from tqdm.auto import tqdm
from transformers import ProgressCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

SHOWN = {
    "loss": "train loss",
    "eval_loss": "test loss",
    "eval_accuracy": "accuracy",
    "eval_classification_loss": "classification",
    "eval_self_modeling_loss": "self-modeling",
    "weight_width": "weight width",
}


class EpochLines(TrainerCallback):
    """Prints the newest value of each figure in `SHOWN`, once for each step that is evaluated."""

    def __init__(self) -> None:
        self.printed_at = -1

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if not state.is_world_process_zero or state.global_step == self.printed_at:
            return
        self.printed_at = state.global_step
        newest = {name: value for entry in state.log_history for name, value in entry.items()}
        figures = [f"{title} {newest[name]:.4f}" for name, title in SHOWN.items() if name in newest]
        tqdm.write(f"epoch {state.epoch or 0:g}/{args.num_train_epochs:g}  " + "  ".join(figures))


class SilentProgressBar(ProgressCallback):
    """transformers' bar without its copies of the logs."""

    def on_log(self, *args: Any, **kwargs: Any) -> None:
        pass
