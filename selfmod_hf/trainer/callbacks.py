"""Callbacks that follow a network's complexity while it trains.

What a callback finds goes through `Trainer.log`, the only way by which it reaches the log history, TensorBoard and
the model card alike.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback

from ..complexity import weight_width
from ..complexity.weight_width import weight_width_of
from ..data import TensorData
from .adapters import classifier_weight, has_adapter
from .collated import CollatedData, collate
from .processes import is_sharded, share_state
from .rlct import estimate_rlct

if TYPE_CHECKING:
    from transformers import Trainer, TrainerControl, TrainerState, TrainingArguments

    from ..complexity import LLCResult


class WeightWidthCallback(TrainerCallback):
    """Log `weight_width`, the standard deviation of the last layer's weights, after each epoch."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        try:
            width = self._width(kwargs["model"])
        except ValueError:  # weights that are not finite: the run has diverged, and its log says so
            width = float("nan")
        log_aside(self.trainer, control, {"weight_width": width})

    def _width(self, model: torch.nn.Module) -> float:
        accelerator = self.trainer.accelerator
        if not is_sharded(self.trainer):
            plain = accelerator.unwrap_model(model)
            if has_adapter(plain):
                return weight_width_of(classifier_weight(plain)).sd
            return weight_width(plain).sd
        whole = accelerator.get_state_dict(model)  # all processes take part, the main one gets it
        return weight_width_of(whole["classifier.weight"]).sd if accelerator.is_main_process else float("nan")


class RLCTCallback(TrainerCallback):
    """Log `rlct` after every n-th epoch, with `rlct_standard_error`, `rlct_nbeta`, `rlct_status` and `rlct_ok`.

    `rlct_ok` is 1 if the status is "ok", else 0. Training is not affected, because samplers draw their own random
    numbers.

    Args:
        trainer: whose `log` is used; the newest estimate becomes its `rlct_result`.
        data: the training set, as `estimate_rlct` takes it. Rows are collated before the first estimate.
        every_n_epochs: n.
        settings: of `estimate_llc_many`.
        last_epoch: none is made after it; default: no limit.
        data_collator: makes a batch of rows.
    """

    def __init__(
        self,
        trainer: Trainer,
        data: Any,
        every_n_epochs: int,
        settings: dict[str, Any],
        last_epoch: int | None = None,
        data_collator: Callable[[Any], Any] | None = None,
    ) -> None:
        self.trainer = trainer
        self.data = data
        self.every_n_epochs = every_n_epochs
        self.settings = settings
        self.last_epoch = last_epoch
        self.data_collator = data_collator

    def is_due(self, state: TrainerState) -> bool:
        """Return whether an n-th epoch is complete: a training may also end, or be stopped, within an epoch."""
        epoch = state.epoch or 0.0
        complete = epoch >= 1 and epoch == int(epoch)
        within = self.last_epoch is None or epoch <= self.last_epoch
        return complete and epoch % self.every_n_epochs == 0 and within

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if not self.is_due(state):
            return
        share_state(self.trainer)  # every process runs some of the chains
        model = self.trainer.accelerator.unwrap_model(kwargs["model"])
        if not isinstance(self.data, (TensorData, CollatedData)):
            self.data = collate(self.data, self.data_collator, model)
        (result,) = estimate_rlct([model], self.data, device=args.device, **self.settings)
        self.trainer.rlct_result = result
        log_aside(self.trainer, control, {**rlct_logs(result), "rlct_status": result.status})


class FlushTinyMoments(TrainerCallback):
    """Set first moments to zero before they become denormal, which a CPU computes many times slower.

    A hidden unit that is dead has gradients of exactly zero, so its momentum only decays, and ends, and stays, among
    the denormal numbers (MNIST, width 64, AW 5: a quarter of all buffers after 18 epochs). What is cut off here
    (1e-30 in float32) is below the rounding of any weight that it could still change. GPUs lose no time on these.
    """

    MOMENTS = ("momentum_buffer", "exp_avg")
    EVERY = 100  # steps: 0.9^100 is 3e-5, so nothing falls from the threshold through to the denormals in between

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.global_step % self.EVERY:
            return
        for moments in kwargs["optimizer"].state.values():
            for name in self.MOMENTS:
                if (moment := moments.get(name)) is not None:
                    threshold = 1e8 * torch.finfo(moment.dtype).tiny
                    moment.masked_fill_(moment.abs() < threshold, 0)


def rlct_logs(result: LLCResult) -> dict[str, float]:
    """Return the figures of an estimate that go to a log."""
    return {
        "rlct": result.llc,
        "rlct_standard_error": result.standard_error,
        "rlct_nbeta": result.nbeta,
        "rlct_ok": float(result.status == "ok"),
    }


def log_aside(trainer: Trainer, control: TrainerControl, logs: dict[str, Any]) -> None:
    """Log from within a callback. A log marks the pending one (of the losses) as done; here it stays pending."""
    pending = control.should_log
    trainer.log(logs)
    control.should_log = pending
