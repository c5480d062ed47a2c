"""Show progress: of a training a bar on a terminal and a plain line for each evaluation, of sampling a bar."""

from __future__ import annotations

from typing import Any

from tqdm.auto import tqdm
from transformers import ProgressCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..experiments.run_summary import newest_rlct, rlct_text

SHOWN = {
    "loss": "train loss",
    "eval_loss": "test loss",
    "eval_accuracy": "accuracy",
    "eval_classification_loss": "classification",
    "eval_self_modeling_loss": "self-modeling",
    "weight_width": "weight width",
}


class EpochLines(TrainerCallback):
    """Prints the newest value of each figure in `SHOWN`, once for each evaluated step."""

    def __init__(self) -> None:
        self.printed_at = -1

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if not state.is_world_process_zero or state.global_step == self.printed_at:
            return
        self.printed_at = state.global_step
        newest: dict[str, Any] = {}
        for entry in state.log_history:
            newest |= entry
        parts = [f"epoch {state.epoch or 0:g}/{args.num_train_epochs:g}"]
        for name, title in SHOWN.items():
            if name in newest:
                parts.append(f"{title} {newest[name]:.4f}")
        estimate = newest_rlct(state.log_history)
        if estimate is not None and estimate["step"] == state.global_step:
            parts.append(f"RLCT {rlct_text(estimate)}")
        tqdm.write("  ".join(parts))


class SilentProgressBar(ProgressCallback):
    """transformers' bar without its copies of the logs."""

    def on_log(self, *args: Any, **kwargs: Any) -> None:
        pass


class SamplingBar(tqdm):
    """Show (steps done, all steps) of sampling, and the estimate so far.

    The caller closes it, because more steps may follow when all are done.
    """

    def __call__(self, done: int, total: int) -> None:
        self.total = total
        self.update(done - self.n)

    def estimate(self, mean: float) -> None:
        self.set_postfix_str(f"RLCT so far {mean:.4g}", refresh=False)
