"""Callbacks for a network's complexity while it trains.

Their results go through `Trainer.log`, because only `log` reaches the log history, TensorBoard and the model card.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import TrainerCallback

from ..complexity import weight_width
from ..complexity.weight_width import weight_width_of
from ..data import TensorData
from ..models.classifier_weights import classifier_weight, last_layer
from ..stacking import chunk_ranges
from .adapters import has_adapter
from .collated import CollatedData, collate
from .member_figures import join_figures
from .processes import is_sharded, share_state
from .rlct import estimate_rlct
from .wrapped_networks import is_wrapped

if TYPE_CHECKING:
    from transformers import Trainer, TrainerControl, TrainerState, TrainingArguments

    from ..complexity import LLCResult

# ---- weight width ----


class WeightWidthCallback(TrainerCallback):
    """Log `weight_width`, the standard deviation of the last layer's weights, after each epoch.

    Args:
        trainer: of one network.
    """

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
        if is_sharded(self.trainer):
            gathered = accelerator.get_state_dict(model)  # all processes take part, the main one gets it
            if not accelerator.is_main_process:
                return float("nan")
            name, _ = last_layer(accelerator.unwrap_model(model))
            return weight_width_of(gathered[f"{name}.weight"]).sd
        plain = accelerator.unwrap_model(model)
        if has_adapter(plain) or is_wrapped(plain):
            return weight_width_of(classifier_weight(plain)).sd
        return weight_width(plain).sd


class WeightWidthsCallback(TrainerCallback):
    """Log `weight_width` of each member after each epoch.

    Args:
        trainer: a `PopulationTrainer`.
    """

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        widths = self.trainer.model.weight_widths().cpu().numpy()
        logs = self.trainer.by_member({"weight_width": widths})
        log_aside(self.trainer, control, logs)


# ---- RLCT ----


class RLCTCallback(TrainerCallback):
    """Log `rlct` after every n-th epoch, with `rlct_standard_error`, `rlct_nbeta`, `rlct_status` and `rlct_ok`.

    `rlct_ok` is 1 if the status is "ok", else 0. Training is not affected, because samplers draw their own random
    numbers.

    Args:
        trainer: its `log` is used. Its `rlct_result` becomes the newest estimate.
        data: the training set, in a form for `estimate_rlct`. Rows are collated before the first estimate.
        every_n_epochs: n.
        settings: of `estimate_llc_many`.
        last_epoch: no estimate is made after it. None: no limit.
        data_collator: makes a batch of rows.
    """

    trainer: Any

    def __init__(  # noqa: PLR0913 - public
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
        """Return whether an n-th epoch is complete. A training may also end, or be stopped, within an epoch."""
        epoch = state.epoch or 0.0
        if epoch < 1 or epoch != int(epoch):
            return False
        if self.last_epoch is not None and epoch > self.last_epoch:
            return False
        return epoch % self.every_n_epochs == 0

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if not self.is_due(state):
            return
        share_state(self.trainer)  # every process runs some of the chains
        model = self.trainer.accelerator.unwrap_model(kwargs["model"])
        # the rows for a task model are collated by `estimate_rlct`, because their labels have any shape
        if not isinstance(self.data, (TensorData, CollatedData)) and not is_wrapped(model):
            self.data = collate(self.data, self.data_collator, model)
        (result,) = estimate_rlct([model], self.data, self.data_collator, device=args.device, **self.settings)
        self.trainer.rlct_result = result
        logs: dict[str, Any] = dict(_figures(result))
        logs["rlct_status"] = result.status
        log_aside(self.trainer, control, logs)


class RLCTsCallback(RLCTCallback):
    """Log the figures of `RLCTCallback` for each member, all members x chains stacked.

    Members of one seed share their chains' noise, so arms are compared under common random numbers.

    Args:
        args: of `RLCTCallback`, for a `PopulationTrainer`.
        at_once: number of members with stacked chains. None: all.
    """

    def __init__(self, *args: Any, at_once: int | None = None) -> None:
        super().__init__(*args)
        self.at_once = at_once

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if not self.is_due(state):
            return
        self.trainer.gather_weights()  # every process runs some chains of every member
        population = self.trainer.population
        running = np.flatnonzero(self.trainer.stopping.reported()).tolist()
        at_once = self.at_once or len(running)
        results: list[LLCResult] = []
        for part in chunk_ranges(len(running), at_once):
            members = [running[place] for place in part]
            models = [population.member(k) for k in members]
            seeds = [population.members[k].seed for k in members]
            results += estimate_rlct(models, self.data, members=seeds, device=args.device, **self.settings)
        rows = [_figures(result) for result in results]
        names = [population.members[k].name for k in running]
        figures = {}
        for name in rows[0]:
            values = [row[name] for row in rows]
            figures[name] = np.array(values)
        logs: dict[str, Any] = join_figures(figures, names, [True] * len(names))
        for name, result in zip(names, results, strict=True):
            logs[f"rlct_status/{name}"] = result.status
        log_aside(self.trainer, control, logs)


def _figures(result: LLCResult) -> dict[str, float]:
    """Return the numbers of an estimate for a log."""
    return {
        "rlct": result.llc,
        "rlct_standard_error": result.standard_error,
        "rlct_nbeta": result.nbeta,
        "rlct_ok": float(result.status == "ok"),
    }


def log_aside(trainer: Trainer, control: TrainerControl, logs: dict[str, Any]) -> None:
    """Log from within a callback. A log marks the pending one (of the losses) as done. Here it stays pending."""
    pending = control.should_log
    trainer.log(logs)
    control.should_log = pending


# ---- speed ----


class FlushTinyMoments(TrainerCallback):
    """Set first moments to zero before they become denormal, because a CPU computes denormals many times slower.

    A dead hidden unit has gradients of exactly zero. Its momentum only decays until it stays among the denormal
    numbers (MNIST, width 64, AW 5: a quarter of all buffers after 18 epochs). A value below the threshold (1e-30 in
    float32) is smaller than the rounding of any weight in its reach. GPUs lose no time on these.
    """

    MOMENTS = ("momentum_buffer", "exp_avg")
    EVERY = 100  # steps: 0.9^100 is 3e-5, so nothing falls from the threshold through to the denormals in between

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.global_step % self.EVERY:
            return
        for moments in kwargs["optimizer"].state.values():
            for name in self.MOMENTS:
                moment = moments.get(name)
                if moment is not None:
                    threshold = 1e8 * torch.finfo(moment.dtype).tiny
                    moment.masked_fill_(moment.abs() < threshold, 0)
