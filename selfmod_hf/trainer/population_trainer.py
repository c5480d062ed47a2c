"""The Trainer of populations: `SelfModelingTrainer` with one figure per member."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch.utils.data import DataLoader
from transformers import EvalPrediction
from transformers.trainer_utils import PredictionOutput

from ..data import TensorData
from ..data.batches import EpochBatchSampler, MemberBatchSampler, TensorDataLoader, WholeBatches, whole_batch
from ..errors import InputError
from ..models import SelfModelingPreTrainedModel
from ..models.losses_self_modeling import IGNORED_LABEL, classification_losses, self_modeling_losses
from .callbacks import RLCTCallback, RLCTsCallback, WeightWidthCallback, WeightWidthsCallback
from .checkpoints import State
from .member_figures import Figures, divide_figures, join_figures
from .member_optimizer import MemberOptimizer, clip_grad_norms
from .member_stopping import MembersStopping
from .outside_targets import OutsideTargets
from .population import SelfModelingPopulation, is_shared
from .processes import is_sharded
from .same_training import check_population
from .shares import MemberShares
from .terms import TERMS, ByName, TermSums, accuracy, each_member, means_over_counts
from .terms_trainer import TrainedNetwork
from .trainer import Metrics, SelfModelingTrainer
from .training_args import SelfModelingTrainingArguments, check_for_population


class PopulationTrainer(SelfModelingTrainer):
    """Train a population. `SelfModelingTrainer(model=population, ...)` makes an object of this class.

    Each member has its own order of samples, from its own seed, like a run alone. In logs and metrics,
    `accuracy/aw10-seed1` is one member's figure, and `accuracy` is the mean over members. The same holds for each loss
    and for `weight_width`. Gradient clipping is per-member (`max_grad_norm` is each member's own).

    A member whose training was ended by a stopping rule keeps its weights. Later logs hold no figures of it, and the
    means in them are over the other members.

    Under `accelerate launch` or `torchrun` each process trains its share of the members, with the complete batch size.
    The numbers are those of one process. Logs, checkpoints and, after `train`, `population` hold all members.

    Attributes:
        population: all members, up to date after `train`, after each checkpoint and after `gather_weights`.
        model: the members of this process.

    Raises:
        ValueError: members would influence each other through an argument, or the data are no `TensorData`.
    """

    model: SelfModelingPopulation
    optimizer: Any
    _forward_arguments: ClassVar[ByName] = {}  # a population gives a dict in any case
    _stopping_class = MembersStopping

    def __init__(
        self,
        model: Any = None,
        args: SelfModelingTrainingArguments | None = None,
        compute_metrics: Metrics | None = accuracy,
        **kwargs: Any,
    ) -> None:
        args = copy.copy(args or SelfModelingTrainingArguments())
        check_for_population(args, model.members)
        _check_given(kwargs)
        self._numbers: MemberOptimizer | None = None  # of members with numbers of their own
        self.population = model
        self.shares = MemberShares(len(model), args.world_size, args.process_index)
        if self.shares.split:
            model = model.part(self.shares.own)
            args.average_tokens_across_devices = False  # a member's batch is in one process
        preprocess = kwargs.get("preprocess_logits_for_metrics")
        if preprocess is not None:
            kwargs["preprocess_logits_for_metrics"] = each_member(preprocess)
        super().__init__(model, args, compute_metrics, **kwargs)
        if is_sharded(self):
            raise ValueError("FSDP, DeepSpeed: with a population allowed is neither; processes split its members")
        if self.pop_callback(WeightWidthCallback) is not None:
            self.add_callback(WeightWidthsCallback(self))

    def _rlct_callback(self) -> RLCTCallback:
        plain = super()._rlct_callback()
        return RLCTsCallback(self, plain.data, plain.every_n_epochs, plain.settings)

    # ---- metrics ----

    def _for_networks(self, compute_metrics: Metrics) -> Metrics:
        """Return a `compute_metrics` for the population from the one for a single network."""

        def compute(prediction: EvalPrediction) -> dict[str, float]:
            rows = []
            for k in range(len(self.model)):
                own = self._of_member(prediction, k)
                rows.append(compute_metrics(own))
            figures = {}
            for name in rows[0]:
                values = [row[name] for row in rows]
                figures[name] = np.array(values)
            return self.by_member(figures)

        return compute

    def _of_member(self, prediction: EvalPrediction, k: int) -> EvalPrediction:
        """Return member k's part of an evaluation, like that of a run alone."""
        predictions = prediction.predictions  # (N, K, num_labels), or a tuple of such
        if isinstance(predictions, tuple):
            own: Any = tuple(part[:, k] for part in predictions)
        else:
            own = predictions[:, k]
        losses = prediction.losses
        if losses is not None:
            losses = self._batch_losses()[:, k]
        return EvalPrediction(own, prediction.label_ids, inputs=prediction.inputs, losses=losses)

    def _batch_losses(self) -> np.ndarray:
        """Return the loss of each evaluated sample's batch, (N, members of this process)."""
        assert self._evaluated is not None  # metrics are computed at the end of an evaluation
        rows = []
        for terms, counts in self._evaluated.batches():
            loss = np.zeros(len(self.model))  # (members,)
            means = means_over_counts(terms, counts)
            if means is not None:
                loss = self._total(means)
            block = np.tile(loss, (len(counts), 1))
            rows.append(block)
        return np.concatenate(rows)

    def by_member(self, figures: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Return figures of this process's members as means and values of all members.

        In a training, members that have stopped are left out.

        Args:
            figures: name -> (members of this process,).

        Returns:
            name -> mean, name/member -> value.
        """
        parts = self.shares.gather(dict(figures))
        joined = {}
        for name in figures:
            own = [part[name] for part in parts]
            joined[name] = np.concatenate(own)  # (K,)
        return join_figures(joined, self._member_names(), self.stopping.reported())

    def _member_names(self) -> list[str]:
        return [member.name for member in self.population.members]

    # ---- trained networks ----

    def networks(self) -> list[TrainedNetwork]:
        figures = self.figures_by_member()
        found = []
        for k, name in enumerate(self._member_names()):
            network = partial(self._network, k)
            found.append(TrainedNetwork(network, figures[name], self.stopping.stop_of(k)))
        return found

    def figures_by_member(self) -> dict[str, Figures]:
        """Return the logged figures of each member until its end: its name -> epoch -> name -> value."""
        last_steps = {}
        for k, name in enumerate(self._member_names()):
            stop = self.stopping.stop_of(k)
            last_steps[name] = math.inf if stop is None else stop.step
        return divide_figures(self.state.log_history, last_steps)

    def _network(self, k: int) -> SelfModelingPreTrainedModel:
        return self.population.cpu().eval().member(k)

    # ---- processes ----

    def create_accelerator_and_postprocess(self) -> None:
        super().create_accelerator_and_postprocess()
        accelerator = self.accelerator
        # Every process evaluates its members on all samples, so nothing is gathered. Accelerate would also cut the
        # figures, if another Trainer in this process has not read a loader to its end.
        accelerator.gather_for_metrics = accelerator.pad_across_processes = _unchanged
        self.gather_function = _unchanged
        if self.shares.split:  # members live in one process each: no DistributedDataParallel
            accelerator.prepare_model = partial(accelerator.prepare_model, evaluation_mode=True)

    def _make_optimizer(self, model: Any) -> torch.optim.Optimizer:
        if self.optimizer is not None:  # a second training continues with the first one's
            return super()._make_optimizer(model)
        if any(member.has_optimizer_numbers for member in self.population.members):
            chosen = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            self._numbers = MemberOptimizer(*chosen, self.model, self.args, self.get_decay_parameter_names(self.model))
            self.optimizer = self._numbers.optimizer
        optimizer = super()._make_optimizer(model)
        if self.shares.split:
            optimizer.register_load_state_dict_pre_hook(lambda _, state: self.shares.take_optimizer(state))
        if self._numbers is not None:
            optimizer.register_load_state_dict_pre_hook(self._numbers.divide)
        return optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> Any:
        if self._numbers is None:
            return super().create_scheduler(num_training_steps, optimizer)
        self._numbers.scheduler = super().create_scheduler(num_training_steps, self._numbers.clock)
        return self._numbers.scheduler

    def train(self, *args: Any, **kwargs: Any) -> Any:
        output = super().train(*args, **kwargs)
        self.gather_weights()
        return output

    def gather_weights(self) -> None:
        """Update `population` with the weights of all processes. All processes call this together."""
        if self.shares.split:
            gathered = self.shares.gather_tensors(self.model.state_dict())
            self.population.load_state_dict(gathered)

    # ---- data ----

    def _in_order(self, dataset: TensorData) -> DataLoader:
        # every process evaluates its members on all samples
        return DataLoader(
            WholeBatches(dataset.to(self.args.device)),
            batch_size=self.args.eval_batch_size,
            collate_fn=whole_batch,
        )

    def get_train_dataloader(self) -> DataLoader:
        samplers = []
        for member in self.model.members:
            sampler = EpochBatchSampler(
                len(self.train_dataset),
                self._train_batch_size,
                member.seed,
                drop_last=self.args.dataloader_drop_last,
            )
            samplers.append(sampler)
        return TensorDataLoader(
            self.train_dataset.to(self.args.device),
            MemberBatchSampler(samplers),
            in_use=self.args.gradient_accumulation_steps,  # the Trainer collects a step's batches first
            bfloat16=self.args.bf16,
        )

    # ---- the terms of the loss, (K,) each ----

    def _targets_from(self, outside: OutsideTargets, inputs: dict[str, Any]) -> torch.Tensor:
        return outside.for_members(inputs, is_shared(inputs))

    def mean_terms(self, term_sums: TermSums) -> ByName:
        sums, steps = term_sums.drain(self.state.global_step)
        means = {}
        for name, total in sums.items():
            values = total.double().cpu().numpy()
            means[name] = values / steps
        return means

    def _term_weights(self) -> ByName:
        weights = self.model.term_weights.cpu().numpy()  # (terms, members)
        return dict(zip(TERMS, weights, strict=True))

    def _figures(self, means: ByName, added: float = 0.0, prefix: str = "") -> ByName:
        """Return terms, weighted terms and the loss of each member, and their means over the members.

        `added` belongs to the sum over members, so each member gets an equal share of it.
        """
        share = added / len(self.model)
        return self.by_member(super()._figures(means, share, prefix))

    def _logged_loss(self, loss: float, means: ByName, figures: ByName) -> float:
        if all(self.stopping.reported()):
            return loss
        # that of transformers is of all members, and a subclass may have added to it
        of_all = np.mean(self.stopping.values_of_all(self._total(means)))
        added = float(loss - of_all)
        return figures["loss"] + (added if math.isfinite(added) else 0.0)

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> torch.Tensor | int | None:
        """Return the number of labels in each member's batches of a step, (K,).

        A batch for all members has one count.
        """
        labels = [batch["labels"] for batch in batch_samples if "labels" in batch]
        if not labels or labels[0].dim() == 1:
            return super()._get_num_items_in_batch(batch_samples, device)
        counts = []
        for own in labels:
            counted = own != IGNORED_LABEL  # (K, B)
            counts.append(counted.sum(dim=1))
        return torch.stack(counts).sum(dim=0).to(device)

    # ---- a step ----

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        # The result is for the log alone, as the mean over processes: here the mean over members.
        loss = super().training_step(*args, **kwargs)
        return loss * self.shares.weight_of_sum

    def _clip_grad_norm(self, model: torch.nn.Module) -> torch.Tensor:
        self._grad_norms = clip_grad_norms(self.model.parameters(), self.args.max_grad_norm)  # (members,)
        return self._grad_norms.mean()

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "learning_rate" in logs and self._numbers is not None:
            rates = np.array(self._numbers.learning_rates())
            logs.update(self.by_member({"learning_rate": rates}))
        if "grad_norm" in logs:
            norms = self._grad_norms.cpu().numpy()
            logs.update(self.by_member({"grad_norm": norms}))
        super().log(logs, start_time)

    # ---- evaluation ----

    def _predictions(self, outputs: Any, ignore_keys: list[str] | None) -> torch.Tensor:
        """Return the logits with the samples first, because transformers concatenates batches there."""
        return outputs["logits"].transpose(0, 1)  # (B, K, num_labels)

    def _sample_terms(self, outputs: Any, labels: torch.Tensor) -> torch.Tensor:
        """Return the terms of each sample, (B, terms, K)."""
        members = len(self.model)
        logits = outputs["logits"].flatten(0, 1)  # (K * B, num_labels)
        terms = [classification_losses(logits, labels.repeat(members))]  # each (K * B,)
        if "self_model_predictions" in outputs:
            predictions = outputs["self_model_predictions"].flatten(0, 1)
            targets = outputs["self_model_targets"].flatten(0, 1)
            terms.append(self_modeling_losses(predictions, targets))
        if "activation_mean_squares" in outputs:
            terms.append(outputs["activation_mean_squares"].flatten(0, 1))
        losses = torch.stack(terms).unflatten(1, (members, -1))  # (terms, K, B)
        return losses.permute(2, 0, 1)

    def predict(self, *args: Any, **kwargs: Any) -> PredictionOutput:
        """Predict like `Trainer.predict`, for all members: predictions (N, K, num_labels)."""
        output = super().predict(*args, **kwargs)
        parts = self.shares.gather(output.predictions)
        predictions = np.concatenate(parts, axis=1)
        return output._replace(predictions=predictions)

    # ---- files ----

    def push_to_hub(self, *args: Any, **kwargs: Any) -> Any:
        problem = "each network has a repository of its own; allowed is population.member(k).push_to_hub(repo_id)"
        raise InputError("push_to_hub", f"{len(self.population)} members", problem)

    def _tell_model(self, token: str) -> None:
        super()._tell_model(token)
        self.population.companions = self.model.companions

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        self.gather_weights()
        super()._save_checkpoint(*args, **kwargs)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self.shares.split:
            return super()._save_optimizer_and_scheduler(output_dir)
        gathered = self.shares.gather_optimizer(self.optimizer.state_dict())
        hook = self.optimizer.optimizer.register_state_dict_post_hook(lambda *_: gathered)
        super()._save_optimizer_and_scheduler(output_dir)
        hook.remove()

    def _save(self, output_dir: str | None = None, state_dict: State | None = None) -> None:
        super()._save(output_dir, self.population.state_dict())

    def _save_settings(self, folder: Path, token: str) -> None:
        super()._save_settings(folder, token)
        self.population.save_members(folder)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        check_population(resume_from_checkpoint, self.population)
        super()._load_from_checkpoint(resume_from_checkpoint, self.population)
        if self.shares.split:
            own = self.shares.take(self.population.state_dict())
            self.model.load_state_dict(own)


def _unchanged(tensor: Any, *args: Any, **kwargs: Any) -> Any:
    return tensor


def _check_given(given: dict[str, Any]) -> None:
    """Raise a ValueError for arguments of a Trainer that a population cannot use."""
    optimizers = [given.get("optimizer_cls_and_kwargs")]
    optimizers += given.get("optimizers") or ()
    if optimizers.count(None) < len(optimizers):
        raise ValueError("optimizers='given': with a population allowed are those that `optim` names")
    data = given.get("train_dataset")
    if data is not None and not isinstance(data, TensorData):
        kind = type(data).__name__
        raise ValueError(f"train_dataset={kind!r}: with a population allowed are ImageTensors or TextTensors")


SelfModelingTrainer.for_populations = PopulationTrainer
