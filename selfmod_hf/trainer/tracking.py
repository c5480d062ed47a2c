"""The loss of training and of evaluation, and the terms it is made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch.utils.data import DataLoader
from transformers.trainer_utils import EvalLoopOutput

from ..models.losses_self_modeling import SelfModelingOutput, classification_losses, self_modeling_losses
from .member import Member
from .processes import share_state
from .saving import SavingTrainer
from .terms import TERMS, SampleTerms, TermSums, means_over_labels


@dataclass(frozen=True)
class TrainedNetwork:
    """One network that a Trainer has trained.

    Attributes:
        model: makes the network, on the CPU and in eval mode.
        figures: epoch -> name -> what was logged of it.
    """

    model: Callable[[], Any]
    figures: dict[int, dict[str, Any]]


class TrackingTrainer(SavingTrainer):
    """Log the terms of the loss beside the loss, while training and after evaluation."""

    # A network may be configured to give tuples, but its terms are read by their names.
    _forward_arguments: ClassVar[dict[str, Any]] = {"return_dict": True}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._term_sums = TermSums()
        self.add_callback(self._term_sums)
        self._step_terms: dict[str, torch.Tensor] | None = None  # of the micro-batch that is trained on now
        self._own_loss: torch.Tensor | None = None  # of the batch that is evaluated now, before a subclass adds to it
        self._evaluated: SampleTerms | None = None  # of the split that is evaluated now

    # ---- training ----

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor | tuple[torch.Tensor, SelfModelingOutput]:
        given = {**inputs, **self._forward_arguments}
        loss, outputs = super().compute_loss(model, given, return_outputs=True, num_items_in_batch=num_items_in_batch)
        if self._step_terms is not None:
            for name in TERMS:
                if (term := outputs.get(name)) is not None:
                    self._step_terms[name] = self._step_terms.get(name, 0) + term.detach()
        if self._evaluated is not None:
            self._own_loss = loss.detach().clone()  # a subclass may add to it in place
        return (loss, outputs) if return_outputs else loss

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        self._step_terms = {}
        try:
            loss = super().training_step(*args, **kwargs)
            self._track(self._step_terms, loss)
        finally:
            self._step_terms = None
        return loss

    def _track(self, terms: dict[str, torch.Tensor], loss: torch.Tensor) -> None:
        """Add the terms of a micro-batch to their sums, as transformers adds its loss to the sum that it logs."""
        if self.args.logging_nan_inf_filter and not loss.isfinite():
            self._term_sums.add_mean(self.state.global_step)
        else:
            self._term_sums.add(terms)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs and (means := self._mean_terms()):
            logs.update({**self._figures(means), "loss": logs["loss"]})  # with what a subclass has added to it
        super().log(logs, start_time)

    def networks(self) -> list[TrainedNetwork]:
        """Return the trained network, or each member of a population in its order."""
        return [TrainedNetwork(lambda: self.model.cpu().eval(), self.figures_of())]

    def figures_of(self, member: Member | None = None) -> dict[int, dict[str, Any]]:
        """Return what was logged of one network: epoch -> name -> value.

        Args:
            member: of a population. None: the single network, or the means over a population.
        """
        figures: dict[int, dict[str, Any]] = {}
        for entry in self.state.log_history:
            figures.setdefault(round(entry["epoch"]), {}).update(entry)
        if member is None:
            return figures
        suffix = f"/{member.name}"
        return {
            epoch: {name.removesuffix(suffix): value for name, value in logged.items() if name.endswith(suffix)}
            for epoch, logged in figures.items()
        }

    def _mean_terms(self) -> dict[str, float]:
        """Return the mean of each term over the optimizer steps since the last log."""
        sums, steps = self._term_sums.drain(self.state.global_step)
        # Each process has summed its own samples. If it has divided by the count over all processes, then the sum over
        # processes is the mean. Else it is the mean of the processes' means.
        shares = 1 if self.args.average_tokens_across_devices else self.args.world_size
        return {name: self.accelerator.reduce(total, "sum").item() / shares / steps for name, total in sums.items()}

    def _term_weights(self) -> dict[str, Any]:
        config = self.accelerator.unwrap_model(self.model).config
        return dict(zip(TERMS, (config.classification_weight, config.aux_weight), strict=True))

    def _total(self, means: dict[str, Any]) -> Any:
        """Return the sum of the weighted terms."""
        weights = self._term_weights()
        return sum(weights[name] * means[name] for name in TERMS if name in means)

    def _figures(self, means: dict[str, Any], added: float = 0.0, prefix: str = "") -> dict[str, Any]:
        """Return terms, weighted terms and the loss, by the names under which they are logged.

        Args:
            means: of the terms.
            added: to the loss, by a subclass's `compute_loss`.
            prefix: of the names.
        """
        weights = self._term_weights()
        raw = {f"{prefix}{name}": mean for name, mean in means.items()}
        weighted = {f"{prefix}weighted_{name}": weights[name] * mean for name, mean in means.items()}
        return raw | weighted | {f"{prefix}loss": self._total(means) + added}

    # ---- evaluation ----

    def prediction_step(
        self,
        model: torch.nn.Module,
        inputs: dict[str, torch.Tensor],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[torch.Tensor | None, Any, torch.Tensor | None]:
        """Like `Trainer.prediction_step`, and collect the terms of each sample.

        Raises:
            ValueError: metrics ask for inputs, and these are the tokens of all texts one after another.
        """
        if "inputs" in self.args.include_for_metrics and "offsets" in inputs:
            raise ValueError("include_for_metrics=['inputs']: allowed with padded texts, not with those of a bag")
        inputs = self._prepare_inputs(inputs)
        labels = inputs.get("labels")
        given = {**inputs, **self._forward_arguments}
        loss, self._own_loss = None, None
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
        """Return the logits, and what else of the outputs is not to be ignored, as transformers does."""
        if ignore_keys is None:
            ignore_keys = self.model.config.keys_to_ignore_at_inference
        if isinstance(outputs, dict):
            kept = tuple(value for name, value in outputs.items() if name not in (*ignore_keys, "loss"))
        else:
            kept = tuple(outputs[1:])
        return kept[0] if len(kept) == 1 else kept

    def _collect(self, loss: torch.Tensor, outputs: Any, labels: torch.Tensor) -> None:
        """Collect the terms of a batch while a split is evaluated."""
        if self._evaluated is None or not isinstance(outputs, dict) or "logits" not in outputs:
            return
        terms = self._sample_terms(outputs, labels)  # (B, terms)
        own: Any = self._own_loss
        if own is None:  # a subclass computes the loss without this class
            means = means_over_labels(terms, labels)
            own = 0.0 if means is None else float(np.sum(self._total(means)))
        added = (loss - own).expand(len(labels))
        self._evaluated.add(*self.gather_function((terms, added, labels)))

    def _sample_terms(self, outputs: Any, labels: torch.Tensor) -> torch.Tensor:
        """Return the terms of each sample, (B, terms)."""
        terms = [classification_losses(outputs["logits"], labels)]  # each (B,)
        if outputs.get("self_model_predictions") is not None:
            terms.append(self_modeling_losses(outputs["self_model_predictions"], outputs["self_model_targets"]))
        return torch.stack(terms, dim=1)

    def evaluation_loop(
        self,
        dataloader: DataLoader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Like `Trainer.evaluation_loop`, with the terms of the loss, and means over the samples that have a label.

        Without any label there is no loss.
        """
        share_state(self)
        self._evaluated = evaluated = SampleTerms()
        try:
            output = super().evaluation_loop(
                dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix
            )
        finally:
            self._evaluated = None
        if not len(evaluated):
            return output
        means, added = evaluated.means(), evaluated.mean_added()
        if means is None:
            output.metrics.pop(f"{metric_key_prefix}_loss", None)
        else:
            output.metrics.update(self._figures(means, added, prefix=f"{metric_key_prefix}_"))
        return output
