"""A Trainer for the terms of the loss: it logs them beside the loss, while training and after evaluation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from ..models.fields_self_modeling import INSIDE
from ..models.losses_self_modeling import SelfModelingOutput
from .evaluation import EvaluatingTrainer
from .member_figures import Figures
from .outside_targets import OutsideTargets
from .stopping import Stopping
from .stopping_rules import Stop
from .terms import TERMS, ByName, Tensors, TermSums
from .wrapped_networks import is_wrapped, labels_of


@dataclass(frozen=True)
class TrainedNetwork:
    """Hold one network of a finished training.

    Attributes:
        model: makes the network, on the CPU and in eval mode.
        figures: its logged figures: epoch -> name -> value. They end where its training ended.
        stop: where a stopping rule ended its training. None: no rule did.
    """

    model: Callable[[], Any]
    figures: Figures
    stop: Stop | None = None


class TermsTrainer(EvaluatingTrainer):
    """Log the terms of the loss beside the loss, while training and after evaluation."""

    _stopping_class: ClassVar[type[Stopping]] = Stopping

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._term_sums = TermSums()
        self.add_callback(self._term_sums)
        self.stopping = self._stopping_class(self)
        self.add_callback(self.stopping)
        self._step_terms: Tensors | None = None  # of the present micro-batch of the training
        self._outside_targets: OutsideTargets | None = None

    # ---- training ----

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor | tuple[torch.Tensor, SelfModelingOutput]:
        given = {**inputs, **self._forward_arguments}
        outside = self.outside_targets()
        if outside is not None:
            given["self_model_targets"] = self._targets_from(outside, inputs)
        loss, outputs = super().compute_loss(model, given, return_outputs=True, num_items_in_batch=num_items_in_batch)
        if self._step_terms is not None:
            for name in TERMS:
                term = outputs.get(name)
                if term is not None:
                    before = self._step_terms.get(name, 0)
                    self._step_terms[name] = before + term.detach()
        if self._evaluated is not None:
            self._own_loss = loss.detach().clone()  # a subclass may add to it in place
        if return_outputs:
            return loss, outputs
        return loss

    def outside_targets(self) -> OutsideTargets | None:
        """Return what computes targets from outside of the network. None: the network's own are predicted.

        Raises:
            InputError: a `target_source` that cannot be loaded.
        """
        model: Any = self.model
        plain = getattr(model, "stacked", model)
        sources = getattr(model, "target_sources", (model.config.target_source,))
        if plain.self_model_head is None or set(sources).issubset(INSIDE):
            return None
        if self._outside_targets is None or self._outside_targets.sources != sources:
            self._outside_targets = OutsideTargets(plain, sources)
        return self._outside_targets

    def _targets_from(self, outside: OutsideTargets, inputs: dict[str, Any]) -> torch.Tensor:
        return outside.for_network(inputs)

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> torch.Tensor | int | None:
        """Return the number of labels that count in the batches of a step, over all processes.

        A network that keeps its task model's own head counts them itself.
        """
        if not is_wrapped(self.model):
            return super()._get_num_items_in_batch(batch_samples, device)
        names = list(self.model.kind.label_names)
        counts = [self.model.count_items(batch) for batch in batch_samples if labels_of(batch, names) is not None]
        if not counts:
            return None
        total = torch.stack(counts).sum().to(device)
        if self.args.average_tokens_across_devices and self.args.world_size > 1:
            total = self.accelerator.gather(total).sum()
        return total.clamp(min=1)  # without any label the sums are zero

    def _set_signature_columns_if_needed(self) -> None:
        """Keep the columns that a task model takes, because the wrapped network's own forward takes any."""
        if self._signature_columns is not None:
            return
        super()._set_signature_columns_if_needed()
        if is_wrapped(self.model):
            self._signature_columns += self.model.input_names()

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        self._step_terms = {}
        try:
            loss = super().training_step(*args, **kwargs)
            # transformers adds the loss to the sum for its log under the same condition
            if self.args.logging_nan_inf_filter and not loss.isfinite():
                self._term_sums.add_mean(self.state.global_step)
                self.stopping.add_mean(self.state.global_step)
            else:
                self._term_sums.add(self._step_terms)
                self.stopping.add(self._step_terms)
        finally:
            self._step_terms = None
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            means = self.mean_terms(self._term_sums)
            if means:
                figures = self._figures(means)
                figures["loss"] = self._logged_loss(logs["loss"], means, figures)
                logs.update(figures)
        super().log(logs, start_time)

    def networks(self) -> list[TrainedNetwork]:
        """Return the trained network, or each member of a population in its order."""
        figures = self.figures()
        return [TrainedNetwork(lambda: self.model.cpu().eval(), figures, self.stopping.stop_of(0))]

    def figures(self) -> Figures:
        """Return the logged figures of each epoch: epoch -> name -> value.

        Figures of a population's member have names such as `eval_loss/aw10-seed1`.
        """
        figures: Figures = {}
        for entry in self.state.log_history:
            of_epoch = figures.setdefault(round(entry["epoch"]), {})
            of_epoch.update(entry)
        return figures

    def _logged_loss(self, loss: float, means: ByName, figures: ByName) -> float:
        """Return the loss for the log: that of transformers, with the part of a subclass."""
        return loss

    def mean_terms(self, term_sums: TermSums) -> ByName:
        """Return the mean of each term over the optimizer steps of these sums, and let the sums start again."""
        sums, steps = term_sums.drain(self.state.global_step)
        # Each process has summed its own samples. If it has divided by the count over all processes, then the sum over
        # processes is the mean. Else it is the mean of the processes' means.
        shares = self.args.world_size
        if self.args.average_tokens_across_devices:
            shares = 1
        means = {}
        for name, total in sums.items():
            of_all_processes = self.accelerator.reduce(total, "sum").item()
            means[name] = of_all_processes / shares / steps
        return means

    # ---- stopping rules ----

    def _init_training_state(
        self,
        max_steps: int,
        num_update_steps_per_epoch: int,
        num_train_epochs: int,
        resume_from_checkpoint: str | None,
        trial: Any,
    ) -> tuple[int, int]:
        """Begin like `Trainer._init_training_state`. If all networks of a checkpoint have stopped, no epoch is left."""
        begun = super()._init_training_state(
            max_steps,
            num_update_steps_per_epoch,
            num_train_epochs,
            resume_from_checkpoint,
            trial,
        )
        self.stopping.begin(resume_from_checkpoint)
        if self.stopping.have_all_stopped:
            return num_train_epochs, 0
        return begun

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        self.stopping.save(output_dir)
