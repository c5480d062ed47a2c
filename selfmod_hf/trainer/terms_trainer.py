"""A Trainer for the terms of the loss: it logs them beside the loss, while training and after evaluation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch.utils.data import DataLoader
from transformers.trainer_utils import EvalLoopOutput

from ..models.fields_self_modeling import INSIDE
from ..models.losses_self_modeling import SelfModelingOutput, classification_losses, self_modeling_losses
from .member_figures import Figures
from .outside_targets import OutsideTargets
from .processes import share_state
from .pushing import PushingTrainer
from .stopping import Stopping
from .stopping_rules import Stop
from .terms import TERMS, ByName, SampleTerms, Tensors, TermSums, means_over_labels


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


class TermsTrainer(PushingTrainer):
    """Log the terms of the loss beside the loss, while training and after evaluation."""

    # A network may be configured to give tuples, but its terms are read by their names.
    _forward_arguments: ClassVar[dict[str, Any]] = {"return_dict": True}
    _stopping_class: ClassVar[type[Stopping]] = Stopping

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._term_sums = TermSums()
        self.add_callback(self._term_sums)
        self.stopping = self._stopping_class(self)
        self.add_callback(self.stopping)
        self._step_terms: Tensors | None = None  # of the present micro-batch of the training
        self._own_loss: torch.Tensor | None = None  # of the present evaluated batch, before a subclass adds to it
        self._evaluated: SampleTerms | None = None  # of the present evaluated split
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

    def _term_weights(self) -> ByName:
        """Return the factor of each term in the loss."""
        config = self.accelerator.unwrap_model(self.model).config
        weights = (config.classification_weight, config.aux_weight, config.activation_penalty)
        return dict(zip(TERMS, weights, strict=True))

    def _total(self, means: ByName) -> Any:
        """Return the sum of the weighted terms."""
        total: Any = 0
        for name, weight in self._term_weights().items():
            if name in means:
                total = total + weight * means[name]
        return total

    def _figures(self, means: ByName, added: float = 0.0, prefix: str = "") -> ByName:
        """Return terms, weighted terms and the loss, by their names in the log.

        Args:
            means: of the terms.
            added: to the loss, by a subclass's `compute_loss`.
            prefix: of the names.
        """
        weights = self._term_weights()
        raw = {}
        weighted = {}
        for name, mean in means.items():
            raw[f"{prefix}{name}"] = mean
            weighted[f"{prefix}weighted_{name}"] = weights[name] * mean
        loss = self._total(means) + added
        return {**raw, **weighted, f"{prefix}loss": loss}

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

    # ---- evaluation ----

    def prediction_step(
        self,
        model: torch.nn.Module,
        inputs: dict[str, torch.Tensor],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[torch.Tensor | None, Any, torch.Tensor | None]:
        """Predict like `Trainer.prediction_step`, and collect the terms of each sample.

        Raises:
            ValueError: metrics ask for inputs, and these are the tokens of all texts one after another.
        """
        if "inputs" in self.args.include_for_metrics and "offsets" in inputs:
            raise ValueError("include_for_metrics=['inputs']: allowed with padded texts, not with those of a bag")
        inputs = self._prepare_inputs(inputs)
        labels = inputs.get("labels")
        given = {**inputs, **self._forward_arguments}
        loss = None
        self._own_loss = None
        with torch.no_grad(), self.compute_loss_context_manager():
            if labels is None:
                outputs = model(**given)
            else:
                items = self._get_num_items_in_batch([inputs], self.args.device)
                loss, outputs = self.compute_loss(model, given, return_outputs=True, num_items_in_batch=items)
        if loss is not None and labels is not None:
            loss = loss.detach().mean()
            self._collect(loss, outputs, labels)
        if prediction_loss_only:
            return loss, None, None
        return loss, self._predictions(outputs, ignore_keys), labels

    def _predictions(self, outputs: Any, ignore_keys: list[str] | None) -> Any:
        """Return the logits, and the other outputs except the ignored ones, like transformers."""
        if ignore_keys is None:
            ignore_keys = self.model.config.keys_to_ignore_at_inference
        if isinstance(outputs, dict):
            named = dict(outputs)
            for name in (*ignore_keys, "loss"):
                named.pop(name, None)
            kept = tuple(named.values())
        else:
            kept = tuple(outputs[1:])
        if len(kept) == 1:
            return kept[0]
        return kept

    def _collect(self, loss: torch.Tensor, outputs: Any, labels: torch.Tensor) -> None:
        """Collect the terms of a batch while a split is evaluated."""
        if self._evaluated is None or not isinstance(outputs, dict):
            return
        if "logits" not in outputs:
            return
        terms = self._sample_terms(outputs, labels)  # (B, terms)
        own: Any = self._own_loss
        if own is None:  # a subclass computes the loss without this class
            own = 0.0
            means = means_over_labels(terms, labels)
            if means is not None:
                own = float(np.sum(self._total(means)))
        added = (loss - own).expand(len(labels))
        gathered = self.gather_function((terms, added, labels))
        self._evaluated.add(*gathered)

    def _sample_terms(self, outputs: Any, labels: torch.Tensor) -> torch.Tensor:
        """Return the terms of each sample, (B, terms)."""
        terms = [classification_losses(outputs["logits"], labels)]  # each (B,)
        predictions = outputs.get("self_model_predictions")
        if predictions is not None:
            terms.append(self_modeling_losses(predictions, outputs["self_model_targets"]))
        if outputs.get("activation_mean_squares") is not None:
            terms.append(outputs["activation_mean_squares"])
        return torch.stack(terms, dim=1)

    def evaluation_loop(
        self,
        dataloader: DataLoader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Evaluate like `Trainer.evaluation_loop`, with the terms of the loss, and means over the labelled samples.

        Without any label there is no loss.
        """
        share_state(self)
        evaluated = SampleTerms()
        self._evaluated = evaluated
        try:
            output = super().evaluation_loop(
                dataloader,
                description,
                prediction_loss_only,
                ignore_keys,
                metric_key_prefix,
            )
        finally:
            self._evaluated = None
        if not len(evaluated):
            return output
        means = evaluated.means()
        added = evaluated.mean_added()
        if means is None:
            output.metrics.pop(f"{metric_key_prefix}_loss", None)
        else:
            figures = self._figures(means, added, prefix=f"{metric_key_prefix}_")
            output.metrics.update(figures)
        return output
