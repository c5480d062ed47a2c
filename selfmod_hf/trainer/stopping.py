"""Stop each network by its rules: when it stops, what stays as it was, and what a checkpoint holds of it.

Each rule is decided before the checkpoint of its step is written. So a resumed training stops where an uninterrupted
one does. transformers' `EarlyStoppingCallback` is not used, because it knows one figure for all members of a
population, needs `metric_for_best_model`, and forgets its count when a training resumes.
"""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import TrainerCallback
from transformers.trainer_utils import has_length

from ..errors import InputError
from ..files import entries_of, read_json, write_file
from .callbacks import log_aside
from .stopping_rules import Progress, Stop, StoppingRules
from .terms import TermSums

if TYPE_CHECKING:
    from transformers import TrainerControl, TrainerState, TrainingArguments

logger = logging.getLogger(__name__)

STOPPING_FILE = "stopping.json"
LOSS = "classification_loss"
NAMED = 10  # networks in a warning


class Stopping(TrainerCallback):
    """Stop the network of a Trainer by its rules. `MembersStopping` does so for each member of a population.

    Args:
        trainer: of one network.

    Attributes:
        networks: the progress of each network: here of one.
        is_training: whether a training is running.
    """

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer
        self.networks: list[Progress] = []
        self.is_training = False
        self._losses = TermSums()  # of the present epoch
        self._save_later = False

    # ---- beginning and end ----

    def check(self) -> None:
        """Check the data for the rules, before a training.

        Raises:
            InputError: a rule that these data cannot decide.
        """
        args = self.trainer.args
        for rules in self.rules():
            if rules.stop_at_train_loss is not None and not has_length(self.trainer.train_dataset):
                problem = "allowed with a `train_dataset` that has a length, because the rule looks at complete epochs"
                raise InputError("stop_at_train_loss", rules.stop_at_train_loss, problem)
            patience = rules.early_stopping_patience
            if patience is None or args.metric_for_best_model is not None:
                continue
            if isinstance(self.trainer.eval_dataset, dict):
                problem = "`eval_dataset` has several splits; allowed with a `metric_for_best_model` that names one"
                raise InputError("early_stopping_patience", patience, f"{problem}, such as eval_<split>_{LOSS}")

    def begin(self, checkpoint: str | None) -> None:
        """Begin a training, or continue one from a checkpoint. Weights and step are already those of the checkpoint.

        Raises:
            InputError: a population's member has stopped by other rules than it has now.
        """
        self.networks = [Progress(rules) for rules in self.rules()]
        self._save_later = False
        self._losses.restart(self.trainer.state.global_step)
        self.is_training = True
        if checkpoint is not None and Path(checkpoint, STOPPING_FILE).is_file():
            self._load(Path(checkpoint, STOPPING_FILE))

    @property
    def have_all_stopped(self) -> bool:
        """Whether a rule has ended the training of each network."""
        return all(network.stop is not None for network in self.networks)

    def reported(self) -> list[bool]:
        """Return for each network whether its figures are logged now. Those after its end are not."""
        if not self.networks:  # no training has begun
            return [True] * len(self.rules())
        step = self.trainer.state.global_step
        found = []
        for network in self.networks:
            is_reported = True
            if self.is_training and network.stop is not None:
                is_reported = step <= network.stop.step
            found.append(is_reported)
        return found

    def stop_of(self, k: int) -> Stop | None:
        """Return where a rule ended the training of network k. None: no rule did."""
        if not self.networks:
            return None
        return self.networks[k].stop

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Warn of rules that did not end the training, because a comparison may rest on them."""
        texts = []
        for k, network in enumerate(self.networks):
            if network.rules and network.stop is None:
                text = self.figure_name(str(network.rules), k)
                if network.rules.stop_at_train_loss is not None and network.lowest_loss is not None:
                    text += f" (lowest {LOSS} of an epoch: {network.lowest_loss:.4g})"
                texts.append(text)
        if texts and self.trainer.is_world_process_zero():
            more = ""
            if len(texts) > NAMED:
                more = f" and {len(texts) - NAMED} more"
            shown = ", ".join(texts[:NAMED])
            logger.warning(f"stopping rules that did not end the training: {shown}{more}")

    # ---- decisions ----

    def add(self, terms: dict[str, Tensor]) -> None:
        """Add the terms of a micro-batch."""
        if not self._follows_losses:
            return
        if LOSS not in terms:
            limits = [network.rules.stop_at_train_loss for network in self.networks]
            raise InputError("stop_at_train_loss", max(filter(None, limits)), f"`compute_loss` gives no {LOSS}")
        self._losses.add({LOSS: terms[LOSS]})

    def add_mean(self, step: int) -> None:
        """Add the mean of the previous terms, in place of an infinite or undefined loss."""
        self._losses.add_mean(step)

    @property
    def _follows_losses(self) -> bool:
        return any(network.rules.stop_at_train_loss is not None for network in self.networks)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        epoch = state.epoch or 0.0
        if epoch != int(epoch) or not any(network.rules for network in self.networks):
            return
        if self._follows_losses:
            self._after_epoch(control)
        if control.should_save and args.eval_strategy == "epoch":
            control.should_save = False  # the checkpoint knows the evaluation of the epoch, too
            self._save_later = True

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self._save_later:
            control.should_save = True
            self._save_later = False

    def _after_epoch(self, control: TrainerControl) -> None:
        means = self.trainer.mean_terms(self._losses)
        losses = self.values_of_all(means[LOSS])
        stopped = {}
        for k, network in enumerate(self.networks):
            if network.stop is None:
                rule = network.after_epoch(losses[k])
                if rule is not None:
                    stopped[k] = rule
        self._stop(stopped, control)

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if not self.is_training:
            return
        figure = f"eval_{LOSS}"
        greater_is_better = False
        if args.metric_for_best_model is not None:
            name = args.metric_for_best_model.removeprefix("eval_")
            figure = f"eval_{name}"
            greater_is_better = bool(args.greater_is_better)
        stopped = {}
        for k, network in enumerate(self.networks):
            if network.stop is not None or network.rules.early_stopping_patience is None:
                continue
            value = self._evaluated(kwargs["metrics"], figure, k)
            if value is None:
                continue
            rule = network.after_evaluation(value, greater_is_better)
            if rule is not None:
                stopped[k] = rule
        self._stop(stopped, control)

    def _evaluated(self, metrics: dict[str, float], figure: str, k: int) -> float | None:
        """Return a network's figure of an evaluation. None: the evaluation is of another split.

        Raises:
            InputError: the evaluation of a single split does not give the figure.
        """
        name = self.figure_name(figure, k)
        if name in metrics:
            return metrics[name]
        own = [other for other in metrics if other.startswith("eval_") and "/" not in other]
        if isinstance(self.trainer.eval_dataset, dict) or not own:
            return None
        patience = self.networks[k].rules.early_stopping_patience
        raise InputError("early_stopping_patience", patience, f"needs {name!r}, and the evaluation gives {own}")

    def _stop(self, stopped: dict[int, str], control: TrainerControl) -> None:
        """End the training of networks.

        Args:
            stopped: the rule that ends it, by the number of the network.
            control: of the training.
        """
        if not stopped:
            return
        state = self.trainer.state
        logs = {}
        for k, rule in stopped.items():
            self.networks[k].stop = Stop(state.global_step, state.epoch, rule)
            logs[self.figure_name("stopped_epoch", k)] = state.epoch
        log_aside(self.trainer, control, logs)
        if self.have_all_stopped:
            control.should_training_stop = True
        self.freeze(list(stopped))

    # ---- what differs in a population ----

    def rules(self) -> list[StoppingRules]:
        """Return the rules of each network."""
        return [StoppingRules.of(self.trainer.args)]

    def figure_name(self, figure: str, k: int) -> str:
        """Return the name of a figure of network k in the log."""
        return figure

    def values_of_all(self, values: Any) -> list[float]:
        """Return the value of each network of all processes. They call this together.

        Args:
            values: one of the Trainer's `mean_terms`.
        """
        return [float(values)]

    def sums_of_all(self, total: Tensor) -> list[float]:
        """Return the sum of a term for each network, over all processes. They call this together."""
        reduced: Any = self.trainer.accelerator.reduce(total, "sum")
        return [reduced.item()]

    def own_sums(self, totals: list[float]) -> Tensor:
        """Return this process's part of `sums_of_all`: the first one has all, because sums are added up again."""
        (total,) = totals
        if not self.trainer.is_world_process_zero():
            total = 0.0
        return torch.tensor(total, dtype=torch.float64)

    def freeze(self, stopped: list[int]) -> None:
        """Keep the present weights of networks for the rest of the training. The training of a single one is over."""

    # ---- files ----

    def save(self, folder: str | Path) -> None:
        """Write `stopping.json` into a checkpoint, if there are rules. All processes call this together."""
        if not any(network.rules for network in self.networks):
            return
        sums = {}
        for name, total in self._losses.sums.items():
            sums[name] = self.sums_of_all(total)
        content = {
            "networks": [network.describe() for network in self.networks],
            "epoch_since_step": self._losses.since,
            "epoch_sums": sums,
        }
        if self.trainer.args.should_save:
            write_file(Path(folder, STOPPING_FILE), json.dumps(content, indent=2) + "\n")  # with NaN and infinity

    def _load(self, path: Path) -> None:
        content = read_json(path)
        with entries_of(path):
            stored = [Progress.from_description(entry) for entry in content["networks"]]
            sums = {}
            for name, values in content["epoch_sums"].items():
                sums[name] = self.own_sums(values)
            self._losses.restart(content["epoch_since_step"], sums)
        if len(stored) != len(self.networks):
            problem = f"has stopping rules of {len(stored)} networks; allowed is {len(self.networks)}"
            raise InputError("resume_from_checkpoint", str(path.parent), problem)
        self.networks = [self._continued(path, k, stored[k]) for k in range(len(stored))]
        self.freeze([k for k, network in enumerate(self.networks) if network.stop is not None])

    def _continued(self, path: Path, k: int, stored: Progress) -> Progress:
        """Return the progress of network k by its present rules. A single network goes on by other rules.

        Raises:
            InputError: a member of a population has stopped by other rules, and the others have trained since.
        """
        rules = self.networks[k].rules
        if stored.stop is None or stored.rules == rules:
            return replace(stored, rules=rules)
        if len(self.networks) == 1:
            return replace(stored, rules=rules, stop=None)
        problem = f"holds {self.figure_name(str(stored.rules), k)}, which ended a training; allowed is the same"
        raise InputError("resume_from_checkpoint", str(path.parent), problem)
