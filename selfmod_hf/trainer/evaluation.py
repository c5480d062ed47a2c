"""A Trainer for evaluations: it logs the terms of the loss, as means over the labels that count."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from torch.utils.data import DataLoader
from transformers.trainer_utils import EvalLoopOutput

from ..models.losses_self_modeling import classification_losses, self_modeling_losses
from ..models.tasks_self_modeling import label_form
from .processes import share_state
from .pushing import PushingTrainer
from .task_metrics import LANGUAGE, PERPLEXITY
from .terms import TERMS, ByName, SampleTerms, means_over_counts, sample_counts
from .wrapped_networks import distinct_rows, first_rows, is_wrapped, labels_of, with_rows


class EvaluatingTrainer(PushingTrainer):
    """Evaluate a network with the terms of its loss."""

    # A network may be configured to give tuples, but its terms are read by their names.
    _forward_arguments: ClassVar[dict[str, Any]] = {"return_dict": True}
    _own_loss: torch.Tensor | None = None  # of the present evaluated batch, before a subclass adds to it
    _evaluated: SampleTerms | None = None  # of the present evaluated split

    # ---- figures ----

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
        if is_wrapped(self.model):
            return self._predict_wrapped(model, inputs, prediction_loss_only, ignore_keys)
        labels = inputs.get("labels")
        loss, outputs, _ = self._evaluate_batch(model, inputs, labels is not None)
        if loss is not None and labels is not None:
            self._collect(loss, outputs, labels)
        if prediction_loss_only:
            return loss, None, None
        return loss, self._predictions(outputs, ignore_keys), labels

    def _evaluate_batch(
        self, model: torch.nn.Module, inputs: dict[str, torch.Tensor], has_labels: bool
    ) -> tuple[torch.Tensor | None, Any, Any]:
        """Return the loss of a batch, the outputs of the network, and the divisor of its terms."""
        given = {**inputs, **self._forward_arguments}
        self._own_loss = None
        with torch.no_grad(), self.compute_loss_context_manager():
            if not has_labels:
                return None, model(**given), None
            items = self._get_num_items_in_batch([inputs], self.args.device)
            loss, outputs = self.compute_loss(model, given, return_outputs=True, num_items_in_batch=items)
        return loss.detach().mean(), outputs, items

    def _predict_wrapped(
        self,
        model: torch.nn.Module,
        inputs: dict[str, torch.Tensor],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None,
    ) -> tuple[torch.Tensor | None, Any, Any]:
        """Predict with a network that keeps its task model's own head, and collect the terms of the batch.

        Samples that Accelerate repeats are left out, because the terms are those of the complete batch.
        """
        names = list(self.model.kind.label_names)
        labels = labels_of(inputs, names)
        rows = len(next(iter(inputs.values())))
        distinct = distinct_rows(self.accelerator, rows)
        own = inputs
        if distinct < rows:
            own = first_rows(inputs, distinct, names, self.model.kind.empty_label)
        loss, outputs, items = self._evaluate_batch(model, own, labels is not None)
        if loss is not None:
            self._collect_batch(loss, outputs, own, items)
        if prediction_loss_only:
            return loss, None, None
        predictions = self._predictions(outputs, ignore_keys)
        return loss, with_rows(predictions, rows), labels

    def _collect_batch(self, loss: torch.Tensor, outputs: Any, inputs: dict[str, Any], items: Any) -> None:
        """Collect the terms of a batch of a network that keeps its task model's own head, as one row.

        Args:
            loss: of the batch.
            outputs: of the network.
            inputs: of the network.
            items: the divisor of the terms, the count over all processes.
        """
        if self._evaluated is None or not isinstance(outputs, dict):
            return
        named = {name: outputs[name].float() for name in TERMS if outputs.get(name) is not None}
        own: Any = self._own_loss
        if own is None:  # a subclass computes the loss without this class
            own = self._total(named)
        count = self.model.count_items(inputs)
        own_share = items / count.clamp(min=1)
        terms = torch.stack(list(named.values())) * own_share  # the means over this process's labels
        row = (terms[None], (loss - own)[None], count[None])
        gathered = self.accelerator.gather(row)
        self._evaluated.add(*gathered)

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
            means = means_over_counts(terms, sample_counts(labels))
            if means is not None:
                own = float(np.sum(self._total(means)))
        added = (loss - own).expand(len(labels))
        gathered = self.gather_function((terms, added, sample_counts(labels)))
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
            figures.update(self._perplexity(means, metric_key_prefix))
            output.metrics.update(figures)
        return output

    def _perplexity(self, means: ByName, prefix: str) -> ByName:
        """Return the perplexity of a language model, unless the metrics are others."""
        if not is_wrapped(self.model) or label_form(self.model.config) not in LANGUAGE:
            return {}
        names = self.args.metrics
        if names is not None and PERPLEXITY not in names:
            return {}
        mean = torch.tensor(means["classification_loss"], dtype=torch.float64)
        return {f"{prefix}_{PERPLEXITY}": mean.exp().item()}
